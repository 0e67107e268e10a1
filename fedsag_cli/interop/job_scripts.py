"""What `fedsag run` tells the Python that runs a job script, by variables of its environment."""

from __future__ import annotations

WITH = "FEDSAG_RUN_WITH"
"""Whose names of `nvflare` the script gets: OURS, THEIRS, or EITHER."""

SEED = "FEDSAG_RUN_SEED"
"""The seed of the runs that the script starts."""

OURS, THEIRS, EITHER = "fedsag", "nvflare", "either"
"""EITHER: fedsag's, and NVFLARE's if the script needs one that fedsag does not have."""
