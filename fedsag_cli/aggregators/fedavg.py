"""Federated averaging (McMahan et al., 2017, https://arxiv.org/abs/1602.05629).

    w  <-  sum_k  n_k / n  *  w_k

n_k is the number of steps (or examples) of client k times its site's weight; n is the sum of the n_k. Each key has its
own sum, so a client may send only some keys.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, TypeAlias

from fedsag_cli.arguments import EachLeast, Regex, checked
from fedsag_cli.errors import TensorError
from fedsag_cli.facts import Facts, Nvflare
from fedsag_cli.model import FLModel, ParamsType, Reply
from fedsag_cli.params.checks import check_is_numeric
from fedsag_cli.params.means import WeightedSum

SiteWeights: TypeAlias = Annotated[
    Mapping[str, float] | None, EachLeast(0), "factor of each site's weight (1.0 if a site is not named)"
]
NotAveraged: TypeAlias = Annotated[
    str | Sequence[str] | None,
    Regex(in_lists=True),
    "params whose name matches this regular expression are not averaged",
]
BySteps: TypeAlias = Annotated[
    bool, "whether a client's weight is its number of steps (false: all clients have the same weight)"
]


class FedAvg:
    """The weighted mean of the clients' params (FULL) or of their changes by training (DIFF), key by key.

    An excluded key keeps its value in the global model.
    """

    facts = Facts(
        nvflare=Nvflare(
            path="nvflare.app_common.aggregators.intime_accumulate_model_aggregator.InTimeAccumulateWeightedAggregator",
            also={"AccumulateWeightedAggregator": {}},
            expected={
                "expected_data_kind": (
                    "WEIGHT_DIFF",
                    "WEIGHTS",
                    {
                        "_model_weights_": "WEIGHT_DIFF",
                        "scaffold_c_diff": "WEIGHT_DIFF",
                    },  # see ScatterAndGatherScaffold
                )
            },
        )
    )

    @checked
    def __init__(
        self,
        aggregation_weights: SiteWeights = None,
        exclude_vars: NotAveraged = None,
        weigh_by_local_iter: BySteps = True,
    ) -> None:
        self._site_weights = {site: float(weight) for site, weight in (aggregation_weights or {}).items()}
        texts = [exclude_vars] if isinstance(exclude_vars, str) else exclude_vars or []
        self._excluded = [re.compile(text) for text in texts if text]
        self._by_steps = weigh_by_local_iter
        self._sums: dict[str, WeightedSum] = {}
        self._params_type: ParamsType | None = None

    def accept(self, reply: Reply) -> None:
        """An update of weight zero is ignored. Raises TensorError if FULL and DIFF are mixed, or a shape differs."""
        site, update = reply.site, reply.model
        n_k = self._site_weights.get(site, 1.0) * (update.num_steps if self._by_steps else 1.0)
        if n_k == float("inf"):
            raise TensorError(f"{site}: {update.num_steps} steps times its site's weight are too many")
        if self._params_type not in (None, update.params_type):
            raise TensorError(f"{site} sent {update.params_type}, others {self._params_type}")
        self._params_type = update.params_type
        if n_k == 0.0:
            return
        kept = {name: w_k for name, w_k in (update.params or {}).items() if not self.excludes(name)}
        for name, w_k in kept.items():  # before any key is added: a rejected update must not change the sums
            check_is_numeric(name, w_k)
            if name in self._sums:
                self._sums[name].check(w_k)
        for name, w_k in kept.items():
            self._sums.setdefault(name, WeightedSum(name)).add_product(w_k, n_k)

    def aggregate(self) -> FLModel:
        params = {name: total.mean() for name, total in self._sums.items()}
        merged = FLModel(params_type=self._params_type or ParamsType.FULL, params=params)
        self._sums, self._params_type = {}, None
        return merged

    def excludes(self, name: str) -> bool:
        """Whether params of this name are not averaged."""
        return any(pattern.search(name) for pattern in self._excluded)
