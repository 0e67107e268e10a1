"""The contract of an engine, for processes that are forked and for fresh interpreters."""

import contextlib
import os
import signal
import subprocess
import textwrap
from pathlib import Path

import pytest
from runs import eventually

from fedsag_cli.events import Notice, ProcessExited, ProcessStarted
from fedsag_cli.processes.child import ProcessSpec
from fedsag_cli.processes.kill import kill_marked
from fedsag_cli.processes.local import LocalEngine

LIMIT_S = 60


class Errands:
    """An engine, a folder for what it runs, and what it told."""

    def __init__(self, folder, *, fork):
        self.folder = folder
        self.env = os.environ | {"PYTHONPATH": str(folder)}
        self.engine = LocalEngine(fork=fork, env=self.env)
        self.told = []

    def start(self, text, name="errand", **settings):
        head = "def run(link=None):\n" if settings.get("has_link") else "def run(*args):\n"
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


def test_one_process_is_ended_and_the_others_go_on(errands):
    for name in ("one", "two"):
        errands.start(
            "import os, signal; os.mkfifo('fifo-' + __name__); open('fifo-' + __name__).read(); return 0", name=name
        )
        eventually(lambda name=name: (errands.folder / f"fifo-{name}").exists())

    errands.engine.end("one")
    errands.engine.end("of another name")

    assert errands.until(ProcessExited).name == "one"
    with (errands.folder / "fifo-two").open("w"):
        pass
    assert errands.until(ProcessExited).exit_code == 0
    assert {event.name for event in errands.told if isinstance(event, ProcessExited)} == {"one", "two"}


def test_what_it_tells_comes_before_its_end_and_it_hears_what_it_is_told(errands):
    errands.start(
        """
        import socket
        from fedsag_cli import events
        parent = socket.socket(fileno=link)
        heard = events.from_line(parent.makefile("rb").readline())
        for number in range(500):
            parent.sendall(events.to_line(events.Notice(text=f"{heard.text} {number}")))
        return 0
        """,
        has_link=True,
    )
    errands.engine.tell("errand", Notice(text="hello"))
    errands.until(ProcessExited)

    assert [event.text for event in errands.told if isinstance(event, Notice)] == [f"hello {n}" for n in range(500)]
    assert isinstance(errands.told[-1], ProcessExited)


def test_a_line_cut_off_by_the_end_of_its_teller_is_dropped(errands):
    errands.start('import os; os.write(link, b\'{"event":"Notice"\'); return 0', has_link=True)

    assert errands.until(ProcessExited).exit_code == 0


def test_telling_one_that_is_gone_is_fine(errands):
    errands.start("return 0", has_link=True)
    errands.until(ProcessExited)

    errands.engine.tell("errand", Notice(text="hello"))
    errands.engine.tell("nobody", Notice(text="hello"))


def test_a_command_gets_the_environment_the_folder_and_the_log(errands, tmp_path):
    env = {"PATH": os.environ["PATH"], "SITE": "a b", "OLD": os.fsdecode(b"\xff"), "NEW": "é"}
    shown = 'test "$OLD" = "$(printf "\\377")" && echo "$SITE" $NEW $HOME; pwd; ls -l /proc/self/fd | wc -l'
    errands.start_spec("errand", command=["sh", "-c", shown], env=env)

    assert errands.until(ProcessExited).exit_code == 0
    assert errands.log() == f"a b é\n{tmp_path}\n5\n"  # a line of its own, three streams, and ls's


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


def test_processes_with_a_mark_are_ended_and_named():
    child = subprocess.Popen(["sleep", "60"], env={"FEDSAG_RUN": "a-mark"})

    assert kill_marked("FEDSAG_RUN", "another") == []
    assert kill_marked("FEDSAG_RUN", "a-mark") == [f"{child.pid} (sleep)"]
    assert child.wait() == -9
