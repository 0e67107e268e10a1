"""What was measured, as a table for people and as JSON for programs."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Row:
    """One system at one work. `seconds` by run; `peak` in bytes, of all its processes together."""

    work: str
    system: str
    seconds: Sequence[float]
    unit: str = "s"
    peak: int | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


@dataclass(frozen=True, kw_only=True)
class Target:
    """One sentence that should be true. `least`: the value should be at least the limit, otherwise at most."""

    work: str
    says: str
    value: float
    limit: float
    least: bool = False

    @property
    def met(self) -> bool:
        return self.value >= self.limit if self.least else self.value <= self.limit


@dataclass(kw_only=True)
class Results:
    rows: list[Row] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)
    stages: list[tuple[str, float]] = field(default_factory=list)

    def extend(self, other: Results) -> None:
        self.rows += other.rows
        self.targets += other.targets
        self.stages += other.stages

    def lines(self) -> list[str]:
        said = _table(
            ["work", "system", "median", "least", "most", "", "of fedsag's", "peak MB"],
            [self._cells(row) for row in self.rows],
        )
        if self.targets:
            rows = [
                [
                    target.work,
                    target.says,
                    f"{target.value:.3g}",
                    f"{'≥' if target.least else '≤'} {target.limit:g}",
                    "" if target.met else "missed",
                ]
                for target in self.targets
            ]
            said += ["", *_table(["work", "target", "is", "should be", ""], rows)]
        if self.stages:
            rows = [[name, f"{seconds:.3f}"] for name, seconds in self.stages]
            said += ["", *_table(["where the time of W1 goes", "seconds"], rows)]
        return said

    def document(self) -> dict[str, Any]:
        return {
            "rows": [asdict(row) | {"median": row.median} for row in self.rows],
            "targets": [asdict(target) | {"met": target.met} for target in self.targets],
            "stages": dict(self.stages),
        }

    def _cells(self, row: Row) -> list[str]:
        ours = next((each for each in self.rows if each.work == row.work and each.system == "fedsag"), None)
        ratio = (
            ""
            if ours is None or ours is row or ours.unit != row.unit
            else f"{ratio_of(row.seconds, ours.seconds):.2f} ×"
        )
        scale = {"s": 1.0, "ms": 1e3, "MB": 1e-6}[row.unit]
        numbers = [f"{number * scale:.3f}" for number in (row.median, min(row.seconds), max(row.seconds))]
        peak = "" if row.peak is None else f"{row.peak / 1e6:.0f}"
        return [row.work, row.system, *numbers, row.unit, ratio, peak]


def ratio_of(one: Sequence[float], other: Sequence[float]) -> float:
    """The median of the ratios run by run: what slows the machine down for a while slows both."""
    return statistics.median(mine / its for mine, its in zip(one, other, strict=False))


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in (head, *rows)
    ]
