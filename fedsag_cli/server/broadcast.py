"""One task that several clients are asked to do: who still must answer, until when, and whose reply is next."""

from __future__ import annotations

import bisect
from collections.abc import Sequence, Set

from fedsag_cli.server.clients import Client
from fedsag_cli.server.decisions import Begun, Stop
from fedsag_cli.server.moments import Moments


class Broadcast:
    """The cost of one step does not depend on the number of clients that wait or work."""

    def __init__(self, begun: Begun, targets: Sequence[Client], *, needed: int, waits_for_all: bool = False) -> None:
        """`targets`: in the order of replies. `needed`: the run stops if fewer answers are possible.

        `waits_for_all`: clients that need more time than the grace allows are waited for.
        """
        self.task_id, self.round_num = begun.task_id, begun.round_num
        self.targets = targets
        self.needed, self.min_responses = needed, begun.min_responses
        self.is_wanted = False  # the workflow waits for the next reply
        self.given: Client | None = None  # the client whose reply the workflow is processing
        self.first_failure = self.first_hint = ""  # the cause, and what the user can do
        self.quorum_lost: float | None = None  # since when too few answers are possible
        self.is_over = False
        self.stopped_by: Stop | None = None
        self._timeout_s, self._grace_s = begun.timeout_s, begun.grace_s
        self._waits_for_all = waits_for_all
        self._waits = {client.number: client for client in targets}
        self._failed: set[int] = set()
        self._skipped: set[int] = set()  # not waited for
        self._turn = 0
        self._work_s: dict[int, float] = {}  # of every valid answer, by client number
        self._quickest: list[float] = []  # the same times, sorted
        self._deadlines = Moments()  # the clients' own
        self._clocks = Moments()  # since when the time of those at work counts

    # answers

    @property
    def possible(self) -> int:
        """The number of answers that arrived or can still arrive."""
        return len(self.targets) - len(self._failed) - len(self._skipped)

    @property
    def waiting_for(self) -> list[Client]:
        """In the order of replies."""
        return list(self._waits.values())

    def has_failed(self, client: Client) -> bool:
        return client.number in self._failed

    def has_answer_of(self, client: Client) -> bool:
        return client.number in self._work_s

    def answered(self, client: Client, work_s: float) -> None:
        del self._waits[client.number]
        self._work_s[client.number] = work_s
        bisect.insort(self._quickest, work_s)
        self._unwatch(client)

    def failed(self, client: Client) -> None:
        """The client will not answer, or its answer is not valid."""
        self._waits.pop(client.number, None)
        self._failed.add(client.number)
        if client.number in self._work_s:
            self._quickest.remove(self._work_s.pop(client.number))
        self._unwatch(client)

    def skipped(self, client: Client) -> None:
        """The client is not waited for: enough others have answered."""
        del self._waits[client.number]
        self._skipped.add(client.number)
        self._unwatch(client)

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

    # deadlines

    def watch(self, client: Client) -> None:
        """Note the deadlines of a client whose next task is this one. Call it when it, or its channel, changed."""
        self._deadlines.put(client.number, client.deadline)
        self._clocks.put(client.number, client.clock)

    def _unwatch(self, client: Client) -> None:
        self._deadlines.put(client.number, None)
        self._clocks.put(client.number, None)

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
        return self._timeout_s is not None and client.clock is not None and client.clock + self._timeout_s <= now

    @property
    def due(self) -> float | None:
        """The earliest deadline.

        A client's time begins when the task is sent to it: one that waits for a slot, or does an earlier task, is not
        late. For a client that was given up and still works, it begins when this task is its next one.
        """
        moments = (self._deadlines.first, self._reached(self.limit_s))
        return min((moment for moment in moments if moment is not None), default=None)

    @property
    def grace_ends(self) -> float | None:
        """When the first of the clients at work needs more time than the grace allows."""
        return self._reached(self.grace_limit_s)

    def _reached(self, limit_s: float | None) -> float | None:
        """When the first client will have worked for `limit_s` seconds."""
        first = self._clocks.first
        return None if limit_s is None or first is None else first + limit_s

    def overdue(self, now: float) -> list[Client]:
        """The clients whose deadline has passed, in site order."""
        return self._in_order(self._deadlines.until(now) | self._beyond(self.limit_s, now))

    def beyond_grace(self, now: float) -> list[Client]:
        """The clients that need more time than the grace allows, in site order."""
        return self._in_order(self._beyond(self.grace_limit_s, now))

    def _beyond(self, limit_s: float | None, now: float) -> set[int]:
        """The clients that have worked for `limit_s` seconds."""
        return set() if limit_s is None else self._clocks.until(now, plus=limit_s)

    def _in_order(self, numbers: Set[int]) -> list[Client]:
        return [self._waits[number] for number in sorted(numbers)]
