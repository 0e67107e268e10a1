"""A function in a forked process: it tells lines, its exit code is known, and it ends with the process that forked it.

Each test forks in a process of its own: that of the tests may have several threads.
"""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

from runs import eventually

LIMIT_S = 60


def python(text):
    program = "import os, signal, sys, time\nfrom fedsag_cli.processes.forked import forked\n" + textwrap.dedent(text)
    return subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)


def said_by(text):
    with python(text) as process:
        out, _ = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0
    return out.split()


def is_gone(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_what_it_writes_is_read_and_what_it_returns_is_its_exit_code():
    assert said_by("""
        process = forked(lambda telling: os.write(telling, b"five") and 5)
        told = os.read(process.told, 100)
        assert os.read(process.told, 100) == b""
        print(told.decode(), process.wait())
    """) == ["five", "5"]


def test_a_signal_that_ends_it_is_a_negative_exit_code_whatever_the_caller_does_with_signals():
    assert said_by("""
        signal.signal(signal.SIGTERM, lambda *_: print("told"))
        process = forked(lambda telling: os.write(telling, b"!") and time.sleep(1000))
        os.read(process.told, 1)
        process.send_signal(signal.SIGTERM)
        print(process.wait())
    """) == ["-15"]


def test_an_error_in_it_is_exit_code_1_and_nothing_that_it_prints_is_seen():
    assert said_by("""
        process = forked(lambda telling: print("lost") or 1 / 0)
        print(process.wait())
    """) == ["1"]


def test_it_is_in_a_session_of_its_own_so_that_ctrl_c_does_not_reach_it():
    assert said_by("""
        process = forked(lambda telling: os.write(telling, str(os.getsid(0)).encode()) and 0)
        print(int(os.read(process.told, 100)) == process.pid, process.wait())
    """) == ["True", "0"]


def test_when_the_process_that_forked_it_is_killed_it_is_killed_too():
    with python("""
        process = forked(lambda telling: time.sleep(1000))
        print(process.pid, flush=True)
        process.wait()
    """) as process:
        pid = int(process.stdout.readline())
        os.kill(process.pid, signal.SIGKILL)
        process.communicate(timeout=LIMIT_S)

    eventually(lambda: is_gone(pid))
