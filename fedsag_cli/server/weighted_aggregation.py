"""NVFLARE's helper for weighted means, as users' own controllers use it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

__all__ = ["WeightedAggregationHelper"]


class WeightedAggregationHelper:
    """The mean of values by name: sum(weight * value) / sum(weight), added in the order of the calls.

    A name that some contributors lack is the mean of the others.
    """

    def __init__(self, exclude_vars: str | None = None, weigh_by_local_iter: bool = True) -> None:
        """`exclude_vars`: a pattern; names in which it is found are left out. Without `weigh_by_local_iter`, values
        are added as they are, and their sum is divided by the weights."""
        self._excluded = re.compile(exclude_vars) if exclude_vars else None
        self._weighs = weigh_by_local_iter
        self.reset_stats()

    def reset_stats(self) -> None:
        """Begin anew."""
        self._sums: dict[str, Any] = {}
        self._weights: dict[str, float] = {}
        self._history: list[dict[str, Any]] = []

    def add(self, data: Mapping[str, Any], weight: float, contributor_name: str, contribution_round: Any) -> None:
        """Add the values of one contributor."""
        for name, value in data.items():
            if self._excluded is not None and self._excluded.search(name):
                continue
            added = value * weight if self._weighs else value
            self._sums[name] = self._sums[name] + added if name in self._sums else added
            self._weights[name] = self._weights.get(name, 0.0) + weight
        self._history.append({"contributor_name": contributor_name, "round": contribution_round, "weight": weight})

    def get_result(self) -> dict[str, Any]:
        """The means; the next ones begin anew."""
        means = {name: value * (1.0 / self._weights[name]) for name, value in self._sums.items()}
        self.reset_stats()
        return means

    def get_history(self) -> list[dict[str, Any]]:
        """What was added: contributor, round and weight."""
        return self._history

    def get_len(self) -> int:
        return len(self._history)
