"""A filter and an aggregator as users write them for NVFLARE."""

import numpy as np
from nvflare.apis.dxo import DataKind, MetaKey
from nvflare.apis.dxo_filter import DXOFilter
from nvflare.app_common.abstract.fl_model import FLModel
from nvflare.app_common.aggregators.model_aggregator import ModelAggregator


class Clips(DXOFilter):
    def __init__(self, limit: float = 1.0, data_kinds: list[str] | None = None):
        super().__init__([DataKind.WEIGHTS, DataKind.WEIGHT_DIFF], data_kinds)
        self.limit = limit

    def process_dxo(self, dxo, shareable, fl_ctx):  # noqa: ARG002
        dxo.data = {name: np.clip(value, -self.limit, self.limit) for name, value in dxo.data.items()}
        return dxo


class Squares(ModelAggregator):
    """The mean, weighted by the squares of steps."""

    def __init__(self):
        super().__init__()
        self.total, self.weight = {}, 0.0

    def accept_model(self, model: FLModel):
        weight = float(model.meta[MetaKey.NUM_STEPS_CURRENT_ROUND]) ** 2
        for name, value in model.params.items():
            self.total[name] = self.total.get(name, 0.0) + np.float32(weight) * value
        self.weight += weight

    def aggregate_model(self) -> FLModel:
        return FLModel(params={name: value / np.float32(self.weight) for name, value in self.total.items()})

    def reset_stats(self):
        self.total, self.weight = {}, 0.0
