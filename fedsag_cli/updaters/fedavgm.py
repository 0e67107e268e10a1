"""FedAvg with server momentum (Hsu et al., 2019, https://arxiv.org/abs/1909.06335).

    m  <-  beta * m  +  Delta
    x  <-  x  +  eta * m

Delta is the merged change of the model by the clients' training, and m is 0 before the first round.
"""

from __future__ import annotations

from typing import Annotated, Any

from fedsag_cli.arguments import Least, Most, checked
from fedsag_cli.facts import Facts
from fedsag_cli.model import FLModel, Tree
from fedsag_cli.updaters.pseudo_gradient import Eta, stepped


class FedAvgM:
    """Gradient descent with momentum, with the clients' merged change as the negative gradient."""

    facts = Facts()

    @checked
    def __init__(
        self,
        eta: Eta = 1.0,
        beta: Annotated[float, Least(0), Most(1), "share of the momentum that stays from round to round"] = 0.9,
    ) -> None:
        self._eta, self._beta = eta, beta
        self._m: dict[str, Any] = {}

    def update(self, model: FLModel, aggregate: FLModel) -> FLModel:
        return stepped(model, aggregate, self._step)

    def state(self) -> Tree:
        return dict(self._m)

    def restore(self, state: Tree) -> None:
        self._m = dict(state)

    def _step(self, name: str, delta: Any) -> Any:
        m = self._m[name] = self._beta * self._m.get(name, 0.0) + delta
        return self._eta * m
