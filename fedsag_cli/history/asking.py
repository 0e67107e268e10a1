"""Answers a SELECT of the user's: the connection can read the database of runs, and nothing else."""

from __future__ import annotations

from contextlib import closing
from typing import Any, NamedTuple

from fedsag_cli.errors import UsageError
from fedsag_cli.history.database import database_file, faults_named, open_to_read

_OFTEN = 100_000  # steps of SQLite, after which Ctrl-C is looked at


class Answer(NamedTuple):
    """`columns`: their names, each once."""

    columns: list[str]
    rows: list[tuple[Any, ...]]


def ask(select: str) -> Answer:
    """Raises UsageError."""
    with closing(open_to_read()) as database:
        import sqlite3

        allowed = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}

        def judge(action: int, *_: object) -> int:
            return sqlite3.SQLITE_OK if action in allowed else sqlite3.SQLITE_DENY

        database.set_authorizer(judge)
        database.set_progress_handler(lambda: 0, _OFTEN)
        try:
            cursor = database.execute(select)
            names = _unique([each[0] for each in cursor.description or ()])
            return Answer(names, [tuple(map(_plain, row)) for row in cursor])
        except sqlite3.DatabaseError as error:
            if "not authorized" in str(error):
                raise UsageError("only SELECT is possible: runs are not changed here", hint=_tables()) from None
            if isinstance(error, (sqlite3.OperationalError, sqlite3.ProgrammingError)):
                raise UsageError(f"the database does not understand this: {error}", hint=_tables()) from None
            with faults_named(database_file()):
                raise
        except (sqlite3.Warning, OverflowError, ValueError) as error:
            raise UsageError(f"the database does not understand this: {error}", hint=_tables()) from None


def _tables() -> str:
    """The tables and their columns, as a hint."""
    with closing(open_to_read()) as database, faults_named(database_file()):
        columns = database.execute(
            "SELECT tables.name, group_concat(columns.name, ', ') FROM sqlite_master AS tables, "
            "pragma_table_info(tables.name) AS columns "
            "WHERE tables.type = 'table' AND tables.name NOT LIKE 'sqlite%' GROUP BY tables.name ORDER BY tables.rowid"
        )
        return "the tables are " + "; ".join(f"{table} ({names})" for table, names in columns)


def _unique(names: list[str]) -> list[str]:
    made: list[str] = []
    for name in names:
        unique, again = name, 1
        while unique in made:
            again += 1
            unique = f"{name} ({again})"
        made.append(unique)
    return made


def _plain(value: Any) -> Any:
    return value.hex() if isinstance(value, bytes) else value
