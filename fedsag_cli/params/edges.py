"""Sums beside the usual one, for numbers for which the usual one is not exact: they are near an end of the range.

Floats: infinity, NaN, and what may overflow when it is summed. Integers: those of 64 bits that float64 cannot hold.
A value that all clients sent alike comes back to the bit. No mean leaves the range of what was averaged.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fedsag_cli.params.values import bits, copied, numpys, wide

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
    """The sum of a piece of floats in float64, with the least and the largest number of each place.

    A mask may be as large as the weights, and clients rarely change it: nothing is summed before two of them differ.
    """

    def __init__(self, total: Any, weight: float, piece: Any) -> None:
        """`total` and `weight`: what the usual sum has so far, all of it ordinary. `piece`: the first that is not."""
        self._limit = 2.0 ** (64 if total.dtype.itemsize == 4 else 512)
        self._first = copied(piece)
        self._weight = weight
        self._sum: Any = None
        if weight:
            self._begin(wide(total) / weight, is_first=False)

    def add(self, piece: Any, weight: float) -> None:
        is_alike = bits(piece) == bits(self._first) if piece.dtype == self._first.dtype else np.array(False)
        if self._sum is None and not is_alike.all():
            self._begin(wide(self._first), is_first=True)
        if self._sum is not None:
            numbers = wide(piece)
            self._is_near |= ~(np.abs(numbers) < self._limit)
            self._alike &= is_alike
            np.minimum(self._low, numbers, out=self._low)
            np.maximum(self._high, numbers, out=self._high)
            self._sum += numbers * (_DOWN * weight)
        self._weight += weight

    def scale(self, exponent: int) -> None:
        """Multiply all weights so far by a power of two, which is below one."""
        self._weight *= 2.0**exponent
        if self._sum is not None:
            self._sum *= 2.0**exponent

    def settle(self, mean: Any, weight: float) -> None:
        """Put the right means into the piece `mean` of the usual ones, where these may have overflowed."""
        if self._sum is None:
            return
        most = float(np.finfo(numpys(mean).dtype).max) / 4
        wrong = self._is_near & ~(np.maximum(-self._low, self._high) * weight < most)
        right = np.clip(self._sum / weight / _DOWN, self._low, self._high)
        numpys(mean)[wrong] = right[wrong]

    def restore(self, piece: Any, *, is_complex: bool) -> None:
        """Put the bits that all clients sent alike into the piece, if it has their dtype."""
        if piece.dtype != self._first.dtype:
            return
        near = ~(np.abs(wide(self._first)) < self._limit) if self._sum is None else self._is_near
        if is_complex:
            near = near.reshape(-1, 2).any(axis=1).repeat(2)
        np.copyto(bits(piece), bits(self._first), where=near if self._sum is None else near & self._alike)

    def _begin(self, numbers: Any, *, is_first: bool) -> None:
        """`numbers`: the mean so far. `is_first`: it is what each client sent."""
        numbers = numbers.astype(np.float64)
        self._sum = numbers * (_DOWN * self._weight)
        self._low, self._high = numbers.copy(), numbers.copy()
        self._is_near = ~(np.abs(numbers) < self._limit)
        self._alike = np.full(len(numbers), is_first)


class IntegerEdge:
    """The exact sum of a piece of 64-bit integers: Python's integers, made only when two clients differ."""

    def __init__(self, total: Any, weight: float, piece: Any) -> None:
        """As for floats."""
        self._weight = _whole(weight)
        self._first: Any = piece.copy()
        self._sum: Any = np.array([_whole(each) for each in total], dtype=object) if weight else None

    def add(self, piece: Any, weight: float) -> None:
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
