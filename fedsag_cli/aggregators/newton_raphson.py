"""Logistic regression by Newton's method (damped: Boyd and Vandenberghe, Convex Optimization, 2004, section 9.5).

Each site sends the gradient g_k and the negative Hessian H_k of its log-likelihood at theta, of n_k examples:

    theta  <-  theta  +  damping_factor * (H + epsilon * I)^-1 g         g = sum_k n_k / n * g_k, and so H

The model is one array, of shape (features + 1, 1) if the first weight is the intercept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any

import numpy as np

from fedsag_cli.arguments import Least, checked
from fedsag_cli.errors import RunError, TensorError
from fedsag_cli.facts import Facts
from fedsag_cli.model import Cohort, FLModel, Reply
from fedsag_cli.params.means import WeightedSum

_GRADIENT, _HESSIAN = "gradient", "hessian"


class NewtonRaphson:
    """A damped Newton step for the whole model. A client sends `gradient`, which has the model's shape, and `hessian`.

    With d weights, `hessian` has the shape (d, d). Both are weighted by the client's steps (or examples). The model
    keeps its dtype; whole numbers become float64.
    """

    facts = Facts(sends="the gradient and the hessian of its log-likelihood", keeps_nothing=True)

    @checked
    def __init__(
        self,
        damping_factor: Annotated[float, Least(0), "factor of the step"] = 0.8,
        epsilon: Annotated[float, Least(0), "added to the diagonal of the hessian, so that it has an inverse"] = 1.0,
    ) -> None:
        self._damping, self._epsilon = damping_factor, epsilon

    def begin(self, sent: FLModel, _: Cohort) -> None:
        """Raises TensorError if the model is not one array."""
        self._name, theta = _only_array(sent.params or {})
        self._theta = theta if np.issubdtype(theta.dtype, np.floating) else theta.astype(np.float64)
        self._sums: dict[str, WeightedSum] = {}

    def check(self, update: FLModel, sent: Mapping[str, Any]) -> FLModel:
        """The update, its values as float64. Raises TensorError if one is missing, or if a shape or number is wrong."""
        _, theta = _only_array(sent)
        params = update.params or {}
        if not {_GRADIENT, _HESSIAN} <= params.keys():
            raise TensorError(f"params must have 'gradient' and 'hessian', not only {sorted(params)}")
        shapes = {_GRADIENT: theta.shape, _HESSIAN: (theta.size, theta.size)}
        return replace(update, params={name: _numbers(name, params[name], shape) for name, shape in shapes.items()})

    def accept(self, reply: Reply) -> None:
        """An update of weight zero is ignored."""
        n_k = reply.model.num_steps
        if n_k == 0.0:
            return
        for name in (_GRADIENT, _HESSIAN):
            self._sums.setdefault(name, WeightedSum(name)).add_product((reply.model.params or {})[name], n_k)

    def aggregate(self) -> FLModel:
        """Raises RunError if the hessian has no inverse."""
        if not self._sums:
            return FLModel(params={})
        g, h = (self._sums[name].mean() for name in (_GRADIENT, _HESSIAN))
        theta = self._theta
        try:
            step = np.linalg.solve(h + self._epsilon * np.eye(theta.size), g.reshape(-1))
        except np.linalg.LinAlgError:
            raise RunError(
                f"NewtonRaphson: the hessian of all sites, with epsilon = {self._epsilon:g}, has no inverse",
                hint="give epsilon a value above 0",
            ) from None
        moved = theta + self._damping * step.reshape(theta.shape)
        return FLModel(params={self._name: moved.astype(theta.dtype)})


def _only_array(params: Mapping[str, Any]) -> tuple[str, np.ndarray]:
    if len(params) != 1:
        raise TensorError(f"NewtonRaphson needs a model that is one array, not {sorted(params)}")
    ((name, value),) = params.items()
    return name, np.asarray(value)


def _numbers(name: str, value: Any, shape: tuple[int, ...]) -> np.ndarray:
    try:
        numbers = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise TensorError(f"params: {name!r} is a {type(value).__name__}, not an array of numbers") from None
    if numbers.shape != shape:
        raise TensorError(f"params: {name!r} has shape {numbers.shape}, it must be {shape}")
    if not np.isfinite(numbers).all():
        raise TensorError(f"params: {name!r} has numbers that are NaN or infinite")
    return numbers
