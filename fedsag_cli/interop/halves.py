"""Swarm learning for NVFLARE, whose clients run it: one half of a workflow is in the server's config, one in theirs.

The workflows that come after it are halves, too, since the trained model is then on the clients.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedsag_cli import catalog
from fedsag_cli.errors import JobError
from fedsag_cli.plan import ComponentSpec

_SWARM = "Swarm"
_GENERATOR = {
    "id": "shareable_generator",
    "path": "nvflare.app_common.ccwf.comps.simple_model_shareable_generator.SimpleModelShareableGenerator",
    "args": {},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Halves:
    """NVFLARE's two classes for a workflow, and the arguments of each, by fedsag's names. `tasks`: of the clients'."""

    of_server: str
    of_clients: str
    tasks: str
    server_args: Mapping[str, str]
    client_args: Mapping[str, str]
    more: Mapping[str, Any]


_CCWF = {
    _SWARM: _Halves(
        of_server="nvflare.app_common.ccwf.SwarmServerController",
        of_clients="nvflare.app_common.ccwf.SwarmClientController",
        tasks="swarm_*",
        server_args={name: name for name in ("num_rounds", "start_round", "train_clients", "aggr_clients")},
        client_args={
            "aggregator_id": "aggregator_id",
            "persistor_id": "persistor_id",
            "train_task_name": "learn_task_name",
            "train_timeout": "learn_task_timeout",
            "min_responses_required": "min_responses_required",
            "wait_time_after_min_received": "wait_time_after_min_resps_received",
        },
        more={"shareable_generator_id": _GENERATOR["id"]},
    ),
    "CrossSiteModelEval": _Halves(
        of_server="nvflare.app_common.ccwf.CrossSiteEvalServerController",
        of_clients="nvflare.app_common.ccwf.CrossSiteEvalClientController",
        tasks="cse_*",
        server_args={
            "validation_timeout": "eval_task_timeout",
            "participating_clients": "participating_clients",
            "evaluatees": "evaluatees",
            "evaluators": "evaluators",
            "cross_val_dir": "eval_result_dir",
        },
        client_args={
            "persistor_id": "persistor_id",
            "submit_model_task_name": "submit_model_task_name",
            "validation_task_name": "validation_task_name",
            "submit_model_timeout": "get_model_timeout",
        },
        more={},
    ),
}


def are_needed(workflows: Sequence[ComponentSpec]) -> bool:
    """Whether NVFLARE's clients run the workflows of this job."""
    return any(catalog.short_name(spec.path) == _SWARM for spec in workflows)


def on_server(flow: Mapping[str, Any], name: str, file: str) -> dict[str, Any]:
    """The server's half of the workflow `name`. Raises JobError if NVFLARE's clients do not run it."""
    halves = _halves(name, file)
    others = {key: value for key, value in flow.items() if key not in (*catalog.NAMING_KEYS, "args")}
    return {**others, "path": halves.of_server, "args": _renamed(flow.get("args") or {}, halves.server_args)}


def executors(workflows: Sequence[ComponentSpec], file: str) -> list[dict[str, Any]]:
    """The clients' halves. Raises JobError."""
    found = [(_halves(catalog.short_name(spec.path), file), spec.args) for spec in workflows]
    return [
        {
            "tasks": [halves.tasks],
            "executor": {"path": halves.of_clients, "args": {**_renamed(args, halves.client_args), **halves.more}},
        }
        for halves, args in found
    ]


def components(parts: Sequence[ComponentSpec], written: Callable[[Mapping[str, Any]], dict[str, Any]]) -> list[Any]:
    """The components that the clients' halves need. `written`: makes NVFLARE's component of fedsag's."""
    needed = [part for part in parts if not catalog.facts_of(part.path).extra]
    return [*(written({"id": part.id, "path": part.path, "args": part.args}) for part in needed), dict(_GENERATOR)]


def _halves(name: str, file: str) -> _Halves:
    if name not in _CCWF:
        raise JobError(
            f"{file}: NVFLARE runs Swarm on its clients, and {name} on its server: one job cannot have both",
            hint="make two jobs of it",
        )
    return _CCWF[name]


def _renamed(args: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Without values that mean NVFLARE's default: none, and no limit of time."""
    given = {key: value for key, value in args.items() if value or not key.endswith("_timeout")}
    return {names[key]: value for key, value in given.items() if key in names and value not in (None, "", [])}
