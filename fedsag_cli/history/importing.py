"""Takes the run of a workspace into the database, also one of an older version or one that is half written."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from fedsag_cli.errors import UsageError, WorkspaceError
from fedsag_cli.history import rows
from fedsag_cli.history.alive import is_gone
from fedsag_cli.history.database import Locked, database_file, faults_named, open_to_write, writing
from fedsag_cli.history.reading import RUNNING, STOPPED, has_run, has_this_run, identity_of, read_workspace
from fedsag_cli.workspace import Workspace

if TYPE_CHECKING:
    import sqlite3


_WAITS_S = 5.0  # for runs that write
_MOST_LOOKED_AT = 2000  # paths below a folder
_MOST_NAMED = 5


class Taken(NamedTuple):
    """A run that was taken in. `faults`: what of it cannot be read. `was_known`: it had a row before."""

    root: Path
    row: rows.Row
    faults: list[str]
    was_known: bool


def take_in_all(roots: Iterable[Path]) -> tuple[list[Taken], list[UsageError]]:
    """The runs of these workspaces, and for each that cannot be taken in, why not. Raises UsageError."""
    taken: list[Taken] = []
    refused: list[UsageError] = []
    with closing(open_to_write(_WAITS_S)) as database:
        for root in roots:
            try:
                faults = read_workspace(root).faults
                with faults_named(database_file()), writing(database):
                    was_known = rows.row(database, "id = ?", identity_of(root)) is not None
                    row = take_in(database, root)
            except Locked as error:  # each of the others would wait as long
                refused.append(error)
                break
            except WorkspaceError as error:
                refused.append(WorkspaceError(f"{error.message}{_below(root)}", hint=error.hint))
                continue
            except UsageError as error:
                refused.append(error)
                continue
            taken.append(Taken(root, row, faults, was_known))
    return taken, refused


def _below(root: Path) -> str:
    """The end of a sentence on a folder that is no workspace: those in it."""
    inside = (each for pattern in ("*", "*/*") for each in root.glob(pattern))
    found = sorted(str(each) for each in islice(inside, _MOST_LOOKED_AT) if has_run(each))
    if not found:
        return ""
    return f"; below it are {', '.join(found[:_MOST_NAMED])}{', …' if len(found) > _MOST_NAMED else ''}"


def take_in(database: sqlite3.Connection, root: Path, *, is_over: bool = False) -> rows.Row:
    """The row of the run in this workspace, as its files tell it; a new one if it has none.

    A row of a run that goes on stays as it is. `is_over`: it does not, for the caller has taken the workspace. Raises
    WorkspaceError if no run is there, sqlite3.Error.
    """
    folder = Workspace(root)
    named = identity_of(root)
    known = rows.row(database, "id = ?", named) or _begun_in(database, folder.root)
    if not is_over and known is not None and known.status == RUNNING and not is_gone(known.process):
        return known
    report, status, _ = read_workspace(root)
    if status == STOPPED and not is_over and folder.is_in_use:
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
