"""Selects the best model of a run by the metrics that the clients measured on each."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated

from fedsag_cli.arguments import EachLeast, checked
from fedsag_cli.facts import Facts, Nvflare
from fedsag_cli.params.metrics import weighted_mean


class IntimeModelSelector:
    """The score of a model: the weighted mean of one metric over the clients that received and measured the model."""

    facts = Facts(
        nvflare=Nvflare(
            path="nvflare.app_common.widgets.intime_model_selector.IntimeModelSelector",
            also={"IntimeModelSelectionHandler": {}},
            expected={"validation_metric_name": ("initial_metrics",)},
        )
    )

    @checked
    def __init__(
        self,
        key_metric: Annotated[str, "metric that says which model is the best"] = "val_accuracy",
        negate_key_metric: Annotated[bool, "whether a lower value is better, as for a loss"] = False,
        aggregation_weights: Annotated[
            Mapping[str, float] | None, EachLeast(0), "factor of each site's weight (1.0 for a site that is not named)"
        ] = None,
        weigh_by_local_iter: Annotated[bool, "whether a client's weight is its number of steps"] = False,
    ) -> None:
        self.key_metric = key_metric
        self._negate = negate_key_metric
        self._site_weights = dict(aggregation_weights or {})
        self._by_steps = weigh_by_local_iter
        self._measured: list[tuple[float, float]] = []  # values and their weights

    def accept(self, site: str, metrics: Mapping[str, float], num_steps: float) -> None:
        """Add one client's metrics. Metrics without a finite value of `key_metric` are ignored."""
        value = metrics.get(self.key_metric, math.nan)
        weight = self._site_weights.get(site, 1.0) * (num_steps if self._by_steps else 1.0)
        if math.isfinite(value) and weight > 0:
            self._measured.append((value, weight))

    def score(self) -> float | None:
        """The mean over the metrics that were accepted since the last call; None if there were none."""
        measured, self._measured = self._measured, []
        return weighted_mean(measured)

    def is_better(self, score: float, best: float | None) -> bool:
        """Whether `score` is strictly better than `best`, or the first score."""
        return best is None or (score < best if self._negate else score > best)
