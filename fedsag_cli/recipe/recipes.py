"""Recipes: a job in one call, for a training script.

Importing this module takes --export and --export-dir from sys.argv, before the script reads its words. An argument that
only saves memory or time in NVFLARE has no effect. Any other that fedsag does not have is an error.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedsag_cli.cli import display
from fedsag_cli.errors import UsageError, nearest
from fedsag_cli.recipe.environments import Run
from fedsag_cli.recipe.fed_job import ALL_SITES, BaseFedJob, FedJob, PTModel, ScriptRunner, selects_best
from fedsag_cli.recipe.folder import Model
from fedsag_cli.recipe.lacking import lacking
from fedsag_cli.recipe.parts import made
from fedsag_cli.recipe.settings import ExchangeFormat, FilterType, FrameworkType, TransferType

_COMMON, _PT = "nvflare.app_common", "nvflare.app_opt.pt"
_NO_EFFECT = (
    "server_memory_gc_rounds", "client_memory_gc_rounds", "memory_gc_rounds", "cuda_empty_cache",
    "enable_tensor_disk_offload", "launch_timeout", "shutdown_timeout", "task_assignment_timeout", "model_locator",
    "aggregator_data_kind", "round_timeout", "start_task_timeout", "progress_timeout", "max_status_report_interval",
    "learn_task_timeout", "max_concurrent_submissions", "learn_task_abort_timeout", "learn_task_ack_timeout",
    "final_result_ack_timeout", "aggregation_format",
)  # fmt: skip
_LACKS = ("save_filename", "server_config_overrides", "client_config_overrides")
_OF_A_SITE = (
    "train_script", "train_args", "launch_external_process", "command", "framework", "server_expected_format",
    "params_transfer_type", "launch_once",
)  # fmt: skip
_EXPORT, _EXPORT_DIR = "--export", "--export-dir"


def _taken_from_words() -> str | None:
    """The folder to export to, if the words of the script ask for it; they are then gone. None: run the job."""
    words, kept, folder, exports = iter(sys.argv[1:]), [], "./fl_job", False
    for word in words:
        if word == _EXPORT:
            exports = True
        elif word == _EXPORT_DIR:
            if (given := next(words, None)) is None:
                return None  # the script's own parser says what is wrong
            folder = given
        elif word.startswith(f"{_EXPORT_DIR}="):
            folder = word.partition("=")[2]
        else:
            kept.append(word)
    sys.argv[1:] = kept
    return folder if exports else None


_export_to = _taken_from_words()


class Recipe:
    """A job that is made in one call. `framework` decides how cross-site evaluation finds the models."""

    framework: FrameworkType | None = None

    def __init__(self, job: FedJob) -> None:
        self.job, self.name = job, job.name
        self._by_site: dict[str, dict[str, Any]] = {}
        self._has_clients = False

    @property
    def _job(self) -> FedJob:
        return self.job

    def prepare_clients(self) -> None:
        """For subclasses: add to `job` what clients get."""

    def execute(
        self,
        env: Any,
        server_exec_params: Mapping[str, Any] | None = None,
        client_exec_params: Mapping[str, Any] | None = None,
    ) -> Run:
        """Run the job in `env`; with --export among the script's words, write its folder and end the script."""
        if _export_to is not None:
            self.export(_export_to, server_exec_params, client_exec_params, env)
            display.line(f"job {self.name} is in {_export_to}")
            raise SystemExit(0)
        return self.run(env, server_exec_params, client_exec_params)

    def run(
        self,
        env: Any,
        server_exec_params: Mapping[str, Any] | None = None,
        client_exec_params: Mapping[str, Any] | None = None,
    ) -> Run:
        self._complete(server_exec_params, client_exec_params)
        self.process_env(env)
        return Run(env, env.deploy(self.job))

    def export(
        self,
        job_dir: str,
        server_exec_params: Mapping[str, Any] | None = None,
        client_exec_params: Mapping[str, Any] | None = None,
        env: Any = None,
    ) -> None:
        """Write the job folder `job_dir`/NAME."""
        self._complete(server_exec_params, client_exec_params)
        if env is not None:
            self.process_env(env)
        self.job.export_job(job_dir)

    def process_env(self, env: Any) -> None:
        """For subclasses: what to change for this environment."""

    def set_per_site_config(self, config: Mapping[str, Mapping[str, Any]]) -> None:
        if not config or not all(isinstance(each, Mapping) for each in config.values()):
            raise UsageError("the config by site must be a dict with a dict for each site")
        if self._has_clients or self._by_site:
            raise UsageError("set_per_site_config must be called once, directly after the recipe is made")
        for site, values in config.items():
            for key in values:
                if key not in (*_OF_A_SITE, *_NO_EFFECT):
                    raise UsageError(f"site {site}: there is no key {key!r}", hint=nearest(key, _OF_A_SITE))
        self._by_site = {site: dict(values) for site, values in config.items()}

    def configured_sites(self) -> list[str]:
        return list(self._by_site)

    def to_client_apps(self, obj: Any, clients: Sequence[str] | None = None, **named: Any) -> None:
        """Add a part to these clients, or to all."""
        self._clients_ready()
        targets = self.job.client_apps or [ALL_SITES]
        if clients is not None:
            if unknown := [name for name in clients if name not in targets]:
                raise UsageError(
                    f"{self.name} has no client {unknown[0]!r} of its own",
                    hint="set_per_site_config gives each client its own, directly after the recipe is made",
                )
            targets = list(clients)
        for target in targets:
            self.job.to(obj, target, **named)

    def add_client_input_filter(
        self,
        filter: Any,  # noqa: A002
        tasks: Sequence[str] | None = None,
        clients: Sequence[str] | None = None,
    ) -> None:
        self.to_client_apps(filter, clients, filter_type=FilterType.TASK_DATA, tasks=tasks)

    def add_client_output_filter(
        self,
        filter: Any,  # noqa: A002
        tasks: Sequence[str] | None = None,
        clients: Sequence[str] | None = None,
    ) -> None:
        self.to_client_apps(filter, clients, filter_type=FilterType.TASK_RESULT, tasks=tasks)

    def add_server_output_filter(self, filter: Any, tasks: Sequence[str] | None = None) -> None:  # noqa: A002
        self.job.to_server(filter, filter_type=FilterType.TASK_DATA, tasks=tasks)

    def add_server_input_filter(self, filter: Any, tasks: Sequence[str] | None = None) -> None:  # noqa: A002
        self.job.to_server(filter, filter_type=FilterType.TASK_RESULT, tasks=tasks)

    def add_client_config(self, config: Mapping[str, Any], clients: Sequence[str] | None = None) -> None:
        self.to_client_apps(dict(config), clients)

    def add_server_config(self, config: Mapping[str, Any]) -> None:
        self.job.to_server(dict(config))

    def add_client_file(self, file_path: str, clients: Sequence[str] | None = None) -> None:
        self.to_client_apps(str(file_path), clients)

    def add_server_file(self, file_path: str) -> None:
        self.job.to_server(str(file_path))

    def enable_log_streaming(self, *file_names: str) -> None:
        """Nothing: the logs of all processes are in the workspace."""

    def enable_tensor_streaming(self, *_: Any, **__: Any) -> None:
        """Nothing: fedsag sends models in pieces."""

    def add_decomposers(self, decomposers: Sequence[Any]) -> None:
        """Nothing: fedsag sends its messages itself."""

    def _clients_ready(self) -> None:
        if not self._has_clients:
            self._has_clients = True
            self.prepare_clients()

    def _complete(self, server: Mapping[str, Any] | None, client: Mapping[str, Any] | None) -> None:
        self._clients_ready()
        if server:
            self.job.to_server(dict(server))
        if client:
            self.to_client_apps(dict(client))


class _ScriptRecipe(Recipe):
    """A recipe whose clients run a script. `arguments` of the script's runner may differ by site."""

    def __init__(self, job: FedJob, arguments: Mapping[str, Any], tasks: Sequence[str] | None = None) -> None:
        super().__init__(job)
        self._arguments, self._tasks = dict(arguments), tasks
        self._runner({})  # its errors name the line of the recipe

    def set_per_site_config(self, config: Mapping[str, Mapping[str, Any]]) -> None:
        super().set_per_site_config(config)
        for values in config.values():
            self._runner(values)

    def prepare_clients(self) -> None:
        for site, values in (self._by_site or {ALL_SITES: {}}).items():
            named: dict[str, Any] = {"tasks": self._tasks} if self._tasks else {}
            self.job.to(self._runner(values), site, **named)

    def _runner(self, of_site: Mapping[str, Any]) -> ScriptRunner:
        given = {key: value for key, value in of_site.items() if value is not None and key in _OF_A_SITE}
        arguments = {**self._arguments, **given}
        script, words = arguments.pop("train_script"), arguments.pop("train_args")
        return ScriptRunner(script, words, **arguments)


class FedAvgRecipe(_ScriptRecipe):
    """Federated averaging. `framework` says what the model is: torch's (`model`: an object, or a dict with class_path
    and args), or numpy's (an array, or a list)."""

    def __init__(
        self,
        *,
        name: str = "fedavg",
        model: Any = None,
        initial_ckpt: str | None = None,
        min_clients: int,
        num_rounds: int = 2,
        train_script: str,
        train_args: str | Sequence[str] = "",
        aggregator: Any = None,
        launch_external_process: bool = False,
        command: str | Sequence[str] = "python3 -u",
        framework: FrameworkType = FrameworkType.PYTORCH,
        server_expected_format: str = ExchangeFormat.NUMPY,
        params_transfer_type: str = TransferType.FULL,
        model_persistor: Any = None,
        per_site_config: Mapping[str, Mapping[str, Any]] | None = None,
        launch_once: bool = True,
        key_metric: str = "accuracy",
        key_metric_mode: str | None = None,
        stop_cond: str | None = None,
        patience: int | None = None,
        best_model_filename: str | None = None,
        exclude_vars: str | None = None,
        aggregation_weights: Mapping[str, float] | None = None,
        **other: Any,
    ) -> None:
        fedprox_mu = other.pop("fedprox_mu", None) if isinstance(self, FedProxRecipe) else None
        model = _model(model, other)
        check_others(self, other)
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
        persistor = model_persistor or _persistor(
            framework, model, initial_ckpt, best_model_filename, server_expected_format
        )
        job.comp_ids.update(_ids(job.to_server(persistor, id="persistor")))
        flow = made(
            f"{_COMMON}.workflows.fedavg.FedAvg",
            num_clients=min_clients,
            num_rounds=_rounds(self, num_rounds),
            persistor_id=job.comp_ids["persistor_id"],
            aggregator=aggregator,
            stop_cond=stop_cond,
            patience=patience,
            exclude_vars=exclude_vars,
            aggregation_weights=aggregation_weights,
            fedprox_mu=fedprox_mu,
        )
        job.to_server(flow)
        self.framework = FrameworkType(framework)
        super().__init__(
            job,
            {
                "train_script": train_script,
                "train_args": train_args,
                "launch_external_process": launch_external_process,
                "command": command,
                "framework": framework,
                "server_expected_format": server_expected_format,
                "params_transfer_type": params_transfer_type,
                "launch_once": launch_once,
            },
        )
        if per_site_config is not None:
            self.set_per_site_config(per_site_config)


class FedProxRecipe(FedAvgRecipe):
    """Federated averaging whose clients train with FedProx: they read `fedprox_mu` from the model's meta."""

    def __init__(self, *, name: str = "fedprox", fedprox_mu: float = 0.01, **args: Any) -> None:
        super().__init__(name=name, fedprox_mu=fedprox_mu, **args)


class NumpyFedAvgRecipe(FedAvgRecipe):
    """Federated averaging of numpy's arrays. `model`: an array or a list, which scripts get as "numpy_key"."""

    def __init__(self, *, name: str = "fedavg", **args: Any) -> None:
        if "framework" in args:
            raise UsageError("NumpyFedAvgRecipe has no framework: it is numpy")
        super().__init__(name=name, framework=FrameworkType.NUMPY, **args)


class FedOptRecipe(_ScriptRecipe):
    """FedAvg with an optimizer of torch at the server, whose clients send differences."""

    framework = FrameworkType.PYTORCH

    def __init__(
        self,
        *,
        name: str = "fedopt",
        model: Any = None,
        initial_ckpt: str | None = None,
        min_clients: int,
        num_rounds: int = 2,
        train_script: str,
        train_args: str | Sequence[str] = "",
        aggregator: Any = None,
        launch_external_process: bool = False,
        command: str | Sequence[str] = "python3 -u",
        server_expected_format: str = ExchangeFormat.NUMPY,
        device: str | None = None,
        source_model: str = "model",
        optimizer_args: Mapping[str, Any] | None = None,
        lr_scheduler_args: Mapping[str, Any] | None = None,
        key_metric: str = "accuracy",
        key_metric_mode: str | None = None,
        **other: Any,
    ) -> None:
        model = _model(model, other)
        check_others(self, other)
        if model is None:
            raise UsageError("FedOptRecipe: there is no model", hint="give model; initial_ckpt has only its weights")
        job = BaseFedJob(name=name, min_clients=min_clients, key_metric=key_metric, key_metric_mode=key_metric_mode)
        job.to_server(Model(model), id=source_model)
        persistor = made(
            f"{_PT}.file_model_persistor.PTFileModelPersistor",
            model=source_model,
            source_ckpt_file_full_name=_checkpoint(initial_ckpt),
        )
        job.comp_ids["persistor_id"] = job.to_server(persistor, id="persistor")
        updater = made(
            f"{_PT}.fedopt.PTFedOptModelShareableGenerator",
            device=device,
            source_model=source_model,
            optimizer_args=_as_dict(optimizer_args),
            lr_scheduler_args=_with_rounds(_as_dict(lr_scheduler_args), num_rounds),
        )
        averages = made(f"{_COMMON}.aggregators.intime_accumulate_model_aggregator.InTimeAccumulateWeightedAggregator")
        flow = made(
            f"{_COMMON}.workflows.scatter_and_gather.ScatterAndGather",
            min_clients=min_clients,
            num_rounds=_rounds(self, num_rounds),
            wait_time_after_min_received=0,
            persistor_id=job.comp_ids["persistor_id"],
            shareable_generator_id=job.to_server(updater, id="shareable_generator"),
            aggregator_id=job.to_server(aggregator or averages, id="aggregator"),
        )
        job.to_server(flow)
        arguments = _runner_arguments(
            train_script, train_args, launch_external_process, command, server_expected_format, TransferType.DIFF
        )
        super().__init__(job, arguments)


class ScaffoldRecipe(_ScriptRecipe):
    """SCAFFOLD: scripts use PTScaffoldHelper."""

    framework = FrameworkType.PYTORCH

    def __init__(
        self,
        *,
        name: str = "scaffold",
        model: Any = None,
        initial_ckpt: str | None = None,
        min_clients: int,
        num_rounds: int = 2,
        train_script: str,
        train_args: str | Sequence[str] = "",
        launch_external_process: bool = False,
        command: str | Sequence[str] = "python3 -u",
        server_expected_format: str = ExchangeFormat.NUMPY,
        params_transfer_type: str = TransferType.FULL,
        key_metric: str = "accuracy",
        key_metric_mode: str | None = None,
        **other: Any,
    ) -> None:
        model = _model(model, other)
        check_others(self, other)
        job = BaseFedJob(name=name, min_clients=min_clients, key_metric=key_metric, key_metric_mode=key_metric_mode)
        persistor = _persistor(FrameworkType.PYTORCH, model, initial_ckpt, None, server_expected_format)
        job.comp_ids.update(_ids(job.to_server(persistor, id="persistor")))
        flow = made(
            f"{_COMMON}.workflows.scaffold.Scaffold",
            num_clients=min_clients,
            num_rounds=_rounds(self, num_rounds),
            persistor_id=job.comp_ids["persistor_id"],
        )
        job.to_server(flow)
        arguments = _runner_arguments(
            train_script, train_args, launch_external_process, command, server_expected_format, params_transfer_type
        )
        super().__init__(job, arguments)


class CyclicRecipe(_ScriptRecipe):
    """Cyclic weight transfer: in each round the model goes from client to client."""

    def __init__(
        self,
        *,
        name: str = "cyclic",
        model: Any = None,
        initial_ckpt: str | None = None,
        num_rounds: int = 2,
        min_clients: int = 2,
        train_script: str,
        train_args: str | Sequence[str] = "",
        launch_external_process: bool = False,
        command: str | Sequence[str] = "python3 -u",
        framework: FrameworkType = FrameworkType.PYTORCH,
        server_expected_format: str = ExchangeFormat.NUMPY,
        params_transfer_type: str = TransferType.FULL,
        **other: Any,
    ) -> None:
        model = _model(model, other)
        check_others(self, other)
        self.framework = FrameworkType(framework)
        job = BaseFedJob(name=name, min_clients=min_clients, key_metric=None)
        persistor = _persistor(framework, model, initial_ckpt, None, server_expected_format)
        job.comp_ids.update(_ids(job.to_server(persistor, id="persistor")))
        generator = made(f"{_COMMON}.shareablegenerators.full_model_shareable_generator.FullModelShareableGenerator")
        flow = made(
            f"{_COMMON}.workflows.cyclic_ctl.CyclicController",
            num_rounds=_rounds(self, num_rounds),
            persistor_id=job.comp_ids["persistor_id"],
            shareable_generator_id=job.to_server(generator, id="shareable_generator"),
        )
        job.to_server(flow)
        arguments = _runner_arguments(
            train_script, train_args, launch_external_process, command, server_expected_format, params_transfer_type
        )
        super().__init__(job, {**arguments, "framework": framework})


class SwarmLearningRecipe(_ScriptRecipe):
    """Swarm learning, and then cross-site evaluation with `do_cross_site_eval`. In fedsag the server runs it."""

    framework = FrameworkType.PYTORCH

    def __init__(
        self,
        name: str,
        model: Any,
        num_rounds: int,
        train_script: str,
        min_clients: int,
        initial_ckpt: str | None = None,
        train_args: Any = None,
        do_cross_site_eval: bool = False,
        cross_site_eval_timeout: float = 300,
        launch_external_process: bool = False,
        command: str | Sequence[str] = "python3 -u",
        expected_data_kind: str = "WEIGHTS",
        params_transfer_type: str = TransferType.FULL,
        key_metric: str | None = "accuracy",
        key_metric_mode: str = "max",
        **other: Any,
    ) -> None:
        check_others(self, other)
        job = FedJob(name=name, min_clients=min_clients)
        path = f"{_COMMON}.ccwf"
        server = made(
            f"{path}.swarm_server_ctl.SwarmServerController",
            num_rounds=_rounds(self, num_rounds),
            min_clients=min_clients,
        )
        job.to_server(server)
        self._evaluates = do_cross_site_eval
        if do_cross_site_eval:
            job.to_server(
                made(
                    f"{path}.cse_server_ctl.CrossSiteEvalServerController",
                    eval_task_timeout=cross_site_eval_timeout,
                )
            )
        self._of_clients = (model, initial_ckpt, expected_data_kind, min_clients, key_metric, key_metric_mode)
        given = dict(train_args) if isinstance(train_args, Mapping) else {"script_args": train_args or ""}
        words = given.pop("script_args", "")
        arguments = _runner_arguments(
            train_script, words, launch_external_process, command, ExchangeFormat.NUMPY, params_transfer_type
        )
        for key, value in given.items():
            if key not in arguments:
                raise UsageError(f"SwarmLearningRecipe: train_args has no key {key!r}", hint=nearest(key, arguments))
            arguments[key] = value
        super().__init__(job, arguments, tasks=["train", "validate", "submit_model"])

    def prepare_clients(self) -> None:
        super().prepare_clients()
        model, checkpoint, kind, least, key_metric, mode = self._of_clients
        path = f"{_COMMON}.ccwf"
        add = self.to_client_apps
        add(made(f"{path}.swarm_client_ctl.SwarmClientController", min_responses_required=least), tasks=["swarm_*"])
        add(_persistor(FrameworkType.PYTORCH, model, checkpoint, None, ExchangeFormat.NUMPY), id="persistor")
        generator = f"{path}.comps.simple_model_shareable_generator.SimpleModelShareableGenerator"
        add(made(generator), id="shareable_generator")
        averages = f"{_COMMON}.aggregators.intime_accumulate_model_aggregator.InTimeAccumulateWeightedAggregator"
        add(made(averages, expected_data_kind=kind), id="aggregator")
        if key_metric:
            add(selects_best(key_metric, mode), id="model_selector")
        if self._evaluates:
            add(made(f"{path}.cse_client_ctl.CrossSiteEvalClientController"), tasks=["cse_*"])


class SimpleSwarmLearningRecipe(SwarmLearningRecipe):
    """The earlier name of `SwarmLearningRecipe`, which needs no `min_clients`."""

    def __init__(self, name: str, model: Any = None, *, min_clients: int = 1, **args: Any) -> None:
        super().__init__(name, _model(model, args), min_clients=min_clients, **args)


class FedEvalRecipe(_ScriptRecipe):
    """Clients measure a trained model, whose weights are in `eval_ckpt`."""

    framework = FrameworkType.PYTORCH

    def __init__(
        self,
        *,
        name: str = "eval",
        model: Any,
        eval_ckpt: str,
        min_clients: int,
        eval_script: str,
        eval_args: str | Sequence[str] = "",
        launch_external_process: bool = False,
        command: str | Sequence[str] = "python3 -u",
        server_expected_format: str = ExchangeFormat.NUMPY,
        validation_timeout: int = 6000,
        per_site_config: Mapping[str, Mapping[str, Any]] | None = None,
        **other: Any,
    ) -> None:
        check_others(self, other)
        job = BaseFedJob(name=name, min_clients=min_clients)
        job.comp_ids.update(job.to_server(PTModel(model, initial_ckpt=_checkpoint(eval_ckpt)), id="persistor"))
        flow = made(
            f"{_PT}.recipes.fedeval.EvalController",
            persistor_id=job.comp_ids["persistor_id"],
            timeout=validation_timeout,
        )
        job.to_server(flow)
        arguments = _runner_arguments(
            eval_script, eval_args, launch_external_process, command, server_expected_format, TransferType.FULL
        )
        super().__init__(job, arguments)
        if per_site_config is not None:
            renamed = {"eval_script": "train_script", "eval_args": "train_args"}
            named = {
                site: {renamed.get(key, key): value for key, value in values.items()}
                for site, values in per_site_config.items()
            }
            self.set_per_site_config(named)


def _model(model: Any, others: dict[str, Any]) -> Any:
    """The model. In NVFLARE 2.7.0 the argument is `initial_model`."""
    return others.pop("initial_model", None) if model is None else model


def check_others(recipe: Recipe, others: Mapping[str, Any]) -> None:
    """Raises UsageError for an argument that the recipe does not have, unless it would have no effect."""
    import inspect

    for key, value in others.items():
        if key in _LACKS and value is not None:
            raise lacking(f"{key} of {type(recipe).__name__}")
        if key not in (*_NO_EFFECT, *_LACKS):
            known = [
                name
                for each in type(recipe).__mro__
                for name in inspect.signature(each.__init__).parameters  # type: ignore[misc]
                if name not in ("self", "other", "args", "kwargs")
            ]
            raise lacking(f"argument {key!r} of {type(recipe).__name__}", hint=nearest(key, known))


def _runner_arguments(
    script: str, words: Any, external: bool, command: Any, server_expected_format: str, transfer: str
) -> dict[str, Any]:
    return {
        "train_script": script,
        "train_args": words,
        "launch_external_process": external,
        "command": command,
        "framework": FrameworkType.PYTORCH,
        "server_expected_format": server_expected_format,
        "params_transfer_type": transfer,
        "launch_once": True,
    }


def _persistor(framework: Any, model: Any, checkpoint: str | None, best: str | None, expected: str) -> Any:
    """The part that has the initial model, and saves the global one."""
    if framework == FrameworkType.PYTORCH:
        if model is None:
            raise UsageError("there is no model", hint="give model; initial_ckpt has only its weights")
        as_numpy = getattr(expected, "value", expected) != "pytorch"
        return PTModel(
            model,
            allow_numpy_conversion=as_numpy,
            initial_ckpt=_checkpoint(checkpoint),
            best_model_filename=best,
        )
    if best is not None:
        raise UsageError("best_model_filename is for models of torch: numpy's persistor keeps no best model")
    if isinstance(model, Mapping) and ("class_path" in model or "path" in model):
        raise UsageError("a model of numpy is an array or a list, not a class")
    return made(
        f"{_COMMON}.np.np_model_persistor.NPModelPersistor",
        model=model,
        source_ckpt_file_full_name=_checkpoint(checkpoint),
    )


def _checkpoint(path: str | None) -> str | None:
    """The absolute path of a file of weights. Raises UsageError if there is none."""
    if path is None:
        return None
    if not Path(path).is_file():
        raise UsageError(f"{path}: there is no such file of weights")
    return os.path.abspath(path)  # noqa: PTH100  a link stays one


def _ids(added: Any) -> dict[str, str]:
    return dict(added) if isinstance(added, Mapping) else {"persistor_id": str(added)}


def _rounds(recipe: Recipe, num_rounds: int) -> int:
    if not isinstance(num_rounds, int) or isinstance(num_rounds, bool) or num_rounds < 1:
        raise UsageError(f"{type(recipe).__name__}: num_rounds is {num_rounds!r}: it must be a whole number from 1 on")
    return num_rounds


def _mode(given: str | None, key_metric: str, stop_cond: str | None) -> str | None:
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


def _with_rounds(config: dict[str, Any] | None, num_rounds: int) -> dict[str, Any] | None:
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
