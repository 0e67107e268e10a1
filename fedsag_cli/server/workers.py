"""The worker processes of a run, each of which works for one client after another."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

from fedsag_cli.workspace import WORKER


@dataclass(slots=True)
class _Worker:
    name: str
    client: str  # the site for which it works, or worked last; empty if that one has another worker by now
    at: str  # the site in whose task its script is
    is_connected: bool = False
    has_joined: bool = False  # it asked for its first task
    has_asked: bool = False  # for a task, since its last answer
    is_engaged: bool = True  # it works for `client`


class Workers:
    """Which worker works for which client. A worker that ended is replaced by one of the same name.

    A worker gets its next task as soon as it has answered. Its script may be in the task before for a while: what it
    logs, or its end, is that of the client before until the script asks for its next task.
    """

    def __init__(self) -> None:
        self._by_name: dict[str, _Worker] = {}  # those that live
        self._by_client: dict[str, _Worker] = {}  # those that are engaged
        self._free: dict[str, _Worker] = {}  # those that wait, in the order in which they became free
        self._names: list[tuple[int, str]] = []  # a heap of the names of those that ended
        self._num_names = 0

    def engage(self, client: str) -> tuple[str, bool]:
        """The name of a worker that works for this client from now on, and whether it is a new one, to be started."""
        if (before := self._by_client.get(client)) is not None:  # it has closed its channel, and will end
            before.client, before.is_engaged = "", False
        if self._free:
            name, worker = self._free.popitem()  # the one that was free last: its caches are warm
            worker.client, worker.is_engaged = client, True
            worker.at = client if worker.has_asked else worker.at
            self._by_client[client] = worker
            return name, False
        if self._names:
            _, name = heapq.heappop(self._names)
        else:
            self._num_names += 1
            name = f"{WORKER}:{self._num_names}"
        self._by_name[name] = self._by_client[client] = _Worker(name, client, at=client)
        return name, True

    def asked(self, name: str) -> bool:
        """The script of a worker asked for its next task: it has done with the one before. Whether it is its first."""
        worker = self._by_name[name]
        is_first = not worker.has_joined
        worker.at, worker.has_joined, worker.has_asked = worker.client, True, True
        return is_first

    def answered(self, name: str) -> None:
        """A worker sent an answer: its script has not asked for the next task yet."""
        self._by_name[name].has_asked = False

    def give_back(self, client: str) -> str:
        """The worker of this client shall be stopped: nobody waits for it. Its name."""
        worker = self._by_client.pop(client)
        worker.client, worker.is_engaged = "", False
        return worker.name

    @property
    def engaged(self) -> Sequence[str]:
        """The clients for which workers work, or shall work when they have started."""
        return list(self._by_client)

    def release(self, client: str) -> None:
        """The worker of this client is free for another one."""
        if (worker := self._by_client.pop(client, None)) is not None:
            worker.is_engaged = False
            self._free[worker.name] = worker

    def admits(self, name: str) -> bool:
        """Whether a worker of this name is wanted and has no channel yet: one that is stopped comes too late."""
        worker = self._by_name.get(name)
        return worker is not None and bool(worker.client) and not worker.is_connected

    def connected(self, name: str) -> None:
        self._by_name[name].is_connected = True

    def of(self, client: str) -> str:
        """The worker of a client; empty if it has none."""
        return worker.name if (worker := self._by_client.get(client)) is not None else ""

    def client_of(self, name: str) -> str:
        """For whom a worker works, or worked last; empty if nobody waits for what it says."""
        return worker.client if (worker := self._by_name.get(name)) is not None else ""

    def at(self, name: str) -> str:
        """The client in whose task the script of a worker is, or was last; empty if there is no such worker."""
        return worker.at if (worker := self._by_name.get(name)) is not None else ""

    def closed(self, name: str) -> str:
        """A worker has closed its channel: it gets no more clients. The client whose task it has not begun, if any."""
        self._free.pop(name, None)
        worker = self._by_name.get(name)
        if worker is None or not worker.is_engaged or worker.has_asked or not worker.has_joined:
            return ""
        worker.is_engaged = False
        del self._by_client[worker.client]
        return worker.client

    def ended(self, name: str) -> None:
        """The process of a worker has ended."""
        self._free.pop(name, None)
        if (worker := self._by_name.pop(name, None)) is not None:
            heapq.heappush(self._names, (int(name.rpartition(":")[2]), name))
            if worker.is_engaged:
                del self._by_client[worker.client]
