"""Runs a class with statistics of a site's data, as NVFLARE's StatisticsExecutor does.

It works in the site's folder of the workspace, as in NVFLARE.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import os
from pathlib import Path

from fedsag_cli.client.statistics.loop import run
from fedsag_cli.interop import shim


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
    parser = argparse.ArgumentParser(prog="python3 -m fedsag_cli.client.statistics.program", description=__doc__)
    parser.add_argument("generator", help="class path, such as df_statistics.DFStatistics; custom/ is searched")
    parser.add_argument("--args", type=json.loads, default={}, help="arguments of its constructor, as a JSON object")
    options = parser.parse_args()
    shim.install()
    app = Path.cwd()
    os.chdir(app.parent.parent)
    module, _, name = options.generator.rpartition(".")
    run(getattr(importlib.import_module(module), name)(**options.args), app)


if __name__ == "__main__":
    main()
