"""The command `fedsag run`, which runs a job script of NVFLARE's recipes, or a script that starts such scripts."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

from fedsag_cli import machine
from fedsag_cli.cli.examples import example
from fedsag_cli.errors import UsageError, nearest
from fedsag_cli.interop.job_scripts import EITHER, OURS, SEED, THEIRS, WITH, with_startup

EXAMPLE = example("fedsag run job.py --n_clients 2")

_LONGEST_FIRST_LINE = 256  # Linux reads no more of it


def run(
    script: Annotated[Path, typer.Argument(metavar="SCRIPT", help="The script, such as job.py or campaign.sh.")],
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="[ARGS]...", help="The script's own arguments.")
    ] = None,
    whose: Annotated[
        str | None,
        typer.Option(
            "--with",
            metavar="fedsag|nvflare",
            help="Whose recipes make the job: fedsag's, or those of the installed NVFLARE (default: fedsag's, and "
            "NVFLARE's if the script needs one that fedsag does not have).",
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed", metavar="N", min=0, help="Random seed of the runs (default: that of the job's meta file, else 0)."
        ),
    ] = None,
) -> None:
    """Run a script that makes a job with NVFLARE's recipes or its FedJob, as `python SCRIPT ARGS` does.

    fedsag simulates the job. NVFLARE need not be installed. SCRIPT may also be a script, in Python or for a shell, that
    starts job scripts: they run the same way.

    Options of this command stand before SCRIPT. With --export after it, the script only writes the job folder.

    \b
    Exit codes: that of the script; if a run fails, that of `fedsag simulator`.
    """
    if not script.is_file():
        raise UsageError(f"{script}: there is no such script")
    if whose not in (None, OURS, THEIRS):
        raise UsageError(f"--with {whose}: it must be {OURS} or {THEIRS}", hint=nearest(str(whose), [OURS, THEIRS]))
    if whose == THEIRS and importlib.util.find_spec("nvflare") is None:
        raise UsageError(f"--with {THEIRS}: NVFLARE is not installed", hint="pip install nvflare")
    command = [*_program(script), str(script), *(arguments or [])]
    modules = with_startup(os.environ.get("PYTHONPATH", ""))
    env = {**machine.with_own_programs(os.environ), "PYTHONPATH": modules, WITH: whose or EITHER}
    if seed is not None:
        env[SEED] = str(seed)
    os.execve(command[0], command, env)


def _program(script: Path) -> list[str]:
    """What runs the script: this Python, or the program that the script's first line names. Raises UsageError."""
    try:
        with script.open("rb") as file:
            first = file.readline(_LONGEST_FIRST_LINE)
    except OSError as error:
        raise UsageError(f"{script} cannot be read: {error.strerror}") from None
    if script.suffix == ".sh" and not first.startswith(b"#!"):
        first = b"#!sh"
    if not first.startswith(b"#!") or b"python" in first:
        return [sys.executable]
    program, *options = os.fsdecode(first[2:]).split() or [""]
    if (found := shutil.which(program)) is None:
        raise UsageError(f"{script}: its first line names {program!r}, and there is no such program")
    return [found, *options]
