"""Weighted means and differences of parameters: torch tensors, numpy arrays or plain numbers.

Python's operators work for both torch and numpy, so each rule is written once. Dtypes: sums are float32 for float32
and narrower floats, float64 for float64, integers and bools, complex for complex; a difference of integers or bools is
int64.
"""

from __future__ import annotations

import cmath
from collections.abc import Mapping
from typing import Any

import numpy as np

from fedsag_cli.errors import TensorError
from fedsag_cli.model import Params
from fedsag_cli.params.encoding import is_torch

_TORCH_ALONE = ("torch.bfloat16", "torch.float8")  # numpy does not have these
_PIECE = 1 << 18  # elements: 1 MB of float32 stays in the cache for the multiplication and the addition


class WeightedSum:
    """The running sum of one key, sum_k n_k * v_k. Memory: one copy of the value for any number of clients.

    Each piece is multiplied, then added. With torch's `add_(alpha=)`, which rounds once while numpy rounds twice, a
    quarter of the last bits would differ between torch and numpy.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._total: Any = None
        self._first: Any = None  # an empty array with the kind and dtype of the first value
        self.weight = 0.0

    def check(self, value: Any) -> None:
        """Raises TensorError if the shape or kind of `value` differs from those added before."""
        if self._total is not None:
            shape = tuple(_as_array(value).shape)
            if shape != self._shape:
                raise TensorError(f"params: {self._name!r} has shape {list(shape)}, others sent {list(self._shape)}")
            if is_complex(value) != is_complex(self._first):
                raise TensorError(f"params: {self._name!r} is complex, but real in another update")

    def add_product(self, value: Any, weight: float) -> None:
        """Add `weight * value`. Raises TensorError as `check` does."""
        self.check(value)
        array = _as_array(value)
        if self._total is None:
            self._first = _empty_like(value)
            self._shape = tuple(array.shape)
            self._total = _zeros(array, sum_dtype(array))
        if is_torch(array) != is_torch(self._total):
            array = _of_kind(array, self._total)
        fresh = self.weight == 0.0
        scratch = self._total[:_PIECE] * 0
        flat = array.reshape(-1)
        for start in range(0, len(flat), _PIECE):
            piece, total = flat[start : start + _PIECE], self._total[start : start + _PIECE]
            product = scratch[: len(piece)]
            product[:] = piece
            product *= weight
            if fresh:
                total[:] = product
            else:
                total += product
        self.weight += weight

    def mean(self) -> Any:
        """The weighted mean, in the kind and dtype of the first value; integers rounded half to even. Call it once."""
        total = self._total
        total *= 1.0 / self.weight
        return cast(total.reshape(self._shape), self._first)


def sum_dtype(array: Any) -> Any:
    """The dtype for sums of values like `array`."""
    if is_torch(array):
        import torch

        if array.dtype.is_complex:
            return array.dtype
        return torch.float32 if array.dtype.is_floating_point and array.dtype.itemsize <= 4 else torch.float64
    if array.dtype.kind == "c":
        return array.dtype
    return np.dtype(np.float32 if array.dtype.kind == "f" and array.dtype.itemsize <= 4 else np.float64)


def is_complex(value: Any) -> bool:
    """Whether its numbers are complex."""
    return kind(value) == "complex"


def kind(value: Any) -> str:
    """The kind of its numbers: "bool", "integer", "float" or "complex"."""
    array = _as_array(value)
    if not is_torch(array):
        return {"b": "bool", "f": "float", "c": "complex"}.get(array.dtype.kind, "integer")
    if array.dtype.is_complex or array.dtype.is_floating_point:
        return "complex" if array.dtype.is_complex else "float"
    return "bool" if str(array.dtype) == "torch.bool" else "integer"


def dtype_name(value: Any) -> str:
    """The name of its dtype, such as "float32", for torch and numpy."""
    return str(_as_array(value).dtype).removeprefix("torch.")


def count_not_finite(value: Any, base: Any) -> int:
    """The number of elements that are NaN or infinite but finite in `base`, which has the same shape or is None."""
    array = _as_array(value)
    if not _is_float(array):
        return 0
    row = array.reshape(-1)
    count, total_dtype = 0, sum_dtype(array)
    for start in range(0, len(row), _PIECE):
        piece = _calculable(row[start : start + _PIECE])
        with np.errstate(all="ignore"):
            total = piece.sum(dtype=total_dtype).item()
        if not cmath.isfinite(total):  # a finite sum shows quickly that there is neither NaN nor infinity
            bad = ~_isfinite(piece)
            if base is not None:
                below = _of_kind(_as_array(base).reshape(-1)[start : start + _PIECE], array)
                bad &= _isfinite(_calculable(below))
            count += int(bad.sum())
    return count


def difference(new: Mapping[str, Any], received: Mapping[str, Any]) -> Params:
    """new - received for the keys that both have, in the order of `received`. Raises TensorError if a shape differs."""
    return {name: _minus(name, new[name], base) for name, base in received.items() if name in new}


def applied(base: Mapping[str, Any], diff: Mapping[str, Any]) -> Params:
    """base + diff, in the dtypes of `base`; a key without a difference keeps its value. Raises TensorError if `diff`
    has a key that `base` does not have, or a shape differs."""
    for name in diff:
        if name not in base:
            raise TensorError(f"params: the update has {name!r}, which is not in the model")
    return {name: _plus(value, diff[name]) if name in diff else value for name, value in base.items()}


def replaced(base: Mapping[str, Any], new: Mapping[str, Any]) -> Params:
    """base with the values of `new`, in the kinds and dtypes of `base`. New keys are added at the end."""
    known = {name: cast(_as_array(new[name]), value) if name in new else value for name, value in base.items()}
    return known | {name: value for name, value in new.items() if name not in base}


def weighted_means(measured: Mapping[str, Mapping[str, float]], weights: Mapping[str, float]) -> dict[str, float]:
    """For each metric, the weighted mean over the sites that measured it."""
    sums: dict[str, float] = {}
    totals: dict[str, float] = {}
    for site, metrics in measured.items():
        for name, value in metrics.items():
            sums[name] = sums.get(name, 0.0) + value * weights[site]
            totals[name] = totals.get(name, 0.0) + weights[site]
    return {name: sums[name] / totals[name] for name in sums if totals[name]}


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


def cast(array: Any, like: Any) -> Any:
    """`array` in the kind and dtype of `like`; floats become integers or bools by rounding half to even."""
    pattern = _as_array(like)
    array = _of_kind(array, pattern)
    if array.dtype == pattern.dtype:
        out = array
    elif is_torch(array):
        rounded = array.round() if array.dtype.is_floating_point and not _is_float(pattern) else array
        out = rounded.to(pattern.dtype)
    else:
        rounded = np.rint(array) if array.dtype.kind == "f" and not _is_float(pattern) else array
        out = rounded.astype(pattern.dtype)
    if isinstance(like, bool | int | float):
        return out.item()
    if is_torch(out):
        return out
    return out[()] if isinstance(like, np.generic) else np.asarray(out)  # numpy turns arrays without axes into scalars


def _minus(name: str, new: Any, received: Any) -> Any:
    array = _as_array(new)
    base = _of_kind(_as_array(received), array)
    if is_torch(array):
        array = array.detach().cpu()  # a script may send tensors from its GPU
    if tuple(array.shape) != tuple(base.shape):
        raise TensorError(
            f"params: {name!r} was received with shape {list(base.shape)} and is sent with {list(array.shape)}"
        )
    if not _is_float(array) and not _is_float(base):
        return _wide(array) - _wide(base)
    return _calculable(array) - _calculable(base)


def _plus(base: Any, diff: Any) -> Any:
    array = _as_array(base)
    change = _of_kind(_as_array(diff), array)
    if tuple(array.shape) != tuple(change.shape):
        raise TensorError(f"params: a difference of shape {list(change.shape)} for a tensor of {list(array.shape)}")
    return cast((_calculable(array) if _is_float(array) else _wide(array)) + _calculable(change), base)


def _as_array(value: Any) -> Any:
    return value if is_torch(value) else np.asarray(value)


def _of_kind(array: Any, pattern: Any) -> Any:
    if is_torch(pattern) and not is_torch(array):
        import torch

        return torch.from_numpy(np.array(array))
    if is_torch(array) and not is_torch(pattern):
        array = array.detach().cpu()
        return (array.float() if str(array.dtype).startswith(_TORCH_ALONE) else array).numpy()
    return array


def _calculable(array: Any) -> Any:
    """Floats of 8 bits as float32, since torch cannot calculate with them; other values unchanged."""
    return array.float() if is_torch(array) and str(array.dtype).startswith("torch.float8") else array


def _empty_like(value: Any) -> Any:
    """An empty array of the kind and dtype of `value`."""
    if is_torch(value):
        return value.new_empty(0)
    return np.empty(0, dtype=value.dtype) if isinstance(value, np.ndarray) else value


def _zeros(array: Any, dtype: Any) -> Any:
    if is_torch(array):
        import torch

        return torch.zeros(array.numel(), dtype=dtype)
    return np.zeros(array.size, dtype=dtype)


def _isfinite(array: Any) -> Any:
    return array.isfinite() if is_torch(array) else np.isfinite(array)


def _is_float(array: Any) -> bool:
    if is_torch(array):
        return bool(array.dtype.is_floating_point or array.dtype.is_complex)
    return array.dtype.kind in "fc"


def _wide(array: Any) -> Any:
    if is_torch(array):
        import torch

        return array.to(torch.int64)
    return array.astype(np.int64)
