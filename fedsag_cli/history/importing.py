"""Takes the run of a workspace into the database, also one of an older version or one that is half written."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fedsag_cli.history import rows
from fedsag_cli.history.alive import is_gone
from fedsag_cli.history.reading import RUNNING, STOPPED, identity_of, read_workspace
from fedsag_cli.workspace import Workspace

if TYPE_CHECKING:
    import sqlite3


def take_in(database: sqlite3.Connection, root: Path, *, is_over: bool = False) -> rows.Row:
    """The row of the run in this workspace, as its files tell it; a new one if it has none.

    A row of a run that goes on stays as it is. `is_over`: it does not, for the caller has taken the workspace. Raises
    WorkspaceError if no run is there, sqlite3.Error.
    """
    folder = Workspace(root)
    named = identity_of(root)
    known = rows.row(database, "id = ?", named)
    if not is_over and known is not None and known.status == RUNNING and not is_gone(known.process):
        return known
    report, status, _ = read_workspace(root)
    if status == STOPPED and not is_over and folder.is_in_use:
        status = RUNNING
    number = known.number if known else rows.add(database, id=named, status=status)
    rows.write(database, number, report, status)
    if known is None or not _is_there(known):
        rows.change(database, number, workspace=str(folder.root), files=rows.THERE)
    made = rows.row(database, "number = ?", number)
    assert made is not None
    return made


def _is_there(row: rows.Row) -> bool:
    """Whether the row's own workspace has its run: another may be a copy."""
    return Path(row.workspace).is_dir() and identity_of(Path(row.workspace)) == row.id
