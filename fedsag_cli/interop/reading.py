"""Translates config files of NVFLARE 2.4 to 2.9 to fedsag's components and arguments.

A class of NVFLARE is recognized by its name, as its module differs between versions. Parts that carry messages between
NVFLARE's processes need no counterpart. A part that fedsag does not have is left out with a note; it is an error if the
job would train another model without it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from fedsag_cli import catalog
from fedsag_cli.errors import JobError, nearest
from fedsag_cli.facts import Nvflare
from fedsag_cli.interop import vocabulary
from fedsag_cli.interop.vocabulary import (
    ALL_CLIENTS,
    AVERAGING_WORKFLOWS,
    FEDERATED_AVERAGING,
    LEFT_OUT,
    NOT_NEEDED,
    NP_TRAINER_COMMAND,
    NUMPY_EXECUTORS,
)
from fedsag_cli.job import executor
from fedsag_cli.job.config import SERVER_FILE

_NVFLARE = "nvflare."


def translate(values: Mapping[str, Any], stem: str, file: str) -> tuple[dict[str, Any], list[str]]:
    """The values of a config file for fedsag, and notes for the user. Raises JobError."""
    reading = _Reading(file)
    tree = dict(values)
    if stem == SERVER_FILE:
        tree |= reading.server(values)
    else:
        tree |= reading.client(values)
    for key in ("task_data_filters", "task_result_filters"):
        if isinstance(values.get(key), list):
            tree[key] = [reading.filters(entry) for entry in values[key]]
    reading.check_missing()
    return tree, reading.notes


class _Reading:
    """The translation of one file; `notes` has a line for each part that was left out."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._missing: dict[str, list[str]] = {"workflow": [], "component": []}
        self.notes: list[str] = []

    @functools.cached_property
    def _components(self) -> Mapping[str, tuple[str, Nvflare]]:
        """Read from the source of every component: only a job with a class of NVFLARE needs them."""
        return vocabulary.components()

    @property
    def _executors(self) -> Mapping[str, Nvflare]:
        return vocabulary.executors()

    def check_missing(self) -> None:
        """Raises JobError if fedsag lacks a workflow or, otherwise, a component: components depend on the workflow."""
        if not any(self._missing.values()):
            return
        workflows = [name for name, (known, _) in self._components.items() if catalog.facts_of(known).asks_for]
        supported = {
            "workflow": [*workflows, *AVERAGING_WORKFLOWS[:2]],
            "component": [name for name in self._components if name not in workflows],
        }
        for kind, paths in self._missing.items():
            if paths:
                *before, last = dict.fromkeys(paths)
                missing = f"{kind}s {', '.join(before)} and {last} are" if before else f"{kind} {last} is"
                hints = dict.fromkeys(nearest(path.rpartition(".")[2], supported[kind]) for path in paths)
                near = [hint for hint in hints if not hint.startswith("known")]
                raise JobError(f"{self._file}: NVFLARE's {missing} not supported yet", hint="; ".join(near or hints))

    def server(self, values: Mapping[str, Any]) -> dict[str, Any]:
        parts = [part for part in map(self._part, _objects(values, "components")) if part is not None]
        flows = [self._workflow(flow, parts) for flow in _objects(values, "workflows")]
        parts = list(_models_inside(parts))
        return {"components": parts, **({"workflows": flows} if "workflows" in values else {})}

    def client(self, values: Mapping[str, Any]) -> dict[str, Any]:
        components = {part.get("id"): part for part in _objects(values, "components")}
        translated: dict[str, Any] = {}
        if "executors" in values:
            entries = enumerate(_objects(values, "executors"))
            translated["executors"] = _joined_np_trainer(
                [self._executor(entry, index, components) for index, entry in entries]
            )
        if "components" in values:
            for part in _objects(values, "components"):
                self._leave_out_client_part(part)
            translated["components"] = []
        return translated

    def filters(self, entry: Any) -> Any:
        if not isinstance(entry, Mapping) or not isinstance(entry.get("filters"), list):
            return entry
        chain = [self._part(link) for link in entry["filters"]]
        return {**entry, "filters": [link for link in chain if link is not None]}

    def _part(self, part: Any) -> Any:
        """The component of fedsag; None if none is needed."""
        name = self._nvflare_name(part)
        if name is None or part.get("disabled"):
            return part
        if name in self._components:
            return self._translated(part, name, *self._components[name])
        if name in LEFT_OUT:
            self._note(f"{name} is left out: {LEFT_OUT[name]}")
        elif name not in NOT_NEEDED:
            self._missing["component"].append(_path(part))
        return None

    def _leave_out_client_part(self, part: Mapping[str, Any]) -> None:
        """Note that a client's component is left out: a client of fedsag has no components."""
        name = self._nvflare_name(part)
        if not part.get("disabled") and name not in NOT_NEEDED:
            reason = LEFT_OUT.get(name or "", "a client of fedsag runs its script and its filters, and no components")
            if name and name in self._components and catalog.facts_of(self._components[name][0]).extra:
                reason = "trackers run in the server, for all clients: put it into config_fed_server"
            self._note(f"{name or _path(part)} is left out: {reason}")

    def _translated(self, part: Mapping[str, Any], name: str, component: str, differs: Nvflare) -> dict[str, Any]:
        known = catalog.signature_of(component)
        args = self._args(part, name, differs, lambda key: known is None or known.takes(key))
        return {**_other_keys(part), "path": component, "args": args}

    def _args(
        self, part: Mapping[str, Any], name: str, differs: Nvflare, takes: Callable[[str], bool]
    ) -> dict[str, Any]:
        """The arguments with fedsag's names. There is a note for each that has an effect only in NVFLARE."""
        args, given = dict(differs.defaults), _args(part)
        names = {**differs.renamed, **differs.older_names}
        for older, value in given.items():
            key = names.get(older, older)
            if key != older and key in given:
                self._note(f"{name}: {older} is left out: {key} is given too")
                continue
            if takes(key):
                args[key] = value
            elif key in differs.expected:
                if value not in differs.expected[key]:
                    self._note(f"{name}: {key} = {value!r} has no effect in fedsag")
            elif key not in differs.ignored:
                self._note(f"{name}: fedsag has no {key}: it is left out")
        return args

    def _workflow(self, flow: Any, parts: list[Any]) -> Any:
        bare = _path(flow) if _path(flow) in AVERAGING_WORKFLOWS else None  # fedsag's FedAvg is no workflow
        name = self._nvflare_name(flow) or bare
        if name is None:
            return flow
        if name in AVERAGING_WORKFLOWS:
            workflow = self._federated_averaging(flow, name, parts)
        elif name in self._components:
            workflow = self._translated(flow, name, *self._components[name])
            if name == "ScatterAndGather" and not _args(flow).get("persistor_id"):
                self._begin_empty(workflow, parts)
        else:
            self._missing["workflow"].append(_path(flow))
            return flow
        return {**workflow, "args": {**workflow["args"], **self._selector(workflow["args"], parts)}}

    def _selector(self, args: Mapping[str, Any], parts: list[Any]) -> dict[str, Any]:
        """The id of the model selector: an argument of fedsag's workflow, while NVFLARE's listens to events."""
        named = [part for part in parts if isinstance(part, Mapping) and part.get("path") == "IntimeModelSelector"]
        ids = [part.get("id") for part in named if not part.get("disabled")]
        if not ids or "model_selector_id" in args:
            return {}
        if len(ids) > 1:
            self._note(f"the model selector is {ids[0]!r}: a workflow of fedsag has one, so {ids[1]!r} has no effect")
        return {"model_selector_id": ids[0]}

    def _begin_empty(self, workflow: Mapping[str, Any], parts: list[Any]) -> None:
        """Without a persistor, NVFLARE's workflow begins with empty params: the first answers bring the model."""
        persistor = _unused_id("persistor", [part.get("id") for part in parts if isinstance(part, Mapping)])
        parts.append({"id": persistor, **_persistor_of(None, None)})
        workflow["args"].update(persistor_id=persistor, allow_empty_global_weights=True)
        self._note("ScatterAndGather has no persistor_id: the answers of its first round bring the model")

    def _federated_averaging(self, flow: Mapping[str, Any], name: str, parts: list[Any]) -> dict[str, Any]:
        """NVFLARE's workflow contains the aggregator and perhaps the model, which are components in fedsag."""
        args = dict(_args(flow))
        averages: dict[str, Any] = {
            key: args.pop(key) for key in ("exclude_vars", "aggregation_weights") if key in args
        }
        aggregator_part, arrays, module = (args.pop(key, None) for key in ("aggregator", "model", "initial_model"))
        before = args.pop("min_clients", None)  # the argument's name in 2.4
        num_clients = args.pop("num_clients", 3 if before is None else before)
        if before not in (None, num_clients):
            self._note(f"{name}: min_clients = {before!r} has no effect: each round waits for its num_clients")
        if arrays is not None and module is not None:
            self._note(f"{name}: model is left out: initial_model is the model")
        if args.get("patience") and not args.get("stop_cond"):
            self._note(f"{name}: patience has no effect without stop_cond")
            del args["patience"]
        args = {key: value for key, value in args.items() if value or key not in ("stop_cond", "patience")}
        workflow = self._translated({**flow, "args": args}, name, "ScatterAndGather", FEDERATED_AVERAGING)
        workflow["args"] |= {"num_clients": num_clients} if num_clients else {}
        workflow["args"]["min_clients"] = num_clients or ALL_CLIENTS  # a round waits for all its clients
        ids = {part.get("id") for part in parts if isinstance(part, Mapping)}
        persistor = workflow["args"]["persistor_id"] = args.get("persistor_id") or "persistor"
        has_model = arrays is not None or module is not None
        if persistor in ids:
            if has_model:
                self._note(f"{name}: its model is left out: the persistor has one")
        elif has_model or not args.get("persistor_id"):
            parts.append({"id": persistor, **_persistor_of(arrays, module)})
            workflow["args"] |= {} if has_model else {"allow_empty_global_weights": True}
        averages = {key: value for key, value in averages.items() if value}
        if aggregator_part and averages:
            self._note(f"{name}: {' and '.join(averages)} have no effect: the job has an aggregator of its own")
        workflow["args"]["aggregator_id"] = self._aggregator(aggregator_part, averages, name, parts)
        return workflow

    def _aggregator(self, given: Any, averages: Mapping[str, Any], name: str, parts: list[Any]) -> str:
        """The id of the component that averages: the one that the workflow was given, else fedsag's."""
        ids = [part.get("id") for part in parts if isinstance(part, Mapping)]
        if isinstance(given, str) and given:
            if given not in ids:
                raise JobError(f"{self._file}: {name}: aggregator is {given!r}: there is no component with that id")
            return given
        made = self._part(given) if isinstance(given, Mapping) else {"path": "FedAvg", "args": dict(averages)}
        parts.append({**(made or {}), "id": _unused_id("aggregator", ids)})
        return str(parts[-1]["id"])

    def _executor(self, entry: Any, index: int, components: Mapping[Any, Any]) -> Any:
        part = entry.get("executor")
        name = self._nvflare_name(part) or ""
        if not name and not _is_other_class(part):
            return entry
        if name in NUMPY_EXECUTORS:
            args = self._numpy(part, name)
        elif name in self._executors:
            args = self._args(part, name, self._executors[name], executor.signature().takes)
            if name.endswith("LauncherExecutor"):
                args |= self._launched(_args(part), components)
        else:
            raise JobError(
                f"{self._file}: executors[{index}]: fedsag has no executor {_path(part)}",
                hint="a client of fedsag runs a script with the Client API: use ClientAPIExecutor",
            )
        return {**entry, "executor": {"path": executor.NAME, "args": args}}

    def _launched(self, args: Mapping[str, Any], components: Mapping[Any, Any]) -> dict[str, Any]:
        """The command, which 2.4 to 2.8 have in a separate component."""
        launcher = components.get(args.get("launcher_id"))
        if launcher is None or self._nvflare_name(launcher) != "SubprocessLauncher":
            raise JobError(f"{self._file}: the executor must name a SubprocessLauncher, which has the command")
        args = dict(_args(launcher))
        command = args.pop("script", "")
        kept = {"launch_once": args.pop("launch_once")} if "launch_once" in args else {}
        for key in args:
            if args[key] and key != "shutdown_timeout":  # fedsag has its own limit for the end of a script
                self._note(f"SubprocessLauncher: fedsag has no {key}: it is left out")
        return {"command": command, **kept}

    def _numpy(self, part: Mapping[str, Any], name: str) -> dict[str, Any]:
        """The arguments of NVFLARE's NPTrainer or NPValidator as those of the program np_trainer."""
        differs, known = vocabulary.numpy_executor(name), executor.signature()
        args = self._args(part, name, differs, lambda key: key in differs.renamed.values() or known.takes(key))
        flags = [word for key, value in args.items() if key.startswith("--") for word in (key, str(value))]
        kept = {key: value for key, value in args.items() if not key.startswith("--")}
        defaults = {"execution_mode": "external_process", "params_exchange_format": "numpy"}
        return {**defaults, "command": [*NP_TRAINER_COMMAND, *flags], **kept}

    def _nvflare_name(self, part: Any) -> str | None:
        """The name of NVFLARE's class, from its path or, as until 2.5, from its name alone; None for other classes."""
        path = catalog.path_in(part) or ""
        if path.startswith(_NVFLARE):
            return path.rpartition(".")[2]
        if not path or "." in path or path != part.get("name"):
            return None
        if path not in catalog.KNOWN:
            return path
        known = (self._components, self._executors, NUMPY_EXECUTORS, NOT_NEEDED, LEFT_OUT)
        return path if any(path in names for names in known) else None

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


def _persistor_of(arrays: Any, module: Any) -> dict[str, Any]:
    """The persistor for the model of NVFLARE's workflow. Without a model, the first round starts with empty params."""
    if module is not None:
        return {"path": "PTFileModelPersistor", "args": {"model": module}}
    return {"path": "NPModelPersistor", "args": {"model": {} if arrays is None else arrays}}


def _joined_np_trainer(entries: Sequence[Any]) -> list[Any]:
    """Join the executors of NPTrainer and NPValidator: np_trainer does the tasks of both, with the flags of both."""
    numpy_entries = [entry for entry in entries if _command(entry)[: len(NP_TRAINER_COMMAND)] == [*NP_TRAINER_COMMAND]]
    if len(numpy_entries) < 2 or len(numpy_entries) < len(entries):
        return list(entries)
    flags = [flag for entry in numpy_entries for flag in _command(entry)[len(NP_TRAINER_COMMAND) :]]
    tasks = [task for entry in numpy_entries for task in entry.get("tasks") or []]
    args = {key: value for entry in numpy_entries for key, value in _args(entry["executor"]).items()}
    args["command"] = [*NP_TRAINER_COMMAND, *flags]
    return [{**numpy_entries[0], "tasks": tasks, "executor": {"path": executor.NAME, "args": args}}]


def _command(entry: Any) -> list[Any]:
    command = _args(entry.get("executor") or {}).get("command")
    return command if isinstance(command, list) else []


def _objects(values: Mapping[str, Any], key: str) -> list[Any]:
    """The objects in a list. The job's reader reports other values as errors."""
    found = values.get(key, [])
    return [each for each in found if isinstance(each, Mapping)] if isinstance(found, list) else []


def _path(part: Mapping[str, Any]) -> str:
    return catalog.path_in(part) or ""


def _args(part: Mapping[str, Any]) -> Mapping[str, Any]:
    args = part.get("args")
    return args if isinstance(args, Mapping) else {}


def _other_keys(part: Mapping[str, Any]) -> dict[str, Any]:
    """The keys except for the class and the arguments."""
    return {key: value for key, value in part.items() if key not in (*catalog.NAMING_KEYS, "args")}


def _is_other_class(part: Any) -> bool:
    path = catalog.path_in(part) or ""
    return "." in path and not executor.is_executor(path)


def _unused_id(name: str, taken: Collection[Any]) -> str:
    numbered = (f"{name}_{number}" for number in range(2, len(taken) + 3))
    return next(each for each in (name, *numbered) if each not in taken)


def _models_inside(parts: Iterable[Any]) -> Iterator[Any]:
    """Put a model that is a component of its own into the arguments of its persistor, as fedsag expects."""
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
