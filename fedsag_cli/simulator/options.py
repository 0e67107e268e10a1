"""The options of `fedsag simulator`: the clients, GPU groups and slots that follow from them."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass

from fedsag_cli import machine
from fedsag_cli.errors import UsageError, counted, nearest, there_are
from fedsag_cli.plan import ALL
from fedsag_cli.processes.ray.engine import check_installed
from fedsag_cli.processes.ray.messages import Node
from fedsag_cli.simulator.time_limit import TimeLimit
from fedsag_cli.workspace import SERVER

FORK, SPAWN = "fork", "spawn"
LOCAL, RAY = "local", "ray"
_AT_WORK = 16  # a client that trains a small model has so many times the memory that it has before its script
_GPU = r"(?:\d+|(?:GPU|MIG)-[\w/-]+)"  # a number, or the name that nvidia-smi -L shows
_ADDRESS = re.compile(r"[\w.-]+:\d{1,5}|\[[0-9a-fA-F:.]+\]:\d{1,5}")
_GROUP = rf"(?:{_GPU}|\[{_GPU}(?:,{_GPU})*\])"


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """A run with which a federated one is compared: its kind, see `baselines`, and its number of rounds."""

    kind: str
    num_rounds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The options of one run; None: the option was not given."""

    num_clients: int | None = None
    clients: Sequence[str] = ()  # by name
    slots: int | None = None  # how many clients work at the same time, in each GPU group
    gpus: str | None = None  # as in `gpu_groups`
    threads: int | None = None  # torch's, in each client
    launcher: str | None = None  # FORK or SPAWN
    engine: str = LOCAL  # or RAY
    address: str | None = None  # of a Ray cluster
    workers: bool | None = None  # whether worker processes do the tasks of all clients; None: as the job says
    seed: int | None = None
    default_seed: int | None = None  # where neither `seed` nor the job's meta file has one; None: a random one
    sets: Sequence[str] = ()  # KEY=VALUE: values of the job's config files for this run, see `set_values`
    waits_for_all: bool | None = None  # as the earlier run did; None: if a seed is given
    max_clients: int | None = None
    resume: bool = False  # continue the run in the workspace
    force: bool = False  # start anew over an unfinished run; with `resume`, continue without what components kept
    at: str | None = None  # with `resume`: begin a fork after this round, ROUND or WORKFLOW:ROUND
    keep_checkpoints: int | None = None  # those of so many last rounds, or ALL; None: as the earlier run did, or of one
    strict: bool = False  # any failure of a client ends the run
    max_time: str | TimeLimit | None = None  # how long the run may take, or all runs that have this limit
    debug: str = ""  # the client that runs in the foreground
    follow: Sequence[str] = ()  # clients whose logs are shown; or the server
    recorded: bool = True  # in the database of runs
    baselines: Sequence[str] = ()  # kinds of baselines that will follow this run
    baseline: Baseline | None = None  # this run is one


def site_names(options: Options) -> list[str]:
    """The names of the clients: from -c, or site-1 to site-N from -n; empty without both. Raises UsageError."""
    if options.clients or options.num_clients is None:
        return list(options.clients)
    if options.num_clients < 1:
        raise UsageError(f"-n {options.num_clients}: a run needs at least one client")
    if options.max_clients is not None and options.num_clients > options.max_clients:
        raise UsageError(f"-n {options.num_clients}: -m allows at most {counted(options.max_clients, 'client')}")
    return [f"site-{number}" for number in range(1, options.num_clients + 1)]


def count_or_all(given: str | None) -> int | None:
    """The number of --keep-checkpoints: a number of rounds, or ALL. Raises UsageError."""
    if given is None or given == "all":
        return None if given is None else ALL
    if not given.isdecimal() or int(given) < 1:
        raise UsageError(f"--keep-checkpoints {given}: it must be a number from 1 on, or all")
    return int(given)


def check_followed(options: Options, names: Sequence[str]) -> None:
    """Raises UsageError if --follow names what the run does not have."""
    for site in options.follow:
        if site not in (*names, SERVER):
            raise UsageError(f"--follow {site}: there is no such client", hint=nearest(site, [*names, SERVER]))


def check_debugged(options: Options, names: Sequence[str]) -> None:
    """Raises UsageError if --debug names no client of the run, or the client cannot run in the foreground."""
    site = options.debug
    if site and site not in names:
        near = nearest(site, names)
        raise UsageError(
            f"--debug {site}: there is no such client",
            hint=f"{near}; --debug takes a client's name, -debug shows where an error was raised",
        )
    if site and options.engine == RAY:
        raise UsageError("--debug and --engine ray exclude each other", hint="leave --engine out: the client runs here")


def check_engine(options: Options) -> None:
    """Raises UsageError if there is no such engine, or it is not to be had."""
    if options.engine not in (LOCAL, RAY):
        raise UsageError(f"--engine {options.engine!r}: there is none", hint=nearest(options.engine, [LOCAL, RAY]))
    if options.engine == RAY:
        check_installed()
    if options.address is None:
        return
    if options.engine != RAY:
        raise UsageError("--address names a Ray cluster", hint="give --engine ray too")
    if not _ADDRESS.fullmatch(options.address):
        raise UsageError(f"--address {options.address!r} is not HOST:PORT", hint="example: 192.168.0.10:6379")


def gpu_groups(gpus: str | None, nodes: Sequence[Node] = ()) -> list[str]:
    """The ids of each GPU group, for CUDA_VISIBLE_DEVICES. Raises UsageError. `nodes`: if not on this machine.

    "0,1" are two groups of one GPU each, "[0,1],[2]" are a group of two GPUs and a group of one. A GPU may also
    be given by its name, such as GPU-5b1d… or MIG-….
    """
    if gpus is None:
        return []
    groups = split_gpus(gpus)
    places = {node.name: node.gpus for node in nodes} or {"this machine": machine.num_gpus()}
    for (place, available), gpu in itertools.product(places.items(), ",".join(groups).split(",")):
        if available is not None and gpu.isdecimal() and int(gpu) >= available:
            raise UsageError(f"-gpu {gpus}: there is no GPU {gpu}", hint=f"{place} has {available}, numbered from 0")
    return groups


def split_gpus(gpus: str) -> list[str]:
    """As `gpu_groups`, whether or not there are such GPUs."""
    text = re.sub(r"\s", "", gpus)
    if not re.fullmatch(rf"{_GROUP}(,{_GROUP})*", text):
        raise UsageError(f"-gpu {gpus!r} is not a list of GPU groups", hint="examples: 0,1 or [0,1],[2,3] or GPU-5b1d…")
    return [group.strip("[]") for group in re.findall(_GROUP, text)]


def slots_of(options: Options, num_clients: int, num_groups: int, threads: int, memory: int, notices: list[str]) -> int:
    """The number of clients of one group that work at the same time: one if there are several groups, else -t.

    Without -t, as many as cores and memory allow, if each has `threads` threads and its work takes at least as much
    memory as _AT_WORK times `memory` bytes.
    """
    if options.slots is not None and options.slots < 1:
        raise UsageError(f"-t {options.slots}: it must be at least 1")
    if num_groups > 1:
        if options.slots not in (None, num_groups):
            notices.append(f"-t {options.slots} has no effect: with {num_groups} GPU groups, one client of each works")
        return 1
    if options.slots is not None:
        if options.slots > num_clients:
            notices.append(f"-t {options.slots}: {there_are(num_clients, 'client')}, and all work at the same time")
        return min(options.slots, num_clients)
    free = machine.free_memory()
    limits = {
        f"as {there_are(num_clients, 'client')}": num_clients,
        f"as {there_are(machine.cores(), 'core')}": max(1, machine.cores() // threads),
    }
    if free:
        limits[f"as {free / 1e9:.1f} GB of memory are free"] = max(1, free // (_AT_WORK * memory))
    why = min(limits, key=limits.__getitem__)
    work = "1 client works" if limits[why] == 1 else f"{limits[why]} clients work"
    notices.append(f"no -t given: {work} at a time, {why}")
    return limits[why]
