"""How a work is done by each system: the command, and where its final model lies."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmark import measure
from benchmark.measure import Failed, Took

HERE = Path(__file__).parent
CODE = HERE / "code"
NVFLARE = ("nvflare==2.9.0", "tensorboard")
FEDSAG = str(Path(sysconfig.get_path("scripts")) / "fedsag")


@dataclass(frozen=True, kw_only=True)
class Work:
    """So many clients, of which so many work at a time, train for so many rounds on so many pictures each."""

    name: str
    clients: int
    slots: int
    rounds: int
    pictures: int


@dataclass(frozen=True, kw_only=True)
class System:
    """One way to do a work. `model` is the file with what came of it, None where nothing does."""

    name: str
    command: Sequence[str]
    folder: Path
    model: Path | None = None
    before: Callable[[], None] = lambda: None

    def run(self, *, sample: bool = False) -> Took:
        self.before()
        return measure.run(self.command, folder=self.folder, sample=sample)

    def events(self) -> list[dict[str, Any]]:
        """What fedsag's last run has told so far."""
        file = self.folder / "ws/events.jsonl"
        lines = file.read_text().splitlines(keepends=True) if file.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]


@dataclass(frozen=True, kw_only=True)
class Job:
    """A job of fedsag's, made from a template, and how it is run."""

    template: str
    clients: int
    slots: int
    server: Sequence[str] = ()
    client: Sequence[str] = ()
    code: Path | None = CODE
    options: Sequence[str] = field(default=("--torch-threads", "1", "--seed", "1"))


def fedsag(folder: Path, job: Job, name: str = "fedsag") -> System:
    """Makes the job in `folder`; each run has the workspace `folder`/ws."""
    folder.mkdir(parents=True)
    create(FEDSAG, folder, job.template, job.server, job.client, job.code)
    counts = ["-n", str(job.clients), "-t", str(job.slots), "-m", "1000"]
    return System(
        name=name,
        command=[FEDSAG, "simulator", "job", "-w", "ws", *counts, *job.options],
        folder=folder,
        model=folder / "ws/server/simulate_job/app_server/FL_global_model.pt",
    )


def fedsag_training(folder: Path, work: Work) -> System:
    return fedsag(
        folder,
        Job(
            template="sag_pt",
            clients=work.clients,
            slots=work.slots,
            server=_of_server(work),
            client=_of_client(work),
        ),
    )


def loop(folder: Path, work: Work) -> System:
    folder.mkdir(parents=True)
    counts = map(str, (work.clients, work.rounds, work.pictures))
    model = folder / "model.pt"
    return System(name="plain loop", command=floor("loop", *counts, str(model)), folder=folder, model=model)


def nursery(folder: Path, work: Work) -> System:
    folder.mkdir(parents=True)
    counts = map(str, (work.clients, work.slots, work.rounds, work.pictures))
    return System(name="bare nursery", command=floor("nursery", *counts), folder=folder)


def nvflare(folder: Path, work: Work, *, tuned: bool) -> System:
    """NVFLARE's simulator with its own template."""
    return _nvflare(folder, work, "sag_pt", CODE, _of_client(work), tuned, "app_server/FL_global_model.pt")


def nvflare_numpy(folder: Path, work: Work, *, tuned: bool) -> System:
    """The work of fedsag's template sag_np, with NVFLARE's template for numpy."""
    code = HERE.parent.parent / "job_templates/sag_np/custom"
    return _nvflare(folder, work, "sag_np_metrics", code, ["app_script=train.py"], tuned, None)


def flower(folder: Path, work: Work) -> System:
    folder = folder / "flower"
    folder.mkdir(parents=True)
    python = peer("flower", "flwr[simulation]")
    model = folder / "model.pt"
    counts = map(str, (work.clients, work.slots, work.rounds, work.pictures))
    command = [str(python), str(CODE / "flower_app.py"), *counts, str(model)]
    return System(name="Flower", command=command, folder=folder, model=model)


def floor(*words: str) -> list[str]:
    """A command of floors.py."""
    return [sys.executable, str(HERE / "floors.py"), *words]


def nvflare_command(*words: str) -> list[str]:
    """It starts `python3`: the one with torch in it."""
    folder = peer("nvflare", *NVFLARE).parent
    return ["env", f"PATH={folder}:/usr/bin:/bin", str(folder / "nvflare"), *words]


def peer(name: str, *requirements: str) -> Path:
    """The Python of a virtual environment with a peer and our torch in it, made at the first call."""
    import torch

    venv = HERE.parent.parent / ".venv-peers" / name
    python = venv / "bin" / "python"
    if not (venv / "ready").exists():
        print(f"making {venv} with {', '.join(requirements)}", file=sys.stderr)
        wanted = [*requirements, f"torch=={re.sub('[+].*', '', torch.__version__)}"]
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(venv)], check=True)
        uv = shutil.which("uv")
        pip = (
            [uv, "pip", "install", "-q", "--python", str(python)] if uv else [str(python), "-m", "pip", "install", "-q"]
        )
        subprocess.run([*pip, *wanted], check=True)
        (venv / "ready").touch()
    return python


def _of_server(work: Work) -> list[str]:
    return [f"num_rounds={work.rounds}", f"min_clients={work.clients}"]


def _of_client(work: Work) -> list[str]:
    return ["app_script=train.py", f"app_config={work.pictures}"]


def create(
    tool: str, folder: Path, template: str, server: Sequence[str], client: Sequence[str], code: Path | None
) -> None:
    command = [tool, "job", "create", "-j", str(folder / "job"), "-w", template]
    for file, words in (("config_fed_server.conf", server), ("config_fed_client.conf", client)):
        command += ["-f", file, *words] if words else []
    if code is not None:
        command += ["-sd", str(code)]
    made = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if made.returncode:
        raise Failed(f"{' '.join(command)}\n{made.stdout}{made.stderr}")


def _nvflare(
    folder: Path, work: Work, template: str, code: Path, client: Sequence[str], tuned: bool, model: str | None
) -> System:
    """`tuned`: with the shortest interval at which its clients may sensibly ask for tasks, instead of 2 s."""
    python = peer("nvflare", *NVFLARE)
    tool = str(python.parent / "nvflare")
    name = "NVFLARE tuned" if tuned else "NVFLARE"
    folder = folder / ("nvflare-tuned" if tuned else "nvflare")  # it starts no client where a path has a blank
    copy = folder / "code"
    copy.mkdir(parents=True)
    for file in code.glob("*.py"):  # the same scripts with its Client API: nothing else differs
        (copy / file.name).write_text(file.read_text().replace("fedsag_cli.client", "nvflare.client"))
    server = [*_of_server(work), *(["server.task_request_interval=0.05"] if tuned else [])]
    create(tool, folder, template, server, client, copy)
    workspace = folder / "ws"
    counts = ["-n", str(work.clients), "-t", str(work.slots)]
    return System(
        name=name,
        command=nvflare_command("simulator", "job", "-w", "ws", *counts),
        folder=folder,
        model=workspace / "server/simulate_job" / model if model else None,
        before=lambda: shutil.rmtree(workspace, ignore_errors=True),
    )
