"""One task on its way to its targets: whom it waits for, until when, and whose reply comes next."""

from __future__ import annotations

import bisect
import heapq
from collections import defaultdict
from collections.abc import Iterator, Sequence

from fedsag_cli.server.clients import Client, State
from fedsag_cli.server.decisions import Begun


class Broadcast:
    """What one step costs does not grow with the number of clients that wait or work."""

    def __init__(self, begun: Begun, targets: Sequence[Client], now: float, *, needed: int) -> None:
        """`targets` in the order of replies. `needed`: answers without which the run stops."""
        self.task_id, self.round_num = begun.task_id, begun.round_num
        self.targets = targets
        self.needed, self.min_responses = needed, begun.min_responses
        self.began = now
        self.given: Client | None = None  # whose reply the workflow works on
        self.first_failure = self.first_hint = ""  # the cause, and what could be done about it
        self.quorum_lost: float | None = None  # when that happened
        self.is_over = False
        self._timeout_s, self._grace_s = begun.timeout_s, begun.grace_s
        self._waits = {client.number: client for client in targets}
        self._failed: set[int] = set()
        self._turn = 0
        self._work_s: dict[int, float] = {}  # of every answer that counts
        self._quickest: list[float] = []  # the same, in order
        self._queues: defaultdict[int, list[int]] = defaultdict(list)
        self._working: dict[int, Client] = {}  # who has the task, in the order in which it was sent
        self._late: dict[int, Client] = {}  # who still works on an earlier task
        self._moments: list[tuple[float, int]] = []  # the clients' own deadlines, also some that have passed
        for client in targets:
            self.watch(client)

    # who answers

    @property
    def possible(self) -> int:
        """Answers that there are or can still be."""
        return len(self.targets) - len(self._failed)

    def waits_for(self, client: Client) -> bool:
        return client.number in self._waits

    @property
    def waiting_for(self) -> list[Client]:
        return list(self._waits.values())

    def has_failed(self, client: Client) -> bool:
        return client.number in self._failed

    def has_answer_of(self, client: Client) -> bool:
        return client.number in self._work_s

    def answered(self, client: Client, work_s: float) -> None:
        del self._waits[client.number]
        self._work_s[client.number] = work_s
        bisect.insort(self._quickest, work_s)
        self.watch(client)

    def failed(self, client: Client) -> None:
        """It will not answer, or its answer does not count."""
        self._waits.pop(client.number, None)
        self._failed.add(client.number)
        if client.number in self._work_s:
            self._quickest.remove(self._work_s.pop(client.number))
        self.watch(client)

    def next_reply(self) -> Client | None:
        """Whose reply is the next in site order, once; None while an earlier one may still come."""
        while self._turn < len(self.targets):
            client = self.targets[self._turn]
            if client.number in self._waits:
                return None
            self._turn += 1
            if client.number not in self._failed:
                return client
        return None

    @property
    def all_given(self) -> bool:
        return self._turn == len(self.targets)

    # who is next to work

    def groups(self) -> list[int]:
        """Those in which somebody is queued."""
        return [group for group, queue in self._queues.items() if queue]

    def next_in(self, group: int) -> Client | None:
        """The next client of a group to work on the task, in site order; it leaves the queue."""
        queue = self._queues[group]
        while queue:
            client = self._waits.get(heapq.heappop(queue))
            if client is not None and client.is_free:
                return client
        return None

    # until when

    def watch(self, client: Client) -> None:
        """The state of a client, or of its channel, is new: it may be queued now, or have another deadline."""
        number = client.number
        self._working.pop(number, None)
        self._late.pop(number, None)
        if number not in self._waits:
            return
        if client.is_free:
            heapq.heappush(self._queues[client.group], number)
        if (moment := client.deadline) is not None:
            heapq.heappush(self._moments, (moment, number))
        if client.lost is None and client.state is State.WORKING:
            self._working[number] = client
        elif client.lost is None and client.state is State.LATE:
            self._late[number] = client

    @property
    def limit_s(self) -> float | None:
        """How long a client may work. With the quorum there, the others have the time it took, and the grace."""
        limits = [] if self._timeout_s is None else [self._timeout_s]
        quorum = max(1, self.min_responses)
        if self._grace_s is not None and quorum <= len(self._quickest):
            limits.append(self._quickest[quorum - 1] + self._grace_s)
        return min(limits, default=None)

    @property
    def due(self) -> float | None:
        """The first deadline of all.

        A client's time begins when the task is sent to it: one that waits for a slot is not late. One that still works
        on an earlier task could have had this one from the beginning.
        """
        while self._moments and not self._holds(*self._moments[0]):
            heapq.heappop(self._moments)
        moments = [self._moments[0][0]] if self._moments else []
        if (limit_s := self.limit_s) is not None:
            if self._working:
                moments.append(next(iter(self._working.values())).since + limit_s)
            if self._late:
                moments.append(self.began + limit_s)
        return min(moments, default=None)

    def overdue(self, now: float) -> list[Client]:
        """Those whose deadline has come, in site order."""
        return [self._waits[number] for number in sorted(set(self._overdue(now)))]

    def _overdue(self, now: float) -> Iterator[int]:
        passed = []
        while self._moments and self._moments[0][0] <= now:
            moment, number = heapq.heappop(self._moments)
            if self._holds(moment, number):
                passed.append((moment, number))
                yield number
        for entry in passed:  # until they are given up
            heapq.heappush(self._moments, entry)
        if (limit_s := self.limit_s) is None:
            return
        for number, client in self._working.items():
            if client.since + limit_s > now:
                break
            yield number
        if self.began + limit_s <= now:
            yield from self._late

    def _holds(self, moment: float, number: int) -> bool:
        return number in self._waits and self._waits[number].deadline == moment
