"""Krum and Multi-Krum (Blanchard et al., 2017, https://arxiv.org/abs/1703.02757).

    s(i)  <-  sum of |w_i - w_j|^2 over the n - f - 2 updates j that are closest to update i

Krum takes the update with the smallest score; Multi-Krum the mean of the m updates with the smallest scores. Of n
updates, f may be anything, if n is at least 2 f + 3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np

from fedsag_cli.aggregators.kept import KeptUpdates, by_key, need
from fedsag_cli.arguments import Least, checked
from fedsag_cli.errors import JobError, TensorError
from fedsag_cli.facts import Facts
from fedsag_cli.model import Cohort, FLModel, Reply
from fedsag_cli.params.means import WeightedSum
from fedsag_cli.params.stacks import pieces
from fedsag_cli.params.values import as_array, is_float


class Krum:
    """The update that has the closest neighbours, or the mean of several such updates, FULL or DIFF.

    Only floats count for the distances. A client's number of steps does not count, as it could be a lie. Of equal
    scores the earlier site's is taken. The aggregate's meta has "chosen", the sites that were taken, the best first.
    """

    facts = Facts()

    @checked
    def __init__(
        self,
        num_byzantine: Annotated[
            int, Least(0), "number f of clients that may send anything; a round needs 2 f + 3 clients"
        ] = 1,
        num_chosen: Annotated[int, Least(1), "number m of updates to average (1: Krum, more: Multi-Krum)"] = 1,
    ) -> None:
        self._f, self._m = num_byzantine, num_chosen
        self._needed = max(2 * self._f + 3, self._f + self._m)
        self._who = f"Krum with num_byzantine = {self._f} and num_chosen = {self._m}"
        self._updates = KeptUpdates()
        self._names: set[str] = set()

    def begin(self, sent: FLModel, cohort: Cohort) -> None:  # noqa: ARG002
        """Raises JobError if fewer clients are asked than it needs."""
        if len(cohort.sites) < self._needed:
            raise JobError(
                f"{self._who} needs {self._needed} clients in each round, {len(cohort.sites)} are asked",
                hint="use more clients (-n), or a smaller num_byzantine",
            )

    def accept(self, reply: Reply) -> None:
        """Raises TensorError if the keys, a shape, a kind of number, or FULL and DIFF differ from the first update."""
        names = set(reply.model.params or {})
        self._names = self._names or names
        if different := sorted(names ^ self._names):
            raise TensorError(
                f"params: {reply.site} sent other keys than earlier sites, such as {different[0]!r}: Krum compares "
                "whole updates"
            )
        self._updates.add(reply)

    def aggregate(self) -> FLModel:
        """Raises RunError if there are fewer updates than it needs."""
        params_type, updates = self._updates.params_type, self._updates.take()
        self._names = set()
        if not updates:
            return FLModel(params={})
        need(self._needed, len(updates), self._who)
        scores = self._scores(_squared_distances(list(updates.values())))
        best = np.argsort(scores, kind="stable")[: self._m]
        chosen = [list(updates)[index] for index in best]
        params = _mean({site: updates[site] for site in updates if site in chosen})
        return FLModel(params_type=params_type, params=params, meta={"chosen": chosen})

    def _scores(self, distances: Any) -> Any:
        """The score of each update, from the squared distances (n, n); the smallest in a row is that to itself."""
        num_closest = len(distances) - self._f - 2
        return np.sort(distances, axis=1)[:, 1 : 1 + num_closest].sum(axis=1)


def _squared_distances(updates: Sequence[FLModel]) -> Any:
    """The squared distances of all pairs, of shape (n, n); infinite where a number is NaN or infinite."""
    total = np.zeros((len(updates), len(updates)))
    values = by_key({str(number): update for number, update in enumerate(updates)})
    with np.errstate(all="ignore"):
        for name in [name for name, each in values.items() if is_float(as_array(each[0]))]:
            for _, stack in pieces(values[name]):
                stack = stack.astype(np.float64)
                for index in range(len(stack) - 1):
                    gaps = stack[index + 1 :] - stack[index]
                    total[index, index + 1 :] += np.einsum("ue,ue->u", gaps, gaps)
    total = np.where(np.isnan(total), np.inf, total)
    return total + total.T


def _mean(updates: Mapping[str, FLModel]) -> dict[str, Any]:
    params: dict[str, Any] = {}
    for name, values in by_key(updates).items():
        total = WeightedSum(name)
        for value in values:
            total.add_product(value, 1.0)
        params[name] = total.mean()
    return params
