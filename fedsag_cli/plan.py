"""The plan of a run, plan.json: the job with every setting resolved. The processes of a run read it, and no config."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import msgspec

from fedsag_cli.model import ParamsType


class FilterSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One filter of a chain: the tasks it takes (patterns, see `matches`), its class and its arguments."""

    tasks: list[str]
    path: str
    args: dict[str, Any] = {}


class ClientConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The settings of one client: those of its config_fed_client, resolved for its site."""

    tasks: tuple[str, ...] = ("train",)
    train_task_name: str = "train"
    evaluate_task_name: str = "validate"
    submit_model_task_name: str = "submit_model"
    train_with_evaluation: bool = False
    exchange_format: str = "raw"
    transfer_type: ParamsType = ParamsType.FULL
    launch_once: bool = True
    launch_timeout: float = 300.0
    memory_gc_rounds: int = 0
    cuda_empty_cache: bool = False
    task_data_filters: list[FilterSpec] = []
    task_result_filters: list[FilterSpec] = []


def matches(task_name: str, patterns: Iterable[str]) -> bool:
    """Whether an executor or a filter with these task patterns takes a task: `*`, `?` and `[…]` as in file names."""
    return any(fnmatchcase(task_name, pattern) for pattern in patterns)


class ComponentSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One component in a config file. `path` is a short name of ours, such as FedAvg, or `package.module.Class`."""

    path: str
    id: str = ""
    args: dict[str, Any] = {}


class SitePlan(msgspec.Struct, frozen=True, kw_only=True):
    """How to start one client: a Python `script` with `args`, or else a `command`. `group` is its GPU group."""

    name: str
    group: int
    script: str
    args: list[str]
    command: list[str]
    env: dict[str, str]  # added to the environment of the run
    config: ClientConfig


class ServerPlan(msgspec.Struct, frozen=True, kw_only=True):
    """The workflows, components and filters that the server builds."""

    workflows: list[ComponentSpec]
    components: list[ComponentSpec]
    task_data_filters: list[FilterSpec]
    task_result_filters: list[FilterSpec]


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """A run before it starts.

    `slots`: how many clients of one group work at the same time. `threads`: torch's threads in each client. `preload`:
    the modules that the processes will import. `files`: by path in the job, the SHA-256 of every file but the configs.
    """

    job: str
    seed: int
    slots: int
    threads: int
    launcher: str
    gpus: str | None = None
    strict: bool = False
    preload: list[str]
    server: ServerPlan
    sites: list[SitePlan]
    files: dict[str, str] = {}


def read_plan(path: Path) -> Plan:
    """The plan that `write_json` wrote."""
    return msgspec.json.decode(path.read_bytes(), type=Plan)
