"""How a job script ends: after an error of fedsag with its message and its exit code; with a note if it ran no job."""

from __future__ import annotations

import atexit
import os
import sys
from types import TracebackType

from fedsag_cli.errors import FedsagError

_exit_code: list[int] = []
_made: list[str] = []  # jobs, and none of them was run or written


def job_made(name: str) -> None:
    """Remember that the script has made a job of this name."""
    _made.append(name)


def job_used() -> None:
    """The script has run or written a job: those that it made before were meant for that."""
    _made.clear()


def install() -> None:
    """Let an error of fedsag that the script does not catch be shown as the commands show it, without a traceback."""
    if sys.excepthook is not _shown:
        sys.excepthook = _shown
        atexit.register(_leave)  # first registered, so last called


def _shown(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    _made.clear()  # the error says enough
    if not isinstance(error, FedsagError):
        sys.__excepthook__(kind, error, trace)
        return
    from fedsag_cli.cli import display

    display.escape_unencodable()
    display.error(error)
    _exit_code.append(error.exit_code)


def _leave() -> None:
    """Python's own exit code after any error is 1."""
    if _made:
        from fedsag_cli.cli import display

        how = "call execute() of a recipe, or simulator_run() of a job"
        display.note(f"the script has made the job {_made[-1]}, but neither run nor written it: {how}")
    if _exit_code:
        for stream in (sys.stdout, sys.stderr):  # noqa: TID251  nothing is printed: what was, is written
            if stream is not None:
                stream.flush()
        os._exit(_exit_code[-1])
