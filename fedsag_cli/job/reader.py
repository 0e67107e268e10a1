"""Reads config_fed_server and config_fed_client, with resolved placeholders, into typed values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

from fedsag_cli.errors import Gathering, JobError, nearest
from fedsag_cli.job import components, executor
from fedsag_cli.job.config.tree import KeyPath
from fedsag_cli.job.section import Section
from fedsag_cli.plan import ClientConfig, FilterSpec

if TYPE_CHECKING:
    from fedsag_cli.plan import ComponentSpec

EXECUTOR_KEYS: Mapping[str, str] = {
    "tasks": "names of the tasks that the script does; add validate to measure the final model",
    "executor": "class and arguments that start the script",
}
FILTER_KEYS: Mapping[str, str] = {
    "tasks": "names of the tasks that are filtered",
    "filters": "filters for the models of these tasks, applied in this order",
    "direction": "in: filter received models; out: filter sent models",
}
"""The keys of an entry of `executors` and of a filter chain, with their meanings."""


def check_version(conf: Section) -> None:
    version = conf.values.get("format_version", 2)
    if version != 2:
        raise conf.wrong("format_version", f"must be 2, not {version!r}")


def workflows_and_components(
    conf: Section, custom: Path
) -> tuple[list[ComponentSpec], list[ComponentSpec], dict[str, KeyPath]]:
    """The server's workflows and components, checked against their constructors; where each id is. Raises JobError."""
    with Gathering() as found:
        parts = found.attempt(_enabled, conf, "components") or []
        ids = found.attempt(_ids, parts, required=True) or {}
        flows = _enabled(conf, "workflows")
        if not flows:
            raise conf.wrong("workflows", "is missing or empty", hint="a server has at least one workflow")
        named = found.attempt(_ids, flows, required=False) or {}
        if both := sorted(ids.keys() & named.keys()):
            text = f"{conf.file}: a workflow and a component are both called {both[0]!r}"
            found.add(JobError(text, file=conf.file, at=named[both[0]]))
        known = [str(part.values.get("id", "")) for part in parts]
        workflows = [found.attempt(components.read, flow, [custom], known) for flow in flows]
        read = [found.attempt(components.read, part, [custom], known) for part in parts]
    return [spec for spec in workflows if spec], [spec for spec in read if spec], named | ids


def _enabled(conf: Section, key: str) -> list[Section]:
    return [each for each in conf.sections(key) if not each.flag("disabled", False)]


def _ids(sections: Iterable[Section], *, required: bool) -> dict[str, KeyPath]:
    """Where each id is. Raises JobError for one that is missing, empty, or not the only one of its name."""
    places: dict[str, KeyPath] = {}
    with Gathering() as found:
        for section in (each for each in sections if required or "id" in each):
            name = found.attempt(section.text, "id")
            if name == "":
                found.add(section.wrong("id", "is empty"))
            elif name in places:
                found.add(section.wrong("id", f"is {name!r}, which another one has too"))
            elif name is not None:
                places[name] = section.at
    return places


def filters(conf: Section, key: str, direction: str, custom: Path) -> list[FilterSpec]:
    """The filters of one chain, in order. `direction`: "in" or "out"; an entry of the other direction is an error."""
    with Gathering() as found:
        chains = [found.attempt(_filters, entry, direction, custom) or [] for entry in conf.sections(key)]
    return [link for chain in chains for link in chain]


def _filters(entry: Section, direction: str, custom: Path) -> list[FilterSpec]:
    chain: list[FilterSpec] = []
    with Gathering() as found:
        found.attempt(entry.expect, FILTER_KEYS)
        if entry.text("direction", direction).lower() != direction:
            found.add(entry.wrong("direction", f"must be {direction!r} in this list, or left out"))
        tasks = entry.texts("tasks")
        for link in entry.sections("filters"):
            spec = None if link.flag("disabled", False) else found.attempt(components.read, link, [custom])
            if spec is not None:
                chain.append(FilterSpec(tasks=tasks, path=spec.path, args=spec.args))
    return chain


def client(conf: Section, custom: Path) -> list[tuple[executor.Command, ClientConfig, KeyPath]]:
    """The commands of a client, each with the settings of its Client API, and its place in the file. Raises JobError.

    Executors that differ in their tasks only are one.
    """
    with Gathering() as found:
        for part in conf.sections("components"):
            if not part.flag("disabled", False):
                found.add(part.error("", ": a client has no components", hint="remove it, or set disabled = true"))
        entries = list(conf.sections("executors"))
        if not entries:
            raise conf.wrong("executors", "is missing or empty", hint="a client has at least one executor")
        found.attempt(_check_tasks, entries)
        data_filters = found.attempt(filters, conf, "task_data_filters", "in", custom) or []
        result_filters = found.attempt(filters, conf, "task_result_filters", "out", custom) or []
        commands = [found.attempt(_command, entry, custom) for entry in entries]
    executors: list[tuple[executor.Command, ClientConfig, KeyPath]] = []
    for entry, command in zip(entries, commands, strict=True):
        assert command is not None  # otherwise it was an error
        args = entry.section("executor").section("args", {})
        config = executor.read_config(executor.task_names(entry), args, data_filters, result_filters)
        for index, (other, its, at) in enumerate(executors):
            if other == command and replace(its, tasks=()) == replace(config, tasks=()):
                executors[index] = (command, replace(its, tasks=(*its.tasks, *config.tasks)), at)
                break
        else:
            executors.append((command, config, args.at))
    return executors


def _command(entry: Section, custom: Path) -> executor.Command:
    """The command of an executor, which is checked. Raises JobError."""
    with Gathering() as found:
        found.attempt(entry.expect, EXECUTOR_KEYS)
        spec = components.read(entry.section("executor"), [custom])
        if not executor.is_executor(spec.path):
            text = f": there is no executor {spec.path!r}"
            raise entry.error("executor", text, hint=nearest(spec.path, [executor.NAME]))
        return executor.read_command(entry.section("executor").section("args", {}), custom)


def _check_tasks(entries: Iterable[Section]) -> None:
    seen: set[str] = set()
    for entry in entries:
        for task in executor.task_names(entry):
            if task in seen:
                raise entry.wrong("tasks", f"has {task!r}, which an executor before it has too")
            seen.add(task)
