"""NVFLARE's FedXGBTreeExecutor as a script with the Client API: trees of XGBoost on the data of the job's own loader.

Its one argument is a JSON object: `executor` with the arguments of the executor, and `loader` with the class path and
the arguments of the data loader. In the mode "bagging" it sends the trees it adds to the model, in "cyclic" all trees.
"""

from __future__ import annotations

import importlib
import json
import logging
import re
import sys
from typing import Any

import msgspec
import numpy as np

import fedsag_cli.client as flare
from fedsag_cli.errors import ClientError
from fedsag_cli.interop import shim

__all__ = ["XGBDataLoader"]

log = logging.getLogger("xgb_trees")


class XGBDataLoader:
    """The base of a data loader: `load_data` returns (training data, validation data), both xgboost.DMatrix."""

    def initialize(self, client_id: str, rank: int, data_split_mode: Any = 0) -> None:
        """Called before `load_data`. `client_id`: the site's name; `rank`: its number, from 0."""
        self.client_id, self.rank, self.data_split_mode = client_id, rank, data_split_mode

    def load_data(self) -> tuple[Any, Any]:
        raise NotImplementedError


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The executor's arguments, with NVFLARE's defaults."""

    training_mode: str
    lr_scale: float = 1.0
    num_client_bagging: int = 1
    lr_mode: str = "uniform"
    learning_rate: float = 0.1
    objective: str = "binary:logistic"
    num_local_parallel_tree: int = 1
    local_subsample: float = 1.0
    max_depth: int = 8
    eval_metric: str = "auc"
    nthread: int = 16
    tree_method: str = "hist"
    use_gpus: bool = False

    def of_booster(self, rank: int) -> dict[str, Any]:
        """The settings of XGBoost. Raises ClientError for a mode that is not there."""
        if self.training_mode not in ("bagging", "cyclic") or self.lr_mode not in ("uniform", "scaled"):
            raise ClientError(
                f"training_mode {self.training_mode!r} and lr_mode {self.lr_mode!r} must be bagging or cyclic, and "
                "uniform or scaled"
            )
        share = self.lr_scale if self.lr_mode == "scaled" else 1 / self.num_client_bagging
        return {
            "objective": self.objective,
            "base_score": 0.5,  # else it is from the site's own labels, and the sites' trees do not go together
            "eta": self.learning_rate * (share if self.training_mode == "bagging" else 1.0),
            "max_depth": self.max_depth,
            "eval_metric": self.eval_metric,
            "nthread": self.nthread,
            "num_parallel_tree": self.num_local_parallel_tree,
            "subsample": self.local_subsample,
            "tree_method": self.tree_method,
            **({"device": f"cuda:{rank}"} if self.use_gpus else {}),
        }


class _Loader(msgspec.Struct, frozen=True):
    path: str
    args: dict[str, Any] = {}


class _Config(msgspec.Struct, frozen=True):
    executor: Settings
    loader: _Loader


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
    shim.install()
    config = msgspec.json.decode(sys.argv[1], type=_Config)
    module, _, name = config.loader.path.rpartition(".")
    loader = getattr(importlib.import_module(module), name)(**config.loader.args)
    flare.init()
    site = flare.get_site_name()
    rank = int((re.search(r"\d+$", site) or ["1"])[0]) - 1
    loader.initialize(client_id=site, rank=rank)
    train, validation = loader.load_data()
    settings = config.executor.of_booster(rank)
    while flare.is_running():
        received = flare.receive()
        assert received is not None  # is_running() was True
        model = None if not received.params else _booster(settings, received.params["model_data"])
        metrics = None if model is None else _measured(model, validation, config.executor.eval_metric)
        log.info("round %s: the received model has %s", received.current_round, metrics or "no trees")
        if flare.is_evaluate():
            flare.send(flare.FLModel(metrics=metrics or {}))
        else:
            data = _trained(settings, train, model, sends_all=config.executor.training_mode == "cyclic")
            flare.send(flare.FLModel(params={"model_data": data}, metrics=metrics))


def _booster(settings: dict[str, Any], data: bytes) -> Any:
    import xgboost

    return xgboost.Booster(settings, model_file=bytearray(data))


def _measured(model: Any, data: Any, metric: str) -> dict[str, float]:
    """XGBoost says it as "[0]\\teval-auc:0.98"."""
    return {metric: float(str(model.eval(data)).rpartition(":")[2])}


def _trained(settings: dict[str, Any], data: Any, model: Any, *, sends_all: bool) -> bytes:
    """The model file after one more boosting round: all trees, or only the new ones.

    The sums of the hessians in the nodes, which count the examples there, are replaced by ones.
    """
    import xgboost

    before = 0 if model is None or sends_all else model.num_boosted_rounds()
    seeded = {**settings, "seed": int(np.random.randint(2**31 - 1))}  # for subsamples: another one in each round
    trained = xgboost.train(seeded, data, num_boost_round=1, xgb_model=model)
    saved = json.loads(trained[before:].save_raw("json"))
    for tree in saved["learner"]["gradient_booster"]["model"]["trees"]:
        tree["sum_hessian"] = [1.0] * len(tree["sum_hessian"])
    return json.dumps(saved).encode()


if __name__ == "__main__":
    main()
