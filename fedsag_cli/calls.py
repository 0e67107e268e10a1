"""What the server knows of each client, and of a task that is out: who answered, who is late."""

from __future__ import annotations

import bisect
import heapq
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from fnmatch import fnmatchcase
from typing import TypeAlias

from fedsag_cli.attic import Kept
from fedsag_cli.events import Failure
from fedsag_cli.messages import Answer, ClientConfig, Task, ToClient, ToServer
from fedsag_cli.tensors import TensorFile
from fedsag_cli.transport.unix import UnixChannel

ENDING_LIMIT_S = 60.0  # launch_once = false: so long a script may go on after its answer

ClientChannel: TypeAlias = UnixChannel[ToClient, ToServer]


class State(Enum):
    ABSENT = "has no process"
    STARTING = "has a process, and a slot, and has not asked for a task yet"
    WAITING = "waits for a task"
    WORKING = "has a task, and a slot"
    LATE = "has a task nobody waits for any more"
    ENDING = "has answered and is to start anew for the next task"
    GONE = "ended; out for the run"


@dataclass
class Client:
    """What we know of one client. `number`: its place in the order of replies."""

    number: int
    site: str
    config: ClientConfig
    group: int  # clients of one group share its slots, and its GPUs
    state: State = State.ABSENT
    since: float = 0.0  # when the state began
    channel: ClientChannel | None = None
    lost: float | None = None  # when its channel closed without a word
    failure: Failure | None = None
    out_since: int | None = None  # the round in which its end was told
    seeded_itself: bool = False
    has_answered: bool = False  # this process of it, at least once

    @property
    def holds_slot(self) -> bool:
        return self.state in (State.STARTING, State.WORKING)

    @property
    def could_start(self) -> bool:
        """Whether a task could be handed to it now, or its process started for it."""
        return self.state is State.ABSENT or (self.state is State.WAITING and self.channel is not None)

    def takes(self, task_name: str, *, by_name: bool = False) -> bool:
        if by_name:
            return task_name in self.config.tasks
        return any(fnmatchcase(task_name, pattern) for pattern in self.config.tasks)


class Roster:
    """All clients, and who of them is at work: what a step costs does not grow with those who wait."""

    def __init__(self, clients: Sequence[Client]) -> None:
        self.by_site = {client.site: client for client in clients}
        self._busy: defaultdict[int, int] = defaultdict(int)
        self._timed: dict[str, Client] = {}

    def now(self, client: Client, state: State) -> None:
        """A client's next state begins."""
        self._busy[client.group] -= client.holds_slot
        client.state, client.since = state, time.monotonic()
        self._busy[client.group] += client.holds_slot
        self._watch(client)

    def lost(self, client: Client, moment: float | None) -> None:
        """Its channel closed without a word at `moment`; None: we know why by now."""
        client.lost = moment
        self._watch(client)

    def busy(self, group: int) -> int:
        """How many slots of a group are taken."""
        return self._busy[group]

    @property
    def timed(self) -> list[Client]:
        """Those who may turn out to be late."""
        return list(self._timed.values())

    def _watch(self, client: Client) -> None:
        if client.lost is None and client.state in (State.ABSENT, State.WAITING, State.GONE):
            self._timed.pop(client.site, None)
        else:
            self._timed[client.site] = client


@dataclass
class Arrived:
    """An answer that waits for its turn."""

    answer: Answer
    file: Kept | None
    work_s: float


@dataclass
class Call:
    """One broadcast on its way."""

    id: int
    task: Task
    file: TensorFile | None
    targets: Sequence[Client]
    min_responses: int
    timeout_s: float | None
    grace_s: float | None
    arrived: dict[str, Arrived] = field(default_factory=dict)
    failed: dict[str, Failure] = field(default_factory=dict)
    is_lost: bool = False  # its quorum is out of reach
    waiting_bytes: int = 0  # of the answers that wait for their turn
    began: float = field(default_factory=time.monotonic)
    _waits: set[str] = field(default_factory=set)
    _work_s: dict[str, float] = field(default_factory=dict)  # of every answer that counts
    _in_order: list[float] = field(default_factory=list)  # the same, the least first
    _queues: defaultdict[int, list[tuple[int, str]]] = field(default_factory=lambda: defaultdict(list))

    def __post_init__(self) -> None:
        self._waits = {client.site for client in self.targets}
        for client in self.targets:
            self.queue(client)

    @property
    def round_num(self) -> int:
        return self.task.model.current_round or 0

    @property
    def is_waiting(self) -> bool:
        """Whether anybody has still to answer."""
        return bool(self._waits)

    @property
    def possible(self) -> int:
        return len(self.targets) - len(self.failed)

    def waits_for(self, site: str) -> bool:
        return site in self._waits

    def queue(self, client: Client) -> None:
        """It can be handed the task, if it has not been: in its turn, when a slot of its group is free."""
        if client.could_start and self.waits_for(client.site):
            heapq.heappush(self._queues[client.group], (client.number, client.site))

    def next_of(self, group: int) -> str | None:
        """The next site of a group to be handed the task."""
        queue = self._queues[group]
        return heapq.heappop(queue)[1] if queue else None

    @property
    def groups(self) -> list[int]:
        """Those in which somebody is to be handed the task."""
        return [group for group, queue in self._queues.items() if queue]

    def answered(self, site: str, arrived: Arrived) -> None:
        self._waits.discard(site)
        self.arrived[site] = arrived
        self.waiting_bytes += arrived.file.size if arrived.file else 0
        self._work_s[site] = arrived.work_s
        bisect.insort(self._in_order, arrived.work_s)

    def given(self, site: str) -> Arrived:
        """The answer whose turn has come."""
        arrived = self.arrived.pop(site)
        self.waiting_bytes -= arrived.file.size if arrived.file else 0
        return arrived

    def gave_up(self, site: str, failure: Failure) -> None:
        """It will not answer, or its answer does not count."""
        self._waits.discard(site)
        self.failed[site] = failure
        if site in self._work_s:
            self._in_order.remove(self._work_s.pop(site))

    def deadline(self, client: Client) -> float | None:
        """When a client is given up. Its clock runs from when it was handed the task: waiting for a slot is not late.

        So the grace after the quorum is, for each, counted from the time the quorum took on that clock. One that still
        works on what it was given up for has been asked when everybody was.
        """
        if client.state is State.STARTING:
            return _earliest(client.since, client.config.launch_timeout or None)
        if client.state is State.ENDING:
            return client.since + ENDING_LIMIT_S
        if client.state not in (State.WORKING, State.LATE):
            return None
        quorum_s = None
        quorum = max(1, self.min_responses)
        if self.grace_s is not None and quorum <= len(self._in_order):
            quorum_s = self._in_order[quorum - 1] + self.grace_s
        return _earliest(client.since if client.state is State.WORKING else self.began, self.timeout_s, quorum_s)


def _earliest(start: float, *limits: float | None) -> float | None:
    given = [limit for limit in limits if limit is not None]
    return start + min(given) if given else None
