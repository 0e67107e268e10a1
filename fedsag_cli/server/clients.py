"""What the server knows of each client."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from fnmatch import fnmatchcase
from typing import TypeAlias

from fedsag_cli.events import Failure
from fedsag_cli.plan import ClientConfig
from fedsag_cli.wire.channel import UnixChannel
from fedsag_cli.wire.messages import ToClient, ToServer

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
