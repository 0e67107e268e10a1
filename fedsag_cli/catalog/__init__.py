"""Finds and builds the components that a job names by short names, class paths and ids.

This module imports no component before it builds one: the parent process only reads their sources, the server builds
them.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedsag_cli.catalog.signatures import Signature, base_of, facts_in_source, signature
from fedsag_cli.errors import JobError, nearest
from fedsag_cli.facts import Facts
from fedsag_cli.filters import Chain
from fedsag_cli.plan import ComponentSpec, FilterSpec

KNOWN = {
    "ScatterAndGather": "fedsag_cli.workflows.scatter_and_gather.ScatterAndGather",
    "FedBuff": "fedsag_cli.workflows.fedbuff.FedBuff",
    "Cyclic": "fedsag_cli.workflows.cyclic.Cyclic",
    "CrossSiteModelEval": "fedsag_cli.workflows.cross_site_model_eval.CrossSiteModelEval",
    "NPModelLocator": "fedsag_cli.workflows.model_files.NPModelLocator",
    "InitializeGlobalWeights": "fedsag_cli.workflows.initialize_global_weights.InitializeGlobalWeights",
    "Swarm": "fedsag_cli.workflows.swarm.Swarm",
    "RunsModelController": "fedsag_cli.server.model_controller.RunsModelController",
    "KMeansAggregator": "fedsag_cli.aggregators.kmeans.KMeansAggregator",
    "SVMAggregator": "fedsag_cli.aggregators.svm.SVMAggregator",
    "XGBBaggingAggregator": "fedsag_cli.aggregators.xgb_bagging.XGBBaggingAggregator",
    "FedAvg": "fedsag_cli.aggregators.fedavg.FedAvg",
    "CoordinateMedian": "fedsag_cli.aggregators.coordinate_median.CoordinateMedian",
    "TrimmedMean": "fedsag_cli.aggregators.trimmed_mean.TrimmedMean",
    "Krum": "fedsag_cli.aggregators.krum.Krum",
    "FedAvgM": "fedsag_cli.updaters.fedavgm.FedAvgM",
    "FedAdagrad": "fedsag_cli.updaters.adaptive.FedAdagrad",
    "FedYogi": "fedsag_cli.updaters.adaptive.FedYogi",
    "FedAdam": "fedsag_cli.updaters.adaptive.FedAdam",
    "FedOpt": "fedsag_cli.updaters.fedopt.FedOpt",
    "DPFedAvg": "fedsag_cli.aggregators.dp_fedavg.DPFedAvg",
    "NewtonRaphson": "fedsag_cli.aggregators.newton_raphson.NewtonRaphson",
    "FedNova": "fedsag_cli.aggregators.fednova.FedNova",
    "Scaffold": "fedsag_cli.aggregators.scaffold.Scaffold",
    "PTFileModelPersistor": "fedsag_cli.persistors.torch.PTFileModelPersistor",
    "NPModelPersistor": "fedsag_cli.persistors.numpy.NPModelPersistor",
    "LRModelPersistor": "fedsag_cli.persistors.logistic.LRModelPersistor",
    "ModelParamPersistor": "fedsag_cli.persistors.model_params.ModelParamPersistor",
    "XGBModelPersistor": "fedsag_cli.persistors.xgb.XGBModelPersistor",
    "IntimeModelSelector": "fedsag_cli.workflows.model_selector.IntimeModelSelector",
    "StatisticsController": "fedsag_cli.workflows.statistics.StatisticsController",
    "JsonStatsFileWriter": "fedsag_cli.workflows.statistics_file.JsonStatsFileWriter",
    "StatisticsPrivacyFilter": "fedsag_cli.filters.statistics_privacy.StatisticsPrivacyFilter",
    "MinCountCleanser": "fedsag_cli.filters.statistics_privacy.MinCountCleanser",
    "HistogramBinsCleanser": "fedsag_cli.filters.statistics_privacy.HistogramBinsCleanser",
    "AddNoiseToMinMax": "fedsag_cli.filters.statistics_privacy.AddNoiseToMinMax",
    "ExcludeVars": "fedsag_cli.filters.exclude_vars.ExcludeVars",
    "SignFlipAttack": "fedsag_cli.filters.attacks.SignFlipAttack",
    "NoiseAttack": "fedsag_cli.filters.attacks.NoiseAttack",
    "ScalingAttack": "fedsag_cli.filters.attacks.ScalingAttack",
    "PowerOfChoice": "fedsag_cli.samplers.power_of_choice.PowerOfChoice",
    "GaussianPrivacy": "fedsag_cli.filters.gaussian_privacy.GaussianPrivacy",
    "PercentilePrivacy": "fedsag_cli.filters.percentile_privacy.PercentilePrivacy",
    "SVTPrivacy": "fedsag_cli.filters.svt_privacy.SVTPrivacy",
    "ModelQuantizer": "fedsag_cli.filters.quantization.ModelQuantizer",
    "ModelDequantizer": "fedsag_cli.filters.quantization.ModelDequantizer",
    "TopKSparsifier": "fedsag_cli.filters.top_k.TopKSparsifier",
    "TopKDensifier": "fedsag_cli.filters.top_k.TopKDensifier",
    "GaussianAccountant": "fedsag_cli.accountants.gaussian.GaussianAccountant",
    "TBAnalyticsReceiver": "fedsag_cli.trackers.tensorboard.TBAnalyticsReceiver",
    "MLflowReceiver": "fedsag_cli.trackers.mlflow.MLflowReceiver",
    "WandBReceiver": "fedsag_cli.trackers.wandb.WandBReceiver",
}

NAMING_KEYS = ("path", "class_path", "name")

_BASES_OF_OURS = (
    "ModelController",
    "BaseFedAvg",
    "FedAvg",
    "ModelAggregator",
    "Assembler",
    "Filter",
    "DXOFilter",
    "FLComponent",
)  # NVFLARE's that fedsag has, too
_FOREIGN = "nvflare"  # its components have other methods, so fedsag cannot call them
_METHODS = {  # by the last word of a base class of NVFLARE: what takes the place of a class that derives from it
    "Controller": "a workflow has run(clients, run)",
    "Aggregator": "an aggregator has accept(reply) and aggregate()",
    "Filter": "a filter has process(model, exchange)",
    "Persistor": "a persistor has load(), save(model), save_best(model) and files",
    "Receiver": "a tracker has begin(facts), write(values) and finish(end)",
    "Widget": "one that only listens can have disabled = true: all events are in events.jsonl",
}
_NO_BASE_CLASS = (
    f"your own component needs no base class: {_METHODS['Aggregator']}, {_METHODS['Filter']}, {_METHODS['Controller']}"
)
_HOW_WITHOUT = f"only a client's script may import nvflare: put a model into its own file; {_NO_BASE_CLASS}"


def class_path(name: str) -> str:
    """The class path of a short name; any other name is returned unchanged."""
    return KNOWN.get(name, name)


def short_name(path: str) -> str:
    """The short name of a class path; any other path is returned unchanged."""
    return next((name for name, known in KNOWN.items() if path == known), path)


def path_in(values: Any, *, in_args: bool = False) -> str | None:
    """The class that an object in a config file names by `path`, `class_path` or `name`; None if it names no class.

    `in_args`: the object is in the arguments of a component. There `name` does not name a class, and `config_type =
    dict` means a plain object.
    """
    if not isinstance(values, Mapping) or (in_args and values.get("config_type") == "dict"):
        return None
    keys = NAMING_KEYS[:2] if in_args else NAMING_KEYS
    return next((path for path in map(values.get, keys) if isinstance(path, str) and path), None)


def signature_of(name: str, search: Sequence[Path] = ()) -> Signature | None:
    """The arguments of the constructor of `name`, read from its source; None if the source does not show them.

    Raises JobError if there is no such component.
    """
    if "." not in class_path(name):
        raise JobError(f"there is no component {name!r}", hint=nearest(name, KNOWN))
    return signature(class_path(name), search)


def base_of_nvflare(name: str, search: Sequence[Path]) -> str:
    """The class of NVFLARE from which the class `name` of a job derives, as its source shows; empty if from none."""
    return base_of(_FOREIGN, class_path(name), search)


def check_base(name: str, search: Sequence[Path]) -> None:
    """Raises JobError for a class of the job that derives from one of NVFLARE's, with what takes its place."""
    base = base_of_nvflare(name, search)
    if base and base.rpartition(".")[2] not in _BASES_OF_OURS:
        raise JobError(f"{name} is written for NVFLARE: it is a {base.rpartition('.')[2]}", hint=_instead_of(base))


def facts_of(name: str, search: Sequence[Path] = ()) -> Facts:
    """The attribute `facts` of the class `name`, read from its source."""
    return facts_in_source(class_path(name), search)


def tasks_asked_for(workflow: ComponentSpec, search: Sequence[Path] = ()) -> list[str]:
    """The names of the tasks that at least one client must take."""
    asking = facts_of(workflow.path, search).asks_for
    known = signature_of(workflow.path, search) if asking else None
    defaults = {argument.name: argument.default for argument in known.arguments} if known else {}
    tasks = [(defaults | dict(workflow.args)).get(name) for name in asking]
    return [task for task in tasks if isinstance(task, str)]


def sites_named(workflow: ComponentSpec, search: Sequence[Path] = ()) -> list[tuple[str, str]]:
    """The names of clients in lists in its arguments, each with that of the argument."""
    lists = {name: workflow.args.get(name) for name in facts_of(workflow.path, search).names_sites}
    return [(name, site) for name, sites in lists.items() if isinstance(sites, list | tuple) for site in sites]


def build(spec: ComponentSpec, parts: Mapping[str, Any]) -> Any:
    """Build the component of a spec. `x_id="y"` in its args becomes x=parts["y"]. Imports its module.

    Raises JobError naming the component and the reason if it cannot be imported or built.
    """
    made = _import(spec)
    known = inspect.signature(made).parameters
    args: dict[str, Any] = {}
    for key, value in spec.args.items():
        name = key.removesuffix("_id")
        if key not in known and name in known:
            if value in ("", None):
                continue
            if value not in parts:
                raise JobError(
                    f"{_called(spec)}: {key} is {value!r}: there is no component with that id",
                    hint=nearest(value, parts),
                )
            args[name] = parts[value]
        else:
            args[key] = _build_nested(value)
    try:
        return made(**args)
    except JobError as error:
        raise JobError(f"{_called(spec)}: {error.message}", hint=error.hint) from error
    except Exception as error:
        # a constructor, which may be the user's, can raise any error: the message must name the component
        raise JobError(f"{_called(spec)} cannot be built: {type(error).__name__}: {error}") from error


def chain(specs: Sequence[FilterSpec]) -> Chain:
    """The filters of one direction. Raises JobError."""
    return Chain([(spec.tasks, build(ComponentSpec(path=spec.path, args=spec.args), {})) for spec in specs])


def _build_nested(value: Any) -> Any:
    if isinstance(value, Mapping):
        if path := path_in(value, in_args=True):
            try:
                return build(ComponentSpec(path=path, args=dict(value.get("args") or {})), {})
            except JobError as error:
                plain = 'with config_type = "dict" beside its path it is a plain object, which is not built'
                raise JobError(error.message, hint=error.hint or plain) from error
        return {key: _build_nested(inner) for key, inner in value.items()}
    return [_build_nested(inner) for inner in value] if isinstance(value, list) else value


def _import(spec: ComponentSpec) -> Any:
    module, _, name = class_path(spec.path).rpartition(".")
    if not module:
        raise JobError(f"there is no component {spec.path!r}", hint=nearest(spec.path, KNOWN))
    try:
        made = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        if isinstance(error, ImportError) and _is_foreign(error.name or ""):
            raise JobError(f"{_called(spec)} cannot be imported: {error}", hint=_HOW_WITHOUT) from error
        raise JobError(f"{_called(spec)} cannot be imported: {error}") from error
    except Exception as error:
        # the user's module may raise any error
        raise JobError(f"{_called(spec)} cannot be imported: {type(error).__name__}: {error}") from error
    for base in getattr(made, "__mro__", ()):
        if _is_foreign(base.__module__):
            says = f"{_called(spec)} is written for NVFLARE: it is a {base.__name__}"
            raise JobError(says, hint=_instead_of(f"{base.__module__}.{base.__name__}"))
    return made


def _instead_of(base: str) -> str:
    """What takes the place of a class that derives from NVFLARE's class `base`."""
    kind = "Controller" if ".workflows." in base else base
    methods = next((text for end, text in _METHODS.items() if kind.endswith(end)), "")
    return f"your own component needs no base class: {methods}" if methods else _NO_BASE_CLASS


def _is_foreign(module: str) -> bool:
    return module.partition(".")[0] == _FOREIGN


def _called(spec: ComponentSpec) -> str:
    return f"component {spec.id!r} ({spec.path})" if spec.id else f"component {spec.path!r}"
