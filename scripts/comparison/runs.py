"""One case through both systems."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from benchmark import measure, systems
from benchmark.measure import Failed

from comparison.cases import CLIENTS, ROUNDS, Case
from comparison.code.net import Net

CODE = Path(__file__).parent / "code"
_LIMIT_S = 300
_COUNTS = ["-n", str(CLIENTS), "-t", str(CLIENTS)]


@dataclass(frozen=True, kw_only=True)
class Compared:
    """What came of a case. `difference` is the largest between two numbers, `same_bits` of all float32 keys."""

    case: str
    keys: int
    numbers: int
    difference: float
    same_bits: bool
    in_order: bool
    fedsag_s: float
    nvflare_s: float

    @property
    def as_promised(self) -> bool:
        return self.same_bits if self.in_order else self.difference <= 1e-6


def compare(case: Case, folder: Path) -> Compared:
    """Make the job, run it here and there. Raises Failed with what was printed where either fails."""
    code = _code(case, folder)
    jobs = {name: _made(case, folder / name, code) for name in ("fedsag", "nvflare")}
    exported = _exported(folder / "nvflare")
    commands = {
        "fedsag": [systems.FEDSAG, "simulator", str(jobs["fedsag"]), "-w", "ws", *_COUNTS],
        "nvflare": systems.nvflare_command("simulator", str(exported), "-w", "ws", *_COUNTS),
    }
    took = {name: measure.run(command, folder=folder / name, limit_s=_LIMIT_S) for name, command in commands.items()}
    ours, theirs = (_model(case, folder / name / "ws") for name in commands)
    if list(ours) != list(theirs):
        raise Failed(f"{case.name}: the keys are {list(ours)} here and {list(theirs)} there")
    return Compared(
        case=case.name,
        keys=len(ours),
        numbers=sum(value.size for value in ours.values()),
        difference=max(float(np.abs(ours[key] - theirs[key]).max()) for key in ours),
        same_bits=all(ours[key].tobytes() == theirs[key].astype(ours[key].dtype).tobytes() for key in ours),
        in_order=case.in_order,
        fedsag_s=took["fedsag"].seconds,
        nvflare_s=took["nvflare"].seconds,
    )


def _code(case: Case, folder: Path) -> Path:
    """The scripts, and the model both begin with."""
    code = folder / "code"
    shutil.copytree(CODE, code, ignore=shutil.ignore_patterns("__pycache__"))
    if case.is_torch:
        torch.manual_seed(1)
        torch.save({"model": Net().state_dict()}, code / "first.pt")
    return code


def _made(case: Case, folder: Path, code: Path) -> Path:
    """A job in a folder of its own, beside which sites see whose turn it is."""
    turns = folder / "turns"
    turns.mkdir(parents=True)
    server = [f"num_rounds={ROUNDS}", f"min_clients={CLIENTS}", *case.server]
    if case.is_torch:
        server += ["components[0].args.source_ckpt_file_full_name=first.pt", "components[3]-"]
    client = ["app_script=train.py", f"app_config=--turns {turns} {case.words}", *case.client]
    systems.create(systems.FEDSAG, folder, case.template, server, client, code)
    return folder / "job"


def _exported(folder: Path) -> Path:
    """What NVFLARE gets of the job there; its clients need not wait 2 s between tasks."""
    out = folder / "exported"
    measure.run([systems.FEDSAG, "job", "export", "job", str(out), "--to", "nvflare"], folder=folder)
    file = out / "app/config/config_fed_server.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"server": {"task_request_interval": 0.05}}))
    return out


def _model(case: Case, workspace: Path) -> dict[str, np.ndarray]:
    place = workspace / "server/simulate_job"
    if not case.is_torch:
        return {"numpy_key": np.load(place / "models/server.npy")}
    # NVFLARE puts arrays into the file, SCAFFOLD's controls: not only weights
    saved = torch.load(place / "app_server/FL_global_model.pt", weights_only=False)
    return {name: value.numpy() for name, value in saved["model"].items()}
