"""From which number on a setting makes sense: what a constructor refuses, said before anything is started.

Asking the constructor would import numpy into the parent: a test holds these numbers against it.
"""

from __future__ import annotations

from collections.abc import Mapping

from fedsag_cli import catalog
from fedsag_cli.job.section import Section

LEAST: Mapping[str, Mapping[str, int]] = {
    "ScatterAndGather": {
        "min_clients": 1,
        "num_rounds": 1,
        "start_round": 0,
        "wait_time_after_min_received": 0,
        "train_timeout": 0,
        "persist_every_n_rounds": 0,
    },
}


def check(path: str, args: Section) -> None:
    """Raises JobError for a number that the component `path` refuses; what is no number is not judged."""
    for component, bounds in LEAST.items():
        if catalog.is_same(path, component):
            for name, least in bounds.items():
                value = args.values.get(name)
                if isinstance(value, int | float) and not least <= value < float("inf"):
                    raise args.wrong(name, f"must be a number from {least} on, not {value!r}")
