"""Shows what is wrong with a job, and what a dry run of it took."""

from __future__ import annotations

from pathlib import Path

import msgspec

from fedsag_cli.cli import display
from fedsag_cli.cli.display import Format
from fedsag_cli.cli.wording import duration, size
from fedsag_cli.errors import JobError, counted
from fedsag_cli.simulator.dry_run import DryRun, Estimate
from fedsag_cli.simulator.validation import Checked

_NOT_IN_IT = "what the server does between the tasks, and GPU memory, are not in it"


def show(checked: Checked, job: Path, output: Format) -> None:
    """Print the problems, and the notes. Raises JobError if there are problems."""
    for text in checked.notes:
        display.note(text)
    if output is Format.JSON:
        display.document([msgspec.to_builtins(problem) for problem in checked.problems])
    else:
        for problem in checked.problems:
            display.line(problem.text)
            if problem.hint:
                display.line(f"    hint: {problem.hint}")
    if checked.problems:
        raise JobError(f"{job}: {counted(len(checked.problems), 'problem')}")
    if output is Format.TXT:
        names = checked.planned.plan.names if checked.planned else []
        display.line(f"no problems: {job} can be run with {counted(len(names), 'client')}")


def show_dry_run(found: DryRun, output: Format) -> None:
    """Print what one task took, and the estimate of a run."""
    for text in found.notes:
        display.note(text)
    if output is Format.JSON:
        display.document(msgspec.to_builtins({"measured": found.measured, "estimate": found.estimate}))
        return
    seen, run = found.measured, found.estimate
    rows = [
        ("measured", f"task {seen.task} of {seen.site}, in a copy of the job"),
        ("start", f"{duration(seen.start_s)} until the task was sent"),
        ("task", duration(seen.task_s)),
        ("model", _bytes(seen.model)),
        ("client", f"{_bytes(seen.client_own)} of its own, {_bytes(seen.shared)} shared by all processes"),
        ("server", f"{_bytes(seen.server)} of its own"),
        ("estimate", f"-n {run.num_clients} -t {run.slots}; {_NOT_IN_IT}"),
        ("memory", _memory(run)),
        ("round", duration(run.round_s)),
        (
            "run",
            "no workflow has num_rounds"
            if run.run_s is None
            else f"{duration(run.run_s)}: {counted(run.num_rounds or 0, 'round')}",
        ),
    ]
    for name, text in rows:
        display.line(f"{name:<10} {text}")


def _memory(run: Estimate) -> str:
    if not run.memory:
        return "not known on this system"
    free = f"{_bytes(run.free)} are free" if run.free else "what is free is not known"
    most = ""
    if run.most is not None:
        flag = "-n" if run.stays else "-t"
        most = f", as is {flag} {run.most:,} at most" if run.fits else f"; {flag} {run.most:,} at most"
    does = ("it fits" if run.fits else "it does not fit") if run.free else ""
    return f"{_bytes(run.memory)}, {free}" + (f": {does}{most}" if does else "")


def _bytes(count: int) -> str:
    return size(count) if count else "an unknown amount"
