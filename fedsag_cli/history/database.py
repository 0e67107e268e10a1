"""The file runs.db: where it is, what its tables are, and how it is opened."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from fedsag_cli import machine
from fedsag_cli.errors import UsageError

if TYPE_CHECKING:
    import sqlite3

VERSION = 2
_OURS = 0x0FED5A60  # the application_id: the file is no other program's
_TABLES = (
    """
    CREATE TABLE runs (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT UNIQUE,
        status TEXT NOT NULL,
        exit_code INTEGER,
        cause TEXT NOT NULL DEFAULT '',
        hint TEXT NOT NULL DEFAULT '',
        job TEXT NOT NULL DEFAULT '',
        job_folder TEXT NOT NULL DEFAULT '',
        template TEXT NOT NULL DEFAULT '',
        began REAL NOT NULL DEFAULT 0,
        seconds REAL,
        seed INTEGER,
        slots INTEGER,
        threads INTEGER,
        launcher TEXT NOT NULL DEFAULT '',
        clients INTEGER NOT NULL DEFAULT 0,
        first_round INTEGER NOT NULL DEFAULT 0,
        num_rounds INTEGER NOT NULL DEFAULT 0,
        rounds_done INTEGER NOT NULL DEFAULT 0,
        best_metric TEXT,
        best_score REAL,
        best_round INTEGER,
        digest TEXT NOT NULL DEFAULT '',
        workspace TEXT NOT NULL DEFAULT '',
        files TEXT NOT NULL DEFAULT 'there',
        process TEXT NOT NULL DEFAULT '',
        plan TEXT NOT NULL DEFAULT '',
        parent TEXT NOT NULL DEFAULT '',
        parent_round INTEGER
    )
    """,
    """
    CREATE TABLE settings (
        run INTEGER NOT NULL, name TEXT NOT NULL, value TEXT,
        is_changed INTEGER NOT NULL DEFAULT 0, template_value TEXT,
        PRIMARY KEY (run, name)
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE sites (
        run INTEGER NOT NULL, name TEXT NOT NULL, failure TEXT, PRIMARY KEY (run, name)
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE metrics (
        run INTEGER NOT NULL, step INTEGER NOT NULL, workflow TEXT NOT NULL, round INTEGER NOT NULL,
        name TEXT NOT NULL, value REAL,
        PRIMARY KEY (run, step, name)
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE final_metrics (
        run INTEGER NOT NULL, name TEXT NOT NULL, value REAL, PRIMARY KEY (run, name)
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE versions (
        run INTEGER NOT NULL, name TEXT NOT NULL, version TEXT NOT NULL, PRIMARY KEY (run, name)
    ) WITHOUT ROWID
    """,
)
_ADDED = {"plan": "TEXT NOT NULL DEFAULT ''", "parent": "TEXT NOT NULL DEFAULT ''", "parent_round": "INTEGER"}
"""The columns of `runs` that versions added; older rows have an empty text, or NULL."""

TABLES = ("settings", "sites", "metrics", "final_metrics", "versions")
"""Those with a column `run`, beside `runs`."""


def database_file() -> Path:
    """`$FEDSAG_HOME/runs.db`, or `~/.fedsag/runs.db`."""
    return Path(os.path.abspath(machine.fedsag_home()), "runs.db")  # noqa: PTH100  resolve() would follow links


class Locked(UsageError):
    """Another process is writing into the database."""


class NoRuns(UsageError):
    """There is no database yet."""

    def __init__(self, file: Path) -> None:
        super().__init__(
            f"there are no runs yet in {file}",
            hint="`fedsag simulator` adds them; `fedsag runs import WS` imports runs made before",
        )


@contextlib.contextmanager
def faults_named(file: Path) -> Iterator[None]:
    """Raise what the database or the system refuses in this block as a UsageError that names the file."""
    import sqlite3

    try:
        yield
    except sqlite3.Error as error:
        kind = Locked if "locked" in str(error) or "busy" in str(error) else UsageError
        raise kind(f"the database of runs {file} cannot be used: {error}", hint=_hint(file, error)) from None
    except OSError as error:
        where = "" if error.filename in (None, str(file)) else f"{error.filename}: "
        raise UsageError(
            f"the database of runs {file} cannot be used: {where}{error.strerror}",
            hint="FEDSAG_HOME names another folder",
        ) from None
    except (ValueError, OverflowError) as error:  # a text that is not UTF-8, a number that is too large
        raise UsageError(f"the database of runs {file} cannot have this: {error}") from None


def _hint(file: Path, error: Exception) -> str:
    if "not a database" in str(error) or "malformed" in str(error):
        return f"move {file} to another place: the next run makes a new one, and `fedsag runs import WS` fills it again"
    return "FEDSAG_HOME names another folder" if "locked" not in str(error) else "try again"


def open_to_write(wait_s: float) -> sqlite3.Connection:
    """The database, which is made if there is none. Waits at most `wait_s` for other writers. Raises UsageError."""
    import sqlite3

    file = database_file()
    with faults_named(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        opened = sqlite3.connect(f"{file.as_uri()}?mode=rwc", uri=True, timeout=wait_s, isolation_level=None)
        try:
            has_tables = _has_tables(opened, file)  # looked at first: another program's file stays as it is
            if opened.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
                with contextlib.suppress(sqlite3.OperationalError):  # another process is just doing it
                    opened.execute("PRAGMA journal_mode = WAL")
            opened.execute("PRAGMA synchronous = NORMAL")
            if not has_tables or _missing(opened):
                with writing(opened):
                    if not _has_tables(opened, file):
                        _make_tables(opened)
                    _add_missing(opened)
        except BaseException:
            opened.close()
            raise
        return opened


def open_to_read() -> sqlite3.Connection:
    """The database, which cannot be changed through this. Raises UsageError if there is none."""
    import sqlite3

    file = database_file()
    with faults_named(file):
        try:
            file.stat()
        except FileNotFoundError:
            raise NoRuns(file) from None
        try:
            return _read_only(file, "mode=ro")
        except sqlite3.OperationalError:  # in a folder that cannot be written
            return _read_only(file, "mode=ro&immutable=1")


def _read_only(file: Path, how: str) -> sqlite3.Connection:
    import sqlite3

    opened = sqlite3.connect(f"{file.as_uri()}?{how}", uri=True, timeout=2.0, isolation_level=None)
    try:
        if not _has_tables(opened, file):
            raise NoRuns(file)
        if missing := _missing(opened):  # made by an older version, and read as it is
            added = ", ".join(f"{_of_older_rows(name)} AS {name}" for name in missing)
            opened.execute(f"CREATE TEMP VIEW runs AS SELECT *, {added} FROM main.runs")
    except BaseException:
        opened.close()
        raise
    return opened


@contextlib.contextmanager
def writing(database: sqlite3.Connection) -> Iterator[None]:
    """One transaction: what is done in this block is written as a whole, or not at all."""
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
        database.execute("COMMIT")
    except BaseException:
        if database.in_transaction:
            database.execute("ROLLBACK")
        raise


def _has_tables(database: sqlite3.Connection, file: Path) -> bool:
    """Raises UsageError if they are another program's, or a newer version's."""
    version = database.execute("PRAGMA user_version").fetchone()[0]
    owner = database.execute("PRAGMA application_id").fetchone()[0]
    if not version and not owner and not database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        return False
    if owner != _OURS:
        raise UsageError(f"{file} is a database of another program", hint="FEDSAG_HOME names another folder")
    if version > VERSION:
        raise UsageError(
            f"{file} was made by a newer version of fedsag (its tables are version {version}, known is {VERSION})",
            hint="use that version; or name another folder with FEDSAG_HOME",
        )
    return True


def _missing(database: sqlite3.Connection) -> list[str]:
    """The columns that the tables, of an older version, do not have yet."""
    there = {name for (name,) in database.execute("SELECT name FROM pragma_table_info('runs')")}
    return [name for name in _ADDED if name not in there] if there else []


def _of_older_rows(name: str) -> str:
    return "''" if "TEXT" in _ADDED[name] else "NULL"


def _add_missing(database: sqlite3.Connection) -> None:
    for name in _missing(database):
        database.execute(f"ALTER TABLE runs ADD COLUMN {name} {_ADDED[name]}")
    database.execute(f"PRAGMA user_version = {VERSION}")


def _make_tables(database: sqlite3.Connection) -> None:
    for table in _TABLES:
        database.execute(table)
    database.execute(f"PRAGMA application_id = {_OURS}")
    database.execute(f"PRAGMA user_version = {VERSION}")
