"""What a script adds to a recipe: tracking, evaluation, settings by site, the job's meta, and references to secrets."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any

from fedsag_cli.errors import UsageError, nearest
from fedsag_cli.recipe.lacking import lacking
from fedsag_cli.recipe.parts import made
from fedsag_cli.recipe.settings import FrameworkType

_TRACKERS = {
    "mlflow": "nvflare.app_opt.tracking.mlflow.mlflow_receiver.MLflowReceiver",
    "tensorboard": "nvflare.app_opt.tracking.tb.tb_receiver.TBAnalyticsReceiver",
    "wandb": "nvflare.app_opt.tracking.wandb.wandb_receiver.WandBReceiver",
}
_EVALUATION = "CrossSiteModelEval"
_OF_META = ("scope", "resource_spec", "launcher_spec", "custom_props")


def add_experiment_tracking(
    recipe: Any,
    tracking_type: str,
    tracking_config: Mapping[str, Any] | None = None,
    client_side: bool = False,
    server_side: bool = True,
    clients: Sequence[str] | None = None,
) -> None:
    """Keep what scripts log with "mlflow", "tensorboard" or "wandb". A tracker runs in the server, for all clients."""
    if tracking_type not in _TRACKERS:
        raise UsageError(f"there is no tracking_type {tracking_type!r}", hint=nearest(str(tracking_type), _TRACKERS))
    if client_side or clients is not None:
        raise lacking(f"{'client_side' if client_side else 'clients'} of add_experiment_tracking")
    if not server_side:
        raise UsageError("add_experiment_tracking: server_side is False: there is nothing to add")
    config = copy.deepcopy(dict(tracking_config or {}))
    if tracking_type == "mlflow":
        named = config.setdefault("kw_args", {})
        named.setdefault("experiment_name", f"{recipe.name}-experiment")
        named.setdefault("run_name", f"{recipe.name}-Server")
    recipe.job.to_server(made(_TRACKERS[tracking_type], **config), "receiver")


def add_cross_site_evaluation(
    recipe: Any,
    submit_model_timeout: int = 600,
    validation_timeout: int = 6000,
    participating_clients: Sequence[str] | None = None,
) -> None:
    """After the training, every client measures the global model, and the best model of each client."""
    _check_no_evaluation(recipe)
    _evaluate(
        recipe,
        submit_model_timeout=submit_model_timeout,
        validation_timeout=validation_timeout,
        participating_clients=participating_clients,
    )
    if type(recipe).__name__ == "NumpyFedAvgRecipe":  # its scripts need not handle a task to measure
        recipe.to_client_apps(made("nvflare.app_common.np.np_validator.NPValidator"), tasks=["validate"])


def add_final_global_evaluation(
    recipe: Any, participating_clients: Sequence[str] | None = None, validation_timeout: int = 6000
) -> None:
    """After the training, these clients, or all, measure the global model."""
    _check_no_evaluation(recipe)
    if recipe.framework != FrameworkType.PYTORCH:
        raise UsageError("add_final_global_evaluation is for recipes of torch", hint="use add_cross_site_evaluation")
    if participating_clients is not None and not participating_clients:
        raise UsageError("participating_clients is empty", hint="leave it out: all clients measure")
    _evaluate(
        recipe,
        submit_model_task_name="",
        validation_timeout=validation_timeout,
        participating_clients=participating_clients,
    )


def set_per_site_config(recipe: Any, config: Mapping[str, Mapping[str, Any]]) -> None:
    """Other arguments of the script, such as `train_args`, for each site. The sites named here are the clients."""
    recipe.set_per_site_config(config)


def set_recipe_meta(recipe: Any, key: Any, value: Any) -> None:
    """Set a value of the job's meta file: a key of JobMetaKey that is the script's to set."""
    name = key.value if isinstance(key, Enum) else key
    if name not in _OF_META:
        raise UsageError(f"a script cannot set {name!r} of a job's meta file", hint=f"known: {', '.join(_OF_META)}")
    if not isinstance(value, str if name == "scope" else Mapping):
        raise UsageError(f"{name} must be a {'text' if name == 'scope' else 'dict'}, not {value!r}")
    try:
        recipe.job.meta_props[name] = json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise UsageError(f"{name} cannot be written as JSON: {error}") from None


def extract_persistor_id(added: Any) -> str:
    """The id of the persistor in what `to_server` returned: an id, or the ids of several parts."""
    return str(added.get("persistor_id", "") if isinstance(added, Mapping) else added or "")


def secret_ref(env_var: str) -> str:
    """A text that stands for a variable of the environment: the job has the name, the script gets the value."""
    if not isinstance(env_var, str) or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", env_var):
        raise UsageError(f"secret_ref: {env_var!r} is no name of a variable of the environment")
    return f"${{secret:{env_var}}}"


def secret_file_ref(path: str) -> str:
    """A text that stands for what is in a file: the job has its path, the script gets the text."""
    if not isinstance(path, str) or not path.isprintable() or not re.fullmatch(r"[^\s{}]+", path):
        raise UsageError(f"secret_file_ref: {path!r} must be a path without blanks and braces")
    return f"${{secret:file:{path}}}"


def _check_no_evaluation(recipe: Any) -> None:
    if recipe.job.has_workflow(_EVALUATION):
        raise UsageError(f"the recipe {recipe.name} has an evaluation already")


def _evaluate(recipe: Any, **args: Any) -> None:
    ids = recipe.job.comp_ids
    if "persistor_id" not in ids:
        raise UsageError(f"{type(recipe).__name__} keeps no models at the server that could be measured")
    if recipe.framework == FrameworkType.PYTORCH:
        path, named = (
            "nvflare.app_opt.pt.file_model_locator.PTFileModelLocator",
            {"pt_persistor_id": ids["persistor_id"]},
        )
    else:
        path, named = "nvflare.app_common.np.np_model_locator.NPModelLocator", {}
    locator = recipe.job.to_server(made(path, **named), id="locator")
    evaluation = made(
        f"nvflare.app_common.workflows.cross_site_model_eval.{_EVALUATION}", model_locator_id=locator, **args
    )
    recipe.job.to_server(evaluation)
