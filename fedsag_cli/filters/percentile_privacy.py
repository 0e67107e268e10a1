"""Sends the largest changes only (Shokri and Shmatikov, 2015, https://doi.org/10.1145/2810103.2813687).

    δ_i  <-  0                    if |δ_i| is below the percentile of all |δ|
    δ_i  <-  clip(δ_i, -γ, γ)     otherwise

δ is the change by training, divided by the number of steps.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np

from fedsag_cli.arguments import Above, Least, Most, checked
from fedsag_cli.facts import Facts, Nvflare
from fedsag_cli.model import Exchange, FLModel
from fedsag_cli.params import updates
from fedsag_cli.params.values import of_kind, row


class PercentilePrivacy:
    """Sets small changes to zero and truncates large ones. It adds no noise, so there is no epsilon for it.

    The percentile is that of all floats of the update together. Params of one number without axes, integers and bools
    are sent as they are; the floats among the first count for the percentile. A FULL update is filtered by its
    difference to the model that was received.
    """

    facts = Facts(
        nvflare=Nvflare(
            path="nvflare.app_common.filters.percentile_privacy.PercentilePrivacy",
            expected={
                "data_kinds": (None, ["WEIGHT_DIFF"], ["WEIGHT_DIFF", "WEIGHTS"], ["WEIGHTS", "WEIGHT_DIFF"]),
            },
        )
    )

    @checked
    def __init__(
        self,
        percentile: Annotated[
            float, Least(0), Most(100), "changes whose absolute value is below this percentile are not sent"
        ] = 10,
        gamma: Annotated[float, Above(0), "largest absolute value of a change by one step"] = 0.01,
    ) -> None:
        self._percentile, self._gamma = percentile, gamma

    def process(self, model: FLModel, exchange: Exchange) -> FLModel:
        if model.params is None:
            return model
        steps = model.num_steps or 1.0
        change = updates.change_of(model, exchange.sent)
        deltas = {name: of_kind(row(value), None) / steps for name, value in updates.floats_of(change).items()}
        if not deltas:
            return model
        cutoff = np.percentile(np.abs(np.concatenate(list(deltas.values()))), self._percentile)
        for name, delta in deltas.items():
            if np.ndim(change[name]):
                delta[np.abs(delta) < cutoff] = 0.0
                change[name] = updates.narrowed(np.clip(delta, -self._gamma, self._gamma) * steps, change[name])
        return updates.with_change(model, change, exchange.sent)
