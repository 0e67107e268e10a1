"""One contract, both launchers; and a run driven by a history of events."""

import contextlib
import os
import signal
import textwrap
from pathlib import Path

import pytest
from runs import ADDS_ONE, eventually, job

from fedsag_cli import simulator
from fedsag_cli.errors import Interrupted, RunError, WorkspaceError
from fedsag_cli.events import (
    ClientWanted,
    Failure,
    Notice,
    ProcessExited,
    ProcessStarted,
    RunFailed,
    RunFinished,
    ServerReady,
    WillWrite,
    WorkflowFinished,
)
from fedsag_cli.processes.child import ProcessSpec
from fedsag_cli.processes.local import LocalEngine
from fedsag_cli.simulator import simulate
from fedsag_cli.simulator.options import Options

LIMIT_S = 60


class Errands:
    """An engine, a folder for what it runs, and what it told."""

    def __init__(self, folder, *, fork):
        self.folder = folder
        self.env = os.environ | {"PYTHONPATH": str(folder)}
        self.engine = LocalEngine(fork=fork, env=self.env)
        self.told = []

    def start(self, text, name="errand", **settings):
        head = "def run(line=None):\n" if settings.get("talks") else "def run(*args):\n"
        (self.folder / f"{name}.py").write_text(head + textwrap.indent(textwrap.dedent(text), "    "))
        self.start_spec(name, target=f"{name}:run", **settings)

    def start_spec(self, name, **settings):
        ready = {"name": name, "env": self.env, "cwd": str(self.folder), "log": str(self.folder / f"{name}.txt")}
        self.engine.start(ProcessSpec(**ready | settings))

    def until(self, kind, name=None):
        while True:
            event = self.engine.next_event(timeout_s=LIMIT_S)
            self.told.append(event)
            if isinstance(event, kind) and name in (None, event.name):
                return event

    def log(self, name="errand"):
        path = self.folder / f"{name}.txt"
        return path.read_text() if path.exists() else ""


@pytest.fixture(params=["fork", "spawn"])
def errands(request, tmp_path):
    errands = Errands(tmp_path, fork=request.param == "fork")
    yield errands
    errands.engine.stop(grace_s=0.0)


def is_gone(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_a_process_is_told_from_its_start_to_its_end(errands):
    errands.start("print('working', *args); return 4", args=["with", "two"])

    exited = errands.until(ProcessExited)

    assert [type(event) for event in errands.told] == [ProcessStarted, ProcessExited]
    assert (exited.name, exited.exit_code) == ("errand", 4)
    assert errands.log() == "working with two\n"


def test_a_process_that_fails_leaves_its_traceback_and_code_one(errands):
    errands.start("raise ValueError('no')")

    assert errands.until(ProcessExited).exit_code == 1
    assert errands.log().endswith("ValueError: no\n")


def test_a_signal_is_a_negative_code(errands):
    errands.start("import os; os.kill(os.getpid(), 9)")

    assert errands.until(ProcessExited).exit_code == -9


def test_what_it_tells_comes_before_its_end_and_it_hears_what_it_is_told(errands):
    errands.start(
        """
        import socket
        from fedsag_cli import events
        parent = socket.socket(fileno=line)
        heard = events.from_line(parent.makefile("rb").readline())
        for number in range(500):
            parent.sendall(events.to_line(events.Notice(text=f"{heard.text} {number}")))
        return 0
        """,
        talks=True,
    )
    errands.engine.tell("errand", Notice(text="hello"))
    errands.until(ProcessExited)

    assert [event.text for event in errands.told if isinstance(event, Notice)] == [f"hello {n}" for n in range(500)]
    assert isinstance(errands.told[-1], ProcessExited)


def test_a_line_cut_off_by_the_end_of_its_teller_is_dropped(errands):
    errands.start('import os; os.write(line, b\'{"event":"Notice"\'); return 0', talks=True)

    assert errands.until(ProcessExited).exit_code == 0


def test_telling_one_that_is_gone_is_fine(errands):
    errands.start("return 0", talks=True)
    errands.until(ProcessExited)

    errands.engine.tell("errand", Notice(text="hello"))
    errands.engine.tell("nobody", Notice(text="hello"))


def test_a_command_gets_the_environment_the_folder_and_the_log(errands, tmp_path):
    env = {"PATH": os.environ["PATH"], "SITE": "a b"}
    errands.start_spec("errand", command=["sh", "-c", 'echo "$SITE" $HOME; pwd; ls -l /proc/self/fd | wc -l'], env=env)

    assert errands.until(ProcessExited).exit_code == 0
    assert errands.log() == f"a b\n{tmp_path}\n5\n"  # a line of its own, three streams, and ls's


def test_a_command_that_does_not_exist_says_so(errands):
    errands.start_spec("errand", command=["no-such-command", "--now"])

    exited = errands.until(ProcessExited)

    assert exited.exit_code == 1
    assert exited.failure.cause == "no-such-command: [Errno 2] No such file or directory"
    assert "no-such-command" in errands.log()


def test_a_folder_that_does_not_exist_says_so(errands):
    errands.start("return 0", cwd="/nowhere")

    exited = errands.until(ProcessExited)

    assert exited.exit_code == 1
    assert "No such file or directory: '/nowhere'" in exited.failure.cause


def test_waiting_has_a_limit(errands):
    with pytest.raises(TimeoutError):
        errands.engine.next_event(timeout_s=0.01)


def test_what_a_killed_process_left_running_ends_with_it(errands):
    errands.start("import os, subprocess\nprint(subprocess.Popen(['sleep', '600']).pid)\nos.kill(os.getpid(), 9)")

    assert errands.until(ProcessExited).exit_code == -9
    eventually(lambda: is_gone(int(errands.log())))


def test_stop_ends_processes_commands_and_their_children(errands):
    errands.start("import subprocess\nsubprocess.run(['sleep', '601'])")
    errands.start_spec("command", command=["sh", "-c", "sleep 602 & sleep 603"])
    errands.start("import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(600)", name="deaf")
    started = [errands.until(ProcessStarted) for _ in range(3)]
    pids = {event.name: event.pid for event in started}
    eventually(lambda: len(group_of(pids["errand"])) == 2 and len(group_of(pids["command"])) == 3)
    everybody = [each for pid in pids.values() for each in group_of(pid)]

    errands.engine.stop(grace_s=0.2)

    eventually(lambda: all(map(is_gone, everybody)))


def test_stop_asks_before_it_insists(errands):
    errands.start(
        "import signal, time\nsignal.signal(15, lambda *_: (print('asked'), exit()))\nprint('up')\ntime.sleep(9)"
    )
    errands.until(ProcessStarted)
    eventually(lambda: errands.log() == "up\n")

    errands.engine.stop(grace_s=5.0)

    assert "asked" in errands.log()


def test_stopping_twice_is_fine(errands):
    errands.engine.stop(grace_s=0.0)
    errands.engine.stop(grace_s=0.0)


def test_a_nursery_that_dies_is_told(tmp_path):
    errands = Errands(tmp_path, fork=True)
    errands.start("import os, time; print(os.getppid()); time.sleep(600)")
    errands.until(ProcessStarted)
    eventually(lambda: errands.log().endswith("\n"))

    os.kill(int(errands.log()), signal.SIGKILL)

    exited = errands.until(ProcessExited)
    errands.engine.stop(grace_s=0.0)
    assert (exited.name, exited.exit_code, exited.failure.cause) == ("nursery", -9, "")


def group_of(leader):
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(words[2]) == leader and words[0] != "Z":
                found.append(int(folder.name))
    return found


class FakeEngine:
    """An engine whose history is written already. Where it is a list's end, nothing happens any more."""

    def __init__(self, *history):
        self._history = list(history)
        self.started, self.told, self.stopped, self.hung = [], [], False, []

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

    def stop(self, grace_s=5.0, hung=()):
        self.stopped = True
        self.hung += list(hung)


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
        assert (tmp_path / "ws" / "report.json").exists()
        return engine

    return live


def up(name):
    return ProcessStarted(name=name, pid=1)


def ended(name, code=0, **failure):
    return ProcessExited(name=name, exit_code=code, failure=Failure(**failure) if failure else None)


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
    assert engine.hung == ["site-1"]
    assert "still alive" in engine.came.failures["site-1"].failure.cause


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
