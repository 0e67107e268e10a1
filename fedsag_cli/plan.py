"""The plan of a run, plan.json: the job with every setting resolved. The server reads this file, not the configs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any

import msgspec

from fedsag_cli.arguments import Least, OneOf
from fedsag_cli.model import ParamsType
from fedsag_cli.workspace import WORKER, site_of

FORMAT = 3
"""The format of plan.json, of the record and of the checkpoints. A run is resumed by a version that has the same."""


ALL = 0
"""As a number of rounds whose checkpoints are kept: all."""


class FilterSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One filter of a chain: the tasks it takes (patterns, see `matches`), its class and its arguments."""

    tasks: list[str]
    path: str
    args: dict[str, Any] = {}


class ClientConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The resolved settings of one client. Fields with a description are arguments of the executor in a config."""

    tasks: tuple[str, ...] = ("train",)
    train_task_name: Annotated[str, "name of the task to train"] = "train"
    evaluate_task_name: Annotated[str, "name of the task to evaluate a model"] = "validate"
    submit_model_task_name: Annotated[str, "name of the task to send the client's own model"] = "submit_model"
    train_with_evaluation: Annotated[
        bool, "whether the script sends metrics of the model it received along with its update"
    ] = False
    exchange_format: Annotated[
        str,
        OneOf(["raw", "pytorch", "numpy"]),
        "type of the script's params: PyTorch tensors, numpy arrays, or both (raw)",
    ] = msgspec.field(default="raw", name="params_exchange_format")
    transfer_type: Annotated[
        ParamsType,
        OneOf([kind.value for kind in ParamsType]),
        "FULL: the whole model is sent; DIFF: only the change by training",
    ] = msgspec.field(default=ParamsType.FULL, name="params_transfer_type")
    launch_once: Annotated[
        bool, "whether the script is started once for the whole run (false: once for every task)"
    ] = True
    launch_timeout: Annotated[
        float | None, Least(0), "seconds from a script's start to its flare.init() (null, 0: no limit)"
    ] = 300.0
    serves_any_client: Annotated[
        bool,
        "whether the script serves any client: then -t worker processes do the tasks of all clients, one after another "
        "(false: each client has a process of its own)",
    ] = False
    memory_gc_rounds: Annotated[
        int, Least(0), "number of rounds between two collections of Python's garbage (0: only Python's own)"
    ] = 0
    cuda_empty_cache: Annotated[bool, "whether torch's CUDA cache is emptied when garbage is collected"] = False
    task_data_filters: list[FilterSpec] = []
    task_result_filters: list[FilterSpec] = []


def matches(task_name: str, patterns: Iterable[str]) -> bool:
    """Whether an executor or a filter with these task patterns takes a task: `*`, `?` and `[…]` as in file names."""
    return any(fnmatchcase(task_name, pattern) for pattern in patterns)


class ComponentSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One component in a config file. `path` is a name that fedsag knows, such as FedAvg, or `package.module.Class`."""

    path: str
    id: str = ""
    args: dict[str, Any] = {}


class SitePlan(msgspec.Struct, frozen=True, kw_only=True):
    """How to start the process of one executor of a site, or a worker: a Python `script` with `args`, or a `command`.

    The script is a path, or a module of fedsag.

    `name` is the process's: the site's for its first executor, and `site:2`, … for further ones, which do other tasks.
    `group` is the site's GPU group.
    `in_process`: its working directory is the site's folder, as in NVFLARE, and not the app's.
    `fresh`: in a new interpreter that has imported none of the modules in `preload`.
    `node`: the number of its machine, if the engine has several; a GPU group is on one.
    """

    name: str
    group: int
    script: str
    args: list[str]
    command: list[str]
    env: dict[str, str]  # added to the environment of the run
    config: ClientConfig
    in_process: bool = False
    fresh: bool = False
    node: int = 0

    @property
    def site(self) -> str:
        return site_of(self.name)


def is_worker(process: str) -> bool:
    """Whether this is the name of a worker process, such as "worker:3"."""
    return site_of(process) == WORKER


class ServerPlan(msgspec.Struct, frozen=True, kw_only=True):
    """The workflows, components and filters that the server builds."""

    workflows: list[ComponentSpec]
    components: list[ComponentSpec]
    task_data_filters: list[FilterSpec]
    task_result_filters: list[FilterSpec]

    @property
    def kept_by(self) -> dict[str, str]:
        """By the name of its tree in a checkpoint, the class of each part that may keep something between rounds."""
        filters = [*self.task_data_filters, *self.task_result_filters]
        chain = " ".join(spec.path for spec in filters)
        found = {f"state of {spec.id}": spec.path for spec in self.components}
        found |= {f"state of filter {number}": spec.path for number, spec in enumerate(filters, start=1)}
        return found | {"filters/task": chain, "filters/answer": chain}


class ParentRun(msgspec.Struct, frozen=True, kw_only=True):
    """The run that a fork was made of, after its round `round_num`: the first `rounds` rounds are its.

    `id`: as `history.reading.identity_of` names it. `link`: that of its record after the round, which stands for all
    that was done until then. `anew`: trees of its checkpoint that the fork does not restore, as the parts that kept
    them have another class now.
    """

    id: str
    round_num: int
    rounds: int
    link: str
    anew: list[str] = []


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """A run before it starts.

    `names`: the clients. `sites`: how to start their processes; with workers, one for each group, all named WORKER.
    `slots`: how many clients of one group work at the same time. `threads`: torch's threads in each client. `preload`:
    the modules that the processes will import. `waits_for_all`: a seed was given, so who takes part in a round does not
    depend on how fast the others are. `files`: SHA-256 of every file except the configs, by path in the job.
    `debug`: the client in the foreground; then no time limit ends the wait for a client.
    `overrides`: the words of `--set`, which are in the settings already.
    `shown_settings`: file and key of each value in the config files -> the value, for trackers. `keep_checkpoints`: the
    number of last rounds whose checkpoints stay, or ALL. `baseline`: its kind, if this
    is a baseline of a federated run.
    """

    format: int = 0  # what wrote no number is older than the first
    job: str
    seed: int
    slots: int
    threads: int
    launcher: str
    gpus: str | None = None
    strict: bool = False
    waits_for_all: bool = False
    preload: list[str]
    debug: str = ""
    server: ServerPlan
    names: list[str]
    sites: list[SitePlan]
    files: dict[str, str] = {}
    shown_settings: dict[str, Any] = {}
    overrides: list[str] = []
    keep_checkpoints: int = 1
    parent: ParentRun | None = None
    baseline: str = ""

    @property
    def has_workers(self) -> bool:
        """Whether worker processes do the tasks of all clients."""
        return any(site.name == WORKER for site in self.sites)

    @property
    def settings(self) -> Any:
        """The contents of the config files, without paths and without the settings for starting processes."""
        sites = {site.name: {"args": site.args, "command": site.command, "config": site.config} for site in self.sites}
        return msgspec.to_builtins({"job": self.job, "names": self.names, "server": self.server, "sites": sites})

    @property
    def identity(self) -> str:
        """The SHA-256 of all that decides the result."""
        result = {"seed": self.seed, "threads": self.threads, "files": self.files, "settings": self.settings}
        if self.parent is not None:
            result |= {"parent": self.parent.link, "anew": self.parent.anew}
        return hashlib.sha256(msgspec.json.encode(result, order="deterministic")).hexdigest()


def starts(plan: Plan) -> Callable[[str], SitePlan]:
    """How to start a process of this name. The workers of a run take turns in the groups. Raises KeyError."""
    by_name = {site.name: site for site in plan.sites}

    def start_of(process: str) -> SitePlan:
        if is_worker(process):
            return plan.sites[(int(process.rpartition(":")[2]) - 1) % len(plan.sites)]
        return by_name[process]

    return start_of


def read_plan(path: Path) -> Plan:
    """The plan that `write_json` wrote."""
    return msgspec.json.decode(path.read_bytes(), type=Plan)
