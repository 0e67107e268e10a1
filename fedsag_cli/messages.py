"""What travels: models between scripts and workflows, and the small messages that speak of them.

A script and a workflow hold an `FLModel`. On the socket only its facts travel; the tensors lie in a file without a name
whose descriptor goes along (see `tensors.py`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal, TypeAlias

import msgspec

from fedsag_cli.errors import TensorError

# the environment by which a process knows its run
ADDRESS = "FEDSAG_ADDRESS"
TOKEN = "FEDSAG_TOKEN"
SITE = "FEDSAG_SITE"
SEED = "FEDSAG_SEED"
PRELOAD = "FEDSAG_PRELOAD"  # modules, by commas

NUM_STEPS = "NUM_STEPS_CURRENT_ROUND"
FEDPROX_MU = "fedprox_mu"

LogKind: TypeAlias = Literal["metric", "param", "tag", "text"]
"""What trackers keep: numbers by step, settings of a run, words about it, and texts, by name or path."""


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


class Message(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag=True):
    """What travels on the socket. No tensors: those are in the file whose descriptor goes along."""


class ModelFacts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An FLModel without its tensors."""

    params_type: ParamsType | None = None
    metrics: dict[str, float] | None = None
    start_round: int | None = 0
    current_round: int | None = None
    total_rounds: int | None = None
    meta: dict[str, Any] = {}

    @classmethod
    def of(cls, model: FLModel) -> ModelFacts:
        return cls(
            params_type=model.params_type,
            metrics=model.metrics,
            start_round=model.start_round,
            current_round=model.current_round,
            total_rounds=model.total_rounds,
            meta=model.meta,
        )

    def with_params(self, params: dict[str, Any] | None) -> FLModel:
        return FLModel(
            params_type=self.params_type if params is not None else None,
            params=params,
            metrics=self.metrics,
            start_round=self.start_round,
            current_round=self.current_round,
            total_rounds=self.total_rounds,
            meta=dict(self.meta),
        )


class FilterSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One link of a filter chain: for which tasks (patterns allowed), and what to build."""

    tasks: list[str]
    path: str
    args: dict[str, Any] = {}


class ClientConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a client must know of its job: the words of its config_fed_client, resolved for its site."""

    tasks: tuple[str, ...] = ("train",)
    train_task_name: str = "train"
    evaluate_task_name: str = "validate"
    submit_model_task_name: str = "submit_model"
    train_with_evaluation: bool = False
    exchange_format: str = "raw"
    transfer_type: ParamsType = ParamsType.FULL
    launch_once: bool = True
    launch_timeout: float = 300.0
    memory_gc_rounds: int = 0
    cuda_empty_cache: bool = False
    task_data_filters: list[FilterSpec] = []
    task_result_filters: list[FilterSpec] = []


class Hello(Message, frozen=True, kw_only=True):
    """A client's first word: who it is, and the secret only this run's children know."""

    site: str
    token: str


class Welcome(Message, frozen=True, kw_only=True):
    """The server's answer to Hello: everything a client must know of the run."""

    job_id: str
    seed: int
    scratch: str
    config: ClientConfig


class Ready(Message, frozen=True, kw_only=True):
    """A client waits for its first task."""


class Assignment(Message, frozen=True, kw_only=True):
    """A task for one client; its model's tensors come along as a file.

    `tell_usage`: the answer should say what memory the client holds, which takes the kernel some milliseconds.
    """

    task_id: int
    task_name: str
    model: ModelFacts
    tell_usage: bool = False


class Usage(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Memory one client holds for itself, in bytes; `gpu_free` is what its GPU has left."""

    private: int = 0
    gpu: int = 0
    gpu_free: int = 0


class Answer(Message, frozen=True, kw_only=True):
    """What a client made of a task; its tensors come along as a file."""

    task_id: int
    model: ModelFacts
    usage: Usage | None = None
    seeded_itself: bool = False


class LogValues(Message, frozen=True, kw_only=True):
    """What a script says for trackers to keep, by name. `step` is whatever the script counts."""

    kind: LogKind
    values: dict[str, float | str]
    step: int | None = None

    def __post_init__(self) -> None:
        if any(isinstance(value, str) == (self.kind == "metric") for value in self.values.values()):
            raise ValueError(f"values of kind {self.kind} are of another type")


ToServer = Ready | Answer | LogValues
ToClient = Assignment
