"""The messages between the server and the clients.

Scripts and workflows use an `FLModel`. A message has all its fields except the tensors. These are in a file without a
name, whose descriptor is sent with the message (see `params.tensor_file`).
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import msgspec

from fedsag_cli.model import FLModel, Params, ParamsType
from fedsag_cli.plan import ClientConfig

# environment variables of a run's processes
ADDRESS = "FEDSAG_ADDRESS"
TOKEN = "FEDSAG_TOKEN"
RUN = "FEDSAG_RUN"  # the mark of a run, by which its processes are found
SITE = "FEDSAG_SITE"
PROCESS = "FEDSAG_PROCESS"  # of a client: its name, which is the site's or, for a further executor, longer
STARTED_AT = "FEDSAG_STARTED_AT"  # see events.STARTED
SEED = "FEDSAG_SEED"
PRELOAD = "FEDSAG_PRELOAD"  # names of modules, separated by commas
HIDDEN = "FEDSAG_HIDDEN"  # for the server: the secrets of the run, which it writes nowhere


LogKind: TypeAlias = Literal["metric", "param", "tag", "text"]
"""What a tracker stores: numbers by step, parameters of the run, tags, and texts by name or path."""


class Message(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag=True):
    """One message on the socket."""


class ModelFacts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An FLModel without its tensors. With a `params_type` it has params, perhaps of no key."""

    params_type: ParamsType | None = None
    metrics: dict[str, float] | None = None
    start_round: int | None = 0
    current_round: int | None = None
    total_rounds: int | None = None
    meta: dict[str, Any] = {}

    @classmethod
    def of(cls, model: FLModel) -> ModelFacts:
        return cls(
            params_type=None if model.params is None else model.params_type or ParamsType.FULL,
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
    """A client's first message: the name of its process, and the token that only the processes of this run have."""

    site: str
    token: str


class Welcome(Message, frozen=True, kw_only=True):
    """The server's answer to Hello, with the facts and settings that the client needs."""

    job_id: str
    seed: int
    scratch: str
    config: ClientConfig


class Ready(Message, frozen=True, kw_only=True):
    """A client is ready for its first task."""


class Assignment(Message, frozen=True, kw_only=True):
    """A task for one client. The tensors of its model are in the file that is sent with it.

    `workflow`: its number, from 0; `nth`: how often this client was asked before in this round. The random numbers of a
    task depend on them. `tell_usage`: whether the answer must have the client's memory usage, which takes some
    milliseconds to measure.
    """

    task_id: int
    task_name: str
    model: ModelFacts
    workflow: int = 0
    nth: int = 0
    tell_usage: bool = False


class Usage(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Memory in bytes: `private`, used only by this client; `gpu`, used on its GPU; `gpu_free`, free on that GPU."""

    private: int = 0
    gpu: int = 0
    gpu_free: int = 0


class Answer(Message, frozen=True, kw_only=True):
    """A client's answer to a task. The tensors of its model are in the file that is sent with it.

    `seeded_itself`: whether the script has set its own random seeds. `more_keys`: keys that the script gave and that
    are not in the tensors, since a difference needs a received value.
    """

    task_id: int
    model: ModelFacts
    usage: Usage | None = None
    seeded_itself: bool = False
    more_keys: list[str] = []


class LogValues(Message, frozen=True, kw_only=True):
    """Values that a script logs, by name. `step`: what the script counts, such as batches or epochs."""

    kind: LogKind
    values: dict[str, float | str]
    step: int | None = None

    def __post_init__(self) -> None:
        if any(isinstance(value, str) == (self.kind == "metric") for value in self.values.values()):
            raise ValueError(f"values of kind {self.kind} have the wrong type")


ToServer = Ready | Answer | LogValues
ToClient = Assignment
