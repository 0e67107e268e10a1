"""`scripts/bench`: what a federated run costs beyond its training, beside others that do the same work."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

from benchmark.measure import Failed
from benchmark.results import Results
from benchmark.sections import SECTIONS, Settings


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__.partition(": ")[2])
    parser.add_argument("--only", metavar="A,B", help=f"only these: {', '.join(SECTIONS)}")
    parser.add_argument("--runs", type=int, default=5, help="runs of each system that count (default: 5)")
    parser.add_argument(
        "--peers", action="store_true", help="NVFLARE, Flower and pfl too: makes environments, takes an hour"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    given = parser.parse_args()
    names = given.only.split(",") if given.only else list(SECTIONS)
    if unknown := [name for name in names if name not in SECTIONS]:
        parser.error(f"--only {unknown[0]}: there is {', '.join(SECTIONS)}")
    folder = Path(tempfile.mkdtemp(prefix="fedsag-bench-"))
    found, failed = Results(), False
    left_out: list[str] = []
    try:
        for name in names:
            print(f"{name}: {SECTIONS[name].__doc__}", file=sys.stderr)
            (folder / name).mkdir()
            try:
                settings = Settings(
                    folder=folder / name,
                    runs=given.runs,
                    slow_runs=min(3, given.runs),
                    peers=given.peers,
                    left_out=left_out,
                )
                found.extend(SECTIONS[name](settings))
            except Failed as failure:
                failed = True
                print(f"{name} failed: {failure}", file=sys.stderr)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print("\n".join(found.lines()))
    if given.json:
        given.json.write_text(json.dumps(found.document(), indent=2) + "\n")
    for peer in dict.fromkeys(left_out):
        print(f"not measured: {peer}", file=sys.stderr)
    return int(failed or bool(left_out))


if __name__ == "__main__":
    sys.exit(main())
