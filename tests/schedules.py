"""A model of clients, slots and faults around the server's dispatcher, in virtual time, and the promises it must keep.

A `World` has the dispatcher and everything around it; `choices` are the things that could happen next, in whatever
order. A `WorkerWorld` has workers, and what the communicator does with them, instead of a process for each client.
`Promises` knows nothing of the dispatcher: it sees what happened and what was decided, and says what had to be.
`search` walks at random, each walk made from a seed of its own; `explore` takes every way through a small world.
"""

import argparse
import functools
import math
import pickle
import random
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field

from fedsag_cli.events import ClientWanted, Event, Failure, WorkerUnwanted
from fedsag_cli.plan import ClientConfig
from fedsag_cli.server.channels import Heard
from fedsag_cli.server.clients import ENDING_LIMIT_S, REASON_LIMIT_S, Client, Roster, RosterOfNames, State
from fedsag_cli.server.communicator import Communicator
from fedsag_cli.server.decisions import (
    Accept,
    Admit,
    Answered,
    Asked,
    Begun,
    Connected,
    Decision,
    Disconnected,
    Drop,
    EndChannel,
    Exited,
    Fail,
    Finish,
    Give,
    Happening,
    Keep,
    Left,
    MemoryShort,
    QuorumLost,
    Rejected,
    Release,
    Returned,
    Send,
    Served,
    Skip,
    Start,
    StrictFailure,
    TimePassed,
    WaitOn,
    Wanted,
    Warn,
)
from fedsag_cli.server.dispatcher import SAME_CAUSE_S, Dispatcher
from fedsag_cli.server.workers import Workers
from fedsag_cli.wire.messages import Answer, ModelFacts, Ready, Usage

SITES = "abcdefgh"
WRONG_TASK = 99
BAD_REPLY = Failure(cause="it does not fit")
NO_MODEL = ModelFacts()


_STOPS, _HAND_OUTS, _TURNS = (QuorumLost, MemoryShort, StrictFailure), (Start, Send), (Give, Finish)


class Broken(AssertionError):
    """A promise that was not kept."""


def promise(kept: bool, text: str) -> None:
    if not kept:
        raise Broken(text)


@dataclass(frozen=True)
class Ask:
    """One task for which the workflow asks."""

    targets: str
    min_responses: int = 0
    timeout_s: float | None = None
    grace_s: float | None = None
    refused: bool = False


@dataclass(frozen=True)
class Setup:
    """A run: its clients, one by one, and what the workflow asks of them.

    `at_once`: how many tasks may be open at the same time. `goes_on`: when a task has lost its quorum, the workflow
    leaves it and goes on with the others. `free`: memory, in clients (0: unknown). `workers`: they do all tasks.
    """

    launch_once: tuple[bool, ...]
    groups: tuple[int, ...]
    launch_timeouts: tuple[float, ...]
    asks: tuple[Ask, ...]
    slots: int = 1
    at_once: int = 1
    goes_on: bool = False
    strict: bool = False
    waits_for_all: bool = False
    faults: int = 0
    ticks: int = 0
    free: int = 0
    workers: bool = False

    @property
    def sites(self) -> str:
        return SITES[: len(self.launch_once)]


@dataclass
class Known:
    """What the promises know of one client. With workers it is alive while a worker works for it."""

    group: int
    launch_once: bool
    launch_timeout: float
    is_alive: bool = False
    is_connected: bool = False
    has_asked: bool = False
    has_slot: bool = False
    is_ending: bool = False
    is_gone: bool = False
    launched: float = 0.0
    task: int = 0
    task_at: float = 0.0
    answered_at: float = 0.0
    closed: float | None = None
    late_at: float = 0.0  # when it lost its slot
    next_task: int = 0
    next_at: float = 0.0  # when that became its next task
    took: float | None = None  # with workers: the seconds of its last answer that counted

    def lose_process(self) -> None:
        self.is_alive = self.is_connected = self.has_slot = False
        self.closed, self.task = None, 0

    def give_up(self, now: float) -> None:
        if self.has_slot:
            self.has_slot, self.late_at = False, now

    @property
    def is_free(self) -> bool:
        if self.is_gone or self.is_ending:
            return False
        return not self.is_alive or (self.has_asked and self.is_connected and not self.task)


@dataclass
class Round:
    """What the promises know of one task."""

    begun: Begun
    targets: list[str]
    needed: int
    awaited: set[str]
    answers: dict[str, float] = field(default_factory=dict)  # that count: the seconds each took
    failed: set[str] = field(default_factory=set)
    skipped: set[str] = field(default_factory=set)
    given: list[str] = field(default_factory=list)
    accepted: list[str] = field(default_factory=list)
    sent: set[str] = field(default_factory=set)
    out: str = ""
    lost: float | None = None
    is_wanted: bool = False
    is_over: bool = False

    @property
    def possible(self) -> int:
        return len(self.targets) - len(self.failed) - len(self.skipped)


NO_ROUND = Round(Begun(0, ()), [], 0, set())


class Promises:
    """Says for each thing that happened what had to be decided. Raises Broken where it was not, or more was."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.clients = {
            site: Known(group, once, limit)
            for site, group, once, limit in zip(
                setup.sites, setup.groups, setup.launch_once, setup.launch_timeouts, strict=True
            )
        }
        self.rounds: dict[int, Round] = {}  # the open tasks, in the order in which they were begun
        self.stopping: int | None = None  # the task that has lost its quorum first
        self.usage_told = False
        self.waits_for_all = setup.waits_for_all or setup.strict
        self.wait_told = False

    def check(self, happened, decisions, due: float | None, now: float) -> None:
        """`decisions` were taken when `happened` at `now`; if nothing else happens, TimePassed comes at `due`."""
        must_fail, must = self._expected(happened, now)
        failed, skipped, stops, said, hands, gives = [], [], [], [], [], []
        for decision in decisions:
            kind = type(decision)
            promise(not stops, "something is decided after a stop")
            if kind is Fail:
                promise(bool(decision.failure.cause), "a failure without a cause")
                promise(not (hands or gives), "a failure is told before what follows from it")
                failed.append((decision.task_id, decision.site))
            elif kind is Skip:
                promise(not self.waits_for_all, "a client is not waited for, although all are")
                skipped.append((decision.task_id, decision.site))
            elif kind in _STOPS:
                stops.append(kind)
            elif kind in _HAND_OUTS:
                hands.append(decision)
            elif kind in _TURNS:
                gives.append(decision)
            else:
                said.append((kind, getattr(decision, "sites", "") or getattr(decision, "site", "")))
        if sorted(failed) != sorted(must_fail):
            raise Broken(f"given up: {failed}, not {sorted(must_fail)}")
        must_skip = self._beyond_grace(now) - must_fail if type(happened) is TimePassed else set()
        if skipped != sorted(set() if self.waits_for_all else must_skip):
            raise Broken(f"not waited for: {skipped}, not {sorted(must_skip)}")
        if must_skip and self.waits_for_all and not self.wait_told:
            self.wait_told = True
            must = [*must, (WaitOn, tuple(sorted({site for _, site in must_skip})))]
        for task, site in failed:
            self._failed(task, site, now, for_time=type(happened) is TimePassed)
        for task, site in skipped:
            self.clients[site].give_up(now)
            self.rounds[task].awaited.discard(site)
            self.rounds[task].skipped.add(site)
        if said != must and sorted(said, key=str) != sorted(must, key=str):
            raise Broken(f"decided {said}, not {must}")
        self._check_stops(happened, decisions, stops, now)
        self._note_next(now)
        is_idle = bool(stops) or self.stopping is not None
        if type(happened) is Served:
            hands = self._without_served(hands, happened.site, now)
        self._check_hand_outs(hands, now, must_not=is_idle)
        self._check_turns(gives, must_not=is_idle)
        must_be_due = self.due()
        if not _same(due, must_be_due):
            raise Broken(f"the next deadline is {due}, not {must_be_due}")

    # what had to happen

    def _expected(self, happened, now):
        """Who had to fail, and the decisions that are of one client alone."""
        kind = type(happened)
        if kind is Begun:
            gone = {site for site in happened.targets if self.clients[site].is_gone}
            self._begin(happened)
            failed = happened.targets if happened.refused else gone
            return {(happened.task_id, site) for site in failed}, []
        if kind is Wanted or kind is Left:
            round_ = self.rounds[happened.task_id]
            site, round_.out = round_.out, ""
            taken = bool(site) and site not in round_.failed
            if taken:
                round_.accepted.append(site)
            if kind is Left:
                self._end_waiting(happened.task_id, now)
                del self.rounds[happened.task_id]
                self._note_next(now)
            else:
                round_.is_wanted = True
            return set(), [(Accept, site)] if taken else []
        if kind is TimePassed:
            overdue = self._overdue(now)
            if self.setup.workers and self.stopping is None:
                for _, site in self._next():
                    if self._lost_late(site) and self._fails_at(site) <= now:
                        self.clients[site].lose_process()
            return overdue, []
        if kind is Rejected:
            round_ = self.rounds[happened.task_id]
            return {(happened.task_id, happened.site)} if happened.site in round_.answers else set(), []
        client = self.clients[happened.site]
        waiting = {(task, happened.site) for task, round_ in self.rounds.items() if happened.site in round_.awaited}
        if kind is Connected:
            if client.has_asked:
                client.has_asked, client.launched, client.task = False, now, 0
            client.is_connected, client.closed = True, None
            return set(), []
        if kind is Asked:
            if client.has_asked or client.is_gone:
                return set(), []
            client.has_asked, client.has_slot = True, False
            return set(), [(Admit, happened.site)]
        if kind is Answered:
            return set(), self._answered(happened, client, now)
        if kind is Served:
            return set(), self._served(happened.site, client)
        if kind is Returned:
            self.rounds.get(client.task, NO_ROUND).sent.discard(happened.site)
            client.lose_process()
            return set(), []
        if kind is Disconnected:
            client.is_connected = False
            if not client.is_ending and not client.is_gone and client.closed is None:
                client.closed = now
            return set(), []
        promise(kind is Exited, f"unknown: {happened}")
        if self.setup.workers:
            did = {(client.next_task, happened.site)} if client.has_slot else set()
            client.lose_process()
            return did, []
        client.lose_process()
        if client.is_ending:
            client.is_ending = False
            return set(), [(Warn, "")] if happened.exit_code else []
        client.is_gone = True
        return waiting, []

    def _begin(self, begun: Begun) -> None:
        targets = [site for site in self.setup.sites if site in begun.targets]
        needed = len(targets) if self.setup.strict else begun.min_responses
        self.rounds[begun.task_id] = Round(begun, targets, needed, set(targets))

    def _end_waiting(self, task: int, now: float) -> None:
        for site in self.rounds[task].awaited:
            if self._next_task(site) == task:
                self.clients[site].give_up(now)
        self.rounds[task].awaited = set()
        self.stopping = None if self.stopping == task else self.stopping

    def _next_task(self, site: str) -> int:
        """The first open task, in the order of the asks, for which it is waited; 0 if there is none."""
        return next((task for task, round_ in self.rounds.items() if site in round_.awaited), 0)

    def _note_next(self, now: float) -> None:
        for site, client in self.clients.items():
            if client.next_task != (task := self._next_task(site)):
                client.next_task, client.next_at = task, now

    def _answered(self, answered: Answered, client: Known, now: float):
        if not client.task or client.task != answered.task_id:
            return [(Drop, answered.site)]
        counts = client.has_slot
        client.task, client.has_slot = 0, False
        if counts:
            round_ = self.rounds[answered.task_id]
            round_.awaited.remove(answered.site)
            round_.answers[answered.site] = now - client.task_at
            client.took = now - client.task_at
        said = [(Keep if counts else Drop, answered.site)]
        if self.setup.workers:
            client.is_alive = False
            said.append((Release, answered.site))
        elif not client.launch_once:
            client.is_ending, client.answered_at = True, now
            said.append((EndChannel, answered.site))
        return said

    def _served(self, site: str, client: Known):
        """A worker that is ready gets the task at once, unless nobody waits for it or the run has to stop."""
        promise(client.is_alive and not client.has_asked, f"a worker is ready for {site}, which has none to wait for")
        if client.has_slot and self.stopping is None:
            client.has_asked = True
            return []
        client.lose_process()
        return [(Release, site)]

    def _failed(self, task: int, site: str, now: float, *, for_time: bool) -> None:
        client, round_ = self.clients[site], self.rounds[task]
        if for_time and self.setup.workers and client.closed is not None:
            client.lose_process()
        elif for_time and site in round_.awaited:
            client.give_up(now)
            client.is_gone = client.is_gone or client.closed is not None
        round_.awaited.discard(site)
        round_.answers.pop(site, None)
        round_.failed.add(site)

    # when somebody is given up

    def due(self) -> float | None:
        if self.stopping is not None:
            return self.rounds[self.stopping].lost + SAME_CAUSE_S
        moments = [moment for task, site in self._next() for moment in (self._fails_at(site), self._skipped_at(site))]
        return min((moment for moment in moments if moment is not None), default=None)

    def _next(self) -> list[tuple[int, str]]:
        """The sites with the tasks that they do or have to do next: there, the time counts."""
        return [(client.next_task, site) for site, client in self.clients.items() if client.next_task]

    def _overdue(self, now: float) -> set[tuple[int, str]]:
        """Who has failed for the time: the grace of others is no reason to fail."""
        if self.stopping is not None:
            return set()
        late = [(task, site) for task, site in self._next() if (at := self._fails_at(site)) is not None and at <= now]
        if self.setup.workers:  # one that lost a worker that was late does the task later
            return {(task, site) for task, site in late if not self._lost_late(site)}
        closed = {site for _, site in late if self.clients[site].closed is not None}  # it is out of the run
        return {*late, *((task, site) for task, round_ in self.rounds.items() for site in closed & round_.awaited)}

    def _lost_late(self, site: str) -> bool:
        """It had been given up before its worker closed the channel."""
        return self.clients[site].closed is not None and not self.clients[site].has_slot

    def _beyond_grace(self, now: float) -> set[tuple[int, str]]:
        if self.stopping is not None:
            return set()
        return {(task, site) for task, site in self._next() if (at := self._grace_ends(site)) is not None and at <= now}

    def _skipped_at(self, site: str) -> float | None:
        """When something is decided because the grace is over: with all waited for, it is only told, once."""
        return None if self.waits_for_all and self.wait_told else self._grace_ends(site)

    def _fails_at(self, site: str) -> float | None:
        client = self.clients[site]
        if client.is_gone:
            return None
        if client.closed is not None:
            return client.closed + REASON_LIMIT_S
        if client.is_ending:
            return client.answered_at + ENDING_LIMIT_S
        moments = [self._at_work_for(site, self.rounds[client.next_task].begun.timeout_s)]
        if client.is_alive and not client.has_asked and client.launch_timeout:
            moments.append(client.launched + client.launch_timeout)
        return min((moment for moment in moments if moment is not None), default=None)

    def _grace_ends(self, site: str) -> float | None:
        """When the client has had the time of the slowest of the quorum, and the grace."""
        round_ = self.rounds[self.clients[site].next_task]
        begun, times = round_.begun, sorted(round_.answers.values())
        quorum = max(1, begun.min_responses)
        if begun.grace_s is None or len(times) < quorum:
            return None
        return self._at_work_for(site, times[quorum - 1] + begun.grace_s)

    def _at_work_for(self, site: str, limit_s: float | None) -> float | None:
        """When it will have worked for so long; None if it is not at work."""
        client = self.clients[site]
        if limit_s is None or client.is_gone or client.is_ending or client.closed is not None:
            return None
        if client.has_slot and client.task:
            return client.task_at + limit_s
        if client.is_alive and not client.has_slot and (client.task or not client.has_asked):
            return max(client.late_at, client.next_at) + limit_s
        return None

    # what follows from where everybody stands

    def _check_stops(self, happened, decisions, stops, now: float) -> None:
        must = []
        if self.setup.strict and any(type(decision) is Warn for decision in decisions):
            must.append(StrictFailure)
        if type(happened) is Answered and happened.usage is not None and not self.usage_told:
            self.usage_told = True
            must += self._too_many()
        elif type(happened) is Begun and self.usage_told:
            must += self._too_many()
        ended = list(self.rounds) if must else []
        for task, round_ in self.rounds.items() if not must else ():
            if round_.is_over or round_.possible >= round_.needed:
                continue
            round_.lost = now if round_.lost is None else round_.lost
            self.stopping = task if self.stopping is None else self.stopping
            if task == self.stopping and (not self._may_fail_too(round_) or now >= round_.lost + SAME_CAUSE_S):
                must, ended = [QuorumLost], [task]
                break
        if stops != must:
            raise Broken(f"stopped by {stops}, not {must}")
        for decision in decisions:
            if type(decision) is QuorumLost:
                (task,) = ended
                round_ = self.rounds[task]
                promise(decision.task_id == task, "another task has lost its quorum")
                promise((decision.needed, decision.possible) == (round_.needed, round_.possible), "other numbers")
                promise(bool(decision.cause) or not round_.targets or not round_.failed, "a stop without its cause")
        for task in ended:
            self._end_waiting(task, now)
            self.rounds[task].is_over, self.rounds[task].is_wanted = True, False

    def _too_many(self):
        awaited = set().union(*(round_.awaited for round_ in self.rounds.values()))
        if self.setup.workers:
            return []
        absent = [client for client in map(self.clients.get, awaited) if not client.is_alive and client.launch_once]
        return [MemoryShort] if self.setup.free and len(absent) > self.setup.free else []

    def _may_fail_too(self, round_: Round) -> bool:
        return any(not self.clients[site].is_free and not self._only_waits(site) for site in round_.awaited)

    def _only_waits(self, site: str) -> bool:
        """It said all it had to say; its closed channel alone tells that it is at work no more."""
        client = self.clients[site]
        return client.is_alive and client.has_asked and not client.task and not client.is_ending

    def _without_served(self, hands, site: str, now: float):
        """What is handed out beside the task for the worker that is ready."""
        client = self.clients[site]
        if client.task or not (client.has_slot and client.has_asked):
            return hands
        sent = Send(client.next_task, site)
        promise([(each.task_id, each.site) for each in hands[:1]] == [(sent.task_id, site)], f"{site} is not served")
        self.rounds[sent.task_id].sent.add(site)
        client.task, client.task_at = sent.task_id, now
        return hands[1:]

    def _check_hand_outs(self, hands, now: float, *, must_not: bool) -> None:
        promise(not (hands and must_not), "a task is handed out though the run has to stop")
        for decision in hands:
            site, client = decision.site, self.clients[decision.site]
            promise(client.next_task != 0, f"{site} is not waited for")
            promise(client.is_free, f"{site} is not free")
            place = self._place(client.next_task, site)
            if ahead := [other for other in self._free(client.group) if self._place(*other) < place]:
                raise Broken(f"{ahead} come before {site}")
            promise(self._busy(client.group) < self.setup.slots, f"no slot is free for {site}")
            client.has_slot = True
            if type(decision) is Start:
                promise(not client.is_alive, f"{site} has a process")
                client.is_alive, client.launched = True, now
                client.has_asked = False
            else:
                round_ = self.rounds[decision.task_id]
                promise(decision.task_id == client.next_task, f"{site} has to do another task first")
                promise(client.is_alive, f"{site} has no process")
                promise(site not in round_.sent, f"{site} is sent the task twice")
                round_.sent.add(site)
                client.task, client.task_at = decision.task_id, now
        for group in set(self.setup.groups) if not must_not else ():
            if (idle := self._free(group)) and self._busy(group) < self.setup.slots:
                raise Broken(f"a slot of group {group} is free, and {idle} could use it")

    def _free(self, group: int) -> list[tuple[int, str]]:
        """The clients of the group that could do their next task now."""
        return [
            (task, site)
            for task, site in self._next()
            if self.clients[site].group == group and self.clients[site].is_free
        ]

    def _place(self, task: int, site: str) -> tuple[int, float, str]:
        """With workers, the longest come first, before them those of which it is not known."""
        took = self.clients[site].took if self.setup.workers else 0.0
        return task, -math.inf if took is None else -took, site

    def _busy(self, group: int) -> int:
        return sum(client.has_slot for client in self.clients.values() if client.group == group)

    def _check_turns(self, gives, *, must_not: bool) -> None:
        must = []
        for task, round_ in self.rounds.items() if not must_not else ():
            if not round_.is_wanted:
                continue
            done = set(round_.given) | round_.failed | round_.skipped
            left = [site for site in round_.targets if site not in done]
            if not left:
                must.append(Finish(task))
                round_.is_wanted, round_.is_over = False, True
                promise(round_.given == sorted(round_.given), "replies were given in another order")
                promise(set(round_.accepted) == set(round_.answers), "not every answer was accepted")
                outcomes = [*round_.answers, *round_.failed, *round_.skipped]
                promise(set(outcomes) == set(round_.targets), "a target has no outcome")
                promise(len(outcomes) == len(set(outcomes)), "a target has two outcomes")
            elif left[0] in round_.answers:
                must.append(Give(task, left[0]))
                round_.is_wanted, round_.out = False, left[0]
                round_.given.append(left[0])
        if gives != must:
            raise Broken(f"the turn is {gives}, not {must}")


def _same(one: float | None, other: float | None) -> bool:
    return one == other if one is None or other is None else abs(one - other) < 1e-9


@dataclass
class Process:
    """The process of a client, or a worker, and its channel."""

    client: str = ""  # for whom a worker works, as it was decided
    tasks: list[int] = field(default_factory=list)
    is_replaced: bool = False  # another worker works for the client that it had
    awaits: bool = False  # a worker's script asked for a task since its last answer
    is_dead: bool = False  # which the server has not heard yet
    is_alive: bool = False
    is_open: bool = False
    has_asked: bool = False
    hangs: bool = False
    told_closed: bool = False  # a worker's channel, as the server knows
    is_told_to_end: bool = False

    @property
    def has_begun(self) -> bool:
        """Whether its end is that of the client for which a worker works."""
        return self.awaits or not self.has_asked


class World:
    """A dispatcher, its clients, a workflow, and time."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.now = 0.0
        free_memory = functools.partial(int, setup.free)
        self.dispatcher = Dispatcher(
            self._roster(),
            slots=setup.slots,
            strict=setup.strict,
            waits_for_all=setup.waits_for_all,
            free_memory=free_memory,
        )
        self.promises = Promises(setup)
        self.processes = {} if setup.workers else {site: Process() for site in setup.sites}
        self.asked = 0  # tasks that have begun
        self.open: list[int] = []
        self.waits_for = 0  # the task whose next reply the workflow waits for
        self.holds: dict[int, str] = {}  # the reply to each task that the workflow handles
        self.is_stopped = False
        self.tells_usage = ""
        self.faults, self.ticks = setup.faults, setup.ticks

    def _roster(self) -> Roster:
        setup = self.setup
        return Roster(
            Client(number, site, ClientConfig(launch_once=once, launch_timeout=limit), group)
            for number, (site, once, limit, group) in enumerate(
                zip(setup.sites, setup.launch_once, setup.launch_timeouts, setup.groups, strict=True)
            )
        )

    @property
    def is_over(self) -> bool:
        return self.is_stopped or (not self.open and self.asked == len(self.setup.asks))

    def choices(self) -> tuple[list[str], list[str]]:
        """What can happen now, and what can go wrong: words for `do`."""
        fine, wrong = [], []
        if not self.waits_for:
            if self.asked < len(self.setup.asks) and len(self.open) < self.setup.at_once:
                fine.append("begin")
            fine += [f"want {task}" for task in self.open]
            wrong += [f"reject {task}" for task in self.holds]
            wrong += [f"leave {task}" for task in self.open if task in self.holds or self.setup.at_once > 1]
        for site, process in self.processes.items():
            if process.is_alive and not process.hangs:
                self._choices_of(site, process, fine, wrong)
        due = self.dispatcher.due
        if due is not None:
            fine.append("due")
        if self.ticks and self.open and (not self.waits_for or due is None or self.now + 1 < due):
            fine.append("tick")
        return fine, wrong if self.faults else []

    def _choices_of(self, site: str, process: Process, fine: list[str], wrong: list[str]) -> None:
        wrong.append(f"hang {site}")
        if not process.is_open:
            if process.has_asked or process.tasks:  # it closed its channel, or we did
                fine.append(f"exit {site} 0")
            else:
                wrong.append(f"exit {site} 1")
            if self.dispatcher.clients[site].may_connect:
                (wrong if process.has_asked else fine).append(f"connect {site}")
            return
        wrong += [f"close {site}", f"babble {site}"]
        if not process.has_asked:
            fine.append(f"ask {site}")
            wrong.append(f"exit {site} 1")
            return
        wrong += [f"ask {site}", f"exit {site} 1"]
        if process.tasks:
            fine.append(f"answer {site}")
            wrong.append(f"mistake {site}")
        elif process.is_told_to_end:
            fine.append(f"exit {site} 0")
        else:
            wrong.append(f"exit {site} 0")

    def do(self, word: str) -> list:
        """Let it happen. The (what happened, what was decided) of it. Raises Broken."""
        what, *of = word.split()
        process = self.processes.get(of[0]) if of else None
        match what:
            case "begin":
                ask = self.setup.asks[self.asked]
                self.asked += 1
                task = self.asked
                self.open.append(task)
                refused = Failure(cause="the filter failed") if ask.refused else None
                targets = tuple(ask.targets)
                story = self._tell(
                    Begun(task, targets, ask.min_responses, ask.timeout_s, ask.grace_s, self.asked, refused)
                )
                if self.setup.at_once == 1 and task in self.open:
                    story += self._want(task)
                return story
            case "want":
                return self._want(int(of[0]))
            case "due":
                self.now = max(self.now, self.dispatcher.due)
                return self._tell(TimePassed())
            case "tick":
                self.now += 1
                self.ticks -= 1
                return []
            case "connect":
                self.faults -= process.has_asked
                process.is_open, process.has_asked, process.tasks = True, False, []
                return self._tell(Connected(of[0]))
            case "ask":
                self.faults -= process.has_asked
                process.has_asked = True
                return self._tell(Asked(of[0]))
            case "answer":
                usage = Usage(private=1) if self.tells_usage == of[0] else None
                return self._tell(Answered(of[0], process.tasks.pop(0), usage))
            case "exit":
                code = int(of[1])
                is_fine = not process.is_open and process.has_asked
                self.faults -= not is_fine and not (process.is_told_to_end and not code)
                self.processes[of[0]] = Process()
                return self._tell(Exited(of[0], code))
        self.faults -= 1
        match what:
            case "reject":
                task = int(of[0])
                return self._tell(Rejected(task, self.holds[task], BAD_REPLY))
            case "leave":
                return self._leave(int(of[0]))
            case "hang":
                process.hangs = True
                return []
            case "close":
                process.is_open = False
                return self._tell(Disconnected(of[0]))
            case "babble":
                process.is_open = False
                return self._tell(Disconnected(of[0], "it sent a message that is none of ours"))
            case "mistake":
                return self._tell(Answered(of[0], WRONG_TASK))
        raise ValueError(word)

    def _want(self, task: int) -> list:
        self.waits_for = task
        self.holds.pop(task, None)
        return self._tell(Wanted(task))

    def _leave(self, task: int) -> list:
        self.open.remove(task)
        self.holds.pop(task, None)
        self.waits_for = 0
        return self._tell(Left(task))

    def _tell(self, happened) -> list:
        decisions = self.dispatcher.handle(happened, self.now)
        story = [(happened, list(decisions))]
        try:
            self.promises.check(happened, decisions, self.dispatcher.due, self.now)
        except Broken as broken:
            broken.story = story
            raise
        for decision in decisions:
            kind = type(decision)
            if kind is Start:
                self.processes[decision.site] = Process(is_alive=True)
            elif kind is Send:
                self.processes[decision.site].tasks.append(decision.task_id)
                if decision.tell_usage and not self.tells_usage:
                    self.tells_usage = decision.site
            elif kind is EndChannel:
                self.processes[decision.site].is_told_to_end = True
            elif kind is Give:
                self.holds[decision.task_id], self.waits_for = decision.site, 0
            elif kind is Finish or (kind is QuorumLost and self.setup.goes_on):
                story += self._leave(decision.task_id)
            elif kind in _STOPS:
                self.is_stopped = True
                while self.open:
                    story += self._leave(self.open[-1])
        return story

    def _hangs(self, site: str) -> bool:
        return self.processes[site].hangs

    def check_end(self) -> None:
        """Nothing can happen any more. Raises Broken."""
        if not self.is_over:
            waits = set().union(*(round_.awaited for round_ in self.promises.rounds.values()))
            hang = [site for site in waits if self._hangs(site)]
            promise(bool(hang), f"{sorted(waits)} are waited for, and nothing can come")
        else:
            busy = [client.site for client in self.dispatcher.clients.values() if client.holds_slot]
            promise(not busy and not any(self.dispatcher._busy.values()), f"slots are taken at the end: {busy}")


class _Stopped(Exception):
    """As the communicator raises an error."""


class _Silent:
    """States and channels of which nothing is heard."""

    def __getitem__(self, _: str) -> "_Silent":
        return self

    def started(self, _: str) -> None: ...

    def close(self, _: str) -> None: ...


class Desk(Communicator):
    """What the communicator does with workers, without its sockets and files."""

    def __init__(self, world: "WorkerWorld") -> None:
        self._world, self._dispatcher, self._roster = world, world, world.dispatcher.clients
        self._workers, self._strict, self._slots = Workers(), world.setup.strict, world.setup.slots
        self._next, self._unreachable, self._ending = deque(), [], ""
        self._states = self._channels = _Silent()

    def worker_of(self, client: str) -> str:
        return self._workers.of(client)

    def admits(self, worker: str) -> bool:
        return self._workers.admits(worker)

    @property
    def state(self) -> list[tuple]:
        """All that the workers depend on."""
        workers = self._workers
        return [
            *(
                (each.name, each.client, each.is_connected, each.is_engaged, each.has_joined, each.has_asked)
                for _, each in sorted(workers._by_name.items())
            ),
            *((client, each.name) for client, each in sorted(workers._by_client.items())),
            (*workers._free, workers._num_names, *sorted(workers._names)),
        ]

    def is_unreachable(self, client: str) -> None:
        self._unreachable.append(client)

    def _perform(self, decision: Decision) -> None:
        if type(decision) in (Start, Release):
            super()._perform(decision)
        self._world.perform(decision)
        if type(decision) in _STOPS:
            raise _Stopped(decision)

    def _receive_answer(self, site, answer, file, state) -> None:
        self._tell(Answered(site, answer.task_id, answer.usage))

    def _emit(self, event: Event) -> None:
        if isinstance(event, ClientWanted):
            self._world.start(event.process)
        if isinstance(event, WorkerUnwanted):
            self._world.stop(event.process)


class WorkerWorld(World):
    """The same with workers. The words are about them; a `death` is heard of later."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.desk = Desk(self)
        self._word = ""
        self._story: list = []
        self._turns: list[Give | Finish] = []
        self.has_warned = False  # of the worker that ended last

    def _roster(self) -> Roster:
        limit = self.setup.launch_timeouts[0]
        return RosterOfNames(self.setup.sites, ClientConfig(serves_any_client=True, launch_timeout=limit))

    def handle(self, happened: Happening, _: float) -> list[Decision]:
        decisions = self.dispatcher.handle(happened, self.now)
        self._story.append((happened, list(decisions)))
        self.promises.check(happened, decisions, self.dispatcher.due, self.now)
        if type(happened) is Returned:
            for process in self.processes.values():
                if process.client == happened.site:
                    promise(not process.has_begun, f"the task of {process.client} is given back, which was begun")
                    process.client = ""
        return decisions

    def start(self, name: str) -> None:
        promise(name not in self.processes, f"there are two {name}")
        idle = [each for each, process in self.processes.items() if self._is_idle(process)]
        promise(not idle, f"{name} starts, and {idle} are idle")
        self.processes[name] = Process(is_alive=True)
        at_work = [process for process in self.processes.values() if not process.told_closed]
        promise(len(at_work) <= self.setup.slots, f"{name} is one worker too many")

    def stop(self, name: str) -> None:
        process = self.processes[name]
        promise(not self._keeps_slot(process), f"{name} is stopped, and {process.client} is waited for")
        process.told_closed, process.is_replaced, process.client = True, True, ""

    def perform(self, decision: Decision) -> None:
        kind = type(decision)
        if kind is Start:
            self._engage(decision.site)
        elif kind is Release:
            for process in self.processes.values():
                process.client = "" if process.client == decision.site else process.client
        elif kind is Send:
            self._send(decision)
        elif kind in _TURNS:
            self._turns.append(decision)
        elif kind in (Warn, StrictFailure):
            self.has_warned = True

    def _is_idle(self, process: Process) -> bool:
        return process.has_asked and not process.client and not process.told_closed

    def _keeps_slot(self, process: Process) -> bool:
        return bool(process.client) and self.promises.clients[process.client].has_slot

    def _engage(self, site: str) -> None:
        name = self.desk.worker_of(site)
        process = self.processes[name]
        promise(not process.told_closed, f"{name} works for {site}, and its channel is closed")
        promise(not process.client, f"{name} works for {process.client} and for {site}")
        for other in self.processes.values():
            if other.client == site:
                promise(other.told_closed, f"{site} has two workers")
                other.client, other.is_replaced = "", True
        process.client = site

    def _send(self, sent: Send) -> None:
        name = self.desk.worker_of(sent.site)
        process = self.processes[name]
        promise(process.client == sent.site, f"{name} gets a task of {sent.site} and works for {process.client}")
        promise(process.has_asked and not process.tasks, f"{name} gets a task and does not wait for one")
        if sent.tell_usage and not self.tells_usage:
            self.tells_usage = sent.site
        if process.is_dead:
            process.told_closed = True
            self.desk.is_unreachable(sent.site)
        else:
            process.tasks.append(sent.task_id)

    def _choices_of(self, site: str, process: Process, fine: list[str], wrong: list[str]) -> None:
        name = site
        if process.is_dead:
            fine.append(f"exit {name} 1")
            if process.is_open and not process.told_closed:
                fine.append(f"close {name}")
            return
        wrong += [f"hang {name}", f"exit {name} 1"]
        if process.told_closed:
            fine.append(f"exit {name} 0")
            return
        if not process.is_open:
            if self.desk.admits(name):
                fine.append(f"connect {name}")
            return
        wrong += [f"close {name}", f"babble {name}", f"death {name}", f"exit {name} 0"]
        if not process.has_asked:
            fine.append(f"ask {name}")
            return
        wrong.append(f"mistake {name}")
        (wrong if process.awaits else fine).append(f"ask {name}")
        if process.tasks and process.awaits:
            fine.append(f"answer {name}")

    def do(self, word: str) -> list:
        what, *of = word.split()
        process = self.processes.get(of[0]) if of else None
        if process is None:
            return super().do(word)
        self._word = word
        match what, *of:
            case "hang", _:
                self.faults, process.hangs = self.faults - 1, True
                return [(word, [])]
            case "death", _:
                self.faults, process.is_dead, process.tasks = self.faults - 1, True, []
                return [(word, [])]
            case "connect", name:
                process.is_open = True
                return self._hear(Connected(name))
            case "ask", name:
                self.faults -= process.awaits
                process.has_asked = process.awaits = True
                return self._hear(Heard(name, Ready(), None))
            case "answer", name:
                usage = Usage(private=1) if self.tells_usage == process.client else None
                process.awaits = False
                return self._hear(Heard(name, Answer(task_id=process.tasks.pop(0), model=NO_MODEL, usage=usage), None))
            case "mistake", name:
                self.faults -= 1
                process.awaits = False
                return self._hear(Heard(name, Answer(task_id=WRONG_TASK, model=NO_MODEL), None))
            case (("close" | "babble"), name):
                self.faults -= not process.is_dead
                process.told_closed = True
                cause = "it sent a message that is none of ours" * (what == "babble")
                return self._end(process, Disconnected(name, cause))
            case "exit", name, code:
                self.faults -= not (process.is_dead or (process.told_closed and code == "0"))
                del self.processes[name]
                return self._end(process, Exited(name, int(code)))
        raise ValueError(word)

    def _tell(self, happened: Happening) -> list:
        self._story = []
        return self._let(functools.partial(self.desk._tell, happened))

    def _hear(self, news: Heard | Connected | Disconnected | Exited) -> list:
        self._story = [(self._word, [])]
        return self._let(functools.partial(self.desk._hear, news))

    def _end(self, process: Process, end: Disconnected | Exited) -> list:
        """The end of a worker is that of its client, if it has begun its task; otherwise the task is given back."""
        self.has_warned = False
        whose, has_begun = process.client, process.has_begun
        story = self._hear(end)
        told = [(type(each), each.site) for each, _ in story[1:2] if type(each) in (Returned, Disconnected, Exited)]
        must_tell = [(type(end) if has_begun else Returned, whose)] if whose else []
        if self.has_warned and self.setup.strict:  # the run stops
            must_tell = []
        promise(told == must_tell, f"the end of a worker of {whose!r} is told as {told}")
        must_warn = (
            type(end) is Exited and bool(end.exit_code) and not (whose and has_begun) and not process.is_replaced
        )
        promise(self.has_warned == must_warn, "the failure of a worker that had nothing to do is told, or another one")
        return story

    def _let(self, happen: Callable[[], None]) -> list:
        """Let it happen, with all that follows; then the workflow does its part."""
        self._turns = []
        stop = None
        try:
            happen()
        except _Stopped as stopped:
            (stop,) = stopped.args
        except Broken as broken:
            broken.story = self._story
            raise
        story, turns = self._story, self._turns
        for decision in turns:
            if type(decision) is Give:
                self.holds[decision.task_id], self.waits_for = decision.site, 0
            else:
                story += self._leave(decision.task_id)
        if type(stop) is QuorumLost and self.setup.goes_on:
            story += self._leave(stop.task_id)
        elif stop is not None:
            self.is_stopped = True
            while self.open:
                story += self._leave(self.open[-1])
        return story

    def _hangs(self, site: str) -> bool:
        return any(process.client == site and process.hangs for process in self.processes.values())


def world_of(setup: Setup) -> World:
    return WorkerWorld(setup) if setup.workers else World(setup)


# walks at random


def setup_of(chance: random.Random) -> Setup:
    """Some run, small."""
    count = chance.choice((1, 2, 2, 3, 3, 4))
    pick = chance.random
    sites = SITES[:count]

    def ask() -> Ask:
        targets = sites if pick() < 0.7 else "".join(site for site in sites if pick() < 0.7)
        return Ask(
            targets,
            chance.randrange(len(targets) + 1) if pick() < 0.5 else int(pick() < 0.5),
            chance.choice((None, None, 3.0, 5.0)),
            chance.choice((None, 0.0, 2.0)),
            pick() < 0.01,
        )

    at_once = chance.choice((1, 1, 2, 3))
    workers = pick() < 0.35
    return Setup(
        workers=workers,
        launch_once=tuple(workers or pick() < 0.7 for _ in sites),
        groups=tuple(int(not workers and pick() < 0.3) for _ in sites),
        launch_timeouts=(chance.choice((4.0, 4.0, 0.0)),) * count
        if workers
        else tuple(chance.choice((4.0, 4.0, 0.0)) for _ in sites),
        asks=tuple(ask() for _ in range(chance.choice((1, 2, 2, 3)) * at_once)),
        slots=chance.choice((1, 1, 2, 3)),
        at_once=at_once,
        goes_on=pick() < 0.5,
        strict=pick() < 0.15,
        waits_for_all=pick() < 0.3,
        faults=chance.choice((0, 1, 2, 3)),
        ticks=chance.choice((0, 3, 6)),
        free=chance.choice((0, 0, 0, 1, 2)),
    )


def walk(seed: int) -> Iterator[tuple[World, str]]:
    """The schedule of one seed: the world before each word that is to be done."""
    chance = random.Random(seed)
    world = world_of(setup_of(chance))
    pick = chance.random
    while not world.is_over:
        fine, wrong = world.choices()
        if wrong and (not fine or pick() < 0.15):
            word = wrong[int(pick() * len(wrong))]
        elif fine:
            word = fine[int(pick() * len(fine))]
            if word == "due" and len(fine) > 1 and pick() < 0.8:  # or most would be given up before they asked
                word = fine[int(pick() * len(fine))]
        else:
            break
        yield world, word
    world.check_end()


class Found(AssertionError):
    """A schedule that breaks a promise, as short as it could be made."""

    def __init__(self, seed: int | None, setup: Setup, words: Sequence[str], broken: Broken) -> None:
        super().__init__(seed, setup, words, broken)
        self.seed, self.setup, self.words, self.broken = seed, setup, words, broken

    def __str__(self) -> str:
        again = "" if self.seed is None else f"seed={self.seed}, again: scripts/search --seed {self.seed}\n"
        return "\n".join([f"{again}{self.broken}", str(self.setup), *told(self.setup, self.words)])


def search(seeds: Iterable[int]) -> Counter[str]:
    """Walk the schedules of all seeds. How many things happened, by word. Raises Found."""
    happened: Counter[str] = Counter()
    for seed in seeds:
        words: list[str] = []
        setup = None
        try:
            for world, word in walk(seed):
                setup = world.setup
                words.append(word)
                world.do(word)
        except Exception as error:
            # the dispatcher may raise anything where it is broken
            broken = _as_broken(error)
            assert setup is not None
            raise Found(seed, setup, shortened(setup, words), broken) from error
        happened["schedules"] += 1
        happened["steps"] += len(words)
    return happened


def _as_broken(error: Exception) -> Broken:
    return error if isinstance(error, Broken) else Broken(f"{type(error).__name__}: {error}")


def breaks(setup: Setup, words: Sequence[str]) -> bool:
    """Whether these words, as far as they are possible, break a promise."""
    world = world_of(setup)
    try:
        for word in words:
            if world.is_over:
                return False
            fine, wrong = world.choices()
            if word in fine or word in wrong:
                world.do(word)
        if world.is_over or not any(world.choices()):
            world.check_end()
    except Exception:
        # whatever it is
        return True
    return False


def shortened(setup: Setup, words: Sequence[str]) -> list[str]:
    """The same without what is not needed to break a promise."""
    words = list(words)
    position = 0
    while position < len(words):
        fewer = words[:position] + words[position + 1 :]
        if breaks(setup, fewer):
            words = fewer
        else:
            position += 1
    return words


def told(setup: Setup, words: Iterable[str]) -> Iterator[str]:
    """A schedule as lines: the time, what happened, what was decided."""
    world = world_of(setup)
    for word in words:
        fine, wrong = world.choices()
        if word not in fine and word not in wrong:
            continue
        try:
            story, end = world.do(word), ""
        except Exception as error:
            # it is what is looked for
            story, end = getattr(error, "story", []), f"{type(error).__name__}: {error}"
        for happened, decisions in story:
            yield f"{world.now:6.1f}  {happened}" + "".join(f"\n        -> {decision}" for decision in decisions)
        if end:
            yield f"        {end}"
            return
        if world.is_over:
            break
    if world.is_over or not any(world.choices()):
        try:
            world.check_end()
        except Broken as broken:
            yield f"        {broken}"


# every way through a small world


def state_of(world: World):
    """All that the future depends on. Moments count from now, and those that are over do not count."""

    def ago(moment: float | None, counts: object = True) -> float | None:
        return round(moment - world.now, 6) if counts and moment is not None else None

    clients = [
        (
            *(client.state.name, client.is_connected, client.has_asked, client.has_answered, client.task_id),
            *(client.failure is None, client.gone_since is None, ago(client.lost), tuple(client.queue)),
            ago(client.since, client.state in (State.WORKING, State.ENDING, State.LATE)),
            ago(client.turn_began, client.state is State.LATE and client.queue),
            ago(client.launched, not client.has_asked and client.state is not State.ABSENT),
            client.expected_s if client.has_worker else None,
        )
        for client in world.dispatcher.clients.values()
    ]
    inside = [
        (
            *(task, each.given and each.given.number, each.is_over, each.is_wanted, ago(each.quorum_lost), each._turn),
            *(tuple(each._waits), frozenset(each._failed), frozenset(each._skipped), frozenset(each._work_s.items())),
            *(frozenset((ago(at), number) for number, at in each._deadlines._of.items()),),
            *(frozenset((ago(at), number) for number, at in each._clocks._of.items()),),
        )
        for task, each in world.dispatcher._open.items()
    ]
    known = [
        (
            *(each.is_alive, each.is_connected, each.has_asked, each.has_slot, each.is_ending, each.is_gone, each.task),
            ago(each.launched, each.is_alive and not each.has_asked),
            *(ago(each.task_at, each.task), ago(each.answered_at, each.is_ending), ago(each.closed)),
            *(ago(each.late_at, each.next_task), ago(each.next_at, each.next_task), each.took),
        )
        for each in world.promises.clients.values()
    ]
    around = [
        (
            *(name, each.is_alive, each.is_open, each.has_asked, each.hangs, each.is_told_to_end, *each.tasks),
            *(each.client, each.is_replaced, each.awaits, each.is_dead, each.told_closed),
        )
        for name, each in sorted(world.processes.items())
    ]
    if isinstance(world, WorkerWorld):
        around += world.desk.state
    return (
        *(tuple(clients), tuple(inside), tuple(known), tuple(around)),
        *(tuple(sorted(world.dispatcher._touched)), world.promises.stopping),
        *(tuple(sorted(world.dispatcher._busy.items())), world.dispatcher._usage is None, world.tells_usage),
        world.dispatcher._has_told_wait,
        *(world.asked, tuple(world.open), world.waits_for, tuple(world.holds.items())),
        *(world.is_stopped, world.faults, world.ticks),
    )


def explore(setup: Setup) -> Counter[str]:
    """Take every way, from each state once. How many states there are, and steps between them. Raises Found."""
    start = world_of(setup)
    seen = {state_of(start)}
    ahead: list[tuple[bytes, tuple[str, ...]]] = [(pickle.dumps(start), ())]
    count: Counter[str] = Counter()
    while ahead:
        state, words = ahead.pop()
        world: World = pickle.loads(state)
        fine, wrong = world.choices()
        count["states"] += 1
        if world.is_over or not (fine or wrong):
            try:
                world.check_end()
            except Broken as broken:
                raise Found(None, setup, words, broken) from broken
            continue
        for number, word in enumerate(fine + wrong):
            if number:
                world = pickle.loads(state)
            try:
                world.do(word)
            except Exception as error:
                # the dispatcher may raise anything where it is broken
                raise Found(None, setup, (*words, word), _as_broken(error)) from error
            count["steps"] += 1
            after = state_of(world)
            if after not in seen:
                seen.add(after)
                ahead.append((pickle.dumps(world), (*words, word)))
    return count


def small(count: int, **how) -> Setup:
    """A run of `count` clients that are all asked, once, and of which one must answer."""
    same = {
        "launch_once": (True,) * count,
        "groups": (0,) * count,
        "launch_timeouts": (4.0,) * count,
        "asks": (Ask(SITES[:count], 1, 5.0, 2.0),),
    }
    return Setup(**(same | how))


EVERY_WAY = {
    "one client, started for each task": small(1, launch_once=(False,), asks=(Ask("a"), Ask("a")), faults=2),
    "two clients, one slot": small(2, faults=2),
    "two clients, two slots, time passes": small(2, slots=2, faults=1, ticks=2),
    "two clients, two tasks": small(2, asks=(Ask("ab", 1, 5.0, 2.0), Ask("ab", 1)), faults=1, slots=2),
    "two clients, the second task for one": small(2, asks=(Ask("ab", 0, 5.0), Ask("a")), faults=2),
    "two clients, started for each task": small(2, launch_once=(False, True), asks=(Ask("ab"), Ask("ab")), faults=1),
    "two clients, all must answer": small(2, strict=True, faults=2, slots=2),
    "two clients, all are waited for": small(2, waits_for_all=True, slots=2, faults=1, ticks=2),
    "two clients, no limit of time": small(2, asks=(Ask("ab", 1),), launch_timeouts=(0.0, 0.0), faults=2),
    "one client, two tasks at once": small(1, asks=(Ask("a", 0, 5.0), Ask("a", 1, 3.0, 2.0)), at_once=2, faults=1),
    "one client, started for each of two tasks": small(1, launch_once=(False,), asks=(Ask("a"),) * 2, at_once=2),
    "two clients, a task in a task": small(2, asks=(Ask("ab", 0, 5.0), Ask("b", 1, 3.0)), at_once=2, goes_on=True),
    "two clients, a worker": small(2, workers=True, faults=2),
    "two clients, two workers, two tasks": small(2, asks=(Ask("ab", 1, 5.0), Ask("ab", 1)), slots=2, workers=True),
    "two clients, a worker, two tasks at once": small(2, asks=(Ask("ab", 1, 5.0), Ask("a")), at_once=2, workers=True),
    "three clients, two workers": small(3, slots=2, workers=True),
    "two clients, little memory": small(2, asks=(Ask("ab"), Ask("ab")), faults=1, free=1),
}
EVERY_WAY_OF_THREE = {
    "three clients, two slots": small(3, slots=2, faults=1),
    "three clients, one slot": small(3, faults=1),
    "three clients, two tasks at once": small(3, asks=(Ask("abc"), Ask("ab", 1)), slots=2, at_once=2, goes_on=True),
    "three clients in two groups": small(3, groups=(0, 1, 0), faults=1),
    "three clients, two must answer": small(3, asks=(Ask("abc", 2, None, 2.0),), slots=3, faults=1),
}
EVERY_LONG_WAY = {
    "three clients, one slot, two faults": small(3, faults=2),
    "three clients, two workers, two faults": small(3, slots=2, workers=True, faults=2),
    "three clients, a worker, two tasks": small(3, asks=(Ask("abc", 1, 5.0), Ask("ca")), workers=True, faults=1),
}


# scripts/search


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/search", description="Search for a schedule that breaks a promise.")
    parser.add_argument("--schedules", type=int, default=100_000, help="number of random schedules (100000)")
    parser.add_argument("--first", type=int, default=0, help="seed of the first one; the others follow it (0)")
    parser.add_argument("--seed", type=int, help="run the schedule of this seed alone, and print it")
    parser.add_argument("--every", action="store_true", help="take every way through small runs, some minutes")
    args = parser.parse_args()
    try:
        if args.seed is not None:
            _show(args.seed)
        elif args.every:
            _explore_all()
        else:
            _search_all(range(args.first, args.first + args.schedules))
    except Found as found:
        raise SystemExit(str(found)) from None


def _show(seed: int) -> None:
    words: list[str] = []
    try:
        for world, word in walk(seed):
            words.append(word)
            world.do(word)
    except Exception:
        # it is told below, where it happens
        pass
    setup = setup_of(random.Random(seed))
    print(setup, *told(setup, words), "", sep="\n")
    search([seed])
    print("every promise was kept")


def _search_all(seeds: range) -> None:
    began = time.monotonic()
    parts = [seeds[first : first + 5_000] for first in range(0, len(seeds), 5_000)]
    with ProcessPoolExecutor() as pool:
        counts = sum(pool.map(search, parts), Counter())
    took_s = time.monotonic() - began
    print(f"{counts['schedules']} schedules, {counts['steps']} steps in {took_s:.0f} s: every promise was kept")


def _explore_all() -> None:
    for name, setup in (EVERY_WAY | EVERY_WAY_OF_THREE | EVERY_LONG_WAY).items():
        began = time.monotonic()
        count = explore(setup)
        print(
            f"{name:<40}{count['states']:>8} states{count['steps']:>9} steps{time.monotonic() - began:>6.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
