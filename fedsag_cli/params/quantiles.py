"""Quantiles of data that is at several sites, from a summary of each site.

The summary is a t-digest (Dunning and Ertl, 2019, https://arxiv.org/abs/1902.04023) with their scale function k_0: the
sorted values in groups of equal size, and of each group its mean m and its count c. The summaries of all sites together
are a summary of all the data. The quantile q of n values is where the line through the groups' middles has q * n:

    t_i  =  c_1 + … + c_{i-1} + c_i / 2          Q(q)  =  m interpolated at t = q * n

With one value in each group, it is the quantile in Hazen's definition (1914), `numpy.quantile(…, method="hazen")`.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, sqrt
from typing import Any

import numpy as np

Centroids = Sequence[tuple[float, float]]
"""(mean, count) of each group."""


def summary(values: Any, size: int | None = None) -> list[tuple[float, float]]:
    """At most `size` groups (default: the square root of the number of values) of a one-dimensional array of numbers.

    NaN is left out.
    """
    numbers = np.asarray(values, dtype=np.float64)
    numbers = np.sort(numbers[~np.isnan(numbers)])
    if not numbers.size:
        return []
    groups = np.array_split(numbers, min(size or ceil(sqrt(numbers.size)), numbers.size))
    return [(float(group.mean()), float(group.size)) for group in groups]


def quantile(centroids: Centroids, q: float) -> float:
    """The value below which is the share `q` (0 to 1) of the values. `centroids`: at least one, in any order."""
    means, counts = np.array(sorted(centroids), dtype=np.float64).T
    middles = np.cumsum(counts) - counts / 2
    return float(np.interp(q * counts.sum(), middles, means))
