"""Recipes for models that are one array of numpy: logistic regression by Newton's method, and evaluation alone."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from fedsag_cli.arguments import Least
from fedsag_cli.recipe.bases import Recipe, ScriptRecipe
from fedsag_cli.recipe.checking import Count, checked
from fedsag_cli.recipe.fed_job import FedJob, ScriptRunner
from fedsag_cli.recipe.parts import made
from fedsag_cli.recipe.recipes import weights_file
from fedsag_cli.recipe.settings import ExchangeFormat, FrameworkType

_COMMON = "nvflare.app_common"
_MEASURE, _SUBMIT = "validate", "submit_model"


class FedAvgLrRecipe(ScriptRecipe):
    """Logistic regression by Newton's method: the scripts send the "gradient" and the "hessian" of their examples.

    The model is "numpy_key", of shape (num_features + 1, 1). It begins with zeros, or with `initial_ckpt`.
    """

    @checked
    def __init__(
        self,
        *,
        name: str = "lr_fedavg",
        min_clients: Count,
        num_rounds: Count = 2,
        damping_factor: Annotated[float, Least(0)] = 0.8,
        num_features: Count = 13,
        initial_ckpt: str | os.PathLike[str] | None = None,
        train_script: str,
        train_args: str | Sequence[str] = "",
        launch_external_process: bool = False,
        command: str | Sequence[str] = "python3 -u",
        **other: Any,
    ) -> None:
        job = FedJob(name=name, min_clients=min_clients)
        persistor = made(
            f"{_COMMON}.workflows.lr.np_persistor.LRModelPersistor",
            n_features=num_features,
            source_ckpt_file_full_name=weights_file(initial_ckpt),
        )
        flow = made(
            f"{_COMMON}.workflows.lr.fedavg.FedAvgLR",
            num_clients=min_clients,
            num_rounds=num_rounds,
            damping_factor=damping_factor,
            n_features=num_features,
            persistor_id=job.to_server(persistor, id="lr_persistor"),
        )
        job.to_server(flow)
        plain = {"framework": FrameworkType.RAW, "server_expected_format": ExchangeFormat.RAW}
        super().__init__(job, {**locals(), **plain})


class NumpyCrossSiteEvalRecipe(Recipe):
    """Clients measure trained models, without training: those in `model_dir` by `model_name`, or `initial_ckpt`.

    A relative `model_dir` is in the run's folder. Without an `eval_script`, NVFLARE's NPValidator measures: an example,
    which adds a random number.
    """

    framework = FrameworkType.RAW

    @checked
    def __init__(
        self,
        name: str = "numpy_cross_site_eval",
        min_clients: Count = 2,
        eval_script: str | None = None,
        eval_args: str | Sequence[str] = "",
        launch_external_process: bool = False,
        command: str | Sequence[str] = "python3 -u",
        initial_ckpt: str | os.PathLike[str] | None = None,
        model_dir: str | None = None,
        model_name: Mapping[str, str] | None = None,
        submit_model_timeout: float = 600,
        validation_timeout: float = 6000,
        **other: Any,  # noqa: ARG002  what only saves memory in NVFLARE
    ) -> None:
        job = FedJob(name=name, min_clients=min_clients)
        names = {"server": weights_file(initial_ckpt)} if initial_ckpt is not None else model_name
        locator = made(f"{_COMMON}.np.np_model_locator.NPModelLocator", model_dir=model_dir, model_name=names)
        evaluation = made(
            f"{_COMMON}.workflows.cross_site_model_eval.CrossSiteModelEval",
            model_locator_id=job.to_server(locator, id="locator"),
            submit_model_task_name=_SUBMIT if eval_script else "",
            submit_model_timeout=submit_model_timeout,
            validation_timeout=validation_timeout,
        )
        job.to_server(evaluation)
        self._executor: Any = made(f"{_COMMON}.np.np_validator.NPValidator")
        self._tasks = [_MEASURE]
        if eval_script is not None:
            self._executor = ScriptRunner(
                eval_script, eval_args, launch_external_process, command, framework=FrameworkType.RAW
            )
            self._tasks = [_MEASURE, _SUBMIT]
        super().__init__(job)

    def prepare_clients(self) -> None:
        self.job.to_clients(self._executor, tasks=self._tasks)


__all__ = ["FedAvgLrRecipe", "NumpyCrossSiteEvalRecipe"]
