"""The simulator: `simulate` runs a job on this machine, from its plan to its report."""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
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
from fedsag_cli.processes.engine import Engine
from fedsag_cli.processes.kill import kill_marked
from fedsag_cli.processes.local import LocalEngine, OwnNursery, StartNursery, can_fork
from fedsag_cli.processes.ray.engine import RayEngine
from fedsag_cli.report import Report
from fedsag_cli.simulator import baselines, environment, fork, resume
from fedsag_cli.simulator.options import FORK, RAY, Options, check_engine
from fedsag_cli.simulator.planning import Planned, make_plan
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
        resume.check_has_no_sweep(run_folder)
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
        return _Start(job, run_folder, options, observers, limit, before=before, moves=moves).run(nursery)


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
        return _Start(job, run_folder, options, observers, limit, begin=begin).run(OwnNursery)


@dataclass(frozen=True, slots=True)
class _Start:
    """What a run begins with. `before`: the plan of the run that it continues; `begin`: where a fork begins.

    `moves`: a run that is in the workspace is moved aside.
    """

    job: Path
    folder: Workspace
    options: Options
    observers: Sequence[Observer]
    limit: TimeLimit | None
    before: Plan | None = None
    begin: fork.Fork | None = None
    moves: bool = False

    def run(self, nursery: StartNursery) -> Report:
        """From the first check to the report."""
        options = self.options
        check_engine(options)
        baselines.check_kinds(options.baselines)
        in_terminal = terminal_as_before() if options.debug else nullcontext()
        with signals_interrupt(), in_terminal, private_address() as address:
            own = {ADDRESS: address, TOKEN: secrets.token_hex(16), RUN: self.folder.mark, STARTED_AT: repr(STARTED)}
            env = environment.for_processes(os.environ) | own
            forks = options.launcher in (None, FORK) and can_fork()
            # the engine starts while the job is read
            ray = (
                RayEngine(fork=forks, env=env, address=options.address, root=self.folder.root)
                if options.engine == RAY
                else None
            )
            engine = ray or LocalEngine(fork=forks, env=env, nursery=nursery)
            try:
                read = with_values(Job.load(self.job, reading.translate), options.sets)
                planned = make_plan(read, self.folder, options, engine.prepare, ray.nodes if ray else lambda: ())
                planned.notices.extend(ray.notes() if ray else ())
                planned = self._checked(planned)
                if (report := self._of_complete_run(planned)) is not None:
                    return report
                self._note_what_was(planned)
                records = Records(self.folder, meta_of(read), planned.plan.server.components)
                return self._recorded(planned, engine, env, records)
            finally:
                engine.stop(grace_s=0.0)

    def _checked(self, planned: Planned) -> Planned:
        """Take the workspace for this plan. Raises UsageError and WorkspaceError; then nothing is lost."""
        if self.options.resume and self.before is None:
            planned.notices.append("the earlier run ended before its plan was written: this is a new run")
        if self.before is not None:
            planned = replace(planned, plan=structs.replace(planned.plan, parent=self.before.parent))
            resume.check_same_job(self.before, planned.plan, self.folder, self.job, moves=self.moves)
        if self.begin is not None:
            planned = self.begin.checked(planned, self.job)
        if not self.options.resume:
            self.folder.take()
            if not self.options.force:
                resume.check_nothing_is_lost(self.folder, moves=self.moves)
        for kind in self.options.baselines:
            place = Workspace(baselines.workspace_of(self.folder.root, kind))
            place.check_usable(place.plan, place.events, place.report, place.report_page)
            goes_on = self.before is not None and baselines.is_begun(place, planned.plan, kind)
            if not (goes_on or self.options.force):
                resume.check_nothing_is_lost(place, moves=False)
        return planned

    def _of_complete_run(self, planned: Planned) -> Report | None:
        """The report of the run that would be continued, if nothing of it is left to do. Raises RunError."""
        report = resume.finished_report(self.folder) if self.before is not None else None
        if report is None:
            return None
        if gone := resume.missing_models(report):
            planned.notices.extend(f"this run is complete, but {path} is gone" for path in gone)
            return None
        if planned.plan.strict and report.failures:
            failed = RunError(f"with --strict no client may fail, but these failed: {', '.join(report.failures)}")
            failed.report = report
            raise failed
        baseline = self.options.baseline
        which = f"the baseline {baseline.kind!r}" if baseline else "this run"
        self._tell(f"{which} is complete: there is nothing left to do")
        return report

    def _note_what_was(self, planned: Planned) -> None:
        """What the user should know of the run that was there. Raises WorkspaceError if it cannot be continued."""
        last = self.begin.whole if self.begin is not None else None
        if self.before is not None:
            last = resume.last_round(self.folder, planned.plan)
        if last is not None:
            custom = planned.apps[SERVER].custom
            planned.notices.extend(resume.notes_on_state(last, planned.plan, custom, force=self.options.force))
        if left := kill_marked(RUN, self.folder.mark_before) if self.folder.mark_before else []:
            planned.notices.append(f"processes of an earlier run were left, and are ended: {', '.join(left)}")

    def _recorded(self, planned: Planned, engine: Engine, env: dict[str, str], records: Records) -> Report:
        """Run the plan, with its row in the database of runs."""
        resumed = self.before is not None
        recorder, report = Recorder(self.job, self.folder, is_kept=self.options.recorded), None
        try:
            moves = self.moves and not self.options.resume
            planned.notices.extend(recorder.begin(resumed=resumed, moves=moves))
            observers = [records, *self.observers, recorder]
            simulation = Simulation(self.job, planned, self.folder, engine, env, observers)
            report = simulation.run(resume=resumed, fork=self.begin, limit=self.limit)
            return report
        except FedsagError as error:
            report = error.report
            raise
        finally:
            for text in recorder.finish(report):
                self._tell(text)

    def _tell(self, text: str) -> None:
        for observer in self.observers:
            observer.on(Notice(text=text))
