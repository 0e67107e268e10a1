"""The command `fedsag sweep`, which runs all variations of a job."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedsag_cli.cli import completion, display
from fedsag_cli.cli.display import Format
from fedsag_cli.cli.examples import example
from fedsag_cli.cli.options import (
    ClientsOption,
    FormatOption,
    GpusOption,
    JobArgument,
    LauncherOption,
    NumClientsOption,
    QuietOption,
    SlotsOption,
    TorchThreadsOption,
    TracebackOption,
    WorkersOption,
    check_output,
    folder_named,
    names_in,
)
from fedsag_cli.errors import Interrupted, RunError, UsageError, counted

if TYPE_CHECKING:
    from fedsag_cli.sweep import Settings

EXAMPLE = example("fedsag sweep jobs/first --set num_rounds=5,10 --seeds 1..3 -n 2 -t 2")


def sweep(
    job: JobArgument = Path("current_job"),
    sets: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=A,B",
            autocompletion=completion.keys_of_job,
            help="The values of a key of the job's config files. Can be repeated: every combination is run. Put double "
            "quotes around a value with a comma.",
        ),
    ] = None,
    seeds: Annotated[
        str,
        typer.Option("--seeds", metavar="1..5", help="The seeds: 1..5, or 1,2,7. Each combination is run with each."),
    ] = "0",
    jobs: Annotated[int, typer.Option("--jobs", metavar="K", help="Number of runs that go on at the same time.")] = 1,
    folder: Annotated[
        Path | None,
        typer.Option(
            "-w",
            "--workspace",
            metavar="FOLDER",
            parser=folder_named,
            help="The folder for all runs and the results; the same command again goes on with them. Default: "
            "sweep_workspace.",
        ),
    ] = None,
    num_clients: NumClientsOption = None,
    clients: ClientsOption = None,
    slots: SlotsOption = None,
    gpus: GpusOption = None,
    threads: TorchThreadsOption = None,
    launcher: LauncherOption = None,
    workers: WorkersOption = None,
    needed: Annotated[
        bool,
        typer.Option(
            "--needed", help="Leave out what an earlier run did: the same job, values, seed and clients, finished."
        ),
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Start anew a sweep that is in FOLDER: what it made is removed.")
    ] = False,
    metric: Annotated[
        str,
        typer.Option(
            "--metric",
            metavar="NAME",
            autocompletion=completion.metrics,
            help="The metric by which runs are compared (default: the job's key metric).",
        ),
    ] = "",
    lowest: Annotated[
        bool, typer.Option("--min", help="The lowest value of the metric is the best (default: by its name).")
    ] = False,
    quiet: QuietOption = False,
    output: FormatOption = Format.TXT,
    debug: TracebackOption = False,
) -> None:
    """Run a job with every combination of these values and seeds. torch is imported once for all runs.

    The options from -n to --workers are those of simulator, for each run.

    \b
    A run that fails does not stop the others. Exit codes, beside those of simulator:
      0    all runs finished
      4    a run failed
    """
    from fedsag_cli.cli import sweep_views
    from fedsag_cli.simulator.options import Options
    from fedsag_cli.simulator.signals import ignore_signals
    from fedsag_cli.sweep import Settings
    from fedsag_cli.sweep import sweep as run_sweep
    from fedsag_cli.sweep.variations import columns, read_seeds, read_setting

    if debug:
        display.show_tracebacks()
    check_output(output, (), quiet=quiet)
    settings = Settings(
        sets=sets or (),
        seeds=read_seeds(seeds),
        jobs=jobs,
        options=Options(
            num_clients=num_clients,
            clients=names_in(clients),
            slots=slots,
            gpus=gpus,
            threads=threads,
            launcher=launcher,
            workers=workers,
        ),
        needed=needed,
        force=force,
        metric=metric,
        lowest=True if lowest else None,
    )
    _check(settings)
    keys = columns([read_setting(word) for word in settings.sets])
    view = sweep_views.view(output, keys, settings.seeds, metric=metric, lowest=settings.lowest, quiet=quiet)
    try:
        swept = run_sweep(job, folder, settings, view)
    finally:
        view.close()
    ignore_signals()  # how the command ends is known, and is in the report
    view.end(swept)
    if swept.signal:
        raise Interrupted(swept.signal, hint="the same command again goes on with the sweep")
    if failed := swept.report.failed:
        error = RunError(f"{len(failed):,} of {counted(len(swept.report.results), 'run')} failed")
        error.details = sweep_views.causes(failed)
        error.hint = "the same command again runs those that failed"
        raise error


def _check(settings: Settings) -> None:
    if not settings.sets and len(settings.seeds) == 1:
        raise UsageError("a sweep needs several runs", hint="give --set KEY=A,B, or --seeds 1..5, or both")
