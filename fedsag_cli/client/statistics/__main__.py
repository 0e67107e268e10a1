"""Runs a class with statistics of a site's data, such as those that NVFLARE's StatisticsExecutor runs."""

from __future__ import annotations

import argparse
import importlib
import json
import logging

from fedsag_cli.client.statistics.loop import run


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(prog="python3 -m fedsag_cli.client.statistics", description=__doc__)
    parser.add_argument("generator", help="class path, such as df_statistics.DFStatistics; custom/ is searched")
    parser.add_argument("--args", type=json.loads, default={}, help="arguments of its constructor, as a JSON object")
    options = parser.parse_args()
    module, _, name = options.generator.rpartition(".")
    run(getattr(importlib.import_module(module), name)(**options.args))


if __name__ == "__main__":
    main()
