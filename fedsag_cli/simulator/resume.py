"""Resuming a run: which settings come from the earlier run, and what must not have changed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from fedsag_cli.errors import UsageError, WorkspaceError
from fedsag_cli.plan import Plan, read_plan
from fedsag_cli.simulator.options import Options, site_names
from fedsag_cli.simulator.report import Report
from fedsag_cli.workspace import Workspace


def plan_in(workspace: Workspace) -> Plan | None:
    """The plan of the run in a workspace; None if the run ended before it wrote one. Raises WorkspaceError."""
    if not workspace.has_run:
        raise WorkspaceError(f"there is no run in {workspace.root} to continue", hint="start one without --resume")
    try:
        return read_plan(workspace.plan) if workspace.plan.exists() else None
    except (OSError, msgspec.DecodeError) as error:
        raise WorkspaceError(
            f"{workspace.plan} is not a plan that fedsag wrote: {error}", hint="start a new run without --resume"
        ) from None


def finished_report(workspace: Workspace) -> Report | None:
    """The report of a run that is complete; None if it is not."""
    try:
        report = msgspec.json.decode(workspace.report.read_bytes(), type=Report)
    except (OSError, msgspec.DecodeError):
        return None
    return report if report.ok else None


def settings_of(plan: Plan, options: Options) -> Options:
    """The options of the earlier run, but with the new -t, -gpu and --launcher, which do not change the result.

    Raises UsageError naming an option whose value differs from the earlier run.
    """
    names = [site.name for site in plan.sites]
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
                hint=f"leave {flag} out, or start a new run without --resume",
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
    changes = [*_changed_files(before.files, now.files), *_changed("", _settings(before), _settings(now))]
    if changes:
        more = f" and {len(changes) - 5} more" if len(changes) > 5 else ""
        raise WorkspaceError(
            f"the job has changed since this run began: {'; '.join(changes[:5])}{more}",
            hint="undo the change, or start a new run without --resume",
        )


def _changed_files(before: Mapping[str, str], now: Mapping[str, str]) -> Iterator[str]:
    for name in sorted({*before, *now}):
        if before.get(name) != now.get(name):
            yield f"{name} {'is new' if name not in before else 'was removed' if name not in now else 'has changed'}"


def _settings(plan: Plan) -> Any:
    """The contents of the config files, without paths and without the settings for starting processes."""
    sites = {site.name: {"args": site.args, "command": site.command, "config": site.config} for site in plan.sites}
    return msgspec.to_builtins({"job": plan.job, "server": plan.server, "sites": sites})


def _changed(path: str, before: Any, now: Any) -> Iterator[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        for key in dict.fromkeys([*before, *now]):
            yield from _changed(f"{path}.{key}" if path else key, before.get(key), now.get(key))
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for index, pair in enumerate(zip(before, now, strict=True)):
            yield from _changed(f"{path}[{index}]", *pair)
    elif before != now or type(before) is not type(now):
        yield f"{path} was {before!r} and is {now!r}"
