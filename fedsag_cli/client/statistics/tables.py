"""Statistics of pandas tables. Missing values (NaN) are not counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fedsag_cli.client.statistics.spec import Bin, BinRange, DataType, Feature, Histogram, HistogramType, Statistics
from fedsag_cli.params import quantiles

__all__ = ["DFStatisticsCore", "dtype_to_data_type", "get_std_histogram_buckets"]


class DFStatisticsCore(Statistics):
    """`data` has a pandas table for each data set: set it in `initialize`.

    `max_bin`: the most groups in the summary for quantiles (None: the square root of the number of values).
    """

    def __init__(self, max_bin: int | None = None) -> None:
        super().__init__()
        self.data: Mapping[str, Any] | None = None
        self.max_bin = max_bin

    def features(self) -> dict[str, list[Feature]]:
        tables = self.data or {}
        return {
            name: [Feature(column, dtype_to_data_type(table[column].dtype)) for column in table]
            for name, table in tables.items()
        }

    def count(self, dataset_name: str, feature_name: str) -> int:
        return int(self._column(dataset_name, feature_name).count())

    def sum(self, dataset_name: str, feature_name: str) -> float:
        return float(self._column(dataset_name, feature_name).sum())

    def mean(self, dataset_name: str, feature_name: str) -> float:
        return self.sum(dataset_name, feature_name) / self.count(dataset_name, feature_name)

    def stddev(self, dataset_name: str, feature_name: str) -> float:
        return float(self._column(dataset_name, feature_name).std())

    def variance_with_mean(
        self, dataset_name: str, feature_name: str, global_mean: float, global_count: float
    ) -> float:
        squares = (self._column(dataset_name, feature_name) - global_mean) ** 2
        return float(squares.sum() / (global_count - 1))

    def histogram(
        self, dataset_name: str, feature_name: str, num_of_bins: int, global_min_value: float, global_max_value: float
    ) -> Histogram:
        values = self._column(dataset_name, feature_name).dropna().to_numpy()
        bins = get_std_histogram_buckets(values, num_of_bins, BinRange(global_min_value, global_max_value))
        return Histogram(HistogramType.STANDARD, bins)

    def max_value(self, dataset_name: str, feature_name: str) -> float:
        return float(self._column(dataset_name, feature_name).max())

    def min_value(self, dataset_name: str, feature_name: str) -> float:
        return float(self._column(dataset_name, feature_name).min())

    def quantiles(self, dataset_name: str, feature_name: str, percentiles: Sequence[float]) -> dict[str, Any]:
        groups = quantiles.summary(self._column(dataset_name, feature_name).dropna().to_numpy(), self.max_bin)
        return {
            "quantile": {q: quantiles.quantile(groups, q) for q in percentiles} if groups else {},
            "digest_coord": {"centroids": [{"m": mean, "c": count} for mean, count in groups]},
        }

    def _column(self, dataset_name: str, feature_name: str) -> Any:
        if self.data is None:
            raise RuntimeError(f"{type(self).__name__} has no data: set self.data in initialize()")
        return self.data[dataset_name][feature_name]


def dtype_to_data_type(dtype: Any) -> DataType:
    """The kind of a column with this dtype of numpy or pandas. Bools are INT."""
    return {"f": DataType.FLOAT, "i": DataType.INT, "u": DataType.INT, "b": DataType.INT}.get(
        kind := getattr(dtype, "kind", ""), DataType.DATETIME if kind in ("M", "m") else DataType.STRING
    )


def get_std_histogram_buckets(
    nums: Any, num_bins: int = 10, br: BinRange | tuple[float, float] | None = None
) -> list[Bin]:
    """The bins of a one-dimensional array: of the same width, over the range `br` (default: from its least to its
    greatest value). Infinite values are not counted.
    """
    numbers = np.asarray(nums, dtype=np.float64)
    counts, edges = np.histogram(numbers[np.isfinite(numbers)], bins=num_bins, range=br)
    return [Bin(*each) for each in zip(edges[:-1].tolist(), edges[1:].tolist(), counts.tolist(), strict=True)]
