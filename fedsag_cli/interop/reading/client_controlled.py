"""NVFLARE's client-controlled workflows, as workflows of the server.

In NVFLARE, the config of the server has a controller that watches, and the config of each client an executor with the
logic and the components that it needs. In fedsag the server runs such a workflow: the roles of the clients and the
result are the same, and every model passes the server. So arguments and components of a client go to the server.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from fedsag_cli.errors import JobError
from fedsag_cli.interop.reading.parts import Parts, args_of, named_by, objects
from fedsag_cli.interop.vocabulary import CLIENT_CONTROLLED, COORDINATION
from fedsag_cli.job import ConfigFile

_SELECTOR = "IntimeModelSelector"  # no argument names it: in NVFLARE it listens to events
_RUNS_OTHERS = "ServerSideController"  # its clients run workflows of the server, one after the other

_DEFAULT_IDS = {"persistor_id": "persistor", "aggregator_id": "aggregator"}  # recipes leave out what is the default


class ClientHalf:
    """What a client's config has of such workflows: executors that are controllers, and the components they need."""

    def __init__(self, values: Mapping[str, Any], parts: Parts) -> None:
        self._parts = parts
        executors = [entry.get("executor") for entry in objects(values, "executors")]
        self.controllers = [part for part in executors if is_controller(part, parts)]
        components = objects(values, "components")
        needed = named_by([{**_DEFAULT_IDS, **args_of(part)} for part in self.controllers], components)
        self.components = [
            part
            for part in components
            if self.controllers and (part in needed or parts.nvflare_name(part) == _SELECTOR)
        ]

    def other_half(self, flow: Any, name: str) -> Mapping[str, Any] | None:
        """The arguments of the controller that belongs to a workflow of the server."""
        wanted = [part for part in self.controllers if self._parts.nvflare_name(part) == CLIENT_CONTROLLED[name]]
        prefix = args_of(flow).get("task_name_prefix")  # tells two workflows of one class apart
        same = [part for part in wanted if args_of(part).get("task_name_prefix") == prefix]
        return next((args_of(part) for part in [*same, *wanted]), None)

    def is_like(self, other: ClientHalf) -> bool:
        return (self.controllers, self.components) == (other.controllers, other.components)


def is_controller(executor: Any, parts: Parts) -> bool:
    """Whether an executor of a client is a half of such a workflow."""
    return parts.nvflare_name(executor) in CLIENT_CONTROLLED.values()


def on_the_server(values: Mapping[str, Any], clients: Iterable[ConfigFile], parts: Parts) -> Mapping[str, Any]:
    """The server's values, in which such workflows have the arguments and the components of the clients' halves.

    Raises JobError if no client has the other half.
    """
    flows = objects(values, "workflows")
    if not any(parts.nvflare_name(flow) in CLIENT_CONTROLLED for flow in flows):
        return values
    files = list(clients)
    halves = {file.name: half for file in files if (half := ClientHalf(file.values, parts)).controllers}
    for flow in flows:
        name = parts.nvflare_name(flow)
        if name in CLIENT_CONTROLLED and not any(half.other_half(flow, name) is not None for half in halves.values()):
            where = files[0].name if files else parts.file
            raise JobError(
                f"{where}: no executor is a {CLIENT_CONTROLLED[name]}, which the workflow {name} needs",
                hint="the executors of a client have the arguments of a client-controlled workflow",
            )
    (file, half), *others = halves.items()
    for other, its in others:
        if not its.is_like(half):
            parts.note(f"{other}: its controllers or their components are others than in {file}: those there are used")
    ids = {part.get("id") for part in objects(values, "components")}
    run_there = {name for flow in flows for name in _run_there(flow, half, parts)}
    more = [part for part in half.components if part.get("id") not in ids | run_there]
    return {
        **values,
        "workflows": [each for flow in flows for each in _whole(flow, half, parts)],
        "components": [*objects(values, "components"), *more],
    }


def _run_there(flow: Any, half: ClientHalf, parts: Parts) -> list[Any]:
    """The ids of the workflows of the server that clients run for this one."""
    if parts.nvflare_name(flow) != _RUNS_OTHERS:
        return []
    return list((half.other_half(flow, _RUNS_OTHERS) or {}).get("controller_id_list") or [])


def _whole(flow: Any, half: ClientHalf, parts: Parts) -> Iterator[Any]:
    """The workflow with all its arguments, or the workflows that clients run for it."""
    name = parts.nvflare_name(flow)
    if name not in CLIENT_CONTROLLED:
        yield flow
        return
    parts.note(f"{name}: the server runs it, with the arguments that clients have: each model passes the server")
    if name == _RUNS_OTHERS:
        by_id = {part.get("id"): part for part in half.components}
        for each in _run_there(flow, half, parts):
            if each not in by_id:
                raise JobError(f"{parts.file}: controller_id_list names {each!r}: no client has that component")
            yield by_id[each]
        return
    args = {**(half.other_half(flow, name) or {}), **args_of(flow)}
    yield {**flow, "args": {key: value for key, value in args.items() if not _has_no_effect(key, value)}}


def _has_no_effect(key: str, value: Any) -> bool:
    return key in COORDINATION or value is None or value in ("", [])
