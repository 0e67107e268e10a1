"""The coordinate-wise median (Yin et al., 2018, https://arxiv.org/abs/1803.01498, Definition 1).

    g[j]  <-  median of w_1[j], …, w_K[j]    for each number j of the params

Fewer than half of the clients may send anything: each number of the result lies between numbers of the others.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fedsag_cli.aggregators.kept import KeptUpdates, by_key
from fedsag_cli.facts import Facts
from fedsag_cli.model import FLModel, Reply
from fedsag_cli.params.stacks import combined


class CoordinateMedian:
    """For each number, the median of the clients' params (FULL) or of their changes by training (DIFF).

    Of an even number of values it is the mean of the two in the middle. A client's number of steps does not count, as
    it could be a lie. NaN counts as greater than all numbers.
    """

    facts = Facts()

    def __init__(self) -> None:
        self._updates = KeptUpdates()

    def accept(self, reply: Reply) -> None:
        """Raises TensorError if FULL and DIFF are mixed, or a shape or a kind of number differs."""
        self._updates.add(reply)

    def aggregate(self) -> FLModel:
        params_type, updates = self._updates.params_type, self._updates.take()
        params = {name: combined(values, _median) for name, values in by_key(updates).items()}
        return FLModel(params_type=params_type, params=params)


def _median(ordered: Any) -> Any:
    num_values = ordered.shape[1]
    low, high = ordered[:, (num_values - 1) // 2], ordered[:, num_values // 2]
    return low.astype(np.float64) / 2 + high.astype(np.float64) / 2
