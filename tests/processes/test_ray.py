"""The parts of the engine for several machines that need no Ray."""

import os
import signal
import subprocess
import sys

import pytest
from runs import eventually, job

from fedsag_cli.errors import UsageError
from fedsag_cli.interop import reading
from fedsag_cli.job import Job
from fedsag_cli.processes.child import ProcessSpec
from fedsag_cli.processes.ray.logs import Logs
from fedsag_cli.processes.ray.messages import Here, Logged, Node
from fedsag_cli.processes.ray.places import Places
from fedsag_cli.simulator.options import Options, check_engine, gpu_groups
from fedsag_cli.simulator.planning import make_plan
from fedsag_cli.workspace import Workspace

THERE = Here(root="/home/a/ws", package="/opt/v/fedsag_cli", python="/opt/v/bin/python", versions={})
HERE = Here(root="/tmp/node", package="/srv/fedsag_cli", python="/srv/bin/python3", versions={})


@pytest.mark.parametrize(
    ("text", "becomes"),
    [
        ("/home/a/ws/site-1/train.py", "/tmp/node/site-1/train.py"),
        ("/home/a/ws", "/tmp/node"),
        ("/x:/home/a/ws/custom:/opt/v/fedsag_cli/y", "/x:/tmp/node/custom:/srv/fedsag_cli/y"),
        ("--data=/home/a/ws/data", "--data=/tmp/node/data"),
        ("/home/a/ws2/x", "/home/a/ws2/x"),
        ("/mnt/home/a/ws/x", "/mnt/home/a/ws/x"),
        ("/opt/v/bin/python", "/srv/bin/python3"),
        ("/data/mnist", "/data/mnist"),
    ],
)
def test_only_paths_of_the_run_of_fedsag_and_of_python_become_those_of_the_node(text, becomes):
    assert Places(THERE, HERE, "/tmp/s").of(text) == becomes


def test_a_process_gets_the_environment_of_the_run_but_the_home_and_the_path_of_its_node(monkeypatch):
    monkeypatch.setenv("HOME", "/home/of-node")
    monkeypatch.setenv("PATH", "/bin/of-node")
    monkeypatch.delenv("TMPDIR", raising=False)
    given = {"HOME": "/home/a", "PATH": "/bin", "TMPDIR": "/t", "LR": "0.1", "FEDSAG_ADDRESS": "/old"}
    spec = ProcessSpec(name="site-1", args=["/home/a/ws/t.py"], env=given, cwd="/home/a/ws/x", log="/home/a/ws/log.txt")

    moved = Places(THERE, HERE, "/tmp/s").spec(spec)

    assert (moved.args, moved.cwd, moved.log) == (["/tmp/node/t.py"], "/tmp/node/x", "/tmp/node/log.txt")
    assert moved.env["PATH"].endswith(":/bin/of-node")
    assert {"HOME": "/home/of-node", "LR": "0.1", "FEDSAG_ADDRESS": "/tmp/s"}.items() <= moved.env.items()
    assert "TMPDIR" not in moved.env


def test_of_a_log_only_what_is_new_is_told_with_the_paths_of_the_workspace(tmp_path):
    logs = Logs(tmp_path, "/home/a/ws")
    log = tmp_path / "site-1" / "log.txt"
    logs.watch(log)

    log.write_text("one\n")
    first = list(logs.grown(all_of_them=True))
    with log.open("a") as more:
        more.write(f'File "{tmp_path}/site-1/train.py"\n')

    assert first == [Logged("site-1/log.txt", b"one\n")]
    assert list(logs.grown(all_of_them=True)) == [Logged("site-1/log.txt", b'File "/home/a/ws/site-1/train.py"\n')]
    assert list(logs.grown(all_of_them=True)) == []


def test_the_folder_of_a_process_that_is_killed_is_removed(tmp_path):
    holds = """
        import time
        from fedsag_cli.processes.ray.left import private_folder
        with private_folder("fedsag-node-") as folder:
            (folder / "a").mkdir()
            print(folder, flush=True)
            time.sleep(1000)
    """.replace("\n        ", "\n")
    env = os.environ | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", holds], env=env, stdout=subprocess.PIPE, text=True) as process:
        folder = process.stdout.readline().strip()
        assert list(map(str, tmp_path.iterdir())) == [folder]
        process.send_signal(signal.SIGKILL)

    eventually(lambda: not list(tmp_path.iterdir()))


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        ({"engine": "rai"}, "--engine 'rai': there is none", "did you mean 'ray'?"),
        ({"address": "head:6379"}, "--address names a Ray cluster", "give --engine ray too"),
        ({"engine": "ray", "address": "auto"}, "--address 'auto' is not HOST:PORT", "example: 192.168.0.10:6379"),
        (
            {"engine": "ray", "address": "ray://h:1"},
            "--address 'ray://h:1' is not HOST:PORT",
            "example: 192.168.0.10:6379",
        ),
    ],
)
def test_a_wrong_engine_or_address_is_an_error(options, message, hint, monkeypatch):
    monkeypatch.setattr("fedsag_cli.simulator.options.check_installed", lambda: None)

    with pytest.raises(UsageError) as raised:
        check_engine(Options(**options))

    assert (raised.value.message, raised.value.hint) == (message, hint)


def test_without_ray_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)

    with pytest.raises(UsageError) as raised:
        check_engine(Options(engine="ray"))

    assert raised.value.hint == "pip install 'fedsag[ray]'"


def test_a_gpu_that_one_node_does_not_have_is_an_error_that_names_the_node():
    nodes = [Node(name="node-1 (a)", gpus=2), Node(name="node-2 (b)", gpus=1), Node(name="node-3 (c)")]

    assert gpu_groups("0", nodes) == ["0"]
    with pytest.raises(UsageError) as raised:
        gpu_groups("0,1", nodes)

    assert raised.value.hint == "node-2 (b) has 1, numbered from 0"


def test_sites_are_spread_over_nodes_and_then_over_the_gpu_groups_of_each(tmp_path):
    read = Job.load(job(tmp_path / "job"), reading.translate)
    nodes = [Node(name="a", gpus=2), Node(name="b", gpus=2)]

    planned = make_plan(read, Workspace(tmp_path / "ws"), Options(num_clients=5, gpus="0,1"), nodes=lambda: nodes)

    assert [(site.group, site.node, site.env["CUDA_VISIBLE_DEVICES"]) for site in planned.plan.sites] == [
        (0, 0, "0"),
        (1, 1, "0"),
        (2, 0, "1"),
        (3, 1, "1"),
        (0, 0, "0"),
    ]
    assert planned.plan.slots == 1
