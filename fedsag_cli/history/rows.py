"""A run's rows in the database: written from its report, and read as a report again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import msgspec

from fedsag_cli.events import Failure, Metrics
from fedsag_cli.history.database import TABLES
from fedsag_cli.report import BestReport, Report, RoundReport, SiteFailure
from fedsag_cli.workspace import by_number

if TYPE_CHECKING:
    import sqlite3

THERE, REPLACED, REMOVED = "there", "replaced", "removed"
"""The files of a run: in its workspace; gone, as another run replaced them; removed by fedsag."""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """A run in the table `runs`. `files`: THERE, REPLACED or REMOVED. `process`: as `alive.this_process` names it.

    `plan`: the SHA-256 of all that decides the result. `parent`: the `id` of the run that it is a fork of, after
    the round `parent_round`. Empty: unknown, or none.
    """

    number: int
    id: str | None
    status: str
    exit_code: int | None
    cause: str
    hint: str
    job: str
    job_folder: str
    template: str
    began: float
    seconds: float | None
    seed: int | None
    slots: int | None
    threads: int | None
    launcher: str
    clients: int
    first_round: int
    num_rounds: int
    rounds_done: int
    best_metric: str | None
    best_score: float | None
    best_round: int | None
    digest: str
    workspace: str
    files: str
    process: str
    plan: str
    parent: str
    parent_round: int | None


_SAME = (
    "cause", "hint", "job", "template", "began", "seed", "slots", "threads", "launcher", "first_round", "num_rounds",
    "digest", "plan", "parent", "parent_round",
)  # fmt: skip
"""What a row and a report have under the same names."""

_COLUMNS = ", ".join(Row.__struct_fields__)


def rows(database: sqlite3.Connection, where: str = "", values: Sequence[Any] = ()) -> list[Row]:
    """The rows for the rest of a SELECT. Raises sqlite3.Error."""
    found = database.execute(f"SELECT {_COLUMNS} FROM runs {where}", values)
    return [Row(**dict(zip(Row.__struct_fields__, each, strict=True))) for each in found]


def row(database: sqlite3.Connection, where: str, *values: Any) -> Row | None:
    """The newest row for which `where` holds. Raises sqlite3.Error."""
    return next(iter(rows(database, f"WHERE {where} ORDER BY number DESC LIMIT 1", values)), None)


def add(database: sqlite3.Connection, **fields: Any) -> int:
    """A new row in `runs`; its number. Raises sqlite3.Error."""
    signs = ", ".join("?" * len(fields))
    added = database.execute(f"INSERT INTO runs ({', '.join(fields)}) VALUES ({signs})", list(fields.values()))
    return int(added.lastrowid or 0)


def change(database: sqlite3.Connection, number: int, **fields: Any) -> None:
    """Raises sqlite3.Error."""
    signs = ", ".join(f"{name} = ?" for name in fields)
    database.execute(f"UPDATE runs SET {signs} WHERE number = ?", [*fields.values(), number])


def remove(database: sqlite3.Connection, number: int) -> None:
    """Raises sqlite3.Error."""
    for table in TABLES:
        database.execute(f"DELETE FROM {table} WHERE run = ?", [number])
    database.execute("DELETE FROM runs WHERE number = ?", [number])


def write(database: sqlite3.Connection, number: int, report: Report, status: str) -> None:
    """All that the report tells, in place of what the rows said. Raises sqlite3.Error."""
    best = report.best
    change(
        database,
        number,
        status=status,
        exit_code=report.exit_code if report.cause else None,
        seconds=report.seconds,
        clients=len(report.sites),
        rounds_done=report.rounds_done,
        best_metric=best.metric if best else None,
        best_score=best.score if best else None,
        best_round=best.round_num if best else None,
        **{name: getattr(report, name) for name in _SAME},
    )
    for table in TABLES:
        database.execute(f"DELETE FROM {table} WHERE run = ?", [number])
    write_settings(database, number, report.settings, report.changed)
    write_sites(database, number, report.sites, {site: each.failure.cause for site, each in report.failures.items()})
    for step, each in enumerate(report.rounds):
        write_round(database, number, step, each.workflow, each.round_num, each.metrics)
    database.executemany(
        "INSERT INTO final_metrics VALUES (?, ?, ?)",
        ((number, name, value) for name, value in report.final_metrics.items()),
    )
    database.executemany(
        "INSERT INTO versions VALUES (?, ?, ?)", ((number, name, each) for name, each in report.versions.items())
    )


def write_sites(
    database: sqlite3.Connection, number: int, sites: Iterable[str], causes: Mapping[str, str] = MappingProxyType({})
) -> None:
    """`causes`: why sites failed. Raises sqlite3.Error."""
    database.executemany(
        "INSERT OR REPLACE INTO sites VALUES (?, ?, ?)", ((number, site, causes.get(site)) for site in sites)
    )


def write_settings(
    database: sqlite3.Connection, number: int, settings: Mapping[str, Any], changed: Mapping[str, Any]
) -> None:
    """`changed`: as in the report. Raises sqlite3.Error."""
    database.executemany(
        "INSERT OR REPLACE INTO settings VALUES (?, ?, ?, ?, ?)",
        (
            (number, name, _text(settings, name), name in changed, _text(changed, name))
            for name in dict.fromkeys([*settings, *changed])
        ),
    )


def write_round(
    database: sqlite3.Connection, number: int, step: int, workflow: str, round_num: int, metrics: Metrics
) -> None:
    """The means of the metrics of a round, the `step`-th of the run from 0 on. Raises sqlite3.Error."""
    database.executemany(
        "INSERT OR REPLACE INTO metrics VALUES (?, ?, ?, ?, ?, ?)",
        ((number, step, workflow, round_num, name, value) for name, value in metrics.items()),
    )


def read(database: sqlite3.Connection, row: Row) -> Report:
    """What the rows of a run tell: less than its report.json, without what each site measured. Raises sqlite3.Error."""
    number = row.number
    report = Report(
        workspace=row.workspace if row.files == THERE else "",
        ok=row.exit_code == 0,
        exit_code=1 if row.exit_code is None else row.exit_code,
        times={} if row.seconds is None else {"run_finished_s": row.seconds},
        **{name: value for name in _SAME if (value := getattr(row, name)) is not None},
    )
    if row.best_metric is not None and row.best_score is not None:
        report.best = BestReport(metric=row.best_metric, score=row.best_score, round_num=row.best_round or 0)
    sites = _of(database, "sites", "name, failure", number)
    report.sites = sorted((name for name, _ in sites), key=by_number)
    report.failures = {
        name: SiteFailure(round_num=None, task="", failure=Failure(cause=cause)) for name, cause in sites if cause
    }
    for name, value, is_changed, template_value in _of(
        database, "settings", "name, value, is_changed, template_value", number
    ):
        if value is not None:
            report.settings[name] = _value(value)
        if is_changed:
            report.changed[name] = _value(template_value)
    report.rounds = _rounds(_of(database, "metrics", "step, workflow, round, name, value", number))
    report.final_metrics = dict(_of(database, "final_metrics", "name, value", number))
    report.versions = dict(_of(database, "versions", "name, version", number))
    return report


def _rounds(found: Iterable[tuple[Any, ...]]) -> list[RoundReport]:
    rounds: dict[int, RoundReport] = {}
    for step, workflow, round_num, name, value in found:
        rounds.setdefault(step, RoundReport(workflow=workflow, round_num=round_num, is_whole=True)).metrics[name] = (
            value
        )
    return list(rounds.values())


def _of(database: sqlite3.Connection, table: str, columns: str, number: int) -> list[tuple[Any, ...]]:
    return database.execute(f"SELECT {columns} FROM {table} WHERE run = ?", [number]).fetchall()


def _text(values: Mapping[str, Any], name: str) -> str | None:
    """JSON; None if there is no such value."""
    return msgspec.json.encode(values[name]).decode() if name in values else None


def _value(text: str | None) -> Any:
    try:
        return None if text is None else msgspec.json.decode(text)
    except msgspec.DecodeError:  # written by another program
        return text
