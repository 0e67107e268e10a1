"""Numbers in a page: many of them as text that a browser reads at once, and as few as a reader can see."""

from __future__ import annotations

import sys
from array import array
from base64 import b64encode
from collections.abc import Sequence

MISSING = float("nan")


def packed(values: Sequence[float | None], kind: str = "f") -> str:
    """The values as base64, lowest byte first: as float32, or as another kind of `array`. None is NaN."""
    numbers = array(kind, [MISSING if each is None else each for each in values])
    if sys.byteorder == "big":
        numbers.byteswap()
    return b64encode(numbers.tobytes()).decode()


def some(count: int, most: int) -> Sequence[int]:
    """At most about `most` of the positions below `count`, evenly spaced, with the first and the last."""
    if count <= max(most, 2):
        return range(count)
    step = -(-(count - 1) // (max(most, 2) - 1))
    chosen = list(range(0, count, step))
    return chosen if chosen[-1] == count - 1 else [*chosen, count - 1]
