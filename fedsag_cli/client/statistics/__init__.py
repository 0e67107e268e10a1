"""A client of federated statistics: a class that knows the site's data, and a loop that answers the server with it.

    from fedsag_cli.client.statistics import DFStatisticsCore, run

    class TableStatistics(DFStatisticsCore):
        def initialize(self, fl_ctx):
            self.data = {"train": pandas.read_csv(f"{fl_ctx.get_identity_name()}.csv")}

    run(TableStatistics())

The classes have the names and methods of NVFLARE's. A command runs a class without a script:

    python3 -m fedsag_cli.client.statistics.program df_statistics.DFStatistics --args '{"data_path": "data.csv"}'
"""

from __future__ import annotations

from fedsag_cli.client.statistics.loop import run
from fedsag_cli.client.statistics.spec import (
    Bin,
    BinRange,
    DataType,
    Feature,
    Histogram,
    HistogramType,
    Statistics,
)
from fedsag_cli.client.statistics.tables import DFStatisticsCore, dtype_to_data_type, get_std_histogram_buckets

__all__ = [
    "Bin",
    "BinRange",
    "DFStatisticsCore",
    "DataType",
    "Feature",
    "Histogram",
    "HistogramType",
    "Statistics",
    "dtype_to_data_type",
    "get_std_histogram_buckets",
    "run",
]
