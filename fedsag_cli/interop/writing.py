"""Config files in our words, written in those of NVFLARE 2.9."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedsag_cli import catalog
from fedsag_cli.errors import JobError
from fedsag_cli.model import ParamsType
from fedsag_cli.plan import ComponentSpec

ALIAS = Path(__file__).parent / "alias"
"""A package that goes along with scripts which import fedsag_cli.client: there, it is NVFLARE's Client API."""

_PATHS = {
    "ScatterAndGather": "nvflare.app_common.workflows.scatter_and_gather.ScatterAndGather",
    "FedAvg": "nvflare.app_common.aggregators.intime_accumulate_model_aggregator.InTimeAccumulateWeightedAggregator",
    "PTFileModelPersistor": "nvflare.app_opt.pt.file_model_persistor.PTFileModelPersistor",
    "NPModelPersistor": "nvflare.app_common.np.np_model_persistor.NPModelPersistor",
    "IntimeModelSelector": "nvflare.app_common.widgets.intime_model_selector.IntimeModelSelector",
    "ExcludeVars": "nvflare.app_common.filters.exclude_vars.ExcludeVars",
    "TBAnalyticsReceiver": "nvflare.app_opt.tracking.tb.tb_receiver.TBAnalyticsReceiver",
    "MLflowReceiver": "nvflare.app_opt.tracking.mlflow.mlflow_receiver.MLflowReceiver",
    "WandBReceiver": "nvflare.app_opt.tracking.wandb.wandb_receiver.WandBReceiver",
}
_EXECUTOR = "nvflare.app_common.executors.client_api_executor.ClientAPIExecutor"
_NEED = {"TBAnalyticsReceiver": "tensorboard", "MLflowReceiver": "mlflow", "WandBReceiver": "wandb"}
_GENERATOR = {
    "id": "shareable_generator",
    "path": "nvflare.app_common.shareablegenerators.full_model_shareable_generator.FullModelShareableGenerator",
    "args": {},
}
_TO_SERVER = {  # what a script in a client's own process logs goes no further without it
    "id": "event_to_fed",
    "path": "nvflare.app_common.widgets.convert_to_fed_event.ConvertToFedEvent",
    "args": {"events_to_convert": ["analytix_log_stats"], "fed_event_prefix": "fed."},
}
_FED_EVENTS = ["fed.analytix_log_stats"]
_NOT_IN_THEIRS = (
    ("num_clients", "asks all clients"),
    ("stop_cond", "goes through all rounds"),
    ("fedprox_mu", "does not send it"),
)
_LIGHTNING = re.compile(rb"\b(fedsag_cli|nvflare)\.client(\.| +import +)lightning\b")
_LIGHTNING_THERE = "a script uses the Lightning client: NVFLARE's needs the package pytorch_lightning"
_ONLY_OF_A_PROCESS = ("command", "launch_once", "launch_timeout", "shutdown_timeout", "stop_grace_period",
                      "heartbeat_interval", "heartbeat_timeout")  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What one file of a job must know of the others. `updates` is what clients send, `torch` what models are made of.

    `tracked`: the server has a tracker.
    """

    updates: ParamsType
    torch: bool
    tracked: bool


def facts(components: Sequence[ComponentSpec], updates: Sequence[ParamsType]) -> Facts:
    """Of a server's components, and what each client sends. Raises JobError where clients send different kinds."""
    if len(set(updates)) > 1:
        raise JobError(
            "some clients send DIFF, others FULL: NVFLARE's aggregator takes one kind",
            hint="set params_transfer_type the same in every app",
        )
    names = {_short(spec.path) for spec in components}
    return Facts(
        updates=updates[0] if updates else ParamsType.FULL,
        torch=any(catalog.needs_torch(name) for name in names),
        tracked=not names.isdisjoint(_NEED),
    )


def server(
    values: Mapping[str, Any], known: Facts, meaning: Callable[[Any], Any], *, file: str
) -> tuple[dict[str, Any], list[str]]:
    """config_fed_server, and what to tell the user of it. Raises JobError naming what NVFLARE has not.

    `meaning` gives what a value is where it may be a variable's name: only what has to differ is written out.
    """
    writing = _Writing(file, known, meaning)
    flows = [writing.part(flow) for flow in _enabled(values, "workflows")]
    parts = [writing.part(part) for part in _enabled(values, "components")]
    if not any(part.get("id") == _GENERATOR["id"] for part in parts):
        parts.append(dict(_GENERATOR))
    return {"format_version": 2, **values, "workflows": flows, "components": parts, **writing.filters(values)}, (
        writing.notes
    )


def client(
    values: Mapping[str, Any], known: Facts, meaning: Callable[[Any], Any], *, file: str
) -> tuple[dict[str, Any], list[str]]:
    """config_fed_client, likewise."""
    writing = _Writing(file, known, meaning)
    executors = [{**entry, "executor": writing.executor(entry)} for entry in values["executors"]]
    in_process = any(writing.is_in_process(entry["executor"]["args"]) for entry in executors)
    parts = [dict(_TO_SERVER)] if known.tracked and in_process else []
    return {"format_version": 2, **values, "executors": executors, "components": parts, **writing.filters(values)}, (
        writing.notes
    )


def script(source: bytes) -> tuple[str, ...]:
    """What to tell the user of a script that goes along."""
    return (_LIGHTNING_THERE,) if _LIGHTNING.search(source) else ()


class _Writing:
    """One file being written; `notes` has a line for each thing that NVFLARE has not."""

    def __init__(self, file: str, known: Facts, meaning: Callable[[Any], Any]) -> None:
        self._file, self._known, self._meant = file, known, meaning
        self.notes: list[str] = []

    def part(self, part: Mapping[str, Any]) -> dict[str, Any]:
        path = str(self._meant(part.get("path") or part.get("class_path") or part.get("name") or ""))
        name = _short(path)
        if name not in _PATHS:
            raise JobError(
                f"{self._file}: {path!r} keeps a contract of fedsag's, which NVFLARE does not know",
                hint="what it does has to be written for NVFLARE before the job can go there",
            )
        if name in _NEED:
            self.notes.append(f"{name}: NVFLARE does not run the job where {_NEED[name]} is not installed")
        args = dict(part.get("args") or {})
        args = _ARGS[name](self, args) if name in _ARGS else args
        kept = {key: value for key, value in part.items() if key not in ("class_path", "name", "disabled")}
        return {**kept, "path": _PATHS[name], "args": args}

    def filters(self, values: Mapping[str, Any]) -> dict[str, Any]:
        chains = {
            key: [
                {**entry, "filters": [self.part(link) for link in _enabled(entry, "filters")]}
                for entry in values.get(key, [])
            ]
            for key in ("task_data_filters", "task_result_filters")
        }
        if any(
            link["path"] == _PATHS["ExcludeVars"] for each in chains["task_result_filters"] for link in each["filters"]
        ):
            self._say_what_is_lost("ExcludeVars")
        return chains

    def executor(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        args = dict(entry["executor"].get("args") or {})
        task = self._meant(args.get("evaluate_task_name", "validate"))
        if task in self._meant(entry["tasks"]):
            self.notes.append(
                f"task {task!r}: NVFLARE's ScatterAndGather has nobody do it: the final model is not measured"
            )
        if "fedsag_cli." in str(args.get("command", "")):
            raise JobError(f"{self._file}: {args['command']!r} is a program of fedsag's, which NVFLARE has not")
        if self._meant(args.get("params_exchange_format", "raw")) == "raw":
            args["params_exchange_format"] = "pytorch" if self._known.torch else "numpy"
        args.setdefault("server_expected_format", "numpy")
        if self.is_in_process(args):
            if self._meant(args.get("launch_once")) is False:
                self.notes.append("launch_once = false has no effect in NVFLARE, where execution_mode is in_process")
            args = {key: value for key, value in args.items() if key not in _ONLY_OF_A_PROCESS}
        return {"path": _EXECUTOR, "args": args}

    def is_in_process(self, args: Mapping[str, Any]) -> bool:
        return bool(self._meant(args["execution_mode"]) == "in_process")

    def scatter_and_gather(self, args: dict[str, Any]) -> dict[str, Any]:
        args.pop("model_selector_id", None)  # theirs hears of each round by itself
        args.pop("validate_task_name", None)
        for key, instead in _NOT_IN_THEIRS:
            if args.pop(key, None):
                self.notes.append(f"{key} is left out: NVFLARE's ScatterAndGather {instead}")
        args.pop("patience", None)
        if args.pop("allow_non_finite", None):
            self.notes.append("allow_non_finite is left out: NVFLARE never looks")
        for key in ("wait_time_after_min_received", "train_timeout"):
            if isinstance(seconds := self._meant(args.get(key)), float):
                args[key] = math.ceil(seconds)  # theirs are whole seconds
        return {**args, "shareable_generator_id": _GENERATOR["id"]}

    def averaging(self, args: dict[str, Any]) -> dict[str, Any]:
        if self._meant(args.pop("weigh_by_local_iter", True)) is not True:
            raise JobError(
                f"{self._file}: FedAvg: NVFLARE divides by the steps also where weigh_by_local_iter is false",
                hint='leave it out, and send meta={"NUM_STEPS_CURRENT_ROUND": 1}',
            )
        excluded = args.pop("exclude_vars", None)
        if isinstance(patterns := self._meant(excluded), list):
            excluded = "|".join(f"(?:{pattern})" for pattern in patterns if pattern)
        if self._meant(excluded):
            self._say_what_is_lost("FedAvg's exclude_vars")
        kind = "WEIGHT_DIFF" if self._known.updates is ParamsType.DIFF else "WEIGHTS"
        given = {"exclude_vars": excluded, "aggregation_weights": args.pop("aggregation_weights", None)}
        return {**args, **{key: value for key, value in given.items() if value}, "expected_data_kind": kind}

    def numpy_model(self, args: dict[str, Any]) -> dict[str, Any]:
        model = self._meant(args.get("model"))
        if isinstance(model, Mapping):
            if set(model) != {"numpy_key"}:
                raise JobError(f"{self._file}: NPModelPersistor: NVFLARE's keeps one array, called 'numpy_key'")
            args["model"] = model["numpy_key"]
        return self._from_custom(args)

    def tracker(self, args: dict[str, Any]) -> dict[str, Any]:
        return {**args, "events": _FED_EVENTS}

    def torch_model(self, args: dict[str, Any]) -> dict[str, Any]:
        return self._from_custom({key: value for key, value in args.items() if value not in ("", None)})

    def _from_custom(self, args: dict[str, Any]) -> dict[str, Any]:
        """Theirs reads a relative path of a checkpoint from custom/, ours from the app folder first."""
        path = str(self._meant(args.get("source_ckpt_file_full_name", "")))
        inside = path.removeprefix("custom/")
        return args if inside == path else {**args, "source_ckpt_file_full_name": inside}

    def _say_what_is_lost(self, by: str) -> None:
        if self._known.updates is ParamsType.FULL:
            self.notes.append(
                f"{by}: where clients send FULL, NVFLARE takes such keys out of the model: "
                "from the second round on no client gets them"
            )


_ARGS: dict[str, Callable[[_Writing, dict[str, Any]], dict[str, Any]]] = {
    "ScatterAndGather": _Writing.scatter_and_gather,
    "FedAvg": _Writing.averaging,
    "NPModelPersistor": _Writing.numpy_model,
    "PTFileModelPersistor": _Writing.torch_model,
    "TBAnalyticsReceiver": _Writing.tracker,
    "MLflowReceiver": _Writing.tracker,
    "WandBReceiver": _Writing.tracker,
}


def _short(path: str) -> str:
    return next((name for name, full in catalog.KNOWN.items() if path in (name, full)), path)


def _enabled(values: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    return [part for part in values.get(key, []) if not part.get("disabled")]
