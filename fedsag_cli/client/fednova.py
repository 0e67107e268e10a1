"""FedNova, a site's part (Wang et al., 2020, https://arxiv.org/abs/2007.07481).

    y_i - x  =  - eta * sum_k  a_i[k] * g_i[k]

The site's change is a weighted sum of its K gradients. The server divides it by ||a_i||, the sum of the weights: K for
plain SGD, more with momentum, where a gradient counts again in each later step.

    fednova = FedNova(optimizer)
    ...                                               # train as usual, with that optimizer
    meta = fednova.finish(num_examples=len(trainset))
    flare.send(flare.FLModel(params=net.state_dict(), meta=meta))

The job's aggregator is FedNova. Each round needs a new optimizer: momentum of the round before is not counted.
"""

from __future__ import annotations

from typing import Any

from torch.optim import SGD, Optimizer

from fedsag_cli.model import FEDNOVA_STEPS, NUM_STEPS

__all__ = ["FedNova"]


class FedNova:
    """Counts how far one site trains in one round."""

    def __init__(self, optimizer: SGD) -> None:
        """Count each step that the optimizer makes from now on, until `finish`.

        A learning rate that changes within the round counts relative to that of the first step; with several groups of
        parameters, that of the first group. Raises ValueError if the optimizer is not torch's SGD, whose steps are
        known, or its groups have different momentum.
        """
        if not isinstance(optimizer, SGD):
            raise ValueError(
                f"FedNova cannot count the steps of {type(optimizer).__name__}: "
                f"use SGD, or send meta[{FEDNOVA_STEPS!r}] yourself"
            )
        kinds = {(group["momentum"], group["dampening"], group["nesterov"]) for group in optimizer.param_groups}
        if len(kinds) > 1:
            raise ValueError("FedNova: the optimizer's groups of parameters have different momentum")
        [(self._rho, self._dampening, self._nesterov)] = kinds
        self._eta = self._velocity = self._norm = 0.0
        self._hook = optimizer.register_step_post_hook(self._after_step)

    def _after_step(self, optimizer: Optimizer, *_: Any) -> None:
        eta = float(optimizer.param_groups[0]["lr"])
        is_first = self._norm == 0.0
        self._eta = self._eta or eta
        self._velocity = 1.0 if is_first else self._rho * self._velocity + 1.0 - self._dampening
        step = 1.0 + self._rho * self._velocity if self._nesterov else self._velocity
        self._norm += step * eta / self._eta

    def finish(self, num_examples: float) -> dict[str, float]:
        """What goes into the meta of the answer: ||a_i||, and the site's number of examples as its weight.

        Raises ValueError if the optimizer made no step.
        """
        self._hook.remove()
        if not self._norm:
            raise ValueError("FedNova: the optimizer has made no step since the round began")
        return {NUM_STEPS: num_examples, FEDNOVA_STEPS: self._norm}
