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

    `per_site_config`, or `set_per_site_config`, gives each site its `data_loader`, and perhaps `lr_scale`.
    """

    of_a_site = ("data_loader", "lr_scale")

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
        self._settings = {key: given[key] for key in _OF_EXECUTOR}
        self._settings["num_client_bagging"] = num_client_bagging or min_clients
        self._data_loader_id = data_loader_id
        job = FedJob(name=name, min_clients=min_clients)
        job.to_server(_workflow(training_mode, min_clients, num_rounds), id="xgb_controller")
        job.to_server(made(f"{_TREES}.model_persistor.XGBModelPersistor", save_name=save_name), id="persistor")
        job.to_server(made(f"{_TREES}.shareable_generator.XGBModelShareableGenerator"), id="shareable_generator")
        if training_mode == "bagging":
            job.to_server(made(f"{_TREES}.bagging_aggregator.XGBBaggingAggregator"), id="aggregator")
        super().__init__(job)
        if per_site_config is not None:
            self.set_per_site_config(per_site_config)

    def set_per_site_config(self, config: Mapping[str, Mapping[str, Any]]) -> None:
        super().set_per_site_config(config)
        for site, values in config.items():
            if values.get("data_loader") is None:
                raise UsageError(f"XGBBaggingRecipe: site {site} has no data_loader")

    def prepare_clients(self) -> None:
        if not self._by_site:
            raise UsageError("XGBBaggingRecipe: no site has data", hint='set_per_site_config gives a "data_loader"')
        for site, values in self._by_site.items():
            executor = made(
                f"{_TREES}.executor.FedXGBTreeExecutor",
                data_loader_id=self._data_loader_id,
                lr_scale=values.get("lr_scale", 1.0),
                **self._settings,
            )
            self.job.to(executor, site)
            self.job.to(values["data_loader"], site, id=self._data_loader_id)


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
