"""Translates config files of fedsag to NVFLARE 2.9."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedsag_cli import catalog
from fedsag_cli.errors import JobError
from fedsag_cli.facts import Nvflare
from fedsag_cli.interop import halves
from fedsag_cli.interop.vocabulary import LEARNER_COMMAND
from fedsag_cli.job import executor
from fedsag_cli.model import ParamsType
from fedsag_cli.plan import ComponentSpec

ALIAS = Path(__file__).parent / "alias"
"""The package that an exported job's scripts import as fedsag_cli: NVFLARE's Client API with fedsag's names."""

HELPERS = [Path(__file__).parents[1] / "client" / f"{name}.py" for name in ("ditto", "fedbn", "moon", "scaffold")]
"""Modules of fedsag_cli.client that work with NVFLARE as they are, in that package."""

_GENERATOR = {
    "id": "shareable_generator",
    "path": "nvflare.app_common.shareablegenerators.full_model_shareable_generator.FullModelShareableGenerator",
    "args": {},
}
_TO_SERVER = {  # sends the server what a script in the client's process logs
    "id": "event_to_fed",
    "path": "nvflare.app_common.widgets.convert_to_fed_event.ConvertToFedEvent",
    "args": {"events_to_convert": ["analytix_log_stats"], "fed_event_prefix": "fed."},
}
_JSON = {
    "id": "json_generator",
    "path": "nvflare.app_common.widgets.validation_json_generator.ValidationJsonGenerator",
    "args": {},
}
_LOCATORS = {  # by whether the model is torch's
    True: "nvflare.app_opt.pt.file_model_locator.PTFileModelLocator",
    False: "nvflare.app_common.np.np_model_locator.NPModelLocator",
}
_GLOBAL_EVAL = "nvflare.app_common.workflows.global_model_eval.GlobalModelEval"
_RUNS_CONTROLLER = "RunsModelController"
_AVERAGE_THEMSELVES = {  # the workflows of NVFLARE for scatter and gather with these aggregators
    "Scaffold": "nvflare.app_common.workflows.scaffold.Scaffold",
    "NewtonRaphson": "nvflare.app_common.workflows.lr.fedavg.FedAvgLR",
}
_THEIR_ARGS = ("num_rounds", "start_round", "persistor_id")
_NEWTON_RAPHSON = {"damping_factor": 0.8}  # NVFLARE's has no default
_LIGHTNING = re.compile(rb"\b(fedsag_cli|nvflare)\.client(\.| +import +)lightning\b")
_LIGHTNING_NOTE = "a script uses the Lightning client: NVFLARE's needs the package pytorch_lightning"
_ONLY_EXTERNAL = ("command", "launch_once", "launch_timeout", "shutdown_timeout", "stop_grace_period",
                      "heartbeat_interval", "heartbeat_timeout")  # fmt: skip


_COLLECTS = "nvflare.app_common.aggregators.collect_and_assemble_aggregator.CollectAndAssembleAggregator"
_ONE_WAY = {
    "StatisticsController": "in NVFLARE an executor answers it, with a class of the job, and not a script",
    "XGBBaggingAggregator": "NVFLARE sends clients a list of the last trees, and fedsag the whole model",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFacts:
    """What the translation of one file must know about the other files."""

    updates: ParamsType
    has_torch: bool
    has_tracker: bool
    run_by_clients: Sequence[ComponentSpec] = ()  # the workflows that NVFLARE's clients run
    for_clients: Sequence[ComponentSpec] = ()  # the components that they need for that


def job_facts(
    workflows: Sequence[ComponentSpec],
    components: Sequence[ComponentSpec],
    updates: Sequence[ParamsType],
    search: Sequence[Path],
) -> JobFacts:
    """The facts from the server's file and each client's type of update. Raises JobError if the types differ."""
    if len(set(updates)) > 1:
        raise JobError(
            "some clients send DIFF, others FULL: NVFLARE's aggregator takes one kind",
            hint="set params_transfer_type the same in every app",
        )
    known = [catalog.facts_of(spec.path, search) for spec in components]
    return JobFacts(
        updates=updates[0] if updates else ParamsType.FULL,
        has_torch=any(facts.needs_torch for facts in known),
        has_tracker=any(facts.extra for facts in known),
        run_by_clients=workflows if halves.are_needed(workflows) else (),
        for_clients=components if halves.are_needed(workflows) else (),
    )


def server(
    values: Mapping[str, Any], known: JobFacts, resolve: Callable[[Any], Any], *, file: str, search: Sequence[Path]
) -> tuple[dict[str, Any], list[str]]:
    """config_fed_server for NVFLARE, and notes for the user. Raises JobError naming a part that NVFLARE does not have.

    `resolve` returns the value of a text that is `{name}` of a variable; the file keeps its variables. `search`: the
    folders with the job's own components.
    """
    writing = _Writing(file, known, resolve, search)
    if known.run_by_clients:
        return {"format_version": 2, **values, **writing.halves(values)}, writing.notes
    writing.persistors = {part.get("id"): writing.name(part) for part in _enabled(values, "components")}
    empty = [part for part in _enabled(values, "components") if writing.has_no_model(part)]
    inside = {part.get("id"): part for part in _enabled(values, "components") if writing.is_in_workflow(part)}
    flows = [
        writing.averages_itself(flow, inside[named])
        if (named := (flow.get("args") or {}).get("aggregator_id")) in inside
        else writing.part(_without_persistor(flow, empty))
        for flow in _enabled(values, "workflows")
    ]
    left_out = (*empty, *inside.values())
    parts = [writing.part(part) for part in _enabled(values, "components") if part not in left_out]
    parts = [*(made for part in parts for made in _collecting(part)), *writing.more_parts]
    if not any(part.get("id") == _GENERATOR["id"] for part in parts):
        parts.append(dict(_GENERATOR))
    return {"format_version": 2, **values, "workflows": flows, "components": parts, **writing.filters(values)}, (
        writing.notes
    )


def _collecting(part: dict[str, Any]) -> list[dict[str, Any]]:
    """The part. What NVFLARE calls an assembler is not its aggregator: another one collects for it."""
    if not part["path"].endswith("Assembler"):
        return [part]
    assembler = {**part, "id": f"{part.get('id')}_assembler"}
    return [{"id": part.get("id"), "path": _COLLECTS, "args": {"assembler_id": assembler["id"]}}, assembler]


def client(
    values: Mapping[str, Any], known: JobFacts, resolve: Callable[[Any], Any], *, file: str, search: Sequence[Path]
) -> tuple[dict[str, Any], list[str]]:
    """config_fed_client for NVFLARE, as in `server`."""
    writing = _Writing(file, known, resolve, search)
    executors = [{**entry, "executor": writing.executor(entry)} for entry in values["executors"]]
    in_process = any(writing.is_in_process(entry["executor"]["args"]) for entry in executors)
    parts = [dict(_TO_SERVER)] if known.has_tracker and in_process else []
    executors += halves.executors(known.run_by_clients, file)
    parts += [*writing.more_parts, *(halves.components(known.for_clients, writing.part) if known.for_clients else ())]
    return {"format_version": 2, **values, "executors": executors, "components": parts, **writing.filters(values)}, (
        writing.notes
    )


def script(source: bytes) -> tuple[str, ...]:
    """Notes for the user about a script of the job."""
    return (_LIGHTNING_NOTE,) if _LIGHTNING.search(source) else ()


class _Writing:
    """The translation of one file; `notes` has a line for each part that NVFLARE does not have."""

    def __init__(self, file: str, known: JobFacts, resolve: Callable[[Any], Any], search: Sequence[Path]) -> None:
        self._file, self._known, self._resolve, self._search = file, known, resolve, search
        self.notes: list[str] = []
        self.persistors: dict[Any, str] = {}  # what fedsag calls the class of each component, by its id
        self.more_parts: list[Any] = []  # components that only NVFLARE has

    def name(self, part: Mapping[str, Any]) -> str:
        """What fedsag calls the class of a component."""
        return catalog.short_name(str(self._resolve(catalog.path_in(part)) or ""))

    def halves(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The server's halves of workflows that NVFLARE's clients run, and the components that stay there."""
        stay = [part for part in _enabled(values, "components") if catalog.facts_of(self.name(part)).extra]
        return {
            "workflows": [
                halves.on_server(flow, self.name(flow), self._file) for flow in _enabled(values, "workflows")
            ],
            "components": [*map(self.part, stay), dict(_JSON)],
            **self.filters(values),
        }

    def part(self, part: Mapping[str, Any]) -> dict[str, Any]:
        path = str(self._resolve(catalog.path_in(part)) or "")
        name, facts = catalog.short_name(path), catalog.facts_of(path, self._search)
        if name == _RUNS_CONTROLLER:
            controller = (part.get("args") or {})["controller"]
            return {**_kept(part), "path": catalog.path_in(controller), "args": controller.get("args") or {}}
        if facts.nvflare is None and catalog.base_of_nvflare(path, self._search):
            return {**_kept(part), "path": path, "args": part.get("args") or {}}
        if facts.nvflare is None:
            raise JobError(
                f"{self._file}: {path!r} is a component of fedsag that NVFLARE does not have",
                hint="write one for NVFLARE first",
            )
        if name in _ONE_WAY:
            raise JobError(
                f"{self._file}: {name} cannot be exported: {_ONE_WAY[name]}", hint="run this job with fedsag"
            )
        if facts.extra:
            self.notes.append(f"{name}: NVFLARE does not run the job without the package {facts.extra}")
        args = self._args(dict(part.get("args") or {}), facts.nvflare)
        args = _ARGS[name](self, args) if name in _ARGS else args
        path = (
            _GLOBAL_EVAL if name == "CrossSiteModelEval" and "submit_model_timeout" not in args else facts.nvflare.path
        )
        return {**_kept(part), "path": path, "args": args}

    def has_no_model(self, part: Mapping[str, Any]) -> bool:
        """Whether it is a persistor with an empty first model; in NVFLARE the workflow then has no persistor."""
        name = catalog.short_name(str(self._resolve(catalog.path_in(part)) or ""))
        is_empty = name == "NPModelPersistor" and self._resolve((part.get("args") or {}).get("model")) == {}
        if is_empty:
            self.notes.append("NPModelPersistor is left out, as its model is empty: NVFLARE then writes no model")
        return is_empty

    def is_in_workflow(self, part: Mapping[str, Any]) -> bool:
        """Whether it is an aggregator that in NVFLARE is a part of a workflow."""
        return self.name(part) in _AVERAGE_THEMSELVES

    def averages_itself(self, flow: Mapping[str, Any], aggregator: Mapping[str, Any]) -> dict[str, Any]:
        """NVFLARE's workflow for scatter and gather with such an aggregator."""
        args, name = dict(flow.get("args") or {}), self.name(aggregator)
        path = _AVERAGE_THEMSELVES[name]
        own = _NEWTON_RAPHSON | (aggregator.get("args") or {}) if name == "NewtonRaphson" else {}
        if name == "Scaffold":
            self._check_scaffold(aggregator)
        kept = {key: args[key] for key in _THEIR_ARGS if key in args}
        num_clients = self._resolve(args.get("num_clients")) or args.get("min_clients", 1)
        theirs = path.rpartition(".")[2]
        self.notes.append(f"ScatterAndGather with {name}: NVFLARE's {theirs} draws min_clients clients in each round")
        others = {key: value for key, value in flow.items() if key not in (*catalog.NAMING_KEYS, "args")}
        return {**others, "path": path, "args": {"num_clients": num_clients, **kept, **own}}

    def _check_scaffold(self, aggregator: Mapping[str, Any]) -> None:
        """Raises JobError for an argument that NVFLARE's workflow of SCAFFOLD does not have."""
        given = {key: self._resolve(value) for key, value in (aggregator.get("args") or {}).items()}
        if set_by_user := [
            key for key, value in given.items() if value not in (None, "", {}, []) and value is not True
        ]:
            raise JobError(
                f"{self._file}: Scaffold: NVFLARE's has no {set_by_user[0]}",
                hint="it weighs all sites by their steps: leave it out",
            )

    def _args(self, args: dict[str, Any], differs: Nvflare) -> dict[str, Any]:
        """The arguments for NVFLARE's class, from the component's facts."""
        for key, instead in differs.left_out.items():
            if args.pop(key, None) and instead:
                self.notes.append(f"{key} is left out: NVFLARE's {differs.name} {instead}")
        for key in differs.whole_numbers:
            if isinstance(number := self._resolve(args.get(key)), float):
                args[key] = math.ceil(number)
        names = {name: nvflare_name for nvflare_name, name in differs.renamed.items()}
        return {**differs.added, **{names.get(key, key): value for key, value in args.items()}}

    def filters(self, values: Mapping[str, Any]) -> dict[str, Any]:
        chains = {
            key: [
                {**entry, "filters": [self.part(link) for link in _enabled(entry, "filters")]}
                for entry in values.get(key, [])
            ]
            for key in ("task_data_filters", "task_result_filters")
        }
        names = [link["path"].rpartition(".")[2] for each in chains["task_result_filters"] for link in each["filters"]]
        if "ExcludeVars" in names:
            self._note_lost_keys("ExcludeVars")
        return chains

    def executor(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        args = dict(entry["executor"].get("args") or {})
        task = self._resolve(args.get("evaluate_task_name", "validate"))
        if task in self._resolve(entry["tasks"]):
            self.notes.append(
                f"task {task!r}: NVFLARE's ScatterAndGather does not ask for it: the final model is not validated"
            )
        if list(args.get("command") or ())[: len(LEARNER_COMMAND)] == [*LEARNER_COMMAND]:
            return self._own_executor(args["command"][-1])
        if "fedsag_cli." in str(args.get("command", "")):
            raise JobError(f"{self._file}: {args['command']!r} is a program of fedsag that NVFLARE does not have")
        if self._resolve(args.get("params_exchange_format", "raw")) == "raw":
            args["params_exchange_format"] = "pytorch" if self._known.has_torch else "numpy"
        args.setdefault("server_expected_format", "numpy")
        if self._resolve(args.pop("serves_any_client", False)):
            self.notes.append("serves_any_client is left out: in NVFLARE each client has a process of its own")
        if self.is_in_process(args):
            if self._resolve(args.get("launch_once")) is False:
                self.notes.append("launch_once = false has no effect in NVFLARE if execution_mode is in_process")
            args = {key: value for key, value in args.items() if key not in _ONLY_EXTERNAL}
        return {"path": executor.NVFLARE.path, "args": args}

    def _own_executor(self, config: str) -> dict[str, Any]:
        """An executor that is written for NVFLARE, with the components that it looks for."""
        written = json.loads(config)
        self.more_parts += written["components"]
        return dict(written["executor"])

    def is_in_process(self, args: Mapping[str, Any]) -> bool:
        return bool(self._resolve(args.get("execution_mode")) == "in_process")

    def cross_site(self, args: dict[str, Any]) -> dict[str, Any]:
        """NVFLARE's workflow finds the server's models by a model locator, and another component writes the results."""
        persistor = args.pop("persistor_id", None)
        self.more_parts.append(dict(_JSON))
        if persistor:
            is_torch = self.persistors.get(self._resolve(persistor)) == "PTFileModelPersistor"
            located = {"pt_persistor_id": persistor} if is_torch else {}
            self.more_parts.append({"id": "model_locator", "path": _LOCATORS[is_torch], "args": located})
            args["model_locator_id"] = "model_locator"
        if self._resolve(args.get("submit_model_task_name", "")) is None:
            return {key: value for key, value in args.items() if not key.startswith("submit_model_")}
        return {"submit_model_timeout": 600, **args}

    def averaging(self, args: dict[str, Any]) -> dict[str, Any]:
        if self._resolve(args.pop("weigh_by_local_iter", True)) is not True:
            raise JobError(
                f"{self._file}: FedAvg: NVFLARE divides by the steps even if weigh_by_local_iter is false",
                hint='leave it out, and send meta={"NUM_STEPS_CURRENT_ROUND": 1}',
            )
        excluded = args.pop("exclude_vars", None)
        if isinstance(patterns := self._resolve(excluded), list):
            excluded = "|".join(f"(?:{pattern})" for pattern in patterns if pattern)
        if self._resolve(excluded):
            self._note_lost_keys("FedAvg's exclude_vars")
        kind = "WEIGHT_DIFF" if self._known.updates is ParamsType.DIFF else "WEIGHTS"
        given = {"exclude_vars": excluded, "aggregation_weights": args.pop("aggregation_weights", None)}
        return {**args, **{key: value for key, value in given.items() if value}, "expected_data_kind": kind}

    def numpy_model(self, args: dict[str, Any]) -> dict[str, Any]:
        model = self._resolve(args.get("model"))
        if isinstance(model, Mapping):
            if set(model) != {"numpy_key"}:
                raise JobError(f"{self._file}: NPModelPersistor: NVFLARE's has only one array, called 'numpy_key'")
            args["model"] = model["numpy_key"]
        return self._from_custom(args)

    def torch_model(self, args: dict[str, Any]) -> dict[str, Any]:
        return self._from_custom({key: value for key, value in args.items() if value not in ("", None)})

    def _from_custom(self, args: dict[str, Any]) -> dict[str, Any]:
        """Make a checkpoint's path relative to custom/, as in NVFLARE; fedsag tries the app folder first."""
        path = str(self._resolve(args.get("source_ckpt_file_full_name", "")))
        inside = path.removeprefix("custom/")
        return args if inside == path else {**args, "source_ckpt_file_full_name": inside}

    def _note_lost_keys(self, by: str) -> None:
        if self._known.updates is ParamsType.FULL:
            self.notes.append(
                f"{by}: if clients send FULL, NVFLARE removes such keys from the model: "
                "from the second round on, clients do not get them"
            )


_ARGS: dict[str, Callable[[_Writing, dict[str, Any]], dict[str, Any]]] = {  # changes that facts cannot describe
    "CrossSiteModelEval": _Writing.cross_site,
    "FedAvg": _Writing.averaging,
    "NPModelPersistor": _Writing.numpy_model,
    "PTFileModelPersistor": _Writing.torch_model,
}


def _kept(part: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a part that are the same with NVFLARE."""
    return {key: value for key, value in part.items() if key not in (*catalog.NAMING_KEYS, "args", "disabled")}


def _without_persistor(flow: Mapping[str, Any], left_out: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The workflow without its persistor, if that is left out."""
    args = dict(flow.get("args") or {})
    if args.get("persistor_id") in [part.get("id") for part in left_out]:
        del args["persistor_id"]
    return {**flow, "args": args}


def _enabled(values: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    return [part for part in values.get(key, []) if not part.get("disabled")]
