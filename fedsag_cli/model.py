"""The public types for authors of components: models, tasks and replies, and where and when a component works.

    from fedsag_cli.model import NUM_STEPS, Cohort, Exchange, FLModel, Params, ParamsType, Reply, Stateful, Task

A training script has FLModel and ParamsType in `fedsag_cli.client` too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

from fedsag_cli.errors import TensorError

if TYPE_CHECKING:
    import numpy as np

Params: TypeAlias = dict[str, Any]
"""A model's parameters by name, in the order of its layers.

Each value is a torch tensor, a numpy array or numpy number, or a Python bool, int or float: any shape, any dtype of
numbers or booleans (floats of 64 to 8 bits, complex, integers of 64 to 8 bits). Values that share memory, such as tied
weights, still share it after they are sent. Names are strings. A value may also be bytes or a str, such as a tree of a
boosted model: only an aggregator with a `check` of its own takes these.
"""

Tree: TypeAlias = Any
"""What components and sites keep, or send in `meta`: dicts, lists, tensors, arrays, numbers, bools, texts, bytes, None.

Nested to 100 levels; tensors and arrays as in Params. The keys of a dict are names, or whole numbers as in the state of
torch's optimizers. A tuple comes back as a list.
"""

NUM_STEPS = "NUM_STEPS_CURRENT_ROUND"
"""The key in `FLModel.meta` for the number of steps, or examples, a site trained for: its weight in the mean."""

NUM_SAMPLES = "NUM_SAMPLES"
"""The key in `FLModel.meta` for the number of samples a site trains on, which the run shows; it is no weight."""

MODEL_OWNER = "model_owner"
"""The key in `FLModel.meta` of a task for the name of the model's owner, where several models are measured."""

FEDPROX_MU = "fedprox_mu"
"""The key in `FLModel.meta` under which the server sends FedProx's coefficient."""

SCAFFOLD_CTRL_GLOBAL = "scaffold_c_global"
"""The key in `FLModel.meta` under which the server sends SCAFFOLD's control variate c: a dict like params."""

SCAFFOLD_CTRL_DIFF = "scaffold_c_diff"
"""The key in `FLModel.meta` under which a site sends the change of its control variate c_i: a dict like params."""

FEDNOVA_STEPS = "fednova_steps"
"""The key in `FLModel.meta` for the length of a site's training as FedNova counts it: ||a_i||, for SGD its steps."""

STATISTICS = "statistics"
"""The key in `FLModel.meta` for statistics of data: in a task those asked for, each with its settings; in an answer the
values, by statistic, data set and feature.
"""

GLOBAL_STATISTICS = "global_statistics"
"""The key in `FLModel.meta` for statistics over all sites, by statistic, data set and feature."""

INITIAL_PARAMS = "initial_params"
"""The key in `FLModel.meta` for the settings of a model without params. `receive()` returns them as its params."""


class ParamsType(str, Enum):
    """What `params` are: FULL, the parameters themselves, or DIFF, trained minus received parameters."""

    FULL = "FULL"
    DIFF = "DIFF"


@dataclass
class FLModel:
    """A model that is sent: parameters, metrics, and the round they belong to. A script may assign to every field.

    `params_type`: what `params` are; the default is FULL if there are params.
    `params`: see Params; None in an answer that has metrics only.
    `optimizer_params`: for the script only; they are never sent.
    `metrics`: numbers by name, measured on the model that was received. `float()` must accept each.
    `start_round`, `current_round`, `total_rounds`: the first round, this round, and the number of rounds: whole
    numbers, at least 0. The server sets them.
    `meta`: other facts by name, see Tree; NUM_STEPS is the weight of this update in the mean.

    Raises ValueError if there is a params type without params, or a round is not a whole number of at least 0;
    TypeError if metrics or meta is not a dict.
    """

    params_type: ParamsType | None = None
    params: Params | None = None
    optimizer_params: Params | None = None
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
        """`meta[NUM_STEPS]`, by default 1.0. Raises TensorError if it is not a finite number of at least 0."""
        steps = self.meta.get(NUM_STEPS, 1.0)
        try:
            number = float(steps)
        except (TypeError, ValueError):
            number = -1.0
        if not 0.0 <= number < float("inf"):
            raise TensorError(f"meta[{NUM_STEPS!r}] must be a number from 0 on, not {steps!r}")
        return number

    def at_round(self, round_num: int, num_rounds: int, *, start_round: int = 0) -> FLModel:
        """This model for round `round_num`. The run has `num_rounds` rounds; the first is `start_round`."""
        return dataclasses.replace(self, current_round=round_num, total_rounds=num_rounds, start_round=start_round)

    def summary(self) -> dict[str, Any]:
        """The fields without the parameters themselves, of which it has the number."""
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
    """What a workflow asks clients to do.

    `name`: "train", "validate", "submit_model", or a name that the job defines. Clients whose executor lists it take
    the task. `model`: the model for the task; its params may be None.
    """

    name: str
    model: FLModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One client's answer to a task.

    `site`: the client's name, such as "site-1".
    `model`: its update, or only its metrics; params may be DIFF. The result filters of client and server have been
    applied. Its params are valid until the next reply is requested.
    """

    site: str
    model: FLModel
    keeper: Callable[[], FLModel] | None = dataclasses.field(default=None, repr=False, compare=False)

    def keep(self) -> FLModel:
        """The model, with params that are valid until the end of the round. Large ones do not stay in memory."""
        return self.model if self.keeper is None else self.keeper()


@dataclass(frozen=True, slots=True, kw_only=True)
class Cohort:
    """The clients that are asked in one round.

    `sites`: their names, in the order of the replies. `num_clients`: number of clients that take the task, asked or
    not. `rng`: random numbers for one component in this round.
    """

    sites: Sequence[str]
    num_clients: int
    round_num: int
    rng: np.random.Generator


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """Where a filter works: on a model that goes to a client with a task, or back with its answer.

    `site`: the client's name; "server" in the server, for a task that goes to several. `sent`: for an answer, the model
    that came with the task; None for a task. `rng`: random numbers for this filter, site, workflow, round and task; no
    other filter or site has the same. `state`: what this filter keeps for this site from task to task, a Tree. It is
    saved with the round.
    """

    site: str
    task: str
    round_num: int
    sent: FLModel | None
    rng: np.random.Generator
    state: MutableMapping[str, Tree]


@runtime_checkable
class Stateful(Protocol):
    """A component or workflow that keeps something from round to round: it is saved with each round's checkpoint."""

    def state(self) -> Tree:
        """What it keeps after the round that ends now."""

    def restore(self, state: Tree) -> None:
        """Keep this: what `state` returned before the run was resumed. It is called before the first round."""
