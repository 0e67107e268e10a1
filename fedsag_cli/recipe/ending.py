"""How a job script ends that meets an error of fedsag: with its message, and its exit code."""

from __future__ import annotations

import atexit
import os
import sys
from types import TracebackType

from fedsag_cli.errors import FedsagError

_exit_code: list[int] = []


def install() -> None:
    """Let an error of fedsag that the script does not catch be shown as the commands show it, without a traceback."""
    if sys.excepthook is not _shown:
        sys.excepthook = _shown
        atexit.register(_leave)  # first registered, so last called


def _shown(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if not isinstance(error, FedsagError):
        sys.__excepthook__(kind, error, trace)
        return
    from fedsag_cli.cli import display

    display.escape_unencodable()
    display.error(error)
    _exit_code.append(error.exit_code)


def _leave() -> None:
    """Python's own exit code after any error is 1."""
    if _exit_code:
        for stream in (sys.stdout, sys.stderr):  # noqa: TID251  nothing is printed: what was, is written
            if stream is not None:
                stream.flush()
        os._exit(_exit_code[-1])
