"""Baselines of a federated run: its script trains as often on the data of all sites at once, or at each site alone.

A baseline is a run of its own, whose workflow is SeparateTraining. `centralised` has one client, POOLED; `local` has
the clients of the federated run. Both begin with its first model and its seed. They use no filter, no aggregator and no
updater.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from fedsag_cli import catalog
from fedsag_cli.errors import JobError, UsageError, nearest
from fedsag_cli.job import Job, ServerConfig
from fedsag_cli.plan import ComponentSpec, Plan, SitePlan, read_plan
from fedsag_cli.simulator.options import Baseline
from fedsag_cli.workspace import Workspace

CENTRALISED, LOCAL = "centralised", "local"
KINDS = (CENTRALISED, LOCAL)
POOLED = "pooled"
"""The name of the one client that has the data of all sites: a script that reads data by its name must know it."""

_WORKFLOW = "fedsag_cli.workflows.separate_training.SeparateTraining"
_IN_ROUNDS = ("ScatterAndGather", "Swarm", "Cyclic")  # in their rounds, each client that takes part trains once
_LEFT_OUT = (".trackers.", ".accountants.")
_COMPONENTS = {"persistor_id", "model_selector_id"}


def check_kinds(kinds: Sequence[str]) -> None:
    """Raises UsageError for an unknown kind, or one that is given twice."""
    for kind in kinds:
        if kind not in KINDS:
            raise UsageError(f"--baseline {kind!r}: there is none", hint=nearest(kind, KINDS))
        if kinds.count(kind) > 1:
            raise UsageError(f"--baseline {kind} is given twice")


def check(job: Job, server: ServerConfig, custom: Path, kinds: Sequence[str]) -> None:
    """Raises JobError if the job has no baseline of these kinds. `custom`: the server's code."""
    if not kinds:
        return
    first, *others = server.workflows
    if _short(first) not in _IN_ROUNDS:
        raise JobError(
            f"--baseline: the first workflow of the job is {_short(first)}",
            hint=f"a baseline repeats the rounds of {', '.join(_IN_ROUNDS)}",
        )
    for spec in others:
        if "train_task_name" in catalog.facts_of(spec.path, [custom]).asks_for:
            raise JobError(f"--baseline: several workflows of the job train: {_short(first)}, then {_short(spec)}")
    for spec in server.components:
        if sends := catalog.facts_of(spec.path, [custom]).sends:
            raise JobError(
                f"--baseline: with {_short(spec)}, clients send {sends}, not a model that one of them has trained",
                hint="this job has no baselines",
            )
    if CENTRALISED in kinds:
        _check_pooled(job)


def _check_pooled(job: Job) -> None:
    try:
        job.app_for(POOLED)
    except JobError:
        raise JobError(
            f"--baseline {CENTRALISED}: its one client is called {POOLED!r}, and deploy_map has no app for it",
            hint=f'{job.meta_file}: add "{POOLED}" to the sites of the app that can read the data of all sites',
        ) from None


def server_of(federated: ServerConfig, baseline: Baseline, custom: Path) -> ServerConfig:
    """The server of a baseline. All components that may draw random numbers stay: the first model is the same."""
    return dataclasses.replace(
        federated,
        workflows=[_workflow(federated.workflows[0], baseline, custom)],
        components=[each for each in federated.components if not any(part in _path(each) for part in _LEFT_OUT)],
        task_data_filters=[],
        task_result_filters=[],
    )


def site_of(federated: SitePlan) -> SitePlan:
    """The client of a baseline."""
    config = msgspec.structs.replace(federated.config, task_data_filters=[], task_result_filters=[])
    return msgspec.structs.replace(federated, config=config)


def _workflow(federated: ComponentSpec, baseline: Baseline, custom: Path) -> ComponentSpec:
    """SeparateTraining with those of the federated workflow's arguments that it has."""
    theirs, ours = catalog.signature_of(federated.path, [custom]), catalog.signature_of(_WORKFLOW)
    defaults = {each.name: each.default for each in theirs.arguments} if theirs else {}
    known = {each.name for each in ours.arguments} & defaults.keys() if ours else set()
    args: dict[str, Any] = {name: defaults[name] for name in known - {"persistor", "model_selector"}}
    args |= {name: value for name, value in federated.args.items() if name in known | _COMPONENTS}
    if baseline.kind == CENTRALISED:
        args.pop("num_clients", None)
    return ComponentSpec(path=_WORKFLOW, id=federated.id, args=args | {"num_rounds": baseline.num_rounds})


def of_plan(plan: Plan) -> Baseline | None:
    """Which baseline a plan is of; None if of none."""
    rounds = plan.server.workflows[0].args.get("num_rounds", 0)
    return Baseline(kind=plan.baseline, num_rounds=rounds) if plan.baseline else None


def workspace_of(federated: Path, kind: str) -> Path:
    """The workspace of a baseline of the run at `federated`: not inside it, so that each is replaced by itself."""
    return federated.with_name(f"{federated.name}.baselines") / kind


def is_begun(workspace: Workspace, federated: Plan, kind: str) -> bool:
    """Whether this baseline of this federated run was begun in its workspace, so that it can be continued."""
    try:
        found = read_plan(workspace.plan)
    except (OSError, msgspec.DecodeError):
        return False
    # an app that only the baseline's client has is not in the federated plan
    same_files = all(federated.files.get(name, digest) == digest for name, digest in found.files.items())
    is_same_job = same_files and found.shown_settings == federated.shown_settings
    return found.baseline == kind and found.seed == federated.seed and is_same_job


def _path(spec: ComponentSpec) -> str:
    return catalog.class_path(spec.path)


def _short(spec: ComponentSpec) -> str:
    return catalog.short_name(_path(spec))
