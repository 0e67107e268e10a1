"""Takes the run of a workspace into the database, also one of an older version or one that is half written."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fedsag_cli.history import rows
from fedsag_cli.history.alive import holds, is_gone
from fedsag_cli.history.reading import RUNNING, STOPPED, has_this_run, identity_of, read_workspace
from fedsag_cli.workspace import Workspace

if TYPE_CHECKING:
    import sqlite3


def take_in(database: sqlite3.Connection, root: Path) -> rows.Row:
    """The row of the run in this workspace, as its files tell it; a new one if it has none.

    A row of a run that goes on stays as it is. Raises WorkspaceError if no run is there, sqlite3.Error.
    """
    folder = Workspace(root)
    named = identity_of(root)
    known = rows.row(database, "id = ?", named) or _begun_in(database, folder.root)
    if known is not None and known.status == RUNNING and not is_gone(known.process):
        return known
    report, status, _ = read_workspace(root)
    if status == STOPPED and holds(folder.lock):
        status = RUNNING
    number = known.number if known else rows.add(database, status=status)
    rows.change(database, number, id=named)
    rows.write(database, number, report, status)
    if known is None or not _is_there(known):
        rows.change(database, number, workspace=str(folder.root), files=rows.THERE)
    made = rows.row(database, "number = ?", number)
    assert made is not None
    return made


def _begun_in(database: sqlite3.Connection, root: Path) -> rows.Row | None:
    """The row of the last run that began in this workspace, if it was killed before it could be described."""
    last = rows.row(database, "workspace = ?", str(root))
    return last if last is not None and last.id is None and is_gone(last.process) else None


def _is_there(row: rows.Row) -> bool:
    """Whether the row's own workspace has its run: another may be a copy."""
    return bool(row.workspace) and has_this_run(Path(row.workspace), row.id)
