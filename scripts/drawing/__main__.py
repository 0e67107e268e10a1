"""Writes the pictures: `scripts/pictures [--only NAME,…]`. `run` needs a minute."""

from __future__ import annotations

import argparse
from pathlib import Path

from drawing import tutorial

ROOT = Path(__file__).resolve().parents[2]
OF_THE_NOTEBOOK = ROOT / "examples" / "cifar10" / "sag" / "pictures"
RUN = ROOT / "docs" / "pictures" / "run.svg"


def main() -> None:
    names = [*tutorial.PICTURES, RUN.stem]
    parser = argparse.ArgumentParser(prog="scripts/pictures", description=__doc__)
    parser.add_argument("--only", metavar="NAME,…", type=lambda text: text.split(","), help=f"of {', '.join(names)}")
    only = parser.parse_args().only or names
    if unknown := sorted(set(only) - set(names)):
        parser.error(f"there is no picture {unknown[0]!r}; there are {', '.join(names)}")
    for name, draw in tutorial.PICTURES.items():
        if name in only:
            _write(OF_THE_NOTEBOOK / f"{name}.svg", str(draw()))
    if RUN.stem in only:
        from drawing import terminal  # it needs tools of `.[dev]`

        _write(RUN, terminal.run())


def _write(path: Path, svg: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(svg, encoding="utf-8")
    print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1000:.1f} kB")


if __name__ == "__main__":
    main()
