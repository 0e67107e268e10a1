"""What `fedsag run` tells the Python that runs a job script, by variables of its environment."""

from __future__ import annotations

import os

from fedsag_cli.interop.shim import STARTUP

WITH = "FEDSAG_RUN_WITH"
"""Whose names of `nvflare` the script gets: OURS, THEIRS, or EITHER."""

SEED = "FEDSAG_RUN_SEED"
"""The seed of the runs that the script starts."""

OURS, THEIRS, EITHER = "fedsag", "nvflare", "either"
"""EITHER: fedsag's, and NVFLARE's if the script needs one that fedsag does not have."""

_MARK = os.path.join(STARTUP, "of_job_scripts")  # noqa: PTH118


def with_startup(modules: str) -> str:
    """`modules`, a PYTHONPATH, for a job script and all that it starts.

    It says itself whose it is: where a program passes few variables on, it may be all that arrives. There is no folder
    of this name.
    """
    return os.pathsep.join(filter(None, [STARTUP, _MARK, modules]))


def without_startup(modules: str) -> list[str]:
    """The folders of a PYTHONPATH without those of `with_startup`."""
    return [each for each in modules.split(os.pathsep) if each and each not in (STARTUP, _MARK)]
