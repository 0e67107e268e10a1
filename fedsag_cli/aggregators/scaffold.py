"""SCAFFOLD, the server's part (Karimireddy et al., 2020, https://arxiv.org/abs/1910.06378, algorithm 1).

    x  <-  x + mean_{i in S} (y_i - x)
    c  <-  c + |S| / N * mean_{i in S} (c_i+ - c_i)

S are the sites whose updates were accepted, N all sites. The paper's means have equal weights; here they are those of
FedAvg: weights by steps fit an objective in which each site counts by its steps. The server's learning rate is that of
an updater; without one it is 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from fedsag_cli.aggregators.fedavg import BySteps, FedAvg, NotAveraged, SiteWeights
from fedsag_cli.arguments import checked
from fedsag_cli.errors import TensorError
from fedsag_cli.facts import Facts
from fedsag_cli.model import (
    SCAFFOLD_CTRL_DIFF,
    SCAFFOLD_CTRL_GLOBAL,
    Cohort,
    FLModel,
    Params,
    ParamsType,
    Reply,
    Tree,
)
from fedsag_cli.params import arithmetic, checks


class Scaffold:
    """The weighted mean of the clients' params, as FedAvg's, and the control variate c, which is sent with each model.

    The sites' part is `fedsag_cli.client.scaffold`. An update without `meta["scaffold_c_diff"]` counts as failed.
    """

    facts = Facts(sends="the change of a control variate")

    @checked
    def __init__(
        self,
        aggregation_weights: SiteWeights = None,
        exclude_vars: NotAveraged = None,
        weigh_by_local_iter: BySteps = True,
    ) -> None:
        self._x_mean = FedAvg(aggregation_weights, exclude_vars, weigh_by_local_iter)
        self._c_mean = FedAvg(aggregation_weights, exclude_vars, weigh_by_local_iter)
        self._c: Params = {}
        self._num_replies = self._num_clients = 0

    def begin(self, sent: FLModel, cohort: Cohort) -> FLModel:
        """The model with c in its meta: zeros in the first round."""
        self._num_replies, self._num_clients = 0, cohort.num_clients
        self._c = self._c or _zeros(sent.params or {})
        return replace(sent, meta={**sent.meta, SCAFFOLD_CTRL_GLOBAL: self._c})

    def accept(self, reply: Reply) -> None:
        """Raises TensorError where FedAvg does, or if the change of c_i is missing or does not fit the params."""
        change = replace(reply.model, params_type=ParamsType.DIFF, params=_c_change(reply.model))
        self._x_mean.accept(reply)
        self._c_mean.accept(Reply(site=reply.site, model=change))
        self._num_replies += 1

    def aggregate(self) -> FLModel:
        change = self._c_mean.aggregate().params or {}
        share = self._num_replies / max(self._num_clients, self._num_replies, 1)
        self._c = arithmetic.applied(
            {**_zeros(change), **self._c}, {name: mean * share for name, mean in change.items()}
        )
        return self._x_mean.aggregate()

    def excludes(self, name: str) -> bool:
        """Whether params of this name are not averaged."""
        return self._x_mean.excludes(name)

    def state(self) -> Tree:
        return {"c": self._c}

    def restore(self, state: Tree) -> None:
        self._c = state["c"]


def _zeros(params: Mapping[str, Any]) -> Params:
    return arithmetic.difference(params, params)


def _c_change(update: FLModel) -> Params:
    """c_i+ - c_i for some of the update's params. Raises TensorError."""
    change = update.meta.get(SCAFFOLD_CTRL_DIFF)
    if not isinstance(change, Mapping):
        raise TensorError(
            f"meta has no {SCAFFOLD_CTRL_DIFF!r}, which the aggregator Scaffold needs",
            hint="use fedsag_cli.client.scaffold in the training script",
        )
    try:
        checks.check(replace(update, params_type=ParamsType.DIFF, params=dict(change)), update.params or {})
    except TensorError as error:
        raise TensorError(f"meta[{SCAFFOLD_CTRL_DIFF!r}]: {error.message}", hint=error.hint) from None
    return dict(change)
