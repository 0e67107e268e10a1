"""Quantizes a model before it is sent, and restores its dtypes where it arrives.

float16: each number is rounded to 16 bits.

blockwise8: block-wise quantization to 8 bits, as in Dettmers et al. (2022, https://arxiv.org/abs/2110.02861), with
equal steps. Each block of 256 numbers has its own scale, the largest absolute value a:

    q  =  round(127 x / a)          |x - a q / 127|  <=  a / 254
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np

from fedsag_cli.arguments import OneOf, checked
from fedsag_cli.errors import TensorError
from fedsag_cli.facts import Facts, Nvflare
from fedsag_cli.model import Exchange, FLModel
from fedsag_cli.params import forms
from fedsag_cli.params.encoding import flattened, is_torch
from fedsag_cli.params.forms import Row

QUANTIZED = "quantized"
"""The key in `FLModel.meta` for the quantization type, and the dtype and shape of each param that was quantized."""

_BLOCK = 256
_LARGEST = 127
_LARGEST_HALF = 65504.0


class ModelQuantizer:
    """Sends floats in fewer bytes: half (float16) or about a quarter (blockwise8) of float32.

    Put it where a model leaves, and ModelDequantizer where it arrives: in the server's task_data_filters and the
    client's task_data_filters for the models, in the client's task_result_filters and the server's task_result_filters
    for the updates. Updates are rounded less if they are differences (DIFF).

    Integers, bools, complex numbers and params that would not become smaller are sent as they are. float16: finite
    numbers beyond its range become ±65504; infinity and NaN stay. blockwise8: a param with NaN or infinity is sent as
    it is.
    """

    facts = Facts(nvflare=Nvflare(path="nvflare.app_opt.pt.quantization.quantizer.ModelQuantizer"))

    @checked
    def __init__(
        self,
        quantization_type: Annotated[
            str, OneOf(["float16", "blockwise8"]), "float16: 16 bits a number; blockwise8: 8 bits"
        ] = "float16",
    ) -> None:
        self._type = quantization_type

    def process(self, model: FLModel, exchange: Exchange) -> FLModel:  # noqa: ARG002
        if model.params is None or QUANTIZED in model.meta:
            return model
        quantize = _as_half if self._type == "float16" else _in_blocks
        params, found = dict(model.params), {}
        done: dict[Any, Any] = {}  # values that share memory still share it
        for name, value in params.items():
            if forms.has_form(value):
                key = flattened(name, value).identity
                if key not in done:
                    done[key] = quantize(value)
                if (short := done[key]) is not None:
                    params[name], found[name] = short, forms.form_of(value)
        meta = {**model.meta, QUANTIZED: {"type": self._type, "params": found}}
        return dataclasses.replace(model, params=params, meta=meta)


class ModelDequantizer:
    """Restores the dtypes of a model that ModelQuantizer has quantized, before a script or a check sees it.

    An error for params that are not quantized.
    """

    facts = Facts(nvflare=Nvflare(path="nvflare.app_opt.pt.quantization.dequantizer.ModelDequantizer"))

    def __init__(self) -> None:
        """It has no arguments: the model says how it was quantized."""

    def process(self, model: FLModel, exchange: Exchange) -> FLModel:  # noqa: ARG002
        if model.params is None:
            return model
        if QUANTIZED not in model.meta:
            raise TensorError(
                "ModelDequantizer got a model that is not quantized",
                hint="the other end needs ModelQuantizer in its filters for the same tasks",
            )
        meta, params = dict(model.meta), dict(model.params)
        quantized = meta.pop(QUANTIZED)
        restore = _from_half if quantized["type"] == "float16" else _from_blocks
        done: dict[Any, Any] = {}  # as above
        for name, form in quantized["params"].items():
            key = flattened(name, params[name]).identity
            if key not in done:
                done[key] = restore(params[name], form)
            params[name] = done[key]
        return dataclasses.replace(model, params=params, meta=meta)


def _as_half(value: Any) -> Any:
    """The value as float16; None if it would not become smaller."""
    if value.dtype.itemsize <= 2:
        return None
    if is_torch(value):
        import torch

        value = value.detach()
        return torch.where(value.isfinite(), value.clamp(-_LARGEST_HALF, _LARGEST_HALF), value).half()
    return np.where(np.isfinite(value), np.clip(value, -_LARGEST_HALF, _LARGEST_HALF), value).astype(np.float16)


def _from_half(value: Any, form: Mapping[str, Any]) -> Any:
    return forms.formed(forms.row_of(value), form, value)


def _in_blocks(value: Any) -> Any:
    """The scales and the codes of a value, as bytes; None if it would not become smaller, or has NaN or infinity."""
    row = forms.row_of(value)
    row = row.astype(_scale_dtype(row.dtype), copy=False)
    starts = np.arange(0, row.size, _BLOCK)
    if row.size + starts.size * row.itemsize >= value.dtype.itemsize * row.size or not np.isfinite(row).all():
        return None
    scales = np.maximum.reduceat(np.abs(row), starts)
    codes = np.rint(row / _each(np.where(scales == 0, 1, scales), row.size) * _LARGEST).astype(np.int8)
    return forms.packed(scales, codes, value)


def _from_blocks(value: Any, form: Mapping[str, Any]) -> Any:
    size, dtype = forms.size_of(form), _scale_dtype(forms.row_dtype(form))
    scales, codes = forms.unpacked(value, -(-size // _BLOCK), dtype, np.int8)
    if codes.size != size:
        raise TensorError(f"{codes.size} numbers for a param of {size}")
    return forms.formed(codes.astype(dtype) / dtype.type(_LARGEST) * _each(scales, size), form, value)


def _scale_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return np.dtype(np.float64 if dtype.itemsize == 8 else np.float32)


def _each(scales: Row, size: int) -> Row:
    """The scale of each number."""
    return np.repeat(scales, _BLOCK)[:size]
