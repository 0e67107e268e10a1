"""What the server knows of each client, and of a task that is out: who answered, who is late."""

from __future__ import annotations

import bisect
import heapq
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from fedsag_cli import events
from fedsag_cli.events import Failure, ProcessExited
from fedsag_cli.model import Task
from fedsag_cli.params.tensor_file import TensorFile
from fedsag_cli.server.clients import ENDING_LIMIT_S, Client, State
from fedsag_cli.server.spool import Kept
from fedsag_cli.wire.messages import Answer


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
    allow_non_finite: bool = False
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


def cause_of_end(client: Client, exited: ProcessExited) -> str:
    """Why a process that said no last word ended."""
    if exited.exit_code:
        return events.how_it_ended(exited.exit_code)
    if client.state is State.STARTING:
        return "its script ended without asking for a task: it never reached flare.init() and flare.receive()"
    if client.state is State.WORKING and not client.has_answered:  # a next task may reach one that ends already
        return "its script ended without answering its task: it never reached flare.send()"
    return "its script ended while tasks remained: loop `while flare.is_running()`, or set launch_once = false"
