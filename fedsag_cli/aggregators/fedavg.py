"""Federated averaging (McMahan et al., 2017, https://arxiv.org/abs/1602.05629).

    w  <-  sum_k  n_k / n  *  w_k

n_k is the number of steps (or examples) client k trained on times its site's weight, n their sum. Each key has its own
sum: a client may send some keys only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from fedsag_cli.errors import JobError, TensorError
from fedsag_cli.model import FLModel, ParamsType
from fedsag_cli.params.arithmetic import WeightedSum


class FedAvg:
    """The weighted mean of the clients' weights (FULL) or of what they changed (DIFF).

    `aggregation_weights` maps a site to a factor, 1.0 where it names none. `exclude_vars` is a regular expression, or
    several: a key in which one is found is left out, and so keeps its value. `weigh_by_local_iter=False` makes every
    n_k the site's weight alone.
    """

    def __init__(
        self,
        aggregation_weights: Mapping[str, float] | None = None,
        exclude_vars: str | Sequence[str] | None = None,
        weigh_by_local_iter: bool = True,
    ) -> None:
        self._site_weights = {site: _weight(site, given) for site, given in (aggregation_weights or {}).items()}
        self._excluded = _patterns(exclude_vars)
        self._by_steps = weigh_by_local_iter
        self._sums: dict[str, WeightedSum] = {}
        self._params_type: ParamsType | None = None

    def accept(self, site: str, update: FLModel) -> None:
        """An update of weight zero counts nothing. Raises TensorError where FULL and DIFF meet, or a shape differs."""
        n_k = self._site_weights.get(site, 1.0) * (update.num_steps if self._by_steps else 1.0)
        if self._params_type not in (None, update.params_type):
            raise TensorError(f"{site} sent {update.params_type}, others {self._params_type}")
        self._params_type = update.params_type
        if n_k == 0.0:
            return
        kept = {name: w_k for name, w_k in (update.params or {}).items() if not self._excludes(name)}
        for name, w_k in kept.items():  # all or nothing: an update that is refused leaves the sums alone
            if name in self._sums:
                self._sums[name].check(w_k)
        for name, w_k in kept.items():
            self._sums.setdefault(name, WeightedSum(name)).add_product(w_k, n_k)

    def aggregate(self) -> FLModel:
        params = {name: total.mean() for name, total in self._sums.items()}
        merged = FLModel(params_type=self._params_type or ParamsType.FULL, params=params)
        self._sums, self._params_type = {}, None
        return merged

    def _excludes(self, name: str) -> bool:
        return any(pattern.search(name) for pattern in self._excluded)


def _weight(site: str, given: object) -> float:
    if isinstance(given, int | float) and 0.0 <= given < float("inf"):
        return float(given)
    raise JobError(f"aggregation_weights: {site} must be a number from 0 on, not {given!r}")


def _patterns(exclude_vars: str | Sequence[str] | None) -> list[re.Pattern[str]]:
    texts = [exclude_vars] if isinstance(exclude_vars, str) else list(exclude_vars or [])
    try:
        return [re.compile(text) for text in texts if text]
    except re.error as error:
        raise JobError(f"exclude_vars: {texts} is not a regular expression: {error}") from None
