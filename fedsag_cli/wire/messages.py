"""The messages between the server and the clients.

Scripts and workflows use an `FLModel`. A message has all its fields except the tensors. These are in a file without a
name, whose descriptor is sent with the message (see `params.tensor_file`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeAlias, TypeVar

import msgspec

from fedsag_cli.errors import BadMessage
from fedsag_cli.model import FLModel, Params, ParamsType
from fedsag_cli.plan import ClientConfig

_File = TypeVar("_File")

# environment variables of a run's processes
ADDRESS = "FEDSAG_ADDRESS"
TOKEN = "FEDSAG_TOKEN"
RUN = "FEDSAG_RUN"  # the mark of a run, by which its processes are found
SITE = "FEDSAG_SITE"  # a worker has none
INDEX = "FEDSAG_SITE_INDEX"  # of a client: its site's place in the order of the run's sites, from 0
COUNT = "FEDSAG_SITE_COUNT"  # the number of the run's sites
PROCESS = "FEDSAG_PROCESS"  # of a client: its name, which is the site's or, for a further executor, longer
WORKSPACE = "FEDSAG_WORKSPACE"  # for a worker: the folder with the clients' logs
STARTED_AT = "FEDSAG_STARTED_AT"  # see events.STARTED
SEED = "FEDSAG_SEED"
PRELOAD = "FEDSAG_PRELOAD"  # names of modules, separated by commas
HIDDEN = "FEDSAG_HIDDEN"  # for the server: the secrets of the run, which it writes nowhere

OF_SCRIPT, OF_FILTERS = "flare.state", "filters"
"""The trees in the file of what a site keeps from task to task: the script's part, and that of the client's filters."""

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
    """A client is ready for its first task; a worker's script, for its next one."""


class Assignment(Message, frozen=True, kw_only=True):
    """A task for one client. The tensors of its model are in the file that is sent with it.

    `workflow`: its number, from 0; `nth`: how often the client was asked before in this round of the workflow. The
    random numbers of a task depend on both. `tell_usage`: whether the answer must have the client's memory usage, which
    takes some milliseconds to measure. `has_state`: the last file that is sent with it has what the site keeps;
    otherwise the client's process has that already. `site`: for a worker, the client whose task it is, and `index` its
    place in the order of the run's sites; such a process has nothing of a site but what is sent.
    """

    task_id: int
    task_name: str
    model: ModelFacts
    workflow: int = 0
    nth: int = 0
    tell_usage: bool = False
    has_state: bool = False
    site: str = ""
    index: int = 0


class Usage(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Memory in bytes: `private`, used only by this client; `gpu`, used on its GPU; `gpu_free`, free on that GPU."""

    private: int = 0
    gpu: int = 0
    gpu_free: int = 0


class Answer(Message, frozen=True, kw_only=True):
    """A client's answer to a task. The tensors of its model are in the file that is sent with it.

    `seeded_itself`: whether the script has set its own random seeds. `more_keys`: keys that the script gave and that
    are not in the tensors, since a difference needs a received value. `has_state`: the last file that is sent with it
    has what the site keeps from now on; otherwise that has not changed. `num_samples`: how many samples the site trains
    on, if the script tells.
    """

    task_id: int
    model: ModelFacts
    usage: Usage | None = None
    seeded_itself: bool = False
    more_keys: list[str] = []
    has_state: bool = False
    num_samples: Annotated[int, msgspec.Meta(ge=0)] | None = None


class LogValues(Message, frozen=True, kw_only=True):
    """Values that a script logs, by name. `step`: what the script counts, such as batches or epochs."""

    kind: LogKind
    values: dict[str, float | str]
    step: int | None = None

    def __post_init__(self) -> None:
        if any(isinstance(value, str) == (self.kind == "metric") for value in self.values.values()):
            raise ValueError(f"values of kind {self.kind} have the wrong type")


def parted(files: Sequence[_File], *, has_state: bool) -> tuple[_File | None, _File | None]:
    """The file of the model and that of the site's state, of those that came with a message. Raises BadMessage."""
    models = files[: len(files) - has_state]
    if len(models) > 1 or len(files) < has_state:
        raise BadMessage(f"a message with {len(files)} files")
    return (models[0] if models else None), (files[-1] if has_state else None)


ToServer = Ready | Answer | LogValues
ToClient = Assignment
