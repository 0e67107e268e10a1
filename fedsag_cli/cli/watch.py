"""The command `fedsag watch`, which shows a run from another terminal, or the end of one that is over."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedsag_cli.cli import display
from fedsag_cli.cli.display import Format
from fedsag_cli.cli.options import FollowOption, QuietOption, TableOption
from fedsag_cli.errors import Interrupted, RunError, UsageError, WorkspaceError

_LOOK_S = 0.2  # a file does not say that it has grown


def watch(
    run: Annotated[Path, typer.Argument(metavar="WS", help="The workspace of the run.")] = Path("simulator_workspace"),
    follow: Annotated[
        list[str] | None,
        typer.Option("--follow", metavar="SITE", help="Also print the lines of a client's log as they come."),
    ] = None,
    columns: Annotated[
        Columns, typer.Option("--table", help="Columns of the table at the end: brief, or full with each client's.")
    ] = Columns.BRIEF,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Print only notes, errors and the table.")] = False,
    output: Annotated[
        Format, typer.Option("--format", help="Output: txt, or json with one event per line.")
    ] = Format.TXT,
) -> None:
    """Show a run that another terminal has started, until it ends; or the table of a run that is over.

    The exit code is the run's. Ctrl-C ends the watching, not the run.
    """
    from fedsag_cli.cli import views
    from fedsag_cli.cli.failures import failures
    from fedsag_cli.cli.follow import Follow
    from fedsag_cli.cli.summary import summary
    from fedsag_cli.report import ReportBuilder
    from fedsag_cli.simulator.options import check_followed
    from fedsag_cli.simulator.signals import signals_interrupt

    if output is Format.JSON and (quiet or follow):
        raise UsageError("-q and --follow print lines for people, --format json prints events: give one of them")
    workspace = workspace_of(run)
    builder = ReportBuilder()
    told = Told(workspace)
    printed: Collection[tuple[str, Kind]] = ()
    try:
        with signals_interrupt():
            if told.is_over and output is Format.TXT:
                for event in told:
                    builder.on(event)
            else:
                with views.view(output, quiet=quiet) as shown, Follow(follow or (), shown.line) as followed:
                    for event in told:
                        if isinstance(event, events.RunStarted):
                            check_followed(follow or (), event.sites)
                        for observer in (builder, shown, followed):
                            observer.on(event)
                    printed = shown.told if display.share_a_reader() else ()
    except Interrupted as interrupted:
        display.note("the run goes on: the same command watches it again")
        raise typer.Exit(interrupted.exit_code) from None
    report = builder.report
    if output is Format.TXT and (report.ok or report.rounds):
        summary(report, columns, quiet=quiet)
    if not report.ok:
        error = _error_of(report, workspace)
        error.details = failures(report, printed)
        raise error


def workspace_of(word: Path) -> Workspace:
    """The workspace of a run. Raises WorkspaceError if there is none."""
    workspace = Workspace(word)
    if not workspace.has_run:
        raise WorkspaceError(
            f"there is no run in {workspace.root}", hint="give the folder that fedsag simulator has after -w"
        )
    return workspace


class Told:
    """The events of a run in the order of its file, as they come, up to its end.

    `is_over`: whether the run has ended already.
    """

    def __init__(self, workspace: Workspace) -> None:
        """Raises WorkspaceError if the file cannot be read."""
        self._workspace = workspace
        self._file = EventsTail(workspace.events)
        self._first = self._more()
        while _is_end(self._first) and workspace.is_in_use:  # this run ends just now, or the next one is starting
            time.sleep(_LOOK_S)
            if self._file.is_replaced:
                self._file = EventsTail(workspace.events)
                self._first = []
            self._first += self._more()
        self.is_over = _is_end(self._first) or not workspace.is_in_use

    def __iter__(self) -> Iterator[Event]:
        found = self._first
        while True:
            yield from found
            if _is_end(found):
                return
            if not (found := self._more()):
                if not self._workspace.is_in_use:
                    yield from self._more()  # what it wrote before it ended
                    return
                time.sleep(_LOOK_S)

    def _more(self) -> list[Event]:
        try:
            return self._file.more()
        except OSError as error:
            raise WorkspaceError(f"{self._workspace.events}: {error.strerror}") from None


def _is_end(found: Sequence[Event]) -> bool:
    """A run that was resumed has several ends in its file: the last line counts."""
    return bool(found) and isinstance(found[-1], events.RunFinished)


def _error_of(report: Report, workspace: Workspace) -> RunError:
    """The error with which the run ended, or that it was killed before it could say so."""
    if not report.cause:
        hint = "repeat its command with --resume to continue it" if report.rounds else ""
        return RunError(f"the run in {workspace.root} has ended without its last event: it was killed", hint=hint)
    error = RunError(report.cause, hint=report.hint)
    error.exit_code = report.exit_code
    return error
