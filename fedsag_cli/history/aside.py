"""Makes room for a run in a workspace: the run that was there is moved aside, or its files are replaced."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from fedsag_cli.errors import UsageError, WorkspaceError, counted
from fedsag_cli.history import rows
from fedsag_cli.history.database import database_file, faults_named, writing
from fedsag_cli.history.importing import take_in
from fedsag_cli.history.reading import has_run
from fedsag_cli.workspace import Workspace

if TYPE_CHECKING:
    import sqlite3

_MOST_NAMED = 4  # files

KEPT = 10
"""The number of runs that are kept in one folder."""


def folder_of(root: Path) -> Path:
    """The folder for the runs that were in this workspace."""
    return root.with_name(f"{root.name}.runs")


def make_room(workspace: Workspace, database: sqlite3.Connection | None, *, moves: bool) -> list[str]:
    """Returns what the user should know. Raises WorkspaceError if the run there cannot be moved; then it stays.

    The workspace is taken, before and after. Without a database, the run gets a number that is free in the folder.
    """
    root = workspace.root
    if not has_run(root):
        return []
    row = _row(database, root, is_over=True)
    named = f"run {row.number}" if row else "the run"
    if not moves:
        return [f"{named}, which was in {root}, is replaced"]
    place = _free_place(folder_of(root), row.number if row else 0)
    try:
        workspace.move_to(place)
    except OSError as error:
        raise WorkspaceError(
            f"{named} in {root} cannot be moved to {place}: {error.strerror}",
            hint=f"name another folder with -w; or give -w {root}: then its files are replaced",
        ) from None
    if row is not None:
        _change(database, row.number, workspace=str(place))
    told = f"{named}, which was in {root}, is now in {place}; the last {KEPT} are kept"
    return [told, *_without_old_ones(place.parent, database)]


def _row(database: sqlite3.Connection | None, root: Path, *, is_over: bool = False) -> rows.Row | None:
    """The row of the run in a workspace; None if there is no database, or it cannot be used now."""
    if database is None:
        return None
    try:
        with faults_named(database_file()), writing(database):
            return take_in(database, root, is_over=is_over)
    except UsageError:
        return None


def _change(database: sqlite3.Connection | None, number: int, **fields: str) -> None:
    """What cannot be written now is found out when the row is read: see `finding`."""
    if database is not None:
        try:
            with faults_named(database_file()), writing(database):
                rows.change(database, number, **fields)
        except UsageError:
            return


def _free_place(folder: Path, number: int) -> Path:
    """The place for the run with this number; or one that is free, if another database gave the number too."""
    if not number:
        taken = [int(name) for each in _in(folder) if (name := each.name).isdecimal()]
        number = max(taken, default=0) + 1
    place, again = folder / str(number), 1
    while place.exists() or place.is_symlink():
        again += 1
        place = folder / f"{number}-{again}"
    return place


def _without_old_ones(folder: Path, database: sqlite3.Connection | None) -> list[str]:
    """Remove what the oldest runs made, and say so."""
    there = sorted((each for each in _in(folder) if not each.is_symlink() and has_run(each)), key=_age, reverse=True)
    told = []
    for old in there[KEPT:]:
        row = _row(database, old)
        try:
            with Workspace(old) as workspace:
                workspace.take()
                left = workspace.remove()
        except (OSError, WorkspaceError) as error:
            told.append(f"{old} is older, but cannot be removed: {error}")
            continue
        if row is not None:
            _change(database, row.number, files=rows.REMOVED)
        told.append(f"{old} was older, and is removed{what_stays(old) if left else ''}")
    return told


def what_stays(root: Path) -> str:
    """The end of a sentence on a workspace that was removed: the files that are left in it."""
    files = sorted(str(Path(base, name).relative_to(root)) for base, _, names in os.walk(root) for name in names)
    named = ", ".join(files[:_MOST_NAMED]) + (", …" if len(files) > _MOST_NAMED else "")
    what = f"{counted(len(files), 'file')} that fedsag did not make ({named})" if files else "folders of yours"
    return f", but {what} {'stays' if len(files) == 1 else 'stay'} in {root}"


def _in(folder: Path) -> list[Path]:
    try:
        return [each for each in folder.iterdir() if each.is_dir()]
    except OSError:
        return []


def _age(root: Path) -> int:
    """When the run in a workspace was last written, in nanoseconds."""
    folder = Workspace(root)
    times = []
    for file in (folder.report, folder.events, folder.plan):
        try:
            times.append(file.stat().st_mtime_ns)
        except OSError:
            continue
    return max(times, default=0)
