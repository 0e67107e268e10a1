"""Moments by number, of which the earliest is asked for. What a step costs hardly depends on how many there are."""

from __future__ import annotations

import heapq


class Moments:
    """At most one moment for each number. Putting one costs O(log n)."""

    def __init__(self) -> None:
        self._of: dict[int, float] = {}
        self._heap: list[tuple[float, int]] = []  # some are out of date

    def put(self, number: int, moment: float | None) -> None:
        """Replace the moment of `number`; None: it has none."""
        if moment is None:
            self._of.pop(number, None)
        elif self._of.get(number) != moment:
            self._of[number] = moment
            heapq.heappush(self._heap, (moment, number))

    @property
    def first(self) -> float | None:
        """The earliest moment."""
        while self._heap and not self._is_current(*self._heap[0]):
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def until(self, limit: float, *, plus: float = 0.0) -> set[int]:
        """The numbers whose moments + `plus` are not after `limit`. They keep them."""
        found = {}
        while (moment := self.first) is not None and moment + plus <= limit:
            moment, number = heapq.heappop(self._heap)
            found[number] = moment
        for number, moment in found.items():
            heapq.heappush(self._heap, (moment, number))
        return set(found)

    def _is_current(self, moment: float, number: int) -> bool:
        return self._of.get(number) == moment
