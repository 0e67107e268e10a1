"""A run among strangers: who is none of its children is not let in, and does it no harm."""

import ast
import socket
import stat
import struct
from pathlib import Path

import msgspec
import pytest
from runs import Running, eventually, job

import fedsag_cli
from fedsag_cli.errors import ChannelClosed
from fedsag_cli.wire.channel import connect
from fedsag_cli.wire.messages import Hello

WAITS = """
    import os, time
    import fedsag_cli.client as flare

    flare.init()
    while flare.is_running():
        model = flare.receive()
        while not os.path.exists("../../../go"):
            time.sleep(0.02)
        flare.send(flare.FLModel(params={k: v + 1 for k, v in model.params.items()}))
"""


@pytest.fixture
def running(tmp_path):
    with Running(job(tmp_path / "job", WAITS), "-n", 2, "-t", 2) as running:
        running.wait_until_told("TaskSent", 2)
        yield running


def address_of(running):
    eventually(lambda: list(running.tmp.glob("fedsag-run-*/server.sock")))
    return next(running.tmp.glob("fedsag-run-*/server.sock"))


def go(running):
    (running.workspace / "go").touch()
    return running.outcome()


def frame(body):
    return struct.pack("<Q", len(body)) + body


def test_only_the_user_can_reach_the_socket_and_only_who_knows_the_token_gets_in(running):
    address = address_of(running)
    assert stat.S_IMODE(address.parent.stat().st_mode) == 0o700

    for token in ("", "0" * 32, "\ud800".encode(errors="replace").decode()):
        with pytest.raises(ChannelClosed):
            connect(str(address), Hello(site="site-1", token=token))

    assert go(running).code == 0


@pytest.mark.parametrize("launcher", ["fork", "spawn"])
def test_what_everybody_may_read_of_a_process_holds_nothing_of_the_environment(tmp_path, monkeypatch, launcher):
    """/proc/PID/cmdline is open to every user of the machine; tokens and API keys are in the environment."""
    monkeypatch.setenv("MY_API_KEY", "xyzzy-plugh")
    with Running(job(tmp_path / "job", WAITS), "-n", 2, "-t", 2, "--launcher", launcher) as running:
        running.wait_until_told("TaskSent", 2)
        pids = running.pids()
        arguments = {name: Path(f"/proc/{pid}/cmdline").read_bytes() for name, pid in pids.items()}
        environments = [Path(f"/proc/{pid}/environ").read_bytes() for pid in pids.values()]
        assert go(running).code == 0

    assert {*arguments} >= {"server", "site-1", "site-2"}
    assert not [name for name, words in arguments.items() if b"xyzzy" in words or b"FEDSAG_TOKEN" in words]
    assert any(b"xyzzy-plugh" in words for words in environments), "it was there to be seen"


@pytest.mark.parametrize(
    "words",
    [
        b"GET / HTTP/1.0\r\n\r\n",
        struct.pack("<Q", 1 << 62),
        struct.pack("<Q", 1 << 20) + b"x" * 4096,
        frame(b"\xc1"),
        frame(msgspec.msgpack.encode({"type": "Hello", "site": "site-1", "token": 3})),
        frame(msgspec.msgpack.encode({"type": "Answer", "task_id": 1, "model": {}})),
        frame(b"\x91" * 50_000),
        b"",
    ],
    ids=["http", "endless", "too large", "no message", "wrong type", "no hello", "deep", "nothing"],
)
def test_a_stranger_who_babbles_does_the_run_no_harm(running, words):
    address = str(address_of(running))
    for _ in range(5):
        with socket.socket(socket.AF_UNIX) as stranger:
            stranger.connect(address)
            stranger.sendall(words)

    outcome = go(running)

    assert outcome.code == 0, outcome
    assert outcome.told("ReplyFailed") == []


def test_nobody_can_speak_for_a_client_that_is_there(running):
    pid = running.pids()["site-1"]
    token = next(  # as another process of the same user could find it
        word.partition(b"=")[2].decode()
        for word in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        if word.startswith(b"FEDSAG_TOKEN=")
    )
    for site in ("site-1", "site-2", "site-3", "server", ""):
        with pytest.raises(ChannelClosed):
            connect(str(address_of(running)), Hello(site=site, token=token))

    assert go(running).code == 0


def test_nothing_of_a_run_listens_on_the_network(running):
    inodes = set()
    for pid in [running.process.pid, *running.pids().values()]:
        for fd in Path(f"/proc/{pid}/fd").iterdir():
            link = str(fd.readlink())
            if link.startswith("socket:["):
                inodes.add(link[8:-1])
    heard = [line.split() for kind in ("tcp", "tcp6", "udp", "udp6") for line in _lines(f"/proc/net/{kind}")]
    assert not [words for words in heard if words[9] in inodes]

    assert go(running).code == 0


def _lines(path):
    return Path(path).read_text().splitlines()[1:] if Path(path).exists() else []


def test_no_module_of_ours_reads_pickles():
    for path in Path(fedsag_cli.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
                assert not {"cPickle", "dill", "cloudpickle", "marshal", "shelve"} & set(names), path
                assert "pickle" not in names or isinstance(node, ast.Import), path
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "pickle":
                assert node.attr == "Pickler", path  # which only writes
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("torch.load", "np.load", "numpy.load"):
                said = {word.arg: ast.unparse(word.value) for word in node.keywords}
                assert said.get("weights_only") == "True" or said.get("allow_pickle") == "False", path
