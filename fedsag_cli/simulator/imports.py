"""Tries what a run would start, in a copy of the job: each script up to `flare.init()`, and the server's components."""

from __future__ import annotations

import contextlib
import queue
import select
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from fedsag_cli.errors import ChannelClosed, JobError
from fedsag_cli.events import ClientReady, Event, ProcessExited, how_it_ended
from fedsag_cli.job.config import placeholders
from fedsag_cli.job.problems import Problem
from fedsag_cli.plan import SitePlan, starts
from fedsag_cli.processes.child import ProcessSpec
from fedsag_cli.processes.local import LocalEngine
from fedsag_cli.simulator.aside import engine_for
from fedsag_cli.simulator.failures import Failures
from fedsag_cli.simulator.planning import Planned
from fedsag_cli.simulator.specs import Specs
from fedsag_cli.wire.channel import Guest, Listener
from fedsag_cli.wire.messages import ADDRESS, TOKEN
from fedsag_cli.workspace import SERVER, WORKER, Workspace, site_of, write_json

LIMIT_S = 60.0
"""How long a script may take to its `flare.init()`, and the server to build its components."""

_CHECK = "fedsag_cli.server.building:check"


def tried(planned: Planned, workspace: Workspace) -> tuple[list[JobError], list[str]]:
    """What goes wrong in the processes of a run, and notes for the user. The workspace is an empty folder."""
    told: queue.SimpleQueue[Event] = queue.SimpleQueue()
    with engine_for(planned.plan, workspace, told) as (engine, env), _Door(env[ADDRESS], env[TOKEN], told):
        trial = _Trial(planned, workspace, engine, Specs(planned, workspace, env))
        trial.server()
        for site in _distinct(planned, workspace):
            trial.client(site)
    return trial.errors, trial.notes


def _distinct(planned: Planned, workspace: Workspace) -> Iterator[str]:
    """A process for each script or command of each app."""
    seen: set[tuple[str, str, str]] = set()
    for site in planned.plan.sites:
        script = site.script.replace(str(workspace.app(site.name)), "")
        kind = (planned.apps[site.site].name, script, " ".join(site.command).replace(site.site, ""))
        if kind not in seen:
            seen.add(kind)
            yield f"{WORKER}:1" if site.name == WORKER else site.name


class _Trial:
    """The processes that are tried, one after the other. `errors` and `notes` have what came of it."""

    def __init__(self, planned: Planned, workspace: Workspace, engine: LocalEngine, specs: Specs) -> None:
        self.errors: list[JobError] = []
        self.notes: list[str] = []
        self._planned, self._workspace, self._engine, self._specs = planned, workspace, engine, specs
        self._start_of = starts(planned.plan)
        self._failures = Failures(workspace, planned.apps, self._start_of)
        workspace.take()
        workspace.reopen()
        self._deployed: set[str] = set()
        write_json(workspace.plan, planned.plan)

    def server(self) -> None:
        """Build the server's components."""
        out = self._workspace.root / "problems.json"
        ended = self._run(SERVER, self._specs_of(SERVER, _CHECK, str(out)))
        if not out.exists():
            self._tell_end(SERVER, ended, "the server's components cannot be built")
            return
        app = self._planned.apps[SERVER]
        server = app.server(placeholders.nowhere(SERVER))
        for problem in msgspec.json.decode(out.read_bytes(), type=list[Problem]):
            file = problem.file.replace(str(self._workspace.app(SERVER)), str(app.folder), 1)
            if problem.line is not None:
                text = f"{file}:{problem.line}: {problem.message}"
                self.errors.append(JobError(text, hint=problem.hint, file=file, line=problem.line))
            else:
                at = server.places.get(problem.key, (problem.key,))
                text = f"{server.file}: {problem.message}"
                self.errors.append(JobError(text, hint=problem.hint, file=server.file, at=at))

    def client(self, process: str) -> None:
        """Start a script or command, and end it when it has reached `flare.init()`."""
        what = _called(self._start_of(process), self._workspace)
        ended = self._run(process, self._specs_of(process))
        if ended is not None:
            self._tell_end(process, ended, f"{what} ended before flare.init()")

    def _specs_of(self, process: str, *args: str) -> ProcessSpec:
        site = site_of(process)
        if site not in self._deployed:
            self._deployed.add(site)
            self._workspace.deploy(self._planned.apps[site].folder, site)
        if site == WORKER:
            self._workspace.client_logs.mkdir(exist_ok=True)
        return self._specs.server(*args) if process == SERVER else self._specs.client(process)

    def _run(self, process: str, spec: ProcessSpec) -> ProcessExited | None:
        """The end of a process; None if it has reached `flare.init()`, or was stopped, which is noted."""
        self._failures.watch(process)
        self._engine.start(spec)
        ends, is_ready = time.monotonic() + LIMIT_S, False
        while True:
            try:
                event = self._engine.next_event(max(0.0, ends - time.monotonic()))
            except TimeoutError:
                self._engine.end(process)
                self._note_limit(process)
                is_ready, ends = True, ends + LIMIT_S
                continue
            match event:
                case ClientReady(site=site) if site == process and not is_ready:
                    is_ready = True
                    self._engine.end(process)
                case ProcessExited(name=name) if name == process:
                    return None if is_ready else self._failures.of_exit(event, is_over=False)

    def _note_limit(self, process: str) -> None:
        is_server = process == SERVER
        what = "the server" if is_server else _called(self._start_of(process), self._workspace)
        goal = "built its components" if is_server else "reached flare.init()"
        self.notes.append(f"{what} has not {goal} within {LIMIT_S:.0f} s: it was stopped, and is not checked further")

    def _tell_end(self, process: str, ended: ProcessExited | None, says: str) -> None:
        if ended is None:  # it was stopped
            return
        failure = ended.failure
        cause = (failure.cause if failure else "") or (how_it_ended(ended.exit_code) if ended.exit_code else "")
        where = failure.where if failure else ""
        file, _, line = where.rpartition(":")
        hint = "" if where or failure is None else _last_lines(failure.log_tail)
        text = ": ".join(filter(None, (where or self._planned.apps[site_of(process)].name, says, cause)))
        self.errors.append(JobError(text, hint=hint, file=file, line=int(line) if line.isdigit() else None))


def _called(site: SitePlan, workspace: Workspace) -> str:
    """How users call what a site starts."""
    if site.command:
        return f"the command of {site.site}, {site.command[0]}"
    return f"the script {site.script.removeprefix(f'{workspace.app(site.name)}/')} of {site.site}"


def _last_lines(tail: Sequence[str]) -> str:
    return f"it printed: {' / '.join(tail[-3:])}" if tail else ""


class _Door:
    """Listens in place of the server: who says hello has reached `flare.init()`. Nobody gets an answer, so all wait."""

    def __init__(self, address: str, token: str, told: queue.SimpleQueue[Event]) -> None:
        self._listener = Listener(address, token)
        self._token, self._told = token, told
        self._woken, self._wake = socket.socketpair()
        self._thread = threading.Thread(target=self._listen, daemon=True)

    def __enter__(self) -> _Door:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._wake.close()
        self._thread.join()
        self._woken.close()
        self._listener.close()

    def _listen(self) -> None:
        speaking: list[Guest] = []
        waiting: list[Guest] = []  # for an answer
        while True:
            sources: list[Any] = [self._listener, self._woken, *speaking]
            ready, _, _ = select.select(sources, [], [])
            if self._woken in ready:
                break
            if self._listener in ready:
                speaking.append(self._listener.meet())
            for guest in [guest for guest in speaking if guest in ready]:
                with contextlib.suppress(ChannelClosed):
                    if (hello := guest.hello()) is None:
                        continue
                    if hello.token == self._token:
                        self._told.put(ClientReady(site=hello.site))
                speaking.remove(guest)
                waiting.append(guest)
        for guest in (*speaking, *waiting):
            guest.close()
