"""Bagging of boosted trees: each round, every site adds trees to the global model, and the new model has all of them.

    F  <-  F + sum_k T_k        T_k: the trees that site k made, for the gradient of F on its data

A site divides its learning rate by the number of sites, so that the sum is a mean of K steps (as in NVFLARE's tree
based collaboration; trees of a random forest, Breiman, 2001, https://doi.org/10.1023/A:1010933404324, in each round).

The model is `model_data`: the bytes of a model file of XGBoost in JSON. A client sends one with its new trees only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from fedsag_cli.errors import TensorError
from fedsag_cli.facts import Facts, Nvflare
from fedsag_cli.model import Cohort, FLModel, Reply

MODEL_DATA = "model_data"

Trees = dict[str, Any]
"""A model file of XGBoost."""


class XGBBaggingAggregator:
    """Adds the trees of all sites to the model, in site order. Each site's trees are boosting rounds of their own."""

    facts = Facts(
        sends="trees",
        keeps_nothing=True,
        nvflare=Nvflare(path="nvflare.app_opt.xgboost.tree_based.bagging_aggregator.XGBBaggingAggregator"),
    )

    def __init__(self) -> None:
        self._model: Trees | None = None
        self._added = 0

    def begin(self, sent: FLModel, _: Cohort) -> None:
        self._model = _read((sent.params or {})[MODEL_DATA]) if sent.params else None
        self._added = 0

    def check(self, update: FLModel, sent: Mapping[str, Any]) -> FLModel:
        """The update. Raises TensorError if it is no model of trees, or not of the kind of the model that was sent."""
        params = update.params or {}
        if list(params) != [MODEL_DATA]:
            raise TensorError(f"params must be {MODEL_DATA!r} alone, not {sorted(params)}")
        trees = _read(params[MODEL_DATA])
        if sent:
            _check_fits(trees, _read(sent[MODEL_DATA]))
        return replace(update, params={MODEL_DATA: _bytes(params[MODEL_DATA])})

    def accept(self, reply: Reply) -> None:
        trees = _read((reply.model.params or {})[MODEL_DATA])
        if self._model is None:
            self._model = trees
        else:
            _check_fits(trees, self._model)
            _append(self._model, trees)
        self._added += _num_trees(trees)

    def aggregate(self) -> FLModel:
        if self._model is None:
            return FLModel(params={})
        text = json.dumps(self._model, separators=(",", ":"))
        counts = {"trees_added": float(self._added), "trees": float(_num_trees(self._model))}
        return FLModel(params={MODEL_DATA: text.encode()}, metrics=counts)


def _read(data: Any) -> Trees:
    """A model file. Raises TensorError if it is none with trees."""
    try:
        model = json.loads(_bytes(data))
        booster = model["learner"]["gradient_booster"]["model"]
        counted, trees, rounds = (
            booster["gbtree_model_param"]["num_trees"],
            booster["trees"],
            booster["iteration_indptr"],
        )
        is_whole = int(counted) == len(trees) == len(booster["tree_info"]) == rounds[-1]
    except (ValueError, TypeError, KeyError, IndexError, RecursionError) as error:
        raise TensorError(
            f"params: {MODEL_DATA!r} is no model file of XGBoost with trees ({type(error).__name__}: {error})",
            hint="send Booster.save_raw('json') of a tree booster",
        ) from None
    if not is_whole:
        raise TensorError(f"params: {MODEL_DATA!r} says it has {counted} trees, and has {len(trees)}")
    return dict(model)


def _bytes(data: Any) -> bytes:
    if not isinstance(data, bytes | bytearray | str):
        raise TypeError(f"{type(data).__name__}, not bytes")
    return data.encode() if isinstance(data, str) else bytes(data)


def _check_fits(trees: Trees, model: Trees) -> None:
    """Raises TensorError if trees of one cannot be trees of the other."""
    ours, theirs = _kind(model), _kind(trees)
    for name, value in ours.items():
        if theirs[name] != value:
            hint = "give all sites the same base_score" if name == "base_score" else ""
            raise TensorError(f"params: {MODEL_DATA!r} has {name} = {theirs[name]}, the others have {value}", hint=hint)


def _kind(model: Trees) -> dict[str, Any]:
    learner = model["learner"]
    about = learner.get("learner_model_param", {})
    return {
        "objective": learner.get("objective", {}).get("name"),
        "num_parallel_tree": learner["gradient_booster"]["model"]["gbtree_model_param"].get("num_parallel_tree"),
        **{name: about.get(name) for name in ("num_feature", "num_class", "num_target", "base_score")},
    }


def _num_trees(model: Trees) -> int:
    return len(model["learner"]["gradient_booster"]["model"]["trees"])


def _append(model: Trees, trees: Trees) -> None:
    """Add the trees after those of `model`, in place. Their boosting rounds follow its own."""
    into, new = (each["learner"]["gradient_booster"]["model"] for each in (model, trees))
    before = len(into["trees"])
    into["trees"] += [{**tree, "id": before + number} for number, tree in enumerate(new["trees"])]
    into["tree_info"] += new["tree_info"]
    into["iteration_indptr"] += [before + end for end in new["iteration_indptr"][1:]]
    into["gbtree_model_param"]["num_trees"] = str(len(into["trees"]))
