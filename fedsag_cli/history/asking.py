"""Answers a SELECT of the user's: the connection can read the database of runs, and nothing else."""

from __future__ import annotations

from contextlib import closing
from itertools import islice
from typing import Any, NamedTuple

from fedsag_cli.errors import UsageError
from fedsag_cli.history.database import database_file, faults_named, open_to_read

_MOST_ROWS = 1_000_000  # a SELECT may have no end, and the memory has one
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
        database.set_progress_handler(_go_on, _OFTEN)
        try:
            cursor = database.execute(select)
            names = _unique([each[0] for each in cursor.description or ()])
            found = [tuple(map(_plain, row)) for row in islice(cursor, _MOST_ROWS + 1)]
        except sqlite3.DatabaseError as error:
            if str(error) == "interrupted":  # by Ctrl-C, of which the handler cannot say more
                raise KeyboardInterrupt from None
            if "not authorized" in str(error) or "authorization denied" in str(error):
                raise UsageError("only SELECT is possible: runs are not changed here", hint=_tables()) from None
            if isinstance(error, (sqlite3.OperationalError, sqlite3.ProgrammingError)):
                raise UsageError(f"the database does not understand this: {error}", hint=_tables()) from None
            with faults_named(database_file()):
                raise
        except (sqlite3.Warning, OverflowError, ValueError) as error:
            raise UsageError(f"the database does not understand this: {error}", hint=_tables()) from None
        if not names:
            raise UsageError("this is no SELECT", hint=_tables())
        if len(found) > _MOST_ROWS:
            raise UsageError(f"the answer has more than {_MOST_ROWS:,} rows", hint="LIMIT gives fewer; count(*) counts")
        return Answer(names, found)


def _go_on() -> int:
    """SQLite calls it: meanwhile Python looks at signals."""
    return 0


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
