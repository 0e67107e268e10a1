"""What a workspace tells of its run: the whole report, or what there is of one that is half written or broken."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import msgspec

from fedsag_cli import events
from fedsag_cli.errors import WorkspaceError
from fedsag_cli.events import Event
from fedsag_cli.plan import read_plan
from fedsag_cli.report import Report, ReportBuilder
from fedsag_cli.report.places import located
from fedsag_cli.workspace import Workspace

RUNNING, FINISHED, FAILED, INTERRUPTED, STOPPED = "running", "finished", "failed", "interrupted", "stopped"
"""The status of a run. STOPPED: its process was killed, and could not say how it ended."""

_SIGNALLED = 128  # exit codes from there on: ended by a signal


class Contents(NamedTuple):
    """What a workspace tells. `faults`: which of its files could not be read, and why."""

    report: Report
    status: str
    faults: list[str]


def has_run(root: Path) -> bool:
    """Whether files of a run of fedsag are in this folder."""
    try:
        check_run(root)
    except WorkspaceError:
        return False
    return True


def check_run(root: Path) -> None:
    """Raises WorkspaceError if no run is in this folder, or the folder cannot be read."""
    folder = Workspace(root)
    try:
        if folder.has_sweep:
            raise WorkspaceError(
                f"{root} has a sweep, whose runs are in folders of their own", hint=f"name one of them: {root}/001-…"
            )
        found = folder.has_run and any(path.is_file() for path in (folder.plan, folder.events, folder.report))
    except OSError as error:  # a folder of another user, a name that is too long
        raise WorkspaceError(f"{root} cannot be read: {error.strerror}") from None
    if not found:
        raise WorkspaceError(f"there is no run in {root}", hint="name the folder that -w gave to the simulator")


def has_this_run(root: Path, named: str | None) -> bool:
    """Whether the run that `identity_of` names so is in this folder, and can be read."""
    try:
        return has_run(root) and identity_of(root) == named
    except WorkspaceError:
        return False


def identity_of(root: Path) -> str:
    """The same for a run wherever its workspace is moved or copied to, and for no other run.

    Raises WorkspaceError if its files cannot be read.
    """
    folder = Workspace(root)
    for read in (partial(first_event, root), folder.plan.read_bytes, folder.report.read_bytes):
        try:
            first = read()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise WorkspaceError(f"{error.filename} cannot be read: {error.strerror}") from None
        if first.strip():
            return identity(first)
    return identity(str(folder.root).encode(errors="surrogateescape"))


def first_event(root: Path) -> bytes:
    """The first event of a run, as a line; empty if it was not written whole. Raises OSError."""
    with Workspace(root).events.open("rb") as lines:
        line = lines.readline()
    return line if line.endswith(b"\n") else b""


def identity(first: bytes) -> str:
    """That of the run of which this is the first event, as a line."""
    return hashlib.sha256(first).hexdigest()[:32]


def goes_on(root: Path, named: str) -> bool:
    """Whether the run with this identity uses its workspace now. Another run may use it instead."""
    return Workspace(root).is_in_use and has_this_run(root, named)


def read_workspace(root: Path) -> Contents:
    """Its paths are those of now. Raises WorkspaceError if no run is there."""
    folder = Workspace(root)
    check_run(root)
    faults: list[str] = []
    try:
        report = msgspec.json.decode(folder.report.read_bytes(), type=Report)
    except FileNotFoundError:
        pass
    except (OSError, msgspec.DecodeError) as error:
        faults.append(_fault(folder.report, error))
    else:
        if not report.began:
            report.began = next((event.at for event in _events(folder.events, [])), 0.0)
        return Contents(located(report, folder.root), status_of(report), faults)
    builder = ReportBuilder()
    for event in _events(folder.events, faults):
        builder.on(event)
    report = located(builder.report, folder.root)
    if not report.job:
        _of_plan(folder, report, faults)
    return Contents(report, status_of(report), faults)


def status_of(report: Report) -> str:
    """STOPPED if the report does not say how the run ended; it may still run."""
    if report.ok:
        return FINISHED
    if not report.cause:
        return STOPPED
    return INTERRUPTED if report.exit_code > _SIGNALLED else FAILED


def _events(file: Path, faults: list[str]) -> Iterator[Event]:
    """The events of a file that can be read, one after the other."""
    broken = 0
    try:
        with file.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if not line.endswith(b"\n"):  # it is just being written, or its writer was killed
                    break
                try:
                    yield events.from_line(line)
                except (msgspec.DecodeError, UnicodeDecodeError):  # of another version, or half written
                    broken = broken or number
    except OSError as error:
        faults.append(_fault(file, error))
    if broken:
        faults.append(f"{file}: line {broken} cannot be read, and is left out")


def _of_plan(folder: Workspace, report: Report, faults: list[str]) -> None:
    try:
        plan = read_plan(folder.plan)
    except (OSError, msgspec.DecodeError) as error:
        faults.append(_fault(folder.plan, error))
        return
    report.job, report.seed, report.sites = plan.job, plan.seed, plan.names
    report.slots, report.threads, report.launcher = plan.slots, plan.threads, plan.launcher


def _fault(file: Path, error: Exception) -> str:
    return f"{file} cannot be read: {getattr(error, 'strerror', None) or error}"
