"""The form in which NVFLARE keeps a torch model in a file: {"model": {name: tensor}, "train_conf": …, …}."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch

from fedsag_cli.interop.base.exchange import (
    ModelLearnable,
    ModelLearnableKey,
    make_model_learnable,
    validate_model_learnable,
)

__all__ = ["PTModelPersistenceFormatManager"]

_OWN_KEYS = ("model", "train_conf", "meta_props")


class PTModelPersistenceFormatManager:
    """The params of a model, and what is kept beside them."""

    def __init__(self, data: Any, default_train_conf: Any = None, allow_numpy_conversion: bool = True) -> None:
        """`data`: tensors by name, or what `to_persistence_dict` made. Raises TypeError if it is no dict."""
        if not isinstance(data, dict):
            raise TypeError(f"data must be a dict, not {type(data).__name__}")
        whole = data if "model" in data else {"model": data}
        self.var_dict: dict[str, Any] = whole["model"]
        self.meta: Any = whole.get("meta_props")
        self.train_conf: Any = whole.get("train_conf") or default_train_conf
        self.other_props = {key: value for key, value in whole.items() if key not in _OWN_KEYS}
        self._as_numpy = allow_numpy_conversion

    def to_model_learnable(self, exclude_vars: Any) -> ModelLearnable:
        """The params as numpy arrays, without those whose name the pattern `exclude_vars` finds."""
        kept = {k: v for k, v in self.var_dict.items() if not (exclude_vars and exclude_vars.search(k))}
        return make_model_learnable({k: self._array(v) for k, v in kept.items()}, self.meta)

    def to_persistence_dict(self) -> dict[str, Any]:
        """What goes into the file."""
        tensors = OrderedDict((k, torch.as_tensor(v) if self._as_numpy else v) for k, v in self.var_dict.items())
        kept = {"model": tensors, "meta_props": self.meta, "train_conf": self.train_conf}
        return OrderedDict({key: value for key, value in kept.items() if value}) | self.other_props

    def update(self, ml: ModelLearnable) -> None:
        """Take over new values. Raises ValueError for a key or a shape that the model does not have."""
        if problem := validate_model_learnable(ml):
            raise ValueError(f"invalid model: {problem}")
        self.meta = ml[ModelLearnableKey.META]
        learned = ml[ModelLearnableKey.WEIGHTS] or {}
        for name, value in learned.items() if self.var_dict else ():
            if name not in self.var_dict:
                raise ValueError(f"the model has no {name!r}")
            if tuple(value.shape) != tuple(self.var_dict[name].shape):
                raise ValueError(f"{name}: {tuple(value.shape)} is not the shape {tuple(self.var_dict[name].shape)}")
        self.var_dict.update(learned)

    def _array(self, value: Any) -> Any:
        if not self._as_numpy or not isinstance(value, torch.Tensor):
            return value
        value = value.detach().cpu()
        return (value.to(torch.float32) if value.dtype is torch.bfloat16 else value).numpy()
