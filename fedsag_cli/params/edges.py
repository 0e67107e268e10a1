"""Sums beside the usual one, for numbers for which the usual one is not exact: they are near an end of the range.

Floats: infinity, NaN, and what may overflow when it is summed. Integers: those of 64 bits that float64 cannot hold.
A value that all clients sent alike comes back to the bit. No mean leaves the range of what was averaged.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fedsag_cli.params.values import bits, numpys

MOST_WEIGHT = 50
"""The largest exponent of 2 for a weight: what is ordinary, times all weights, stays in the range."""

_LARGEST_INTEGER = 1 << 31
_DOWN = 2.0**-80  # float64's largest number, times all weights, stays in the range
_UNIT = 40  # an integer's weight is a whole number of 2**-40


def are_ordinary(floats: Any) -> bool:
    """Whether a row of float32 or float64 has neither NaN nor a number that is near an end of the range."""
    return math.isfinite(floats.dot(floats))  # one quick pass: a square overflows from 2**64, for float64 from 2**512


def are_small(integers: Any) -> bool:
    """Whether float64 has room for sums of these integers."""
    if integers.dtype.itemsize < 8 or not integers.size:
        return True
    return bool(integers.max() < _LARGEST_INTEGER and integers.min() >= -_LARGEST_INTEGER)


class FloatEdge:
    """The sum of a piece of floats in float64, with the least and the largest number of each place."""

    def __init__(self, total: Any, weight: float, piece: Any) -> None:
        """`total` and `weight`: what the usual sum has so far, all of it ordinary. `piece`: the first that is not."""
        before = numpys(total).astype(np.float64)
        self._limit = 2.0 ** (64 if total.dtype.itemsize == 4 else 512)
        self._sum = before * _DOWN
        self._low = before / weight if weight else np.full(len(before), np.inf)
        self._high = self._low.copy() if weight else np.full(len(before), -np.inf)
        self._dtype, self._first = piece.dtype, bits(piece).copy()
        self._alike = np.full(len(before), not weight)
        self._is_near = np.zeros(len(before), dtype=bool)

    def add(self, piece: Any, values: Any, weight: float) -> None:
        """`values`: those of `piece` in the dtype of the sum."""
        wide = numpys(values).astype(np.float64)
        self._is_near |= ~(np.abs(wide) < self._limit)
        self._alike &= bits(piece) == self._first if piece.dtype == self._dtype else False
        np.minimum(self._low, wide, out=self._low)
        np.maximum(self._high, wide, out=self._high)
        self._sum += wide * (_DOWN * weight)

    def scale(self, exponent: int) -> None:
        """Multiply all weights so far by a power of two, which is below one."""
        self._sum *= 2.0**exponent

    def settle(self, mean: Any, weight: float) -> None:
        """Put the right means into the piece `mean` of the usual ones, where these may have overflowed."""
        most = (float(np.finfo(np.float32).max) if mean.dtype.itemsize == 4 else float(np.finfo(np.float64).max)) / 4
        wrong = self._is_near & ~(np.maximum(-self._low, self._high) * weight < most)
        right = np.clip(self._sum / weight / _DOWN, self._low, self._high)
        numpys(mean)[wrong] = right[wrong]

    def restore(self, piece: Any, *, is_complex: bool) -> None:
        """Put the bits that all clients sent alike into the piece, if it has their dtype."""
        near = self._is_near.reshape(-1, 2).any(axis=1).repeat(2) if is_complex else self._is_near
        if piece.dtype == self._dtype:
            np.copyto(bits(piece), self._first, where=self._alike & near)


class IntegerEdge:
    """The exact sum of a piece of 64-bit integers: Python's integers, made only when two clients differ."""

    def __init__(self, total: Any, weight: float, piece: Any) -> None:
        """As for floats."""
        self._weight = _whole(weight)
        self._first: Any = piece.copy()
        self._sum: Any = np.array([_whole(each) for each in total], dtype=object) if weight else None

    def add(self, piece: Any, values: Any, weight: float) -> None:  # noqa: ARG002
        whole = _whole(weight)
        if self._sum is None and not np.array_equal(piece, self._first):
            self._sum = self._first.astype(object) * self._weight
        if self._sum is not None:
            self._sum += piece.astype(object) * whole
        self._weight += whole

    def scale(self, exponent: int) -> None:
        self._weight >>= -exponent
        if self._sum is not None:
            self._sum //= 1 << -exponent

    def mean(self) -> Any:
        """The means, rounded half to even."""
        if self._sum is None:
            return self._first
        doubled, unit = 2 * self._sum + self._weight, 2 * self._weight
        up = doubled // unit
        return up - ((doubled % unit == 0) & (up % 2 == 1))


def _whole(weight: float) -> int:
    return int(math.ldexp(weight, _UNIT))
