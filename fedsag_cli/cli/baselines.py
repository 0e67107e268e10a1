"""What is printed of a run that has baselines: both side by side."""

from __future__ import annotations

from pathlib import Path

from fedsag_cli import foreign, history
from fedsag_cli.cli import display, wording
from fedsag_cli.report import Report, baselines

_LONGEST_NAME = 24  # of a metric, in a heading
_OURS = ("training", "steps", "seconds", "run")


def show(report: Report) -> None:
    """The run beside its baselines, and why the comparison may be an unfair one; nothing without baselines."""
    if shown := rows(report):
        display.table(shown, list(shown[0]), wraps=False)
        display.gap()
    for text in baselines.doubts(report):
        display.line(f"note: {text}")


def rows(report: Report) -> list[dict[str, str]]:
    """The rows of a table of the run and its baselines, by column; none without baselines."""
    found = baselines.rows(report, history.number_of(Path(report.workspace)) if report.baselines else 0)
    spreads = [wording.spread(each.values) for each in found]
    name = _heading(baselines.metric_of(report)) + " (sites)" * any(spreads)
    return [
        {
            "training": each.kind,
            name: "failed" if each.cause else f"{wording.cell(each.value)}{f' ({spread})' if spread else ''}",
            "steps": f"{each.num_steps:,.0f}",
            "seconds": "" if each.seconds is None else f"{each.seconds:.1f}",
            "run": str(each.run or ""),
        }
        for each, spread in zip(found, spreads, strict=True)
    ]


def _heading(metric: str) -> str:
    name = foreign.shortened(metric, _LONGEST_NAME) or "result"
    return f"{name} (metric)" if name in _OURS else name
