"""NVFLARE's helper for SCAFFOLD, for scripts that use it. A new script is shorter with `fedsag_cli.client.scaffold`.

Its control variates are the same, and `flare.state` keeps the site's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from fedsag_cli import client
from fedsag_cli.client.scaffold import STATE, like

__all__ = ["PTScaffoldHelper"]


class PTScaffoldHelper:
    """The control variates of one site; the methods are called in the order in which they stand here."""

    def __init__(self) -> None:
        self.cnt = 0
        self._c: Mapping[str, Any] = {}
        self._change: dict[str, Any] | None = None

    def init(self, model: Module) -> None:
        """`model`: the model that is trained."""
        self._model = model

    def load_global_controls(self, weights: Mapping[str, Any]) -> None:
        """`weights`: the received `meta["scaffold_c_global"]`, arrays or tensors by name."""
        self._c = weights

    def get_params(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Begin a round: the server's and the site's control variates, for the parameters that train."""
        self.cnt, self._change = 0, None
        trained = {name: w.detach().cpu() for name, w in self._model.named_parameters() if w.requires_grad}
        c_i = client.state.get(STATE, {})
        return tuple({name: like(w, control, name) for name, w in trained.items()} for control in (self._c, c_i))  # type: ignore[return-value]

    @torch.no_grad()
    def model_update(
        self, model: Module, curr_lr: float, c_global_para: Mapping[str, Any], c_local_para: Mapping[str, Any]
    ) -> None:
        """Correct the step that the optimizer has just made with this learning rate."""
        for name, w in model.named_parameters():
            if w.requires_grad:
                w.add_(like(w, c_global_para, name) - like(w, c_local_para, name), alpha=-curr_lr)
        self.cnt += 1

    @torch.no_grad()
    def terms_update(
        self,
        model: Module,
        curr_lr: float,
        c_global_para: Mapping[str, Any],
        c_local_para: Mapping[str, Any],
        model_global: Module,
    ) -> None:
        """End a round: the site's new control variate, from the model that was received. Raises RuntimeError if
        `model_update` was not called since `get_params`."""
        if not self.cnt:
            raise RuntimeError("PTScaffoldHelper: no model_update() since get_params()")
        received, c_i, change = model_global.state_dict(), dict(client.state.get(STATE, {})), {}
        for name, y in model.named_parameters():
            if y.requires_grad:
                c, old = like(y, c_global_para, name), like(y, c_local_para, name)
                new = (received[name].to(y) - y) / (self.cnt * curr_lr) - (c - old)
                c_i[name], change[name] = new.cpu(), (new - old).cpu()
        client.state[STATE], self._change = c_i, change

    def get_delta_controls(self) -> dict[str, Any]:
        """What goes into the answer's `meta["scaffold_c_diff"]`. Raises ValueError before `terms_update`."""
        if self._change is None:
            raise ValueError("PTScaffoldHelper: no terms_update() in this round")
        return self._change
