"""Translates config files of NVFLARE 2.4 to 2.9 to fedsag's components and arguments.

A class of NVFLARE is recognized by its name, as its module differs between versions. Parts that carry messages between
NVFLARE's processes need no counterpart. A part that fedsag does not have is left out with a note; it is an error if the
job would train another model without it.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from fedsag_cli import catalog, persistors
from fedsag_cli.interop.reading import client_controlled
from fedsag_cli.interop.reading.executors import Executors
from fedsag_cli.interop.reading.parts import Parts, args_of, objects, path_of
from fedsag_cli.interop.reading.workflows import Workflows
from fedsag_cli.interop.vocabulary import ONLY_MEASURES, SUBMIT_MODEL
from fedsag_cli.job import ConfigFile
from fedsag_cli.job.config import SERVER_FILE
from fedsag_cli.plan import matches

_FILTERS = ("task_data_filters", "task_result_filters")


def translate(file: ConfigFile, clients: Iterable[ConfigFile]) -> ConfigFile:
    """A config file of a job for fedsag. Raises JobError.

    `clients`: of the server's file, the files of the job's client apps. They have the arguments of workflows that
    NVFLARE runs on its clients, and fedsag on the server.
    """
    parts = Parts(file.name, file.search)
    values = {**file.values}
    if file.stem == SERVER_FILE:
        clients, again = itertools.tee(clients)  # they are read only if a workflow needs them
        values |= _server(client_controlled.on_the_server(file.values, clients, parts), parts, again)
    else:
        values |= Executors(parts).client(file.values)
    for key in _FILTERS:
        if isinstance(values.get(key), list):
            values[key] = [_filters(entry, parts, objects(file.values, "components")) for entry in values[key]]
    parts.check_missing()
    return replace(file, values=values, notes=[*file.notes, *parts.notes])


def _server(values: Mapping[str, Any], parts: Parts, clients: Iterable[ConfigFile]) -> dict[str, Any]:
    parts.ids = [part.get("id") for part in objects(values, "components")]
    components = [part for part in map(parts.part, objects(values, "components")) if part is not None]
    parts.persistor = next((str(part.get("id")) for part in components if _is_persistor(part)), "")
    workflows = Workflows(
        parts, components, no_client_submits=functools.cache(lambda: _no_client_submits(clients, parts))
    )
    flows = [workflows.translated(flow) for flow in objects(values, "workflows")]
    return {
        "components": list(_models_inside(components)),
        **({"workflows": flows} if "workflows" in values else {}),
    }


def _no_client_submits(clients: Iterable[ConfigFile], parts: Parts) -> bool:
    """Whether all executors that take the task to submit a model are such that have none."""
    entries = [entry for client in clients for entry in objects(client.values, "executors")]
    takers = [entry.get("executor") for entry in entries if matches(SUBMIT_MODEL, entry.get("tasks") or [])]
    return bool(takers) and all(parts.nvflare_name(executor) == ONLY_MEASURES for executor in takers)


def _is_persistor(part: Mapping[str, Any]) -> bool:
    return catalog.class_path(path_of(part)).startswith(persistors.__name__) and not part.get("disabled")


def _filters(entry: Any, parts: Parts, components: Iterable[Mapping[str, Any]]) -> Any:
    if not isinstance(entry, Mapping) or not isinstance(entry.get("filters"), list):
        return entry
    chain = [_cleansers_inside(parts.part(link), parts, components) for link in entry["filters"]]
    return {**entry, "filters": [link for link in chain if link is not None]}


def _cleansers_inside(link: Any, parts: Parts, components: Iterable[Mapping[str, Any]]) -> Any:
    """Put the cleansers that a filter of statistics names by their ids into its arguments."""
    if not isinstance(link, Mapping) or path_of(link) != "StatisticsPrivacyFilter":
        return link
    by_id = {part.get("id"): part for part in components if not part.get("disabled")}
    cleansers = []
    for name in args_of(link).get("cleansers", []):
        if not isinstance(name, str):
            cleansers.append(name)
        elif name in by_id:
            part = parts.part(by_id[name])
            cleansers.append({"path": path_of(part), "args": dict(args_of(part))})
        else:
            parts.note(f"StatisticsPrivacyFilter: there is no component {name!r}: it has no effect, as in NVFLARE")
    return {**link, "args": {**args_of(link), "cleansers": cleansers}}


def _models_inside(components: Iterable[Any]) -> Iterator[Any]:
    """Put a model that is a component of its own into the arguments of its persistor, as fedsag expects."""
    by_id = {part.get("id"): part for part in components if isinstance(part, Mapping)}
    inside: set[Any] = set()
    done = []
    for part in components:
        model = args_of(part).get("model")
        if isinstance(model, str) and model in by_id:
            inside.add(model)
            named = {"path": path_of(by_id[model]), "args": dict(args_of(by_id[model]))}
            part = {**part, "args": {**args_of(part), "model": named}}
        done.append(part)
    return (part for part in done if part.get("id") not in inside)
