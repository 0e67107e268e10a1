"""What the server knows of each client, and of a task that is out: who answered, who is late."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from fnmatch import fnmatchcase
from typing import TypeAlias

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
    """What we know of one client."""

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

    def now(self, state: State) -> None:
        self.state, self.since = state, time.monotonic()

    @property
    def holds_slot(self) -> bool:
        return self.state in (State.STARTING, State.WORKING)

    def takes(self, task_name: str) -> bool:
        return any(fnmatchcase(task_name, pattern) for pattern in self.config.tasks)


@dataclass
class Arrived:
    """An answer that waits for its turn."""

    answer: Answer
    file: TensorFile | None
    work_s: float


@dataclass
class Call:
    """One broadcast on its way."""

    id: int
    task: Task
    file: TensorFile | None
    targets: Sequence[str]
    min_responses: int
    timeout_s: float | None
    grace_s: float | None
    arrived: dict[str, Arrived] = field(default_factory=dict)
    work_s: dict[str, float] = field(default_factory=dict)  # of every answer that counts
    failed: dict[str, Failure] = field(default_factory=dict)
    given: set[str] = field(default_factory=set)
    began: float = field(default_factory=time.monotonic)

    @property
    def round_num(self) -> int:
        return self.task.model.current_round or 0

    def waits_for(self, site: str) -> bool:
        return site in self.targets and not (site in self.arrived or site in self.failed or site in self.given)

    @property
    def possible(self) -> int:
        return len(self.targets) - len(self.failed)

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
        if self.grace_s is not None and quorum <= len(self.work_s):
            quorum_s = sorted(self.work_s.values())[quorum - 1] + self.grace_s
        return _earliest(client.since if client.state is State.WORKING else self.began, self.timeout_s, quorum_s)


def _earliest(start: float, *limits: float | None) -> float | None:
    given = [limit for limit in limits if limit is not None]
    return start + min(given) if given else None
