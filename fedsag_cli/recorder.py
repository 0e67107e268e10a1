"""Tells trackers what scripts log and what each round measured, each in a thread of its own: none holds the run up."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence

from fedsag_cli.events import Event, Metrics, ModelValidated, Notice, ReplyAccepted, RoundFinished, ValuesLogged
from fedsag_cli.trackers import Tracker

_ROUND = "round/"  # before the names of what a round measured: scripts log their own by steps of their own
_SERVER = "server"
_CLOSING_LIMIT_S = 30.0
_MOST_WAITING = 200_000  # values of one tracker, say of a server that is down; what is more is dropped


class Recorder:
    """An observer in the server process, for all trackers of a job."""

    def __init__(self, trackers: Sequence[Tracker], job: str, emit: Callable[[Event], None]) -> None:
        self._desks = [_Desk(tracker, job, emit) for tracker in trackers]

    def on(self, event: Event) -> None:
        for logged in _logged(event) if self._desks else ():
            for desk in self._desks:
                desk.put(logged)

    def close(self) -> None:
        """Wait until everything is written, but not for ever."""
        ends = time.monotonic() + _CLOSING_LIMIT_S
        for desk in self._desks:
            desk.put(None)
        for desk in self._desks:
            desk.wait(ends)


class _Desk(threading.Thread):
    """One tracker, and what it has still to write."""

    def __init__(self, tracker: Tracker, job: str, emit: Callable[[Event], None]) -> None:
        super().__init__(daemon=True, name=type(tracker).__name__)
        self._tracker, self._job, self._emit = tracker, job, emit
        self._waiting: queue.SimpleQueue[ValuesLogged | None] = queue.SimpleQueue()
        self._dropped = 0
        self._said: set[str] = set()
        self.start()

    def put(self, logged: ValuesLogged | None) -> None:
        """None: there is no more."""
        if logged is None or self._waiting.qsize() < _MOST_WAITING:
            self._waiting.put(logged)
        else:
            self._dropped += 1

    def wait(self, ends: float) -> None:
        self.join(max(0.0, ends - time.monotonic()))
        if self.is_alive():
            self._say(f"it does not come to an end within {_CLOSING_LIMIT_S:.0f} s, what it had to keep may be lost")
        if self._dropped:
            self._say(f"it was too slow: {self._dropped} values were dropped")

    def run(self) -> None:
        try:
            self._tracker.open(self._job)
        except ImportError as error:
            self._say(f"{error}; `pip install 'fedsag[{self._tracker.extra}]'` brings it")
            return
        except Exception as error:
            # a tracker's library may raise anything, and the run goes on without it
            self._say(f"{type(error).__name__}: {error}")
            return
        more = True
        while more:
            batch, more = self._next_batch()
            if batch:
                self._try(self._tracker.write, batch)
        self._try(self._tracker.close)

    def _next_batch(self) -> tuple[list[ValuesLogged], bool]:
        """All that waits, at least one, and whether there may be more."""
        batch: list[ValuesLogged] = []
        while True:
            logged = self._waiting.get()
            if logged is None:
                return batch, False
            batch.append(logged)
            if self._waiting.empty():
                return batch, True

    def _try(self, does: Callable[..., None], *args: object) -> None:
        try:
            does(*args)
        except Exception as error:
            # what one batch made it raise, the next may not
            self._say(f"{type(error).__name__}: {error}")

    def _say(self, text: str) -> None:
        """Once, in one line."""
        text = f"{self.name}: {' '.join(text.split())}; the run goes on without"
        if text not in self._said:
            self._said.add(text)
            self._emit(Notice(text=text))


def _logged(event: Event) -> Iterator[ValuesLogged]:
    match event:
        case ValuesLogged():
            yield event
        case ReplyAccepted():
            yield from _of_round(event.site, event.metrics, event.round_num, event.at)
        case RoundFinished():
            yield from _of_round(_SERVER, event.metrics, event.round_num, event.at)
        case ModelValidated():
            yield from _of_round(_SERVER, event.metrics, event.round_num, event.at)


def _of_round(site: str, metrics: Metrics, round_num: int, at: float) -> Iterator[ValuesLogged]:
    if metrics:
        values = {f"{_ROUND}{name}": value for name, value in metrics.items()}
        yield ValuesLogged(at=at, site=site, kind="metric", values=values, step=round_num)
