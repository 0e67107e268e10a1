"""Statistics that say too much about single persons stay at the site.

The filter works on a client's answer to the statistics task. Its cleansers are, as in NVFLARE, MinCountCleanser,
HistogramBinsCleanser and AddNoiseToMinMax.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Annotated, Any, Protocol

import numpy as np

from fedsag_cli.arguments import Least, checked
from fedsag_cli.errors import JobError
from fedsag_cli.facts import Facts, Nvflare
from fedsag_cli.model import STATISTICS, Exchange, FLModel

Values = dict[str, dict[str, dict[str, Any]]]
"""Statistics by statistic, data set and feature."""


class Cleanser(Protocol):
    """Removes or changes values."""

    def apply(self, values: Values, rng: np.random.Generator) -> None:
        """Change `values` in place. `rng`: random numbers for this site and task."""


class StatisticsPrivacyFilter:
    """Applies its cleansers, in their order, to the statistics that a client sends."""

    facts = Facts(
        nvflare=Nvflare(
            path="nvflare.app_common.filters.statistics_privacy_filter.StatisticsPrivacyFilter",
            renamed={"result_cleanser_ids": "cleansers"},
        )
    )

    @checked
    def __init__(
        self, cleansers: Annotated[Sequence[Any], "the cleansers, each with its path and args; in NVFLARE their ids"]
    ) -> None:
        for cleanser in cleansers:
            if not hasattr(cleanser, "apply"):
                raise JobError(
                    f"StatisticsPrivacyFilter: cleansers: {cleanser!r} is no cleanser, such as MinCountCleanser"
                )
        self._cleansers: Sequence[Cleanser] = cleansers

    def process(self, model: FLModel, exchange: Exchange) -> FLModel:
        if not isinstance(model.meta.get(STATISTICS), dict):
            return model
        values: Values = copy.deepcopy(model.meta[STATISTICS])
        for cleanser in self._cleansers:
            cleanser.apply(values, exchange.rng)
        return replace(model, meta={**model.meta, STATISTICS: values})


class MinCountCleanser:
    """Of a feature with fewer than `min_count` readable values, only the count is sent."""

    facts = Facts(nvflare=Nvflare(path="nvflare.app_common.statistics.min_count_cleanser.MinCountCleanser"))

    @checked
    def __init__(self, min_count: Annotated[float, Least(0), "least number of values of a feature"]) -> None:
        self._min_count = min_count

    def apply(self, values: Values, _: np.random.Generator) -> None:
        statistics = [name for name in values if name != "count"]
        _remove(values, statistics, lambda count, _: count < self._min_count)


class HistogramBinsCleanser:
    """A histogram is sent if it has fewer bins than this share of the feature's readable values, rounded."""

    facts = Facts(nvflare=Nvflare(path="nvflare.app_common.statistics.histogram_bins_cleanser.HistogramBinsCleanser"))

    @checked
    def __init__(
        self, max_bins_percent: Annotated[float, Least(0), "number of bins in percent of the number of values"]
    ) -> None:
        if max_bins_percent > 100:
            raise JobError(f"HistogramBinsCleanser: max_bins_percent must be from 0 to 100, not {max_bins_percent:g}")
        self._percent = max_bins_percent

    def apply(self, values: Values, _: np.random.Generator) -> None:
        _remove(values, ["histogram"], lambda count, bins: len(bins) >= round(count * self._percent / 100))


class AddNoiseToMinMax:
    """Moves the least value down and the greatest up, each by a random share of itself: the range stays a bound.

    The share is drawn from `min_noise_level` to `max_noise_level`. For the value 0 it is of 0.00001.
    """

    facts = Facts(nvflare=Nvflare(path="nvflare.app_common.statistics.min_max_cleanser.AddNoiseToMinMax"))

    @checked
    def __init__(
        self,
        min_noise_level: Annotated[float, Least(0), "least share, from 0 to 1"],
        max_noise_level: Annotated[float, Least(0), "greatest share, from 0 to 1"],
    ) -> None:
        if not min_noise_level <= max_noise_level <= 1:
            raise JobError(
                "AddNoiseToMinMax: min_noise_level and max_noise_level must be from 0 to 1, in this order, "
                f"not {min_noise_level:g} and {max_noise_level:g}"
            )
        self._levels = min_noise_level, max_noise_level

    def apply(self, values: Values, rng: np.random.Generator) -> None:
        for statistic, sign in (("min", -1), ("max", 1)):
            for features in values.get(statistic, {}).values():
                for feature, value in features.items():
                    features[feature] = value + sign * rng.uniform(*self._levels) * (abs(value) or 1e-5)


def _remove(values: Values, statistics: Sequence[str], is_wrong: Callable[[int, Any], bool]) -> None:
    """Remove the values of which `is_wrong(number of readable values of the feature, value)`."""

    def readable(dataset: str, feature: str) -> int:
        counted, failed = (values.get(name, {}).get(dataset, {}).get(feature, 0) for name in ("count", "failure_count"))
        return int(counted - failed)

    wrong = [
        (features, feature)
        for statistic in statistics
        for dataset, features in values.get(statistic, {}).items()
        for feature, value in features.items()
        if is_wrong(readable(dataset, feature), value)
    ]
    for features, feature in wrong:
        del features[feature]
