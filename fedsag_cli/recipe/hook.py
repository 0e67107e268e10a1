"""Gives a job script `nvflare.*` such that fedsag simulates its jobs: in the Pythons of `fedsag run` only.

A program between `fedsag run` and the job script may pass on PYTHONPATH alone, as Auto-FL does.
"""

from __future__ import annotations

import os

from fedsag_cli.interop.job_scripts import EITHER, THEIRS, WITH


def install() -> None:
    """Make the names importable that the environment asks for, and end with fedsag's message and exit code."""
    from fedsag_cli.recipe import ending

    ending.install()
    if os.environ.setdefault(WITH, EITHER) == THEIRS:
        from fedsag_cli.recipe import theirs

        theirs.install()
    else:
        from fedsag_cli.recipe import ours

        ours.install()
