"""What a class must be able to say about a site's data, with NVFLARE's names."""

# ruff: noqa: ARG002  the methods of the contract

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Any, NamedTuple

from fedsag_cli.interop.base.context import FLComponent, FLContext


class DataType(IntEnum):
    """The kind of a feature's values. Statistics are made of INT and FLOAT features."""

    INT = 0
    FLOAT = 1
    STRING = 2
    BYTES = 3
    STRUCT = 4
    DATETIME = 5


class Feature(NamedTuple):
    """A column of a data set."""

    feature_name: str
    data_type: DataType


class BinRange(NamedTuple):
    """The range of a histogram."""

    min_value: float
    max_value: float


class Bin(NamedTuple):
    """The number of values from `low_value` on and below `high_value`; the last bin has its high value too."""

    low_value: float
    high_value: float
    sample_count: float


class HistogramType(IntEnum):
    """STANDARD: bins of the same width."""

    STANDARD = 0
    QUANTILES = 1


class Histogram(NamedTuple):
    """The bins, from the lowest to the highest."""

    hist_type: HistogramType
    bins: list[Bin]
    hist_name: str | None = None


class Statistics(FLComponent):
    """Statistics of a site's data, by data set (such as "train") and feature.

    A class needs `features` and `count`, and those of the others that the job asks for: `sum` for sum, mean, var and
    stddev; `stddev` and `variance_with_mean` for var and stddev; `histogram` for histogram, with `min_value` and
    `max_value` if the job gives no range; `quantiles` for quantile.
    """

    def initialize(self, fl_ctx: FLContext) -> None:
        """Called once, before all others: load the data."""

    def pre_run(
        self,
        statistics: Sequence[str],
        num_of_bins: Mapping[str, int | None] | None,
        bin_ranges: Mapping[str, Sequence[float] | None] | None,
    ) -> dict[str, Any]:
        """Called before the first question, with what the job will ask for. The result is not used."""
        return {}

    def features(self) -> dict[str, list[Feature]]:
        """The features of each data set."""
        raise NotImplementedError

    def count(self, dataset_name: str, feature_name: str) -> int:
        """Number of values."""
        raise NotImplementedError

    def failure_count(self, dataset_name: str, feature_name: str) -> int:
        """Number of values, among those counted, that could not be read."""
        return 0

    def sum(self, dataset_name: str, feature_name: str) -> float:
        raise NotImplementedError

    def mean(self, dataset_name: str, feature_name: str) -> float:
        """For the class itself: the server divides the sum by the count."""
        raise NotImplementedError

    def stddev(self, dataset_name: str, feature_name: str) -> float:
        """Of this site's values: sqrt(sum (x - mean)^2 / (count - 1))."""
        raise NotImplementedError

    def variance_with_mean(
        self, dataset_name: str, feature_name: str, global_mean: float, global_count: float
    ) -> float:
        """This site's part of the variance over all sites: sum (x - global_mean)^2 / (global_count - 1)."""
        raise NotImplementedError

    def histogram(
        self, dataset_name: str, feature_name: str, num_of_bins: int, global_min_value: float, global_max_value: float
    ) -> Histogram:
        """The number of values in each of `num_of_bins` bins of the same width over this range."""
        raise NotImplementedError

    def max_value(self, dataset_name: str, feature_name: str) -> float:
        """For the range of a histogram: a filter can add noise to it before it leaves the site."""
        raise NotImplementedError

    def min_value(self, dataset_name: str, feature_name: str) -> float:
        """For the range of a histogram, as `max_value`."""
        raise NotImplementedError

    def quantiles(self, dataset_name: str, feature_name: str, percentiles: Sequence[float]) -> dict[str, Any]:
        """{"quantile": {q: value}, "digest_coord": {"centroids": [{"m": mean, "c": count}, …]}}, q from 0 to 1.

        The second is the summary from which the server computes the quantiles of all sites.
        """
        raise NotImplementedError

    def finalize(self, fl_ctx: FLContext) -> None:
        """Called at the end."""
