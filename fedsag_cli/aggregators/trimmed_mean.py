"""The coordinate-wise trimmed mean (Yin et al., 2018, https://arxiv.org/abs/1803.01498, Definition 2).

    g[j]  <-  mean of w_1[j], …, w_K[j] without the floor(beta * K) smallest and as many of the largest

Up to a share beta of the clients may send anything.
"""

from __future__ import annotations

import math
from typing import Annotated, Any

import numpy as np

from fedsag_cli.aggregators.kept import KeptUpdates, by_key
from fedsag_cli.arguments import Least, Most, checked
from fedsag_cli.errors import JobError
from fedsag_cli.facts import Facts
from fedsag_cli.model import FLModel, Reply
from fedsag_cli.params.stacks import combined


class TrimmedMean:
    """For each number, the mean of the clients' params (FULL) or of their changes (DIFF) without the extreme ones.

    A client's number of steps does not count, as it could be a lie. NaN counts as greater than all numbers. The
    aggregate's meta has "trimmed", the number of values that were removed at each end.
    """

    facts = Facts()

    @checked
    def __init__(
        self,
        beta: Annotated[float, Least(0), Most(0.5), "share of the values that is removed at each end, below 0.5"] = 0.2,
    ) -> None:
        if beta >= 0.5:
            raise JobError("TrimmedMean: beta must be below 0.5: nothing would be left")
        self._beta = beta
        self._updates = KeptUpdates()

    def accept(self, reply: Reply) -> None:
        """Raises TensorError if FULL and DIFF are mixed, or a shape or a kind of number differs."""
        self._updates.add(reply)

    def aggregate(self) -> FLModel:
        params_type, updates = self._updates.params_type, self._updates.take()
        params = {name: combined(values, self._mean) for name, values in by_key(updates).items()}
        return FLModel(params_type=params_type, params=params, meta={"trimmed": self._count(len(updates))})

    def _mean(self, ordered: Any) -> Any:
        num_values = ordered.shape[1]
        count = self._count(num_values)
        return ordered[:, count : num_values - count].mean(axis=1, dtype=np.float64)

    def _count(self, num_values: int) -> int:
        return math.floor(self._beta * num_values + 1e-9)  # 0.29 * 100 is less than 29
