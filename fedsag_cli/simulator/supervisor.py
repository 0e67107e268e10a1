"""The supervisor of one run: it starts the processes, handles their events, ends them and writes the report."""

from __future__ import annotations

import importlib.metadata
import platform
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from fedsag_cli import __version__, catalog
from fedsag_cli.errors import FedsagError, Interrupted, RunError, WorkspaceError
from fedsag_cli.events import (
    ClientReady,
    ClientStopped,
    ClientWanted,
    Event,
    Failure,
    Notice,
    Observer,
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
from fedsag_cli.plan import Plan, SitePlan
from fedsag_cli.processes.child import ProcessSpec
from fedsag_cli.processes.engine import Engine
from fedsag_cli.processes.local import NURSERY
from fedsag_cli.simulator.events_file import EventsFile, read_events
from fedsag_cli.simulator.failures import Failures
from fedsag_cli.simulator.planning import Planned
from fedsag_cli.simulator.report import Report, ReportBuilder
from fedsag_cli.simulator.signals import ignore_signals
from fedsag_cli.wire.messages import PRELOAD, SEED, SITE
from fedsag_cli.workspace import SERVER, Workspace, write_json

_SERVE = "fedsag_cli.server.main:serve"
_SCRIPT = "fedsag_cli.client.script:run"
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
    ) -> None:
        self._job, self._planned, self._plan = job, planned, planned.plan
        self._workspace, self._engine, self._env = workspace, engine, env
        self._notices = list(planned.notices)
        self._report = ReportBuilder()
        self._observers = [self._report, *observers]
        self._client_env = {SEED: str(self._plan.seed), PRELOAD: ",".join(self._plan.preload)}
        self._sites = {site.name: site for site in self._plan.sites}
        self._alive: set[str] = set()
        self._failures = Failures(workspace, planned.apps, self._sites)
        self._hanging: set[str] = set()  # clients that may still work on a task the server no longer waits for
        self._finished: WorkflowFinished | None = None
        self._notes: set[str] = set()

    def run(self, *, resume: bool) -> Report:
        """Run to the end, and return the report. An error that ends the run has it as `report`."""
        try:
            if resume:
                self._reopen_workspace()
            else:
                self._prepare_workspace()
            log = EventsFile(self._workspace.events)
        except OSError as failed:
            raise WorkspaceError(f"{failed.filename or self._workspace.root}: {failed.strerror}") from None
        self._observers.append(log)
        outcome = RunFinished(ok=False, exit_code=1, cause="a bug in fedsag")
        error: FedsagError | None = None
        try:
            self._tell(self._run_started())
            for text in self._notices:
                self._tell(Notice(text=text))
            self._engine.prepare([*self._plan.preload, *_modules_of_server(self._plan)])
            self._start(self._server())
            self._handle_events()
            self._check_strict()
            outcome = RunFinished(ok=True, exit_code=0, cause="every round is done, and the final model is written")
        except FedsagError as failure:
            error = failure
            ignore_signals()
            if rounds := self._report.rounds_done:
                failure.hint = f"{failure.hint}; " * bool(failure.hint) + self._how_to_continue(rounds)
            outcome = RunFinished(ok=False, exit_code=failure.exit_code, cause=failure.message, hint=failure.hint)
            causes = dict.fromkeys(
                self._hanging & self._alive, "it did not answer until the run ended, and was stopped"
            )
            self._stop(5.0 if isinstance(failure, Interrupted) else 1.0, causes)
        finally:
            self._tell(msgspec.structs.replace(outcome, report=str(self._workspace.report), at=time.time()))
            try:
                write_json(self._workspace.report, self._report.report)
                self._workspace.forget_missing()
            except OSError as failed:
                message = f"{self._workspace.report} cannot be written: {failed.strerror}"
                error = error or RunError(message)
                error.hint = error.hint or message
            log.close()
        if error is not None:
            error.report = self._report.report
            raise error
        return self._report.report

    def _prepare_workspace(self) -> None:
        files = [self._workspace.plan, self._workspace.events, self._workspace.report]
        deployed = [
            path for name, app in self._planned.apps.items() for path in self._workspace.files_of(app.folder, name)
        ]
        self._workspace.reopen()
        self._workspace.check_free(*files, *deployed)  # before any file of an earlier run is removed
        self._workspace.clear()
        self._workspace.claim(*files)
        for name, app in self._planned.apps.items():
            self._workspace.deploy(app.folder, name)
        write_json(self._workspace.plan, self._plan)

    def _reopen_workspace(self) -> None:
        self._workspace.reopen()
        for event in read_events(self._workspace.events) if self._workspace.events.exists() else ():
            self._report.on(event)
        report = self._report.report
        failed = {site: each.round_num for each in report.rounds if each.is_whole for site in each.failed}
        for site, round_num in failed.items() if self._plan.strict else ():
            raise WorkspaceError(f"--strict: no client may fail, but {site} failed in round {round_num} of this run")
        self._workspace.report.unlink(missing_ok=True)
        for name, app in self._planned.apps.items():
            if not self._workspace.app(name).is_dir():
                self._workspace.deploy(app.folder, name)
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
                event = self._engine.next_event(None if ends is None else max(0.0, ends - time.monotonic()))
            except TimeoutError:
                cause = f"it was still running {_END_LIMIT_S:.0f} s after the last task, and was stopped"
                self._stop(1.0, dict.fromkeys(sorted(self._alive), cause))
                return
            event = self._with_log(event)
            self._tell(event)
            self._handle(event)
            if self._finished is not None:
                ends = ends or time.monotonic() + _END_LIMIT_S
                if self._alive <= set(self._finished.late):
                    cause = "it was still working on a task that the server no longer waited for, and was stopped"
                    self._stop(1.0, dict.fromkeys(sorted(self._alive), cause))
                    return

    def _how_to_continue(self, rounds: int) -> str:
        job, workspace = (shlex.quote(str(path)) for path in (self._job.absolute(), self._workspace.root))
        done = "1 round" if rounds == 1 else f"{rounds} rounds"
        return f"{done} done. Continue: fedsag simulator {job} -w {workspace} --resume"

    def _check_strict(self) -> None:
        """Raises RunError if a client failed after its last task, with --strict."""
        for site, first in self._report.report.failures.items() if self._plan.strict else ():
            raise RunError(f"with --strict no client may fail, but {site} failed: {first.failure.cause}")

    def _stop(self, grace_s: float, causes: Mapping[str, str]) -> None:
        """End all processes. The clients in `causes` print their stacks first, and each is reported with its cause."""
        self._engine.stop(grace_s, causes)
        self._workspace.remove_parts()
        for site, cause in causes.items():
            self._tell(ClientStopped(site=site, failure=self._failures.of_stop(site, cause)))

    def _handle(self, event: Event) -> None:
        match event:
            case ProcessStarted():
                self._alive.add(event.name)
            case ClientWanted():
                self._start(self._client(self._sites[event.site]))
            case WillWrite():
                self._workspace.claim(*map(Path, event.paths), folders=map(Path, event.folders))
            case ClientReady():
                self._tell_notes(event.site)
            case ReplyFailed():
                if event.hangs:
                    self._hanging.add(event.site)
            case ReplyLate():
                self._hanging.discard(event.site)
            case WorkflowFinished():
                self._finished = event
            case RunFailed():
                raise _as_error(event)
            case ProcessExited():
                self._alive.discard(event.name)
                self._handle_exit(event)

    def _handle_exit(self, event: ProcessExited) -> None:
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
        """The event; a failure gets the path of the log and its last lines."""
        if isinstance(event, ProcessExited) and event.name != NURSERY:
            return self._failures.of_exit(event, is_over=self._finished is not None)
        if isinstance(event, ReplyFailed) and event.site not in self._report.report.failures:
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
            args=[str(self._workspace.root)],
            env=self._env | {"OMP_NUM_THREADS": "1"},
            cwd=str(self._workspace.app(SERVER)),
            log=str(self._workspace.log(SERVER)),
            has_link=True,
        )

    def _client(self, site: SitePlan) -> ProcessSpec:
        words = list(self._planned.words[site.name])
        return ProcessSpec(
            name=site.name,
            target="" if site.command else _SCRIPT,
            args=[] if site.command else [site.script, *words],
            command=words if site.command else [],
            env=self._env | site.env | self._client_env | {SITE: site.name} | ({PRELOAD: ""} if site.fresh else {}),
            cwd=str(self._workspace.site(site.name) if site.in_process else self._workspace.app(site.name)),
            log=str(self._workspace.log(site.name)),
            fresh=site.fresh,
        )

    def _tell_notes(self, site: str) -> None:
        """Report the lines `note: …` that a script printed before its first task. Each text is reported once."""
        for text in self._failures.notes(site):
            if text not in self._notes:
                self._notes.add(text)
                self._tell(Notice(text=text))

    def _tell(self, event: Event) -> None:
        """Give an event to every observer. An observer that raises OSError (full disk, closed terminal) is removed."""
        for observer in list(self._observers):
            try:
                observer.on(event)
            except OSError as error:
                self._observers.remove(observer)
                self._report.report.notices.append(f"{type(observer).__name__} stopped: {error}")


def _modules_of_server(plan: Plan) -> list[str]:
    """The modules of fedsag that the server will import. The job's own modules are not in their folder yet."""
    paths = [catalog.class_path(spec.path) for spec in [*plan.server.workflows, *plan.server.components]]
    named = [_SERVE.partition(":")[0], *(path.rpartition(".")[0] for path in paths)]
    return [name for name in dict.fromkeys(named) if name.startswith("fedsag_cli.")]


def _as_error(failed: RunFailed) -> FedsagError:
    error = RunError(failed.cause, hint=failed.hint)
    error.exit_code = failed.exit_code
    return error


def _versions(preload: Sequence[str]) -> dict[str, str]:
    packages = ["numpy", *(["torch"] if "torch" in preload else [])]
    known = {"fedsag": __version__, "python": platform.python_version()}
    for package in packages:
        try:
            known[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return known | {"platform": f"{sys.platform} {platform.machine()}"}
