"""The values of one key from many updates, side by side: piece by piece, so that no value is in memory whole.

Floats up to 32 bits are calculated as float32, other numbers as float64: whole numbers beyond 2**53 are rounded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np

from fedsag_cli.errors import TensorError
from fedsag_cli.params.values import as_array, calculable, cast, kind, of_kind, row, shaped

Combine: TypeAlias = Callable[[Any], Any]
"""One number for each row: from an array of shape (elements, updates) with ascending rows to one of shape (elements,).

NaN is at the end of its row.
"""

_ROOM = 1 << 18  # elements of all updates together: they fit into the cache for several operations


def check_alike(name: str, value: Any, first: Any) -> None:
    """Raises TensorError if the shape or the kind of numbers of `value` is not that of the first update's."""
    if (shape := list(np.shape(value))) != (want := list(np.shape(first))):
        raise TensorError(f"params: {name!r} has shape {shape}, others sent {want}")
    if (got := _kind(value)) != (want_kind := _kind(first)):
        raise TensorError(f"params: {name!r} is {got}, but {want_kind} in another update")


def pieces(values: Sequence[Any]) -> Iterator[tuple[slice, Any]]:
    """The values of one key, which are alike: a slice of their elements, and these as an array (updates, elements).

    Complex numbers are pairs of elements.
    """
    rows = [row(value) for value in values]
    size = max(1, _ROOM // len(rows))
    dtype = np.float32 if all(_is_narrow(flat) for flat in rows) else np.float64
    for start in range(0, len(rows[0]), size):
        part = slice(start, start + size)
        yield part, np.stack([of_kind(calculable(flat[part]), None) for flat in rows], dtype=dtype)


def combined(values: Sequence[Any], combine: Combine) -> Any:
    """The values of one key, which are alike, as one: in the kind, the dtype and the shape of the first.

    Whole numbers are rounded half to even.
    """
    first = values[0]
    flat = np.empty(len(row(first)), np.float32 if all(_is_narrow(row(value)) for value in values) else np.float64)
    with np.errstate(all="ignore"):
        for part, stack in pieces(values):
            flat[part] = combine(np.sort(np.ascontiguousarray(stack.T), axis=1))  # 4 times as quick as along axis 0
    return cast(shaped(flat, tuple(np.shape(first)), is_complex=kind(first) == "complex"), first)


def _is_narrow(flat: Any) -> bool:
    """Whether the numbers are floats that float32 holds."""
    dtype = as_array(flat).dtype
    return bool(dtype.itemsize <= 4 and kind(flat) == "float")


def _kind(value: Any) -> str:
    """The kind of its numbers, where bools are integers: differences of bools are."""
    return "integer" if (found := kind(value)) == "bool" else found
