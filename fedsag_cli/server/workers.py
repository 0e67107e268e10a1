"""The worker processes of a run, each of which works for one client after another."""

from __future__ import annotations

import heapq
from dataclasses import dataclass

from fedsag_cli.workspace import WORKER


@dataclass(slots=True)
class _Worker:
    name: str
    client: str  # the site for which it works, or worked last
    is_connected: bool = False
    is_engaged: bool = True  # it works for `client`


class Workers:
    """Which worker works for which client. A worker that ended is replaced by one of the same name."""

    def __init__(self) -> None:
        self._by_name: dict[str, _Worker] = {}  # those that live
        self._by_client: dict[str, _Worker] = {}  # those that are engaged
        self._free: dict[str, _Worker] = {}  # those that wait, in the order in which they became free
        self._names: list[tuple[int, str]] = []  # a heap of the names of those that ended
        self._num_names = 0

    def engage(self, client: str) -> tuple[str, bool]:
        """The name of a worker that works for this client from now on, and whether it is a new one, to be started."""
        if (before := self._by_client.get(client)) is not None:  # it has closed its channel, and will end
            before.is_engaged = False
        if self._free:
            name, worker = self._free.popitem()  # the one that was free last: its caches are warm
            worker.client, worker.is_engaged = client, True
            self._by_client[client] = worker
            return name, False
        if self._names:
            _, name = heapq.heappop(self._names)
        else:
            self._num_names += 1
            name = f"{WORKER}:{self._num_names}"
        self._by_name[name] = self._by_client[client] = _Worker(name, client)
        return name, True

    def release(self, client: str) -> None:
        """The worker of this client has done its task."""
        if (worker := self._by_client.pop(client, None)) is not None:
            worker.is_engaged = False
            self._free[worker.name] = worker

    def admits(self, name: str) -> bool:
        """Whether a worker of this name was wanted and has no channel yet."""
        return (worker := self._by_name.get(name)) is not None and not worker.is_connected

    def connected(self, name: str) -> None:
        self._by_name[name].is_connected = True

    def of(self, client: str) -> str:
        """The worker of a client; empty if it has none."""
        return worker.name if (worker := self._by_client.get(client)) is not None else ""

    def client_of(self, name: str) -> str:
        """For whom a worker works, or worked last; empty if there is no such worker."""
        return worker.client if (worker := self._by_name.get(name)) is not None else ""

    def closed(self, name: str) -> None:
        """A worker has closed its channel: it gets no more clients."""
        self._free.pop(name, None)

    def ended(self, name: str) -> None:
        """The process of a worker has ended."""
        self._free.pop(name, None)
        if (worker := self._by_name.pop(name, None)) is not None:
            heapq.heappush(self._names, (int(name.rpartition(":")[2]), name))
            if worker.is_engaged:
                del self._by_client[worker.client]
