"""The Gaussian mechanism for a client's update, before it leaves the client (local differential privacy).

    Δ  <-  Δ * min(1, S / |Δ|_2)  +  N(0, (z S)^2)

Δ is the change by training, S the clip norm, z the noise multiplier (McMahan et al., 2018,
https://arxiv.org/abs/1710.06963, whose server adds the noise once: see `aggregators.dp_fedavg`).
"""

from __future__ import annotations

from typing import Annotated

from fedsag_cli.arguments import Above, Least, checked
from fedsag_cli.facts import Facts
from fedsag_cli.model import Exchange, FLModel
from fedsag_cli.params import updates


class GaussianPrivacy:
    """Clips an update to an L2 norm and adds Gaussian noise to each of its numbers. For a client's task_result_filters.

    All params that are floats are clipped together, as one vector, and noised. The others, integers and bools, cannot
    be noised and are not sent: they do not change in the model. A FULL update is noised by its difference to the model
    that was received. The noise is drawn in float64 and the sum rounded to the dtype of the param. An update with NaN
    or infinity becomes NaN as a whole, which the server rejects. Metrics and the number of steps are sent as they are.
    """

    facts = Facts()

    @checked
    def __init__(
        self,
        clip_norm: Annotated[float, Above(0), "largest L2 norm of an update; a longer one is scaled down to it"],
        noise_multiplier: Annotated[float, Least(0), "standard deviation of the noise, divided by clip_norm"],
    ) -> None:
        self._clip_norm, self._noise_multiplier = clip_norm, noise_multiplier

    def process(self, model: FLModel, exchange: Exchange) -> FLModel:
        if model.params is None:
            return model
        change = updates.floats_of(updates.change_of(model, exchange.sent))
        factor = updates.clip_factor(updates.l2_norm(change), self._clip_norm)
        sigma = self._noise_multiplier * self._clip_norm
        for name, value in change.items():
            flat = updates.wide_row(value) * factor
            change[name] = updates.narrowed(flat + sigma * exchange.rng.standard_normal(flat.size), value)
        return updates.with_change(model, change, exchange.sent)
