"""NVFLARE's config files, of 2.4 to 2.9, in our words.

A class of theirs is known by its name, wherever its module lay in which version. What carries messages between their
processes has no counterpart and needs none; what is not there yet is left out and said, or, where a job would come to
something else without it, an error.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fedsag_cli import catalog
from fedsag_cli.errors import JobError, nearest

_THEIRS = "nvflare."


@dataclass(frozen=True, slots=True)
class _Part:
    """Our component for one of theirs. `usual`: their arguments we need not have, with the value that says so."""

    ours: str
    usual: Mapping[str, Collection[Any]]


_ANY: Collection[Any] = ()
_PARTS = {
    "ScatterAndGather": _Part(
        "ScatterAndGather",
        {
            "shareable_generator_id": _ANY,
            "task_check_period": _ANY,
            "snapshot_every_n_rounds": _ANY,
            "memory_gc_rounds": _ANY,
            "enable_tensor_disk_offload": _ANY,
            "ignore_result_error": (None,),
        },
    ),
    "InTimeAccumulateWeightedAggregator": _Part("FedAvg", {"expected_data_kind": ("WEIGHT_DIFF", "WEIGHTS")}),
    "AccumulateWeightedAggregator": _Part("FedAvg", {"expected_data_kind": ("WEIGHT_DIFF", "WEIGHTS")}),
    "PTFileModelPersistor": _Part(
        "PTFileModelPersistor",
        {"filter_id": (None, ""), "load_weights_only": (True,), "allow_numpy_conversion": _ANY, "load_device": _ANY},
    ),
    "NPModelPersistor": _Part("NPModelPersistor", {}),
    "IntimeModelSelector": _Part("IntimeModelSelector", {"validation_metric_name": ("initial_metrics",)}),
    "ExcludeVars": _Part("ExcludeVars", {}),
}
_DONE_ANYWAY = {"FullModelShareableGenerator", "SubprocessLauncher"}  # by the workflow, by the executor
_CARRY_MESSAGES = {"CellPipe", "FilePipe", "MetricRelay", "ExternalConfigurator", "ConvertToFedEvent"}
_NOT_THERE_YET = {
    "TBAnalyticsReceiver": "metrics are in report.json",
    "MLflowReceiver": "metrics are in report.json",
    "WandBReceiver": "metrics are in report.json",
    "MetricsArtifactWriter": "metrics are in report.json",
    "JobStatsReporter": "times and sizes are in report.json",
    "ModelSizeEstimator": "sizes are in report.json",
    "ValidationJsonGenerator": "cross-site evaluation is not there yet",
    "PTFileModelLocator": "cross-site evaluation is not there yet",
    "NPModelLocator": "cross-site evaluation is not there yet",
}
_EXECUTOR = "ClientAPIExecutor"
_LAUNCHER_EXECUTORS = {
    "ClientAPILauncherExecutor": "numpy",
    "PTClientAPILauncherExecutor": "pytorch",
}
_IN_PROCESS_EXECUTORS = {
    "InProcessClientAPIExecutor": "numpy",
    "PTInProcessClientAPIExecutor": "pytorch",
}
_EXECUTOR_ARGS = {
    "command", "task_script_path", "task_script_args", "launch_once", "launch_timeout", "train_task_name",
    "evaluate_task_name", "submit_model_task_name", "train_with_evaluation", "params_exchange_format",
    "params_transfer_type", "memory_gc_rounds", "cuda_empty_cache", "execution_mode",
}  # fmt: skip
_BY_NAME = {
    *_PARTS, *_DONE_ANYWAY, *_CARRY_MESSAGES, *_NOT_THERE_YET, _EXECUTOR, *_LAUNCHER_EXECUTORS,
    *_IN_PROCESS_EXECUTORS,
}  # fmt: skip
_FEDERATED_AVERAGING = {"FedAvg", "PTFedAvg"}  # their workflows of that name; ours is an aggregator


def translate(values: Mapping[str, Any], *, stem: str, file: str) -> tuple[dict[str, Any], list[str]]:
    """What the config file `file`, of that stem, says in our words, and what to tell the user. Raises JobError."""
    reading = _Reading(file)
    tree = dict(values)
    if stem == "config_fed_server":
        tree |= reading.server(values)
    else:
        tree |= reading.client(values)
    for key in ("task_data_filters", "task_result_filters"):
        if isinstance(values.get(key), list):
            tree[key] = [reading.filters(entry) for entry in values[key]]
    return tree, reading.notes


class _Reading:
    """One file being read; `notes` has a line for each thing that was left out."""

    def __init__(self, file: str) -> None:
        self._file = file
        self.notes: list[str] = []

    def server(self, values: Mapping[str, Any]) -> dict[str, Any]:
        parts = [part for part in map(self._part, _objects(values, "components")) if part is not None]
        parts = list(_models_inside(parts))
        flows = [self._workflow(flow, parts) for flow in _objects(values, "workflows")]
        found = {key: value for key, value in (("components", parts), ("workflows", flows)) if key in values}
        return found if parts or "components" not in values else {**found, "components": []}

    def client(self, values: Mapping[str, Any]) -> dict[str, Any]:
        there = {part.get("id"): part for part in _objects(values, "components")}
        executors = [self._executor(entry, there) for entry in _objects(values, "executors")]
        parts = [part for part in map(self._part, there.values()) if part is not None]
        found: dict[str, Any] = {"executors": executors} if "executors" in values else {}
        return {**found, "components": parts} if "components" in values else found

    def filters(self, entry: Any) -> Any:
        if not isinstance(entry, Mapping) or not isinstance(entry.get("filters"), list):
            return entry
        chain = [self._part(link) for link in entry["filters"]]
        return {**entry, "filters": [link for link in chain if link is not None]}

    def _part(self, part: Any) -> Any:
        """Our component; None where it needs none."""
        name = _their_name(part)
        if name is None or part.get("disabled"):
            return part
        if name in _DONE_ANYWAY:
            return None
        if name in _CARRY_MESSAGES:
            self._note(f"{name} is left out: fedsag carries its messages itself")
            return None
        if name in _NOT_THERE_YET:
            self._note(f"{name} is left out: {_NOT_THERE_YET[name]}")
            return None
        if name not in _PARTS:
            raise self._unknown(part, name)
        return self._ours(part, name)

    def _ours(self, part: Mapping[str, Any], name: str) -> dict[str, Any]:
        mine = _PARTS[name]
        known = catalog.signature_of(mine.ours)
        args: dict[str, Any] = {}
        for key, value in _args(part).items():
            if known is None or known.takes(key):
                args[key] = value
            elif key not in mine.usual:
                self._note(f"{name}: there is no {key} here: it is left out")
            elif mine.usual[key] is not _ANY and value not in mine.usual[key]:
                self._note(f"{name}: {key} = {value!r} has no effect here")
        kept = {key: value for key, value in part.items() if key not in ("path", "class_path", "name", "args")}
        return {**kept, "path": mine.ours, "args": args}

    def _workflow(self, flow: Any, parts: list[Any]) -> Any:
        name = _their_name(flow)
        if name in _FEDERATED_AVERAGING:
            return self._federated_averaging(flow, parts)
        if name is not None and (name not in _PARTS or _PARTS[name].ours != "ScatterAndGather"):
            raise self._unknown(flow, name)
        if name is None:
            return flow
        mine = self._ours(flow, name)
        args = {"min_clients": 1000, "aggregator_id": "aggregator", **mine["args"]}  # more than there are counts as all
        return {**mine, "args": {**args, **_selector(args, parts)}}

    def _federated_averaging(self, flow: Mapping[str, Any], parts: list[Any]) -> dict[str, Any]:
        """Their workflow averages by itself: ours is scatter-and-gather with an aggregator."""
        theirs = dict(_args(flow))
        args = {"min_clients": theirs.pop("num_clients", None) or 1000}
        args |= {key: theirs.pop(key) for key in ("num_rounds", "start_round") if key in theirs}
        args["persistor_id"] = theirs.pop("persistor_id", None) or "persistor"
        for key in theirs:
            self._note(f"FedAvg: there is no {key} here: it is left out")
        ids = {part.get("id") for part in parts if isinstance(part, Mapping)}
        if "aggregator" not in ids:
            parts.append({"id": "aggregator", "path": "FedAvg", "args": {}})
        kept = {key: value for key, value in flow.items() if key not in ("path", "class_path", "name", "args")}
        args["aggregator_id"] = "aggregator"
        return {**kept, "path": "ScatterAndGather", "args": {**args, **_selector(args, parts)}}

    def _executor(self, entry: Any, there: Mapping[Any, Any]) -> Any:
        executor = entry.get("executor")
        name = _their_name(executor)
        if name is None:
            return entry
        args = dict(_args(executor))
        if name in _LAUNCHER_EXECUTORS:
            args = self._launched(args, there)
            args.setdefault("params_exchange_format", _LAUNCHER_EXECUTORS[name])
        elif name in _IN_PROCESS_EXECUTORS:
            args["execution_mode"] = "in_process"
            args.setdefault("params_exchange_format", _IN_PROCESS_EXECUTORS[name])
        elif name != _EXECUTOR:
            raise self._unknown(executor, name)
        kept = {key: value for key, value in args.items() if key in _EXECUTOR_ARGS}
        return {**entry, "executor": {"path": _EXECUTOR, "args": kept}}

    def _launched(self, args: dict[str, Any], there: Mapping[Any, Any]) -> dict[str, Any]:
        """2.4 to 2.8 kept the command in a component of its own."""
        launcher = there.get(args.pop("launcher_id", None))
        if launcher is None or _their_name(launcher) != "SubprocessLauncher":
            raise JobError(f"{self._file}: the executor names no SubprocessLauncher, which would say what to start")
        told = _args(launcher)
        args |= {"execution_mode": "external_process", "command": told.get("script", "")}
        return args | ({"launch_once": told["launch_once"]} if "launch_once" in told else {})

    def _unknown(self, part: Mapping[str, Any], name: str) -> JobError:
        return JobError(f"{self._file}: NVFLARE's {_path(part)} is not there yet", hint=nearest(name, _BY_NAME))

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


def _objects(values: Mapping[str, Any], key: str) -> list[Any]:
    """Those of a list; what is no object is for the reader of our words to refuse."""
    found = values.get(key, [])
    return [each for each in found if isinstance(each, Mapping)] if isinstance(found, list) else []


def _path(part: Mapping[str, Any]) -> str:
    return next((str(part[key]) for key in ("path", "class_path", "name") if part.get(key)), "")


def _args(part: Mapping[str, Any]) -> Mapping[str, Any]:
    args = part.get("args")
    return args if isinstance(args, Mapping) else {}


def _their_name(part: Any) -> str | None:
    """The class's name where it is one of theirs: by its path, or, as until 2.5, by its name alone."""
    if not isinstance(part, Mapping):
        return None
    path = _path(part)
    if path.startswith(_THEIRS):
        return path.rpartition(".")[2]
    return path if "path" not in part and path in _BY_NAME else None


def _models_inside(parts: list[Any]) -> Iterator[Any]:
    """A persistor may name the component that is its model: ours gets the class itself."""
    by_id = {part.get("id"): part for part in parts if isinstance(part, Mapping)}
    inside: set[Any] = set()
    done = []
    for part in parts:
        model = _args(part).get("model")
        if isinstance(model, str) and model in by_id:
            inside.add(model)
            named = {"path": _path(by_id[model]), "args": dict(_args(by_id[model]))}
            part = {**part, "args": {**_args(part), "model": named}}
        done.append(part)
    return (part for part in done if part.get("id") not in inside)


def _selector(args: Mapping[str, Any], parts: list[Any]) -> dict[str, Any]:
    """Theirs listens to events; our workflow is told which one it has."""
    ids = [part.get("id") for part in parts if isinstance(part, Mapping) and part.get("path") == "IntimeModelSelector"]
    return {"model_selector_id": ids[0]} if ids and "model_selector_id" not in args else {}
