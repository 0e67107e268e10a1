"""Top-k sparsification with error feedback (Aji and Heafield, 2017, https://arxiv.org/abs/1704.05021; Stich et al.,
2018, https://arxiv.org/abs/1809.07599).

    g  =  Δ + e              Δ: the change by training; e: what was not sent before, at first 0
    send the k numbers of g that are largest in absolute value
    e  =  g - what was sent
"""

from __future__ import annotations

import dataclasses
import math
from typing import Annotated, Any

import numpy as np

from fedsag_cli.arguments import Above, Most, checked
from fedsag_cli.errors import TensorError
from fedsag_cli.facts import Facts
from fedsag_cli.model import Exchange, FLModel, ParamsType
from fedsag_cli.params import forms, updates
from fedsag_cli.params.forms import Row

SPARSE = "sparse"
"""The key in `FLModel.meta` for the dtype and shape of each param that was made sparse."""

_RESIDUAL = "residual"


class TopKSparsifier:
    """Sends the largest numbers of an update, of all its floats together, and adds the rest to the next update.

    Put it into the client's task_result_filters, and TopKDensifier into the server's. The update becomes a difference
    (DIFF). A number takes 8 bytes if it is float32: its index and itself. Integers, bools and complex numbers are sent
    as they are. What was not sent is kept for the site, and is saved with the round.
    """

    facts = Facts()

    @checked
    def __init__(
        self,
        fraction: Annotated[float, Above(0), Most(1), "share of the numbers of an update that are sent"] = 0.01,
    ) -> None:
        self._fraction = fraction

    def process(self, model: FLModel, exchange: Exchange) -> FLModel:
        if model.params is None:
            return model
        change = updates.change_of(model, exchange.sent)
        dense = {name: value for name, value in change.items() if forms.has_form(value)}
        residual = exchange.state.get(_RESIDUAL, {})
        rows = {name: _plus(forms.row_of(value), residual.get(name)) for name, value in dense.items()}
        chosen = _largest(rows, self._fraction)
        for name, where in chosen.items():
            change[name] = forms.packed(where.astype(_index(rows[name].size)), rows[name][where], dense[name])
            rows[name][where] = 0
        exchange.state[_RESIDUAL] = rows
        meta = {**model.meta, SPARSE: {name: forms.form_of(value) for name, value in dense.items()}}
        return dataclasses.replace(model, params=change, params_type=ParamsType.DIFF, meta=meta)


class TopKDensifier:
    """Restores the zeros that TopKSparsifier did not send. For the server's task_result_filters.

    An update that is not sparse stays as it is.
    """

    facts = Facts()

    def __init__(self) -> None:
        """It has no arguments: the update says which numbers it has."""

    def process(self, model: FLModel, exchange: Exchange) -> FLModel:  # noqa: ARG002
        if model.params is None or SPARSE not in model.meta:
            return model
        meta = dict(model.meta)
        params = dict(model.params)
        for name, form in meta.pop(SPARSE).items():
            params[name] = _dense(name, params[name], form)
        return dataclasses.replace(model, params=params, meta=meta)


def _plus(row: Row, residual: Row | None) -> Row:
    with np.errstate(all="ignore"):
        return row.copy() if residual is None else row + residual


def _largest(rows: dict[str, Row], fraction: float) -> dict[str, Row]:
    """The places of the largest absolute values of all rows together, by row and in order. NaN is the largest."""
    total = sum(row.size for row in rows.values())
    if not total:
        return {}
    smaller = total - math.ceil(total * fraction)
    found = np.argpartition(np.abs(np.concatenate(list(rows.values()))), smaller)[smaller:]
    ends = np.cumsum([row.size for row in rows.values()])
    parts = np.split(np.sort(found), np.searchsorted(np.sort(found), ends[:-1]))
    return {name: part - (end - rows[name].size) for name, part, end in zip(rows, parts, ends, strict=True)}


def _dense(name: str, value: Any, form: dict[str, Any]) -> Any:
    size = forms.size_of(form)
    index, number = _index(size), forms.row_dtype(form)
    where, numbers = forms.unpacked(value, value.shape[0] // (index.itemsize + number.itemsize), index, number)
    if where.size != numbers.size or (where.size and where.max() >= size):
        raise TensorError(f"params: {name!r} has {where.size} places and {numbers.size} numbers of {size}")
    row = np.zeros(size, dtype=number)
    row[where] = numbers
    return forms.formed(row, form, value)


def _index(size: int) -> np.dtype[Any]:
    """The dtype for places in a row."""
    return np.dtype(np.uint32 if size <= 1 << 32 else np.uint64)
