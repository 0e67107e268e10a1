"""The sparse vector technique (Lyu et al., 2017, https://arxiv.org/abs/1603.01699; Li et al., 2019, for federated
learning, https://arxiv.org/abs/1910.00962).

c numbers of an update are sent: those whose absolute value, with noise, is above a threshold with noise. δ is the
change by training, divided by the number of steps, and clipped to [-γ, γ].

    threshold  =  τ + Lap(γ / ε1)
    i is accepted  if  |δ_i| + Lap(2 c γ / ε2)  >=  threshold        (again for those not accepted, until c are)
    c of the accepted are drawn:  δ_i + Lap(2 c γ / ε3)  is sent, 0 for all others
"""

from __future__ import annotations

import math
from typing import Annotated, Any

import numpy as np

from fedsag_cli.arguments import Above, Least, Most, checked
from fedsag_cli.errors import JobError, TensorError
from fedsag_cli.facts import Facts, Nvflare
from fedsag_cli.model import Exchange, FLModel
from fedsag_cli.params import updates

_MOST_PASSES = 1000


class SVTPrivacy:
    """Sends a fraction of an update's numbers, with Laplace noise, and zeros.

    ε1 + ε2 = `epsilon`; by default ε1 : ε2 = 1 : (2 c)^(2/3). ε3 is `epsilon_release` or, by default, c times
    `noise_var`. These are the budgets of one update and one number of it, as NVFLARE counts them. fedsag gives no
    account for them: a number may be asked several times, and a client has many numbers.

    Params of one number without axes, integers and bools are sent as they are; the floats among the first take part
    in the draw. A FULL update is filtered by its difference to the model that was received. An update with NaN becomes
    NaN as a whole, which the server rejects.
    """

    facts = Facts(
        nvflare=Nvflare(
            path="nvflare.app_common.filters.svt_privacy.SVTPrivacy",
            expected={
                "data_kinds": (None, ["WEIGHT_DIFF"], ["WEIGHT_DIFF", "WEIGHTS"], ["WEIGHTS", "WEIGHT_DIFF"]),
            },
        )
    )

    @checked
    def __init__(
        self,
        fraction: Annotated[float, Above(0), Most(1), "share of the numbers of an update that are sent"] = 0.1,
        epsilon: Annotated[float, Above(0), "privacy budget for choosing the numbers"] = 0.1,
        noise_var: Annotated[
            float, Least(0), "privacy budget for sending one number, if epsilon_release is not given"
        ] = 0.1,
        gamma: Annotated[float, Above(0), "largest absolute value of a change by one step"] = 1e-5,
        tau: Annotated[float, "threshold for the absolute value of a change by one step"] = 1e-6,
        replace: Annotated[bool, "whether the accepted numbers are drawn with replacement"] = True,
        epsilon_threshold: Annotated[float | None, Above(0), "part of epsilon for the threshold"] = None,
        epsilon_query: Annotated[float | None, Above(0), "part of epsilon for the comparisons"] = None,
        epsilon_release: Annotated[float | None, Above(0), "privacy budget for sending the numbers"] = None,
    ) -> None:
        """Raises JobError if the parts of epsilon do not fit it, or there is no budget for sending."""
        self._fraction, self._gamma, self._tau, self._replace = fraction, gamma, tau, replace
        self._epsilon, self._noise_var = epsilon, noise_var
        self._threshold, self._query, self._release = epsilon_threshold, epsilon_query, epsilon_release
        self._parts(1)

    def process(self, model: FLModel, exchange: Exchange) -> FLModel:
        if model.params is None:
            return model
        steps = model.num_steps or 1.0
        change = updates.change_of(model, exchange.sent)
        floats = updates.floats_of(change)
        rows = {
            name: np.clip(updates.wide_row(value) / steps, -self._gamma, self._gamma) for name, value in floats.items()
        }
        if not sum(map(len, rows.values())):
            return model
        noised = self._sparse(np.concatenate(list(rows.values())), exchange.rng)
        ends = np.cumsum([len(flat) for flat in rows.values()])
        for name, flat in zip(rows, np.split(noised, ends[:-1]), strict=True):
            if np.ndim(change[name]):
                change[name] = updates.narrowed(flat * steps, change[name])
        return updates.with_change(model, change, exchange.sent)

    def _sparse(self, delta: np.ndarray[Any, Any], rng: np.random.Generator) -> np.ndarray[Any, Any]:
        if np.isnan(delta).any():
            return np.full_like(delta, math.nan)
        c = math.ceil(len(delta) * self._fraction)
        epsilon_1, epsilon_2, epsilon_3 = self._parts(c)
        threshold = self._tau + rng.laplace(scale=self._gamma / epsilon_1)
        accepted = np.zeros(len(delta), dtype=bool)
        for _ in range(_MOST_PASSES):
            if accepted.sum() >= c:
                break
            left = np.flatnonzero(~accepted)
            asked = np.abs(delta[left]) + rng.laplace(scale=2 * c * self._gamma / epsilon_2, size=len(left))
            accepted[left[asked >= threshold]] = True
        else:
            raise TensorError(
                f"SVTPrivacy: only {accepted.sum()} of {c} numbers were above the threshold in {_MOST_PASSES} passes",
                hint="lower tau, or raise gamma",
            )
        drawn = rng.choice(np.flatnonzero(accepted), size=c, replace=self._replace)
        sent = np.zeros(len(delta))
        sent[drawn] = delta[drawn] + rng.laplace(scale=2 * c * self._gamma / epsilon_3, size=c)
        return sent

    def _parts(self, c: int) -> tuple[float, float, float]:
        """The budgets for the threshold, for the comparisons and for sending."""
        first, second = self._threshold, self._query
        if first is None:
            first = self._epsilon - second if second is not None else self._epsilon / (1 + (2 * c) ** (2 / 3))
        if second is None:
            second = self._epsilon - first
        if min(first, second) <= 0 or not math.isclose(first + second, self._epsilon):
            raise JobError(
                f"epsilon_threshold and epsilon_query must be parts of epsilon, which is {self._epsilon:g}",
                hint="give one of them, and the other is what remains",
            )
        if self._release is None and not self._noise_var:
            raise JobError("noise_var must be above 0 if epsilon_release is not given")
        return first, second, self._release or c * self._noise_var
