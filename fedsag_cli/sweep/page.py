"""The page of a sweep: its table, and the curves of its best runs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from fedsag_cli import pages
from fedsag_cli.errors import WorkspaceError, counted
from fedsag_cli.history.reading import FINISHED, read_workspace
from fedsag_cli.pages.swept import Table
from fedsag_cli.report import Report
from fedsag_cli.sweep.results import Result, Row, SweepReport

_MOST_CURVES = 40  # of more, a chart shows only a tangle


def write(report: SweepReport, target: Path) -> None:
    """Raises OSError."""
    shown = list(_best(report))
    names = [named(each, report) for each, _ in shown]
    pages.sweep(_table(report, len(shown)), [found for _, found in shown], names, target)


def named(result: Result, report: SweepReport) -> str:
    """What the reader calls a run: its values, and its seed if there are several."""
    values = [f"{key}={value}" for key, value in zip(report.keys, result.chosen, strict=True)]
    values += [f"seed={result.seed}"] if len(report.seeds) > 1 or not values else []
    return " ".join(values)


def _best(report: SweepReport) -> Iterator[tuple[Result, Report]]:
    """The runs of the best variations that can be read, with their reports."""
    by_name = {each.name: each for each in report.results}
    names = [name for row in report.rows for name in row.names if by_name[name].status == FINISHED]
    for name in names[:_MOST_CURVES]:
        with contextlib.suppress(WorkspaceError):  # it was run before, and its files are gone
            yield by_name[name], read_workspace(Path(by_name[name].workspace)).report


def _table(report: SweepReport, num_curves: int) -> Table:
    measured = [f"best {report.metric}", f"last {report.metric}"] if report.metric else []
    spread = [name for each in measured for name in (each, f"± {each}")] if len(report.seeds) > 1 else measured
    done = sum(each.status == FINISHED for each in report.results)
    said = [f"{done:,} of {counted(len(report.results), 'run')} finished"]
    said += [f"the {'lowest' if report.lowest else 'highest'} {report.metric} is first"] if report.metric else []
    said += ["± is the standard deviation over the seeds"] if len(report.seeds) > 1 else []
    said += [f"the charts show the best {num_curves}"] if num_curves < done else []
    return Table(
        title=f"Sweep of {report.job}",
        lead="; ".join(said) + ".",
        columns=[*report.keys, *spread, "status", "seconds", "runs"],
        rows=[_cells(row, report) for row in report.rows],
    )


def _cells(row: Row, report: SweepReport) -> list[str | float | None]:
    cells: list[str | float | None] = list(row.chosen)
    if report.metric and len(report.seeds) > 1:
        cells += [row.best, row.best_sd, row.last, row.last_sd]
    elif report.metric:
        cells += [row.best, row.last]
    return [*cells, ", ".join(dict.fromkeys(row.statuses)), row.seconds, ", ".join(map(str, row.runs))]
