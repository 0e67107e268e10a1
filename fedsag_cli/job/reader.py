"""Reads config_fed_server and config_fed_client, with resolved placeholders, into typed values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

from fedsag_cli.errors import JobError, nearest
from fedsag_cli.job import components, executor
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


def workflows_and_components(conf: Section, custom: Path) -> tuple[list[ComponentSpec], list[ComponentSpec]]:
    """The server's workflows and components, checked against their constructors. Raises JobError."""
    parts = [part for part in conf.sections("components") if not part.flag("disabled", False)]
    ids = [part.text("id") for part in parts]
    flows = [flow for flow in conf.sections("workflows") if not flow.flag("disabled", False)]
    if not flows:
        raise JobError(f"{conf.called('workflows')} is missing or empty", hint="a server has at least one workflow")
    named = [flow.text("id") for flow in flows if "id" in flow]
    for names, sections in ((ids, parts), (named, flows)):
        for index, name in enumerate(names):
            if not name:
                raise sections[index].wrong("id", "is empty")
            if name in names[:index]:
                raise sections[index].wrong("id", f"is {name!r}, which another one has too")
    both = sorted(set(ids) & set(named))
    if both:
        raise JobError(f"{conf.file}: a workflow and a component are both called {both[0]!r}")
    return (
        [components.read(flow, [custom], ids) for flow in flows],
        [components.read(part, [custom], ids) for part in parts],
    )


def filters(conf: Section, key: str, direction: str, custom: Path) -> list[FilterSpec]:
    """The filters of one chain, in order. `direction`: "in" or "out"; an entry of the other direction is an error."""
    chain: list[FilterSpec] = []
    for entry in conf.sections(key):
        entry.expect(FILTER_KEYS)
        if entry.text("direction", direction).lower() != direction:
            raise entry.wrong("direction", f"must be {direction!r} in this list, or left out")
        tasks = entry.texts("tasks")
        for link in entry.sections("filters"):
            if not link.flag("disabled", False):
                spec = components.read(link, [custom])
                chain.append(FilterSpec(tasks=tasks, path=spec.path, args=spec.args))
    return chain


def client(conf: Section, custom: Path) -> list[tuple[executor.Command, ClientConfig]]:
    """The commands of a client, each with the settings of its Client API. Raises JobError.

    Executors that differ in their tasks only are one.
    """
    for part in conf.sections("components"):
        if not part.flag("disabled", False):
            raise JobError(f"{part.called()}: a client has no components", hint="remove it, or set disabled = true")
    entries = list(conf.sections("executors"))
    if not entries:
        raise JobError(f"{conf.called('executors')} is missing or empty", hint="a client has at least one executor")
    _check_tasks(entries)
    for entry in entries:
        entry.expect(EXECUTOR_KEYS)
        spec = components.read(entry.section("executor"), [custom])
        if not executor.is_executor(spec.path):
            raise JobError(
                f"{entry.called('executor')}: there is no executor {spec.path!r}",
                hint=nearest(spec.path, [executor.NAME]),
            )
    data_filters = filters(conf, "task_data_filters", "in", custom)
    result_filters = filters(conf, "task_result_filters", "out", custom)
    executors: list[tuple[executor.Command, ClientConfig]] = []
    for entry in entries:
        args = entry.section("executor").section("args", {})
        command = executor.read_command(args, custom)
        config = executor.read_config(executor.task_names(entry), args, data_filters, result_filters)
        for index, (other, its) in enumerate(executors):
            if other == command and replace(its, tasks=()) == replace(config, tasks=()):
                executors[index] = (command, replace(its, tasks=(*its.tasks, *config.tasks)))
                break
        else:
            executors.append((command, config))
    return executors


def _check_tasks(entries: Iterable[Section]) -> None:
    seen: set[str] = set()
    for entry in entries:
        for task in executor.task_names(entry):
            if task in seen:
                raise entry.wrong("tasks", f"has {task!r}, which an executor before it has too")
            seen.add(task)
