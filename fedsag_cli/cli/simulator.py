"""The command `fedsag simulator`, which runs a job on this machine."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from fedsag_cli.cli import completion, display
from fedsag_cli.cli.display import Columns, Format
from fedsag_cli.cli.examples import example
from fedsag_cli.cli.options import (
    ClientsOption,
    FollowOption,
    FormatOption,
    GpusOption,
    JobArgument,
    LauncherOption,
    NumClientsOption,
    QuietOption,
    SlotsOption,
    TableOption,
    TorchThreadsOption,
    WorkersOption,
    check_output,
    folder_named,
    names_in,
)
from fedsag_cli.errors import FedsagError, Interrupted, JobError, RunError, UsageError

if TYPE_CHECKING:
    from fedsag_cli.events import Observer
    from fedsag_cli.report import Report

Shown = TypeVar("Shown")

DEBUG_HINT = "--debug SITE runs a client in the terminal; -debug shows where an error was raised"
EXAMPLE = example("fedsag simulator jobs/first -w workspaces/first -n 2 -t 2 --seed 1")


def _site(name: str) -> str:
    if not name or name.startswith("-"):  # it was a flag without a value
        raise UsageError("--debug needs the name of a client", hint=DEBUG_HINT)
    return name


def simulator(
    job: JobArgument = Path("current_job"),
    workspace: Annotated[
        Path | None,
        typer.Option(
            "-w",
            "--workspace",
            metavar="WS",
            parser=folder_named,
            autocompletion=completion.workspaces,
            help="The folder for all files of the run; a finished run in it is replaced. Default: simulator_workspace; "
            "a run in it is first moved to simulator_workspace.runs.",
        ),
    ] = None,
    num_clients: NumClientsOption = None,
    clients: ClientsOption = None,
    slots: SlotsOption = None,
    gpus: GpusOption = None,
    threads: TorchThreadsOption = None,
    launcher: LauncherOption = None,
    engine: Annotated[
        str,
        typer.Option(
            "--engine",
            metavar="local|ray",
            autocompletion=completion.engines,
            help="Where clients run: local, on this machine (default), or ray, on the nodes of a Ray cluster; -t and "
            "-gpu are then for each node.",
        ),
    ] = "local",
    address: Annotated[
        str | None,
        typer.Option(
            "--address",
            metavar="HOST:PORT",
            help="With --engine ray: the cluster to use. Without it, Ray starts on this machine, for this run.",
        ),
    ] = None,
    workers: WorkersOption = None,
    baseline: Annotated[
        list[str] | None,
        typer.Option(
            "--baseline",
            metavar="centralised|local",
            autocompletion=completion.baselines,
            help="After the run, let the script train as many steps on the data of all sites together, or at each "
            "site alone, and show the results side by side. Repeat it for both.",
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed",
            metavar="N",
            help="Random seed (default: custom_props.seed of the job, else a random number). The same seed gives the "
            "same model.",
        ),
    ] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            autocompletion=completion.keys_of_job,
            help="Set a value of the job's config files for this run; the job is not changed. Can be repeated. "
            "FILE:KEY=VALUE where several files know the key.",
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run in WS. Only -t, -gpu and --launcher may differ.")
    ] = False,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Start a new run though WS has an unfinished one, which is replaced, or without -w moved aside; with "
            "--resume: continue all the same.",
        ),
    ] = False,
    at: Annotated[
        str | None,
        typer.Option(
            "--at",
            metavar="ROUND",
            help="With --resume: begin a fork, a new run, after this round of the run in WS, if it was kept; "
            "after --at 3, its first round is 4. Its workspace is WS.forks/N. The run in WS stays as it is.",
        ),
    ] = None,
    keep_checkpoints: Annotated[
        str | None,
        typer.Option(
            "--keep-checkpoints",
            metavar="N|all",
            help="Keep the checkpoints of the last N rounds, or of all: --at can begin a fork after each (default: 1).",
        ),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="End the run when any client fails, even if enough clients answer.")
    ] = False,
    fail_under: Annotated[
        list[str] | None,
        typer.Option(
            "--fail-under",
            metavar="NAME=VALUE",
            help="End with exit code 4 if this metric of the final model (of the last round, if that is not measured) "
            "is under the value. May be given several times.",
        ),
    ] = None,
    fail_over: Annotated[
        list[str] | None,
        typer.Option(
            "--fail-over",
            metavar="NAME=VALUE",
            help="The same if the metric is over the value: for a loss or an error.",
        ),
    ] = None,
    max_time: Annotated[
        str | None,
        typer.Option(
            "--max-time",
            metavar="TIME",
            help="End the run with exit code 4 if it takes longer: 90s, 10m, 1h30m, 2d; a number alone is seconds.",
        ),
    ] = None,
    summary_file: Annotated[
        Path | None,
        typer.Option(
            "--summary",
            metavar="FILE",
            help="Append a section in Markdown about the run to this file, such as $GITHUB_STEP_SUMMARY in CI.",
        ),
    ] = None,
    max_clients: Annotated[
        int | None,
        typer.Option(
            "-m", "--max_clients", metavar="MAX", help="Largest number of clients allowed (default: no limit)."
        ),
    ] = None,
    quiet: QuietOption = False,
    follow: FollowOption = None,
    columns: TableOption = Columns.BRIEF,
    output: FormatOption = Format.TXT,
    debug: Annotated[
        str | None,
        typer.Option(
            "--debug",
            metavar="SITE",
            parser=_site,
            autocompletion=completion.sites,
            help="Run this client in the terminal, so that breakpoint(), pdb and input() work in its script. No time "
            "limit of a task then ends the wait for a client.",
        ),
    ] = None,
    tracebacks: Annotated[bool, typer.Option("-debug", help="Show the traceback of an error.")] = False,
    log_config: Annotated[  # noqa: ARG001
        str | None,
        typer.Option("-l", "--log_config", metavar="LOG", help="No effect; accepted so that old commands work."),
    ] = None,
    end_run_for_all: Annotated[  # noqa: ARG001
        bool, typer.Option("--end_run_for_all", help="No effect; accepted so that old commands work.")
    ] = False,
) -> None:
    """Run a job on this machine. The server and every client are processes of their own.

    \b
    Exit codes:
      0    every round is done, and the final model is written
      1    a bug in fedsag
      2    an option or the workspace is wrong
      3    the job, a template or a config file is wrong
      4    the run failed, took too long, or a metric is not good enough
      129  interrupted: the terminal was closed
      130  interrupted by Ctrl-C
      143  ended by SIGTERM
    """
    from fedsag_cli.cli import markdown, views
    from fedsag_cli.cli.failures import failures
    from fedsag_cli.cli.follow import Follow
    from fedsag_cli.cli.limits import OVER, UNDER, check, limits
    from fedsag_cli.cli.summary import summary
    from fedsag_cli.simulator import simulate
    from fedsag_cli.simulator.comparing import held, run_baseline
    from fedsag_cli.simulator.options import Options, count_or_all
    from fedsag_cli.simulator.signals import ignore_signals
    from fedsag_cli.simulator.time_limit import time_limit

    if tracebacks:
        display.show_tracebacks()
    options = Options(
        num_clients=num_clients,
        clients=names_in(clients),
        slots=slots,
        gpus=gpus,
        threads=threads,
        launcher=launcher,
        engine=engine,
        address=address,
        workers=workers,
        seed=seed,
        sets=sets or (),
        max_clients=max_clients,
        resume=resume,
        force=force,
        at=at,
        keep_checkpoints=count_or_all(keep_checkpoints),
        strict=strict,
        max_time=time_limit(max_time),
        debug=debug or "",
        follow=follow or (),
        baselines=baseline or (),
    )
    check_output(output, options.follow, quiet=quiet)
    if debug and output is Format.JSON:
        raise UsageError("--debug and --format json exclude each other", hint="leave one of them out")
    set_limits = [*limits(UNDER, fail_under or ()), *limits(OVER, fail_over or ())]
    if summary_file is not None:
        markdown.check_writable(summary_file)

    def shown_live(run: Callable[[Sequence[Observer]], Shown]) -> Shown:
        try:
            with (
                views.view(output, quiet=quiet, redraws=not debug) as shown,
                Follow(options.follow, shown.line) as followed,
            ):
                return run([shown, followed])
        except JobError as error:
            if error.others:
                command = shlex.join(["fedsag", "job", "validate", str(job)])
                error.details = [*error.details, f"    and {len(error.others)} more: {command} shows all"]
            raise
        except RunError as error:
            if error.report is not None:
                error.details = [
                    *failures(error.report, shown.told if display.share_a_reader() else ()),
                    *error.details,
                ]
            raise

    def run_baselines(report: Report) -> FedsagError | None:
        """The error of the first baseline that failed; or that which ended all of them."""
        failed: FedsagError | None = None
        try:
            with held(report) as place:
                for kind in options.baselines:
                    try:
                        shown_live(partial(run_baseline, kind, job, report, options, place))
                    except RunError as error:
                        failed = failed or error
        except FedsagError as error:
            return error
        return failed

    report: Report | None = None
    try:
        try:
            report = shown_live(partial(simulate, job, workspace, options))
            failed = run_baselines(report) if options.baselines else None
        finally:
            ignore_signals()  # how the command ends is known, and is in the report
        if output is Format.TXT:
            summary(report, columns, quiet=quiet)
        if not isinstance(failed, Interrupted):
            check(report, set_limits)
        if failed is not None:
            raise failed
    except FedsagError as error:
        if summary_file is not None and (ended := report or error.report) is not None:
            markdown.append(summary_file, ended, error)
        raise
    if summary_file is not None:
        markdown.append(summary_file, report)
