"""`XGBBaggingRecipe`: trees of XGBoost, which all clients grow at once or one client after the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from fedsag_cli.arguments import OneOf
from fedsag_cli.errors import UsageError
from fedsag_cli.recipe.bases import Recipe
from fedsag_cli.recipe.checking import Count, checked
from fedsag_cli.recipe.fed_job import FedJob
from fedsag_cli.recipe.parts import Part, made

_COMMON, _TREES = "nvflare.app_common.workflows", "nvflare.app_opt.xgboost.tree_based"
_OF_EXECUTOR = (
    "training_mode", "num_local_parallel_tree", "local_subsample", "learning_rate", "lr_mode", "objective", "max_depth",
    "eval_metric", "tree_method", "use_gpus", "nthread",
)  # fmt: skip


class XGBBaggingRecipe(Recipe):
    """Trees of XGBoost. `training_mode`: "bagging", or "cyclic".

    `per_site_config` gives each site its `data_loader`, and perhaps `lr_scale`.
    """

    @checked
    def __init__(
        self,
        name: str,
        min_clients: Count,
        training_mode: Annotated[str, OneOf(("bagging", "cyclic"))] = "bagging",
        num_rounds: Count | None = None,
        num_client_bagging: Count | None = None,
        *,
        num_local_parallel_tree: Count = 1,
        local_subsample: float = 0.8,
        learning_rate: float = 0.1,
        lr_mode: Annotated[str, OneOf(("uniform", "scaled"))] = "uniform",
        objective: str = "binary:logistic",
        max_depth: int = 8,
        eval_metric: str = "auc",
        tree_method: str = "hist",
        use_gpus: bool = False,
        nthread: Count = 16,
        save_name: str = "xgboost_model.json",
        data_loader_id: str = "dataloader",
        per_site_config: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        given = locals()
        settings = {key: given[key] for key in _OF_EXECUTOR}
        if not per_site_config:
            raise UsageError("XGBBaggingRecipe: per_site_config is missing", hint='give each site its "data_loader"')
        job = FedJob(name=name, min_clients=min_clients)
        job.to_server(_workflow(training_mode, min_clients, num_rounds), id="xgb_controller")
        job.to_server(made(f"{_TREES}.model_persistor.XGBModelPersistor", save_name=save_name), id="persistor")
        job.to_server(made(f"{_TREES}.shareable_generator.XGBModelShareableGenerator"), id="shareable_generator")
        if training_mode == "bagging":
            job.to_server(made(f"{_TREES}.bagging_aggregator.XGBBaggingAggregator"), id="aggregator")
        for site, config in per_site_config.items():
            if not isinstance(config, Mapping) or config.get("data_loader") is None:
                raise UsageError(f"XGBBaggingRecipe: site {site} has no data_loader")
            executor = made(
                f"{_TREES}.executor.FedXGBTreeExecutor",
                data_loader_id=data_loader_id,
                num_client_bagging=num_client_bagging or min_clients,
                lr_scale=config.get("lr_scale", 1.0),
                **settings,
            )
            job.to(executor, site)
            job.to(config["data_loader"], site, id=data_loader_id)
        super().__init__(job)


def _workflow(mode: str, min_clients: int, num_rounds: int | None) -> Part:
    ids = {"persistor_id": "persistor", "shareable_generator_id": "shareable_generator"}
    if mode == "cyclic":
        return made(f"{_COMMON}.cyclic_ctl.CyclicController", num_rounds=num_rounds or 100, **ids)
    return made(
        f"{_COMMON}.scatter_and_gather.ScatterAndGather",
        min_clients=min_clients,
        num_rounds=num_rounds or 1,
        aggregator_id="aggregator",
        wait_time_after_min_received=0,
        allow_empty_global_weights=True,
        **ids,
    )
