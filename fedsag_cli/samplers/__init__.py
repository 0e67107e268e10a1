"""The contract of a sampler, which draws the clients that take part in a round."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from fedsag_cli.events import RoundFinished

if TYPE_CHECKING:
    import numpy as np


class Sampler(Protocol):
    """Draws the clients of a round."""

    def draw(
        self, takers: Sequence[str], count: int, history: Sequence[RoundFinished], rng: np.random.Generator
    ) -> Sequence[str]:
        """At least one of `takers`, the sites that take the task; a round asks those that it returns.

        `count`: the number of clients that the job asks for, at most the number of takers. `history`: the finished
        rounds of this workflow. `rng`: random numbers for this round.
        """
