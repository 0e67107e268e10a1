"""How far the rounds of a workflow are, counted in answers, and how long the others will take."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Sequence
from statistics import median

from fedsag_cli import events
from fedsag_cli.events import Event

_REMEMBERED = 5  # rounds
_LATE_S = 2.0  # an estimate is no better


class Pace:
    """Hears the events of one workflow. Its clock is theirs: it says the same of a run that is read from a file.

    The first round is longer than the others: processes start, and libraries and data are loaded. So from the first
    round only the time from each task to its answer counts, and as soon as another round is done, the first one no
    more.
    """

    def __init__(self, *, slots: int) -> None:
        """`slots`: how many clients work at the same time."""
        self.round: events.RoundStarted | None = None
        self._slots = slots
        self._sent: dict[str, float] = {}
        self._began = 0.0  # the round, or its first task
        self._at_once = 1  # the most tasks that were open at the same time: a workflow may ask one client after another
        self._open = 0  # tasks of this round
        self._works: dict[str, float] = {}  # seconds from task to answer, by site, in this round
        self._sum_s = self._longest_s = 0.0  # of these
        self._over: set[str] = set()  # sites that have answered, have failed or are not waited for
        self._is_first = True  # of those that this process runs
        self._first_s: float | None = None  # how long a round like the first one takes, without its beginning
        self._lasted: deque[float] = deque(maxlen=_REMEMBERED)  # the rounds after the first
        self._shown: float | None = None

    def on(self, event: Event) -> None:
        match event:
            case events.RoundStarted():
                self._is_first = self.round is None
                self.round, self._began = event, event.at
                self._sent, self._works, self._over, self._shown = {}, {}, set(), None
                self._open, self._sum_s, self._longest_s = 0, 0.0, 0.0
            case events.TaskSent() if self._is_of_round(event.round_num):
                if not self._sent:
                    self._began = event.at
                if event.site not in self._sent:
                    self._sent[event.site] = event.at
                    self._open += event.site not in self._over
                self._at_once = min(self._slots, max(self._at_once, self._open))
            case events.ReplyArrived() if self._is_of_round(event.round_num):
                self._end(event.site)
                if event.site in self._sent and event.site not in self._works:
                    took = self._works[event.site] = event.at - self._sent[event.site]
                    self._sum_s += took
                    self._longest_s = max(self._longest_s, took)
            case events.ReplyFailed() | events.NotAwaited() if self._is_of_round(event.round_num):
                self._end(event.site)
            case events.RoundFinished() if self._is_of_round(event.round_num):
                self._finish(event)

    @property
    def answers(self) -> tuple[int, int]:
        """How many of the clients that are asked in this round are done with it, and how many there are."""
        asked = len(self.round.sites) if self.round else 0
        return min(len(self._over), asked), asked

    @property
    def share(self) -> float:
        """The part of all rounds of the workflow that is done, those before a resume too."""
        if self.round is None:
            return 0.0
        done = self.round.round_num - self.round.first_round + self._share_of_round
        return min(1.0, done / max(1, self.round.num_rounds))

    def left_s(self, now: float) -> float | None:
        """None if it is not known yet; below zero if the last round takes longer than expected.

        Within a round, it does not grow.
        """
        whole = self._expected_s
        if self.round is None or whole is None:
            return None
        rounds = self.round.first_round + self.round.num_rounds - 1 - self.round.round_num
        open_part = (1.0 - self._share_of_round) * whole
        # answers that clients are working on are not counted, but their time passes
        at_work = min(1.0, self._at_once / max(1, len(self.round.sites))) * whole
        spent = now - self._began
        rest = max(0.0, open_part - at_work, min(open_part, whole - spent))
        left = rest + rounds * whole
        self._shown = left if self._shown is None else min(self._shown, left)
        if not rounds and open_part and spent > whole + _LATE_S:
            return whole - spent
        return self._shown

    def _end(self, site: str) -> None:
        if site not in self._over:
            self._over.add(site)
            self._open -= site in self._sent

    def _is_of_round(self, round_num: int) -> bool:
        return self.round is not None and round_num == self.round.round_num

    @property
    def _share_of_round(self) -> float:
        done, asked = self.answers
        return done / asked if asked else 1.0

    @property
    def _expected_s(self) -> float | None:
        """How long a round takes."""
        if self._lasted:
            return median(self._lasted)
        if self._first_s is not None:
            return self._first_s
        asked = len(self.round.sites) if self.round else 0
        if asked > self._at_once and len(self._works) >= self._at_once:
            return max(self._sum_s / len(self._works) * asked / self._at_once, self._longest_s)
        return None  # as long as nobody has answered, or where all work at once and the fastest have

    def _finish(self, event: events.RoundFinished) -> None:
        lasted = event.at - self._began
        if not self._is_first:
            self._lasted.append(lasted)
        elif self._works:
            last = max(self._sent[site] + work for site, work in self._works.items())
            in_order = [self._works[site] for site in self._sent if site in self._works]
            self._first_s = min(lasted, _makespan(in_order, self._at_once) + event.at - last)
        else:
            self._first_s = lasted
        self._over.update(event.sites)


def _makespan(works: Sequence[float], slots: int) -> float:
    """How long these take together, if each begins as soon as one of the slots is free."""
    ends = [0.0] * slots
    for work in works:
        heapq.heapreplace(ends, ends[0] + work)
    return max(ends)
