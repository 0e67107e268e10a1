"""Lists runs as the database has them: the newest, or the best by a metric."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from typing import TYPE_CHECKING, NamedTuple

from fedsag_cli.errors import UsageError, nearest
from fedsag_cli.history import rows
from fedsag_cli.history.database import database_file, faults_named, open_to_read
from fedsag_cli.history.finding import Found, of_row, refresh
from fedsag_cli.report import curves
from fedsag_cli.report.curves import Best

if TYPE_CHECKING:
    import sqlite3

_MOST = 1 << 40  # SQLite's numbers end at 1 << 63


class Newest(NamedTuple):
    """Runs, the newest first. `total`: how many there are in all."""

    found: list[Found]
    total: int


class Ranked(NamedTuple):
    """Runs with a metric and the best value of each, the best run first."""

    metric: str
    runs: list[tuple[Found, Best]]


def newest(most: int, job: str | None = None) -> Newest:
    """The last runs, of one job or of all. Raises UsageError."""
    refresh()
    with closing(open_to_read()) as database, faults_named(database_file()):
        where, values = _of_job(database, job)
        found = [
            of_row(database, row)
            for row in rows.rows(database, f"{where} ORDER BY number DESC LIMIT ?", [*values, min(most, _MOST)])
        ]
        return Newest(found, database.execute(f"SELECT count(*) FROM runs {where}", values).fetchone()[0])


def ranked(metric: str | None, *, lowest: bool, job: str | None = None, among: Sequence[Found] | None = None) -> Ranked:
    """The runs that have `metric`; by default the key metric of the last one. `among`: None for all runs, or those of
    `job`. Raises UsageError naming the metrics that there are.
    """
    if among is None:
        among = _measured(job)
    elif job is not None:
        among = [each for each in among if each.report.job == job]
    names = {name for each in among for name in curves.metrics_of(each.report)}
    if metric is None and names:
        last = max((each for each in among if curves.metrics_of(each.report)), key=lambda each: each.report.began)
        metric = curves.metrics_of(last.report)[0]
    found = [(each, value) for each in among if metric and (value := curves.best(each.report, metric, lowest=lowest))]
    if not metric or not found:
        raise UsageError(
            f"no run has the metric {metric!r}" if metric else "no run has a metric", hint=nearest(metric or "", names)
        )
    return Ranked(metric, sorted(found, key=lambda pair: pair[1].value, reverse=not lowest))


def _measured(job: str | None) -> list[Found]:
    """The runs that have a metric."""
    refresh()
    with closing(open_to_read()) as database, faults_named(database_file()):
        where, values = _of_job(database, job)
        measured = "SELECT run FROM metrics UNION SELECT run FROM final_metrics"
        both = f"{where} {'AND' if where else 'WHERE'} number IN ({measured}) ORDER BY number"
        return [of_row(database, row) for row in rows.rows(database, both, values)]


def _of_job(database: sqlite3.Connection, job: str | None) -> tuple[str, list[str]]:
    """The rest of a SELECT, and its values. Raises UsageError if no run is of this job."""
    if job is None:
        return "", []
    jobs = [name for (name,) in database.execute("SELECT DISTINCT job FROM runs WHERE job <> ''")]
    if job not in jobs:
        raise UsageError(f"no run is of the job {job!r}", hint=nearest(job, jobs))
    return "WHERE job = ?", [job]
