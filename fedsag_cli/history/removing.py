"""Removes a run from the database and, if that is wanted, what it made in its workspace."""

from __future__ import annotations

from contextlib import closing
from typing import NamedTuple

from fedsag_cli.errors import UsageError, WorkspaceError
from fedsag_cli.history import rows
from fedsag_cli.history.aside import what_stays
from fedsag_cli.history.database import database_file, faults_named, open_to_write, writing
from fedsag_cli.history.finding import Found, place_of
from fedsag_cli.history.reading import RUNNING
from fedsag_cli.workspace import Workspace


class Removed(NamedTuple):
    name: str
    said: str


def remove(found: Found, *, files: bool) -> Removed:
    """Raises UsageError if the run goes on, or something cannot be removed; then its row stays."""
    if found.status == RUNNING:
        raise UsageError(f"run {found.name} is running", hint="it can be removed when it has ended")
    said = "its files are gone" if found.root is None else f"its files stay in {found.root}"
    if files and found.root is not None:
        try:
            with Workspace(found.root) as workspace:
                workspace.take()
                has_others = workspace.remove()
        except OSError as error:
            raise WorkspaceError(f"the files of run {found.name} cannot be removed: {error}") from None
        said = f"its files in {found.root} are removed{what_stays(found.root) if has_others else ''}"
    if files and found.row is not None and (place := place_of(found.row)) not in (None, found.root):
        return Removed(found.name, f"{said}; run {found.name} stays in the list: it is in {place}")
    if found.row is not None:
        with closing(open_to_write(5.0)) as database, faults_named(database_file()), writing(database):
            rows.remove(database, found.row.number)
    elif not files:
        raise UsageError(f"the run in {found.root} is not in the list", hint="--files removes its files")
    return Removed(found.name, f"run {found.name} is removed; {said}")
