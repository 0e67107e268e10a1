"""What happens if a job script needs a name of NVFLARE that fedsag does not have."""

from __future__ import annotations

import importlib.machinery
import os
import sys

from fedsag_cli.cli import display
from fedsag_cli.errors import UsageError
from fedsag_cli.interop.job_scripts import EITHER, THEIRS, WITH


class Lacking(UsageError, ImportError):
    """Also an ImportError, for a script that has a way without what it imports."""


def lacking(what: str, *, hint: str = "") -> Lacking:
    """The error that names `what`. Where NVFLARE may take its place, the script begins again with NVFLARE instead."""
    installed = importlib.machinery.PathFinder.find_spec("nvflare") is not None
    if os.environ.get(WITH) == EITHER and installed:
        display.note(f"fedsag has no {what}: the script begins again with NVFLARE's own recipes")
        for stream in (sys.stdout, sys.stderr):  # noqa: TID251  nothing is printed: what was, is written
            stream.flush()
        words = sys.orig_argv
        os.execve(sys.executable, [sys.executable, *words[1:]], {**os.environ, WITH: THEIRS})
    with_theirs = "`fedsag run --with nvflare SCRIPT` uses NVFLARE's" if installed else "NVFLARE is not installed"
    return Lacking(f"fedsag has no {what}", hint="; ".join(filter(None, [hint, with_theirs])))
