"""How a work is done by each system: the command, and where its final model lies."""

from __future__ import annotations

import itertools
import json
import re
import shlex
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
FLOWER = ("flwr[simulation]==1.42.*",)
PFL = ("pfl[pytorch]==0.6.*",)
FEDSAG = str(Path(sysconfig.get_path("scripts")) / "fedsag")


class NotInstalled(Failed):
    """A peer cannot be had here."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """So many clients, of which so many work at a time, train for so many rounds on so many pictures each.

    `net`: a class of code/net.py. `cohort`: the number of clients drawn in each round (None: all), which so many
    workers as slots are then.
    """

    name: str
    clients: int
    slots: int
    rounds: int
    pictures: int
    net: str = "Net"
    cohort: int | None = None


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

    def round_seconds(self) -> list[float]:
        """From one round's end to the next one's: the first round is left out, for it starts the clients.

        Of the last run; empty where the system does not tell when a round ends.
        """
        file = self.folder / "rounds.txt"
        ends = (
            [float(word) for word in file.read_text().split()]
            if file.exists()
            else [event["at"] for event in self.events() if event["event"] == "RoundFinished"]
        )
        return [after - before for before, after in itertools.pairwise(ends)]


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
    counts = ["-n", str(job.clients), "-t", str(job.slots), "-m", str(job.clients)]
    return System(
        name=name,
        command=[FEDSAG, "simulator", "job", "-w", "ws", *counts, *job.options],
        folder=folder,
        model=folder / "ws/server/simulate_job/app_server/FL_global_model.pt",
    )


def fedsag_training(folder: Path, work: Work) -> System:
    job = Job(
        template="sag_pt", clients=work.clients, slots=work.slots, server=_of_server(work), client=_of_client(work)
    )
    return fedsag(folder, job)


def fedsag_crowd(folder: Path, work: Work) -> System:
    """Few workers do the training of many clients."""
    job = Job(
        template="sag_pt",
        clients=work.clients,
        slots=work.slots,
        server=[
            f"num_rounds={work.rounds}",
            f"min_clients={work.cohort}",
            f"num_clients={work.cohort}",
            f"model_class_path=net.{work.net}",
        ],
        client=["app_script=crowd.py", f"app_config={work.net} {work.pictures}"],
        options=("--torch-threads", "1", "--seed", "1", "--workers"),
    )
    return fedsag(folder, job)


def fedsag_sweep(folder: Path, work: Work, runs: int) -> System:
    """The training of `work` with so many seeds, as one sweep."""
    fedsag_training(folder, work)
    words = [FEDSAG, "sweep", "job", "-w", "sweep", *_of_each_run(work), "--seeds", f"1..{runs}", "--force", "-q"]
    return System(name="fedsag", command=words, folder=folder)


def fedsag_in_bash(folder: Path, work: Work, runs: int) -> System:
    """The training of `work` with so many seeds, each by a command of its own."""
    fedsag_training(folder, work)
    words = shlex.join([FEDSAG, "simulator", "job", "-w", "ws", *_of_each_run(work), "-q"])
    script = f"for seed in $(seq 1 {runs}); do {words} --seed $seed || exit 4; done"
    return System(name=f"bash loop of {runs}", command=["bash", "-c", script], folder=folder)


def _of_each_run(work: Work) -> list[str]:
    return ["-n", str(work.clients), "-t", str(work.slots), "--torch-threads", "1"]


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


def crowd(folder: Path, work: Work, leader: System) -> System:
    """Forked workers that train and sum, and nothing else."""
    return _following(
        "floor",
        folder,
        floor("crowd", work.net, str(work.slots), str(work.pictures), "cohorts.json", "model.pt"),
        leader,
    )


def pfl(folder: Path, work: Work, leader: System, *, processes: int) -> System:
    python = str(peer("pfl", *PFL))
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    program = [str(CODE / "pfl_app.py"), work.net, str(work.pictures), "cohorts.json", "model.pt"]
    return _following(f"pfl {processes}", folder, [python, *(launcher if processes > 1 else []), *program], leader)


def flower(folder: Path, work: Work, leader: System) -> System:
    python = str(peer("flower", *FLOWER))
    counts = map(str, (work.clients, work.slots, work.pictures))
    program = [str(CODE / "flower_app.py"), work.net, *counts, "cohorts.json", "model.pt"]
    return _following("Flower", folder, [python, *program], leader)


def _following(name: str, folder: Path, command: Sequence[str], leader: System) -> System:
    """Before each of its runs, cohorts.json gets the clients that each round of the leader's last run asked."""
    folder.mkdir(parents=True)

    def follow() -> None:
        rounds = [event["sites"] for event in leader.events() if event["event"] == "RoundStarted"]
        numbers = [[int(site.rpartition("-")[2]) for site in sites] for sites in rounds]
        (folder / "rounds.txt").unlink(missing_ok=True)
        (folder / "cohorts.json").write_text(json.dumps(numbers))

    return System(name=name, command=command, folder=folder, model=folder / "model.pt", before=follow)


def floor(*words: str) -> list[str]:
    """A command of floors.py."""
    return [sys.executable, str(HERE / "floors.py"), *words]


def nvflare_command(*words: str) -> list[str]:
    """It starts `python3`: the one with torch in it."""
    return nvflare_program("nvflare", *words)


def nvflare_program(name: str, *words: str) -> list[str]:
    """A program of the environment with NVFLARE."""
    folder = peer("nvflare", *NVFLARE).parent
    return ["env", f"PATH={folder}:/usr/bin:/bin", str(folder / name), *words]


def peer(name: str, *requirements: str) -> Path:
    """The Python of a virtual environment with a peer and our torch in it, made at the first call."""
    import torch

    venv = HERE.parent.parent / ".venv-peers" / name
    python = venv / "bin" / "python"
    if not (venv / "ready").exists():
        print(f"making {venv} with {', '.join(requirements)}", file=sys.stderr)
        wanted = [*requirements, f"torch=={re.sub('[+].*', '', torch.__version__)}"]
        uv = shutil.which("uv")
        pip = (
            [uv, "pip", "install", "-q", "--python", str(python)] if uv else [str(python), "-m", "pip", "install", "-q"]
        )
        for step in ([sys.executable, "-m", "venv", "--clear", str(venv)], [*pip, *wanted]):
            done = subprocess.run(step, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            if done.returncode:
                raise NotInstalled(f"{name} is not installed: {' '.join(step)} failed\n{done.stdout[-1000:]}")
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
