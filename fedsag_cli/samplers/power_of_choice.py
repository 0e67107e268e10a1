"""Power-of-choice (Cho et al., 2020, https://arxiv.org/abs/2010.01243), in its variant rpow-d.

    A  <-  d clients drawn at random
    S  <-  the m clients of A on whose data the model was worst

How good the model is for a client is what that client measured last, on the model that it received then. A client that
has not measured any counts as worst.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from fedsag_cli.arguments import Least, checked
from fedsag_cli.events import RoundFinished
from fedsag_cli.facts import Facts

if TYPE_CHECKING:
    import numpy as np


class PowerOfChoice:
    """Draws candidates, all with the same probability, and takes those for which the model is worst.

    The more candidates, the sooner the model becomes better for the clients that it is bad for; with as many candidates
    as are asked the draw is random.
    """

    facts = Facts()

    @checked
    def __init__(
        self,
        num_candidates: Annotated[
            int | None, Least(1), "number d of clients to choose among (null: twice as many as are asked)"
        ] = None,
        key_metric: Annotated[str, "metric that says how good the model is for a client"] = "accuracy",
        negate_key_metric: Annotated[bool, "whether a smaller value of the metric is better"] = False,
    ) -> None:
        self._num_candidates = num_candidates
        self._key_metric, self._negate = key_metric, negate_key_metric

    def draw(
        self, takers: Sequence[str], count: int, history: Sequence[RoundFinished], rng: np.random.Generator
    ) -> Sequence[str]:
        size = min(len(takers), max(count, self._num_candidates or 2 * count))
        candidates = [takers[index] for index in rng.permutation(len(takers))[:size]]
        last = {site: metrics for finished in history for site, metrics in finished.by_site.items()}
        return sorted(candidates, key=lambda site: self._goodness(last.get(site, {}).get(self._key_metric)))[:count]

    def _goodness(self, value: float | None) -> float:
        return -math.inf if value is None else -value if self._negate else value
