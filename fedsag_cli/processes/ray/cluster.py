"""Connects to Ray, or starts it for this run alone, and has Ray place an agent on each node."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import ray
from ray.exceptions import AuthenticationError, GetTimeoutError, RayError
from ray.util.placement_group import PlacementGroup, placement_group, placement_group_table, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from fedsag_cli.errors import RunError, UsageError, counted
from fedsag_cli.processes.ray.head import reason
from fedsag_cli.processes.ray.messages import TOKENS, Here
from fedsag_cli.processes.ray.node import Agent
from fedsag_cli.workspace import by_number

_CONNECT_S = 5.0
_PLACE_S = 30.0  # for processors that another job is about to free
_START_S = 120.0  # for an agent, which may be the first process on its node that imports fedsag
_SAME = "install the same version of fedsag and of Python on every node"


class Placed(NamedTuple):
    """The agent on one node."""

    name: str
    actor: Any
    here: Here


@contextmanager
def agents(address: str, folder: Path, there: Here, env: Mapping[str, str], *, fork: bool) -> Iterator[list[Placed]]:
    """An agent on each node that has processors. At the end they are gone, and Ray if it was started here.

    `address`: of a cluster; empty: Ray starts on this machine, with its files in `folder`. Raises UsageError, RunError.
    """
    _connect(address, folder)
    try:
        group = _place()
        actors: list[Any] = []
        try:
            names = _names(group)
            actors += (_start(group, index, there, env, fork=fork) for index in names)
            yield [
                Placed(name, actor, _checked(name, actor, there))
                for name, actor in zip(names.values(), actors, strict=True)
            ]
        finally:
            for actor in actors:
                ray.kill(actor)
            remove_placement_group(group)
    finally:
        ray.shutdown()


def _connect(address: str, folder: Path) -> None:
    """Raises UsageError, RunError."""
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "CRITICAL"}
    try:
        if address:
            host, _, port = address.rpartition(":")
            socket.create_connection((host.strip("[]"), int(port)), _CONNECT_S).close()
            ray.init(address=address, **quiet)
        else:
            ray.init(address="local", include_dashboard=False, _temp_dir=str(folder), **quiet)
    except AuthenticationError:
        raise UsageError(
            f"--address {address}: there is no token for this cluster",
            hint="`ray get-auth-token` shows it on a node that has it; set RAY_AUTH_TOKEN",
        ) from None
    except (OSError, RuntimeError, ValueError, RayError) as error:
        if not address:
            raise RunError(f"Ray cannot be started: {reason(error)}") from None
        raise UsageError(
            f"--address {address}: {reason(error)}",
            hint="start fedsag on a node of the cluster, with its token; `ray status` shows whether it lives",
        ) from None


def _place() -> PlacementGroup:
    """All processors and GPUs of each node, as one bundle a node. Raises RunError."""
    found = [node["Resources"] for node in _nodes() if node["Alive"] and node["Resources"].get("CPU")]
    if not found:
        raise RunError("no node of the Ray cluster has processors")
    bundles = [{name: each[name] for name in ("CPU", "GPU") if each.get(name)} for each in found]
    group: PlacementGroup = placement_group(bundles, strategy="STRICT_SPREAD")
    if not group.wait(_PLACE_S):
        remove_placement_group(group)
        raise RunError(
            f"the Ray cluster has {counted(len(found), 'node')}, and not all their processors can be had",
            hint="does another job use the cluster, or has a node just died? `ray status` shows it",
        )
    return group


def _nodes() -> list[dict[str, Any]]:
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return nodes


def _names(group: PlacementGroup) -> dict[int, str]:
    """The node of each bundle, by the bundle number: this machine first. Its name is what Ray was given for it."""
    nodes = {node["NodeID"]: node for node in _nodes()}
    own = ray.get_runtime_context().get_node_id()
    at = {int(index): nodes[node] for index, node in placement_group_table(group)["bundles_to_node_id"].items()}
    order = sorted(at, key=lambda index: (at[index]["NodeID"] != own, by_number(at[index]["NodeName"]), index))
    return {index: f"node-{nth} ({_name(at[index])})" for nth, index in enumerate(order, start=1)}


def _name(node: Mapping[str, Any]) -> str:
    named: str = node["NodeName"]
    return named if named != node["NodeManagerAddress"] else node["NodeManagerHostname"]


def _start(group: PlacementGroup, index: int, there: Here, env: Mapping[str, str], *, fork: bool) -> Any:
    bundle = group.bundle_specs[index]
    kind: Any = ray.remote(concurrency_groups={"up": 1, "end": 1})(Agent)  # type: ignore[call-overload]
    actor = kind.options(
        num_cpus=bundle["CPU"],
        num_gpus=bundle.get("GPU", 0),
        max_restarts=0,
        scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=index),
    )
    return actor.remote(there, dict(env), fork=fork)


def _checked(name: str, actor: Any, there: Here) -> Here:
    """What a node has. Raises RunError if it is not fit for the run."""
    try:
        here: Here = ray.get(actor.who.remote(), timeout=_START_S)
    except GetTimeoutError:
        raise RunError(f"{name}: its agent did not start within {_START_S:.0f} s") from None
    except RayError as error:
        raise RunError(f"{name}: {reason(error)}", hint=f"{_SAME}, and start Ray there with {TOKENS}") from None
    for what in ("fedsag", "python"):
        if here.versions.get(what) != there.versions.get(what):
            raise RunError(
                f"{name} has {what} {here.versions.get(what)}, this machine {there.versions.get(what)}", hint=_SAME
            )
    return here


def notes(placed: Sequence[Placed], there: Here) -> Iterator[str]:
    """What differs between the nodes and may change the last bits of a result."""
    for node in placed:
        for what, version in there.versions.items():
            if (other := node.here.versions.get(what, "none")) != version:
                yield f"{node.name} has {what} {other}, this machine {version}: results may differ slightly"
