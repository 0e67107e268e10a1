"""Writes the row of a run while it runs: at its start, after its rounds, and at its end. Nothing here fails a run."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from fedsag_cli import events
from fedsag_cli.errors import UsageError
from fedsag_cli.events import Event
from fedsag_cli.history import aside, rows
from fedsag_cli.history.alive import this_process
from fedsag_cli.history.database import Locked, database_file, faults_named, open_to_write, writing
from fedsag_cli.history.importing import take_in
from fedsag_cli.history.reading import RUNNING, first_event, identity, status_of
from fedsag_cli.report import Report
from fedsag_cli.workspace import Workspace

if TYPE_CHECKING:
    import sqlite3

_Write: TypeAlias = "Callable[[sqlite3.Connection], object]"

_WAITS_S = 2.0  # for other runs that write, at the start
_WAITS_AT_END_S = 8.0
_APART_S = 0.5  # rounds may be shorter than that: then several are written together


class Recorder:
    """An observer that keeps the run's row. `number`: the run's; 0 until it has one.

    While the run goes on, it waits for no other process: what cannot be written now is written with a later round.
    """

    def __init__(self, job: Path, workspace: Workspace, *, is_kept: bool = True) -> None:
        """`is_kept`: the run gets a row."""
        self.number = 0
        self._job, self._workspace = job.absolute(), workspace
        self._database: sqlite3.Connection | None = None
        self._is_off = not is_kept  # also after a fault, which the user was told
        self._has_started = self._is_resumed = False
        self._identity: str | None = None
        self._rounds: tuple[int, int] | None = None
        self._step = 0
        self._written_at = 0.0
        self._waiting: list[_Write] = []

    def begin(self, *, resumed: bool, moves: bool) -> list[str]:
        """Make room in the workspace and give the run its number. Returns what the user should know.

        `moves`: a run that is there is moved aside. Raises WorkspaceError if that is not possible.
        """
        self._is_resumed = resumed
        notes = [] if self._is_off else self._tried(self._open)
        if resumed:
            self._identity = self._first_identity()
        else:
            notes += aside.make_room(self._workspace, self._database, moves=moves)
        if self._database is not None:
            notes += self._tried(lambda: self._write(self._start))
        return notes

    def on(self, event: Event) -> None:
        match event:
            case events.RunStarted():
                self._has_started = True
                self._identity = self._identity or identity(events.to_line(event))
                self._later(lambda database: self._describe(database, event))
                self._flush()  # until the server is ready, torch may take seconds
            case events.RunSettings():
                self._later(lambda database: self._set(database, event))
            case events.ServerReady():
                self._step = event.whole_rounds
                self._flush()
            case events.RoundStarted() if self._rounds != (event.first_round, event.num_rounds):
                self._rounds = first, number = event.first_round, event.num_rounds
                self._later(lambda database: rows.change(database, self.number, first_round=first, num_rounds=number))
            case events.RoundFinished():
                step, self._step = self._step, self._step + 1
                self._later(lambda database: self._add_round(database, step, event))
                if time.monotonic() - self._written_at >= _APART_S:
                    self._flush()

    def finish(self, report: Report | None) -> list[str]:
        """Write all that the report tells; without one, what the workspace tells. Returns what the user should know."""
        if self._is_off:
            return []
        self._waiting.clear()  # the report has it
        is_known = self.number or self._has_started  # else it was refused before it had a row
        notes = self._tried(lambda: self._end(report)) if is_known else []
        if self._database is not None:
            self._database.close()
            self._database = None
        return notes

    def _tried(self, act: Callable[[], object]) -> list[str]:
        """Another process that is writing is no fault: there is time until the end of the run."""
        try:
            act()
        except Locked as fault:
            return [self._is_not_kept(fault)] if self._has_started else []
        except (UsageError, ImportError) as fault:  # Python may be built without sqlite3
            self._is_off, self._database = True, None
            return [self._is_not_kept(fault)]
        return []

    def _is_not_kept(self, fault: Exception) -> str:
        return f"`fedsag runs` will not know this run: {fault}"

    def _open(self) -> None:
        self._database = open_to_write(_WAITS_S)

    def _write(self, *writes: _Write) -> None:
        """Raises UsageError."""
        assert self._database is not None
        with faults_named(database_file()), writing(self._database):
            for write in writes:
                write(self._database)
        self._written_at = time.monotonic()

    def _later(self, write: _Write) -> None:
        if self._database is not None:
            self._waiting.append(write)

    def _flush(self) -> None:
        if self._database is None:
            return
        try:
            self._database.execute("PRAGMA busy_timeout = 0")
            self._write(*self._waiting)
        except UsageError:  # full or locked now: at the end it is tried once more, and told
            return
        self._waiting.clear()

    def _first_identity(self) -> str | None:
        """That of the run that is resumed; None if it was killed before its first event."""
        try:
            first = first_event(self._workspace.root)
        except OSError:
            return None
        return identity(first) if first else None

    def _start(self, database: sqlite3.Connection) -> None:
        known = rows.row(database, "id = ?", self._identity) if self._identity else None
        if self._is_resumed and not self._has_started:  # it is resumed: the row gets what the part before this one told
            known = take_in(database, self._workspace.root, is_over=True)
        self.number = known.number if known else rows.add(database, status=RUNNING, began=time.time())
        where = str(self._workspace.root)
        database.execute(
            "UPDATE runs SET files = ? WHERE workspace = ? AND files = ? AND number <> ?",
            [rows.REPLACED, where, rows.THERE, self.number],
        )
        rows.change(
            database,
            self.number,
            status=RUNNING,
            process=this_process(),
            job_folder=os.fsencode(self._job).decode(errors="replace"),
            workspace=where,
            files=rows.THERE,
        )

    def _describe(self, database: sqlite3.Connection, event: events.RunStarted) -> None:
        known = rows.row(database, "number = ?", self.number)
        rows.change(
            database,
            self.number,
            id=self._identity,
            job=event.job,
            began=event.at if known is None or known.id is None else known.began,
            seed=event.seed,
            slots=event.slots,
            threads=event.threads,
            launcher=event.launcher,
            plan=event.plan,
            parent=event.parent,
            parent_round=event.parent_round,
            clients=len(event.sites),
        )
        rows.write_sites(database, self.number, event.sites)

    def _set(self, database: sqlite3.Connection, event: events.RunSettings) -> None:
        rows.change(database, self.number, template=event.template)
        rows.write_settings(database, self.number, event.settings, event.changed)

    def _add_round(self, database: sqlite3.Connection, step: int, event: events.RoundFinished) -> None:
        rows.write_round(database, self.number, step, event.workflow, event.round_num, event.metrics)
        rows.change(database, self.number, rounds_done=step + 1)

    def _end(self, report: Report | None) -> None:
        if self._database is None:
            self._database = open_to_write(_WAITS_AT_END_S)
        self._database.execute(f"PRAGMA busy_timeout = {_WAITS_AT_END_S * 1000:.0f}")
        self._write(*(() if self.number else (self._start,)), lambda database: self._write_end(database, report))

    def _write_end(self, database: sqlite3.Connection, report: Report | None) -> None:
        if self._has_started and report is not None:
            rows.change(database, self.number, id=self._identity)
            rows.write(database, self.number, report, status_of(report))
        elif self._has_started:
            rows.change(database, self.number, id=self._identity)
            take_in(database, self._workspace.root, is_over=True)
        else:  # it was refused before its first event
            known = rows.row(database, "number = ?", self.number)
            if known is not None and known.id is not None:
                take_in(database, self._workspace.root, is_over=True)
            else:
                rows.remove(database, self.number)
