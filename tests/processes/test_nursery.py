"""The nursery, alone at the other end of its socket: imports once, forks on request, ends with its parent."""

import contextlib
import os
import resource
import signal
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from runs import eventually

from fedsag_cli.processes.child import STACK_SIGNAL, ProcessSpec, fresh_interpreter
from fedsag_cli.processes.kill import kill_group
from fedsag_cli.processes.nursery import Exited, FromNursery, Preload, Start, Started, Stop
from fedsag_cli.wire.channel import UnixChannel

LIMIT_S = 60


class Home:
    """A nursery, and its parent's end of the line."""

    def __init__(self, folder):
        self.folder = folder
        self.ended = []
        ours, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                fresh_interpreter("fedsag_cli.processes.nursery", str(theirs.fileno()), "fork"),
                env=os.environ | {"PYTHONPATH": str(folder)},
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        self.channel = UnixChannel(ours, FromNursery)

    def fork(self, text, name="child", **settings):
        """A child that runs `text`; its pid."""
        (self.folder / f"{name}.py").write_text(
            "def run():\n" + textwrap.indent(textwrap.dedent(text) + "\nreturn 0", "    ")
        )
        return self.fork_spec(ProcessSpec(**self.spec(name, **settings)))

    def spec(self, name, **settings):
        ready = {"name": name, "target": f"{name}:run", "env": dict(os.environ), "cwd": str(self.folder)}
        return ready | {"log": str(self.folder / f"{name}.txt")} | settings

    def fork_spec(self, spec):
        self.channel.send(Start(spec, fresh=False))
        while not isinstance(told := self.channel.receive(timeout_s=LIMIT_S)[0], Started):
            self.ended.append(told)  # of one that was forked before
        return told.pid

    def next(self):
        """The next end of a child."""
        return self.ended.pop(0) if self.ended else self.channel.receive(timeout_s=LIMIT_S)[0]

    def log(self, name="child"):
        path = self.folder / f"{name}.txt"
        return path.read_text() if path.exists() else ""

    def wait(self):
        return self.process.wait(timeout=LIMIT_S)

    def status(self, key):
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(line.split()[1] for line in lines if line.startswith(key + ":"))


@pytest.fixture
def home(tmp_path):
    home = Home(tmp_path)
    yield home
    home.channel.close()
    try:
        home.process.wait(timeout=LIMIT_S)
    finally:
        with contextlib.suppress(ProcessLookupError):
            home.process.kill()


def is_gone(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_a_child_is_told_when_it_starts_and_when_it_ends(home):
    pid = home.fork("print('here'); raise SystemExit(3)")

    assert home.next() == Exited("child", 1, None)  # only a script's sys.exit is an exit code
    assert pid != home.process.pid
    assert home.log().startswith("here\n")


def test_a_signal_that_ended_a_child_is_a_negative_code(home):
    home.fork("import os; os.kill(os.getpid(), 9)")

    assert home.next() == Exited("child", -9, None)


def test_a_child_says_why_it_ends(home):
    home.fork(
        "from fedsag_cli.processes.child import EndMessage, send_end_message\n"
        "send_end_message(EndMessage(error='tired'))\nreturn 5"
    )

    exited = home.next()

    assert (exited.exit_code, exited.message.error) == (5, "tired")


def test_an_end_message_may_be_long_and_hold_what_it_likes(home):
    home.fork(
        "from fedsag_cli.processes.child import EndMessage, send_end_message\n"
        "send_end_message(EndMessage(error='ä\\udc80' * 99_999))"
    )

    assert home.next().name == "child"


def test_many_children_live_side_by_side(home):
    for number in range(20):
        home.fork("import time; time.sleep(0.05); return 7", name=f"child{number}")

    assert {home.next().name for _ in range(20)} == {f"child{number}" for number in range(20)}


def test_each_of_hundreds_of_children_can_say_why_it_ends(home):
    text = """
        import os, pathlib, time
        from fedsag_cli.processes.child import EndMessage, send_end_message
        while not pathlib.Path("go").exists():
            time.sleep(0.05)
        send_end_message(EndMessage(error=f"I am {os.getpid()}"))
    """
    pids = [home.fork(text, f"child_{number}") for number in range(220)]  # whatever numbers their pipes have
    (home.folder / "go").touch()

    words = [home.next().message.error for _ in pids]

    assert sorted(words) == sorted(f"I am {pid}" for pid in pids)


def test_what_imports_take_down_at_exit_is_not_taken_down_in_every_child(home):
    (home.folder / "heavy.py").write_text(
        "import pathlib, weakref\nkept = type('Kept', (), {})()\nweakref.finalize(kept, print, 'taken down')\n"
    )
    home.channel.send(Preload(["heavy"]))
    home.fork("""
        import atexit, heavy, tempfile
        folder = tempfile.TemporaryDirectory()
        print(folder.name)
        atexit._run_exitfuncs()
    """)

    assert home.next().exit_code == 0
    assert not Path(home.log().split()[0]).exists(), "its own finalizers run"
    assert "taken down" not in home.log()


def test_what_cannot_be_imported_is_left_to_who_wants_it(home):
    (home.folder / "broken.py").write_text("1 / 0")
    home.channel.send(Preload(["nowhere", "broken", "", "colorsys"]))
    home.fork("import sys; print('colorsys' in sys.modules)")

    assert home.next().exit_code == 0
    assert home.log() == "True\n"


def test_a_child_sees_nothing_of_the_nurserys_folder_environment_and_streams(home, tmp_path):
    there = tmp_path / "there"
    there.mkdir()
    home.fork(
        """
        import os
        print(os.getcwd(), sorted(name for name in os.environ if name.startswith("FEDSAG")), "HOME" in os.environ)
        """,
        env={"FEDSAG_SITE": "x", "LC_CTYPE": "C.UTF-8"},
        cwd=str(there),
    )

    assert home.next().exit_code == 0
    assert home.log() == f"{there} ['FEDSAG_SITE'] False\n"


def test_ctrl_c_is_the_parents_to_answer(home):
    home.fork("return 0")
    home.next()
    os.kill(home.process.pid, signal.SIGINT)
    home.fork("return 0", name="another")

    assert home.next() == Exited("another", 0, None)


def test_what_a_killed_child_left_running_ends_with_it(home):
    child = home.fork(
        """
        import os, subprocess, time
        print(subprocess.Popen(["sleep", "600"]).pid)
        time.sleep(600)
        """
    )
    eventually(lambda: home.log().endswith("\n"))
    grandchild = int(home.log())
    os.kill(child, signal.SIGKILL)

    assert home.next().exit_code == -9
    eventually(lambda: is_gone(grandchild))


def test_stop_asks_first_and_insists_after_its_grace(home):
    polite = home.fork(
        """
        import signal, time
        signal.signal(signal.SIGTERM, lambda *_: (print("asked"), exit()))
        print("up")
        time.sleep(600)
        """,
        name="polite",
    )
    stubborn = home.fork(
        "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('up')\ntime.sleep(600)",
        name="stubborn",
    )
    eventually(lambda: home.log("polite") == home.log("stubborn") == "up\n")
    home.channel.send(Stop(1.0))

    assert home.wait() == 0
    eventually(lambda: is_gone(polite) and is_gone(stubborn))
    assert "asked" in home.log("polite")


def test_a_command_whose_leader_ends_at_once_is_still_let_print_its_stacks(home):
    (home.folder / "worker.py").write_text(
        textwrap.dedent(
            """
            import os, signal, sys, time
            def prints(*_):
                time.sleep(0.5)  # as a busy machine makes it
                print("the stack", flush=True)
                os._exit(1)
            signal.signal(int(sys.argv[1]), prints)
            print("ready", flush=True)
            time.sleep(600)
            """
        )
    )
    command = ["sh", "-c", f"{sys.executable} worker.py {int(STACK_SIGNAL)}; true"]
    leader = home.fork_spec(ProcessSpec(**home.spec("command", command=command)))
    eventually(lambda: "ready" in home.log("command"))

    home.channel.send(Stop(grace_s=LIMIT_S, show_stack=["command"]))

    assert home.next() == Exited("command", -int(STACK_SIGNAL), None)
    assert home.wait() == 0
    assert "the stack" in home.log("command")
    assert is_gone(leader)


def test_a_fresh_interpreter_that_cannot_be_told_what_to_be_says_why(home):
    resource.prlimit(home.process.pid, resource.RLIMIT_FSIZE, (0, 0))  # as a full disk

    home.channel.send(Start(ProcessSpec(**home.spec("child")), fresh=True))

    told = home.next()
    while isinstance(told, Started):
        told = home.next()
    assert (told.name, told.exit_code) == ("child", 1)
    assert told.message.error.startswith("child cannot be started: ")


@pytest.mark.parametrize("how", ["closed", "killed"])
def test_no_child_outlives_the_nursery(home, how):
    child = home.fork("import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(600)")
    if how == "closed":
        home.channel.close()
    else:
        home.process.kill()

    home.wait()
    eventually(lambda: is_gone(child))


def test_a_child_that_is_not_ours_is_reaped_and_not_told(home):
    home.fork(
        """
        import os, time
        if os.fork() == 0:
            os.setsid()
            os._exit(0)
        """
    )

    assert home.next() == Exited("child", 0, None)
    home.fork("return 0", name="another")
    assert home.next() == Exited("another", 0, None)


def test_a_group_that_is_gone_can_be_killed():
    process = subprocess.Popen(["true"], start_new_session=True)
    process.wait(timeout=LIMIT_S)

    kill_group(process.pid)


@pytest.mark.slow
def test_with_torch_it_stays_one_thread_and_a_child_can_use_all_cores(home):
    home.channel.send(Preload(["torch", "torch._dynamo"]))
    cores = os.cpu_count()
    home.fork(
        f"""
        import sys, threading
        assert "torch._dynamo" in sys.modules
        import torch
        assert not torch.cuda.is_initialized() and not torch.cuda._is_in_bad_fork()  # nor was it before the fork
        torch.set_num_threads({cores})
        print(torch.get_num_threads(), (torch.ones(1024, 1024) @ torch.ones(1024, 1024)).sum().item())
        import gc
        print(gc.get_freeze_count() > 100_000 and gc.isenabled())
        """
    )

    assert home.next() == Exited("child", 0, None)
    assert home.log() == f"{cores} 1073741824.0\nTrue\n"
    tasks = [task.joinpath("comm").read_text().strip() for task in Path(f"/proc/{home.process.pid}/task").iterdir()]
    assert len(tasks) <= cores, tasks  # its own, and those OpenBLAS made when numpy was imported


@pytest.mark.parametrize("fresh", [False, True])
def test_a_child_in_the_foreground_reads_and_writes_where_it_is_told(home, fresh):
    (home.folder / "child.py").write_text(
        "import sys\ndef run():\n    print('out', input())\n    print('err', file=sys.stderr)\n    return 0\n"
    )
    for name, text in (("in", "a line\n"), ("out", ""), ("err", "")):
        (home.folder / name).write_text(text)
    with (
        (home.folder / "in").open() as typed,
        (home.folder / "out").open("w") as out,
        (home.folder / "err").open("w") as err,
    ):
        spec = ProcessSpec(**home.spec("child"), in_foreground=True)
        home.channel.send(Start(spec, fresh=fresh), typed.fileno(), out.fileno(), err.fileno())
    assert isinstance(home.next(), Started)
    assert home.next() == Exited("child", 0, None)

    assert (home.folder / "out").read_text() == "out a line\n"
    assert (home.folder / "err").read_text() == "err\n"
    assert home.log() == ""
