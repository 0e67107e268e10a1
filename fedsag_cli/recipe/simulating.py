"""Runs a job folder for a script, and shows what `fedsag simulator` shows."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fedsag_cli.cli import display, views
from fedsag_cli.cli.display import Columns, Format
from fedsag_cli.cli.failures import failures
from fedsag_cli.cli.summary import summary
from fedsag_cli.errors import RunError, UsageError
from fedsag_cli.interop.job_scripts import SEED, WITH, without_startup
from fedsag_cli.recipe.checking import path_of
from fedsag_cli.report import Report
from fedsag_cli.simulator import simulate
from fedsag_cli.simulator.options import Options
from fedsag_cli.simulator.options import split_gpus as split_gpus  # a name of job scripts, too


def simulate_job(
    job: Path, workspace: Path, *, clients: Sequence[str], threads: int | None = None, gpus: str | None = None
) -> Report:
    """Run the job in the folder `job` with these clients. A run in `workspace`, also an unfinished one, is replaced.

    Raises a FedsagError, as `simulate` does; one of a run that failed has the failures in its details.
    """
    options = Options(clients=clients, slots=threads, gpus=gpus, seed=_seed(), default_seed=0, force=True)
    try:
        with _as_for_processes(), views.view(Format.TXT) as shown:
            report = simulate(job, workspace, options, [shown])
    except RunError as error:
        if error.report is not None:
            told = shown.told if display.share_a_reader() else ()
            error.details = [*failures(error.report, told), *error.details]
        raise
    summary(report, Columns.BRIEF, quiet=False)
    return report


def simulate_exported(
    config: Any,
    workspace: str,
    clients: str | None = None,
    n_clients: int | None = None,
    threads: int | None = None,
    gpu: str | None = None,
    log_config: str | None = None,  # noqa: ARG001  the logs of all processes are in the workspace
) -> int:
    """Run a job that NVFLARE's FedJobConfig writes, in place of its method `simulator_run`. Raises a FedsagError."""
    names = [name.strip() for name in clients.split(",")] if clients else site_names(n_clients)
    write = config.generate_job_config
    simulate_beside(workspace, config.job_name, write, clients=names, threads=threads, gpus=gpu)
    return 0


def simulate_beside(workspace: str | os.PathLike[str], name: str, write: Callable[[str], object], **how: Any) -> Report:
    """Let `write` put the job `name` into a folder beside the workspace, and run it there as `simulate_job` does.

    The folder stays: the report and `fedsag runs` name it.
    """
    place = path_of(workspace, "workspace")
    folder = place.parent / f".{place.name}.job"
    write(str(folder))
    return simulate_job(folder / name, place, **how)


def site_names(count: int | None) -> list[str]:
    """The names that the simulator gives to so many clients."""
    return [f"site-{number}" for number in range(1, (count or 0) + 1)]


def _seed() -> int | None:
    text = os.environ.get(SEED, "")
    if text and not text.isdecimal():
        raise UsageError(f"{SEED}={text}: it must be a whole number")
    return int(text) if text else None


@contextmanager
def _as_for_processes() -> Iterator[None]:
    """The environment that the processes of a run get: without the names of jobs, and with the current folder.

    With NVFLARE, a script may import what lies in the folder from which its job was started.
    """
    before = dict(os.environ)
    os.environ["PYTHONPATH"] = os.pathsep.join([*without_startup(before.get("PYTHONPATH", "")), str(Path.cwd())])
    os.environ.pop(WITH, None)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
