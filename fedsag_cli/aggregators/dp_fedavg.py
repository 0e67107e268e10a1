"""Federated averaging with client-level differential privacy: DP-FedAvg (McMahan et al., 2018,
https://arxiv.org/abs/1710.06963), with flat clipping and clients drawn without replacement.

    w  <-  w + (1 / m) * (sum_k  Δ_k * min(1, S / |Δ_k|_2)  +  N(0, (z S)^2))

m is the number of clients that were asked, S the clip norm, z the noise multiplier. All clients have the same weight:
weights by steps would let one client change the sum by more than S.
"""

from __future__ import annotations

import math
from typing import Annotated, Any

import numpy as np

from fedsag_cli.accountants import Spent
from fedsag_cli.accountants.gaussian import Delta, epsilon_of, library
from fedsag_cli.arguments import Above, Least, checked
from fedsag_cli.errors import JobError, TensorError
from fedsag_cli.facts import Facts
from fedsag_cli.model import Cohort, FLModel, Params, ParamsType, Reply, Tree
from fedsag_cli.params import updates


class DPFedAvg:
    """Clips each client's update, and adds noise to their sum, once, in the server. It keeps the account, too.

    All params of the model that are floats are clipped together, as one vector, and noised; integers and bools keep
    their values. A client that fails counts as one that changes nothing: the noise is not less, and the sum is still
    divided by m. Sums and noise are float64; the mean is rounded to the dtype of the param.

    The account is for the models that the server sends, for each client: two runs are neighbors if the data of one
    client are replaced by any other data. Clients are taken to be drawn at random without replacement, as the workflow
    does with `num_clients`; for other draws nothing is gained. It is not for metrics, numbers of steps and which
    clients failed, which the report shows; and it needs a secret seed, from which the noise is drawn.
    """

    facts = Facts()

    @checked
    def __init__(
        self,
        clip_norm: Annotated[float, Above(0), "largest L2 norm of an update; a longer one is scaled down to it"],
        noise_multiplier: Annotated[
            float, Least(0), "standard deviation of the noise in the sum of the updates, divided by clip_norm"
        ],
        delta: Delta = 1e-5,
    ) -> None:
        """Raises JobError if dp-accounting is not installed."""
        self._clip_norm, self._noise_multiplier, self._delta = clip_norm, noise_multiplier, delta
        self._rounds: dict[tuple[int, int], int] = {}  # how many, by the clients asked and all clients
        library()

    def begin(self, sent: FLModel, cohort: Cohort) -> None:
        """Raises JobError if the model has no params yet: the noise is for them."""
        if not sent.params:
            raise JobError("DPFedAvg needs a first model that has params")
        self._sent, self._cohort = sent, cohort
        self._model: Params = updates.floats_of(sent.params)
        self._sums = {name: np.zeros_like(updates.wide_row(value)) for name, value in self._model.items()}
        self._accepted: set[str] = set()
        self._num_clipped = 0

    def accept(self, reply: Reply) -> None:
        """Raises TensorError for an update that has no norm or does not fit the model, or is a client's second one."""
        if reply.site in self._accepted:
            raise TensorError(f"{reply.site} has sent an update in this round: a second one would not be accounted for")
        change = updates.floats_of(updates.change_of(reply.model, self._sent))
        factor = updates.clip_factor(updates.l2_norm(change), self._clip_norm)
        if math.isnan(factor):
            raise TensorError("the update has NaN or infinity, so no clipping makes it short")
        self._accepted.add(reply.site)
        self._num_clipped += factor < 1.0
        for name, value in change.items():
            self._sums[name] += updates.wide_row(value) * factor

    def aggregate(self) -> FLModel:
        """The mean change, with noise; `clipped` in its meta is the number of updates that were longer than S."""
        m, sigma, rng = len(self._cohort.sites), self._noise_multiplier * self._clip_norm, self._cohort.rng
        mean: dict[str, Any] = {}
        for name, value in self._model.items():
            total = self._sums.pop(name)
            mean[name] = updates.narrowed((total + sigma * rng.standard_normal(total.size)) / m, value)
        return FLModel(params_type=ParamsType.DIFF, params=mean, meta={"clipped": self._num_clipped})

    def spend(self, num_sampled: int, num_clients: int) -> Spent:
        drawn = (num_sampled, num_clients)
        self._rounds[drawn] = self._rounds.get(drawn, 0) + 1
        epsilon = epsilon_of(self._rounds, self._noise_multiplier, self._delta)
        whom = "all clients" if num_sampled == num_clients else f"{num_sampled} of {num_clients} clients drawn"
        return Spent(epsilon, self._delta, f"for the data of one client, by DPFedAvg, {whom} in each round")

    def state(self) -> Tree:
        return [[*drawn, count] for drawn, count in self._rounds.items()]

    def restore(self, state: Tree) -> None:
        self._rounds = {(asked, clients): count for asked, clients, count in state}
