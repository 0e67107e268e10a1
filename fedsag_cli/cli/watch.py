"""The command `fedsag watch`, which shows a run from another terminal, or the end of one that is over."""

from __future__ import annotations

import shlex
import time
from collections.abc import Collection
from typing import TYPE_CHECKING

import typer

from fedsag_cli.cli import display
from fedsag_cli.cli.display import Columns, Format
from fedsag_cli.cli.options import FollowOption, FormatOption, QuietOption, RunArgument, TableOption, check_output
from fedsag_cli.errors import Interrupted, RunError, WorkspaceError, counted

if TYPE_CHECKING:
    from fedsag_cli.history.finding import Found
    from fedsag_cli.report import Report
    from fedsag_cli.report.alike import Kind
    from fedsag_cli.workspace import Workspace

_LOOK_S = 0.1
_BEGINS_S = 10.0


def watch(
    run: RunArgument = "last",
    follow: FollowOption = None,
    columns: TableOption = Columns.BRIEF,
    quiet: QuietOption = False,
    output: FormatOption = Format.TXT,
) -> None:
    """Watch a run from another terminal.

    What it shows begins with the start of the run. At its end, the command ends with the run's table and exit code; if
    the run is over, it does so at once. Ctrl-C ends the watching, not the run.
    """
    from fedsag_cli.cli import runs_tables, views
    from fedsag_cli.cli.failures import failures
    from fedsag_cli.cli.follow import Follow
    from fedsag_cli.cli.summary import rounds, summary
    from fedsag_cli.events import RunStarted
    from fedsag_cli.report import ReportBuilder
    from fedsag_cli.report.places import located
    from fedsag_cli.simulator.options import Options, check_followed
    from fedsag_cli.simulator.signals import signals_interrupt
    from fedsag_cli.simulator.watching import EventStream
    from fedsag_cli.workspace import Workspace

    check_output(output, follow or (), quiet=quiet)
    found = _with_files(run)
    workspace = Workspace(found.folder())
    told = EventStream(workspace)
    builder = ReportBuilder()
    printed: Collection[tuple[str, Kind]] = ()
    try:
        with signals_interrupt():
            if output is Format.TXT and not quiet:
                display.line(runs_tables.headline(found))
            if told.is_over and output is Format.TXT:
                for event in told:
                    builder.on(event)
            else:
                with views.view(output, quiet=quiet) as shown, Follow(follow or (), shown.line) as followed:
                    for event in told:
                        if isinstance(event, RunStarted):
                            check_followed(Options(follow=follow or ()), event.sites)
                        for observer in (builder, shown, followed):
                            observer.on(event)
                        if display.has_no_reader():
                            return
                    printed = shown.told if display.share_a_reader() else ()
    except Interrupted as interrupted:
        display.note("the run goes on: the same command watches it again")
        raise typer.Exit(interrupted.exit_code) from None
    report = located(builder.report, workspace.root)
    if not report.sites:
        raise WorkspaceError(
            f"{workspace.events} has no events of a run: it is missing, empty or damaged",
            hint=f"`fedsag runs show {shlex.quote(run)}` shows what else is known of the run",
        )
    check_followed(Options(follow=follow or ()), report.sites)
    if report.ok and told.has_end:
        if output is Format.TXT:
            summary(report, columns, quiet=quiet)
        return
    if output is Format.TXT and report.rounds_done:
        rounds(report, columns)
    error = _error_of(report) if told.has_end else _killed(workspace, report.rounds_done)
    error.details = failures(report, printed)
    raise error


def _with_files(run: str) -> Found:
    """The run; one that has just begun is waited for until its first file is there."""
    from fedsag_cli.history import finding
    from fedsag_cli.history.reading import RUNNING

    ends = time.monotonic() + _BEGINS_S
    while (found := finding.find(run)).root is None and found.status == RUNNING and time.monotonic() < ends:
        time.sleep(_LOOK_S)
    return found


def _error_of(report: Report) -> RunError:
    """The error with which the run ended."""
    error = RunError(report.cause, hint=report.hint)
    error.exit_code = report.exit_code
    return error


def _killed(workspace: Workspace, rounds_done: int) -> RunError:
    from fedsag_cli import history

    if not rounds_done:
        return RunError(f"the run in {workspace.root} was killed")
    done, again = counted(rounds_done, "round"), history.command_to_continue(workspace.root)
    return RunError(f"the run in {workspace.root} was killed", hint=f"{done} done. Continue it: {again}")
