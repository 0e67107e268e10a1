"""Statistics of a table, which stays at the site: a CSV file, or the Palmer penguins, one island a site.

site-1 has Biscoe, site-2 Dream, site-3 Torgersen (Gorman, Williams and Fraser, 2014,
https://doi.org/10.1371/journal.pone.0090081).
"""

import argparse
import re
import sys
from pathlib import Path

from fedsag_cli.client.statistics import DFStatisticsCore, run

try:
    import pandas as pd
    from palmerpenguins import load_penguins
except ModuleNotFoundError as error:
    sys.exit(f"error: {error.name} is not installed: pip install 'fedsag[stats]'")

ISLANDS = ("Biscoe", "Dream", "Torgersen")


class DFStatistics(DFStatisticsCore):
    """`data_path`: a folder with site-1.csv, site-2.csv, …; empty: the penguins."""

    def __init__(self, data_path=""):
        super().__init__()
        self.data_path = data_path

    def initialize(self, fl_ctx):
        site = fl_ctx.get_identity_name()
        table = pd.read_csv(Path(self.data_path, f"{site}.csv")) if self.data_path else penguins(site)
        print(f"({site}) {len(table)} rows of {', '.join(table)}")
        self.data = {"train": table}


def penguins(site):
    number = int((re.search(r"\d+$", site) or ["0"])[0])
    if not 1 <= number <= len(ISLANDS):
        sys.exit(f"error: {site}: the penguins are from {len(ISLANDS)} islands, so there are site-1 to site-3")
    table = load_penguins()
    return table[table["island"] == ISLANDS[number - 1]].drop(columns=["island", "year"])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data_path", default="", help="a folder with a CSV file of each site, such as site-1.csv")
    run(DFStatistics(**vars(parser.parse_args())))
