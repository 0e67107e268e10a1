"""Resuming a run: which settings come from the earlier run, and what must not have changed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from fedsag_cli import catalog, history
from fedsag_cli.errors import UsageError, WorkspaceError, counted
from fedsag_cli.plan import FORMAT, Plan, read_plan
from fedsag_cli.record import Found, Whole, read
from fedsag_cli.report import Report
from fedsag_cli.report.places import located
from fedsag_cli.simulator import baselines
from fedsag_cli.simulator.options import Options, site_names
from fedsag_cli.workspace import ROUND, Workspace

_SHOWN = 5  # names of clients
_MOST_CHANGES = 5


def check_has_run(workspace: Workspace) -> None:
    """Raises WorkspaceError if there is nothing to continue."""
    if not workspace.has_run:
        raise WorkspaceError(f"there is no run in {workspace.root} to continue", hint="start one without --resume")


def check_has_no_sweep(workspace: Workspace) -> None:
    """Raises WorkspaceError if a sweep has its runs in this folder: a run would take the place of its results."""
    if workspace.has_sweep:
        raise WorkspaceError(
            f"{workspace.root} has a sweep, whose runs are in folders of their own",
            hint="choose another folder with -w; or name one of its runs",
        )


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


def check_nothing_is_lost(workspace: Workspace, *, moves: bool) -> None:
    """Raises WorkspaceError if a new run would take the place of complete rounds of a run that is not finished.

    `moves`: a new run moves the one before it aside; else it replaces it.
    """
    if not workspace.plan.exists() or finished_report(workspace) is not None:
        return
    try:
        found = read(workspace.record, read_plan(workspace.plan).identity)
    except (OSError, msgspec.DecodeError):
        found = Found()
    if found.digest or not (found.rounds or any(workspace.checkpoints.glob(f"{ROUND}-*"))):
        return
    done = counted(len(found.rounds) or 1, "complete round")
    kept = "moves it aside" if moves else "removes it"
    raise WorkspaceError(
        f"{workspace.root} has {done} of a run that is not finished",
        hint=f"--resume continues it; --force {kept} and starts a new run; or choose another folder with -w",
    )


def finished_report(workspace: Workspace) -> Report | None:
    """The report of a run that is complete, with the paths of now; None if it is not."""
    try:
        report = msgspec.json.decode(workspace.report.read_bytes(), type=Report)
    except (OSError, msgspec.DecodeError):
        return None
    return located(report, workspace.root) if report.ok else None


def missing_models(report: Report) -> list[Path]:
    """The models of a complete run that are gone."""
    return [path for path in map(Path, report.models) if not path.is_file()]


def last_round(workspace: Workspace, plan: Plan) -> Whole | None:
    """The last whole round of the run in a workspace."""
    rounds = read(workspace.record, plan.identity).rounds
    return rounds[-1] if rounds else None


def notes_on_state(last: Whole, plan: Plan, custom: Path, *, force: bool) -> Iterator[str]:
    """What the user should know about what the job's own code kept in memory after this round.

    Raises WorkspaceError if a component kept what no checkpoint has, unless `force`.
    """
    if keeps := last.keeps:
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


def settings_of(plan: Plan, options: Options, *, moves: bool) -> Options:
    """The options of the earlier run, but with the new -t, -gpu and --launcher, which do not change the result.

    A fork may have another seed too, other threads, and workers. `moves`: as in `check_nothing_is_lost`. Raises
    UsageError naming an option whose value differs from the earlier run.
    """
    is_fork = options.at is not None
    names = plan.names
    given = site_names(options)
    for flag, value, was in (
        ("-c" if options.clients else "-n", given, names),
        ("--seed", options.seed, plan.seed),
        ("--torch-threads", options.threads, plan.threads),
        ("--workers" if options.workers else "--no-workers", options.workers, plan.has_workers),
    ):
        if value not in (None, []) and value != was and not (is_fork and flag not in ("-c", "-n")):
            now, then = map(_shown, (value, was))
            other = "a fork has the clients of its parent" if is_fork else _or_anew(moves=moves)
            raise UsageError(
                f"{flag}: the run to resume has {then}, not {now}",
                hint=f"leave {flag} out; {other}",
            )
    several_groups = len({site.group for site in plan.sites if site.node == 0}) > 1
    slots = None if several_groups and options.gpus is None else plan.slots
    return dataclasses.replace(
        options,
        num_clients=None,
        clients=names,
        slots=slots if options.slots is None else options.slots,
        gpus=plan.gpus if options.gpus is None else options.gpus,
        threads=plan.threads if not is_fork or options.threads is None else options.threads,
        launcher=options.launcher or plan.launcher,
        seed=plan.seed if not is_fork or options.seed is None else options.seed,
        waits_for_all=plan.waits_for_all or options.seed is not None,
        strict=options.strict or plan.strict,
        sets=[*plan.overrides, *options.sets] if is_fork else options.sets or plan.overrides,
        workers=plan.has_workers if not is_fork or options.workers is None else options.workers,
        max_clients=None,
        baseline=baselines.of_plan(plan),
        keep_checkpoints=plan.keep_checkpoints if options.keep_checkpoints is None else options.keep_checkpoints,
    )


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(value[:_SHOWN]) + f" and {len(value) - _SHOWN} more" * (len(value) > _SHOWN)
    return {True: "workers", False: "no workers"}[value] if isinstance(value, bool) else str(value)


def check_is_of_job(before: Plan, now: Plan, workspace: Workspace, job: Path, hint: str) -> None:
    """Raises WorkspaceError if the run in the workspace is of another job."""
    known = history.job_folder_of(workspace.root)
    if before.job != now.job and known != job.absolute():
        own = (
            f"to continue it: {history.command_to_continue(workspace.root) if known else 'name that job with --resume'}"
        )
        raise WorkspaceError(
            f"the run in {workspace.root} is of the job {before.job}, not of {now.job}", hint=f"{own}{hint}"
        )


def check_same_job(before: Plan, now: Plan, workspace: Workspace, job: Path, *, moves: bool) -> None:
    """Raises WorkspaceError naming what has changed in the job since the run began, or the run's own job.

    `moves`: as in `check_nothing_is_lost`.
    """
    check_is_of_job(before, now, workspace, job, hint=f"; {_or_anew(moves=moves)}")
    if changed := list(changes(before, now)):
        raise WorkspaceError(
            f"the job has changed since this run began: {few(changed)}",
            hint=f"undo the change; {_or_anew(moves=moves)}; or --at ROUND begins a fork with it",
        )


def changes(before: Plan, now: Plan) -> Iterator[str]:
    """What has changed in the job, one by one. A change that is the same at several sites is told once."""
    yield from _changed_files(before.files, now.files)
    was, is_now = dict(before.settings), dict(now.settings)
    sites_were, sites_are = was.pop("sites"), is_now.pop("sites")
    yield from _changed("", was, is_now)
    alike: dict[str, list[str]] = {}
    for name in dict.fromkeys([*sites_were, *sites_are]):
        for change in _changed("", sites_were.get(name), sites_are.get(name)):
            alike.setdefault(change, []).append(name)
    for change, names in alike.items():
        others = f" (and at {counted(len(names) - 1, 'other site')})" if len(names) > 1 else ""
        yield f"sites.{names[0]}{'' if change.startswith(' ') else '.'}{change}{others}"


def few(changed: Sequence[str]) -> str:
    """The first changes, and how many more there are."""
    more = f" and {len(changed) - _MOST_CHANGES} more" if len(changed) > _MOST_CHANGES else ""
    return f"{'; '.join(changed[:_MOST_CHANGES])}{more}"


def _or_anew(*, moves: bool) -> str:
    kept = "moves this run aside" if moves else "removes this run"
    return f"or give --force in place of --resume, which {kept} and starts a new one"


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
