"""Recipes for models of scikit-learn, whose scripts exchange plain values: linear models, k-means and SVM."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedsag_cli.recipe.checking import Count, checked
from fedsag_cli.recipe.parts import made
from fedsag_cli.recipe.recipes import FedAvgRecipe
from fedsag_cli.recipe.settings import ExchangeFormat, FrameworkType

_SKLEARN = "nvflare.app_opt.sklearn"


class SklearnFedAvgRecipe(FedAvgRecipe):
    """Federated averaging of what the scripts send. `model_params`: values that they get in the first round."""

    @checked
    def __init__(
        self,
        *,
        name: str = "sklearn_fedavg",
        model_params: Mapping[str, Any] | None = None,
        **args: Any,
    ) -> None:
        super().__init__(
            name=name,
            framework=FrameworkType.RAW,
            server_expected_format=ExchangeFormat.RAW,
            model_persistor=made(
                f"{_SKLEARN}.joblib_model_param_persistor.JoblibModelParamPersistor",
                initial_params=dict(model_params or {}),
            ),
            **args,
        )


class _AssemblingRecipe(SklearnFedAvgRecipe):
    """The server assembles the clients' results by an algorithm of its own."""

    @checked
    def __init__(self, *, assembler: Any, **args: Any) -> None:
        path = "nvflare.app_common.aggregators.collect_and_assemble_aggregator.CollectAndAssembleAggregator"
        super().__init__(aggregator=made(path, assembler_id="assembler"), **args)
        self.job.to_server(assembler, id="assembler")


class KMeansFedAvgRecipe(_AssemblingRecipe):
    """Federated mini-batch k-means."""

    @checked
    def __init__(
        self, *, name: str = "kmeans_fedavg", num_rounds: Count = 5, n_clusters: Count = 3, **args: Any
    ) -> None:
        super().__init__(
            name=name,
            num_rounds=num_rounds,
            model_params={"n_clusters": n_clusters},
            assembler=made(f"{_SKLEARN}.kmeans_assembler.KMeansAssembler"),
            **args,
        )


class SVMFedAvgRecipe(_AssemblingRecipe):
    """Federated SVM: the first round trains, the second one measures. `backend` has no effect: it is the script's."""

    @checked
    def __init__(self, *, name: str = "svm_fedavg", kernel: str = "rbf", backend: str = "sklearn", **args: Any) -> None:  # noqa: ARG002
        super().__init__(
            name=name,
            num_rounds=2,
            model_params={"kernel": kernel},
            assembler=made(f"{_SKLEARN}.svm_assembler.SVMAssembler", kernel=kernel),
            **args,
        )


__all__ = ["KMeansFedAvgRecipe", "SVMFedAvgRecipe", "SklearnFedAvgRecipe"]
