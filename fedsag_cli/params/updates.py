"""What a client's training changed: the difference of an update to the model that was sent, in any transfer type."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from fedsag_cli.errors import TensorError
from fedsag_cli.model import FLModel, Params, ParamsType
from fedsag_cli.params import arithmetic
from fedsag_cli.params.keys import unknown_keys
from fedsag_cli.params.values import as_array, cast, is_float, kind, of_kind, row, shaped


def change_of(update: FLModel, sent: FLModel | None) -> Params:
    """The params of a DIFF update; for a FULL one, the differences of its params to those of the model that was sent.

    Raises TensorError if no params were sent, or the update has keys or shapes that the sent model does not have.
    """
    params = dict(update.params or {})
    if update.params_type is ParamsType.DIFF:
        return params
    base = _base(sent)
    if unknown := [name for name in params if name not in base]:
        raise unknown_keys(unknown, base)
    return arithmetic.difference(params, base)


def with_change(update: FLModel, change: Mapping[str, Any], sent: FLModel | None) -> FLModel:
    """`update`, in its transfer type, with another change. In a FULL one, a key without a change is as it was sent."""
    if update.params_type is ParamsType.DIFF:
        return replace(update, params=dict(change))
    base = {name: value for name, value in _base(sent).items() if name in (update.params or {})}
    return replace(update, params=arithmetic.applied(base, change))


def floats_of(params: Mapping[str, Any]) -> Params:
    """The params that are floats or complex numbers."""
    return {name: value for name, value in params.items() if is_float(as_array(value))}


def wide_row(value: Any) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The elements of floats in a row of float64, in memory of its own; complex numbers are pairs."""
    flat: np.ndarray[Any, np.dtype[np.float64]] = np.array(of_kind(row(value), None), dtype=np.float64)
    return flat


def narrowed(flat: np.ndarray[Any, Any], like: Any) -> Any:
    """The reverse of `wide_row`: a row of float64 in the form, shape and dtype of `like`."""
    array = as_array(like)
    return cast(shaped(flat, tuple(array.shape), is_complex=kind(array) == "complex"), like)


def l2_norm(params: Mapping[str, Any]) -> float:
    """The Euclidean norm of all floats together, calculated in float64; NaN or infinite if a number is."""
    with np.errstate(all="ignore"):
        return math.sqrt(sum(float(flat @ flat) for flat in map(wide_row, floats_of(params).values())))


def clip_factor(norm: float, clip_norm: float) -> float:
    """The factor that makes a norm at most `clip_norm`; NaN if the norm is no finite number."""
    if not math.isfinite(norm):
        return math.nan
    return min(1.0, clip_norm / norm) if norm else 1.0


def _base(sent: FLModel | None) -> Params:
    if sent is None or not sent.params:
        raise TensorError(
            "a whole model (FULL) is compared with the model that came with the task, and this task brought none",
            hint='set params_transfer_type to "DIFF", or name in tasks only those that train',
        )
    return sent.params
