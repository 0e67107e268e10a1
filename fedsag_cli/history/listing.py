"""Lists runs as the database has them: the newest, or those with a metric."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from typing import NamedTuple

from fedsag_cli.errors import UsageError, nearest
from fedsag_cli.history import rows
from fedsag_cli.history.database import database_file, faults_named, open_to_read
from fedsag_cli.history.finding import Found, of_row, refresh
from fedsag_cli.report import curves
from fedsag_cli.report.curves import Best

_MOST = 1 << 40  # SQLite's numbers end at 1 << 63


class Newest(NamedTuple):
    """Runs, the newest first. `total`: how many there are in all."""

    found: list[Found]
    total: int


def newest(most: int) -> Newest:
    """Raises UsageError."""
    refresh()
    with closing(open_to_read()) as database, faults_named(database_file()):
        found = [
            of_row(database, row) for row in rows.rows(database, "ORDER BY number DESC LIMIT ?", [min(most, _MOST)])
        ]
        return Newest(found, database.execute("SELECT count(*) FROM runs").fetchone()[0])


def by_metric(metric: str, *, lowest: bool) -> Sequence[tuple[Found, Best]]:
    """All runs with this metric and the best value of each, the best run first. Raises UsageError if there is none."""
    refresh()
    with closing(open_to_read()) as database, faults_named(database_file()):
        having = "SELECT run FROM {} WHERE name = ? AND value IS NOT NULL"
        both = f"{having.format('metrics')} UNION {having.format('final_metrics')}"
        with_it = rows.rows(database, f"WHERE number IN ({both}) ORDER BY number", [metric, metric])
        found = [of_row(database, row) for row in with_it]
        names = [name for (name,) in database.execute("SELECT name FROM metrics UNION SELECT name FROM final_metrics")]
    if not found:
        raise UsageError(f"no run has the metric {metric!r}", hint=nearest(metric, names))
    ranked = [(each, value) for each in found if (value := curves.best(each.report, metric, lowest=lowest))]
    return sorted(ranked, key=lambda pair: pair[1].value, reverse=not lowest)
