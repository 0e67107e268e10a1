"""NVFLARE's base class of aggregators for FLModels, of which users have their own."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import numpy as np

from fedsag_cli.errors import TensorError
from fedsag_cli.model import FLModel, Reply
from fedsag_cli.params import arithmetic

__all__ = ["ModelAggregator"]


class ModelAggregator:
    """An aggregator whose class has `accept_model`, `aggregate_model` and `reset_stats`.

    The models have numpy arrays, except for dtypes that numpy does not have, and `meta["client_name"]`.
    """

    def __init__(self) -> None:
        self.fl_ctx: Any = None
        self._log = logging.getLogger(type(self).__name__)

    def accept_model(self, model: FLModel) -> None:
        """Add one client's model."""
        raise NotImplementedError(f"{type(self).__name__} has no accept_model()")

    def aggregate_model(self) -> FLModel:
        """The merged model."""
        raise NotImplementedError(f"{type(self).__name__} has no aggregate_model()")

    def reset_stats(self) -> None:
        """Begin the next round."""

    def accept(self, reply: Reply) -> None:
        meta = {**reply.model.meta, "client_name": reply.site}
        self.accept_model(with_arrays(replace(reply.model, meta=meta)))

    def aggregate(self) -> FLModel:
        merged = self.aggregate_model()
        self.reset_stats()
        return merged

    def info(self, message: str) -> None:
        self._log.info(message)

    def warning(self, message: str) -> None:
        self._log.warning(message)

    def error(self, message: str) -> None:
        self._log.error(message)

    def exception(self, message: str) -> None:
        self._log.exception(message)


def with_arrays(model: FLModel) -> FLModel:
    """The model with copies of its params as numpy arrays, as code for NVFLARE expects them."""
    params = model.params
    return model if params is None else replace(model, params={name: _array(params[name]) for name in params})


def _array(value: Any) -> Any:
    if isinstance(value, bytes | str):
        return value
    try:
        return np.array(arithmetic.as_numpy("", value))
    except TensorError:  # numpy does not have its dtype
        return value
