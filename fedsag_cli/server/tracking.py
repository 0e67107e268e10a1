"""Gives trackers what scripts log and what each round measured. Each has its own thread: no tracker delays the run."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import msgspec

from fedsag_cli import trackers
from fedsag_cli.events import (
    ClientReady,
    CurvesKept,
    Event,
    ModelValidated,
    Notice,
    ReplyAccepted,
    ReplyFailed,
    RoundFinished,
    ValuesLogged,
)
from fedsag_cli.trackers import RunEnd, RunFacts, ShortTracker, Status, Tracker
from fedsag_cli.workspace import SERVER

_ROUND = "round/"  # prefix of what a round measured: scripts may log the same names, with their own steps
_CLOSING_LIMITS_S = {Status.FINISHED: 15.0, Status.FAILED: 15.0, Status.KILLED: 4.0}  # who is killed has 5 s in all
_TOLD_AFTER_S = 5.0  # the user is told why the run does not end yet
_MOST_WAITING = 64 << 20  # bytes that may wait for one tracker, whose server may be down; what is more is dropped
_VALUE_SIZE = 100  # bytes of memory for a value, without its name and its text
_MOST_NAMES = 100  # in one batch: MLflow takes no more params
_QUICK_S = 1.0  # a tracker that refuses a value says so within this; one that takes longer cannot be reached


class Tracking:
    """An observer in the server process, for all trackers of a job.

    `several_workflows`: the names of what rounds measured have the workflow's too, as each counts its own rounds.
    """

    def __init__(
        self,
        known: Sequence[Tracker | ShortTracker],
        facts: RunFacts,
        emit: Callable[[Event], None],
        *,
        several_workflows: bool = False,
    ) -> None:
        self._several = several_workflows
        self._threads = [_TrackerThread(tracker, facts, emit) for tracker in known]
        self._failed_sites: set[str] = set()

    def on(self, event: Event) -> None:
        if not self._threads:
            return
        match event:
            case ClientReady():  # the parent has started a client: before that, it has checked the trackers' folders
                for thread in self._threads:
                    thread.begin()
            case ReplyFailed():
                self._failed_sites.add(event.site)
            case ReplyAccepted():
                self._failed_sites.discard(event.site)
        for logged in self._logged(event):
            for thread in self._threads:
                thread.put(logged)

    def close(self, status: Status, *, cause: str = "", digest: str = "", limit_s: float | None = None) -> None:
        """Wait until everything is written, for `limit_s` seconds at most."""
        ends = time.monotonic() + (_CLOSING_LIMITS_S[status] if limit_s is None else limit_s)
        end = RunEnd(status=status, cause=cause, digest=digest, failed_sites=frozenset(self._failed_sites))
        for thread in self._threads:
            thread.end(end)
        for thread in self._threads:
            thread.wait(ends)

    def _logged(self, event: Event) -> Iterator[ValuesLogged]:
        match event:
            case ValuesLogged():
                yield event
            case ReplyAccepted():
                yield from self._of_round(event.site, event)
            case RoundFinished() | ModelValidated():
                yield from self._of_round(SERVER, event)

    def _of_round(self, site: str, measured: ReplyAccepted | RoundFinished | ModelValidated) -> Iterator[ValuesLogged]:
        if measured.metrics:
            prefix = f"{_ROUND}{measured.workflow}/" if self._several else _ROUND
            values = {f"{prefix}{name}": value for name, value in measured.metrics.items()}
            yield ValuesLogged(at=measured.at, site=site, kind="metric", values=values, step=measured.round_num)


class _TrackerThread(threading.Thread):
    """Writes to one tracker what waits for it."""

    def __init__(self, tracker: Tracker | ShortTracker, facts: RunFacts, emit: Callable[[Event], None]) -> None:
        super().__init__(daemon=True, name=type(tracker).__name__)
        self._tracker, self._facts, self._emit = tracker, facts, emit
        self._waiting: queue.SimpleQueue[tuple[ValuesLogged, int] | RunEnd] = queue.SimpleQueue()  # with its size
        self._counting = threading.Lock()
        self._waiting_bytes = self._dropped = self._refused = 0
        self._is_open, self._has_kept = True, False

    def begin(self) -> None:
        """From now on, the tracker may write."""
        if self.ident is None:
            self.start()

    def put(self, logged: ValuesLogged) -> None:
        self.begin()
        size = _size(logged)
        with self._counting:
            if not self._is_open:
                return
            if self._waiting_bytes + size > _MOST_WAITING:
                self._dropped += len(logged.values)
                return
            self._waiting_bytes += size
        self._waiting.put((logged, size))

    def end(self, end: RunEnd) -> None:
        """Nothing more will be put."""
        if self.ident is None:
            # no client has started: whether a folder that exists is the run's own is not known
            if end.status is Status.KILLED or any(folder.exists() for folder in self._tracker.folders):
                return
            self.begin()
        self._waiting.put(end)

    def wait(self, ends: float) -> None:
        self._join_until(min(ends, time.monotonic() + _TOLD_AFTER_S))
        if self.is_alive() and (left := ends - time.monotonic()) > 0:
            self._say(f"the run has ended, and waits until the last values are stored, {left:.0f} seconds at most")
            self._join_until(ends)
        if self.is_alive():
            self._say(f"it did not finish in time: its last values may be lost; {self._tracker.view}")
        if self._dropped:
            self._say(f"it was too slow: {self._dropped} values were dropped")
        if self._refused > 1:
            self._say(f"{self._refused} values were refused in all")

    def _join_until(self, ends: float) -> None:
        if self.ident is not None:
            self.join(max(0.0, ends - time.monotonic()))

    def run(self) -> None:
        try:
            trackers.begin(self._tracker, self._facts)
        except Exception as error:
            # a tracker's library may raise anything, and the run goes on without it
            with self._counting:
                self._is_open = False
            why = f"{type(error).__name__}: {error}"
            if isinstance(error, ImportError):
                why = f"{error}; `pip install 'fedsag[{self._tracker.extra}]'` brings it"
            self._say(f"{why}; the run goes on without")
            return
        end = None
        while end is None:
            batch, end = self._next_batch()
            for few in _batches(batch):
                self._keep(few)
        try:
            trackers.finish(self._tracker, end)
        except Exception as error:
            # as above
            self._say(f"{type(error).__name__}: {error}")

    def _next_batch(self) -> tuple[list[ValuesLogged], RunEnd | None]:
        """Everything that waits, and at least one; or the end, after which no more comes."""
        batch: list[ValuesLogged] = []
        while True:
            next_one = self._waiting.get()
            if isinstance(next_one, RunEnd):
                return batch, next_one
            logged, size = next_one
            batch.append(logged)
            with self._counting:
                self._waiting_bytes -= size
            if self._waiting.empty():
                return batch, None

    def _keep(self, batch: Sequence[ValuesLogged]) -> None:
        """Where one value is refused, the others are kept."""
        began = time.monotonic()
        try:
            self._tracker.write(batch)
        except Exception as error:
            # as above
            if len(batch) > 1 and time.monotonic() - began < _QUICK_S:
                self._keep(batch[: len(batch) // 2])
                self._keep(batch[len(batch) // 2 :])
                return
            if not self._refused:
                names = ", ".join(repr(name) for logged in batch[:3] for name in [*logged.values][:3])
                self._say(f"it did not keep {names} of {batch[0].site}: {type(error).__name__}: {error}")
            self._refused += sum(len(logged.values) for logged in batch)
            return
        if not self._has_kept:
            self._has_kept = True
            if view := self._tracker.view:
                self._emit(CurvesKept(view=view))

    def _say(self, text: str) -> None:
        """In one line."""
        self._emit(Notice(text=f"{self.name}: {' '.join(text.split())}"))


def _batches(batch: Sequence[ValuesLogged]) -> Iterator[list[ValuesLogged]]:
    """As trackers take them: one site, and a hundred names at most, in each."""
    for site in dict.fromkeys(logged.site for logged in batch):
        few: list[ValuesLogged] = []
        count = 0
        for piece in (piece for logged in batch if logged.site == site for piece in _pieces(logged)):
            if few and count + len(piece.values) > _MOST_NAMES:
                yield few
                few, count = [], 0
            few.append(piece)
            count += len(piece.values)
        yield few


def _pieces(logged: ValuesLogged) -> Iterator[ValuesLogged]:
    if len(logged.values) <= _MOST_NAMES:
        yield logged
        return
    named = [*logged.values.items()]
    for first in range(0, len(named), _MOST_NAMES):
        yield msgspec.structs.replace(logged, values=dict(named[first : first + _MOST_NAMES]))


def _size(logged: ValuesLogged) -> int:
    return sum(
        _VALUE_SIZE + len(name) + (len(value) if isinstance(value, str) else 0) for name, value in logged.values.items()
    )
