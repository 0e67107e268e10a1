"""What server optimizers share: the pseudo-gradient of a round, and the params that are not optimized.

The aggregate's change of the model takes the place of a negative gradient (Reddi et al., 2021,
https://arxiv.org/abs/2003.00295, Algorithm 1). Only floats are optimized. Whole numbers, bools and complex numbers, and
the running statistics of torch's normalization layers are measured, not trained: they are averaged as in FedAvg.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Any, TypeAlias

import numpy as np

from fedsag_cli.arguments import Above
from fedsag_cli.model import FLModel, Params, ParamsType
from fedsag_cli.params import arithmetic
from fedsag_cli.params.values import as_array, calculable, dtype_name, kind, of_kind
from fedsag_cli.updaters.averaging import Averaging

Eta: TypeAlias = Annotated[float, Above(0), "the server's learning rate"]

Step: TypeAlias = Callable[[str, Any], Any]
"""The step of one key, for its name and its change: numpy arrays of float32, or of float64 if the change is that.

Each has one axis, whatever the shape of the key.
"""

_STATISTICS = re.compile(r"(^|\.)running_(mean|var)$")


def stepped(model: FLModel, aggregate: FLModel, step: Step) -> FLModel:
    """The model after the `step` of each key that is optimized; the other keys are averaged. Raises TensorError.

    A key that the aggregate does not have keeps its value. A model without params becomes the aggregate.
    """
    changes = pseudo_gradient(model, aggregate)
    others = {name: value for name, value in (aggregate.params or {}).items() if name not in changes}
    averaged = Averaging().update(model, replace(aggregate, params=others))
    with np.errstate(all="ignore"):
        steps = {name: step(name, _row(change)).reshape(np.shape(change)) for name, change in changes.items()}
    return replace(averaged, params=arithmetic.applied(averaged.params or {}, steps))


def pseudo_gradient(model: FLModel, aggregate: FLModel) -> Params:
    """The change by the aggregate of each key that is optimized. Raises TensorError."""
    base, merged = model.params or {}, aggregate.params or {}
    optimized = {name: merged[name] for name in base if name in merged and is_optimized(name, base[name])}
    return optimized if aggregate.params_type is ParamsType.DIFF else arithmetic.difference(optimized, base)


def is_optimized(name: str, value: Any) -> bool:
    """Whether a server optimizer changes this param of the model; if not, it is averaged."""
    return kind(value) == "float" and not _STATISTICS.search(name)


def _row(change: Any) -> Any:
    array = calculable(as_array(change))
    return of_kind(array, None).reshape(-1).astype(np.float64 if dtype_name(array) == "float64" else np.float32)
