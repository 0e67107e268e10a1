"""`scripts/interop`: a line for each case, and exit code 1 where a model is not what was promised."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from comparison import recipes
from comparison.cases import CASES
from comparison.runs import compare


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/interop", description=__doc__)
    parser.add_argument("--only", help="cases, by commas")
    parser.add_argument(
        "--recipes", nargs="+", metavar="DIR", help="instead: each job.py in these folders; or 'SCRIPT WORDS'"
    )
    parser.add_argument("--json", type=Path, help="write the figures there")
    args = parser.parse_args()
    if args.recipes:
        with tempfile.TemporaryDirectory() as folder:
            compared = recipes.table(args.recipes, Path(folder))
        _write(args.json, compared)
        return 0 if compared and all(each.is_alike for each in compared) else 1
    wanted = args.only.split(",") if args.only else [case.name for case in CASES]
    if unknown := sorted(set(wanted) - {case.name for case in CASES}):
        parser.error(f"no case is called {unknown[0]!r}; there are: {', '.join(case.name for case in CASES)}")

    print(f"{'case':26} {'keys':>4} {'numbers':>7}  {'largest difference':18} {'bits':9} {'fedsag':>7} {'NVFLARE':>7}")
    done = []
    for case in CASES:
        if case.name in wanted:
            with tempfile.TemporaryDirectory() as folder:
                each = compare(case, Path(folder))
            done.append(each)
            bits = "the same" if each.same_bits else "differ"
            print(
                f"{each.case:26} {each.keys:4} {each.numbers:7}  {each.difference:<18.3g} {bits:9} "
                f"{each.fedsag_s:5.1f} s {each.nvflare_s:5.1f} s" + ("" if each.as_promised else "  NOT AS PROMISED"),
                flush=True,
            )
    print("replies arrive in the order of the sites, but for `another order`; there NVFLARE adds in another order")
    _write(args.json, done)
    return 0 if all(each.as_promised for each in done) else 1


def _write(path: Path | None, figures: Sequence[Any]) -> None:
    if path is not None:
        path.write_text(json.dumps([dataclasses.asdict(each) for each in figures], indent=2))


if __name__ == "__main__":
    sys.exit(main())
