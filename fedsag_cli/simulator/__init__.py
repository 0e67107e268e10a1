"""The simulator: `simulate` runs a job on this machine, from its plan to its report."""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from msgspec import structs

from fedsag_cli.errors import FedsagError, RunError, UsageError, WorkspaceError, system_errors
from fedsag_cli.events import STARTED, Notice, Observer
from fedsag_cli.history.recorder import Recorder
from fedsag_cli.interop import reading
from fedsag_cli.interop.records import Records, meta_of
from fedsag_cli.job import Job
from fedsag_cli.job.templates.set_values import with_values
from fedsag_cli.plan import Plan
from fedsag_cli.processes.kill import kill_marked
from fedsag_cli.processes.local import LocalEngine, OwnNursery, StartNursery, can_fork
from fedsag_cli.processes.ray.engine import RayEngine
from fedsag_cli.report import Report
from fedsag_cli.simulator import baselines, environment, fork, resume
from fedsag_cli.simulator.options import FORK, RAY, Options, check_engine
from fedsag_cli.simulator.planning import make_plan
from fedsag_cli.simulator.signals import have_standard_streams, signals_interrupt, terminal_as_before
from fedsag_cli.simulator.supervisor import Simulation
from fedsag_cli.simulator.time_limit import TimeLimit, time_limit
from fedsag_cli.wire.channel import private_address
from fedsag_cli.wire.messages import ADDRESS, RUN, STARTED_AT, TOKEN
from fedsag_cli.workspace import SERVER, Workspace

WORKSPACE = Path("simulator_workspace")
"""The folder of a run for which the user names none."""


@system_errors()
def simulate(
    job: Path,
    workspace: Path | None,
    options: Options,
    observers: Sequence[Observer] = (),
    nursery: StartNursery = OwnNursery,
) -> Report:
    """Run the job in the folder `job`, write all files to the folder `workspace`, and return the report.

    A finished run in `workspace` is replaced. Without a `workspace`, it is WORKSPACE, and a run there is moved aside.
    With `options.resume`, continue the run in the workspace after its last complete round. With `options.at` too, begin
    a new run after that round, in a workspace beside it. `observers` get every event.
    `nursery` gives the process that starts all others.
    Raises UsageError, JobError and WorkspaceError before a process is started; RunError if the run failed (with
    `options.strict`, if any client failed), OutOfTime if it took longer than `options.max_time`, and Interrupted on
    SIGINT and SIGTERM, all with the `report`. The report is written to the workspace in any case.
    """
    limit = time_limit(options.max_time)
    have_standard_streams()
    if options.at is not None and not options.resume:
        raise UsageError(
            "--at begins a fork of a run that there is", hint=f"give --resume too: --resume --at {options.at}"
        )
    with Workspace(workspace or WORKSPACE) as run_folder:
        if options.at is not None:
            return _fork(job, run_folder, options, observers, limit)
        before = None
        if options.resume:
            resume.check_has_run(run_folder)
            run_folder.take()  # before its plan is read, which another run could replace
            before = resume.plan_in(run_folder)
        moves = workspace is None and not job.resolve().is_relative_to(run_folder.root)
        if before is not None:
            options = resume.settings_of(before, options, moves=moves)
        return _simulate(job, run_folder, before, options, observers, limit, nursery, moves=moves)


def _fork(
    job: Path, parent: Workspace, options: Options, observers: Sequence[Observer], limit: TimeLimit | None
) -> Report:
    """The parent is only read: it may be running."""
    resume.check_has_run(parent)
    plan = resume.plan_in(parent)
    if plan is None:
        raise WorkspaceError(f"the run in {parent.root} ended before its plan was written: there is nothing to fork")
    begin = fork.found_at(parent, plan, options.at or "")
    options = replace(resume.settings_of(plan, options, moves=False), resume=False)
    with fork.new_place(parent.root) as place, Workspace(place) as run_folder:
        return _simulate(job, run_folder, None, options, observers, limit, moves=False, begin=begin)


def _simulate(
    job: Path,
    run_folder: Workspace,
    before: Plan | None,
    options: Options,
    observers: Sequence[Observer],
    limit: TimeLimit | None,
    nursery: StartNursery = OwnNursery,
    *,
    moves: bool,
    begin: fork.Fork | None = None,
) -> Report:
    check_engine(options)
    baselines.check_kinds(options.baselines)
    forks = options.launcher in (None, FORK) and can_fork()
    in_terminal = terminal_as_before() if options.debug else nullcontext()
    with signals_interrupt(), in_terminal, private_address() as address:
        own = {ADDRESS: address, TOKEN: secrets.token_hex(16), RUN: run_folder.mark, STARTED_AT: repr(STARTED)}
        env = environment.for_processes(os.environ) | own
        ray = (
            RayEngine(fork=forks, env=env, address=options.address, root=run_folder.root)
            if options.engine == RAY
            else None
        )
        # the engine starts while the job is read
        engine = ray or LocalEngine(fork=forks, env=env, nursery=nursery)
        try:
            read = with_values(Job.load(job, reading.translate), options.sets)
            planned = make_plan(read, run_folder, options, engine.prepare, ray.nodes if ray else lambda: ())
            planned.notices.extend(ray.notes() if ray else ())
            if options.resume and before is None:
                planned.notices.append("the earlier run ended before its plan was written: this is a new run")
            if before is not None:
                planned = replace(planned, plan=structs.replace(planned.plan, parent=before.parent))
                resume.check_same_job(before, planned.plan, run_folder, job, moves=moves)
            if begin is not None:
                planned = begin.checked(planned, job)
            if not options.resume:
                run_folder.take()
                if not options.force:
                    resume.check_nothing_is_lost(run_folder, moves=moves)
            for kind in options.baselines:
                place = Workspace(baselines.workspace_of(run_folder.root, kind))
                place.check_usable(place.plan, place.events, place.report, place.report_page)
                goes_on = before is not None and baselines.is_begun(place, planned.plan, kind)
                if not (goes_on or options.force):
                    resume.check_nothing_is_lost(place, moves=False)
            report = resume.finished_report(run_folder) if before is not None else None
            gone = resume.missing_models(report) if report else []
            planned.notices.extend(f"this run is complete, but {path} is gone" for path in gone)
            if report is not None and not gone:
                if planned.plan.strict and report.failures:
                    failed = RunError(
                        f"with --strict no client may fail, but these failed: {', '.join(report.failures)}"
                    )
                    failed.report = report
                    raise failed
                which = f"the baseline {options.baseline.kind!r}" if options.baseline else "this run"
                for observer in observers:
                    observer.on(Notice(text=f"{which} is complete: there is nothing left to do"))
                return report
            last = begin.whole if begin else resume.last_round(run_folder, planned.plan) if before else None
            if last is not None:
                custom = planned.apps[SERVER].custom
                planned.notices.extend(resume.notes_on_state(last, planned.plan, custom, force=options.force))
            if left := kill_marked(RUN, run_folder.mark_before) if run_folder.mark_before else []:
                planned.notices.append(f"processes of an earlier run were left, and are ended: {', '.join(left)}")
            recorder, report = Recorder(job, run_folder, is_kept=options.recorded), None
            try:
                planned.notices.extend(recorder.begin(resumed=before is not None, moves=moves and not options.resume))
                records = Records(run_folder, meta_of(read), planned.plan.server.components)
                simulation = Simulation(job, planned, run_folder, engine, env, [records, *observers, recorder])
                report = simulation.run(resume=before is not None, fork=begin, limit=limit)
                return report
            except FedsagError as error:
                report = error.report
                raise
            finally:
                for text in recorder.finish(report):
                    for observer in observers:
                        observer.on(Notice(text=text))
        finally:
            engine.stop(grace_s=0.0)
