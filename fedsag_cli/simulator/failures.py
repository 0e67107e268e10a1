"""The facts of a failure: its cause, the line in the job, and the last lines of the log."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from fedsag_cli import foreign
from fedsag_cli.events import Failure, ProcessExited, ReplyFailed, how_it_ended
from fedsag_cli.job import App
from fedsag_cli.plan import SitePlan, is_worker
from fedsag_cli.simulator import logs
from fedsag_cli.workspace import SERVER, WORKER, Workspace, site_of

_TAIL_LINES = 20
_ONLY_A_CODE = re.compile(r"the script called sys\.exit\(-?\d+\)|its process ended with exit code \d+")
_SAYS_WHY = re.compile(r"error|not found|no such|denied|cannot|invalid|failed", re.IGNORECASE)
_LONGEST_REASON = 200  # characters
_LEAVE_A_STACK = {signal.SIGSEGV, signal.SIGFPE, signal.SIGABRT, signal.SIGBUS, signal.SIGILL}  # by faulthandler


class Failures:
    """Adds to failures what the logs of the processes contain. Only what a process itself wrote to its log is read."""

    def __init__(self, workspace: Workspace, apps: Mapping[str, App], start_of: Callable[[str], SitePlan]) -> None:
        """`apps` by site, or WORKER; `start_of` as `plan.starts` gives it."""
        self._workspace, self._apps, self._start_of = workspace, apps, start_of
        self._since: dict[str, int] = {}  # by process, or by client of workers: what is older in its log
        self._serves: dict[str, str] = {}  # by worker: the client of which it had a task last

    def watch(self, name: str) -> None:
        """Call it before a process is started: the present content of its log is from earlier processes."""
        self._since[name] = logs.size(self._workspace.log(name))
        self._serves.pop(name, None)

    def serves(self, worker: str, site: str) -> None:
        """Call it when a worker gets a task of a client: from then on it writes to this client's log."""
        self._serves[worker] = site

    def site_of(self, process: str) -> str:
        """The site of a process; of a worker, the client of which it had a task last, if any."""
        return self._serves.get(process, site_of(process))

    def notes(self, name: str) -> list[str]:
        """The lines `note: …` that a script has printed so far."""
        return logs.notes(self._workspace.log(name), since=self._since[name])

    def of_exit(self, event: ProcessExited, *, is_over: bool) -> ProcessExited:
        """`is_over`: the workflows are done, so every process may end."""
        failure = event.failure or Failure(cause="", exit_code=event.exit_code)
        if event.exit_code and not failure.cause:
            failure = self._from_log(event)
        if event.exit_code:
            failure = self._with_reason(event.name, failure)
            if event.node and event.node not in failure.cause:
                failure = msgspec.structs.replace(failure, cause=f"{failure.cause}, on {event.node}")
        if is_worker(event.name):  # whose task it did is known to the server, which tells of the failure
            return msgspec.structs.replace(event, failure=failure)
        may_end = is_over or event.name == SERVER or not self._start_of(event.name).config.launch_once
        failure = self._with_log(
            event.name,
            failure,
            has_stack=-event.exit_code in _LEAVE_A_STACK,
            is_well=failure.exit_code == 0 and may_end,
        )
        return msgspec.structs.replace(event, failure=failure)

    def of_reply(self, event: ReplyFailed) -> ReplyFailed:
        if event.failure.log:
            return event
        if is_worker(event.process):
            self._serves[event.process] = event.site
        has_stack = event.failure.exit_code is not None and -event.failure.exit_code in _LEAVE_A_STACK
        failure = self._with_log(event.process or event.site, event.failure, has_stack=has_stack)
        if is_worker(event.process):  # the next worker of this client goes on in the same file
            self._since[event.site] = logs.size(self._workspace.log(event.site))
        return msgspec.structs.replace(event, failure=failure)

    def of_stop(self, name: str, cause: str) -> Failure:
        """A client's process was stopped, and has printed its stack."""
        return self._with_log(name, Failure(cause=cause), has_stack=True)

    def _with_log(self, name: str, failure: Failure, *, has_stack: bool = False, is_well: bool = False) -> Failure:
        """`has_stack`: the process was stopped or crashed, so the log may end with its stack."""
        log, since = self._log_of(name)
        app = (
            site_of(name) if site_of(name) in self._apps else WORKER
        )  # a client whose reply failed when no worker did it
        copy = self._workspace.app(app)
        where = failure.where or (logs.deepest_frame(log, copy, since=since) if has_stack else "")
        return msgspec.structs.replace(
            failure,
            where=_in_job(where, copy, self._apps[app].folder),
            log=str(log),
            log_tail=[] if is_well else logs.tail(log, _TAIL_LINES, since=since),
        )

    def _log_of(self, process: str) -> tuple[Path, int]:
        """The file to which a process writes now, and the number of its bytes that are older than the process."""
        served = self._serves.get(process)
        if served is not None and (log := self._workspace.log(served)).exists():
            return log, self._since.get(served, 0)
        return self._workspace.log(process), self._since.get(process, 0)

    def _with_reason(self, name: str, failure: Failure) -> Failure:
        """An exit code alone says little: argparse, for example, prints what is wrong and then calls sys.exit(2)."""
        if not _ONLY_A_CODE.fullmatch(failure.cause):
            return failure
        log, since = self._log_of(name)
        last = "".join(logs.tail(log, 1, since=since)).strip()
        if not _SAYS_WHY.search(last):
            return failure
        cause = f"{failure.cause}; the last line of its log: {foreign.shortened(last, _LONGEST_REASON)}"
        return msgspec.structs.replace(failure, cause=cause)

    def _from_log(self, event: ProcessExited) -> Failure:
        """Why a process without an end message ended: a signal, or an error in a command that is no Python script."""
        error = where = ""
        if event.exit_code > 0:
            log, since = self._log_of(event.name)
            error, where = logs.last_error(log, self._workspace.app(event.name), since=since)
        return Failure(cause=error or how_it_ended(event.exit_code), where=where, exit_code=event.exit_code)


def _in_job(where: str, copy: Path, original: Path) -> str:
    """file:line in the job folder, which the user edits, instead of the copy in the workspace."""
    return where.replace(str(copy), str(original), 1) if where.startswith(str(copy)) else where
