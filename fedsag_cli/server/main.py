"""The server process: builds the components of the plan, runs the workflows, and sends events to the parent."""

from __future__ import annotations

import atexit
import contextlib
import json
import logging
import os
import resource
import select
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedsag_cli import catalog, foreign, machine
from fedsag_cli.accountants import Accountant
from fedsag_cli.errors import FedsagError, JobError, TensorError, of_system
from fedsag_cli.events import Event, Notice, Observer, RunFailed, WillWrite, WorkflowFinished, WorkflowStarted
from fedsag_cli.filters import Chain
from fedsag_cli.interop.base.components import Assembler, ModelAggregator
from fedsag_cli.interop.base.context import FLComponent
from fedsag_cli.interop.constants import EventType
from fedsag_cli.model import Stateful
from fedsag_cli.params import tensor_file
from fedsag_cli.persistors import WritesFiles
from fedsag_cli.plan import Plan, read_plan, starts
from fedsag_cli.processes.child import show_stack_when_stopped
from fedsag_cli.server import building
from fedsag_cli.server.clients import Client, Roster, RosterOfNames
from fedsag_cli.server.communicator import Communicator
from fedsag_cli.server.line import Line
from fedsag_cli.server.listeners import Listeners
from fedsag_cli.server.memory import Memory
from fedsag_cli.server.model_controller import RunsModelController
from fedsag_cli.server.one_task import OneTask, TaskDone
from fedsag_cli.server.samples import Samples
from fedsag_cli.server.tracking import Tracking
from fedsag_cli.trackers import RunFacts, ShortTracker, Status, Tracker, is_tracker
from fedsag_cli.wire.channel import Listener
from fedsag_cli.wire.messages import ADDRESS, HIDDEN, TOKEN, Welcome
from fedsag_cli.workflows import Clients, Controller
from fedsag_cli.workflows.run import Run
from fedsag_cli.workspace import JOB_ID, SERVER, Workspace

_LOOK_LIMIT_S = 10.0


class _Stopped(BaseException):
    """The parent ends this process. Not an Exception: no component shall take it for a failure of its own."""


def serve_one_task(root: str, *, link: int) -> int:
    """As `serve`; the run ends with the answer of the first client that is asked."""
    return serve(root, link=link, one_task=True)


def serve(root: str, *, link: int, one_task: bool = False) -> int:
    """Run the plan of the workspace at `root`; `link` is the descriptor of a socket to the parent."""
    code = _serve(root, link, one_task=one_task)
    atexit._run_exitfuncs()  # libraries of trackers remove their temporary folders there
    return code


def _serve(root: str, link: int, *, one_task: bool) -> int:
    show_stack_when_stopped()
    for secret, shown in json.loads(os.environ.pop(HIDDEN, "{}")).items():
        foreign.hide(secret, shown)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # a channel and perhaps a model for each client
    parent = socket.socket(fileno=link)
    line = Line(parent)
    lock = threading.Lock()  # threads emit too: the one that writes models, and those of the trackers
    observers: list[Observer] = []
    runs: list[Run] = []  # one, once it is there

    def emit(event: Event) -> None:
        for observer in observers:
            observer.on(event)
        with lock:
            for run in runs:
                run.on(event)
            line.send(event)

    try:
        workspace = Workspace(Path(root))
        _run(read_plan(workspace.plan), workspace, parent, line, emit, observers, runs, one_task=one_task)
    except _Stopped:
        with contextlib.suppress(OSError):  # the parent may have ended
            line.flush()
        return 128 + signal.SIGTERM
    except Exception as error:
        # perhaps of a component, even the user's own: the run failed, and its traceback is in the server's log
        _print_traceback()
        failed = _as_event(error, workspace)
        emit(failed)
        return failed.exit_code
    return 0


def _as_event(error: Exception, workspace: Workspace) -> RunFailed:
    if isinstance(error, FedsagError):
        return RunFailed(cause=error.message, hint=error.hint, exit_code=error.exit_code)
    if refused := of_system(error):
        return RunFailed(cause=f"the server: {refused.message}", hint=refused.hint, exit_code=refused.exit_code)
    where = traceback.extract_tb(error.__traceback__)[-1]
    cause = f"the server: {type(error).__name__}: {error} ({where.filename}:{where.lineno})"
    return RunFailed(cause=cause, hint=f"its traceback is in {workspace.log(SERVER)}", exit_code=4)


def _stop(*_: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise _Stopped


def _print_traceback() -> None:
    sys.stderr.write(foreign.masked(traceback.format_exc()))


def _run(
    plan: Plan,
    workspace: Workspace,
    parent: socket.socket,
    line: Line,
    emit: Callable[[Event], None],
    observers: list[Observer],
    runs: list[Run],
    *,
    one_task: bool,
) -> None:
    building.prepare(plan, workspace)
    workspace.checkpoints.mkdir(parents=True, exist_ok=True)
    workspace.hold_as_server()
    start_of = starts(plan)
    data_filters = catalog.chain(plan.server.task_data_filters)
    result_filters = catalog.chain(plan.server.task_result_filters)
    communicator = Communicator(
        Listener(os.environ[ADDRESS], os.environ[TOKEN]),
        parent,
        emit,
        flush=line.flush,
        roster=_roster(plan),
        slots=plan.slots * (len(plan.sites) if plan.has_workers else 1),
        seed=plan.seed,
        strict=plan.strict,
        waits_for_all=plan.waits_for_all,
        is_timed=not plan.debug,
        welcome=lambda process: Welcome(
            job_id=JOB_ID, seed=plan.seed, scratch=str(workspace.scratch), config=start_of(process).config
        ),
        data_filters=data_filters,
        result_filters=result_filters,
        scratch=workspace.scratch,
        are_here=not any(site.node for site in plan.sites),
    )
    parts: dict[str, Any] = {}
    for spec in plan.server.components:
        parts[spec.id] = catalog.build(spec, parts)
    _make_ready(parts, [data_filters, result_filters])
    workflows: list[Controller] = [catalog.build(spec, parts) for spec in plan.server.workflows]
    for workflow in workflows:
        if isinstance(workflow, RunsModelController):
            workflow.components = parts
    writers = [part for part in (*parts.values(), *workflows) if isinstance(part, WritesFiles)]
    trackers = [part for part in parts.values() if is_tracker(part)]
    emit(
        WillWrite(
            paths=[workspace.place(path) for part in writers for path in part.files],
            folders=[workspace.place(folder) for tracker in trackers for folder in tracker.folders],
        )
    )
    names = [spec.id or f"workflow-{number}" for number, spec in enumerate(plan.server.workflows, start=1)]
    _check_files(
        {name: part.files for name, part in zip(names, workflows, strict=True) if isinstance(part, WritesFiles)}
    )
    run = Run.resumed(
        workspace.checkpoints, emit, plan.seed, names, plan.identity, workspace.needed, plan.keep_checkpoints
    )
    run.accountants = [part for part in parts.values() if isinstance(part, Accountant)]
    for accountant in run.accountants:
        if callable(prepare := getattr(accountant, "prepare", None)):
            prepare(plan)
    chains = [data_filters, result_filters]
    run.keeps = Memory(_influential(plan, parts, workflows, chains)).changed
    stateful = _stateful(parts, dict(zip(names, workflows, strict=True)), chains)
    run.keep_states(communicator.states)
    inherited = plan.parent.rounds if plan.parent else 0
    if run.whole_rounds < inherited:
        raise TensorError(
            f"the checkpoints in {workspace.checkpoints}, with which this fork began, are gone",
            hint="fork its parent again: --resume --at",
        )
    if plan.parent and run.whole_rounds == inherited:
        run.forget(plan.parent.anew)
    for name, keeper in {**communicator.keepers, **stateful}.items():
        run.keep(name, keeper)
    runs.append(run)
    emit(run.as_event())
    for text in run.notes:
        emit(Notice(text=text))
    facts = RunFacts(
        job=plan.job,
        workspace=workspace.root,
        sites=plan.names,
        seed=plan.seed,
        settings=foreign.masked(plan.shown_settings),
        versions=machine.versions(plan.preload) if trackers else {},
        is_resumed=run.whole_rounds > inherited,
    )
    tracking = Tracking(trackers, facts, emit, several_workflows=len(workflows) > 1)
    observers.extend([tracking, Samples(emit)])
    if trackers:
        signal.signal(signal.SIGTERM, _stop)  # nothing that was logged is lost, and trackers are told how the run ended
    listeners = Listeners(parts)
    clients: Clients = OneTask(communicator, lambda: _let_look(line, parent)) if one_task else communicator
    try:
        listeners.tell(EventType.START_RUN)
        with contextlib.suppress(TaskDone):
            for number, workflow in enumerate(workflows):
                if run.enter(number):
                    communicator.enter(run.workflow_name, number)
                    emit(WorkflowStarted(workflow=run.workflow_name, number=number + 1, num_workflows=len(workflows)))
                    workflow.run(clients, run)
                    communicator.leave()
        listeners.tell(EventType.END_RUN)
        digest = tensor_file.digest((run.trained.params if run.trained else None) or {})
        run.finished(digest)
        seeded = communicator.seeded_themselves
        emit(WorkflowFinished(digest=digest, seeded_themselves=seeded, late=communicator.late))
        communicator.close()
    except BaseException as error:
        with contextlib.suppress(OSError):  # the parent may have ended
            communicator.receive_logged()
        if isinstance(error, Exception):
            tracking.close(Status.FAILED, cause=foreign.masked(_as_event(error, workspace).cause))
        else:
            tracking.close(Status.KILLED)
        run.close()
        raise
    else:
        tracking.close(Status.FINISHED, digest=digest)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _make_ready(parts: Mapping[str, Any], chains: Sequence[Chain]) -> None:
    """Let users' components on NVFLARE's base classes begin; what they say goes to the server's log."""
    if any(isinstance(part, FLComponent) for part in (*parts.values(), *(link for _, link in _links(chains)))):
        logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
    for part in parts.values():
        if isinstance(part, Assembler | ModelAggregator):
            part.make_ready(SERVER)
    for chain in chains:
        chain.make_ready(SERVER)


def _let_look(line: Line, parent: socket.socket) -> None:
    """Wait until the parent has looked at the processes, and says so."""
    line.flush()
    if select.select([parent], [], [], _LOOK_LIMIT_S)[0]:
        parent.recv(1 << 16)


def _roster(plan: Plan) -> Roster:
    if plan.has_workers:
        return RosterOfNames(plan.names, plan.sites[0].config)
    return Roster(
        Client(number, site.name, site.config, site.group, is_timed=not plan.debug)
        for number, site in enumerate(plan.sites)
    )


def _check_files(of_workflows: Mapping[str, Sequence[Path]]) -> None:
    """Raises JobError if two workflows would write the same file: the second would overwrite the first."""
    writers: dict[str, str] = {}
    for name, files in of_workflows.items():
        for file in map(os.path.normpath, files):
            if file in writers:
                raise JobError(
                    f"the workflows {writers[file]!r} and {name!r} write the same file, {Path(file).name} in the "
                    f"folder {Path(file).parent.name!r}",
                    hint="give one of them another folder, such as another cross_val_dir",
                )
            writers[file] = name


def _stateful(
    parts: Mapping[str, Any], workflows: Mapping[str, Controller], chains: Sequence[Chain]
) -> dict[str, Stateful]:
    """Whatever says what it keeps from round to round, by the name of its tree in a checkpoint."""
    found = {f"state of {name}": part for name, part in parts.items()}
    found |= {f"state of the workflow {name}": workflow for name, workflow in workflows.items()}
    found |= {f"state of {name}": link for name, link in _links(chains)}
    return {name: part for name, part in found.items() if isinstance(part, Stateful)}


def _links(chains: Sequence[Chain]) -> list[tuple[str, Any]]:
    """All filters of the server, by what the user calls them."""
    links = [link for chain in chains for link in chain.filters]
    return [(f"filter {number}", link) for number, link in enumerate(links, start=1)]


def _influential(
    plan: Plan, parts: Mapping[str, Any], workflows: Sequence[Controller], chains: Sequence[Chain]
) -> dict[str, object]:
    """The components on which the model depends, by what the user calls them. Not those that say what they keep."""
    found = {name: part for name, part in parts.items() if not isinstance(part, WritesFiles | Tracker | ShortTracker)}
    found |= {spec.id or spec.path: part for spec, part in zip(plan.server.workflows, workflows, strict=True)}
    found |= dict(_links(chains))
    return {name: part for name, part in found.items() if not isinstance(part, Stateful)}
