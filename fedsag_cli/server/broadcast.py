"""One task that was sent to several clients: which of them still must answer, until when, and whose reply is next."""

from __future__ import annotations

import bisect
import heapq
from collections import defaultdict
from collections.abc import Iterator, Sequence

from fedsag_cli.server.clients import Client, State
from fedsag_cli.server.decisions import Begun


class Broadcast:
    """The cost of one step does not depend on the number of clients that wait or work."""

    def __init__(
        self, begun: Begun, targets: Sequence[Client], now: float, *, needed: int, waits_for_all: bool = False
    ) -> None:
        """`targets`: in the order of replies. `needed`: the run stops if fewer answers are possible.

        `waits_for_all`: clients that need more time than the grace allows are waited for.
        """
        self.task_id, self.round_num = begun.task_id, begun.round_num
        self.targets = targets
        self.needed, self.min_responses = needed, begun.min_responses
        self.began = now
        self.given: Client | None = None  # the client whose reply the workflow is processing
        self.first_failure = self.first_hint = ""  # the cause, and what the user can do
        self.quorum_lost: float | None = None  # since when too few answers are possible
        self.is_over = False
        self._timeout_s, self._grace_s = begun.timeout_s, begun.grace_s
        self._waits_for_all = waits_for_all
        self._waits = {client.number: client for client in targets}
        self._failed: set[int] = set()
        self._skipped: set[int] = set()  # not waited for
        self._turn = 0
        self._work_s: dict[int, float] = {}  # of every valid answer, by client number
        self._quickest: list[float] = []  # the same times, sorted
        self._queues: defaultdict[int, list[int]] = defaultdict(list)
        self._working: dict[int, Client] = {}  # clients that have the task, in the order in which it was sent
        self._late: dict[int, Client] = {}  # clients that still work on an earlier task
        self._moments: list[tuple[float, int]] = []  # the clients' own deadlines; some are out of date
        for client in targets:
            self.watch(client)

    # answers

    @property
    def possible(self) -> int:
        """The number of answers that arrived or can still arrive."""
        return len(self.targets) - len(self._failed) - len(self._skipped)

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
        """The client will not answer, or its answer is not valid."""
        self._waits.pop(client.number, None)
        self._failed.add(client.number)
        if client.number in self._work_s:
            self._quickest.remove(self._work_s.pop(client.number))
        self.watch(client)

    def skipped(self, client: Client) -> None:
        """The client is not waited for: enough others have answered."""
        del self._waits[client.number]
        self._skipped.add(client.number)
        self.watch(client)

    def next_reply(self) -> Client | None:
        """The client whose reply is next in site order, each once; None while an earlier reply may still arrive."""
        while self._turn < len(self.targets):
            client = self.targets[self._turn]
            if client.number in self._waits:
                return None
            self._turn += 1
            if client.number not in self._failed and client.number not in self._skipped:
                return client
        return None

    @property
    def all_given(self) -> bool:
        return self._turn == len(self.targets)

    # the queue

    def groups(self) -> list[int]:
        """The groups with a client in the queue."""
        return [group for group, queue in self._queues.items() if queue]

    def next_in(self, group: int) -> Client | None:
        """Remove and return the next client of a group that can work on the task, in site order."""
        queue = self._queues[group]
        while queue:
            client = self._waits.get(heapq.heappop(queue))
            if client is not None and client.is_free:
                return client
        return None

    # deadlines

    def watch(self, client: Client) -> None:
        """Call it when the state of a client or of its channel changed: its queue and its deadline may change."""
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
        """How long a client may work until it has failed, or is not waited for."""
        limits = [self._timeout_s, None if self._waits_for_all else self.grace_limit_s]
        return min((limit for limit in limits if limit is not None), default=None)

    @property
    def grace_limit_s(self) -> float | None:
        """After `min_responses` answers: the time of the slowest of them + `grace_s`."""
        quorum = max(1, self.min_responses)
        if self._grace_s is None or quorum > len(self._quickest):
            return None
        return self._quickest[quorum - 1] + self._grace_s

    def has_failed_by(self, client: Client, now: float) -> bool:
        """Whether a client that is overdue has failed. If not, enough others have answered: it is not waited for."""
        if client.deadline is not None and client.deadline <= now:
            return True
        began = client.since if client.state is State.WORKING else self.began
        return self._timeout_s is not None and began + self._timeout_s <= now

    @property
    def due(self) -> float | None:
        """The earliest deadline.

        A client's time begins when the task is sent to it: a client that waits for a slot is not late. For a client
        that still works on an earlier task, it begins with the broadcast.
        """
        while self._moments and not self._is_current(*self._moments[0]):
            heapq.heappop(self._moments)
        moments = [self._moments[0][0]] if self._moments else []
        if (moment := self._reached(self.limit_s)) is not None:
            moments.append(moment)
        return min(moments, default=None)

    @property
    def grace_ends(self) -> float | None:
        """When the first of the clients at work needs more time than the grace allows."""
        return self._reached(self.grace_limit_s)

    def _reached(self, limit_s: float | None) -> float | None:
        """When the first client will have worked for `limit_s` seconds."""
        if limit_s is None:
            return None
        moments = [next(iter(self._working.values())).since] if self._working else []
        moments += [self.began] if self._late else []
        return min(moments) + limit_s if moments else None

    def overdue(self, now: float) -> list[Client]:
        """The clients whose deadline has passed, in site order."""
        return [self._waits[number] for number in sorted(set(self._overdue(now)))]

    def beyond_grace(self, now: float) -> list[Client]:
        """The clients that need more time than the grace allows, in site order."""
        return [self._waits[number] for number in sorted(self._beyond(self.grace_limit_s, now))]

    def _overdue(self, now: float) -> Iterator[int]:
        passed = []
        while self._moments and self._moments[0][0] <= now:
            moment, number = heapq.heappop(self._moments)
            if self._is_current(moment, number):
                passed.append((moment, number))
                yield number
        for entry in passed:  # they stay until the clients are given up
            heapq.heappush(self._moments, entry)
        yield from self._beyond(self.limit_s, now)

    def _beyond(self, limit_s: float | None, now: float) -> Iterator[int]:
        """The clients that have worked for `limit_s` seconds."""
        if limit_s is None:
            return
        for number, client in self._working.items():
            if client.since + limit_s > now:
                break
            yield number
        if self.began + limit_s <= now:
            yield from self._late

    def _is_current(self, moment: float, number: int) -> bool:
        return number in self._waits and self._waits[number].deadline == moment
