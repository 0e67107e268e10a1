"""Metrics: their weighted means, and what their names say. No numpy: the command's own process imports this."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

_LOWER_IS_BETTER = re.compile(r"loss|err|(?<![a-z0-9])(bce|ce|cer|mae|mse|nll|perplexity|ppl|rmse|wer)(?![a-z0-9])")
_IS_NEGATED = re.compile(r"(?<![a-z0-9])neg(?![a-z0-9])")


def looks_lower_is_better(metric: str) -> bool:
    """Whether a metric's name is that of a loss or an error, such as val_loss, and not of a negated one: neg_loss."""
    name = metric.lower()
    return bool(_LOWER_IS_BETTER.search(name)) and not _IS_NEGATED.search(name)


def weighted_means(measured: Mapping[str, Mapping[str, float]], weights: Mapping[str, float]) -> dict[str, float]:
    """For each metric, the weighted mean over the sites that measured it."""
    by_name: dict[str, list[tuple[float, float]]] = {}
    for site, metrics in measured.items():
        for name, value in metrics.items():
            by_name.setdefault(name, []).append((value, weights[site]))
    means = {name: weighted_mean(pairs) for name, pairs in by_name.items()}
    return {name: mean for name, mean in means.items() if mean is not None}


def weighted_mean(pairs: list[tuple[float, float]]) -> float | None:
    """The mean of (value, weight), never outside of the values; None if all weights are zero."""
    total = sum(weight for _, weight in pairs)
    if not total:
        return None
    mean = sum(value * weight for value, weight in pairs) / total
    values = [value for value, weight in pairs if weight]
    if not all(map(math.isfinite, values)):
        return mean
    if not math.isfinite(mean):
        mean = sum(value * (weight / total) for value, weight in pairs)
    return min(max(mean, min(values)), max(values))
