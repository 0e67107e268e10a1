"""FedAdagrad, FedYogi and FedAdam (Reddi et al., 2021, https://arxiv.org/abs/2003.00295, Algorithm 2).

    m  <-  beta1 * m  +  (1 - beta1) * Delta
    v  <-  v + Delta^2                                         (FedAdagrad)
    v  <-  v - (1 - beta2) * Delta^2 * sign(v - Delta^2)       (FedYogi)
    v  <-  beta2 * v + (1 - beta2) * Delta^2                   (FedAdam)
    x  <-  x  +  eta * m / (sqrt(v) + tau)

Delta is the merged change of the model by the clients' training. Before the first round m is 0 and v is tau^2. As in
the paper, neither is corrected for its bias. Each key has its own m and v, which a round without the key does not
change.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

import numpy as np

from fedsag_cli.arguments import Above, Least, Most, checked
from fedsag_cli.facts import Facts
from fedsag_cli.model import FLModel, Tree
from fedsag_cli.updaters.pseudo_gradient import Eta, stepped

Beta1: TypeAlias = Annotated[float, Least(0), Most(1), "share of the mean change m that stays from round to round"]
Beta2: TypeAlias = Annotated[float, Least(0), Most(1), "share of the squared change v that stays from round to round"]
Tau: TypeAlias = Annotated[float, Above(0), "how little adaptive a step is: the larger, the more alike are all keys"]


class _Adaptive:
    def __init__(self, eta: float, beta1: float, tau: float) -> None:
        self._eta, self._beta1, self._tau = eta, beta1, tau
        self._m: dict[str, Any] = {}
        self._v: dict[str, Any] = {}

    def update(self, model: FLModel, aggregate: FLModel) -> FLModel:
        return stepped(model, aggregate, self._step)

    def state(self) -> Tree:
        return {"m": dict(self._m), "v": dict(self._v)}

    def restore(self, state: Tree) -> None:
        self._m, self._v = dict(state["m"]), dict(state["v"])

    def _step(self, name: str, delta: Any) -> Any:
        m = self._m[name] = self._beta1 * self._m.get(name, 0.0) + (1 - self._beta1) * delta
        v = self._v[name] = self._second_moment(self._v.get(name, self._tau**2), delta**2)
        return self._eta * m / (np.sqrt(v) + self._tau)

    def _second_moment(self, v: Any, squared: Any) -> Any:
        raise NotImplementedError


class FedAdagrad(_Adaptive):
    """Adagrad on the server: the steps of a key become smaller with every change that it had."""

    facts = Facts()

    @checked
    def __init__(self, eta: Eta = 0.1, beta1: Beta1 = 0.0, tau: Tau = 1e-3) -> None:
        super().__init__(eta, beta1, tau)

    def _second_moment(self, v: Any, squared: Any) -> Any:
        return v + squared


class FedYogi(_Adaptive):
    """Yogi on the server: as FedAdam, but v moves by an amount that does not depend on v itself."""

    facts = Facts()

    @checked
    def __init__(self, eta: Eta = 0.01, beta1: Beta1 = 0.9, beta2: Beta2 = 0.99, tau: Tau = 1e-3) -> None:
        super().__init__(eta, beta1, tau)
        self._beta2 = beta2

    def _second_moment(self, v: Any, squared: Any) -> Any:
        return v - (1 - self._beta2) * squared * np.sign(v - squared)


class FedAdam(_Adaptive):
    """Adam on the server: each key has its own step, from the mean of its changes and of their squares."""

    facts = Facts()

    @checked
    def __init__(self, eta: Eta = 0.01, beta1: Beta1 = 0.9, beta2: Beta2 = 0.99, tau: Tau = 1e-3) -> None:
        super().__init__(eta, beta1, tau)
        self._beta2 = beta2

    def _second_moment(self, v: Any, squared: Any) -> Any:
        return self._beta2 * v + (1 - self._beta2) * squared
