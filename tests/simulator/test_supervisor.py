"""The supervisor: a run of which every event is written down beforehand, and what the supervisor makes of it."""

import msgspec
import pytest
from runs import ADDS_ONE, job

from fedsag_cli import simulator
from fedsag_cli.errors import Interrupted, RunError, WorkspaceError
from fedsag_cli.events import (
    ClientStopped,
    ClientWanted,
    Failure,
    NotAwaited,
    ProcessExited,
    ProcessStarted,
    RunFailed,
    RunFinished,
    ServerReady,
    WillWrite,
    WorkflowFinished,
)
from fedsag_cli.simulator import simulate
from fedsag_cli.simulator.options import Options
from fedsag_cli.simulator.report import Report


class FakeEngine:
    """An engine whose history is written already. Where it is a list's end, nothing happens any more."""

    def __init__(self, *history):
        self._history = list(history)
        self.started, self.told, self.stopped, self.shown = [], [], False, []

    def prepare(self, modules):
        self.prepared = list(modules)

    def start(self, spec):
        self.started.append(spec)

    def tell(self, name, event):
        self.told.append((name, event))

    def next_event(self, timeout_s=None):
        if not self._history:
            assert timeout_s is not None, "it waits without a limit for what never comes"
            raise TimeoutError
        event = self._history.pop(0)
        if isinstance(event, BaseException):
            raise event
        return event

    def stop(self, grace_s=5.0, show_stack=()):
        self.stopped = True
        self.shown += list(show_stack)


class Watcher:
    def __init__(self):
        self.seen = []

    def on(self, event):
        self.seen.append(event)


@pytest.fixture
def lived(tmp_path, monkeypatch):
    """Run a small job through a history; the engine, and the report or the error."""

    def live(*history, **options):
        engine = FakeEngine(*history)
        monkeypatch.setattr(simulator, "LocalEngine", lambda **_: engine)
        watcher = Watcher()
        engine.watcher, engine.workspace = watcher, tmp_path / "ws"
        try:
            made = job(tmp_path / "job", ADDS_ONE)
            engine.came = simulate(made, tmp_path / "ws", Options(num_clients=2, slots=2, seed=5, **options), [watcher])
        except (RunError, Interrupted) as error:
            engine.came = error
        assert engine.stopped
        last = watcher.seen[-1]
        assert isinstance(last, RunFinished)
        assert last.ok is not isinstance(engine.came, Exception)
        assert last.exit_code == getattr(engine.came, "exit_code", 0)
        assert last.cause == getattr(engine.came, "message", engine.came.cause if last.ok else "")
        written = msgspec.json.decode((tmp_path / "ws" / "report.json").read_bytes(), type=Report)
        assert written == (engine.came if last.ok else engine.came.report)
        return engine

    return live


def up(name):
    return ProcessStarted(name=name, pid=1)


def ended(name, code=0, **failure):
    return ProcessExited(name=name, exit_code=code, failure=Failure(**failure) if failure else None)


def test_a_client_whose_answer_was_not_waited_for_is_stopped_at_the_end_and_has_not_failed(lived):
    at_work = {"site": "site-2", "task": "train", "round_num": 0}
    engine = lived(
        up("server"), ServerReady(), up("site-1"), up("site-2"), NotAwaited(**at_work),
        WorkflowFinished(digest="abc", seeded_themselves=[], late=["site-2"]), ended("site-1"), ended("server"),
        strict=True,
    )  # fmt: skip

    (stopped,) = [event for event in engine.watcher.seen if isinstance(event, ClientStopped)]
    assert (stopped.site, stopped.has_failed, stopped.failure.log_tail) == ("site-2", False, [])
    assert engine.came.failures == {}


DONE = WorkflowFinished(digest="abc", seeded_themselves=[])


def test_a_run_that_goes_well_starts_the_server_then_whom_it_wants(lived):
    engine = lived(
        up("server"), ServerReady(),
        ClientWanted(site="site-2"), up("site-2"), ClientWanted(site="site-1"), up("site-1"),
        DONE, ended("site-1"), ended("server"), ended("site-2"),
    )  # fmt: skip

    assert [spec.name for spec in engine.started] == ["server", "site-2", "site-1"]
    assert engine.started[1].env["FEDSAG_SITE"] == "site-2"
    assert engine.started[0].env["FEDSAG_TOKEN"] == engine.started[1].env["FEDSAG_TOKEN"]
    assert engine.came.ok
    assert engine.came.digest == "abc"
    assert engine.told == []


def test_a_server_that_dies_ends_the_run(lived):
    engine = lived(up("server"), ended("server", -9))

    assert engine.came.message == "the server: it was killed by signal 9 (SIGKILL): perhaps out of memory"
    assert [spec.name for spec in engine.started] == ["server"]


def test_a_server_that_ends_without_finishing_failed_though_it_says_zero(lived):
    assert lived(up("server"), ended("server", 0)).came.exit_code == 4


def test_a_nursery_that_dies_ends_the_run_with_what_it_said(lived):
    engine = lived(up("server"), ended("nursery", 1, cause="No module named 'msgspec'"))

    assert engine.came.message == "the nursery: No module named 'msgspec'"


def test_a_clients_end_is_told_to_the_server_with_its_log_and_its_line_in_the_job(lived, tmp_path):
    copy = tmp_path / "ws" / "site-1" / "simulate_job" / "app_site-1" / "custom" / "train.py"
    engine = lived(
        up("server"), ClientWanted(site="site-1"), up("site-1"),
        ended("site-1", 1, cause="ValueError: no", where=f"{copy}:7"),
        RunFailed(cause="too few", hint="more", exit_code=4),
    )  # fmt: skip

    ((name, told),) = engine.told
    assert (name, told.name, told.failure.cause) == ("server", "site-1", "ValueError: no")
    assert told.failure.where == f"{tmp_path}/job/app/custom/train.py:7"
    assert told.failure.log == str(tmp_path / "ws" / "site-1" / "log.txt")
    assert (engine.came.message, engine.came.hint) == ("too few", "more")


def test_a_servers_failure_keeps_its_exit_code(lived):
    engine = lived(up("server"), RunFailed(cause="net.Net cannot be imported", hint="", exit_code=3))

    assert engine.came.exit_code == 3


def test_a_client_that_never_ends_after_the_last_task_is_stopped_and_said(lived):
    engine = lived(up("server"), ClientWanted(site="site-1"), up("site-1"), DONE, ended("server"))

    assert engine.came.ok
    assert engine.shown == ["site-1"]
    assert "still running" in engine.came.failures["site-1"].failure.cause


def test_a_client_that_fails_after_the_last_task_is_said_and_the_run_is_good(lived):
    engine = lived(
        up("server"), ClientWanted(site="site-1"), up("site-1"), DONE, ended("server"), ended("site-1", 1, cause="x")
    )

    assert engine.came.ok
    assert engine.came.notices == ["site-1 ended with exit code 1 after its last task"]


def test_an_interrupted_run_says_so_and_writes_its_report(lived):
    engine = lived(up("server"), Interrupted(2))

    assert engine.came.exit_code == 130


def test_a_file_of_the_users_where_the_server_would_write_is_refused_and_stays(lived, tmp_path):
    model = tmp_path / "ws" / "server" / "simulate_job" / "models" / "server.npy"
    model.parent.mkdir(parents=True)
    model.write_text("mine")

    with pytest.raises(WorkspaceError, match=r"server\.npy"):
        lived(up("server"), WillWrite(paths=[str(model)]), ClientWanted(site="site-1"))

    assert model.read_text() == "mine"


def test_a_workspace_that_is_used_is_refused_before_anything_starts(tmp_path, monkeypatch):
    engine = FakeEngine()
    monkeypatch.setattr(simulator, "LocalEngine", lambda **_: engine)
    (tmp_path / "ws").write_text("a file")

    with pytest.raises(WorkspaceError, match="cannot be used"):
        simulate(job(tmp_path / "job"), tmp_path / "ws", Options(num_clients=2))

    assert engine.started == []
    assert engine.stopped
