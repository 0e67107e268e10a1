"""Shows what is wrong with a job."""

from __future__ import annotations

from pathlib import Path

import msgspec

from fedsag_cli.cli import display
from fedsag_cli.cli.display import Format
from fedsag_cli.errors import JobError, counted
from fedsag_cli.simulator.validation import Checked


def show(checked: Checked, job: Path, output: Format) -> None:
    """Print the problems, and the notes. Raises JobError if there are problems."""
    if output is Format.JSON:
        display.document([msgspec.to_builtins(problem) for problem in checked.problems])
    else:
        for problem in checked.problems:
            display.line(problem.text)
            if problem.hint:
                display.line(f"    hint: {problem.hint}")
        for text in checked.notes:
            display.line(f"note: {text}")
    if checked.problems:
        raise JobError(f"{job}: {counted(len(checked.problems), 'problem')}")
    if output is Format.TXT:
        names = checked.planned.plan.names if checked.planned else []
        display.line(f"no problems: {job} can be run with {counted(len(names), 'client')}")
