"""What NVFLARE's executors take and give: a Shareable, whose content is a DXO, which has a model or metrics."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from enum import Enum
from typing import Any

import numpy as np

from fedsag_cli.errors import TensorError
from fedsag_cli.interop.constants import AppConstants, MetaKey, ReturnCode
from fedsag_cli.model import FLModel, ParamsType
from fedsag_cli.params import arithmetic

__all__ = [
    "DXO",
    "DataKind",
    "FLModelUtils",
    "ModelLearnable",
    "ModelLearnableKey",
    "ReservedHeaderKey",
    "Shareable",
    "from_shareable",
    "make_copy",
    "make_model_learnable",
    "make_reply",
    "model_learnable_to_dxo",
    "validate_model_learnable",
]

_DXO = "DXO"
_SCALAR = "val_accuracy"  # the name that NVFLARE's model selector has for a metric without one


class ReservedHeaderKey:
    HEADERS = "__headers__"
    RC = "__rc__"
    TASK_NAME = "__task_name__"
    CONTENT_TYPE = "__content_type__"


class Shareable(dict[str, Any]):
    """A dict that is sent, with headers."""

    def __init__(self, data: Mapping[str, Any] | None = None) -> None:
        super().__init__(data or {})
        self[ReservedHeaderKey.HEADERS] = {}

    def set_header(self, key: str, value: Any) -> None:
        self.setdefault(ReservedHeaderKey.HEADERS, {})[key] = value

    def get_header(self, key: str, default: Any = None) -> Any:
        return self.get(ReservedHeaderKey.HEADERS, {}).get(key, default)

    def get_return_code(self, default: str = ReturnCode.OK) -> str:
        return str(self.get_header(ReservedHeaderKey.RC, default))

    def set_return_code(self, rc: str) -> None:
        self.set_header(ReservedHeaderKey.RC, rc)


def make_reply(rc: str, headers: Mapping[str, Any] | None = None) -> Shareable:
    """An answer without content."""
    reply = Shareable()
    reply.set_return_code(rc)
    for key, value in (headers or {}).items():
        reply.set_header(key, value)
    return reply


def make_copy(source: Shareable, exclude_headers: list[str] | None = None) -> Shareable:
    """The same content, with a copy of the headers."""
    copied = copy.copy(source)
    headers = copy.deepcopy(source.get(ReservedHeaderKey.HEADERS) or {})
    copied[ReservedHeaderKey.HEADERS] = {key: headers[key] for key in headers if key not in (exclude_headers or ())}
    return copied


class DataKind(str, Enum):
    """What the data of a DXO are."""

    FL_MODEL = "FL_MODEL"
    WEIGHTS = "WEIGHTS"
    WEIGHT_DIFF = "WEIGHT_DIFF"
    METRICS = "METRICS"
    ANALYTIC = "ANALYTIC"
    COLLECTION = "COLLECTION"
    STATISTICS = "STATISTICS"
    PSI = "PSI"
    APP_DEFINED = "APP_DEFINED"


class DXO:
    """Data of one kind, such as a model's params or its metrics, and facts about them (`meta`)."""

    def __init__(self, data_kind: str, data: Any = None, meta: dict[str, Any] | None = None) -> None:
        """Raises ValueError if the data or the meta are no dict."""
        self.data_kind, self.data, self.meta = data_kind, {} if data is None else data, {} if meta is None else meta
        if problem := self.validate():
            raise ValueError(f"invalid DXO: {problem}")

    def validate(self) -> str:
        """What is wrong with it; empty if nothing is."""
        if self.data_kind != DataKind.APP_DEFINED and not isinstance(self.data, dict):
            return f"data must be a dict, not {type(self.data).__name__}"
        return "" if isinstance(self.meta, dict) else f"meta must be a dict, not {type(self.meta).__name__}"

    def get_meta_prop(self, key: str, default: Any = None) -> Any:
        return self.meta.get(key, default)

    def set_meta_prop(self, key: str, value: Any) -> None:
        self.meta[key] = value

    def remove_meta_props(self, keys: list[str]) -> None:
        for key in keys:
            self.meta.pop(key, None)

    def get_meta_props(self) -> dict[str, Any]:
        return self.meta

    def update_meta_props(self, meta: Mapping[str, Any]) -> None:
        self.meta.update(copy.deepcopy(dict(meta)))

    def update_shareable(self, s: Shareable) -> Shareable:
        """Put it into a Shareable."""
        s.set_header(ReservedHeaderKey.CONTENT_TYPE, _DXO)
        s[_DXO] = {"kind": self.data_kind, "data": self.data, "meta": self.meta}
        return s

    def to_shareable(self) -> Shareable:
        return self.update_shareable(Shareable())


def from_shareable(s: Shareable) -> DXO:
    """The DXO in a Shareable. Raises ValueError if there is none."""
    content = s.get(_DXO)
    if s.get_header(ReservedHeaderKey.CONTENT_TYPE) != _DXO or not isinstance(content, Mapping):
        raise ValueError("the Shareable has no DXO")
    return DXO(content["kind"], content["data"], content["meta"])


class ModelLearnableKey:
    WEIGHTS = "weights"
    META = "meta"


class ModelLearnable(dict[str, Any]):
    """A model with its `weights` and `meta`."""

    def is_empty(self) -> bool:
        return not self.get(ModelLearnableKey.WEIGHTS)


def make_model_learnable(weights: Any, meta_props: Any) -> ModelLearnable:
    return ModelLearnable({ModelLearnableKey.WEIGHTS: weights, ModelLearnableKey.META: meta_props})


def validate_model_learnable(model_learnable: Any) -> str:
    """What is wrong with it; empty if nothing is."""
    if not isinstance(model_learnable, ModelLearnable):
        return f"it is no ModelLearnable, but a {type(model_learnable).__name__}"
    missing = [key for key in (ModelLearnableKey.WEIGHTS, ModelLearnableKey.META) if key not in model_learnable]
    return f"it has no {missing[0]}" if missing else ""


def model_learnable_to_dxo(ml: ModelLearnable) -> DXO:
    """Its weights as a DXO. Raises ValueError if it has none."""
    if problem := validate_model_learnable(ml):
        raise ValueError(f"invalid model: {problem}")
    return DXO(DataKind.WEIGHTS, ml[ModelLearnableKey.WEIGHTS], ml[ModelLearnableKey.META])


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


class FLModelUtils:
    """From an FLModel to a Shareable, and back."""

    @staticmethod
    def to_shareable(fl_model: FLModel) -> Shareable:
        """The params as WEIGHTS or WEIGHT_DIFF, metrics beside them in `meta`; metrics alone as METRICS."""
        meta = dict(fl_model.meta)
        if fl_model.params is None:
            dxo = DXO(DataKind.METRICS, dict(fl_model.metrics or {}), meta)
        else:
            kind = DataKind.WEIGHT_DIFF if fl_model.params_type is ParamsType.DIFF else DataKind.WEIGHTS
            dxo = DXO(kind, fl_model.params, meta)
            if fl_model.metrics is not None:
                meta[MetaKey.INITIAL_METRICS] = fl_model.metrics
        made = dxo.to_shareable()
        headers = {
            AppConstants.START_ROUND: fl_model.start_round,
            AppConstants.CURRENT_ROUND: fl_model.current_round,
            AppConstants.NUM_ROUNDS: fl_model.total_rounds,
            AppConstants.VALIDATE_TYPE: meta.get(MetaKey.VALIDATE_TYPE),
        }
        for key, value in headers.items():
            if value is not None:
                made.set_header(key, value)
        return made

    @staticmethod
    def from_shareable(shareable: Shareable, fl_ctx: Any = None) -> FLModel:  # noqa: ARG004
        """The params or metrics of the DXO in it. Raises ValueError if it has none of these."""
        name = shareable.get_header(AppConstants.SUBMIT_MODEL_NAME)
        if name:
            return FLModel(meta={MetaKey.SUBMIT_MODEL_NAME: name})
        dxo = from_shareable(shareable)
        meta = dict(dxo.meta or {})
        if (validated := shareable.get_header(AppConstants.VALIDATE_TYPE)) is not None:
            meta[MetaKey.VALIDATE_TYPE] = validated
        model = FLModel(
            start_round=shareable.get_header(AppConstants.START_ROUND),
            current_round=shareable.get_header(AppConstants.CURRENT_ROUND),
            total_rounds=shareable.get_header(AppConstants.NUM_ROUNDS),
            meta=meta,
        )
        if dxo.data_kind == DataKind.METRICS:
            model.metrics = dxo.data
        elif dxo.data_kind in (DataKind.WEIGHTS, DataKind.WEIGHT_DIFF):
            model.params = dxo.data
            model.params_type = ParamsType.DIFF if dxo.data_kind == DataKind.WEIGHT_DIFF else ParamsType.FULL
            measured = meta.pop(MetaKey.INITIAL_METRICS, None)
            model.metrics = {_SCALAR: measured} if isinstance(measured, int | float) else measured
        else:
            raise ValueError(f"fedsag sends WEIGHTS, WEIGHT_DIFF and METRICS, and no DXO of kind {dxo.data_kind}")
        return model

    @staticmethod
    def set_meta_prop(model: FLModel, key: str, value: Any) -> None:
        model.meta[key] = value

    @staticmethod
    def get_meta_prop(model: FLModel, key: str, default: Any = None) -> Any:
        return model.meta.get(key, default)

    @staticmethod
    def to_model_learnable(fl_model: FLModel) -> ModelLearnable:
        return make_model_learnable(fl_model.params, fl_model.meta)

    @staticmethod
    def from_model_learnable(model_learnable: ModelLearnable) -> FLModel:
        meta = model_learnable[ModelLearnableKey.META] or {}
        return FLModel(params=model_learnable[ModelLearnableKey.WEIGHTS], meta=dict(meta))

    @staticmethod
    def update_model(model: FLModel, model_update: FLModel, replace_meta: bool = True) -> FLModel:
        """Put the update's params into `model`, or add them if they are differences. Returns `model`."""
        meta = dict(model_update.meta)
        model.meta = meta if replace_meta else {**model.meta, **meta}
        model.metrics = model_update.metrics
        changes = model_update.params or {}
        if model_update.params_type is ParamsType.DIFF:
            model.params = {
                **(model.params or {}),
                **{name: (model.params or {})[name] + changes[name] for name in changes},
            }
        else:
            model.params = dict(changes)
        return model
