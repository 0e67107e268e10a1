"""What the end of a run prints: the table of its rounds, its results, its failures, and where everything is."""

from __future__ import annotations

import shlex
from collections import Counter
from pathlib import Path

from fedsag_cli import history
from fedsag_cli.cli import baselines, display, failures, table, wording
from fedsag_cli.cli.display import Columns
from fedsag_cli.errors import counted
from fedsag_cli.params.metrics import looks_lower_is_better
from fedsag_cli.report import Report, TableReport, curves, over_sites
from fedsag_cli.workspace import Workspace

_MOST_SITES = 6  # in one line
_MOST_ROWS = 100  # of a table that a workflow found
_MOST_FAR = 3  # sites that are told as the worst or the slowest


def summary(report: Report, columns: Columns = Columns.BRIEF, *, quiet: bool = False) -> None:
    """What a run prints that is done. `quiet`: only the table, the failures, and where the run is found."""
    rounds(report, columns)
    baselines.show(report)
    if not quiet:
        for each in report.tables:
            _result(each)
        _results(report)
    for text in [*failures.failed_sites(report), *_not_waited_for(report)]:
        display.line(text)
    for text in where(Path(report.workspace)):
        display.line(text)
    if not quiet:
        _more_places(report)


def where(workspace: Path) -> list[str]:
    """Where the run of a workspace is found, for a person first; also of a run that failed."""
    number = history.number_of(workspace)
    return [
        f"page       {workspace}/report.html",
        *([f"run        {number}: fedsag runs show {number}"] if number else []),
        f"report     {workspace}/report.json",
    ]


def rounds(report: Report, columns: Columns = Columns.BRIEF) -> None:
    """The table alone."""
    display.line("")
    if columns is Columns.FULL:
        for each in table.full(report, display.width() if display.on_terminal() else None):
            _print(each)
        return
    made = table.brief(report, display.width())
    _print(made)
    if made.left_out:
        again = f"fedsag watch {shlex.quote(report.workspace)} --table full"
        display.line(f"not in the table: {made.left_out}. `{again}` shows all")


def _print(made: table.Table) -> None:
    if made.rows:
        display.table(made.rows, made.columns, wraps=False)
        display.line("")


def _results(report: Report) -> None:
    if report.rounds:
        measured = "" if report.final_metrics else "; the final model was not measured"
        display.line(f"metrics of a round are of the model that each client received, before training{measured}")
    for text in farthest(report):
        display.line(text)
    if spent := next((each.privacy for each in reversed(report.rounds) if each.privacy), None):
        epsilon = "infinite" if spent.epsilon is None else wording.number(spent.epsilon)
        display.line(f"privacy: epsilon {epsilon} at delta {spent.delta:g}, {spent.mechanism}")


def farthest(report: Report) -> list[str]:
    """Of many sites, by name those with the worst values of the last round, and those whose tasks took longest."""
    if not over_sites.are_many(report):
        return []
    texts = []
    if (name := next(iter(curves.metrics_of(report)), None)) and (
        last := next((each for each in reversed(report.rounds) if each.metrics_by_site), None)
    ):
        is_lowest = not looks_lower_is_better(name)
        values = list(over_sites.of_metric(last.metrics_by_site, name))
        worst = over_sites.farthest(values, _MOST_FAR, lowest=is_lowest)
        if wording.spread([value for _, value in values]):
            named = ", ".join(f"{site} {wording.number(value)}" for site, value in worst)
            texts.append(f"{'lowest' if is_lowest else 'highest'} {name} in round {last.round_num}: {named}")
    took = over_sites.longest_tasks(report)
    if found := over_sites.quantiles(each.seconds for each in took.values()):
        slowest = over_sites.farthest(((site, each.seconds) for site, each in took.items()), _MOST_FAR, lowest=False)
        named = ", ".join(f"{site} {_took(took_s)}" for site, took_s in slowest)
        texts.append(f"longest tasks: {named}; of {counted(len(took), 'client')} the median is {_took(found.median)}")
    return texts


def _took(seconds: float) -> str:
    return f"{seconds:.2g} s" if seconds < 1 else wording.duration(seconds)


def _more_places(report: Report) -> None:
    for path in report.models:
        display.line(f"model      {path}")
    for view in report.curves:
        display.line(f"curves     {view}")
    display.line(f"logs       {Workspace(Path(report.workspace)).log('<site>')}")
    if report.rounds:  # without a round, nothing was trained
        display.line(f"digest     {report.digest}")
    since = f", {report.times.get('run_finished_s', 0.0):.1f} of them since the resume" if report.earlier_s else ""
    display.line(f"seconds    {report.seconds or 0.0:.1f}{since}")


def _result(found: TableReport) -> None:
    """A table that a workflow found, with as many of its columns as fit."""
    cells = [[wording.cell(value) for value in row] for row in found.rows[:_MOST_ROWS]]
    free = display.width()
    count = 0
    for number, name in enumerate(found.columns):
        free -= 2 + max(map(display.len_of, [name, *(row[number] for row in cells)]))
        if number and free < 0:
            break
        count = number + 1
    display.line(f"{found.title}:")
    shown = found.columns[:count]
    display.table([dict(zip(shown, row[:count], strict=True)) for row in cells], shown)
    columns, rows = len(found.columns), len(found.rows)
    left_out = [f"{columns - count:,} of {counted(columns, 'column')}"] if count < columns else []
    left_out += [f"{rows - len(cells):,} of {counted(rows, 'row')}"] if len(cells) < rows else []
    if left_out:
        display.line(f"not in the table: {' and '.join(left_out)}; report.json has all")
    display.gap()


def _not_waited_for(report: Report) -> list[str]:
    """One line for the sites whose answers some rounds did not wait for."""
    counts = Counter(site for each in report.rounds for site in each.not_waited_for)
    named = [f"{site} in {counted(counts[site], 'round')}" for site in report.sites if site in counts]
    more = [f"{len(named) - _MOST_SITES} more"] if len(named) > _MOST_SITES else []
    return [f"not waited for: {', '.join([*named[:_MOST_SITES], *more])}"] if named else []
