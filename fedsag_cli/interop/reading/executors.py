"""The executors of a client: scripts with the Client API, and NVFLARE's executors that programs of fedsag stand for."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

from fedsag_cli import catalog
from fedsag_cli.errors import JobError
from fedsag_cli.facts import Nvflare
from fedsag_cli.interop import vocabulary
from fedsag_cli.interop.reading import client_controlled
from fedsag_cli.interop.reading.parts import Parts, args_of, named_by, objects, path_of
from fedsag_cli.interop.vocabulary import (
    LEARNER_COMMAND,
    LEARNER_EXECUTORS,
    LEFT_OUT,
    NOT_NEEDED,
    NP_TRAINER_COMMAND,
    NUMPY_EXECUTORS,
    ONLY_MEASURES,
    OTHER_EXECUTORS,
    STATISTICS_COMMAND,
    SUBMIT_MODEL,
    TREES_COMMAND,
)
from fedsag_cli.job import executor

_STATISTICS, _TREES = OTHER_EXECUTORS


class Executors:
    """The translation of a client's file."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def client(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The executors, and no components: a client of fedsag has none."""
        entries = [
            (index, entry)
            for index, entry in enumerate(objects(values, "executors"))
            if not client_controlled.is_controller(entry.get("executor"), self._parts)
        ]
        on_the_server = client_controlled.ClientHalf(values, self._parts).components
        components = [part for part in objects(values, "components") if part not in on_the_server]
        runs_learner = any(self._runs_learner(entry.get("executor")) for _, entry in entries)
        translated: dict[str, Any] = {}
        if "executors" in values:
            executors = [self._executor(entry, index, components) for index, entry in entries]
            translated["executors"] = _joined_np_trainer(executors)
        if "components" in values:
            used = self._used(values, components)
            for part in components:
                if part not in used and not (runs_learner and self._is_own(part)):
                    self._leave_out(part)
            translated["components"] = []
        return translated

    @functools.cached_property
    def _known(self) -> Mapping[str, Nvflare]:
        return vocabulary.executors()

    def _used(self, values: Mapping[str, Any], components: Sequence[Any]) -> Sequence[Any]:
        """The components that go along: those that filters name, the class with the statistics, the loader of data."""
        executors = [entry.get("executor") or {} for entry in objects(values, "executors")]
        naming = [args_of(part) for part in executors if self._parts.nvflare_name(part) in (_STATISTICS, _TREES)]
        filters = [values.get(key) for key in ("task_data_filters", "task_result_filters")]
        return named_by([*naming, *filters], components)

    def _leave_out(self, part: Mapping[str, Any]) -> None:
        """Note that a client's component is left out: a client of fedsag has no components."""
        name = self._parts.nvflare_name(part)
        if not part.get("disabled") and name not in NOT_NEEDED:
            reason = LEFT_OUT.get(name or "", "a client of fedsag runs its script and its filters, and no components")
            if name and name in self._parts.known and catalog.facts_of(self._parts.known[name][0]).extra:
                reason = "trackers run in the server, for all clients: put it into config_fed_server"
            self._parts.note(f"{name or path_of(part)} is left out: {reason}")

    def _executor(self, entry: Any, index: int, components: Sequence[Any]) -> Any:
        part = entry.get("executor")
        name = self._parts.nvflare_name(part) or ""
        if not name and not _is_other_class(part):
            return entry
        if name in NUMPY_EXECUTORS:
            args = self._numpy(part, name)
            if name == ONLY_MEASURES:  # NVFLARE's answers to any other task that it has no model
                entry = {**entry, "tasks": [task for task in entry.get("tasks") or [] if task != SUBMIT_MODEL]}
        elif name == _STATISTICS:
            args = self._statistics(part, components)
        elif name == _TREES:
            args = self._trees(part, components)
        elif self._runs_learner(part):
            args = self._learner(part, components)
        elif name in self._known:
            args = self._parts.args(part, name, self._known[name], executor.signature().takes)
            if name.endswith("LauncherExecutor"):
                args |= self._launched(args_of(part), components)
        else:
            raise JobError(
                f"{self._parts.file}: executors[{index}]: fedsag has no executor {path_of(part)}",
                hint="a client of fedsag runs a script with the Client API: use ClientAPIExecutor",
            )
        return {**entry, "executor": {"path": executor.NAME, "args": args}}

    def _runs_learner(self, part: Any) -> bool:
        """Whether the program learner runs this executor."""
        name = self._parts.nvflare_name(part)
        return name in LEARNER_EXECUTORS or (not name and bool(self._parts.nvflare_base(part)))

    def _learner(self, part: Mapping[str, Any], components: Sequence[Any]) -> dict[str, Any]:
        """The arguments of the program learner, with the job's own components, which the executor may look for."""
        path = LEARNER_EXECUTORS.get(self._parts.nvflare_name(part) or "", path_of(part))
        config = {
            "executor": {"path": path, "args": args_of(part)},
            "components": [
                {"id": each.get("id"), "path": path_of(each), "args": args_of(each)}
                for each in components
                if self._is_own(each)
            ],
        }
        return {
            "execution_mode": "external_process",
            "params_exchange_format": "numpy",
            "command": [*LEARNER_COMMAND, json.dumps(config)],
        }

    def _is_own(self, part: Mapping[str, Any]) -> bool:
        """Whether the component is of the job's own, so that an executor of the job's own may look for it."""
        return self._parts.nvflare_name(part) is None and not part.get("disabled")

    def _statistics(self, part: Mapping[str, Any], components: Sequence[Any]) -> dict[str, Any]:
        """The arguments of the program that runs a class with statistics, which NVFLARE's executor names by its id."""
        generator = self._named(part, "generator_id", components)
        command = [*STATISTICS_COMMAND, path_of(generator), "--args", json.dumps(args_of(generator))]
        return {"execution_mode": "external_process", "params_exchange_format": "raw", "command": command}

    def _trees(self, part: Mapping[str, Any], components: Sequence[Any]) -> dict[str, Any]:
        """The arguments of the program that trains trees, on the data of a loader that the executor names by its id."""
        loader = self._named(part, "data_loader_id", components)
        settings = {key: value for key, value in args_of(part).items() if key != "data_loader_id"}
        config = {"executor": settings, "loader": {"path": path_of(loader), "args": args_of(loader)}}
        command = [*TREES_COMMAND, json.dumps(config)]
        return {"execution_mode": "external_process", "params_exchange_format": "raw", "command": command}

    def _named(self, part: Mapping[str, Any], key: str, components: Sequence[Any]) -> Mapping[str, Any]:
        """The component that an argument of an executor names by its id. Raises JobError."""
        name = args_of(part).get(key)
        found: Mapping[str, Any] | None = next((each for each in components if each.get("id") == name), None)
        if found is None:
            raise JobError(f"{self._parts.file}: {key} is {name!r}: there is no component with that id")
        return found

    def _launched(self, args: Mapping[str, Any], components: Sequence[Any]) -> dict[str, Any]:
        """The command, which 2.4 to 2.8 have in a separate component."""
        launcher = next((part for part in components if part.get("id") == args.get("launcher_id")), None)
        if launcher is None or self._parts.nvflare_name(launcher) != "SubprocessLauncher":
            raise JobError(f"{self._parts.file}: the executor must name a SubprocessLauncher, which has the command")
        args = dict(args_of(launcher))
        command = args.pop("script", "")
        kept = {"launch_once": args.pop("launch_once")} if "launch_once" in args else {}
        for key in args:
            if args[key] and key != "shutdown_timeout":  # fedsag has its own limit for the end of a script
                self._parts.note(f"SubprocessLauncher: fedsag has no {key}: it is left out")
        return {"command": command, **kept}

    def _numpy(self, part: Mapping[str, Any], name: str) -> dict[str, Any]:
        """The arguments of NVFLARE's NPTrainer or NPValidator as those of the program np_trainer."""
        differs, known = vocabulary.numpy_executor(name), executor.signature()
        args = self._parts.args(part, name, differs, lambda key: key in differs.renamed.values() or known.takes(key))
        flags = [word for key, value in args.items() if key.startswith("--") for word in (key, str(value))]
        kept = {key: value for key, value in args.items() if not key.startswith("--")}
        defaults = {"execution_mode": "external_process", "params_exchange_format": "numpy"}
        return {**defaults, "command": [*NP_TRAINER_COMMAND, *flags], **kept}


def _joined_np_trainer(entries: Sequence[Any]) -> list[Any]:
    """Join the executors of NPTrainer and NPValidator: np_trainer does the tasks of both, with the flags of both."""
    numpy_entries = [entry for entry in entries if _command(entry)[: len(NP_TRAINER_COMMAND)] == [*NP_TRAINER_COMMAND]]
    if len(numpy_entries) < 2 or len(numpy_entries) < len(entries):
        return list(entries)
    flags = [flag for entry in numpy_entries for flag in _command(entry)[len(NP_TRAINER_COMMAND) :]]
    tasks = [task for entry in numpy_entries for task in entry.get("tasks") or []]
    args = {key: value for entry in numpy_entries for key, value in args_of(entry["executor"]).items()}
    args["command"] = [*NP_TRAINER_COMMAND, *flags]
    return [{**numpy_entries[0], "tasks": tasks, "executor": {"path": executor.NAME, "args": args}}]


def _command(entry: Any) -> list[Any]:
    command = args_of(entry.get("executor") or {}).get("command")
    return command if isinstance(command, list) else []


def _is_other_class(part: Any) -> bool:
    path = catalog.path_in(part) or ""
    return "." in path and not executor.is_executor(path)
