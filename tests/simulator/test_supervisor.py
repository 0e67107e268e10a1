"""The supervisor: a run of which every event is written down beforehand, and what the supervisor makes of it."""

import errno
import os
import signal

import msgspec
import pytest
from runs import ADDS_ONE, job

from fedsag_cli import pages, simulator, workspace
from fedsag_cli.errors import Interrupted, RunError, WorkspaceError
from fedsag_cli.events import (
    ClientStopped,
    ClientWanted,
    Failure,
    NotAwaited,
    Notice,
    ProcessExited,
    ProcessStarted,
    ReplyArrived,
    ReplyFailed,
    RoundStarted,
    RunFailed,
    RunFinished,
    ServerReady,
    TaskSent,
    ValuesLogged,
    WillWrite,
    WorkflowFinished,
)
from fedsag_cli.report import Report
from fedsag_cli.report.places import located
from fedsag_cli.simulator import simulate
from fedsag_cli.simulator.events_file import read_events
from fedsag_cli.simulator.options import Options
from fedsag_cli.simulator.time_limit import TimeLimit


class FakeEngine:
    """An engine whose history is written already. Where it is a list's end, nothing happens any more."""

    def __init__(self, *history):
        self._history = list(history)
        self.started, self.told, self.ended, self.stopped, self.shown = [], [], [], False, []

    def prepare(self, modules):
        self.prepared = list(modules)

    def start(self, spec):
        self.started.append(spec)

    def tell(self, name, event):
        self.told.append((name, event))

    def end(self, name):
        self.ended.append(name)

    def next_event(self, timeout_s=None):
        if not self._history:
            assert timeout_s is not None, "it waits without a limit for what never comes"
            raise TimeoutError
        event = self._history.pop(0)
        if isinstance(event, BaseException):
            raise event
        return event() if callable(event) else event

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
        assert located(written, tmp_path / "ws") == (engine.came if last.ok else engine.came.report)
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


def test_a_worker_that_hangs_before_its_first_task_is_told_by_the_client_that_waited_for_it(lived):
    failed = ReplyFailed(
        site="site-2",
        process="worker:1",
        workflow="w",
        task="train",
        round_num=0,
        failure=Failure(cause="x"),
        hangs=True,
    )
    engine = lived(
        up("server"),
        ServerReady(),
        up("worker:1"),
        failed,
        RunFailed(cause="no quorum", hint="", exit_code=4),
        workers=True,
    )

    (stopped,) = [event for event in engine.watcher.seen if isinstance(event, ClientStopped)]
    assert stopped.site == "site-2"
    assert list(engine.came.report.failures) == ["site-2"]


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
    assert '"exit_code":130' in (engine.workspace / "report.html").read_text()


def test_what_scripts_logged_until_they_were_stopped_is_told_and_nothing_else(lived):
    logged = ValuesLogged(site="site-1", kind="metric", values={"loss": 0.5})
    engine = lived(
        up("server"), Interrupted(2), RoundStarted(round_num=0, first_round=0, num_rounds=1, sites=[]), logged
    )

    assert [event for event in engine.watcher.seen if isinstance(event, ValuesLogged | RoundStarted)] == [logged]


def test_a_file_of_the_users_where_the_server_would_write_is_refused_and_stays(lived, tmp_path):
    model = tmp_path / "ws" / "server" / "simulate_job" / "models" / "server.npy"
    model.parent.mkdir(parents=True)
    model.write_text("mine")

    with pytest.raises(WorkspaceError, match=r"server\.npy"):
        lived(up("server"), WillWrite(paths=[str(model)]), ClientWanted(site="site-1"))

    assert model.read_text() == "mine"


def task(kind, site, **more):
    return kind(site=site, workflow="w", task="train", round_num=0, **more)


def test_a_run_out_of_time_has_failed_and_the_clients_at_work_say_where_they_are(lived):
    engine = lived(
        up("server"), ServerReady(), up("site-1"), up("site-2"), task(TaskSent, "site-1", size=1),
        task(TaskSent, "site-2", size=1), task(ReplyArrived, "site-2"),
        max_time="1h",
    )  # fmt: skip

    assert (engine.came.message, engine.came.exit_code) == ("the run took longer than --max-time 1h", 4)
    assert engine.shown == ["site-1"]
    (failed,) = engine.came.report.failures.items()
    assert failed[0] == "site-1"
    assert "still working when the time of the run was over" in failed[1].failure.cause


def test_a_run_out_of_time_shows_the_worker_of_the_client_at_work(lived):
    engine = lived(
        up("server"), ServerReady(), up("worker:1"), task(TaskSent, "site-2", process="worker:1", size=1),
        max_time="1h", workers=True,
    )  # fmt: skip

    assert engine.shown == ["worker:1"]
    assert list(engine.came.report.failures) == ["site-2"]


def test_a_run_in_which_something_always_happens_runs_out_of_time_too(lived):
    engine = lived(
        up("server"), *[Notice(text="on and on")] * 50, AssertionError("it went on to the end"), max_time="0.001s"
    )

    assert engine.came.message == "the run took longer than --max-time 0.001s"


def test_a_run_whose_last_task_is_done_in_time_is_good_however_long_its_scripts_take_to_end(lived, monkeypatch):
    def done_at_the_last_moment():
        monkeypatch.setattr(TimeLimit, "left_s", 0.0)
        return DONE

    engine = lived(up("server"), up("site-1"), done_at_the_last_moment, ended("server"), max_time="1h")

    assert engine.came.ok
    assert "still running 30 s after the last task" in engine.came.failures["site-1"].failure.cause


class Full:
    """The disk is full for the files with this name, from the given time on."""

    def __init__(self, monkeypatch, name, *, times=99):
        self._name, self._left = name, times
        real = workspace.write_whole

        def write_whole(path, write, **how):
            if path.name == name and self._left:
                self._left -= 1
                raise OSError(errno.ENOSPC, "No space left on device", str(path))
            real(path, write, **how)

        monkeypatch.setattr(workspace, "write_whole", write_whole)


def simulated(tmp_path, monkeypatch, *history, engine=FakeEngine):
    engine = engine(*history)
    monkeypatch.setattr(simulator, "LocalEngine", lambda **_: engine)
    engine.watcher = Watcher()
    try:
        engine.came = simulate(
            job(tmp_path / "job"), tmp_path / "ws", Options(num_clients=2, slots=2, seed=5), [engine.watcher]
        )
    except RunError as error:
        engine.came = error
    assert engine.stopped
    return engine


WELL = (up("server"), DONE, ended("server"))


def test_a_good_run_whose_report_cannot_be_written_failed_and_every_word_says_so(tmp_path, monkeypatch):
    Full(monkeypatch, "report.json")

    engine = simulated(tmp_path, monkeypatch, *WELL)

    assert engine.came.exit_code == 4
    assert engine.came.message == f"{tmp_path}/ws/report.json: No space left on device"
    assert engine.came.hint == "free some space on that disk"
    last = engine.watcher.seen[-1]
    assert (last.ok, last.exit_code, last.cause) == (False, 4, engine.came.message)
    assert read_events(tmp_path / "ws" / "events.jsonl")[-1] == last


def test_a_disk_that_is_full_for_a_moment_changes_nothing(tmp_path, monkeypatch):
    Full(monkeypatch, "report.json", times=1)

    assert simulated(tmp_path, monkeypatch, *WELL).came.ok


def test_what_cannot_be_tidied_up_is_a_note(tmp_path, monkeypatch):
    def fail(self):
        raise OSError(errno.EIO, "Input/output error", str(self.root))

    class Breaks(FakeEngine):
        def stop(self, grace_s=5.0, show_stack=()):
            monkeypatch.setattr(workspace.Workspace, "settle", fail)
            monkeypatch.setattr(workspace.Workspace, "remove_parts", fail)
            super().stop(grace_s, show_stack)

    engine = simulated(tmp_path, monkeypatch, up("server"), ended("server", 1), engine=Breaks)

    assert engine.came.message == "the server: its process ended with exit code 1"
    assert engine.watcher.seen[-1].cause == engine.came.message
    notes = [event.text for event in engine.watcher.seen if isinstance(event, Notice)]
    assert len([note for note in notes if "Input/output error" in note]) == 2


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        (ValueError("odd"), "a bug in fedsag: ValueError('odd')"),
    ],
)
def test_a_page_that_cannot_be_written_is_a_note_and_the_run_stands(tmp_path, monkeypatch, fault, said):
    def fail(*_):
        raise fault

    monkeypatch.setattr(pages, "write", fail)

    engine = simulated(tmp_path, monkeypatch, *WELL)

    assert engine.came.ok
    notes = [event.text for event in engine.watcher.seen if isinstance(event, Notice)]
    assert notes == [f"{tmp_path}/ws/report.html cannot be written: {said}"]


def test_a_run_whose_page_has_no_charts_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(pages, "has_charts", lambda: False)

    engine = simulated(tmp_path, monkeypatch, *WELL)

    (note,) = [event.text for event in engine.watcher.seen if isinstance(event, Notice)]
    assert note == "report.html has tables only; for charts: pip install 'fedsag[charts]'"


def test_a_file_that_sites_share_and_a_script_changed_is_a_note_of_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(workspace, "_LARGE", 0)
    monkeypatch.setattr(workspace, "_clone", lambda source, target: False)
    large = tmp_path / "job" / "app" / "custom" / "net.pth"
    large.parent.mkdir(parents=True)
    large.write_text("weights")

    class Changes(FakeEngine):
        def stop(self, grace_s=5.0, show_stack=()):
            copy = tmp_path / "ws" / "site-1" / "simulate_job" / "app_site-1" / "custom" / "net.pth"
            copy.chmod(0o644)
            copy.write_text("other weights")
            super().stop(grace_s, show_stack)

    engine = simulated(tmp_path, monkeypatch, up("server"), ended("server", 1), engine=Changes)

    (told,) = [event.text for event in engine.watcher.seen if isinstance(event, Notice) and "net.pth" in event.text]
    assert "was changed in the run, and 3 places share this file" in told
    assert engine.came.report.notices == [told]
    assert large.read_text() == "weights"


def test_a_full_disk_in_the_middle_ends_the_run_with_a_line(tmp_path, monkeypatch):
    engine = simulated(tmp_path, monkeypatch, up("server"), OSError(errno.ENOSPC, "No space left on device", "made"))

    assert engine.came.exit_code == 4
    assert (engine.came.message, engine.came.hint) == ("made: No space left on device", "free some space on that disk")


def test_a_bug_keeps_its_traceback_and_the_report_has_the_same_exit_code(tmp_path, monkeypatch):
    with pytest.raises(ZeroDivisionError):
        simulated(tmp_path, monkeypatch, up("server"), ZeroDivisionError())

    written = msgspec.json.decode((tmp_path / "ws" / "report.json").read_bytes(), type=Report)
    assert (written.ok, written.exit_code, written.cause) == (False, 1, "a bug in fedsag")


@pytest.mark.parametrize("when", ["before the plan", "in the run"])
def test_ctrl_c_is_told_also_where_another_error_takes_the_place_of_its_exception(tmp_path, monkeypatch, when):
    def interrupted(*_):
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except Interrupted:
            raise RuntimeError("cannot release un-acquired lock") from None

    class Breaks(FakeEngine):
        start = interrupted
        prepare = interrupted if when == "before the plan" else FakeEngine.prepare

    with pytest.raises(Interrupted) as raised:
        simulated(tmp_path, monkeypatch, *WELL, engine=Breaks)

    assert raised.value.exit_code == 130
    if when == "in the run":
        written = msgspec.json.decode((tmp_path / "ws" / "report.json").read_bytes(), type=Report)
        assert (written.exit_code, written.cause) == (130, "interrupted")


def test_ctrl_c_after_the_last_round_does_not_change_how_the_run_ended(tmp_path, monkeypatch):
    def interrupted(path, value, write=workspace.write_json):
        os.kill(os.getpid(), signal.SIGINT)
        write(path, value)

    class Breaks(FakeEngine):
        def next_event(self, timeout_s=None):
            monkeypatch.setattr("fedsag_cli.simulator.supervisor.write_json", interrupted)
            return super().next_event(timeout_s)

    before = signal.getsignal(signal.SIGINT)

    engine = simulated(tmp_path, monkeypatch, *WELL, engine=Breaks)

    assert engine.came.ok
    assert signal.getsignal(signal.SIGINT) is before


def test_a_workspace_that_is_used_is_refused_before_anything_starts(tmp_path, monkeypatch):
    engine = FakeEngine()
    monkeypatch.setattr(simulator, "LocalEngine", lambda **_: engine)
    (tmp_path / "ws").write_text("a file")

    with pytest.raises(WorkspaceError, match="cannot be used"):
        simulate(job(tmp_path / "job"), tmp_path / "ws", Options(num_clients=2))

    assert engine.started == []
    assert engine.stopped
