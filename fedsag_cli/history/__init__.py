"""All runs of this user: each has a number and a row in one database. A fault of the database never harms a run."""

from __future__ import annotations

from pathlib import Path


def workspace_of(word: str) -> Path:
    """The workspace of a run, named by its number, by `last`, or by a folder. Raises UsageError naming known runs."""
    from fedsag_cli.history.finding import find

    return find(word).folder()


def number_of(workspace: Path) -> int:
    """The number of the run in a workspace; 0 if it has none, or the database cannot be read."""
    from fedsag_cli.errors import WorkspaceError
    from fedsag_cli.history.reading import identity_of

    try:
        named = identity_of(workspace)
    except WorkspaceError:
        return 0
    found = _asked("WHERE id = ?", named)
    return found[0][0] if found else 0


def known_runs() -> list[tuple[int, str]]:
    """The number and the job of each run, the newest first; none if the database cannot be read."""
    return _asked("ORDER BY number DESC")


def _asked(rest: str, *values: str) -> list[tuple[int, str]]:
    from contextlib import closing

    from fedsag_cli.errors import UsageError
    from fedsag_cli.history.database import database_file, faults_named, open_to_read

    try:
        with closing(open_to_read()) as database, faults_named(database_file()):
            return database.execute(f"SELECT number, job FROM runs {rest}", values).fetchall()
    except (UsageError, ImportError):  # Python may be built without sqlite3
        return []
