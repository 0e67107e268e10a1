"""Attacks of clients on the model that they help to train: to see what an aggregator withstands.

They stand in a client's `task_result_filters`, and change what its script trained: the difference, or the whole model
(FULL), whose difference from the received model is changed. Whole numbers, such as counts of batches, stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Annotated, Any, TypeAlias

import numpy as np

from fedsag_cli.arguments import Least, checked
from fedsag_cli.facts import Facts
from fedsag_cli.model import Exchange, FLModel, ParamsType
from fedsag_cli.params import arithmetic
from fedsag_cli.params.values import as_array, calculable, cast, kind, of_kind

Sites: TypeAlias = Annotated[Sequence[str], "sites that attack, such as site-1"]


class SignFlipAttack:
    """Goes the opposite way: the difference times -scale (Li et al., 2019, https://arxiv.org/abs/1811.03761)."""

    facts = Facts()

    @checked
    def __init__(
        self, sites: Sites, scale: Annotated[float, Least(0), "factor of the difference that is sent"] = 1.0
    ) -> None:
        self._sites, self._scale = sites, scale

    def process(self, model: FLModel, exchange: Exchange) -> FLModel:
        return _attacked(self._sites, model, exchange, lambda change: change * -self._scale)


class ScalingAttack:
    """Goes too far: the difference times a factor (Bagdasaryan et al., 2020, https://arxiv.org/abs/1807.00459).

    With the number of clients as its factor, one client replaces the mean of all by its own model.
    """

    facts = Facts()

    @checked
    def __init__(
        self, sites: Sites, factor: Annotated[float, Least(0), "factor of the difference that is sent"] = 10.0
    ) -> None:
        self._sites, self._factor = sites, factor

    def process(self, model: FLModel, exchange: Exchange) -> FLModel:
        return _attacked(self._sites, model, exchange, lambda change: change * self._factor)


class NoiseAttack:
    """Adds Gaussian noise to the difference (Blanchard et al., 2017, https://arxiv.org/abs/1703.02757, Section 5)."""

    facts = Facts()

    @checked
    def __init__(
        self, sites: Sites, sigma: Annotated[float, Least(0), "standard deviation of the noise of each number"] = 1.0
    ) -> None:
        self._sites, self._sigma = sites, sigma

    def process(self, model: FLModel, exchange: Exchange) -> FLModel:
        def noisy(change: Any) -> Any:
            noise = exchange.rng.normal(0.0, self._sigma, np.shape(change))
            return change + of_kind(noise, change)

        return _attacked(self._sites, model, exchange, noisy)


def _attacked(sites: Sequence[str], model: FLModel, exchange: Exchange, attack: Callable[[Any], Any]) -> FLModel:
    """The model with each float's change as the attack makes it; the model itself at a site that does not attack."""
    if exchange.site not in sites or not model.params:
        return model
    floats = {name: value for name, value in model.params.items() if kind(value) == "float"}
    sent = (exchange.sent and exchange.sent.params) or {}
    is_diff = model.params_type is ParamsType.DIFF
    bases = {} if is_diff else {name: sent[name] for name in floats if name in sent}
    changes = {**floats, **arithmetic.difference(floats, bases)}
    changed = {name: cast(attack(calculable(as_array(change))), change) for name, change in changes.items()}
    moved = {**changed, **arithmetic.applied(bases, {name: changed[name] for name in bases})}
    return replace(model, params=model.params | moved)
