"""Resuming a run: which settings come from the earlier run, and what must not have changed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from fedsag_cli import catalog
from fedsag_cli.errors import UsageError, WorkspaceError
from fedsag_cli.plan import FORMAT, Plan, read_plan
from fedsag_cli.record import Found, read
from fedsag_cli.report import Report
from fedsag_cli.simulator.options import Options, site_names
from fedsag_cli.workspace import ROUND, Workspace


def check_has_run(workspace: Workspace) -> None:
    """Raises WorkspaceError if there is nothing to continue."""
    if not workspace.has_run:
        raise WorkspaceError(f"there is no run in {workspace.root} to continue", hint="start one without --resume")


def plan_in(workspace: Workspace) -> Plan | None:
    """The plan of the run in a workspace; None if the run ended before it wrote one. Raises WorkspaceError."""
    if not workspace.plan.exists():
        return None
    try:
        plan = read_plan(workspace.plan)
    except (OSError, msgspec.DecodeError) as error:
        raise WorkspaceError(
            f"{workspace.plan} is not a plan that fedsag wrote: {error}", hint="start a new run without --resume"
        ) from None
    if plan.format != FORMAT:
        age = "an older" if plan.format < FORMAT else "a newer"
        raise WorkspaceError(
            f"the run in {workspace.root} was begun by {age} version of fedsag, whose files this one cannot continue",
            hint="continue it with that version, or start a new run with --force",
        )
    return plan


def check_nothing_is_lost(workspace: Workspace) -> None:
    """Raises WorkspaceError if a new run would remove whole rounds of a run that is not finished."""
    if not workspace.plan.exists() or finished_report(workspace) is not None:
        return
    try:
        found = read(workspace.record, read_plan(workspace.plan).identity)
    except (OSError, msgspec.DecodeError):
        found = Found()
    if found.digest or not (found.rounds or any(workspace.checkpoints.glob(f"{ROUND}-*"))):
        return
    done = f"{len(found.rounds)} whole rounds" if len(found.rounds) > 1 else "a whole round"
    raise WorkspaceError(
        f"{workspace.root} has {done} of a run that is not finished",
        hint="--resume continues it, --force removes it and starts anew; or choose another folder with -w",
    )


def finished_report(workspace: Workspace) -> Report | None:
    """The report of a run that is complete; None if it is not."""
    try:
        report = msgspec.json.decode(workspace.report.read_bytes(), type=Report)
    except (OSError, msgspec.DecodeError):
        return None
    return report if report.ok else None


def missing_models(workspace: Workspace, report: Report) -> list[Path]:
    """The models of a complete run that are gone. The workspace may have been moved."""
    there = [Path(model) for model in report.models]
    here = [
        workspace.root / path.relative_to(report.workspace) if path.is_relative_to(report.workspace) else path
        for path in there
    ]
    return [path for path in here if not path.is_file()]


def notes_on_state(workspace: Workspace, plan: Plan, custom: Path, *, force: bool) -> Iterator[str]:
    """What the user should know about what the job's own code kept in memory.

    Raises WorkspaceError if a component kept what no checkpoint has, unless `force`.
    """
    rounds = read(workspace.record, plan.identity).rounds
    if not rounds:
        return
    if keeps := rounds[-1].keeps:
        lost = f"no checkpoint has what the job's code kept between rounds: {'; '.join(keeps)}"
        if not force:
            raise WorkspaceError(
                f"{lost}. The rest of the run would come to another result",
                hint="start a new run with --force; or, if the result does not depend on it, add --force to --resume",
            )
        yield lost
    for spec in plan.server.workflows:
        path = catalog.class_path(spec.path)
        if not path.startswith("fedsag_cli.") and not catalog.facts_of(path, [custom]).keeps_nothing:
            yield f"workflow {spec.id or path} is the job's own: what its run() kept in variables begins anew"


def settings_of(plan: Plan, options: Options) -> Options:
    """The options of the earlier run, but with the new -t, -gpu and --launcher, which do not change the result.

    Raises UsageError naming an option whose value differs from the earlier run.
    """
    names = plan.site_names
    given = site_names(options)
    for flag, value, was in (
        ("-c" if options.clients else "-n", given, names),
        ("--seed", options.seed, plan.seed),
        ("--torch-threads", options.threads, plan.threads),
    ):
        if value not in (None, []) and value != was:
            now, then = (", ".join(each) if isinstance(each, list) else each for each in (value, was))
            raise UsageError(
                f"{flag}: the run to resume has {then}, not {now}",
                hint=f"leave {flag} out; or start anew with --force, which removes the rounds that are done",
            )
    several_groups = len({site.group for site in plan.sites}) > 1
    slots = None if several_groups and options.gpus is None else plan.slots
    return dataclasses.replace(
        options,
        num_clients=None,
        clients=names,
        slots=slots if options.slots is None else options.slots,
        gpus=plan.gpus if options.gpus is None else options.gpus,
        threads=plan.threads,
        launcher=options.launcher or plan.launcher,
        seed=plan.seed,
        waits_for_all=plan.waits_for_all or options.seed is not None,
        strict=options.strict or plan.strict,
        max_clients=max(options.max_clients, len(names)),
    )


def check_same_job(before: Plan, now: Plan) -> None:
    """Raises WorkspaceError naming what has changed in the job since the run began."""
    changes = [*_changed_files(before.files, now.files), *_changed("", before.settings, now.settings)]
    if changes:
        more = f" and {len(changes) - 5} more" if len(changes) > 5 else ""
        raise WorkspaceError(
            f"the job has changed since this run began: {'; '.join(changes[:5])}{more}",
            hint="undo the change; or start anew with --force, which removes the rounds that are done",
        )


def _changed_files(before: Mapping[str, str], now: Mapping[str, str]) -> Iterator[str]:
    for name in sorted({*before, *now}):
        if before.get(name) != now.get(name):
            yield f"{name} {'is new' if name not in before else 'was removed' if name not in now else 'has changed'}"


def _changed(path: str, before: Any, now: Any) -> Iterator[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        for key in dict.fromkeys([*before, *now]):
            yield from _changed(f"{path}.{key}" if path else key, before.get(key), now.get(key))
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for index, pair in enumerate(zip(before, now, strict=True)):
            yield from _changed(f"{path}[{index}]", *pair)
    elif before != now or type(before) is not type(now):
        yield f"{path} was {before!r} and is {now!r}"
