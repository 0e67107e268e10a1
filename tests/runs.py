"""Runs of the real command: a job folder made of a script's text, `fedsag simulator` as a process, what came of it."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import forked
from forked import FEDSAG, LIMIT_S

MARK = "FEDSAG_TEST_RUN"

ADDS_ONE = """
    import fedsag_cli.client as flare

    flare.init()
    while flare.is_running():
        model = flare.receive()
        mean = float(sum(array.mean() for array in model.params.values()))
        flare.send(flare.FLModel(params={k: v + 1 for k, v in model.params.items()}, metrics={"mean": mean}))
"""


def app(
    folder: Path,
    script: str,
    *,
    script_name: str = "train.py",
    command: str | None = None,
    args: str = "",
    files: Mapping[str, str] | None = None,
    executor: Mapping[str, Any] | None = None,
    tasks: Sequence[str] = ("train",),
    server: Mapping[str, Any] | None = None,
    components: Mapping[str, Mapping[str, Any]] | None = None,
    **workflow: Any,
) -> Path:
    """An app folder: `script` in custom/, beside it `files`; `workflow` are ScatterAndGather's arguments.

    `components` replaces parts by id, `executor` and `server` add keys.
    """
    custom = folder / "custom"
    for name, text in {script_name: script, **(files or {})}.items():
        (custom / name).parent.mkdir(parents=True, exist_ok=True)
        (custom / name).write_text(textwrap.dedent(text))
    client = {
        "executors": [
            {
                "tasks": list(tasks),
                "executor": {
                    "path": "ClientAPIExecutor",
                    "args": {
                        "execution_mode": "external_process",
                        "command": command or f"python3 -u custom/{script_name} {args}",
                        **(executor or {}),
                    },
                },
            }
        ],
    }
    parts = {
        "persistor": {"path": "NPModelPersistor"},
        "aggregator": {"path": "FedAvg"},
        "model_selector": {"path": "IntimeModelSelector", "args": {"key_metric": "mean"}},
    } | dict(components or {})
    flow = {
        "min_clients": 2,
        "num_rounds": 2,
        "aggregator_id": "aggregator",
        "persistor_id": "persistor",
        "model_selector_id": "model_selector",
    }
    serving = {
        "workflows": [{"id": "scatter_and_gather", "path": "ScatterAndGather", "args": flow | workflow}],
        "components": [{"id": name, **part} for name, part in parts.items()],
        **(server or {}),
    }
    (folder / "config").mkdir(parents=True, exist_ok=True)
    (folder / "config" / "config_fed_client.json").write_text(json.dumps(client))
    (folder / "config" / "config_fed_server.json").write_text(json.dumps(serving))
    return folder


def deploy(folder: Path, **deploy_map: Sequence[str]) -> Path:
    """The job folder's meta file."""
    meta = {"name": folder.name, "min_clients": 1, "deploy_map": {name: list(to) for name, to in deploy_map.items()}}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "meta.json").write_text(json.dumps(meta))
    return folder


def job(folder: Path, script: str = ADDS_ONE, **settings: Any) -> Path:
    """A job folder of one app, for everybody."""
    app(folder / "app", script, **settings)
    return deploy(folder, app=["@ALL"])


def torch_job(folder: Path, script: str, *, net: str | None = None, **settings: Any) -> Path:
    """The same with a torch model, `net.Net`."""
    linear = """
        import torch

        class Net(torch.nn.Linear):
            def __init__(self):
                super().__init__(4, 2)
    """
    files = {"net.py": net or linear, **settings.pop("files", {})}
    persistor = {"path": "PTFileModelPersistor", "args": {"model": {"path": "net.Net"}}}
    components = {"persistor": persistor, **settings.pop("components", {})}
    return job(folder, script, files=files, components=components, **settings)


@dataclass
class Outcome:
    """A command that ended."""

    code: int
    out: str
    err: str
    workspace: Path
    left_alive: list[str] = field(default_factory=list)
    left_in_tmp: list[str] = field(default_factory=list)

    @property
    def report(self) -> dict[str, Any]:
        return json.loads((self.workspace / "report.json").read_text())

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.workspace / "events.jsonl").read_text().splitlines()]

    def told(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["event"] == kind]

    def log(self, name: str) -> str:
        return (self.workspace / name / "log.txt").read_text()

    def failures(self) -> dict[str, dict[str, Any]]:
        """The first failure of each site."""
        found: dict[str, dict[str, Any]] = {}
        for event in self.told("ReplyFailed"):
            found.setdefault(event["site"], event["failure"])
        return found

    def metrics(self, name: str) -> list[dict[str, float]]:
        """By round: what each site measured."""
        return [{site: of[name] for site, of in each["metrics_by_site"].items()} for each in self.report["rounds"]]

    def __str__(self) -> str:
        return f"exit code {self.code}\n--- stdout\n{self.out}\n--- stderr\n{self.err}"


class Running:
    """`fedsag simulator` or `sweep` on its way. As a context manager it leaves nothing behind, whatever a test does.

    A sweep, and a command with an argument for Popen, starts its Python anew, and has the mark of the run.
    """

    def __init__(
        self,
        folder: Path,
        *words: Any,
        workspace: Path | None = None,
        env: Mapping[str, str] | None = None,
        command: str = "simulator",
        **popen: Any,
    ) -> None:
        self.workspace = workspace or folder.parent / "ws"
        self.mark = uuid.uuid4().hex
        self.tmp = Path(tempfile.mkdtemp(prefix="t", dir="/tmp"))  # short: a socket's path ends at 107 bytes
        given = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "FEDSAG_HOME")}
        given |= {MARK: self.mark, "TMPDIR": str(self.tmp), "HOME": str(folder.parent)} | dict(env or {})
        line = [command, str(folder), "-w", str(self.workspace), *map(str, words)]
        self.process: Any
        if popen or command != "simulator":
            popen = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | popen
            self.process = subprocess.Popen([FEDSAG, *line], env=given, cwd=folder.parent, text=True, **popen)
        else:
            self.process = forked.start(line, cwd=folder.parent, env=given)

    def __enter__(self) -> "Running":
        return self

    def __exit__(self, *_: object) -> None:
        for pid in marked(self.mark):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.kill()
        self.process.wait(timeout=LIMIT_S)
        shutil.rmtree(self.tmp, ignore_errors=True)

    def outcome(self) -> Outcome:
        """Wait for the end of the command and of all it started."""
        out, err = self.process.communicate(timeout=LIMIT_S)
        with contextlib.suppress(AssertionError):
            eventually(lambda: not marked(self.mark), limit_s=10)
        return Outcome(
            code=self.process.returncode,
            out=out or "",
            err=err or "",
            workspace=self.workspace,
            left_alive=[_command(pid) for pid in marked(self.mark)],
            left_in_tmp=[path.name for path in self.tmp.glob("fedsag*")],
        )

    def pids(self) -> dict[str, int]:
        """The processes of the run told so far, by name."""
        started = _told(self.workspace, "ProcessStarted")
        return {event["name"]: event["pid"] for event in started}

    def wait_until_told(self, kind: str, count: int = 1) -> None:
        eventually(lambda: len(_told(self.workspace, kind)) >= count or self.process.poll() is not None)
        assert len(_told(self.workspace, kind)) >= count, f"it ended without telling {kind}"


def run(folder: Path, *words: Any, **how: Any) -> Outcome:
    """`fedsag simulator FOLDER -w …` to its end, piped. Nothing may outlive it."""
    with Running(folder, *words, **how) as running:
        outcome = running.outcome()
    assert outcome.left_alive == []
    assert outcome.left_in_tmp == []
    return outcome


def fedsag(*words: Any, cwd: Path, env: Mapping[str, str] | None = None) -> Outcome:
    """Any other command, piped."""
    given = os.environ | {"HOME": str(cwd)} | dict(env or {})
    done = forked.command(list(map(str, words)), cwd=cwd, env=given)
    return Outcome(code=done.returncode, out=done.stdout, err=done.stderr, workspace=cwd)


def eventually(holds, limit_s: float = 60.0) -> None:
    """Wait until it does."""
    ends = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < ends, "it never came true"
        time.sleep(0.02)


def marked(mark: str) -> list[int]:
    """The processes that live with this mark in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"{MARK}={mark}".encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
    return found


def _command(pid: int) -> str:
    with contextlib.suppress(OSError):
        return f"{pid}: " + Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    return str(pid)


def _told(workspace: Path, kind: str) -> list[dict[str, Any]]:
    try:
        lines = (workspace / "events.jsonl").read_text().splitlines(keepends=True)
    except OSError:
        return []
    events = [json.loads(line) for line in lines if line.endswith("\n")]
    return [event for event in events if event["event"] == kind]


assert sys.platform == "linux", "these tests look into /proc"
