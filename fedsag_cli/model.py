"""Models, and what is asked and answered about them: what scripts, workflows and aggregators work with."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from fedsag_cli.errors import TensorError

NUM_STEPS = "NUM_STEPS_CURRENT_ROUND"


FEDPROX_MU = "fedprox_mu"


class ParamsType(str, Enum):
    """What `params` are: the weights themselves, or what training added to them."""

    FULL = "FULL"
    DIFF = "DIFF"


@dataclass
class FLModel:
    """A model on its way: parameters, what was measured with them, and the round they belong to.

    `params` maps str to torch tensors, numpy arrays or numbers. `metrics` maps str to whatever `float()` takes.
    `meta["NUM_STEPS_CURRENT_ROUND"]` is the weight of an update in the average. Not frozen: scripts assign to it.

    Raises ValueError where a params type comes without params or a round is negative, TypeError where metrics or meta
    are no dict.
    """

    params_type: ParamsType | None = None
    params: dict[str, Any] | None = None
    optimizer_params: dict[str, Any] | None = None
    metrics: dict[str, Any] | None = None
    start_round: int | None = 0
    current_round: int | None = None
    total_rounds: int | None = None
    meta: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.meta is None:
            self.meta = {}
        for name in ("metrics", "meta"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, Mapping):
                raise TypeError(f"FLModel {name} must be a dict, not {type(value).__name__}")
        for name in ("start_round", "current_round", "total_rounds"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 0):
                raise ValueError(f"FLModel {name} must be a whole number from 0 on, not {value!r}")
        if self.params_type is not None:
            self.params_type = ParamsType(self.params_type)
            if self.params is None:
                raise ValueError(f"FLModel params must be given when params_type is {self.params_type.value}")
        elif self.params is not None:
            self.params_type = ParamsType.FULL

    @property
    def num_steps(self) -> float:
        """The steps (or examples) it was trained for, 1.0 where meta does not say. Raises TensorError on nonsense."""
        steps = self.meta.get(NUM_STEPS, 1.0)
        try:
            number = float(steps)
        except (TypeError, ValueError):
            number = -1.0
        if not 0.0 <= number < float("inf"):
            raise TensorError(f"meta[{NUM_STEPS!r}] must be a number from 0 on, not {steps!r}")
        return number

    def at_round(self, round_num: int, num_rounds: int, *, start_round: int = 0) -> FLModel:
        """The same model, said to be the one sent in round `round_num`, of `num_rounds` that began at `start_round`."""
        return dataclasses.replace(self, current_round=round_num, total_rounds=num_rounds, start_round=start_round)

    def summary(self) -> dict[str, Any]:
        """What there is, without the tensors: sizes, metrics, rounds, meta."""
        return {
            "params": len(self.params or {}),
            "params_type": self.params_type.value if self.params_type else None,
            "optimizer_params": len(self.optimizer_params or {}),
            "metrics": self.metrics,
            "start_round": self.start_round,
            "current_round": self.current_round,
            "total_rounds": self.total_rounds,
            "meta": self.meta,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What clients are asked to do: a name their executors list, and the model to do it with."""

    name: str
    model: FLModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What one client answered to a task."""

    site: str
    model: FLModel
