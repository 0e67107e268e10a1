"""Finds a run by the word that a user gives: its number, `last`, or its workspace."""

from __future__ import annotations

import contextlib
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from fedsag_cli.errors import UsageError, WorkspaceError
from fedsag_cli.history import rows
from fedsag_cli.history.alive import is_gone
from fedsag_cli.history.aside import folder_of
from fedsag_cli.history.database import NoRuns, database_file, faults_named, open_to_read, open_to_write, writing
from fedsag_cli.history.importing import take_in
from fedsag_cli.history.reading import (
    FINISHED,
    RUNNING,
    STOPPED,
    goes_on,
    has_run,
    has_this_run,
    identity_of,
    read_workspace,
)
from fedsag_cli.report import Report
from fedsag_cli.workspace import Workspace

if TYPE_CHECKING:
    import sqlite3

LAST = "last"
_MOST_NAMED = 6


class Found(NamedTuple):
    """A run. `row`: what the database has of it; `root`: its workspace; None where there is no such thing.

    `faults`: what could not be read.
    """

    report: Report
    status: str
    row: rows.Row | None
    root: Path | None
    faults: list[str]

    @property
    def number(self) -> int:
        return self.row.number if self.row else 0

    @property
    def rounds_done(self) -> int:
        """The database has no rounds in which nothing was measured, but their number."""
        return self.row.rounds_done if self.row and self.root is None else self.report.rounds_done

    @property
    def name(self) -> str:
        """The word by which it is found."""
        return str(self.number) if self.row else str(self.root)

    def folder(self) -> Path:
        """The workspace. Raises UsageError if it is gone."""
        if self.root is None:
            where = self.row.workspace if self.row else ""
            raise UsageError(
                f"the files of run {self.number} are gone: {where} has another run, or was removed",
                hint=f"`fedsag runs show {self.number}` shows what the database has",
            )
        return self.root


def is_reference(word: str) -> bool:
    """Whether the word names a run by its number, or is LAST; else it is a workspace."""
    return word == LAST or word.isdecimal()


def find(word: str) -> Found:
    """Raises UsageError naming the runs that there are."""
    if is_reference(word):
        with closing(open_to_read()) as database, faults_named(database_file()):
            known = rows.row(database, "1") if word == LAST else rows.row(database, "number = CAST(? AS INTEGER)", word)
            if known is None:
                raise UsageError(f"there is no run {word}", hint=_numbers(database))
            return found_of(database, known)
    if not word:
        raise UsageError("RUN is empty", hint=_hint())
    root = Path(word)
    try:
        report, status, faults = read_workspace(root)
    except WorkspaceError as error:
        error.hint = _hint()
        raise
    row = None
    try:
        with closing(open_to_read()) as database, faults_named(database_file()):
            row = rows.row(database, "id = ?", identity_of(root))
    except NoRuns:
        pass
    except UsageError as fault:
        faults = [*faults, fault.message]
    if status == STOPPED and (Workspace(root).is_in_use or (row is not None and _runs(row))):
        status = RUNNING
    return Found(report, status, row, root.resolve(), faults)


def finished_with(plan: str) -> Found | None:
    """The newest run that finished with this plan; None if none is known, or the database cannot be read."""
    try:
        with closing(open_to_read()) as database, faults_named(database_file()):
            known = rows.row(database, "plan = ? AND status = ?", plan, FINISHED)
            return of_row(database, known) if known is not None else None
    except (UsageError, ImportError):  # Python may be built without sqlite3
        return None


def found_of(database: sqlite3.Connection, row: rows.Row) -> Found:
    """What the workspace of this row tells; if it is gone, what the row tells."""
    root = place_of(row)
    if root is None:
        return of_row(database, row)
    report, status, faults = read_workspace(root)
    if status == STOPPED and _runs(row):
        status = RUNNING
    return Found(report, status, row, root, faults)


def of_row(database: sqlite3.Connection, row: rows.Row) -> Found:
    """What the rows tell, without a look into the workspace. Raises sqlite3.Error."""
    status = STOPPED if row.status == RUNNING and not _runs(row) else row.status
    return Found(rows.read(database, row), status, row, None, [])


def place_of(row: rows.Row) -> Path | None:
    """The workspace of this row; None if it is gone, or another run is there."""
    named = Path(row.workspace)
    if not named.name:
        return None
    if row.id is None:
        return named if _runs(row) and has_run(named) else None
    if has_this_run(named, row.id):
        return named
    try:  # it was moved when the database could not be written
        beside = sorted(folder_of(named).iterdir())
    except OSError:
        return None
    return next((each for each in beside if has_this_run(each, row.id)), None)


def refresh() -> None:
    """Let the rows tell the truth about runs that were killed, and about folders. What cannot be written stays."""
    try:
        with closing(open_to_read()) as database, faults_named(database_file()):
            running = [row for row in rows.rows(database, f"WHERE status = '{RUNNING}'") if not _runs(row)]
        if not running:
            return
        with closing(open_to_write(0.5)) as database:
            for row in running:
                _refresh(database, row)
    except UsageError:
        return


def _refresh(database: sqlite3.Connection, row: rows.Row) -> None:
    """Raises UsageError if the database cannot be written."""
    root = place_of(row) if row.id is not None else Path(row.workspace)
    taken = 0
    if root is not None:
        with contextlib.suppress(UsageError), faults_named(database_file()), writing(database):
            taken = take_in(database, root).number
    if taken != row.number:  # its files are gone, or tell what cannot be kept
        with faults_named(database_file()), writing(database):
            rows.change(database, row.number, status=STOPPED)


def _runs(row: rows.Row) -> bool:
    """Whether its process lives, or another process uses its workspace for the same run."""
    if row.status != RUNNING:
        return False
    return not is_gone(row.process) or (row.id is not None and goes_on(Path(row.workspace), row.id))


def _hint() -> str:
    try:
        with closing(open_to_read()) as database, faults_named(database_file()):
            return _numbers(database)
    except UsageError:
        return "RUN is a number, `last`, or the folder that -w gave to the simulator"


def _numbers(database: sqlite3.Connection) -> str:
    numbers = [str(row.number) for row in rows.rows(database, f"ORDER BY number DESC LIMIT {_MOST_NAMED + 1}")]
    if not numbers:
        return "there are no runs yet"
    more = ", …" if len(numbers) > _MOST_NAMED else ""
    return f"the last runs are {', '.join(numbers[:_MOST_NAMED])}{more}; `fedsag runs list` shows them"
