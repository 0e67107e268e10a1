"""The weighted mean of one key: torch tensors, numpy arrays or plain numbers.

Sums are float32 for float32 and narrower floats, float64 for float64, integers and bools. Ordinary floats have
NVFLARE's arithmetic, bit for bit; the others have a second sum, see `edges`.
"""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np

from fedsag_cli.errors import TensorError
from fedsag_cli.params.edges import MOST_WEIGHT, FloatEdge, IntegerEdge, are_ordinary, are_small
from fedsag_cli.params.encoding import is_torch
from fedsag_cli.params.values import (
    PIECE,
    as_array,
    in_form,
    in_numpy,
    kind,
    multiply,
    of_kind,
    pieces,
    row,
    saturated,
    shaped,
    sum_dtype,
    widened,
)

_FIRST_WEIGHT = 20  # the first weight is about 2**20: a small number is not lost when it is multiplied by a later one


class WeightedSum:
    """The running sum of one key, sum_k n_k * v_k. Memory: one copy of the value for any number of clients.

    Each piece is multiplied, then added. With torch's `add_(alpha=)`, which rounds once while numpy rounds twice, a
    quarter of the last bits would differ between torch and numpy. The weights are multiplied by one power of two, which
    changes no bit of the mean: so weights of any size neither overflow nor vanish.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._like: Any = None  # what has the kind of the first value, and none of its memory
        self._total: Any = None
        self._dtype: Any = None  # of the mean
        self._exponent = 0
        self._weight = 0.0
        self._edges: dict[int, Any] = {}  # by the place where a piece begins

    def check(self, value: Any) -> None:
        """Raises TensorError if the shape or kind of `value` differs from those added before."""
        if self._total is not None:
            array = as_array(value)
            if (shape := tuple(array.shape)) != self._shape:
                raise TensorError(f"params: {self._name!r} has shape {list(shape)}, others sent {list(self._shape)}")
            if array.dtype != self._first_dtype and (got := _kind(value)) != self._kind:
                raise TensorError(f"params: {self._name!r} is {got}, but {self._kind} in another update")

    def add_product(self, value: Any, weight: float) -> None:
        """Add `weight * value`; the weight is above zero. Raises TensorError as `check` does."""
        self.check(value)
        (flat,) = in_numpy(row(value))
        if self._total is None:
            self._begin(value, flat, weight)
        flat = of_kind(flat, self._total)
        if flat.dtype != self._dtype:
            self._widen(flat)
        with np.errstate(all="ignore"):
            n_k = self._scaled(weight)
            scratch = self._total[:PIECE] * 0
            for part in pieces(flat):
                self._add(part.start, flat[part], self._total[part], scratch, n_k)
        self._weight += n_k

    def mean(self) -> Any:
        """The weighted mean, in the kind and dtype of the first value; integers rounded half to even. Call it once.

        Where clients sent several dtypes, it has the widest of them.
        """
        with np.errstate(all="ignore"):
            flat = self._integers() if self._kind == "integer" else self._floats()
        array = shaped(flat, self._shape, is_complex=self._kind == "complex")
        return in_form(of_kind(array, self._like, is_own=True), self._like)

    def _begin(self, value: Any, flat: Any, weight: float) -> None:
        self._kind, self._shape = _kind(value), tuple(as_array(value).shape)
        self._first_dtype = as_array(value).dtype
        self._like, self._dtype = _empty_like(value), flat.dtype
        self._total = _zeros(flat)
        self._exponent = _FIRST_WEIGHT - math.frexp(weight)[1]

    def _add(self, start: int, piece: Any, total: Any, scratch: Any, n_k: float) -> None:
        values = product = scratch[: len(piece)]
        if piece.dtype == product.dtype:
            values = piece
        else:
            values[:] = piece
        edge = self._edges.get(start)
        if edge is None and not (are_small(piece) if self._kind == "integer" else are_ordinary(values)):
            edge = (IntegerEdge if self._kind == "integer" else FloatEdge)(total, self._weight, piece)
            self._edges[start] = edge
        if edge is not None:
            edge.add(piece, n_k)
        if self._weight == 0.0:
            multiply(values, n_k, out=total)
        else:
            multiply(values, n_k, out=product)
            total += product

    def _widen(self, flat: Any) -> None:
        """Make room for a second dtype."""
        if self._kind == "integer":
            wider = np.promote_types(self._dtype, flat.dtype)
            self._dtype = wider if wider.kind in "biu" else np.dtype(np.int64)
            return
        if flat.dtype.itemsize > self._total.dtype.itemsize:
            self._total = widened(self._total)
        self._dtype = self._total.dtype

    def _scaled(self, weight: float) -> float:
        largest = max(math.frexp(weight)[1] + self._exponent, math.frexp(self._weight)[1])
        by = _FIRST_WEIGHT - largest if largest > MOST_WEIGHT else 0
        self._exponent += by
        while by:
            step = max(by, -500)  # a factor that float64 holds
            self._total *= 2.0**step
            self._weight = max(self._weight * 2.0**step, sys.float_info.min)
            for edge in self._edges.values():
                edge.scale(step)
            by -= step
        return math.ldexp(weight, self._exponent)

    def _floats(self) -> Any:
        self._total *= 1.0 / self._weight
        for part, edge in self._edges.items():
            edge.settle(self._total[part : part + PIECE], self._weight)
        flat = self._total.to(self._dtype) if is_torch(self._total) else self._total.astype(self._dtype, copy=False)
        for part, edge in self._edges.items():
            edge.restore(flat[part : part + PIECE], is_complex=self._kind == "complex")
        return flat

    def _integers(self) -> Any:
        self._total /= self._weight  # rounded once: a half stays one
        flat = saturated(self._total, self._dtype)
        for part, edge in self._edges.items():
            flat[part : part + PIECE] = saturated(edge.mean(), self._dtype)
        return flat


def _kind(value: Any) -> str:
    """The kind of its numbers, where bools are integers."""
    return "integer" if (found := kind(value)) == "bool" else found


def _empty_like(value: Any) -> Any:
    """An empty array of the kind and dtype of `value`; a number or a scalar as it is."""
    if is_torch(value):
        return value.new_empty(0)
    return np.empty(0, dtype=value.dtype) if isinstance(value, np.ndarray) else value


def _zeros(flat: Any) -> Any:
    """Zeros in the dtype of sums."""
    if is_torch(flat):
        import torch

        return torch.zeros(len(flat), dtype=sum_dtype(flat))
    return np.zeros(len(flat), dtype=sum_dtype(flat))
