"""After any ending: no process, no folder for a socket, no half file, nothing outside the workspace."""

import os
import resource
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import pytest
from runs import ADDS_ONE, FEDSAG, Running, eventually, job, run

from fedsag_cli.wire.channel import private_address

DAEMONS = """
    import os, subprocess, sys, time
    import fedsag_cli.client as flare

    endless = [sys.executable, "-c", "import time; time.sleep(1000)"]
    subprocess.Popen(endless)
    subprocess.Popen(endless, start_new_session=True)
    subprocess.Popen(["sh", "-c", f"setsid {endless[0]} -c '{endless[2]}' & exit"], start_new_session=True)
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(1000)
        os._exit(0)
    flare.init()
    while flare.is_running():
        model = flare.receive()
        {then}
        flare.send(flare.FLModel(params=model.params))
"""


def daemons(folder, then, **settings):
    return job(folder, DAEMONS.replace("{then}", then), **settings)


@pytest.mark.parametrize("launcher", ["fork", "spawn"])
@pytest.mark.parametrize("then", ["pass", "raise ValueError", "os.kill(os.getpid(), 9)"])
def test_a_process_in_a_session_of_its_own_ends_with_the_run(tmp_path, then, launcher):
    run(daemons(tmp_path / "job", then), "-n", 2, "-t", 2, "--launcher", launcher)  # which sees that nothing is left


@pytest.mark.parametrize("who", ["command", "nursery", "server", "site-1"])
def test_it_ends_too_whoever_is_killed(tmp_path, who):
    with Running(daemons(tmp_path / "job", "time.sleep(1000)"), "-n", 2, "-t", 2) as running:
        running.wait_until_told("TaskSent", 2)
        pids = running.pids()
        nursery = int(Path(f"/proc/{pids['server']}/stat").read_text().rpartition(")")[2].split()[1])
        os.kill({"command": running.process.pid, "nursery": nursery}.get(who) or pids[who], signal.SIGKILL)
        outcome = running.outcome()
        eventually(lambda: not list(running.tmp.glob("fedsag*")), limit_s=10)

    assert outcome.code == (-9 if who == "command" else 4)
    assert outcome.left_alive == []


def test_a_process_that_forgot_its_environment_ends_too(tmp_path):
    """Only by its descent it can be known as ours."""
    alone = f'subprocess.Popen([sys.executable, "-c", "import os; print(os.getpid(), flush=True); os.read(0, 1)"], \
env={{}}, start_new_session=True, stdin=subprocess.PIPE, stdout=open("{tmp_path}/pid", "w"))'
    run(daemons(tmp_path / "job", alone + "; time.sleep(0.5)", num_rounds=1, min_clients=1), "-n", 1)
    pid = int((tmp_path / "pid").read_text())

    assert not Path(f"/proc/{pid}").exists()


@pytest.fixture
def short_folder():
    """A folder in whose path a socket's name fits, whatever pytest's own folder is called."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield Path(folder)


def test_the_socket_folders_that_killed_runs_have_left_are_removed_and_no_other(short_folder, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(short_folder))
    with private_address() as address:
        left = Path(address).parent
        Path(address).touch()
        shutil.copytree(left, short_folder / "copy")
    assert list(short_folder.glob("fedsag*")) == []
    (short_folder / "copy").rename(left)  # as if it had been killed
    mine = [short_folder / f"fedsag-run-{name}" for name in ("mine", "0123456789abcdef")]
    for folder in mine:
        folder.mkdir()
    (mine[0] / "server.sock").write_text("mine")
    with private_address() as address, private_address() as other:
        assert Path(other).parent != Path(address).parent
        assert sorted(short_folder.iterdir()) == sorted([Path(address).parent, Path(other).parent, *mine])
    assert sorted(short_folder.iterdir()) == sorted(mine)
    assert (mine[0] / "server.sock").read_text() == "mine"


@pytest.mark.parametrize("place", ["x" * 200, "nowhere"], ids=["too long", "not there"])
def test_where_a_socket_cannot_be_in_tmpdir_it_is_in_the_folder_of_the_system(tmp_path, monkeypatch, place):
    (tmp_path / ("x" * 200)).mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / place))

    with private_address() as address:
        assert Path(address).parent.parent == Path("/tmp")


def test_a_run_whose_processes_were_all_killed_at_once_is_tidied_up_by_the_next(tmp_path):
    made = job(
        tmp_path / "job", ADDS_ONE.replace("        mean =", "        __import__('time').sleep(9)\n        mean =")
    )
    with Running(made, "-n", 2, "-t", 2) as running:
        running.wait_until_told("TaskSent", 2)
        pids = running.pids()
        nursery = int(Path(f"/proc/{pids['server']}/stat").read_text().rpartition(")")[2].split()[1])
        for pid in (running.process.pid, nursery, *pids.values()):
            os.kill(pid, signal.SIGKILL)
        running.outcome()
        assert len(list(running.tmp.glob("fedsag-run-*"))) == 1

        run(
            job(tmp_path / "other"), "-n", 2, "-t", 2, workspace=tmp_path / "other-ws", env={"TMPDIR": str(running.tmp)}
        )

        assert not list(running.tmp.glob("fedsag*"))


BIG = """
    import numpy as np
    import fedsag_cli.client as flare

    flare.init()
    while flare.is_running():
        model = flare.receive()
        flare.send(flare.FLModel(params={k: v + 1 for k, v in model.params.items()}, metrics={"mean": 1.0}))
"""


def full_at(size):
    """As a disk that has room for files of `size` bytes only."""

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return limit


@pytest.mark.parametrize("size", [0, 100, 1000, 2000, 20_000, 100_000, 4_000_000])
def test_wherever_a_file_has_no_room_the_run_ends_with_a_clear_error_and_no_half_file(tmp_path, size):
    """A model of 256 KB: the small sizes stop the plan, the logs and the events, the large ones models."""
    model = {"persistor": {"path": "NPModelPersistor", "args": {"model": [[0.5] * 256] * 256}}}
    made = job(tmp_path / "job", BIG, components=model, num_rounds=3)

    outcome = run(made, "-n", 2, "-t", 2, preexec_fn=full_at(size))

    assert (outcome.code in (2, 4)) if size < 4_000_000 else (outcome.code == 0), outcome
    assert "Traceback" not in outcome.err
    assert outcome.code == 0 or "File too large" in outcome.err or "set TMPDIR" in outcome.err
    assert not list((tmp_path / "ws").rglob("*.part"))
    again = run(made, "-n", 2, "-t", 2)
    assert again.code == 0, again


mounts = pytest.mark.skipif(
    subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode != 0
    if shutil.which("unshare")
    else True,
    reason="this machine lets nobody mount a small disk",
)


@mounts
@pytest.mark.parametrize("kilobytes", [4, 40, 150, 300, 600, 900, 1300, 4000])
def test_a_disk_that_is_full_ends_the_run_with_a_clear_error_and_no_half_file(tmp_path, kilobytes):
    model = {"persistor": {"path": "NPModelPersistor", "args": {"model": [[0.5] * 256] * 256}}}
    made = job(tmp_path / "job", BIG, components=model, num_rounds=3)
    (tmp_path / "disk").mkdir()
    script = f"""
        mount -t tmpfs -o size={kilobytes}k none {tmp_path}/disk || exit 99
        {FEDSAG} simulator {made} -w {tmp_path}/disk/ws -n 2 -t 2
        code=$?
        find {tmp_path}/disk -name '*.part'
        rm -f {tmp_path}/disk/ws/events.jsonl
        exit $code
    """
    done = subprocess.run(["unshare", "-rm", "sh", "-c", script], capture_output=True, text=True, timeout=100)

    assert done.returncode in ((2, 4) if kilobytes < 4000 else (0,)), done
    assert "Traceback" not in done.stderr
    assert done.returncode == 0 or "No space left on device" in done.stderr
    assert ".part" not in done.stdout


def test_a_workspace_in_which_a_folder_cannot_be_written_is_an_error_naming_it(tmp_path):
    made = job(tmp_path / "job")
    (tmp_path / "ws" / "server").mkdir(parents=True)
    (tmp_path / "ws" / "server" / "simulate_job").write_text("a file")

    outcome = run(made, "-n", 2, "-t", 2)

    assert outcome.code == 2, outcome
    assert f"{tmp_path}/ws/server/simulate_job" in outcome.err
    assert (tmp_path / "ws" / "server" / "simulate_job").read_text() == "a file"
