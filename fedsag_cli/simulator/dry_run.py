"""Runs one task of one client for real, in a copy of the job, and estimates what a whole run takes."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from fedsag_cli import catalog, machine
from fedsag_cli.errors import RunError, system_errors
from fedsag_cli.events import (
    Event,
    ModelSent,
    Notice,
    ProcessStarted,
    ReplyArrived,
    RunStarted,
    TaskSent,
)
from fedsag_cli.interop import reading
from fedsag_cli.job import Job
from fedsag_cli.job.templates.set_values import with_values
from fedsag_cli.plan import ComponentSpec, Plan, is_worker
from fedsag_cli.processes.engine import Engine
from fedsag_cli.simulator.aside import engine_for
from fedsag_cli.simulator.options import Options
from fedsag_cli.simulator.planning import make_plan
from fedsag_cli.simulator.supervisor import Simulation
from fedsag_cli.workspace import SERVER, Workspace, site_of

_SERVE = "fedsag_cli.server.main:serve_one_task"
_LOOK_S = 0.2  # between two looks at the memory of a client's children


class Measured(msgspec.Struct, kw_only=True):
    """What one task took. `start_s`: until it was sent; `task_s`: until the answer. Memory in bytes, 0 if not known.

    `client_own`: of the client alone, at most, and `shared`: what all processes share; `server`: of the server alone.
    """

    site: str = ""
    task: str = ""
    start_s: float = 0.0
    task_s: float = 0.0
    model: int = 0
    client_own: int = 0
    shared: int = 0
    server: int = 0


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """What a run of `num_clients`, of which `slots` work at the same time, will take: seconds and bytes.

    `memory`: 0 if it is not known. `fits`: whether that is free. `most`: how many clients can be in memory; `stays`:
    whether a client stays there between two tasks, so that `most` is a limit for -n and not for -t.
    `num_rounds`, `run_s`: None if no workflow has a number of rounds.
    """

    num_clients: int
    slots: int
    num_rounds: int | None
    round_s: float
    run_s: float | None
    memory: int
    free: int
    fits: bool
    most: int | None
    stays: bool


class DryRun(msgspec.Struct, frozen=True, kw_only=True):
    measured: Measured
    estimate: Estimate
    notes: list[str]


@system_errors()
def dry_run(job: Path, options: Options) -> DryRun:
    """Run the first task of the job's first workflow with one client. Nothing is written to the job or the database.

    Raises JobError and UsageError as `simulate` does, and RunError if the task fails, or the system refuses the copy.
    """
    with TemporaryDirectory(prefix="fedsag-") as folder, Workspace(Path(folder) / "ws") as workspace:
        planned = make_plan(with_values(Job.load(job, reading.translate), options.sets), workspace, options)
        planned = replace(planned, plan=msgspec.structs.replace(planned.plan, strict=False))
        free = machine.free_memory()
        with engine_for(planned.plan, workspace) as (engine, env):
            watch = _Watch(engine)
            workspace.take()
            try:
                Simulation(job, planned, workspace, engine, env, [watch], _SERVE).run(resume=False)
            except RunError as error:
                error.hint = ""  # it is about a run that can go on
                raise
            finally:
                watch.close()
        if not watch.measured.task:
            raise RunError("no workflow asked a client for a task", hint="fedsag simulator shows why")
        estimated = estimate(watch.measured, planned.plan, num_rounds_of(planned.plan), free)
        return DryRun(measured=watch.measured, estimate=estimated, notes=planned.notices)


def estimate(measured: Measured, plan: Plan, num_rounds: int | None, free: int) -> Estimate:
    """The memory is that of the server, of what all share, and of each client that is in memory at the same time.

    The time of a round is that of the task, as often as clients follow each other in one slot. Clients that work at the
    same time have the cores among them.
    """
    config = plan.sites[0].config
    at_once = plan.slots * max(1, len({site.group for site in plan.sites}))
    stays = config.launch_once and not plan.has_workers
    alive = len(plan.names) if stays else min(at_once, len(plan.names))
    base = measured.server + measured.shared
    memory = base + alive * measured.client_own if measured.client_own else 0
    crowding = max(1.0, min(at_once, len(plan.names)) * plan.threads / machine.cores())
    each = measured.task_s + (0.0 if config.launch_once else measured.start_s)
    round_s = math.ceil(len(plan.names) / at_once) * each * crowding
    return Estimate(
        num_clients=len(plan.names),
        slots=plan.slots,
        num_rounds=num_rounds,
        round_s=round_s,
        run_s=None if num_rounds is None else measured.start_s + num_rounds * round_s,
        memory=memory,
        free=free,
        fits=not free or memory <= free,
        most=max(0, (free - base) // measured.client_own) if free and measured.client_own else None,
        stays=stays,
    )


def num_rounds_of(plan: Plan) -> int | None:
    """The rounds of all workflows together; None if none has a number of rounds."""
    counts = [count for count in map(_num_rounds, plan.server.workflows) if count is not None]
    return sum(counts) if counts else None


def _num_rounds(workflow: ComponentSpec) -> int | None:
    if "num_rounds" in workflow.args:
        given = workflow.args["num_rounds"]
    else:
        is_ours = catalog.class_path(workflow.path).startswith("fedsag_cli.")
        known = catalog.signature_of(workflow.path) if is_ours else None
        defaults: Mapping[str, object] = {each.name: each.default for each in known.arguments} if known else {}
        given = defaults.get("num_rounds")
    return given if isinstance(given, int) else None


class _Watch:
    """An observer that measures: times from the events, memory while the client works and when it has answered."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.measured = Measured()
        self._began = self._sent = 0.0
        self._pids: dict[str, int] = {}
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._look_often, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._over.set()
        self._thread.join()

    def on(self, event: Event) -> None:
        seen = self.measured
        match event:
            case RunStarted():
                self._began = event.at
            case ProcessStarted():
                self._pids[event.name] = event.pid
            case ModelSent():
                seen.model = event.size
            case TaskSent():
                seen.site, seen.task, self._sent = event.site, event.task, event.at
                seen.start_s = event.at - self._began
            case ReplyArrived():
                seen.task_s = event.at - self._sent
                self._look()
                self._over.set()
                self._engine.tell(SERVER, Notice(text="measured"))  # it waits for that before it ends the clients

    def _look_often(self) -> None:
        while not self._over.wait(_LOOK_S):
            self._look()

    def _look(self) -> None:
        with self._lock:
            for name, pid in list(self._pids.items()):
                own, shared = machine.memory_of_session(pid)
                self.measured.shared = max(self.measured.shared, shared)
                if name == SERVER:
                    self.measured.server = max(self.measured.server, own)
                elif is_worker(name) or site_of(name) == self.measured.site:
                    self.measured.client_own = max(self.measured.client_own, own)
