"""What only events.jsonl has: who worked when, and the values that scripts logged.

The file is read once, at the end of the run. An observer would cost the run time at every event, and would not know
what happened before a resume.
"""

from __future__ import annotations

import contextlib
from array import array
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from fedsag_cli.events import Failure
from fedsag_cli.workspace import WORKER, site_of

WORKED, WAITED, FAILED, AGGREGATED, SAVED = range(5)
"""What a span of time was spent with. WAITED: from the start of the round to the task."""

SERVER = -1  # its row

_MOST_BYTES = 128 << 20  # of a longer file, the last part is read
_MOST_CURVES = 3000
_MOST_TEXTS = 300
_MOST_POINTS = 1024  # of a curve, while it is read


class Curve:
    """The values of a site under one name. Of many, only every second, fourth … is kept, and the last."""

    def __init__(self) -> None:
        self.steps, self.values = array("d"), array("d")
        self._every, self._seen = 1, 0
        self.last: tuple[float, float] | None = None

    def add(self, step: int | None, value: float) -> None:
        at = float(self._seen if step is None else step)
        if self._seen % self._every == 0:
            self.steps.append(at)
            self.values.append(value)
            if len(self.steps) > _MOST_POINTS:
                self.steps, self.values, self._every = self.steps[::2], self.values[::2], 2 * self._every
        self._seen += 1
        self.last = (at, value)


class Span(msgspec.Struct, gc=False):  # many: the garbage collector need not look at them
    """What a site, a worker or the server did from `start` to `end`. The server's row is SERVER.

    `site`: for which site a worker did it.
    """

    row: int
    kind: int
    start: float
    end: float
    round_num: int
    task: str
    site: str = ""


class Activity:
    """Spans of time in seconds since the run began, without the time between an end and a resume."""

    def __init__(self) -> None:
        self.names: dict[str, int] = {}  # of sites, or workers, in the order in which they had tasks
        self.are_workers = False
        self.spans: list[Span] = []
        self.resumed: list[float] = []
        self.total = self.starting = 0.0
        self.skipped = 0  # bytes of events that were not read
        self.curves: dict[str, dict[str, Curve]] = defaultdict(dict)
        self.curves_left_out = 0
        self.texts: dict[tuple[str, str], str] = {}
        self.failed: dict[str, Failure] = {}  # processes that are no site's
        self._num_curves = 0

    def log(self, event: _Logged) -> None:
        for name, value in event.values.items():
            if event.kind != "metric" or isinstance(value, str):
                if len(self.texts) < _MOST_TEXTS or (event.site, name) in self.texts:
                    self.texts[event.site, name] = "" if value is None else str(value)[:1000]
                continue
            curve = self.curves[name].get(event.site)
            if curve is None:
                if self._num_curves == _MOST_CURVES:
                    self.curves_left_out += 1
                    continue
                self._num_curves += 1
                curve = self.curves[name][event.site] = Curve()
            curve.add(event.step, float("nan") if value is None else value)


def read(path: Path, ended_s: float = 0.0) -> Activity:
    """What the events in a file tell. Lines that are no events are skipped; there may be no file. Raises OSError.

    `ended_s`: when the run ended, in seconds since it was started or last resumed; 0 if only the events say it.
    """
    activity = Activity()
    reader = _Reader(activity)
    kinds: dict[bytes, tuple[type[_Known], Callable[[Any], None]]] = {
        b"RunStarted": (_Known, reader.begin),
        b"ServerReady": (_Known, reader.ready),
        b"RoundStarted": (_Started, reader.start_round),
        b"TaskSent": (_Task, reader.send),
        b"ReplyArrived": (_Task, reader.answer),
        b"ReplyLate": (_Task, reader.answer),
        b"ReplyFailed": (_Task, reader.fail),
        b"RoundFinished": (_Finished, reader.finish_round),
        b"ValuesLogged": (_Logged, activity.log),
        b"ProcessExited": (_Exited, reader.exit),
        b"RunFinished": (_Known, reader.finish),
    }
    ways = {kind: (msgspec.json.Decoder(fields).decode, on) for kind, (fields, on) in kinds.items()}
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        activity.skipped = max(0, file.seek(0, 2) - _MOST_BYTES)
        file.seek(activity.skipped)
        if activity.skipped:
            file.readline()
        before = b""
        for line in file:
            before, earlier = line, before
            if line.startswith(b'{"event":"RunStarted"'):  # the part before it lasted until its last event, of any kind
                with contextlib.suppress(msgspec.DecodeError):
                    reader.finish(msgspec.json.decode(earlier, type=_Known))
            found = ways.get(line[10 : line.find(b'"', 10)])  # after {"event":"
            if found is None:
                continue
            decode, on = found
            try:
                event = decode(line)
            except msgspec.DecodeError:
                continue
            if not reader.is_of_parent(event):
                on(event)
    activity.total = max(activity.total, reader.part + ended_s)
    reader.end()
    return activity


class _Known(msgspec.Struct, kw_only=True, gc=False):
    """The fields of an event that are read here."""

    at: float


class _Started(_Known, kw_only=True):
    sites: list[str]


class _Task(_Known, kw_only=True, gc=False):
    site: str
    process: str = ""
    task: str
    round_num: int

    @property
    def is_of_worker(self) -> bool:
        """Whether a worker does it, and not a process of the site."""
        return site_of(self.process) == WORKER

    @property
    def row(self) -> str:
        return self.process if self.is_of_worker else self.site


class _Finished(_Known, kw_only=True, gc=False):
    round_num: int
    aggregate_s: float
    save_s: float


class _Logged(_Known, kw_only=True):
    site: str
    kind: str
    values: dict[str, float | str | None]
    step: int | None = None


class _Exited(_Known, kw_only=True):
    name: str
    exit_code: int
    failure: Failure | None = None


class _Reader:
    """Events become spans: a task from its sending to its answer, a wait from the round's start to the task."""

    def __init__(self, activity: Activity) -> None:
        self._activity = activity
        self.part = 0.0  # when the last part of the run began
        self._base: float | None = None  # when the run would have begun, had it never been stopped
        self._doing: dict[str, _Task] = {}  # by site
        self._waiting: dict[str, float] = {}  # since when, by site

    def begin(self, event: _Known) -> None:
        """A run, or a resumed part of it, begins where the part before it ended."""
        self.end()
        activity = self._activity
        self._waiting.clear()
        activity.failed.clear()
        if activity.spans:
            activity.resumed.append(activity.total)
        self._base = event.at - activity.total
        self.part = activity.total

    def is_of_parent(self, event: _Known) -> bool:
        """Whether it happened before the run began: the parent of a fork told it."""
        return self._base is not None and event.at < self._base

    def ready(self, event: _Known) -> None:
        self._activity.starting += self._now(event) - self.part

    def start_round(self, event: _Started) -> None:
        self._waiting = dict.fromkeys(event.sites, self._now(event))

    def send(self, event: _Task) -> None:
        activity, site = self._activity, event.site
        now = event.at = self._now(event)
        row = activity.names.setdefault(event.row, len(activity.names))
        if event.is_of_worker:  # which client waits for a worker says little: there are many more clients
            activity.are_workers = True
        elif (since := self._waiting.pop(site, None)) is not None:
            activity.spans.append(Span(row, WAITED, since, now, event.round_num, event.task))
        if site in self._doing:
            self._close(site, now, WORKED)
        self._doing[site] = event

    def answer(self, event: _Task) -> None:
        self._close(event.site, self._now(event), WORKED)

    def fail(self, event: _Task) -> None:
        self._close(event.site, self._now(event), FAILED)

    def finish_round(self, event: _Finished) -> None:
        now = self._now(event)
        aggregated = now - event.save_s
        spans, round_num = self._activity.spans, event.round_num
        spans.append(Span(SERVER, AGGREGATED, aggregated - event.aggregate_s, aggregated, round_num, ""))
        spans.append(Span(SERVER, SAVED, aggregated, now, round_num, ""))
        self._waiting.clear()

    def finish(self, event: _Known) -> None:
        self._now(event)

    def exit(self, event: _Exited) -> None:
        if event.exit_code and event.failure and event.name in ("server", "nursery"):
            self._activity.failed[event.name] = event.failure

    def end(self) -> None:
        for site in list(self._doing):
            self._close(site, self._activity.total, WORKED)

    def _now(self, event: _Known) -> float:
        if self._base is None:
            self._base = event.at
        now = event.at - self._base
        if now > self._activity.total:
            self._activity.total = now
        return now

    def _close(self, site: str, now: float, kind: int) -> None:
        if task := self._doing.pop(site, None):
            row = self._activity.names[task.row]
            whose = site if task.is_of_worker else ""
            self._activity.spans.append(Span(row, kind, task.at, now, task.round_num, task.task, whose))
