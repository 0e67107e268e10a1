"""All runs of this user: each has a number and a row in one database. A fault of the database never harms a run."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any


def workspace_of(word: str) -> Path:
    """The workspace of a run, named by its number, by `last`, or by a folder. Raises UsageError naming known runs."""
    from fedsag_cli.history.finding import find

    return find(word).folder()


def number_of(workspace: Path) -> int:
    """The number of the run in a workspace; 0 if it has none, or the database cannot be read."""
    return int(_known_of(workspace, "number") or 0)


def number_called(identity: str) -> int:
    """The number of the run with this identity, in any workspace; 0 if it is not known."""
    found = _asked("SELECT number FROM runs WHERE id = ?", identity) if identity else []
    return int(found[0][0]) if found else 0


def job_folder_of(workspace: Path) -> Path | None:
    """The job of the run in a workspace; None if it is not known."""
    found = _known_of(workspace, "job_folder")
    return Path(found) if found else None


def command_to_continue(workspace: Path) -> str:
    """The command that continues the run in a workspace; with JOB where its job is not known."""
    words = [str(job_folder_of(workspace) or "JOB"), "-w", str(workspace), "--resume"]
    return f"fedsag simulator {shlex.join(words)}"


def known_runs() -> list[tuple[int, str]]:
    """The number and the job of each run, the newest first; none if the database cannot be read."""
    return _asked("SELECT number, job FROM runs ORDER BY number DESC")


def known_metrics() -> list[str]:
    """The names of all metrics of all runs; none if the database cannot be read."""
    return [name for (name,) in _asked("SELECT name FROM metrics UNION SELECT name FROM final_metrics")]


def _known_of(workspace: Path, column: str) -> Any:
    """What the row of the run in a workspace has; None if there is none that can be read."""
    from fedsag_cli.errors import WorkspaceError
    from fedsag_cli.history.reading import identity_of

    try:
        found = _asked(f"SELECT {column} FROM runs WHERE id = ?", identity_of(workspace))
    except WorkspaceError:
        return None
    return found[0][0] if found else None


def _asked(select: str, *values: str) -> list[tuple[Any, ...]]:
    from contextlib import closing

    from fedsag_cli.errors import UsageError
    from fedsag_cli.history.database import database_file, faults_named, open_to_read

    try:
        with closing(open_to_read()) as database, faults_named(database_file()):
            return database.execute(select, values).fetchall()
    except (UsageError, ImportError):  # Python may be built without sqlite3
        return []
