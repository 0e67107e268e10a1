"""Gives a job script `nvflare.*` such that fedsag simulates its jobs: in the Pythons of `fedsag run` only."""

from __future__ import annotations

import os

from fedsag_cli.interop.job_scripts import THEIRS, WITH


def install() -> None:
    """Make the names importable that the environment asks for, and end with fedsag's message and exit code."""
    from fedsag_cli.recipe import ending

    ending.install()
    if os.environ[WITH] == THEIRS:
        from fedsag_cli.recipe import theirs

        theirs.install()
    else:
        from fedsag_cli.recipe import ours

        ours.install()
