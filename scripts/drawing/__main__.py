"""Writes the pictures: `scripts/pictures [--only NAME,…]`."""

from __future__ import annotations

import argparse
from pathlib import Path

from drawing import tutorial

ROOT = Path(__file__).resolve().parents[2]
OF_THE_NOTEBOOK = ROOT / "examples" / "cifar10" / "sag" / "pictures"


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/pictures", description=__doc__)
    parser.add_argument("--only", metavar="NAME,…", help=f"of {', '.join(tutorial.PICTURES)}")
    only = parser.parse_args().only
    OF_THE_NOTEBOOK.mkdir(exist_ok=True)
    for name, draw in tutorial.PICTURES.items():
        if not only or name in only.split(","):
            path = OF_THE_NOTEBOOK / f"{name}.svg"
            path.write_text(str(draw()), encoding="utf-8")
            print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1000:.1f} kB")


if __name__ == "__main__":
    main()
