"""One case through both systems."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from benchmark import systems

from comparison.cases import CLIENTS, ROUNDS, Case

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
    """Make the job, run it here and there. Raises RuntimeError with what was printed where either fails."""
    python = systems.peer("nvflare", *systems.NVFLARE)
    code = _code(case, folder)
    turns = {name: folder / f"turns-{name}" for name in ("fedsag", "nvflare")}
    seconds = {}
    for name, path in turns.items():
        path.mkdir()
        job = folder / f"job-{name}"
        _create(case, job, code, path)
        if name == "nvflare":
            job = _exported(job, folder / "exported")
        began = time.monotonic()
        if name == "fedsag":
            _run([systems.FEDSAG, "simulator", str(job), "-w", "ws-fedsag", *_COUNTS], folder)
        else:
            there = ["env", f"PATH={python.parent}:/usr/bin:/bin", str(python.parent / "nvflare")]
            _run([*there, "simulator", str(job), "-w", "ws-nvflare", *_COUNTS], folder)
        seconds[name] = time.monotonic() - began
    ours, theirs = (_model(case, folder / f"ws-{name}") for name in ("fedsag", "nvflare"))
    if list(ours) != list(theirs):
        raise RuntimeError(f"{case.name}: the keys are {list(ours)} here and {list(theirs)} there")
    return Compared(
        case=case.name,
        keys=len(ours),
        numbers=sum(value.size for value in ours.values()),
        difference=max(float(np.abs(ours[key] - theirs[key]).max()) for key in ours),
        same_bits=all(ours[key].tobytes() == theirs[key].astype(ours[key].dtype).tobytes() for key in ours),
        in_order=case.in_order,
        fedsag_s=seconds["fedsag"],
        nvflare_s=seconds["nvflare"],
    )


def _code(case: Case, folder: Path) -> Path:
    """The scripts, and the model both begin with."""
    code = folder / "code"
    shutil.copytree(CODE, code, ignore=shutil.ignore_patterns("__pycache__"))
    if case.template != "sag_np":
        sys.path.insert(0, str(CODE))
        from net import Net

        torch.manual_seed(1)
        torch.save({"model": Net().state_dict()}, code / "first.pt")
    return code


def _create(case: Case, job: Path, code: Path, turns: Path) -> None:
    server = [f"num_rounds={ROUNDS}", f"min_clients={CLIENTS}", *case.server]
    if case.template != "sag_np":
        server += ["components[0].args.source_ckpt_file_full_name=first.pt", "components[3]-"]
    client = ["app_script=train.py", f"app_config=--turns {turns} {case.words}", *case.client]
    files = ["-f", "config_fed_server.conf", *server, "-f", "config_fed_client.conf", *client]
    _run([systems.FEDSAG, "job", "create", "-j", str(job), "-w", case.template, "-sd", str(code), *files], job.parent)


def _exported(job: Path, out: Path) -> Path:
    _run([systems.FEDSAG, "job", "export", str(job), str(out), "--to", "nvflare"], job.parent)
    file = out / "app/config/config_fed_server.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"server": {"task_request_interval": 0.05}}))
    return out


def _model(case: Case, workspace: Path) -> dict[str, np.ndarray]:
    place = workspace / "server/simulate_job"
    if case.template == "sag_np":
        return {"numpy_key": np.load(place / "models/server.npy")}
    saved = torch.load(place / "app_server/FL_global_model.pt", weights_only=True)
    return {name: value.numpy() for name, value in saved["model"].items()}


def _run(command: list[str], folder: Path) -> None:
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=_LIMIT_S)
    if ran.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{ran.stdout[-3000:]}{ran.stderr[-3000:]}")
