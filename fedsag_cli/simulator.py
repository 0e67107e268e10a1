"""A whole run on this machine: plan it, start its processes, follow what happens, end them, report."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import secrets
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import msgspec

from fedsag_cli import __version__, catalog, logs, resume
from fedsag_cli.become import ProcessSpec
from fedsag_cli.engines import Engine
from fedsag_cli.engines.local import NURSERY, LocalEngine, can_fork
from fedsag_cli.errors import FedsagError, Interrupted, RunError, WorkspaceError
from fedsag_cli.events import (
    ClientReady,
    ClientStopped,
    ClientWanted,
    Event,
    Failure,
    Notice,
    ProcessExited,
    ProcessStarted,
    ReplyFailed,
    ReplyLate,
    RunFailed,
    RunFinished,
    RunStarted,
    WillWrite,
    WorkflowFinished,
    how_it_ended,
)
from fedsag_cli.interop import nvflare
from fedsag_cli.job import Job
from fedsag_cli.messages import ADDRESS, PRELOAD, SEED, SITE, TOKEN
from fedsag_cli.observers import EventsFile, Observer, told_before
from fedsag_cli.planning import FORK, Options, Planned, make_plan
from fedsag_cli.report import Report, Reporter
from fedsag_cli.transport.unix import private_address
from fedsag_cli.workspace import SERVER, Plan, SitePlan, Workspace, write_json

_SERVE = "fedsag_cli.server:serve"
_SCRIPT = "fedsag_cli.client.script:run"
_LAST_WORDS_S = 30.0  # what a script may still do after its last task
_TAIL_LINES = 20
_LEAVE_A_STACK = {signal.SIGSEGV, signal.SIGFPE, signal.SIGABRT, signal.SIGBUS, signal.SIGILL}  # by faulthandler
_ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_ENVIRONMENT = {
    "OMP_WAIT_POLICY": "PASSIVE",  # two clients' threads that spin on two cores make training 4 to 40 times slower
    "PYTHONHASHSEED": "0",  # a script that goes through a set of names goes the same way in every run
}


def simulate(job: Path, workspace: Path, options: Options, observers: Sequence[Observer] = ()) -> Report:
    """Run a job folder in a workspace folder and give the report, which is also written there.

    With `options.resume` it goes on with the run that is there, after its last whole round. Raises UsageError, JobError
    and WorkspaceError before anything has started; RunError, with the report written, where the run failed (where any
    client did, with `options.strict`); Interrupted, likewise, on SIGINT and SIGTERM.
    """
    _have_standard_streams()
    place = Workspace(workspace)
    before = resume.plan_in(place) if options.resume else None
    if before is not None:
        options = resume.settings_of(before, options)
    fork = options.launcher in (None, FORK) and can_fork()
    with _signals(), private_address() as address:
        env = _ENVIRONMENT | os.environ | {ADDRESS: address, TOKEN: secrets.token_hex(16)}
        engine = LocalEngine(fork=fork, env=env)  # it makes itself ready while the job is read
        try:
            planned = make_plan(Job.load(job, nvflare.translate), place, options, engine.prepare)
            if options.resume and before is None:
                planned.notices.append("the run that was here ended before its plan was written: it starts anew")
            if before is not None:
                resume.check_same_job(before, planned.plan)
            place.take()
            if before is not None and (report := resume.finished_report(place)) is not None:
                if planned.plan.strict and report.failures:
                    raise RunError(f"the run has finished, but with --strict no client may fail: {[*report.failures]}")
                for observer in observers:
                    observer.on(Notice(text="this run has finished: there is nothing left to do"))
                return report
            return _Simulation(planned, place, engine, env, observers).run(goes_on=before is not None)
        finally:
            engine.stop(grace_s=0.0)
            place.release()


class _Simulation:
    """One run: what has happened so far, and what is to happen next."""

    def __init__(
        self,
        planned: Planned,
        place: Workspace,
        engine: Engine,
        env: dict[str, str],
        observers: Sequence[Observer],
    ) -> None:
        self._planned, self._plan, self._place, self._engine = planned, planned.plan, place, engine
        self._env = env
        self._notices = list(planned.notices)
        self._reporter = Reporter()
        self._observers = [self._reporter, *observers]
        self._said_to_all = {SEED: str(self._plan.seed), PRELOAD: ",".join(self._plan.preload)}
        self._sites = {site.name: site for site in self._plan.sites}
        self._alive: set[str] = set()
        self._log_began: dict[str, int] = {}  # bytes, when the process that writes it now was started
        self._hung: set[str] = set()  # who was given up for and may still be at work on it
        self._finished: WorkflowFinished | None = None
        self._notes: set[str] = set()

    def run(self, *, goes_on: bool) -> Report:
        try:
            if goes_on:
                self._reopen_workspace()
            else:
                self._prepare_workspace()
            log = EventsFile(self._place.events)
        except OSError as failed:
            raise WorkspaceError(f"{failed.filename or self._place.root}: {failed.strerror}") from None
        self._observers.append(log)
        outcome = RunFinished(ok=False, exit_code=1, cause="a bug of fedsag's own")
        error: FedsagError | None = None
        try:
            self._tell(self._run_started())
            for text in self._notices:
                self._tell(Notice(text=text))
            self._engine.prepare([*self._plan.preload, *_modules_of_server(self._plan)])
            self._start(self._server())
            self._follow()
            self._judge()
            outcome = RunFinished(ok=True, exit_code=0, cause="every round met its quorum, the final model is written")
        except FedsagError as failure:
            error = failure
            _hear_no_more_signals()
            if rounds := self._reporter.whole_rounds:
                many = "1 round is" if rounds == 1 else f"{rounds} rounds are"
                failure.hint = f"{failure.hint}; " * bool(failure.hint) + f"{many} whole: --resume goes on after that"
            outcome = RunFinished(ok=False, exit_code=failure.exit_code, cause=failure.message, hint=failure.hint)
            why = dict.fromkeys(self._hung & self._alive, "")
            self._stop(5.0 if isinstance(failure, Interrupted) else 1.0, why)
        finally:
            self._tell(msgspec.structs.replace(outcome, report=str(self._place.report), at=time.time()))
            try:
                write_json(self._place.report, self._reporter.report)
                self._place.forget_missing()
            except OSError as failed:
                said = f"{self._place.report} cannot be written: {failed.strerror}"
                error = error or RunError(said)
                error.hint = error.hint or said
            log.close()
        if error is not None:
            raise error
        return self._reporter.report

    def _prepare_workspace(self) -> None:
        ours = [self._place.plan, self._place.events, self._place.report]
        deployed = [path for name, app in self._planned.apps.items() for path in self._place.of_app(app.folder, name)]
        self._place.reopen()
        self._place.check_free(*ours, *deployed)  # before anything of an earlier run goes
        self._place.clear()
        self._place.claim(*ours)
        for name, app in self._planned.apps.items():
            self._place.deploy(app.folder, name)
        write_json(self._place.plan, self._plan)

    def _reopen_workspace(self) -> None:
        self._place.reopen()
        for event in told_before(self._place.events) if self._place.events.exists() else ():
            self._reporter.on(event)
        report = self._reporter.report
        failed = {site: each.round_num for each in report.rounds if each.is_whole for site in each.failed}
        for site, round_num in failed.items() if self._plan.strict else ():
            raise WorkspaceError(f"--strict: no client may fail, and {site} did in round {round_num} of this run")
        self._place.report.unlink(missing_ok=True)
        for name, app in self._planned.apps.items():
            if not self._place.app(name).is_dir():
                self._place.deploy(app.folder, name)
        write_json(self._place.plan, self._plan)
        earlier = self._reporter.report.versions
        for name, version in self._run_started().versions.items():
            if earlier.get(name, version) != version:
                self._notices.append(f"{name} was {earlier[name]} when the run began and is {version}: bits may differ")

    def _follow(self) -> None:
        """Until the last process has ended after a run that went well. Raises RunError where it did not."""
        ends: float | None = None
        while True:
            try:
                event = self._engine.next_event(None if ends is None else max(0.0, ends - time.monotonic()))
            except TimeoutError:
                why = f"still alive {_LAST_WORDS_S:.0f} s after the last task, stopped"
                self._stop(1.0, dict.fromkeys(sorted(self._alive), why))
                return
            event = self._with_log(event)
            self._tell(event)
            self._answer(event)
            if self._finished is not None:
                ends = ends or time.monotonic() + _LAST_WORDS_S
                if self._alive <= set(self._finished.late):
                    why = "still at work on a task it was given up for, stopped"
                    self._stop(1.0, dict.fromkeys(sorted(self._alive), why))
                    return

    def _judge(self) -> None:
        """Raises RunError where a client failed after its last task, and none may."""
        for site, first in self._reporter.report.failures.items() if self._plan.strict else ():
            raise RunError(f"with --strict no client may fail, and {site} did: {first.failure.cause}")

    def _stop(self, grace_s: float, hung: Mapping[str, str]) -> None:
        """End what is left; `hung` says of whom we want to see where they are, and why."""
        self._engine.stop(grace_s, hung)
        self._place.remove_parts()
        for site, why in hung.items():
            failure = Failure(cause=why or "it hung until the run ended, and was stopped")
            failure = self._read_log(site, failure, has_stack=True)
            self._tell(ClientStopped(site=site, failure=failure))

    def _answer(self, event: Event) -> None:
        match event:
            case ProcessStarted():
                self._alive.add(event.name)
            case ClientWanted():
                self._start(self._client(self._sites[event.site]))
            case WillWrite():
                self._place.claim(*map(Path, event.paths), folders=map(Path, event.folders))
            case ClientReady():
                self._pass_notes_on(event.site)
            case ReplyFailed():
                if event.hangs:
                    self._hung.add(event.site)
            case ReplyLate():
                self._hung.discard(event.site)
            case WorkflowFinished():
                self._finished = event
            case RunFailed():
                raise _as_error(event)
            case ProcessExited():
                self._alive.discard(event.name)
                self._answer_exit(event)

    def _answer_exit(self, event: ProcessExited) -> None:
        if event.name in self._sites:
            if self._finished is None:
                self._engine.tell(SERVER, event)
            elif event.exit_code:
                self._tell(Notice(text=f"{event.name} ended with exit code {event.exit_code} after its last task"))
        elif event.name == NURSERY or self._finished is None:
            failure = event.failure or Failure(cause="")
            error = RunError(
                f"the {event.name}: {failure.cause or how_it_ended(event.exit_code)}",
                hint=f"see {failure.log}" if failure.log else "",
            )
            error.details = [f"    | {line}" for line in failure.log_tail]
            raise error

    def _with_log(self, event: Event) -> Event:
        """What is told of a failure, with where its log is and how that ends."""
        if isinstance(event, ProcessExited) and event.name != NURSERY:
            failure = event.failure or Failure(cause="", exit_code=event.exit_code)
            if event.exit_code and not failure.cause:
                failure = self._without_last_word(event)
            failure = self._read_log(event.name, failure, has_stack=-event.exit_code in _LEAVE_A_STACK)
            return msgspec.structs.replace(event, failure=failure)
        if (
            isinstance(event, ReplyFailed)
            and not event.failure.log
            and event.site not in self._reporter.report.failures
        ):
            return msgspec.structs.replace(event, failure=self._read_log(event.site, event.failure))
        return event

    def _read_log(self, name: str, failure: Failure, *, has_stack: bool = False) -> Failure:
        """`has_stack`: it may end with the stack of a process that was stopped, or crashed."""
        log, copy, since = self._place.log(name), self._place.app(name), self._log_began.get(name, 0)
        where = failure.where or (logs.place_in_stack(log, copy, since=since) if has_stack else "")
        is_well = failure.exit_code == 0 and (
            self._finished is not None or name == SERVER or not self._sites[name].config.launch_once
        )
        return msgspec.structs.replace(
            failure,
            where=_in_job(where, copy, self._planned.apps[name].folder),
            log=str(log),
            log_tail=[] if is_well else logs.tail(log, _TAIL_LINES, since=since),
        )

    def _without_last_word(self, event: ProcessExited) -> Failure:
        """What ended a process that could not say so: a signal, or an error in a command that is no script of ours."""
        error = where = ""
        if event.exit_code > 0:
            since = self._log_began.get(event.name, 0)
            error, where = logs.last_error(self._place.log(event.name), self._place.app(event.name), since=since)
        return Failure(cause=error or how_it_ended(event.exit_code), where=where, exit_code=event.exit_code)

    def _start(self, spec: ProcessSpec) -> None:
        self._log_began[spec.name] = logs.size(Path(spec.log))
        self._engine.start(spec)

    def _run_started(self) -> RunStarted:
        plan = self._plan
        return RunStarted(
            job=plan.job,
            workspace=str(self._place.root),
            sites=list(self._sites),
            slots=plan.slots,
            threads=plan.threads,
            seed=plan.seed,
            launcher=plan.launcher,
            versions=_versions(plan.preload),
        )

    def _server(self) -> ProcessSpec:
        return ProcessSpec(
            name=SERVER,
            target=_SERVE,
            args=[str(self._place.root)],
            env=self._env | {"OMP_NUM_THREADS": "1"},
            cwd=str(self._place.app(SERVER)),
            log=str(self._place.log(SERVER)),
            talks=True,
        )

    def _client(self, site: SitePlan) -> ProcessSpec:
        words = list(self._planned.words[site.name])
        return ProcessSpec(
            name=site.name,
            target="" if site.command else _SCRIPT,
            args=[] if site.command else [site.script, *words],
            command=words if site.command else [],
            env=self._env | site.env | self._said_to_all | {SITE: site.name},
            cwd=str(self._place.app(site.name)),
            log=str(self._place.log(site.name)),
        )

    def _pass_notes_on(self, site: str) -> None:
        """What a script prints before its first task as `note: …` is for whoever follows the run, once."""
        for text in logs.notes(self._place.log(site), since=self._log_began[site]):
            if text not in self._notes:
                self._notes.add(text)
                self._tell(Notice(text=text))

    def _tell(self, event: Event) -> None:
        """A full disk or a terminal that is gone ends an observer, not the run."""
        for observer in list(self._observers):
            try:
                observer.on(event)
            except OSError as error:
                self._observers.remove(observer)
                self._reporter.report.notices.append(f"{type(observer).__name__} stopped: {error}")


def _modules_of_server(plan: Plan) -> list[str]:
    """Those of ours it will import: forked, it finds them there. A job's own modules wait for its own folder."""
    paths = [catalog.class_path(spec.path) for spec in [*plan.server.workflows, *plan.server.components]]
    named = [_SERVE.partition(":")[0], *(path.rpartition(".")[0] for path in paths)]
    return [name for name in dict.fromkeys(named) if name.startswith("fedsag_cli.")]


def _have_standard_streams() -> None:
    """Nothing we open may get the number of a standard stream that was closed: a child's would be laid over it."""
    while (fd := os.open(os.devnull, os.O_RDWR)) < 3:
        os.set_inheritable(fd, True)
    os.close(fd)


def _as_error(failed: RunFailed) -> FedsagError:
    error = RunError(failed.cause, hint=failed.hint)
    error.exit_code = failed.exit_code
    return error


def _in_job(where: str, copy: Path, original: Path) -> str:
    """file:line in the job folder, which the user edits, rather than in the copy that was run."""
    return where.replace(str(copy), str(original), 1) if where.startswith(str(copy)) else where


def _versions(preload: Sequence[str]) -> dict[str, str]:
    packages = ["numpy", *(["torch"] if "torch" in preload else [])]
    known = {"fedsag": __version__, "python": platform.python_version()}
    for package in packages:
        try:
            known[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return known | {"platform": f"{sys.platform} {platform.machine()}"}


def _hear_no_more_signals() -> None:
    """What follows is the ending, of which the cause is known; `_signals` sets them back."""
    if threading.current_thread() is threading.main_thread():
        for number in _ENDINGS:
            signal.signal(number, signal.SIG_IGN)


@contextmanager
def _signals() -> Iterator[None]:
    """SIGINT, SIGTERM and a terminal that closes become Interrupted, in the main thread, where Python hears them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, _: FrameType | None) -> None:
        _hear_no_more_signals()  # one is enough
        raise Interrupted(number)

    heard = [number for number in _ENDINGS if signal.getsignal(number) is not signal.SIG_IGN]  # nohup says not to
    before = {number: signal.signal(number, interrupt) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
