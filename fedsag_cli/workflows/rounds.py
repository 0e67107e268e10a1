"""The rounds that any workflow stands in."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from fedsag_cli.arguments import Least, Needs
from fedsag_cli.workflows.early_stopping import STOP_CONDITION

NumRounds: TypeAlias = Annotated[int, Least(1), "number of rounds"]
StartRound: TypeAlias = Annotated[int, Least(0), "number of the first round"]
PersistEvery: TypeAlias = Annotated[
    int, Least(0), "the global model is written after every so many rounds, and after the last (0: only after the last)"
]
StopCond: TypeAlias = Annotated[
    str | None,
    STOP_CONDITION,
    "ends the rounds early: after the first round in which this metric's mean over the clients, weighted by their "
    "steps, reaches the value",
]
Patience: TypeAlias = Annotated[
    int | None,
    Least(1),
    Needs("stop_cond"),
    "rounds in which stop_cond's metric is no better, after which they end",
]
