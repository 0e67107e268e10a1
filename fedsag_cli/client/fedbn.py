"""FedBN, batch norm layers that stay at home (Li et al., 2021, https://arxiv.org/abs/2102.07623).

Each site keeps the weights and the running statistics of its own batch norm layers, and shares the other params.

    fedbn.load(net, input_model.params)
    ...                                               # measure and train as usual
    flare.send(flare.FLModel(params=fedbn.shared(net), metrics=metrics))

The job's aggregator is FedAvg, whose global model keeps the batch norm layers that it had at the start. So only the
sites can measure it: `load` gives it their layers.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any

import torch
from torch.nn import Module
from torch.nn.modules.batchnorm import _BatchNorm

from fedsag_cli import client
from fedsag_cli.model import Params

__all__ = ["load", "local_names", "shared"]

_STATE = "fedbn"  # in flare.state


def local_names(net: Module) -> list[str]:
    """The names in `net.state_dict()` that belong to batch norm layers: weights, biases and running statistics."""
    layers = [(name, layer) for name, layer in net.named_modules() if isinstance(layer, _BatchNorm)]
    return [f"{name}.{key}" if name else key for name, layer in layers for key in layer.state_dict()]


def load(net: Module, params: Mapping[str, Any], state: MutableMapping[str, Any] | None = None) -> None:
    """Load the received params into the net, except for its batch norm layers, which get this site's own.

    In the first round they get the received ones. `state`: where they are kept; `flare.state` by default. Raises
    RuntimeError, as torch does, if the params do not fit the net.
    """
    own = (client.state if state is None else state).get(_STATE, {})
    net.load_state_dict({name: torch.as_tensor(value) for name, value in {**params, **own}.items()})


def shared(net: Module, state: MutableMapping[str, Any] | None = None) -> Params:
    """The params to send, on the CPU: all but those of batch norm layers, which are kept for the next round."""
    local, params = set(local_names(net)), {name: value.detach().cpu() for name, value in net.state_dict().items()}
    (client.state if state is None else state)[_STATE] = {
        name: params[name].clone() for name in params if name in local
    }
    return {name: value for name, value in params.items() if name not in local}
