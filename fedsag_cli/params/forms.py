"""Float params in a shorter form: one row of numbers or bytes, and what to tell beside it to get the param back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from fedsag_cli.errors import TensorError
from fedsag_cli.params.encoding import is_torch
from fedsag_cli.params.values import as_array, dtype_name, of_kind

Row = np.ndarray[Any, np.dtype[Any]]

_FLOATS = ("float64", "float32", "float16", "bfloat16")


def has_form(value: Any) -> bool:
    """Whether it is a torch tensor or a numpy array of floats of 16 to 64 bits."""
    return (is_torch(value) or isinstance(value, np.ndarray)) and dtype_name(value) in _FLOATS


def form_of(value: Any) -> dict[str, Any]:
    """Its dtype and its shape, as JSON has them."""
    return {"dtype": dtype_name(value), "shape": list(value.shape)}


def size_of(form: Mapping[str, Any]) -> int:
    """The number of elements. Raises TensorError if this is no form."""
    shape = form.get("shape")
    if form.get("dtype") not in _FLOATS or not isinstance(shape, list | tuple):
        raise TensorError(f"{form!r} is no dtype and shape of floats")
    if not all(isinstance(axis, int) and axis >= 0 for axis in shape):
        raise TensorError(f"{list(shape)!r} is no shape")
    return math.prod(shape)


def row_of(value: Any) -> Row:
    """The elements in a row of numpy, of the same dtype; float32 for bfloat16."""
    row: Row = of_kind(as_array(value), None).reshape(-1)
    return row


def row_dtype(form: Mapping[str, Any]) -> np.dtype[Any]:
    """The dtype of `row_of`."""
    return np.dtype("float32" if form["dtype"] == "bfloat16" else form["dtype"])


def formed(row: Row, form: Mapping[str, Any], like: Any) -> Any:
    """A row of numbers in this form: a torch tensor if `like` is one, else a numpy array."""
    if not is_torch(like):
        return row.astype(form["dtype"], copy=False).reshape(form["shape"])
    import torch

    return torch.from_numpy(row).to(getattr(torch, form["dtype"])).reshape(form["shape"])


def packed(first: Row, second: Row, like: Any) -> Any:
    """The bytes of two rows, one after the other: a row of uint8, of the same library as `like`."""
    both = np.concatenate([np.ascontiguousarray(part).view(np.uint8) for part in (first, second)])
    return of_kind(both, like) if is_torch(like) else both


def unpacked(value: Any, count: int, first: Any, second: Any) -> tuple[Row, Row]:
    """The two rows: `count` numbers of the dtype `first`, the rest of the dtype `second`. Raises TensorError."""
    data: Row = np.array(of_kind(as_array(value), None))
    ends = count * np.dtype(first).itemsize
    if data.dtype != np.uint8 or data.ndim != 1 or not 0 <= ends <= data.size:
        raise TensorError(f"{dtype_name(value)} numbers of shape {list(data.shape)} are no packed param")
    try:
        return data[:ends].view(first), data[ends:].view(second)
    except ValueError as error:
        raise TensorError(f"{data.size} bytes are no packed param: {error}") from None
