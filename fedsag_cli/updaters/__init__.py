"""The contract of an updater, which makes the next global model from the model and the merged update."""

from __future__ import annotations

from typing import Protocol

from fedsag_cli.model import FLModel


class Updater(Protocol):
    """Makes the next global model, such as a server optimizer. What it keeps between rounds: see `model.Stateful`."""

    def update(self, model: FLModel, aggregate: FLModel) -> FLModel:
        """The next model. Neither `model` nor `aggregate` may be changed.

        `model.params`: the model that was sent. `aggregate.params`: the merged params (FULL) or the merged change
        (DIFF), see `params_type`; some keys may be missing. Raises TensorError if they do not fit.
        """
