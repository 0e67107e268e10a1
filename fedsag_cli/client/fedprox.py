"""FedProx (Li et al., 2020, "Federated Optimization in Heterogeneous Networks", https://arxiv.org/abs/1812.06127).

    h(w)  =  F(w)  +  mu / 2 * ||w - w_global||^2

F is the site's own loss, w are its weights and w_global the received weights: the second term keeps w near w_global.

    from fedsag_cli.client.fedprox import PTFedProxLoss, get_fedprox_mu

    net.load_state_dict(input_model.params)
    global_net = copy.deepcopy(net)
    proximal = PTFedProxLoss(get_fedprox_mu(input_model))
    ...
    loss = criterion(net(images), labels) + proximal(net, global_net)

mu is the job's `fedprox_mu`, which the server sends.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from fedsag_cli.client.fedprox_mu import get_fedprox_mu

__all__ = ["PTFedProxLoss", "get_fedprox_mu"]


class PTFedProxLoss(nn.Module):
    """The proximal term, over the parameters that train (`requires_grad`)."""

    def __init__(self, mu: float = 0.01) -> None:
        """`mu`: the coefficient. Raises ValueError if it is not a finite number of at least 0."""
        super().__init__()
        if not 0 <= mu < math.inf:
            raise ValueError(f"FedProx: mu must be a finite number from 0 on, not {mu!r}")
        self.mu = mu

    def forward(self, input: nn.Module, target: nn.Module) -> Tensor:  # noqa: A002  NVFLARE's name
        """The term, a scalar: float32, or float64 if parameters are. Only `input` gets a gradient.

        `input` is the model that is trained, `target` one with the received weights. Their parameters are real, of any
        shape, and on the same devices. They are paired in order, so one model may be wrapped, as by DDP. Raises
        ValueError if the number of parameters or a shape differs.
        """
        named, fixed = list(input.named_parameters()), list(target.parameters())
        if len(named) != len(fixed):
            raise ValueError(f"FedProx: the model has {len(named)} parameters, the global one {len(fixed)}")
        term = torch.zeros(())
        for (name, w), w_global in zip(named, fixed, strict=True):
            if w.shape != w_global.shape:
                shapes = f"{list(w.shape)} in the trained model and {list(w_global.shape)} in the global model"
                raise ValueError(f"FedProx: {name!r} is {shapes}")
            if w.requires_grad:
                term = term + self.mu / 2 * (w - w_global.detach()).square().sum()
        return term
