"""Ditto, personal models that stay near the global one (Li et al., 2021, https://arxiv.org/abs/2012.04221).

    min_v  F_k(v)  +  lambda / 2 * ||v - w||^2

F_k is the site's own loss, w are the received weights, and v are those of the site's personal model, which
`flare.state` keeps and nobody else gets. The global model is trained and sent as in any other job.

    ditto = Ditto(personal, input_model.params, lam=0.1)
    for images, labels in loader:
        loss = criterion(personal(images), labels) + ditto.penalty()
        ...
    ditto.keep()
"""

from __future__ import annotations

import math
from collections.abc import Mapping, MutableMapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from fedsag_cli import client

__all__ = ["Ditto"]

_STATE = "ditto"  # in flare.state


class Ditto:
    """The personal model of one site in one round."""

    def __init__(
        self,
        personal: Module,
        received: Mapping[str, Any],
        lam: float = 0.1,
        state: MutableMapping[str, Any] | None = None,
    ) -> None:
        """Load the site's personal weights into `personal`: in the first round, the received ones.

        `received`: the received params, w, with the same names as the module's. `lam`: lambda; 0 trains v alone, a
        large one holds it at w. `state`: where v is kept; `flare.state` by default. Raises ValueError if lambda is not
        a finite number of at least 0; RuntimeError, as torch does, if the weights do not fit the module.
        """
        if not 0 <= lam < math.inf:
            raise ValueError(f"Ditto: lam must be a finite number from 0 on, not {lam!r}")
        self._state: MutableMapping[str, Any] = client.state if state is None else state
        self._v, self._lam = personal, lam
        own = self._state.get(_STATE, received)
        personal.load_state_dict({name: torch.as_tensor(value) for name, value in own.items()})
        self._w = {
            name: torch.as_tensor(received[name]).to(v.device, v.dtype, copy=True)
            for name, v in personal.named_parameters()
        }

    def penalty(self) -> Tensor:
        """lambda / 2 * ||v - w||^2 over the parameters that train, a scalar to add to the loss."""
        terms = [(v - self._w[name].to(v)).square().sum() for name, v in self._v.named_parameters() if v.requires_grad]
        return self._lam / 2 * torch.stack(terms).sum() if terms else torch.zeros(())

    def keep(self) -> None:
        """Keep the personal weights, and the module's buffers, for the next round."""
        self._state[_STATE] = {name: value.detach().cpu().clone() for name, value in self._v.state_dict().items()}
