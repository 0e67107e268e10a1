"""SCAFFOLD, a site's part (Karimireddy et al., 2020, https://arxiv.org/abs/1910.06378, algorithm 1, option II).

    y_i   <-  y_i - eta * (g_i(y_i) - c_i + c)        in each of K steps, from y_i = x
    c_i+  <-  c_i - c + (x - y_i) / (K * eta)

x are the received weights, c the control variate of the server and c_i the site's own, which `flare.state` keeps.

    net.load_state_dict(input_model.params)
    scaffold = Scaffold(net, optimizer, input_model)
    ...                                               # train as usual, with that optimizer
    meta = {"NUM_STEPS_CURRENT_ROUND": steps, **scaffold.finish()}
    flare.send(flare.FLModel(params=net.state_dict(), meta=meta))

The optimizer makes the step with g_i, and right after it the weights move by -eta * (c - c_i). With plain SGD, weight
decay or not, this is the paper's step. The learning rates may differ between parameters and steps: K * eta is their
sum.

With momentum or Adam, (x - y_i) / (K * eta) is not a mean gradient but the mean step in units of eta, and so is c_i.
The correction still replaces the site's own drift by the mean drift of all sites, but the paper's proofs are for SGD.
All sites need the same optimizer and its settings then, and each round a new optimizer: momentum of the round before
would be counted as drift.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module
from torch.optim import Optimizer

from fedsag_cli import client
from fedsag_cli.model import SCAFFOLD_CTRL_DIFF, SCAFFOLD_CTRL_GLOBAL, FLModel

__all__ = ["Scaffold"]

STATE = "scaffold_c_i"  # in flare.state


class Scaffold:
    """The control variates of one site in one round."""

    def __init__(
        self,
        net: Module,
        optimizer: Optimizer | Sequence[Optimizer],
        input_model: FLModel,
        state: MutableMapping[str, Any] | None = None,
    ) -> None:
        """Correct each step that the optimizers make from now on, until `finish`.

        `net`: with the received weights, on its device, and without a wrapper such as DDP. The parameters that train
        (`requires_grad`) are controlled. `state`: where c_i is kept, a dict of tensors on the CPU; `flare.state` by
        default. Raises ValueError if the received model has no c, or it does not fit the net.
        """
        c = input_model.meta.get(SCAFFOLD_CTRL_GLOBAL)
        if not isinstance(c, Mapping):
            raise ValueError(
                f"the received model has no meta[{SCAFFOLD_CTRL_GLOBAL!r}], but SCAFFOLD needs it: "
                "set the job's aggregator to Scaffold"
            )
        self._state: MutableMapping[str, Any] = client.state if state is None else state
        c_i = self._state.get(STATE, {})
        self._y = {name: w for name, w in net.named_parameters() if w.requires_grad and (name in c or not c)}
        if not self._y:
            raise ValueError(f"SCAFFOLD: the received control variate has none of the net's parameters: {[*c][:3]}")
        self._x = {name: y.detach().clone() for name, y in self._y.items()}
        self._correction = {y: like(y, c, name) - like(y, c_i, name) for name, y in self._y.items()}
        self._k_eta = dict.fromkeys(self._correction, 0.0)
        optimizers = [optimizer] if isinstance(optimizer, Optimizer) else optimizer
        self._hooks = [each.register_step_post_hook(self._after_step) for each in optimizers]

    @torch.no_grad()
    def _after_step(self, optimizer: Optimizer, *_: Any) -> None:
        for group in optimizer.param_groups:
            eta = float(group["lr"])
            for y in group["params"]:
                if y in self._correction:
                    y.sub_(self._correction[y], alpha=eta)
                    self._k_eta[y] += eta

    def finish(self) -> dict[str, Any]:
        """Keep c_i+, and return what goes into the meta of the answer: c_i+ - c_i.

        Of parameters that no optimizer changed, c_i stays. Raises ValueError if none made a step.
        """
        for hook in self._hooks:
            hook.remove()
        if not any(self._k_eta.values()):
            raise ValueError("SCAFFOLD: the optimizer has made no step since the round began")
        c_i, change = dict(self._state.get(STATE, {})), {}
        for name, y in self._y.items():
            if self._k_eta[y]:
                x, correction = self._x[name].cpu(), self._correction[y].cpu()
                new = (x - y.detach().cpu()) / self._k_eta[y] - correction
                change[name] = new - like(new, c_i, name)
                c_i[name] = new
        self._state[STATE] = c_i
        return {SCAFFOLD_CTRL_DIFF: change}


def like(y: Tensor, control: Mapping[str, Any], name: str) -> Tensor:
    """A control variate's part for one parameter, on its device: zeros if it has none. Raises ValueError."""
    if name not in control:
        return torch.zeros_like(y)
    part = torch.as_tensor(control[name])
    if part.shape != y.shape:
        shapes = f"{list(part.shape)} in the control variate and {list(y.shape)} in the net"
        raise ValueError(f"SCAFFOLD: {name!r} is {shapes}")
    return part.to(y.device, y.dtype)
