"""Differences of parameters, and parameters that differences change: torch tensors, numpy arrays or plain numbers.

A difference of integers or bools is int64. A value that did not change has the difference zero, also infinity and NaN,
and zero changes no bit. Bytes and texts have no difference: the new ones take the place of the old ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from fedsag_cli.errors import TensorError
from fedsag_cli.model import Params
from fedsag_cli.params.encoding import is_numeric, is_payload, is_torch
from fedsag_cli.params.values import (
    all_finite,
    as_array,
    bits,
    calculable,
    cast,
    dtype_name,
    in_form,
    in_numpy,
    is_finite,
    is_float,
    is_nan,
    kind,
    numpys,
    of_kind,
    pieces,
    row,
    saturated,
    shaped,
    widened,
)

_INT64 = np.dtype(np.int64)
_USE_FULL = 'set params_transfer_type to "FULL"'
_ROOM = 1 << 62  # the sum and the difference of two integers below it are int64


def difference(new: Mapping[str, Any], received: Mapping[str, Any]) -> Params:
    """new - received for the keys that both have, in the order of `received`. Raises TensorError if a shape differs.

    A value that cannot be sent stays as it is: a filter may remove it; else the error is that of FULL. So do bytes and
    texts.
    """
    return {
        name: _minus(name, new[name], base) if is_numeric(new[name]) and is_numeric(base) else new[name]
        for name, base in received.items()
        if name in new
    }


def scaled(diff: Mapping[str, Any], factor: float) -> Params:
    """The values multiplied by `factor`, in their own dtypes; integers and bools stay as they are."""
    if factor == 1.0:
        return dict(diff)
    return {name: value * factor if kind(value) in ("float", "complex") else value for name, value in diff.items()}


def applied(base: Mapping[str, Any], diff: Mapping[str, Any]) -> Params:
    """base + diff, in the dtypes of `base`; a key without a difference keeps its value. Raises TensorError if `diff`
    has a key that `base` does not have, or a shape differs."""
    _check_keys(base, diff)
    return {name: _plus(name, value, diff[name]) if name in diff else value for name, value in base.items()}


def replaced(base: Mapping[str, Any], new: Mapping[str, Any]) -> Params:
    """base with the values of `new`, in the kinds and dtypes of `base`. Raises TensorError as `applied` does.

    An empty `base` gets all keys.
    """
    if not base:
        return dict(new)
    _check_keys(base, new)
    return {name: _in_place_of(name, value, new[name]) if name in new else value for name, value in base.items()}


def is_all_finite(value: Any) -> bool:
    """Whether no element is NaN or infinite, as one quick pass can tell: False also where its sum overflows."""
    if not is_float(as_array(value)):
        return True
    (flat,) = in_numpy(row(value))
    return all_finite(flat)


def count_not_finite(value: Any, base: Any, *, is_diff: bool = False) -> int:
    """The number of elements that are NaN or infinite, and may not be so.

    They may where `base`, which has the same shape or is None, is not finite. But where it is infinite, only a
    difference may be NaN: infinity minus infinity, in a script that makes its own differences.
    """
    if not is_float(as_array(value)):
        return 0
    (flat,), count = in_numpy(row(value)), 0
    for part in pieces(flat):
        piece = flat[part]
        if not all_finite(piece):
            bad = ~is_finite(piece)
            if base is not None:
                below = _paired(base, value)[part]
                bad &= is_finite(below) | (is_nan(piece) & ~is_nan(below) & (not is_diff))
            count += int(bad.sum())
    return count


def count_lost(diff: Any, base: Any) -> int:
    """The number of elements that were NaN or infinite in `base` and are not now: `diff` cannot tell their value."""
    (flat,), count = in_numpy(row(diff)), 0
    if not is_float(flat):
        return 0
    for part in pieces(flat):
        piece = flat[part]
        if not all_finite(piece):
            count += int((~is_finite(piece) & ~is_nan(piece) & ~is_finite(_paired(base, diff)[part])).sum())
    return count


def count_beyond(value: Any, base: Any) -> int:
    """The number of elements that the dtype of `base`, which has the same kind of numbers, has no room for."""
    if dtype_name(value) == dtype_name(base) or kind(base) == "bool":
        return 0
    flat = row(value)
    if not is_float(flat):
        return int((saturated(flat, row(base).dtype) != flat).sum())
    return int((is_finite(flat) & ~is_finite(row(cast(value, base)))).sum())


def as_numpy(name: str, value: Any) -> Any:
    """A torch tensor as a numpy array with the same memory; other values unchanged. Raises TensorError on bfloat16."""
    if not is_torch(value):
        return value
    try:
        return value.detach().cpu().numpy()
    except TypeError:
        raise TensorError(
            f"params: {name!r} is {value.dtype}, which numpy does not have",
            hint='set params_exchange_format to "pytorch" or "raw"',
        ) from None


def as_torch(value: Any) -> Any:
    """A numpy array as a torch tensor with the same memory; other values unchanged."""
    if isinstance(value, np.ndarray):
        import torch

        return torch.from_numpy(value)
    return value


def _minus(name: str, new: Any, received: Any) -> Any:
    array = as_array(new)
    if is_torch(array):
        array = array.cpu()  # a script may send tensors from its GPU
    base = of_kind(as_array(received), array)
    if (shape := tuple(array.shape)) != tuple(base.shape):
        raise TensorError(f"params: {name!r} was received with shape {list(base.shape)} and is sent with {list(shape)}")
    if not is_float(array) and not is_float(base):
        flat = _integer_difference(name, row(array), row(base))
    elif (kind(array), kind(base)) in (("float", "float"), ("complex", "complex")):
        flat = _float_difference(row(array), row(base))
    else:
        return calculable(array) - calculable(base)  # of two kinds of numbers: the server's check is told
    return of_kind(shaped(flat, shape, is_complex=kind(array) == "complex"), array, is_own=True)


def _integer_difference(name: str, new: Any, base: Any) -> Any:
    if _has_room(new) and _has_room(base):
        return new.astype(_INT64) - base.astype(_INT64)
    exact = new.astype(object) - base.astype(object)
    if (exact != (whole := saturated(exact, _INT64))).any():
        raise TensorError(f"params: {name!r} changed by more than int64 holds", hint=_USE_FULL)
    return whole


def _float_difference(new: Any, base: Any) -> Any:
    new, base = in_numpy(calculable(new), calculable(base))
    with np.errstate(all="ignore"):
        diff = new - base
        if all_finite(diff):
            return diff
        if diff.dtype.itemsize < 8 and (~is_finite(diff) & is_finite(new) & is_finite(base)).any():
            return _float_difference(widened(new), widened(base))
    was_nan, is_alike = is_nan(base), numpys(new == base)
    diff[of_kind(is_alike | (was_nan & is_nan(new)), diff)] = 0
    diff[of_kind(was_nan & ~is_nan(new), diff)] = math.inf  # a change that no difference can tell
    return diff


def _plus(name: str, base: Any, diff: Any) -> Any:
    if is_payload(base) or is_payload(diff):
        return _payload(name, base, diff)
    array = as_array(base)
    change = of_kind(as_array(diff), array)
    if (shape := tuple(array.shape)) != tuple(change.shape):
        raise TensorError(
            f"params: {name!r} has a difference of shape {list(change.shape)} for a tensor of {list(shape)}"
        )
    if kind(change) == "complex" and kind(array) != "complex":
        raise TensorError(f"params: {name!r} has a complex difference for {kind(array)} numbers")
    if kind(array) == "complex":
        change = change + array * 0 if kind(change) != "complex" else change
    flat = _floats_changed(row(array), row(change)) if is_float(array) else _integers_changed(row(array), row(change))
    return in_form(of_kind(shaped(flat, shape, is_complex=kind(array) == "complex"), array, is_own=True), base)


def _integers_changed(base: Any, change: Any) -> Any:
    change = of_kind(change, None)
    if change.dtype.kind in "biu":
        room = _has_room(base) and _has_room(change)
        kind_of_sum: Any = _INT64 if room else object
        return saturated(base.astype(kind_of_sum) + change.astype(kind_of_sum), base.dtype)
    with np.errstate(all="ignore"):
        return np.where(change == 0, base, saturated(base + change.astype(np.float64), base.dtype))


def _floats_changed(base: Any, change: Any) -> Any:
    base, change = in_numpy(base, of_kind(change, base))
    with np.errstate(all="ignore"):
        total = cast(calculable(base) + calculable(change), base[:0])
        into, kept = bits(total), bits(base)
        for part in pieces(base):
            keep = numpys(change[part] == 0)  # -0.0 + 0 would be 0.0
            if not all_finite(total[part]):
                was_finite = is_finite(base[part])
                keep |= is_nan(change[part]) & ~was_finite
                lost = ~is_finite(total[part]) & was_finite & is_finite(change[part])
                ends = bits(_ends(base))
                np.copyto(into[part], np.where(numpys(change[part] > 0), ends[1], ends[0]), where=lost)
            np.copyto(into[part], kept[part], where=keep)
    return total


def _ends(like: Any) -> Any:
    """The least and the largest number of a dtype of floats."""
    if is_torch(like):
        import torch

        largest = torch.finfo(like.dtype).max
        return torch.tensor([-largest, largest], dtype=torch.float64).to(like.dtype)
    return np.array([np.finfo(like.dtype).min, np.finfo(like.dtype).max])


def _in_place_of(name: str, base: Any, new: Any) -> Any:
    if is_payload(base) or is_payload(new):
        return _payload(name, base, new)
    if (shape := tuple(as_array(base).shape)) != (got := tuple(as_array(new).shape)):
        raise TensorError(f"params: {name!r} has shape {list(got)}, the model has {list(shape)}")
    try:
        return cast(new, base)
    except TensorError as error:
        raise TensorError(f"params: {name!r}: {error.message}") from None


def _payload(name: str, base: Any, new: Any) -> Any:
    if type(base) is not type(new):
        raise TensorError(f"params: {name!r} is {type(new).__name__}, the model has {type(base).__name__}")
    return new


def _check_keys(base: Mapping[str, Any], update: Mapping[str, Any]) -> None:
    for name in update:
        if name not in base:
            raise TensorError(f"params: the update has {name!r}, which is not in the model")


def _paired(base: Any, value: Any) -> Any:
    """`base` as a row that has a number for each of the row of `value`."""
    like, array = as_array(value), of_kind(as_array(base), as_array(value))
    if kind(like) == "complex" and kind(array) != "complex":
        array = array.to(like.dtype) if is_torch(array) else array.astype(like.dtype)
    return of_kind(row(array), like)


def _has_room(integers: Any) -> bool:
    if not integers.size or integers.dtype.itemsize < 8:
        return True
    return bool(integers.max() < _ROOM and integers.min() >= -_ROOM)
