"""The simulator: `simulate` runs a job on this machine, from its plan to its report."""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from pathlib import Path

from fedsag_cli.errors import FedsagError, RunError, system_errors
from fedsag_cli.events import STARTED, Notice, Observer
from fedsag_cli.history.recorder import Recorder
from fedsag_cli.interop import reading
from fedsag_cli.interop.records import Records, meta_of
from fedsag_cli.job import Job
from fedsag_cli.job.templates.set_values import with_values
from fedsag_cli.plan import Plan
from fedsag_cli.processes.kill import kill_marked
from fedsag_cli.processes.local import LocalEngine, can_fork
from fedsag_cli.processes.ray.engine import RayEngine
from fedsag_cli.report import Report
from fedsag_cli.simulator import environment, resume
from fedsag_cli.simulator.options import FORK, RAY, Options, check_engine
from fedsag_cli.simulator.planning import make_plan
from fedsag_cli.simulator.signals import have_standard_streams, signals_interrupt
from fedsag_cli.simulator.supervisor import Simulation
from fedsag_cli.wire.channel import private_address
from fedsag_cli.wire.messages import ADDRESS, RUN, STARTED_AT, TOKEN
from fedsag_cli.workspace import SERVER, Workspace

WORKSPACE = Path("simulator_workspace")
"""The folder of a run for which the user names none."""


@system_errors()
def simulate(job: Path, workspace: Path | None, options: Options, observers: Sequence[Observer] = ()) -> Report:
    """Run the job in the folder `job`, write all files to the folder `workspace`, and return the report.

    A finished run in `workspace` is replaced. Without a `workspace`, it is WORKSPACE, and a run there is moved aside.
    With `options.resume`, continue the run in the workspace after its last complete round. `observers` get every event.
    Raises UsageError, JobError and WorkspaceError before a process is started; RunError if the run failed (with
    `options.strict`, if any client failed) and Interrupted on SIGINT and SIGTERM, both with the `report`. The report
    is written to the workspace in any case.
    """
    have_standard_streams()
    with Workspace(workspace or WORKSPACE) as run_folder:
        before = None
        if options.resume:
            resume.check_has_run(run_folder)
            run_folder.take()  # before its plan is read, which another run could replace
            before = resume.plan_in(run_folder)
        moves = workspace is None and not job.resolve().is_relative_to(run_folder.root)
        if before is not None:
            options = resume.settings_of(before, options, moves=moves)
        return _simulate(job, run_folder, before, options, observers, moves=moves)


def _simulate(
    job: Path,
    run_folder: Workspace,
    before: Plan | None,
    options: Options,
    observers: Sequence[Observer],
    *,
    moves: bool,
) -> Report:
    check_engine(options)
    fork = options.launcher in (None, FORK) and can_fork()
    with signals_interrupt(), private_address() as address:
        own = {ADDRESS: address, TOKEN: secrets.token_hex(16), RUN: run_folder.mark, STARTED_AT: repr(STARTED)}
        env = environment.for_processes(os.environ) | own
        ray = (
            RayEngine(fork=fork, env=env, address=options.address, root=run_folder.root)
            if options.engine == RAY
            else None
        )
        engine = ray or LocalEngine(fork=fork, env=env)  # the engine starts while the job is read
        try:
            read = with_values(Job.load(job, reading.translate), options.sets)
            planned = make_plan(read, run_folder, options, engine.prepare, ray.nodes if ray else lambda: ())
            planned.notices.extend(ray.notes() if ray else ())
            if options.resume and before is None:
                planned.notices.append("the earlier run ended before its plan was written: this is a new run")
            if before is not None:
                resume.check_same_job(before, planned.plan, run_folder, job, moves=moves)
            if not options.resume:
                run_folder.take()
                if not options.force:
                    resume.check_nothing_is_lost(run_folder, moves=moves)
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
                for observer in observers:
                    observer.on(Notice(text="this run is complete: there is nothing left to do"))
                return report
            if before is not None:
                custom = planned.apps[SERVER].custom
                planned.notices.extend(resume.notes_on_state(run_folder, planned.plan, custom, force=options.force))
            if left := kill_marked(RUN, run_folder.mark_before) if run_folder.mark_before else []:
                planned.notices.append(f"processes of an earlier run were left, and are ended: {', '.join(left)}")
            recorder, report = Recorder(job, run_folder), None
            try:
                planned.notices.extend(recorder.begin(resumed=before is not None, moves=moves and not options.resume))
                records = Records(run_folder, meta_of(read), planned.plan.server.components)
                simulation = Simulation(job, planned, run_folder, engine, env, [records, *observers, recorder])
                report = simulation.run(resume=before is not None)
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
