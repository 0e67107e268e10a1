"""What travels: models between scripts and workflows, and the small messages that speak of them.

A script and a workflow hold an `FLModel`. On the socket only its facts travel; the tensors lie in a file without a name
whose descriptor goes along (see `params.tensor_file`).
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import msgspec

from fedsag_cli.model import FLModel, Params, ParamsType
from fedsag_cli.plan import ClientConfig

# the environment by which a process knows its run
ADDRESS = "FEDSAG_ADDRESS"
TOKEN = "FEDSAG_TOKEN"
SITE = "FEDSAG_SITE"
SEED = "FEDSAG_SEED"
PRELOAD = "FEDSAG_PRELOAD"  # modules, by commas


LogKind: TypeAlias = Literal["metric", "param", "tag", "text"]
"""What trackers keep: numbers by step, settings of a run, words about it, and texts, by name or path."""


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

    def with_params(self, params: Params | None) -> FLModel:
        return FLModel(
            params_type=self.params_type if params is not None else None,
            params=params,
            metrics=self.metrics,
            start_round=self.start_round,
            current_round=self.current_round,
            total_rounds=self.total_rounds,
            meta=dict(self.meta),
        )


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
