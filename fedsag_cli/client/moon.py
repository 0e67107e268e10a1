"""MOON, model-contrastive learning (Li et al., 2021, https://arxiv.org/abs/2103.16257, equation 3).

    l_con  =  - log  exp(sim(z, z_glob) / tau)  /  (exp(sim(z, z_glob) / tau) + exp(sim(z, z_prev) / tau))

z is the representation of a picture in the trained model, z_glob in the received one and z_prev in the model that the
site sent last. The term pulls z to the first and away from the second.

    loss = criterion(net.head(z), labels) + mu * contrastive(z, z_global, z_previous)

`flare.state` can keep the previous model: `flare.state["previous"] = net.state_dict()`. The first round has none and
trains without the term.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, cross_entropy

__all__ = ["contrastive"]


def contrastive(z: Tensor, z_global: Tensor, z_previous: Tensor, temperature: float = 0.5) -> Tensor:
    """The mean of l_con over a batch, a scalar. Only `z` gets a gradient.

    Each argument is a float tensor (batch, features). `temperature`: tau, above 0.
    """
    others = [z_global.detach(), z_previous.detach()]
    similarities = torch.stack([cosine_similarity(z, other, dim=-1) for other in others], dim=1) / temperature
    return cross_entropy(similarities, torch.zeros(len(z), dtype=torch.long, device=z.device))
