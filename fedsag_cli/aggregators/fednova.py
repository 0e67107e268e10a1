"""FedNova, the server's part (Wang et al., 2020, https://arxiv.org/abs/2007.07481, equations 5 and 9).

    x  <-  x  +  tau_eff * sum_i  p_i * (y_i - x) / ||a_i||        tau_eff = sum_i  p_i * ||a_i||

||a_i|| is how far site i trained, for plain SGD its number of local steps. p_i is the site's share of all examples. So
a site that makes more steps does not pull the model to its own optimum, as it does in FedAvg.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from fedsag_cli.aggregators.fedavg import FedAvg, NotAveraged, SiteWeights
from fedsag_cli.arguments import checked
from fedsag_cli.errors import TensorError
from fedsag_cli.facts import Facts
from fedsag_cli.model import FEDNOVA_STEPS, NUM_STEPS, Cohort, FLModel, Params, ParamsType, Reply
from fedsag_cli.params import arithmetic
from fedsag_cli.params.values import as_array, is_float

_STATISTICS = ("running_mean", "running_var")  # torch's names in batch norm layers: no gradient has changed them


class FedNova:
    """The mean of the clients' changes, each divided by how far it trained, times how far all trained on average.

    Each update has `meta["fednova_steps"]`, ||a_i||, which `fedsag_cli.client.fednova` counts, and as its weight
    `meta["NUM_STEPS_CURRENT_ROUND"]` the site's number of examples. Params that no gradient changes, integers and the
    statistics of batch norm layers, are averaged as FedAvg does.
    """

    facts = Facts()

    @checked
    def __init__(
        self,
        aggregation_weights: SiteWeights = None,
        exclude_vars: NotAveraged = None,
    ) -> None:
        self._site_weights = {site: float(weight) for site, weight in (aggregation_weights or {}).items()}
        self._trained = FedAvg(exclude_vars=exclude_vars)
        self._others = FedAvg(exclude_vars=exclude_vars)
        self._x: Params = {}
        self._sums = [0.0, 0.0, 0.0]

    def begin(self, sent: FLModel, cohort: Cohort) -> None:  # noqa: ARG002
        self._x = sent.params or {}

    def accept(self, reply: Reply) -> None:
        """Raises TensorError if ||a_i|| is missing or not above zero, or the global model has no params."""
        if not self._x:
            raise TensorError("FedNova needs a first model: the global model has no params")
        update, params = reply.model, reply.model.params or {}
        a_i, n_i = _length(update), self._site_weights.get(reply.site, 1.0) * update.num_steps
        if update.params_type is ParamsType.FULL:
            params = arithmetic.difference(params, self._x)
        for mean, weight, is_trained in ((self._trained, n_i / a_i, True), (self._others, n_i, False)):
            part = {name: value for name, value in params.items() if _is_trained(name, value) is is_trained}
            model = replace(update, params_type=ParamsType.DIFF, params=part, meta={NUM_STEPS: weight})
            mean.accept(Reply(site=reply.site, model=model))
        for place, term in enumerate((n_i, n_i * a_i, n_i / a_i)):
            self._sums[place] += term

    def aggregate(self) -> FLModel:
        n, na, n_over_a = self._sums
        self._sums = [0.0, 0.0, 0.0]
        factor = (na / n) * (n_over_a / n) if n else 0.0  # tau_eff * sum_i p_i / ||a_i||
        trained, others = self._trained.aggregate().params or {}, self._others.aggregate().params or {}
        merged = {name: mean * factor for name, mean in trained.items()} | others
        meta = {"tau_eff": na / n} if n else {}
        return FLModel(params_type=ParamsType.DIFF, params=merged, meta=meta)

    def excludes(self, name: str) -> bool:
        """Whether params of this name are not averaged."""
        return self._trained.excludes(name)


def _length(update: FLModel) -> float:
    """||a_i||. Raises TensorError."""
    steps = update.meta.get(FEDNOVA_STEPS)
    if isinstance(steps, int | float) and 0 < steps < math.inf:
        return float(steps)
    raise TensorError(
        f"meta[{FEDNOVA_STEPS!r}] must be a number above 0, not {steps!r}",
        hint="use fedsag_cli.client.fednova in the training script",
    )


def _is_trained(name: str, value: Any) -> bool:
    return is_float(as_array(value)) and not name.endswith(_STATISTICS)
