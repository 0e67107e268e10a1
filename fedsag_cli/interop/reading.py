"""NVFLARE's config files, of 2.4 to 2.9, in our words.

A class of theirs is known by its name: its module is another one from version to version. The parts that carry messages
between NVFLARE's processes need no counterpart. What fedsag does not have is left out with a note, or is an error where
the job would train another model without it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from fedsag_cli import catalog
from fedsag_cli.errors import JobError, nearest
from fedsag_cli.facts import Nvflare
from fedsag_cli.interop import vocabulary
from fedsag_cli.interop.vocabulary import (
    AVERAGE_BY_THEMSELVES,
    DONE_ANYWAY,
    FEDERATED_AVERAGING,
    LEFT_OUT,
    MORE_THAN_THERE_ARE,
    NUMPY_EXECUTORS,
    NUMPY_PROGRAM,
)
from fedsag_cli.job import executor
from fedsag_cli.job.config import SERVER_FILE

_THEIRS = "nvflare."


def translate(values: Mapping[str, Any], stem: str, file: str) -> tuple[dict[str, Any], list[str]]:
    """The values of a config file in our words, and notes for the user. Raises JobError."""
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
    """One file being read; `notes` has a line for each thing that was left out."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._components = vocabulary.components()
        self._executors = vocabulary.executors()
        self._missing: dict[str, list[str]] = {"workflow": [], "component": []}
        self.notes: list[str] = []

    def check_missing(self) -> None:
        """Raises JobError for what fedsag does not have: for the workflow first, as its parts depend on it."""
        asking = [name for name, (ours, _) in self._components.items() if catalog.facts_of(ours).asks_for]
        there = {
            "workflow": [*asking, *AVERAGE_BY_THEMSELVES[:2]],
            "component": [name for name in self._components if name not in asking],
        }
        for kind, paths in self._missing.items():
            if paths:
                *before, last = dict.fromkeys(paths)
                missing = f"{kind}s {', '.join(before)} and {last} are" if before else f"{kind} {last} is"
                hints = dict.fromkeys(nearest(path.rpartition(".")[2], there[kind]) for path in paths)
                near = [hint for hint in hints if not hint.startswith("known")]
                raise JobError(f"{self._file}: NVFLARE's {missing} not supported yet", hint="; ".join(near or hints))

    def server(self, values: Mapping[str, Any]) -> dict[str, Any]:
        parts = [part for part in map(self._part, _objects(values, "components")) if part is not None]
        flows = [self._workflow(flow, parts) for flow in _objects(values, "workflows")]
        parts = list(_models_inside(parts))
        return {"components": parts, **({"workflows": flows} if "workflows" in values else {})}

    def client(self, values: Mapping[str, Any]) -> dict[str, Any]:
        there = {part.get("id"): part for part in _objects(values, "components")}
        found: dict[str, Any] = {}
        if "executors" in values:
            entries = enumerate(_objects(values, "executors"))
            found["executors"] = _in_one([self._executor(entry, index, there) for index, entry in entries])
        if "components" in values:
            for part in there.values():
                self._leave_out_of_a_client(part)
            found["components"] = []
        return found

    def filters(self, entry: Any) -> Any:
        if not isinstance(entry, Mapping) or not isinstance(entry.get("filters"), list):
            return entry
        chain = [self._part(link) for link in entry["filters"]]
        return {**entry, "filters": [link for link in chain if link is not None]}

    def _part(self, part: Any) -> Any:
        """Our component; None if it needs none."""
        name = self._their_name(part)
        if name is None or part.get("disabled"):
            return part
        if name in self._components:
            return self._ours(part, name, *self._components[name])
        if name in LEFT_OUT:
            self._note(f"{name} is left out: {LEFT_OUT[name]}")
        elif name not in DONE_ANYWAY:
            self._missing["component"].append(_path(part))
        return None

    def _leave_out_of_a_client(self, part: Mapping[str, Any]) -> None:
        """Note that a client's component is left out: a client of fedsag has none."""
        name = self._their_name(part)
        if not part.get("disabled") and name not in DONE_ANYWAY:
            reason = LEFT_OUT.get(name or "", "a client of fedsag runs its script and its filters, and no components")
            if name and name in self._components and catalog.facts_of(self._components[name][0]).extra:
                reason = "trackers run in the server, for all clients: put it into config_fed_server"
            self._note(f"{name or _path(part)} is left out: {reason}")

    def _ours(self, part: Mapping[str, Any], name: str, ours: str, differs: Nvflare) -> dict[str, Any]:
        known = catalog.signature_of(ours)
        args = self._args(part, name, differs, lambda key: known is None or known.takes(key))
        return {**_beside(part), "path": ours, "args": args}

    def _args(
        self, part: Mapping[str, Any], name: str, differs: Nvflare, takes: Callable[[str], bool]
    ) -> dict[str, Any]:
        """Its arguments with our names; a note for each that has an effect in NVFLARE only."""
        args = dict(differs.defaults)
        ours = {**differs.renamed, **differs.older_names}
        for key, value in _args(part).items():
            key = ours.get(key, key)
            if takes(key):
                args[key] = value
            elif key in differs.expected:
                if value not in differs.expected[key]:
                    self._note(f"{name}: {key} = {value!r} has no effect in fedsag")
            elif key not in differs.ignored:
                self._note(f"{name}: fedsag has no {key}: it is left out")
        return args

    def _workflow(self, flow: Any, parts: list[Any]) -> Any:
        name = self._their_name(flow)
        if name is None:
            return flow
        if name in AVERAGE_BY_THEMSELVES:
            mine = self._federated_averaging(flow, name, parts)
        elif name in self._components:
            mine = self._ours(flow, name, *self._components[name])
        else:
            self._missing["workflow"].append(_path(flow))
            return flow
        return {**mine, "args": {**mine["args"], **_selector(mine["args"], parts)}}

    def _federated_averaging(self, flow: Mapping[str, Any], name: str, parts: list[Any]) -> dict[str, Any]:
        """Their workflow contains the aggregator and perhaps the model, which are components in fedsag."""
        theirs = dict(_args(flow))
        averages = {key: theirs.pop(key) for key in ("exclude_vars", "aggregation_weights") if key in theirs}
        own, arrays, module = (theirs.pop(key, None) for key in ("aggregator", "model", "initial_model"))
        num_clients = theirs.pop("min_clients", 3)  # its name in 2.4
        num_clients = theirs.pop("num_clients", num_clients)
        if theirs.get("patience") and not theirs.get("stop_cond"):
            self._note(f"{name}: patience has no effect without stop_cond")
            del theirs["patience"]
        theirs = {key: value for key, value in theirs.items() if value or key not in ("stop_cond", "patience")}
        mine = self._ours({**flow, "args": theirs}, name, "ScatterAndGather", FEDERATED_AVERAGING)
        mine["args"] |= {"num_clients": num_clients} if num_clients else {}
        mine["args"]["min_clients"] = num_clients or MORE_THAN_THERE_ARE  # a round waits for all of its clients
        ids = {part.get("id") for part in parts if isinstance(part, Mapping)}
        persistor = mine["args"]["persistor_id"] = theirs.get("persistor_id") or "persistor"
        has_model = arrays is not None or module is not None
        if persistor in ids:
            if has_model:
                self._note(f"{name}: its model is left out: the persistor has one")
        elif has_model or not theirs.get("persistor_id"):
            parts.append({"id": persistor, **_persistor_of(arrays, module)})
            mine["args"] |= {} if has_model else {"allow_empty_global_weights": True}
        if isinstance(own, Mapping):
            aggregator = self._part(own)
        else:
            aggregator = {"path": "FedAvg", "args": {key: value for key, value in averages.items() if value}}
        parts.append({**(aggregator or {}), "id": _free("aggregator", ids)})
        mine["args"]["aggregator_id"] = parts[-1]["id"]
        return mine

    def _executor(self, entry: Any, index: int, there: Mapping[Any, Any]) -> Any:
        theirs = entry.get("executor")
        name = self._their_name(theirs) or ""
        if not name and not _is_a_class_of_somebodys(theirs):
            return entry
        if name in NUMPY_EXECUTORS:
            args = self._numpy(theirs, name)
        elif name in self._executors:
            args = self._args(theirs, name, self._executors[name], executor.signature().takes)
            if name.endswith("LauncherExecutor"):
                args |= self._launched(_args(theirs), there)
        else:
            raise JobError(
                f"{self._file}: executors[{index}]: fedsag has no executor {_path(theirs)}",
                hint="a client of fedsag runs a script with the Client API: use ClientAPIExecutor",
            )
        return {**entry, "executor": {"path": executor.NAME, "args": args}}

    def _launched(self, args: Mapping[str, Any], there: Mapping[Any, Any]) -> dict[str, Any]:
        """2.4 to 2.8 kept the command in a component of its own."""
        launcher = there.get(args.get("launcher_id"))
        if launcher is None or self._their_name(launcher) != "SubprocessLauncher":
            raise JobError(f"{self._file}: the executor must name a SubprocessLauncher, which has the command")
        args = _args(launcher)
        if args.get("clean_up_script"):
            self._note("SubprocessLauncher: fedsag has no clean_up_script: it is left out")
        kept = {key: args[key] for key in ("launch_once",) if key in args}
        return {"command": args.get("script", ""), **kept}

    def _numpy(self, theirs: Mapping[str, Any], name: str) -> dict[str, Any]:
        """Their examples' own trainer is a program of ours."""
        differs, known = vocabulary.numpy_executor(name), executor.signature()
        args = self._args(theirs, name, differs, lambda key: key in differs.renamed.values() or known.takes(key))
        flags = [word for key, value in args.items() if key.startswith("--") for word in (key, str(value))]
        kept = {key: value for key, value in args.items() if not key.startswith("--")}
        usual = {"execution_mode": "external_process", "params_exchange_format": "numpy"}
        return {**usual, "command": [*NUMPY_PROGRAM, *flags], **kept}

    def _their_name(self, part: Any) -> str | None:
        """The class's name where it is one of theirs: by its path, or, as until 2.5, by its name alone."""
        path = catalog.path_in(part) or ""
        if path.startswith(_THEIRS):
            return path.rpartition(".")[2]
        by_name = path and "." not in path and path == part.get("name")
        theirs = (self._components, self._executors, NUMPY_EXECUTORS, DONE_ANYWAY, LEFT_OUT)
        return path if by_name and (path not in catalog.KNOWN or any(path in names for names in theirs)) else None

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


def _persistor_of(arrays: Any, module: Any) -> dict[str, Any]:
    """The persistor for a model inside their workflow. Without one, the first round starts with empty params."""
    if module is not None:
        return {"path": "PTFileModelPersistor", "args": {"model": module}}
    return {"path": "NPModelPersistor", "args": {"model": {} if arrays is None else arrays}}


def _in_one(entries: Sequence[Any]) -> list[Any]:
    """Their trainer and validator are one program of ours, with the tasks and the flags of both."""
    mine = [entry for entry in entries if _command(entry)[: len(NUMPY_PROGRAM)] == [*NUMPY_PROGRAM]]
    if len(mine) < 2 or len(mine) < len(entries):
        return list(entries)
    flags = [flag for entry in mine for flag in _command(entry)[len(NUMPY_PROGRAM) :]]
    tasks = [task for entry in mine for task in entry.get("tasks") or []]
    args = {key: value for entry in mine for key, value in _args(entry["executor"]).items()}
    args["command"] = [*NUMPY_PROGRAM, *flags]
    return [{**mine[0], "tasks": tasks, "executor": {"path": executor.NAME, "args": args}}]


def _command(entry: Any) -> list[Any]:
    command = _args(entry.get("executor") or {}).get("command")
    return command if isinstance(command, list) else []


def _objects(values: Mapping[str, Any], key: str) -> list[Any]:
    """The objects of a list; the job's reader refuses anything else in it."""
    found = values.get(key, [])
    return [each for each in found if isinstance(each, Mapping)] if isinstance(found, list) else []


def _path(part: Mapping[str, Any]) -> str:
    return catalog.path_in(part) or ""


def _args(part: Mapping[str, Any]) -> Mapping[str, Any]:
    args = part.get("args")
    return args if isinstance(args, Mapping) else {}


def _beside(part: Mapping[str, Any]) -> dict[str, Any]:
    """Its keys except for the class and the arguments."""
    return {key: value for key, value in part.items() if key not in (*catalog.NAMING_KEYS, "args")}


def _is_a_class_of_somebodys(part: Any) -> bool:
    path = catalog.path_in(part) or ""
    return "." in path and not executor.is_executor(path)


def _free(name: str, taken: Collection[Any]) -> str:
    numbered = (f"{name}_{number}" for number in range(2, len(taken) + 3))
    return next(each for each in (name, *numbered) if each not in taken)


def _models_inside(parts: Iterable[Any]) -> Iterator[Any]:
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
    """The id of the model selector: theirs listens to events, ours is an argument of the workflow."""
    ids = [part.get("id") for part in parts if isinstance(part, Mapping) and part.get("path") == "IntimeModelSelector"]
    return {"model_selector_id": ids[0]} if ids and "model_selector_id" not in args else {}
