"""NVFLARE's workflows as fedsag's. One that averages by itself becomes ScatterAndGather, with components beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fedsag_cli import catalog
from fedsag_cli.errors import JobError
from fedsag_cli.interop.reading.parts import Parts, args_of, path_of, unused_id
from fedsag_cli.interop.vocabulary import (
    ALL_CLIENTS,
    AVERAGING_WORKFLOWS,
    CONTROLLER_WORKFLOW,
    CONTROLLERS,
    FEDERATED_AVERAGING,
    UPDATER,
)

_AVERAGES_WITH = {"Scaffold": "Scaffold", "FedAvgLR": "NewtonRaphson"}  # the others: FedAvg
_OF_AGGREGATOR = ("exclude_vars", "aggregation_weights", "damping_factor", "epsilon")
_OF_LOGISTIC_MODEL = ("n_features", "model_dir", "model_name")
_SUBMIT = "submit_model_task_name"
_EVALUATION = "CrossSiteModelEval"
_SELECTOR = "IntimeModelSelector"
_MODELS = "_model_weights_"  # NVFLARE's name of models beside SCAFFOLD's controls


class Workflows:
    """The translation of a server's workflows. They may add to the server's components."""

    def __init__(self, parts: Parts, components: list[Any], *, no_client_submits: Callable[[], bool]) -> None:
        """`no_client_submits`: whether the clients that take the task to submit a model have none."""
        self._parts, self._components, self._no_client_submits = parts, components, no_client_submits

    def translated(self, flow: Any) -> Any:
        """The workflow of fedsag for one of NVFLARE; any other is returned unchanged."""
        bare = path_of(flow) if path_of(flow) in AVERAGING_WORKFLOWS else None  # fedsag's FedAvg is no workflow
        name = self._parts.nvflare_name(flow) or bare
        if name is None:
            return self._own(flow)
        if name in AVERAGING_WORKFLOWS:
            workflow = self._federated_averaging(flow, name)
        elif name in self._parts.known:
            workflow = self._parts.translated(flow, name, *self._parts.known[name])
            if name == "ScatterAndGather" and not args_of(flow).get("persistor_id"):
                self._begin_empty(workflow)
            if name == "ScatterAndGatherScaffold":
                self._with_controls(workflow)
            is_evaluation = workflow["path"] == _EVALUATION
            if workflow["args"].get(_SUBMIT) == "" or (is_evaluation and self._no_client_submits()):
                workflow["args"][_SUBMIT] = None  # NVFLARE's asks nobody, or gets no model
        else:
            self._parts.lacks("workflow", flow)
            return flow
        return {**workflow, "args": {**workflow["args"], **self._selector(workflow)}}

    def _own(self, flow: Mapping[str, Any]) -> Mapping[str, Any]:
        """A workflow of the job's own. One that derives from NVFLARE's ModelController runs in fedsag's that has it."""
        if self._parts.nvflare_base(flow).rpartition(".")[2] not in CONTROLLERS:
            return flow
        args = dict(args_of(flow))
        persistor = args.get("persistor_id", "persistor")
        runs: dict[str, Any] = {"controller": {"path": path_of(flow), "args": args}, "persistor_id": persistor}
        if persistor not in self._ids:
            runs |= {"persistor_id": self._add("persistor", _persistor_of(None, None))}
            runs |= {"allow_empty_global_weights": True}
        kept = {key: value for key, value in flow.items() if key not in (*catalog.NAMING_KEYS, "args")}
        workflow = {**kept, "path": CONTROLLER_WORKFLOW, "args": runs}
        return {**workflow, "args": {**runs, **self._selector(workflow)}}

    def _selector(self, workflow: Mapping[str, Any]) -> dict[str, Any]:
        """The id of the model selector: an argument of fedsag's workflow, while NVFLARE's listens to events."""
        known = catalog.signature_of(workflow["path"])
        if "model_selector_id" in workflow["args"] or (known and not known.takes("model_selector_id")):
            return {}
        named = [part for part in self._components if isinstance(part, Mapping) and part.get("path") == _SELECTOR]
        ids = [part.get("id") for part in named if not part.get("disabled")]
        if not ids:
            return {}
        if len(ids) > 1:
            self._parts.note(
                f"the model selector is {ids[0]!r}: a workflow of fedsag has one, so {ids[1]!r} has no effect"
            )
        return {"model_selector_id": ids[0]}

    def _begin_empty(self, workflow: Mapping[str, Any]) -> None:
        """Without a persistor, NVFLARE's workflow begins with empty params: the first answers bring the model."""
        persistor = self._add("persistor", _persistor_of(None, None))
        workflow["args"].update(persistor_id=persistor, allow_empty_global_weights=True)
        self._parts.note("ScatterAndGather has no persistor_id: the answers of its first round bring the model")

    def _with_controls(self, workflow: Mapping[str, Any]) -> None:
        """NVFLARE's workflow asks its aggregator for two means, with sites' weights for each: models and controls."""
        named = workflow["args"]["aggregator_id"]
        for place, part in enumerate(self._components):
            if part.get("id") == named and path_of(part) == "FedAvg":
                args = dict(args_of(part))
                weights = args.get("aggregation_weights")
                if isinstance(weights, Mapping) and _MODELS in weights:
                    args["aggregation_weights"] = weights[_MODELS]
                self._components[place] = {**part, "path": "Scaffold", "args": args}

    def _federated_averaging(self, flow: Mapping[str, Any], name: str) -> dict[str, Any]:
        """NVFLARE's workflow contains the aggregator and perhaps the model, which are components in fedsag."""
        args, note = dict(args_of(flow)), self._parts.note
        averages: dict[str, Any] = {key: args.pop(key) for key in _OF_AGGREGATOR if key in args}
        logistic = {key: args.pop(key) for key in _OF_LOGISTIC_MODEL if key in args}
        aggregator_part, arrays, module = (args.pop(key, None) for key in ("aggregator", "model", "initial_model"))
        source = args.pop("source_model", None)  # of FedOpt
        updater = {key: args.pop(key) for key in ("optimizer_args", "lr_scheduler_args", "device") if key in args}
        before = args.pop("min_clients", None)  # the argument's name in 2.4
        num_clients = args.pop("num_clients", 3 if before is None else before)
        if before not in (None, num_clients):
            note(f"{name}: min_clients = {before!r} has no effect: each round waits for its num_clients")
        if arrays is not None and module is not None:
            note(f"{name}: model is left out: initial_model is the model")
        if args.get("patience") and not args.get("stop_cond"):
            note(f"{name}: patience has no effect without stop_cond")
            del args["patience"]
        args = {key: value for key, value in args.items() if value or key not in ("stop_cond", "patience")}
        workflow = self._parts.translated({**flow, "args": args}, name, "ScatterAndGather", FEDERATED_AVERAGING)
        workflow["args"] |= {"num_clients": num_clients} if num_clients else {}
        workflow["args"]["min_clients"] = num_clients or ALL_CLIENTS  # a round waits for all its clients
        persistor = workflow["args"]["persistor_id"] = args.get("persistor_id") or "persistor"
        has_model = arrays is not None or module is not None
        if persistor in self._ids:
            if has_model:
                note(f"{name}: its model is left out: the persistor has one")
        elif name == "FedAvgLR":
            self._components.append({"id": persistor, "path": "LRModelPersistor", "args": logistic})
        elif has_model or source is not None or not args.get("persistor_id"):
            self._components.append({"id": persistor, **_persistor_of(arrays, module or source)})
            workflow["args"] |= {} if has_model or source else {"allow_empty_global_weights": True}
        averages = {key: value for key, value in averages.items() if value or value == 0}
        if aggregator_part and averages:
            note(f"{name}: {' and '.join(averages)} have no effect: the job has an aggregator of its own")
        averages_with = _AVERAGES_WITH.get(name, "FedAvg")
        workflow["args"]["aggregator_id"] = self._aggregator(aggregator_part, averages_with, averages, name)
        if name == "FedOpt":
            workflow["args"]["updater_id"] = self._add("updater", self._parts.part({"path": UPDATER, "args": updater}))
        return workflow

    def _aggregator(self, given: Any, path: str, averages: Mapping[str, Any], name: str) -> str:
        """The id of the component that averages: the one that the workflow was given, else fedsag's."""
        if isinstance(given, Mapping) and (assembler := args_of(given).get("assembler_id")):
            given = assembler  # it only collects: fedsag's aggregator is the assembler
        where = f"{self._parts.file}: {name}: aggregator"
        if isinstance(given, str) and given:
            if given not in self._ids:
                raise JobError(f"{where} is {given!r}: there is no component with that id")
            return given
        if given and not isinstance(given, Mapping):
            raise JobError(f"{where} must be a component, not {given!r}")
        made = self._parts.part(given) if isinstance(given, Mapping) else {"path": path, "args": dict(averages)}
        return self._add("aggregator", made)

    @property
    def _ids(self) -> list[Any]:
        return [part.get("id") for part in self._components if isinstance(part, Mapping)]

    def _add(self, name: str, part: Mapping[str, Any] | None) -> str:
        """Add a component. Its id is `name`, with a number if another has that id."""
        free = unused_id(name, self._ids)
        self._components.append({**(part or {}), "id": free})
        return free


def _persistor_of(arrays: Any, module: Any) -> dict[str, Any]:
    """The persistor for the model of NVFLARE's workflow. Without a model, the first round starts with empty params."""
    if module is not None:
        return {"path": "PTFileModelPersistor", "args": {"model": module}}
    return {"path": "NPModelPersistor", "args": {"model": {} if arrays is None else arrays}}
