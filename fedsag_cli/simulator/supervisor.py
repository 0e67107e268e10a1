"""The supervisor of one run: it starts the processes, handles their events, ends them and writes the report."""

from __future__ import annotations

import contextlib
import shlex
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import msgspec

from fedsag_cli import foreign, history, machine, pages
from fedsag_cli.errors import (
    FedsagError,
    Interrupted,
    JobError,
    OutOfTime,
    RunError,
    WorkspaceError,
    counted,
    of_system,
)
from fedsag_cli.events import (
    ClientReady,
    ClientStopped,
    ClientWanted,
    CurvesKept,
    Event,
    Failure,
    NotAwaited,
    Notice,
    Observer,
    ProcessExited,
    ProcessStarted,
    ReplyArrived,
    ReplyFailed,
    ReplyLate,
    RunFailed,
    RunFinished,
    RunSettings,
    RunStarted,
    ServerReady,
    TaskSent,
    ValuesLogged,
    WillWrite,
    WorkerUnwanted,
    WorkflowFinished,
    from_line,
    how_it_ended,
)
from fedsag_cli.job.templates.changes import changes
from fedsag_cli.plan import is_worker, starts
from fedsag_cli.processes.child import ProcessSpec
from fedsag_cli.processes.engine import Engine
from fedsag_cli.processes.local import NURSERY
from fedsag_cli.record import read
from fedsag_cli.report import Report, ReportBuilder
from fedsag_cli.report.places import relative
from fedsag_cli.simulator.events_file import EventsFile, read_events
from fedsag_cli.simulator.failures import Failures
from fedsag_cli.simulator.fork import Fork
from fedsag_cli.simulator.planning import Planned
from fedsag_cli.simulator.preloading import modules_of_server
from fedsag_cli.simulator.signals import as_interruption, ignore_signals
from fedsag_cli.simulator.specs import SERVE, Specs
from fedsag_cli.simulator.time_limit import TimeLimit
from fedsag_cli.workspace import SERVER, Workspace, files_in, write_json

_END_LIMIT_S = 30.0  # how long a script may run after its last task


class Simulation:
    """One run: its state, and its reaction to each event."""

    def __init__(
        self,
        job: Path,
        planned: Planned,
        workspace: Workspace,
        engine: Engine,
        env: dict[str, str],
        observers: Sequence[Observer],
        serve: str = SERVE,
    ) -> None:
        """`serve`: the function that the server runs."""
        self._job, self._planned, self._plan = job, planned, planned.plan
        self._workspace, self._engine = workspace, engine
        self._notices = list(planned.notices)
        self._report = ReportBuilder()
        self._observers = [self._report, *observers]
        self._specs, self._serve = Specs(planned, workspace, env), serve
        self._start_of = starts(self._plan)
        self._alive: set[str] = set()
        self._failures = Failures(workspace, planned.apps, self._start_of)
        self._failed_last: dict[str, str] = {}  # by client whose worker failed after the last task: the cause
        self._at_work: dict[str, str] = {}  # by site that has a task: the process that does it
        self._hanging: dict[str, str] = {}  # processes that may still work on a task not waited for any more: the site
        self._unwanted: dict[str, str] = {}  # workers that are stopped before the end: the site
        self._finished: WorkflowFinished | None = None
        self._notes: set[str] = set()
        self._untold: Sequence[Event] = ()  # what only the record has
        self._inherited: Sequence[Sequence[Event]] = ()  # by round: what happened in those of the parent
        self._models: Sequence[Event] = ()  # of the parent
        self._can_continue = True

    def run(self, *, resume: bool, fork: Fork | None = None, limit: TimeLimit | None = None) -> Report:
        """Run to the end, and return the report. An error that ends the run has it as `report`.

        `fork`: the round of another run after which this one begins. When the time of `limit` is over, OutOfTime ends
        the run, unless its last task is done by then.
        """
        self._limit = limit
        try:
            if resume:
                self._reopen_workspace()
            else:
                self._prepare_workspace(fork)
            log = self._log = EventsFile(self._workspace.events)
        except OSError as failed:
            raise WorkspaceError(f"{failed.filename or self._workspace.root}: {failed.strerror}") from None
        self._observers.append(log)
        error: Exception | None = None
        try:
            try:
                self._live()
            except Exception as failure:
                # whatever it is: the run ends with it, and its report says so
                error = as_interruption(failure)
            ignore_signals()
        except Interrupted as interrupted:
            error = interrupted
        return self._end(of_system(error) or error if error else None, log)

    def _live(self) -> None:
        """From the first process to the last. Raises what ends the run."""
        self._engine.prepare([*self._plan.preload, *modules_of_server(self._plan.server)])
        self._start(self._specs.server(self._serve))  # it starts while the first events are written
        self._tell(self._run_started())
        for event in (*self._untold, *self._report.complete(self._inherited)):
            self._log.on(foreign.masked(event))
        for event in self._models:
            self._tell(event)
        for text in self._notices:
            self._tell(Notice(text=text))
        self._tell_settings()
        self._handle_events()
        self._check_strict()
        self._check_models()

    def _end(self, error: Exception | None, log: EventsFile) -> Report:
        """End what still runs, write the report and say how the run ended. Raises `error` with the report, if there is
        one: nothing that fails here takes its place.
        """
        if isinstance(error, FedsagError) and (rounds := self._report.report.rounds_done) and self._can_continue:
            error.hint = f"{error.hint}; " * bool(error.hint) + self._how_to_continue(rounds)
        if error is not None:
            try:
                self._stop(5.0 if isinstance(error, Interrupted) else 1.0, self._still_at_work(error))
                self._tell_logged()
            except Exception as failed:
                # it must not hide why the run ended
                self._tell(Notice(text=f"a bug in fedsag, at the end of the run: {failed!r}"))
        with contextlib.suppress(OSError):  # what cannot be looked at now is told where the files are recorded
            for text in self._workspace.changes_for_all():
                self._tell(Notice(text=text))
        error, finished = self._written(error)
        self._tell(finished)
        with contextlib.suppress(OSError):
            log.close()
        if error is not None:
            if isinstance(error, FedsagError):
                error.report = self._report.report
            raise error
        return self._report.report

    def _still_at_work(self, error: Exception) -> dict[str, str]:
        """The clients' processes that are to show where they are, and why each is stopped."""
        causes = dict.fromkeys(self._hanging, "it did not answer until the run ended, and was stopped")
        if isinstance(error, OutOfTime):
            cause = "it was still working when the time of the run was over, and was stopped"
            causes = dict.fromkeys(self._at_work.values(), cause) | causes
        return {name: cause for name, cause in causes.items() if name in self._alive}

    def _tell_logged(self) -> None:
        """Tell what scripts logged until they were stopped."""
        with contextlib.suppress(TimeoutError):
            while True:
                event = self._engine.next_event(0.0)
                if isinstance(event, ValuesLogged | CurvesKept):
                    self._tell(event)

    def _written(self, error: Exception | None) -> tuple[Exception | None, RunFinished]:
        """Write the report. If that fails, a run that went well has failed."""
        finished = foreign.masked(self._outcome(error))
        self._report.on(finished)
        shown = foreign.masked(relative(self._report.report))
        try:
            try:
                write_json(self._workspace.report, shown)
            except OSError:  # the disk may have been full for a moment only
                write_json(self._workspace.report, shown)
        except OSError as failed:
            if error is None:
                error = of_system(failed)
                finished = foreign.masked(self._outcome(error))
                self._report.on(finished)
                shown = foreign.masked(relative(self._report.report))
            else:
                self._tell(Notice(text=f"{self._workspace.report} cannot be written: {failed.strerror}"))
        self._write_page(shown)
        try:
            self._workspace.settle()
        except OSError as failed:
            self._tell(Notice(text=f"the list of the run's files cannot be written: {failed.strerror}"))
        return error, finished

    def _write_page(self, report: Report) -> None:
        """Write the page of the run. Whatever fails, the run has gone as it has."""
        try:
            number = history.number_of(self._workspace.root)
            parent = history.number_called(report.parent)
            pages.write(report, self._workspace.events, self._workspace.report_page, number, parent)
        except Exception as failed:
            why = failed.strerror if isinstance(failed, OSError) else f"a bug in fedsag: {failed!r}"
            self._tell(Notice(text=f"{self._workspace.report_page} cannot be written: {why}"))
            return
        if not pages.has_charts():
            self._tell(Notice(text=f"report.html has tables only; for charts: {pages.INSTALL}"))

    def _outcome(self, error: Exception | None) -> RunFinished:
        report = str(self._workspace.report)
        if error is None:
            cause = "every round is done, and the final model is written"
            return RunFinished(ok=True, exit_code=0, cause=cause, report=report)
        if isinstance(error, FedsagError):
            return RunFinished(ok=False, exit_code=error.exit_code, cause=error.message, hint=error.hint, report=report)
        return RunFinished(ok=False, exit_code=1, cause="a bug in fedsag", report=report)

    def _prepare_workspace(self, fork: Fork | None) -> None:
        here = self._workspace
        files = [here.plan, here.events, here.report, here.report_page, here.record]
        deployed = [
            path for name, app in self._planned.apps.items() for path in self._workspace.files_of(app.folder, name)
        ]
        self._workspace.reopen()  # all checks are made before any file of an earlier run is removed
        apps = dict.fromkeys(app.folder for app in self._planned.apps.values())
        sources = [path for app in apps for path in files_in(app)]
        self._workspace.check_job(self._job, self._planned.apps, sources)
        self._workspace.check_free(*files, *deployed, of_scripts=set(deployed))
        self._workspace.clear(replaced=deployed)
        self._workspace.claim(*files)
        for name, app in self._planned.apps.items():
            self._workspace.deploy(app.folder, name)
        if self._plan.has_workers:
            self._workspace.claim(folders=[here.client_logs])
            here.client_logs.mkdir(exist_ok=True)
        if fork is not None:  # before there is a plan: it could be resumed without what its parent did
            self._inherited, self._models = fork.put(self._workspace, self._plan.identity)
        write_json(self._workspace.plan, self._plan)

    def _reopen_workspace(self) -> None:
        self._can_continue = False  # until the server has found the checkpoint to be what it was
        self._workspace.reopen()
        here = self._workspace
        here.check_free(here.plan, here.events, here.report, here.report_page)
        for event in read_events(self._workspace.events) if self._workspace.events.exists() else ():
            self._report.on(event)
        rounds = read(self._workspace.record, self._plan.identity).rounds
        self._untold = self._report.complete([[_as_event(raw) for raw in whole.events] for whole in rounds])
        if self._untold:
            self._notices.append("events.jsonl lacked what happened in complete rounds: it is added")
        report = self._report.report
        failed = {site: each.round_num for each in report.rounds if each.is_whole for site in each.failed}
        for site, round_num in failed.items() if self._plan.strict else ():
            raise WorkspaceError(f"--strict: no client may fail, but {site} failed in round {round_num} of this run")
        here.report.unlink(missing_ok=True)
        here.report_page.unlink(missing_ok=True)
        for name, app in self._planned.apps.items():
            self._workspace.restore(app.folder, name)
        here.claim(here.record, here.report_page)
        write_json(self._workspace.plan, self._plan)
        earlier = report.versions
        for name, version in self._run_started().versions.items():
            if earlier.get(name, version) != version:
                self._notices.append(
                    f"{name} was {earlier[name]} when the run began and is {version} now: results may differ slightly"
                )

    def _handle_events(self) -> None:
        """Return when the run is done and its last process has ended. Raises RunError if the run fails."""
        ends: float | None = None
        while True:
            try:
                event = self._engine.next_event(self._wait_s(ends))
            except TimeoutError:
                if ends is None and self._limit is not None:  # only the time of the run is over
                    raise OutOfTime(self._limit.text) from None
                self._stop_rest(f"it was still running {_END_LIMIT_S:.0f} s after the last task, and was stopped")
                return
            event = self._with_log(event)
            self._tell(event)
            self._handle(event)
            if self._finished is not None:
                ends = ends or (None if self._plan.debug else time.monotonic() + _END_LIMIT_S)
                if self._alive <= set(self._finished.late):
                    self._stop_rest(
                        "it was still working on a task that the server no longer waited for, and was stopped"
                    )
                    return
            elif self._limit is not None:
                self._limit.check()

    def _wait_s(self, ends: float | None) -> float | None:
        """How long to wait for the next event. `ends`: when the rest is stopped after the last task."""
        if ends is not None:
            return max(0.0, ends - time.monotonic())
        return self._limit.left_s if self._limit and self._finished is None else None

    def _stop_rest(self, cause: str) -> None:
        """End what still lives after a run that is done. One whose answer was not waited for has not failed."""
        well = set(self._finished.late) - self._hanging.keys() if self._finished else ()
        self._stop(1.0, dict.fromkeys(sorted(self._alive), cause), well=well)

    def _how_to_continue(self, rounds: int) -> str:
        job, workspace = (shlex.quote(str(path)) for path in (self._job.absolute(), self._workspace.root))
        done = f"{counted(rounds, 'round')} done"
        return f"{done}. Continue with the job unchanged: fedsag simulator {job} -w {workspace} --resume"

    def _check_strict(self) -> None:
        """Raises RunError if a client failed after its last task, with --strict."""
        told = {site: first.failure.cause for site, first in self._report.report.failures.items()}
        for site, cause in (told | self._failed_last).items() if self._plan.strict else ():
            raise RunError(f"with --strict no client may fail, but {site} failed: {cause}")

    def _check_models(self) -> None:
        """Raises RunError if a model is gone that an earlier part of the run wrote."""
        for path in self._report.report.models:
            if not Path(path).is_file():
                raise RunError(f"{path} is gone, and no checkpoint has it", hint="start a new run with --force")

    def _stop(self, grace_s: float, causes: Mapping[str, str], *, well: Collection[str] = ()) -> None:
        """End all processes. The clients in `causes` print their stacks first, and each is reported with its cause.

        Those in `well` have not failed.
        """
        self._engine.stop(grace_s, causes)
        try:
            self._workspace.remove_parts()
        except OSError as failed:
            self._tell(Notice(text=f"{failed.filename} cannot be removed: {failed.strerror}"))
        for name, cause in causes.items():
            failure = Failure(cause=cause) if name in well else self._failures.of_stop(name, cause)
            site = self._hanging.get(name) or self._failures.site_of(name)
            self._tell(ClientStopped(site=site, failure=failure, has_failed=name not in well))

    def _handle(self, event: Event) -> None:
        match event:
            case ProcessStarted():
                self._alive.add(event.name)
            case ServerReady():
                self._can_continue = True
            case ClientWanted():
                self._start(self._specs.client(event.process or event.site))
            case WorkerUnwanted():
                self._unwanted[event.process] = event.site
                self._engine.end(event.process)
            case WillWrite():
                self._workspace.claim(*map(Path, event.paths), folders=map(Path, event.folders))
            case TaskSent():
                self._at_work[event.site] = event.process or event.site
                if is_worker(event.process):
                    self._failures.serves(event.process, event.site)
            case ReplyArrived() | NotAwaited():
                self._at_work.pop(event.site, None)
            case ClientReady():
                self._tell_notes(event.process or event.site)
            case ReplyFailed():
                self._at_work.pop(event.site, None)
                if event.hangs:
                    self._hanging[event.process or event.site] = event.site
            case ReplyLate():
                self._hanging.pop(event.process or event.site, None)
            case WorkflowFinished():
                self._finished = event
            case RunFailed():
                raise _as_error(event)
            case ProcessExited():
                self._alive.discard(event.name)
                self._handle_exit(event)

    def _handle_exit(self, event: ProcessExited) -> None:
        if (site := self._unwanted.pop(event.name, None)) is not None:
            cause = "others needed its worker, and it was stopped"
            has_failed = self._hanging.pop(event.name, None) is not None
            failure = self._failures.of_stop(event.name, cause)
            self._tell(ClientStopped(site=site, failure=failure, has_failed=has_failed))
        if event.name not in (SERVER, NURSERY):
            if self._finished is None:
                self._engine.tell(SERVER, event)
            elif event.exit_code:
                self._tell(Notice(text=f"{event.name} ended with exit code {event.exit_code} after its last task"))
                if is_worker(event.name) and event.failure is not None:
                    self._failed_last[self._failures.site_of(event.name)] = event.failure.cause
        elif event.name == NURSERY or self._finished is None:
            failure = event.failure or Failure(cause="")
            error = RunError(
                f"the {event.name}: {failure.cause or how_it_ended(event.exit_code)}",
                hint=f"see {failure.log}" if failure.log else "",
            )
            error.details = [f"    | {line}" for line in failure.log_tail]
            raise error

    def _with_log(self, event: Event) -> Event:
        """The event; a failure gets the path of the log and its last lines."""
        if isinstance(event, ProcessExited) and event.name != NURSERY:
            return self._failures.of_exit(event, is_over=self._finished is not None)
        if isinstance(event, ReplyFailed) and (
            event.site not in self._report.report.failures or is_worker(event.process)
        ):
            return self._failures.of_reply(event)
        return event

    def _start(self, spec: ProcessSpec) -> None:
        self._failures.watch(spec.name)
        self._engine.start(spec)

    def _run_started(self) -> RunStarted:
        plan = self._plan
        return RunStarted(
            job=plan.job,
            workspace=str(self._workspace.root),
            sites=plan.names,
            slots=plan.slots,
            threads=plan.threads,
            seed=plan.seed,
            launcher=plan.launcher,
            versions=machine.versions(plan.preload),
            workers=plan.has_workers,
            plan=plan.identity,
            overrides=plan.overrides,
            parent=plan.parent.id if plan.parent else "",
            parent_round=plan.parent.round_num if plan.parent else None,
            inherited_rounds=plan.parent.rounds if plan.parent else 0,
        )

    def _tell_settings(self) -> None:
        """What differs from the template may take a while to find: the server starts meanwhile."""
        settings = self._plan.shown_settings
        with contextlib.suppress(JobError):  # the job has been read, and its files may be gone by now
            template, changed = changes(self._job, settings)
            self._tell(RunSettings(template=template, settings=settings, changed=changed))

    def _tell_notes(self, site: str) -> None:
        """Report the lines `note: …` that a script printed before its first task. Each text is reported once."""
        for text in self._failures.notes(site):
            if text not in self._notes:
                self._notes.add(text)
                self._tell(Notice(text=text))

    def _tell(self, event: Event) -> None:
        """Give an event to every observer. An observer that raises OSError (full disk, closed terminal) is removed."""
        event = foreign.masked(event)
        for observer in list(self._observers):
            try:
                observer.on(event)
            except OSError as error:
                self._observers.remove(observer)
                self._report.report.notices.append(f"{type(observer).__name__} stopped: {error}")


def _as_event(raw: msgspec.Raw) -> Event:
    return from_line(bytes(raw))


def _as_error(failed: RunFailed) -> FedsagError:
    error = RunError(failed.cause, hint=failed.hint)
    error.exit_code = failed.exit_code
    return error
