"""What each client of a run does now, for how long, how long it usually takes, and what it measured."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

from fedsag_cli import events
from fedsag_cli.events import Event, Metrics
from fedsag_cli.workspace import site_of

NOT_STARTED, STARTING, WAITING, FOR_A_SLOT = "not started", "starting", "waiting", "waiting for a slot"
WORKING, ANSWERED, FAILED = "working", "answered", "failed"
NOT_AWAITED, LATE, STOPPED, ENDED = "not waited for", "on an earlier task", "stopped", "ended"

_HOLDS_A_SLOT = (STARTING, WORKING)
_REMEMBERED_TIMES = 5
_REMEMBERED_VALUES = 12


@dataclass(slots=True)
class Client:
    """`since`: when its state began; `took_s`: for its last answer; `metrics` by name: the last values, newest last."""

    site: str
    state: str = NOT_STARTED
    task: str = ""
    since: float = 0.0
    took_s: float | None = None
    is_asked: bool = False  # in this round, and has not got the task yet
    is_late: bool = False  # it works on a task that is not waited for
    is_gone: bool = False
    times: dict[str, deque[float]] = field(default_factory=dict)  # by task
    metrics: dict[str, deque[float | None]] = field(default_factory=dict)

    @property
    def usual_s(self) -> float | None:
        """The median of its last times for this task; None before the first."""
        times = self.times.get(self.task)
        return median(times) if times else None

    def elapsed_s(self, now: float) -> float | None:
        """How long it has worked on its task, or took for it."""
        return now - self.since if self.state in _HOLDS_A_SLOT else self.took_s if self.state == ANSWERED else None

    def enter(self, state: str, at: float) -> None:
        self.state, self.since = state, at

    def measured(self, metrics: Metrics) -> None:
        for name, value in metrics.items():
            self.metrics.setdefault(name, deque(maxlen=_REMEMBERED_VALUES)).append(value)


class Clients:
    """Hears the events of a run."""

    def __init__(self) -> None:
        self._by_site: dict[str, Client] = {}
        self._slots = 1

    def on(self, event: Event) -> None:
        if isinstance(event, events.RunStarted):
            self._by_site = {site: Client(site) for site in event.sites}
            self._slots = event.slots
        elif isinstance(event, events.RoundStarted):
            asked = set(event.sites)
            for client in self.all:
                _begin_round(client, event.at, is_asked=client.site in asked)
        else:
            name = getattr(event, "site", "") or getattr(event, "name", "")
            if named := self._by_site.get(site_of(name)):
                _happened(named, event)

    @property
    def all(self) -> Sequence[Client]:
        return list(self._by_site.values())

    def states(self) -> dict[str, str]:
        """The state of each client. Where no slot is free, those that are asked wait for one."""
        is_full = sum(client.state in _HOLDS_A_SLOT for client in self.all) >= self._slots
        return {
            client.site: FOR_A_SLOT
            if is_full and client.is_asked and client.state in (WAITING, NOT_STARTED)
            else client.state
            for client in self.all
        }

    @property
    def working(self) -> list[Client]:
        """The clients that work on a task, the longest at work first."""
        return sorted((client for client in self.all if client.state == WORKING), key=lambda client: client.since)


def _begin_round(client: Client, at: float, *, is_asked: bool) -> None:
    client.is_asked = is_asked
    if client.state == NOT_AWAITED:
        client.enter(LATE if client.is_late else WAITING, at)
    elif client.state == ANSWERED or (client.state == FAILED and not client.is_gone):
        client.enter(WAITING, at)


def _happened(client: Client, event: Event) -> None:
    match event:
        case events.ProcessStarted() if client.state in (NOT_STARTED, WAITING, FAILED, ENDED):
            client.is_gone = False
            client.enter(STARTING, event.at)
        case events.ClientReady() if client.state == STARTING:
            client.enter(WAITING, event.at)
        case events.TaskSent():
            client.task, client.is_asked = event.task, False
            client.enter(WORKING, event.at)
        case events.ReplyArrived():
            if client.state == WORKING:
                client.took_s = event.at - client.since
                client.times.setdefault(event.task, deque(maxlen=_REMEMBERED_TIMES)).append(client.took_s)
            client.enter(ANSWERED, event.at)
        case events.ReplyAccepted() if not event.model_owner:  # otherwise it measures many models, one after the other
            client.measured(event.metrics)
        case events.ReplyFailed():
            client.enter(FAILED, event.at)
        case events.NotAwaited():
            client.is_asked, client.is_late = False, client.state == WORKING
            client.enter(NOT_AWAITED, event.at)
        case events.ReplyLate() if client.state in (NOT_AWAITED, LATE):
            client.enter(WAITING, event.at)
        case events.ClientStopped():
            client.enter(STOPPED, event.at)
        case events.ProcessExited() if event.exit_code:
            client.is_gone = True
            client.enter(FAILED, event.at)
        case events.ProcessExited() if client.state not in (ANSWERED, FAILED, STOPPED):
            client.enter(ENDED, event.at)
