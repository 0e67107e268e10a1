"""`fedsag simulator`: run a job folder on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedsag_cli.cli.display import Format
from fedsag_cli.errors import RunError


def simulator(
    job: Annotated[Path, typer.Argument(metavar="JOB", help="The job folder.")] = Path("current_job"),
    workspace: Annotated[
        Path, typer.Option("-w", "--workspace", metavar="WS", help="Where everything of the run goes.")
    ] = Path("simulator_workspace"),
    num_clients: Annotated[
        int | None, typer.Option("-n", "--n_clients", metavar="N", help="So many clients: site-1 … site-N.")
    ] = None,
    clients: Annotated[
        str | None, typer.Option("-c", "--clients", metavar="A,B", help="The clients by name; wins over -n.")
    ] = None,
    slots: Annotated[
        int | None, typer.Option("-t", metavar="T", help="How many clients work at the same time (default: 1).")
    ] = None,
    gpus: Annotated[
        str | None,
        typer.Option("-gpu", "--gpu", metavar="IDS", help="GPU groups, such as 0,1 or [0,1],[2]: one client each."),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option("--threads", metavar="K", help="torch's threads in a client (default: cores / clients)."),
    ] = None,
    launcher: Annotated[
        str | None,
        typer.Option("--launcher", metavar="fork|spawn", help="How clients start; spawn where fork is not safe."),
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", metavar="N", help="The same seed gives the same model (default: drawn).")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in WS; -t, -gpu, --launcher may be given anew.")
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Any client that fails ends the run, also where min_clients is met.")
    ] = False,
    max_clients: Annotated[int, typer.Option("-m", "--max_clients", metavar="MAX", help="More is an error.")] = 100,
    output: Annotated[Format, typer.Option("--format", help="txt for people, json for one event a line.")] = Format.TXT,
    log_config: Annotated[  # noqa: ARG001
        str | None, typer.Option("-l", "--log_config", metavar="LOG", help="Accepted for old commands; no effect.")
    ] = None,
    end_run_for_all: Annotated[  # noqa: ARG001
        bool, typer.Option("--end_run_for_all", help="Accepted for old commands: every client is ended anyway.")
    ] = False,
) -> None:
    """Run a job on this machine: a server process and one process a client.

    Exit codes: 0 every round met its quorum and the final model is written; 2 usage: a flag, or the workspace; 3 a bad
    template, job or config; 4 the run failed: not enough clients, a time-out, the server died; 130 and 143 interrupted,
    by Ctrl-C and by SIGTERM; 1 a bug of fedsag's own.
    """
    from fedsag_cli.cli import views
    from fedsag_cli.simulator import simulate
    from fedsag_cli.simulator.options import Options

    options = Options(
        num_clients=num_clients,
        clients=[name.strip() for name in clients.split(",")] if clients is not None else (),
        slots=slots,
        gpus=gpus,
        threads=threads,
        launcher=launcher,
        seed=seed,
        max_clients=max_clients,
        resume=resume,
        strict=strict,
    )
    try:
        with views.view(output) as shown:
            report = simulate(job, workspace, options, [shown])
    except RunError as error:
        if error.report is not None:
            error.details = [*views.failures(error.report), *error.details]
        raise
    if output is Format.TXT:
        views.summary(report)
