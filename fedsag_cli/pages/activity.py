"""What only events.jsonl has: who worked when, and the values that scripts logged.

The file is read once, at the end of the run. An observer would cost the run time at every event, and would not know
what happened before a resume.
"""

from __future__ import annotations

import contextlib
from array import array
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import msgspec

from fedsag_cli.events import Failure

WORKED, WAITED, FAILED, AGGREGATED, SAVED = range(5)
"""What a span of time was spent with. WAITED: from the start of the round to the task."""

_MOST_BYTES = 192 << 20  # of a longer file, the last part is read
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


class Activity:
    """Spans of time in seconds since the run began, without the time between an end and a resume."""

    def __init__(self) -> None:
        self.names: dict[str, int] = {}  # of sites, in the order in which they had tasks
        self.tasks: dict[str, int] = {}
        self.rows, self.kinds, self.rounds, self.tasks_of = array("i"), array("b"), array("i"), array("i")
        self.starts, self.ends = array("d"), array("d")
        self.resumed: list[float] = []
        self.total = 0.0
        self.skipped = 0  # bytes of events that were not read
        self.curves: dict[str, dict[str, Curve]] = defaultdict(dict)
        self.curves_left_out = 0
        self.texts: dict[tuple[str, str], str] = {}
        self.failed: dict[str, Failure] = {}  # processes that are no site's
        self._num_curves = 0

    def span(self, row: int, kind: int, start: float, end: float, round_num: int, task: str) -> None:
        self.rows.append(row)
        self.kinds.append(kind)
        self.starts.append(start)
        self.ends.append(max(start, end))
        self.rounds.append(round_num)
        self.tasks_of.append(self.tasks.setdefault(task, len(self.tasks)))

    def row(self, site: str) -> int:
        return self.names.setdefault(site, len(self.names))

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


def read(path: Path) -> Activity:
    """What the events in a file tell. Lines that are no events are skipped; there may be no file. Raises OSError."""
    activity = Activity()
    reader = _Reader(activity)
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        activity.skipped = max(0, file.seek(0, 2) - _MOST_BYTES)
        file.seek(activity.skipped)
        if activity.skipped:
            file.readline()
        for line in file:
            kind = line[10 : line.find(b'"', 10)]  # after {"event":"
            if decoder := _DECODERS.get(kind):
                with contextlib.suppress(msgspec.DecodeError):
                    reader.on(decoder.decode(line))
    reader.end()
    return activity


class _Known(msgspec.Struct, kw_only=True):
    """The fields of an event that are read here."""

    at: float


class _Begun(_Known, kw_only=True):
    workspace: str


class _Started(_Known, kw_only=True):
    round_num: int
    sites: list[str]


class _Task(_Known, kw_only=True):
    site: str
    task: str
    round_num: int


class _Sent(_Task, kw_only=True):
    size: int


class _Failed(_Task, kw_only=True):
    failure: Failure


class _Finished(_Known, kw_only=True):
    round_num: int
    aggregate_s: float
    save_s: float


class _Logged(_Known, kw_only=True):
    site: str
    kind: str
    values: Mapping[str, float | str | None]
    step: int | None = None


class _Exited(_Known, kw_only=True):
    name: str
    exit_code: int
    failure: Failure | None = None


_READ = {
    b"RunStarted": _Begun,
    b"RoundStarted": _Started,
    b"TaskSent": _Sent,
    b"ReplyArrived": _Task,
    b"ReplyLate": _Task,
    b"ReplyFailed": _Failed,
    b"RoundFinished": _Finished,
    b"ValuesLogged": _Logged,
    b"ProcessExited": _Exited,
}
_DECODERS = {name: msgspec.json.Decoder(fields) for name, fields in _READ.items()}
_SERVER_ROW = -1


class _Reader:
    """Events become spans: a task from its sending to its answer, a wait from the round's start to the task."""

    def __init__(self, activity: Activity) -> None:
        self._activity = activity
        self._base: float | None = None
        self._open: dict[str, tuple[float, int, str]] = {}  # by site: since when it does which task
        self._waiting: dict[str, float] = {}

    def on(self, event: _Known) -> None:
        activity = self._activity
        if self._base is None or isinstance(event, _Begun):
            self._begin(event)
        now = activity.total = max(activity.total, event.at - (self._base or 0.0))
        match event:
            case _Started():
                self._waiting = dict.fromkeys(event.sites, now)
            case _Sent():
                row = activity.row(event.site)
                since = self._waiting.pop(event.site, None)
                if since is not None:
                    activity.span(row, WAITED, since, now, event.round_num, event.task)
                self._close(event.site, now)
                self._open[event.site] = (now, event.round_num, event.task)
            case _Failed():
                self._close(event.site, now, FAILED)
            case _Task():
                self._close(event.site, now)
            case _Finished():
                activity.span(_SERVER_ROW, SAVED, now - event.save_s, now, event.round_num, "")
                aggregated = now - event.save_s
                activity.span(_SERVER_ROW, AGGREGATED, aggregated - event.aggregate_s, aggregated, event.round_num, "")
                self._waiting.clear()
            case _Logged():
                activity.log(event)
            case _Exited() if event.exit_code and event.failure and event.name in ("server", "nursery"):
                activity.failed[event.name] = event.failure

    def end(self) -> None:
        for site in list(self._open):
            self._close(site, self._activity.total)

    def _begin(self, event: _Known) -> None:
        """A run, or a resumed part of it, begins where the part before it ended."""
        self.end()
        self._waiting.clear()
        self._activity.failed.clear()
        self._base = event.at - self._activity.total
        if self._activity.total:
            self._activity.resumed.append(self._activity.total)

    def _close(self, site: str, now: float, kind: int = WORKED) -> None:
        if doing := self._open.pop(site, None):
            since, round_num, task = doing
            self._activity.span(self._activity.row(site), kind, since, now, round_num, task)
