"""The updater of federated averaging: the merged params are the next model, or the merged change is added to it."""

from __future__ import annotations

from dataclasses import replace

from fedsag_cli.model import FLModel, ParamsType
from fedsag_cli.params import arithmetic


class Averaging:
    """A key that the aggregate does not have keeps its value. It is what a workflow uses that names no updater."""

    def update(self, model: FLModel, aggregate: FLModel) -> FLModel:
        """Raises TensorError where the aggregate has a key or a shape that the model does not have."""
        base, change = model.params or {}, aggregate.params or {}
        is_diff = aggregate.params_type is ParamsType.DIFF
        params = arithmetic.applied(base, change) if is_diff else arithmetic.replaced(base, change)
        return replace(model, params=params)
