"""Recipes: a job in one call, for a training script.

An argument that only saves memory or time in NVFLARE has no effect. Any other that fedsag does not have is an error.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from fedsag_cli.errors import UsageError, nearest
from fedsag_cli.interop import vocabulary
from fedsag_cli.recipe.bases import OF_A_SITE, Recipe, ScriptRecipe
from fedsag_cli.recipe.checking import Count, Expected, Framework, Mode, Transfer, checked, path_of
from fedsag_cli.recipe.fed_job import BaseFedJob, FedJob, PTModel, selects_best
from fedsag_cli.recipe.lacking import lacking
from fedsag_cli.recipe.parts import Model, made
from fedsag_cli.recipe.settings import ExchangeFormat, FrameworkType, TransferType

_COMMON, _PT = "nvflare.app_common", "nvflare.app_opt.pt"


class FedAvgRecipe(ScriptRecipe):
    """Federated averaging. `framework` says what the model is: torch's (`model`: an object, or a dict with class_path
    and args), or numpy's (an array, or a list)."""

    @checked
    def __init__(
        self,
        *,
        name: str = "fedavg",
        model: Any = None,
        initial_ckpt: str | os.PathLike[str] | None = None,
        min_clients: Count,
        num_rounds: Count = 2,
        train_script: str,
        train_args: str | Sequence[str] = "",
        aggregator: Any = None,
        launch_external_process: bool = False,
        command: str | Sequence[str] = "python3 -u",
        framework: Framework = FrameworkType.PYTORCH,
        server_expected_format: Expected = ExchangeFormat.NUMPY,
        params_transfer_type: Transfer = TransferType.FULL,
        model_persistor: Any = None,
        per_site_config: Mapping[str, Mapping[str, Any]] | None = None,
        launch_once: bool = True,
        key_metric: str | None = "accuracy",
        key_metric_mode: Mode | None = None,
        stop_cond: str | None = None,
        patience: Count | None = None,
        best_model_filename: str | None = None,
        exclude_vars: str | Sequence[str] | None = None,
        aggregation_weights: Mapping[str, float] | None = None,
        **other: Any,
    ) -> None:
        if framework not in (FrameworkType.PYTORCH, FrameworkType.NUMPY, FrameworkType.RAW):
            raise lacking(f"framework {getattr(framework, 'value', framework)!r} of {type(self).__name__}")
        if model is None and initial_ckpt is None and model_persistor is None:
            raise UsageError(f"{type(self).__name__}: there is no model", hint="give model, or initial_ckpt")
        job = BaseFedJob(
            name=name,
            min_clients=min_clients,
            key_metric=key_metric,
            key_metric_mode=_mode(key_metric_mode, key_metric, stop_cond),
        )
        expected = server_expected_format
        persistor = model_persistor or _persistor(framework, model, initial_ckpt, best_model_filename, expected)
        self._workflow = made(
            vocabulary.FEDERATED_AVERAGING.path,
            num_clients=min_clients,
            num_rounds=num_rounds,
            persistor_id=_add_persistor(job, persistor),
            aggregator=aggregator,
            stop_cond=stop_cond,
            patience=patience,
            exclude_vars=exclude_vars,
            aggregation_weights=aggregation_weights,
        )
        job.to_server(self._workflow)
        self.framework = FrameworkType(framework)
        super().__init__(job, locals())


class FedProxRecipe(FedAvgRecipe):
    """Federated averaging whose clients train with FedProx: they read `fedprox_mu` from the model's meta."""

    @checked
    def __init__(self, *, name: str = "fedprox", fedprox_mu: float = 0.01, **args: Any) -> None:
        super().__init__(name=name, **args)
        self._workflow.given["fedprox_mu"] = fedprox_mu


class NumpyFedAvgRecipe(FedAvgRecipe):
    """Federated averaging of numpy's arrays. `model`: an array or a list, which scripts get as "numpy_key"."""

    @checked
    def __init__(self, *, name: str = "fedavg", **args: Any) -> None:
        if "framework" in args:
            raise UsageError("NumpyFedAvgRecipe has no framework: it is numpy")
        super().__init__(name=name, framework=FrameworkType.NUMPY, **args)


class FedOptRecipe(ScriptRecipe):
    """FedAvg with an optimizer of torch at the server, whose clients send differences."""

    framework = FrameworkType.PYTORCH

    @checked
    def __init__(
        self,
        *,
        name: str = "fedopt",
        model: Any = None,
        initial_ckpt: str | os.PathLike[str] | None = None,
        min_clients: Count,
        num_rounds: Count = 2,
        train_script: str,
        train_args: str | Sequence[str] = "",
        aggregator: Any = None,
        launch_external_process: bool = False,
        command: str | Sequence[str] = "python3 -u",
        server_expected_format: Expected = ExchangeFormat.NUMPY,
        device: str | None = None,
        source_model: str = "model",
        optimizer_args: Mapping[str, Any] | None = None,
        lr_scheduler_args: Mapping[str, Any] | None = None,
        key_metric: str | None = "accuracy",
        key_metric_mode: Mode | None = None,
        **other: Any,
    ) -> None:
        if model is None:
            raise UsageError("FedOptRecipe: there is no model", hint="give model; initial_ckpt has only its weights")
        job = BaseFedJob(name=name, min_clients=min_clients, key_metric=key_metric, key_metric_mode=key_metric_mode)
        job.to_server(Model(model), id=source_model)
        persistor = made(
            f"{_PT}.file_model_persistor.PTFileModelPersistor",
            model=source_model,
            source_ckpt_file_full_name=weights_file(initial_ckpt),
        )
        job.comp_ids["persistor_id"] = job.to_server(persistor, id="persistor")
        updater = made(
            vocabulary.UPDATER,
            device=device,
            source_model=source_model,
            optimizer_args=_as_dict(optimizer_args),
            lr_scheduler_args=_with_rounds(_as_dict(lr_scheduler_args), num_rounds),
        )
        averages = made(f"{_COMMON}.aggregators.intime_accumulate_model_aggregator.InTimeAccumulateWeightedAggregator")
        flow = made(
            f"{_COMMON}.workflows.scatter_and_gather.ScatterAndGather",
            min_clients=min_clients,
            num_rounds=num_rounds,
            wait_time_after_min_received=0,
            persistor_id=job.comp_ids["persistor_id"],
            shareable_generator_id=job.to_server(updater, id="shareable_generator"),
            aggregator_id=job.to_server(aggregator or averages, id="aggregator"),
        )
        job.to_server(flow)
        super().__init__(job, {**locals(), "params_transfer_type": TransferType.DIFF})


class ScaffoldRecipe(ScriptRecipe):
    """SCAFFOLD: scripts use PTScaffoldHelper."""

    framework = FrameworkType.PYTORCH

    @checked
    def __init__(
        self,
        *,
        name: str = "scaffold",
        model: Any = None,
        initial_ckpt: str | os.PathLike[str] | None = None,
        min_clients: Count,
        num_rounds: Count = 2,
        train_script: str,
        train_args: str | Sequence[str] = "",
        launch_external_process: bool = False,
        command: str | Sequence[str] = "python3 -u",
        server_expected_format: Expected = ExchangeFormat.NUMPY,
        params_transfer_type: Transfer = TransferType.FULL,
        key_metric: str | None = "accuracy",
        key_metric_mode: Mode | None = None,
        **other: Any,
    ) -> None:
        job = BaseFedJob(name=name, min_clients=min_clients, key_metric=key_metric, key_metric_mode=key_metric_mode)
        persistor = _persistor(self.framework, model, initial_ckpt, None, server_expected_format)
        flow = made(
            f"{_COMMON}.workflows.scaffold.Scaffold",
            num_clients=min_clients,
            num_rounds=num_rounds,
            persistor_id=_add_persistor(job, persistor),
        )
        job.to_server(flow)
        super().__init__(job, locals())


class CyclicRecipe(ScriptRecipe):
    """Cyclic weight transfer: in each round the model goes from client to client."""

    @checked
    def __init__(
        self,
        *,
        name: str = "cyclic",
        model: Any = None,
        initial_ckpt: str | os.PathLike[str] | None = None,
        num_rounds: Count = 2,
        min_clients: Count = 2,
        train_script: str,
        train_args: str | Sequence[str] = "",
        launch_external_process: bool = False,
        command: str | Sequence[str] = "python3 -u",
        framework: Framework = FrameworkType.PYTORCH,
        server_expected_format: Expected = ExchangeFormat.NUMPY,
        params_transfer_type: Transfer = TransferType.FULL,
        **other: Any,
    ) -> None:
        self.framework = FrameworkType(framework)
        job = BaseFedJob(name=name, min_clients=min_clients, key_metric=None)
        persistor = _persistor(framework, model, initial_ckpt, None, server_expected_format)
        generator = made(f"{_COMMON}.shareablegenerators.full_model_shareable_generator.FullModelShareableGenerator")
        flow = made(
            f"{_COMMON}.workflows.cyclic_ctl.CyclicController",
            num_rounds=num_rounds,
            persistor_id=_add_persistor(job, persistor),
            shareable_generator_id=job.to_server(generator, id="shareable_generator"),
        )
        job.to_server(flow)
        super().__init__(job, locals())


class SwarmLearningRecipe(ScriptRecipe):
    """Swarm learning, and then cross-site evaluation with `do_cross_site_eval`. In fedsag the server runs it."""

    framework = FrameworkType.PYTORCH

    @checked
    def __init__(
        self,
        name: str,
        model: Any,
        num_rounds: Count,
        train_script: str,
        min_clients: Count,
        initial_ckpt: str | os.PathLike[str] | None = None,
        train_args: Any = None,
        do_cross_site_eval: bool = False,
        cross_site_eval_timeout: float = 300,
        launch_external_process: bool = False,
        command: str | Sequence[str] = "python3 -u",
        expected_data_kind: str = "WEIGHTS",
        params_transfer_type: Transfer = TransferType.FULL,
        key_metric: str | None = "accuracy",
        key_metric_mode: Mode = "max",
        **other: Any,
    ) -> None:
        job = FedJob(name=name, min_clients=min_clients)
        path = f"{_COMMON}.ccwf"
        averages = f"{_COMMON}.aggregators.intime_accumulate_model_aggregator.InTimeAccumulateWeightedAggregator"
        job.to_server(
            made(
                f"{path}.swarm_server_ctl.SwarmServerController",
                num_rounds=num_rounds,
                min_clients=min_clients,
            )
        )
        self._of_clients: list[tuple[Any, dict[str, Any]]] = [
            (
                made(f"{path}.swarm_client_ctl.SwarmClientController", min_responses_required=min_clients),
                {"tasks": ["swarm_*"]},
            ),
            (_persistor(self.framework, model, initial_ckpt, None, ExchangeFormat.NUMPY), {"id": "persistor"}),
            (
                made(f"{path}.comps.simple_model_shareable_generator.SimpleModelShareableGenerator"),
                {"id": "shareable_generator"},
            ),
            (made(averages, expected_data_kind=expected_data_kind), {"id": "aggregator"}),
        ]
        if key_metric:
            self._of_clients.append((selects_best(key_metric, key_metric_mode), {"id": "model_selector"}))
        if do_cross_site_eval:
            evaluation = f"{path}.cse_server_ctl.CrossSiteEvalServerController"
            job.to_server(made(evaluation, eval_task_timeout=cross_site_eval_timeout))
            measuring = made(f"{path}.cse_client_ctl.CrossSiteEvalClientController")
            self._of_clients.append((measuring, {"tasks": ["cse_*"]}))
        script = dict(train_args) if isinstance(train_args, Mapping) else {"script_args": train_args or ""}
        given = {**locals(), "train_args": script.pop("script_args", "")}
        for key, value in script.items():
            if key not in OF_A_SITE:
                raise UsageError(f"SwarmLearningRecipe: train_args has no key {key!r}", hint=nearest(key, OF_A_SITE))
            given[key] = value
        super().__init__(job, given, tasks=["train", "validate", "submit_model"])

    def prepare_clients(self) -> None:
        super().prepare_clients()
        for part, named in self._of_clients:
            self.to_client_apps(part, **named)


class SimpleSwarmLearningRecipe(SwarmLearningRecipe):
    """The earlier name of `SwarmLearningRecipe`, which needs no `min_clients`."""

    @checked
    def __init__(self, name: str, model: Any = None, *, min_clients: Count = 1, **args: Any) -> None:
        super().__init__(name, model, min_clients=min_clients, **args)


class FedEvalRecipe(ScriptRecipe):
    """Clients measure a trained model, whose weights are in `eval_ckpt`."""

    framework = FrameworkType.PYTORCH

    @checked
    def __init__(
        self,
        *,
        name: str = "eval",
        model: Any,
        eval_ckpt: str | os.PathLike[str],
        min_clients: Count,
        eval_script: str,
        eval_args: str | Sequence[str] = "",
        launch_external_process: bool = False,
        command: str | Sequence[str] = "python3 -u",
        server_expected_format: Expected = ExchangeFormat.NUMPY,
        validation_timeout: float = 6000,
        per_site_config: Mapping[str, Mapping[str, Any]] | None = None,
        **other: Any,
    ) -> None:
        job = BaseFedJob(name=name, min_clients=min_clients)
        persistor = _persistor(self.framework, model, eval_ckpt, None, ExchangeFormat.NUMPY)
        flow = made(
            f"{_PT}.recipes.fedeval.EvalController",
            persistor_id=_add_persistor(job, persistor),
            timeout=validation_timeout,
        )
        job.to_server(flow)
        given = _as_of_training(locals())
        if per_site_config is not None:
            given["per_site_config"] = {site: _as_of_training(values) for site, values in per_site_config.items()}
        super().__init__(job, given)


def _as_of_training(given: Any) -> Any:
    """The arguments of an evaluation by the names that a training has for them."""
    names = {"eval_script": "train_script", "eval_args": "train_args"}
    return {names.get(key, key): value for key, value in given.items()} if isinstance(given, Mapping) else given


def _persistor(
    framework: Any, model: Any, checkpoint: str | os.PathLike[str] | None, best: str | None, expected: str
) -> Any:
    """The part that has the initial model, and saves the global one."""
    if framework == FrameworkType.PYTORCH:
        if model is None:
            raise UsageError("there is no model", hint="give model; initial_ckpt has only its weights")
        as_numpy = getattr(expected, "value", expected) != "pytorch"
        return PTModel(
            model,
            allow_numpy_conversion=as_numpy,
            initial_ckpt=weights_file(checkpoint),
            best_model_filename=best,
        )
    if best is not None:
        raise UsageError("best_model_filename is for models of torch: numpy's persistor keeps no best model")
    if isinstance(model, Mapping) and ("class_path" in model or "path" in model):
        raise UsageError("a model of numpy is an array or a list, not a class")
    if model is not None:
        _check_numbers(model)
    return made(
        f"{_COMMON}.np.np_model_persistor.NPModelPersistor",
        model=model,
        source_ckpt_file_full_name=weights_file(checkpoint),
    )


def _check_numbers(value: Any) -> None:
    """Raises UsageError unless it is a number or an array, or a list or a dict of these."""
    if isinstance(value, list | tuple | Mapping):
        for each in value.values() if isinstance(value, Mapping) else value:
            _check_numbers(each)
    elif not isinstance(value, int | float) and not hasattr(value, "tolist"):
        raise UsageError(f"model: {value!r} is no number: a model of numpy is an array, or a list or a dict of numbers")


def weights_file(path: str | os.PathLike[str] | None) -> str | None:
    """The absolute path of a file of weights. Raises UsageError if there is none."""
    if path is None:
        return None
    file = path_of(path, "a file of weights")
    if not file.is_file():
        raise UsageError(f"{path}: there is no such file of weights")
    return os.path.abspath(file)  # noqa: PTH100  a link stays one


def _add_persistor(job: BaseFedJob, persistor: Any) -> str:
    """The id that the server's persistor has, which `job` now knows."""
    added = job.to_server(persistor, id="persistor")
    job.comp_ids.update(added if isinstance(added, Mapping) else {"persistor_id": added})
    return job.comp_ids["persistor_id"]


def _mode(given: str | None, key_metric: str | None, stop_cond: str | None) -> str | None:
    """Whether the smallest value is the best: as it is given, else as the condition that ends the run compares it."""
    words = (stop_cond or "").split()
    if words[:1] != [key_metric] or len(words) < 2:
        return given
    ends_at = "min" if words[1].startswith("<") else "max"
    if given not in (None, ends_at):
        raise UsageError(f"key_metric_mode is {given!r}, but stop_cond is {stop_cond!r}", hint=f"give {ends_at!r}")
    return ends_at


def _as_dict(config: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """A dict that is given to the part as it is, although it names a class."""
    return None if config is None else {"config_type": "dict", **config}


def _with_rounds(config: dict[str, Any] | None, num_rounds: Count) -> dict[str, Any] | None:
    if config is not None and config.get("args", {}).get("T_max") == "{num_rounds}":
        return {**config, "args": {**config["args"], "T_max": num_rounds}}
    return config


__all__ = [
    "CyclicRecipe",
    "FedAvgRecipe",
    "FedEvalRecipe",
    "FedOptRecipe",
    "FedProxRecipe",
    "NumpyFedAvgRecipe",
    "Recipe",
    "ScaffoldRecipe",
    "SimpleSwarmLearningRecipe",
    "SwarmLearningRecipe",
]
