"""What each client of a run does now, for how long, how long it usually takes, and what it measured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import TypeAlias

from fedsag_cli import events
from fedsag_cli.events import Event, Metrics
from fedsag_cli.workspace import WORKER, site_of

NOT_STARTED, STARTING, WAITING, FOR_A_SLOT = "not started", "starting", "waiting", "waiting for a slot"
WORKING, ANSWERED, FAILED = "working", "answered", "failed"
NOT_AWAITED, LATE, STOPPED, ENDED = "not waited for", "on an earlier task", "stopped", "ended"

_HOLDS_A_SLOT = (STARTING, WORKING)
_TO_BEGIN = (NOT_STARTED, WAITING)
_DONE = (ANSWERED, FAILED, NOT_AWAITED)
_REMEMBERED_TIMES = 5
_REMEMBERED_VALUES = 12

_Place: TypeAlias = "tuple[str, bool]"
"""A client's state, and whether it is asked in this round and has not got the task yet."""


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
    times: dict[str, list[float]] = field(default_factory=dict)  # by task
    metrics: dict[str, list[float | None]] = field(default_factory=dict)

    @property
    def usual_s(self) -> float | None:
        """The median of its last times for this task; None before the first."""
        times = self.times.get(self.task)
        return median(times) if times else None

    @property
    def place(self) -> _Place:
        return self.state, self.is_asked

    def elapsed_s(self, now: float) -> float | None:
        """How long it has worked on its task, or took for it."""
        return now - self.since if self.state in _HOLDS_A_SLOT else self.took_s if self.state == ANSWERED else None

    def enter(self, state: str, at: float) -> None:
        self.state, self.since = state, at

    def measured(self, metrics: Metrics) -> None:
        for name, value in metrics.items():
            values = self.metrics.setdefault(name, [])
            values.append(value)
            del values[:-_REMEMBERED_VALUES]


class Clients:
    """Hears the events of a run. No event costs work for clients that it does not name: there may be many thousands."""

    def __init__(self) -> None:
        self._begin([], 1)

    def _begin(self, sites: Sequence[str], slots: int) -> None:
        self._sites, self._slots = dict.fromkeys(sites), slots
        self._by_site: dict[str, Client] = {}  # those of which something was told
        self._of_round: dict[str, Client] = {}  # those that are asked in this round
        self._working: dict[str, Client] = {}  # in the order in which they began
        self._done: dict[str, Client] = {}  # with the task of this round; so the next round finds them
        self._everywhere: Counter[_Place] = Counter()
        self._here: Counter[_Place] = Counter()  # as above, in this round
        self._slowest: Client | None = None
        self._is_first_answer = True  # of the round
        self._have_workers = False

    def on(self, event: Event) -> None:
        if isinstance(event, events.RunStarted):
            self._begin(event.sites, event.slots)
        elif isinstance(event, events.RoundStarted):
            self._begin_round(event)
        elif (site := site_of(getattr(event, "site", "") or getattr(event, "name", ""))) in self._sites:
            client = self._client(site)
            before, since = client.place, client.since
            _happened(client, event)
            self._moved(client, before, since)
            if isinstance(event, events.ReplyArrived):
                self._answered(client)
        elif site == WORKER:
            self._have_workers = True

    @property
    def num(self) -> int:
        return len(self._sites)

    @property
    def num_asked(self) -> int:
        """How many are asked in this round; all before the first one."""
        return len(self._of_round) or self.num

    @property
    def have_begun(self) -> bool:
        """Whether anything was told of any of them."""
        return any(state != NOT_STARTED for (state, _), count in self._everywhere.items() if count)

    @property
    def all(self) -> list[Client]:
        return [self._by_site.get(site) or Client(site) for site in self._sites]

    @property
    def asked(self) -> list[Client]:
        """Those that are asked in this round, in the order of the sites; all before the first one."""
        return list(self._of_round.values()) or self.all

    @property
    def working(self) -> Collection[Client]:
        """The clients that work on a task, the longest at work first."""
        return self._working.values()

    @property
    def slowest(self) -> Client | None:
        """The one that took longest for its answer, in this round or, before the first answer, in the one before."""
        return self._slowest

    def state_of(self, client: Client) -> str:
        """Those that are asked wait for a slot where none is free; for a worker, whoever is asked does."""
        return FOR_A_SLOT if client.is_asked and client.state in _TO_BEGIN and self._must_wait else client.state

    def counts(self, *, asked: bool = False) -> Counter[str]:
        """How many clients are in each state; `asked`: of those that are asked in this round."""
        here = asked and self._of_round
        found: Counter[str] = Counter()
        must_wait = self._must_wait
        for (state, is_asked), count in (self._here if here else self._everywhere).items():
            found[FOR_A_SLOT if is_asked and state in _TO_BEGIN and must_wait else state] += count
        if not here:
            found[NOT_STARTED] += self.num - len(self._by_site)
        return found

    @property
    def _must_wait(self) -> bool:
        held = (self._everywhere[state, is_asked] for state in _HOLDS_A_SLOT for is_asked in (True, False))
        return self._have_workers or sum(held) >= self._slots

    def _client(self, site: str) -> Client:
        client = self._by_site.get(site)
        if client is None:
            client = self._by_site[site] = Client(site)
            self._everywhere[client.place] += 1
        return client

    def _begin_round(self, event: events.RoundStarted) -> None:
        """Who was asked in the round before is not any more; who has done its task waits."""
        asked = {site: self._client(site) for site in event.sites if site in self._sites}
        for site, client in {**self._of_round, **self._done, **asked}.items():
            before, since = client.place, client.since
            _begin_round(client, event.at, is_asked=site in asked)
            self._moved(client, before, since)
        self._of_round, self._here = asked, Counter(client.place for client in asked.values())
        self._is_first_answer = True

    def _moved(self, client: Client, before: _Place, since: float) -> None:
        """Count a client where it is now. `since`: when the state before began."""
        if client.place == before and client.since == since:
            return
        site = client.site
        for counts in (self._everywhere, self._here) if site in self._of_round else (self._everywhere,):
            counts[before] -= 1
            counts[client.place] += 1
        if client.state != WORKING or client.since != since:  # else it keeps its place
            self._working.pop(site, None)
        self._done.pop(site, None)
        if client.state == WORKING:
            self._working.setdefault(site, client)
        elif client.state in _DONE:
            self._done[site] = client

    def _answered(self, client: Client) -> None:
        longest = None if self._is_first_answer or self._slowest is None else self._slowest.took_s
        if client.took_s is not None and (longest is None or client.took_s > longest):
            self._slowest, self._is_first_answer = client, False


def _begin_round(client: Client, at: float, *, is_asked: bool) -> None:
    client.is_asked = is_asked
    if client.state == NOT_AWAITED:
        client.enter(LATE if client.is_late else WAITING, at)
    elif client.state == ANSWERED or (client.state == FAILED and not client.is_gone):
        client.enter(WAITING, at)


def _happened(client: Client, event: Event) -> None:
    match event:  # the most frequent first
        case events.TaskSent():
            client.task, client.is_asked = event.task, False
            client.enter(WORKING, event.at)
        case events.ReplyArrived():
            if client.state == WORKING:
                client.took_s = event.at - client.since
                times = client.times.setdefault(event.task, [])
                times.append(client.took_s)
                del times[:-_REMEMBERED_TIMES]
            client.enter(ANSWERED, event.at)
        case events.ReplyAccepted() if not event.model_owner:  # otherwise it measures many models, one after the other
            client.measured(event.metrics)
        case events.ProcessStarted() if client.state in (NOT_STARTED, WAITING, FAILED, ENDED):
            client.is_gone = False
            client.enter(STARTING, event.at)
        case events.ClientReady() if client.state == STARTING:
            client.enter(WAITING, event.at)
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
