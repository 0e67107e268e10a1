"""What the server knows of each client."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from fedsag_cli import events
from fedsag_cli.events import Failure
from fedsag_cli.plan import ClientConfig, matches
from fedsag_cli.workspace import site_of

ENDING_LIMIT_S = 60.0  # launch_once = false: a script may run this long after its answer
REASON_LIMIT_S = 10.0  # after a channel closed, its process may take this long to end and so tell why


def takes(config: ClientConfig, task_name: str, *, by_name: bool = False) -> bool:
    """Whether a client takes a task. `by_name`: only if it lists it by its name."""
    return task_name in config.tasks if by_name else matches(task_name, config.tasks)


class State(Enum):
    ABSENT = "has no process"
    STARTING = "has a process and a slot, and has not asked for a task yet"
    WAITING = "waits for a task"
    WORKING = "has a task and a slot"
    LATE = "has no slot: it was given up, or its task was left, before it asked for a task or answered"
    ENDING = "has answered; its process ends, and a new one starts for the next task"
    GONE = "ended, and takes no further part in the run"


@dataclass(slots=True)
class Client:
    """What the server knows of one client. `number`: its place in the order of replies. Times: seconds of one clock.

    `site` is the name of its process. Each executor of a site has a process, and so a client; the site works on one
    task at a time. With workers it is the name of the site, and "its process" is the worker that does its task: between
    two tasks it has none.
    """

    number: int
    site: str
    config: ClientConfig
    group: int  # the clients of one group share its slots, and its GPUs
    state: State = State.ABSENT
    since: float = 0.0  # when the state began
    launched: float = 0.0  # when its process was started
    task_id: int = 0  # of the last task it was sent
    queue: dict[int, None] = field(default_factory=dict)  # the tasks for which it is waited, in the order of the asks
    turn_began: float = 0.0  # when the first task of the queue became the first
    is_connected: bool = False
    has_asked: bool = False  # for a task, since it connected
    has_answered: bool = False  # this process of it, at least once
    lost: float | None = None  # when its channel closed, while it is not known why
    failure: Failure | None = None
    gone_since: int | None = None  # the round in which its end was told
    expected_s: float | None = None  # with workers: how long its last task took
    is_timed: bool = True  # False: nothing but its end ends the wait for it
    others: Sequence[Client] = field(default=(), repr=False)  # of the same site

    @property
    def has_worker(self) -> bool:
        """Whether workers do its tasks."""
        return self.config.serves_any_client

    @property
    def holds_slot(self) -> bool:
        return self.state in (State.STARTING, State.WORKING)

    @property
    def is_free(self) -> bool:
        """Whether a task could be sent to it now, or its process started for one."""
        if any(other.holds_slot for other in self.others):
            return False
        return self.state is State.ABSENT or (self.state is State.WAITING and self.is_connected)

    @property
    def may_connect(self) -> bool:
        return self.state in (State.STARTING, State.LATE) and not self.is_connected and self.failure is None

    @property
    def next_task(self) -> int | None:
        """The task it works on, or has to do next. Only one that is given up works on another."""
        return next(iter(self.queue), None)

    @property
    def clock(self) -> float | None:
        """Since when the time for its next task counts. One that waits for a slot, starts or ends is not late."""
        if self.lost is not None:
            return None
        if self.state is State.LATE:
            return max(self.since, self.turn_began)
        return self.since if self.state is State.WORKING else None

    @property
    def deadline(self) -> float | None:
        """When it is given up, whatever the limits of its next task are."""
        if self.lost is not None:
            return self.lost + REASON_LIMIT_S
        if not self.is_timed:
            return None
        if self.state is State.STARTING or (self.state is State.LATE and not self.has_asked):
            return self.launched + self.config.launch_timeout if self.config.launch_timeout else None
        return self.since + ENDING_LIMIT_S if self.state is State.ENDING else None

    def takes(self, task_name: str, *, by_name: bool = False) -> bool:
        return takes(self.config, task_name, by_name=by_name)

    def cause_of_end(self, exit_code: int) -> str:
        """Why its process ended, where the process itself did not say."""
        if exit_code:
            return events.how_it_ended(exit_code)
        if self.has_worker and self.has_asked:
            return "its worker's script ended before the last task: use `while flare.is_running()`"
        if not self.has_asked:
            return "its script ended without asking for a task: flare.receive() was not reached"
        if self.state is State.WORKING and not self.has_answered:  # a next task may reach one that already ends
            return "its script ended without answering its task: flare.send() was not reached"
        return "its script ended before the last task: use `while flare.is_running()`, or set launch_once = false"


class Roster(Mapping[str, Client]):
    """All clients of a run, by the names of their processes, in the order of replies."""

    def __init__(self, clients: Iterable[Client]) -> None:
        self._clients = {client.site: client for client in clients}
        self._of_site: defaultdict[str, list[Client]] = defaultdict(list)
        for client in self._clients.values():
            self._of_site[site_of(client.site)].append(client)
        for client in self._clients.values():
            client.others = [each for each in self._of_site[site_of(client.site)] if each is not client]

    def __getitem__(self, process: str) -> Client:
        return self._clients[process]

    def __iter__(self) -> Iterator[str]:
        return iter(self._clients)

    def __len__(self) -> int:
        return len(self._clients)

    @property
    def sites(self) -> Sequence[str]:
        """Each site once."""
        return list(self._of_site)

    @property
    def known(self) -> Collection[Client]:
        """Those with which something has happened."""
        return self._clients.values()

    def takes(self, task_name: str, *, by_name: bool = False) -> Sequence[str]:
        """The sites that take a task. `by_name`: only those that list it by its name."""
        takers = (client.site for client in self._clients.values() if client.takes(task_name, by_name=by_name))
        return list(dict.fromkeys(map(site_of, takers)))

    def process_for(self, site: str, task_name: str) -> str:
        """The process of a site that does this task: that of its first executor that takes it."""
        known = self._of_site[site]
        return next((client.site for client in known if client.takes(task_name)), known[0].site)

    def tasks_listed(self) -> set[str]:
        return {name for client in self._clients.values() for name in client.config.tasks}


class RosterOfNames(Roster):
    """The clients whose tasks workers do. One that was never asked is only a name."""

    def __init__(self, names: Sequence[str], config: ClientConfig) -> None:
        super().__init__(())
        self._names, self._config = names, config
        self._numbers = {name: number for number, name in enumerate(names)}

    def __getitem__(self, process: str) -> Client:
        client = self._clients.get(process)
        if client is None:
            client = Client(self._numbers[process], process, self._config, group=0)
            self._clients[process] = client
        return client

    def __contains__(self, process: object) -> bool:
        return process in self._numbers

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    @property
    def sites(self) -> Sequence[str]:
        return self._names

    def takes(self, task_name: str, *, by_name: bool = False) -> Sequence[str]:
        return self._names if takes(self._config, task_name, by_name=by_name) else []

    def process_for(self, site: str, task_name: str) -> str:  # noqa: ARG002
        return site

    def tasks_listed(self) -> set[str]:
        return set(self._config.tasks)
