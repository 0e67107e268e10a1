"""Job scripts, such as job.py, through both systems: each as it is, and how far apart the final models are."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from benchmark import measure, systems
from benchmark.measure import Failed

_LIMIT_S = 1800
_ROOT = "NVFLARE_SIMULATOR_WORKSPACE_ROOT"  # where both systems write, whatever the script says
_MODELS = ("*/server/simulate_job/app_server/FL_global_model.pt", "*/server/simulate_job/models/server.npy")


@dataclass(frozen=True, kw_only=True)
class Compared:
    """What came of a script. `failed`: what was printed last, where one of them failed; `difference` is then NaN."""

    script: str
    numbers: int = 0
    difference: float = float("nan")
    fedsag_s: float = float("nan")
    nvflare_s: float = float("nan")
    failed: str = ""


def scripts(places: Sequence[str]) -> Iterator[tuple[Path, list[str]]]:
    """The scripts with their words: each place is a script with words, as one word of the shell, or a folder."""
    for place in places:
        path, *words = shlex.split(place)
        if Path(path).is_dir():
            yield from ((found, words) for found in sorted(Path(path).rglob("job.py")))
        elif Path(path).is_file():
            yield Path(path), words
        else:
            raise FileNotFoundError(f"{path}: there is no such script or folder")


def compare(script: Path, words: Sequence[str], folder: Path) -> Compared:
    """Run the script here and there, in its own folder."""
    commands = {
        "fedsag": [systems.FEDSAG, "run", script.name, *words],
        "nvflare": systems.nvflare_program("python", script.name, *words),
    }
    seconds: dict[str, float] = {}
    for name, command in commands.items():
        (folder / name).mkdir(parents=True)
        there = ["sh", "-c", 'cd "$1" && shift && exec "$@"', "sh", str(script.parent.absolute()), *command]
        try:
            env = {_ROOT: str(folder / name)}
            seconds[name] = measure.run(there, folder=folder / name, env=env, limit_s=_LIMIT_S).seconds
        except Failed as error:
            return Compared(script=_shown(script), failed=f"{name}: {str(error).strip().splitlines()[-1]}")
    ours, theirs = (dict(_models(folder / name)) for name in commands)
    if not ours or list(ours) != list(theirs):
        return Compared(script=_shown(script), failed=f"models are {list(ours)[:3]} here and {list(theirs)[:3]} there")
    apart = [float(np.abs(value - theirs[key]).max()) for key, value in ours.items() if value.size]
    return Compared(
        script=_shown(script),
        numbers=sum(value.size for value in ours.values()),
        difference=max(apart, default=0.0),
        fedsag_s=seconds["fedsag"],
        nvflare_s=seconds["nvflare"],
    )


def table(places: Sequence[str], folder: Path) -> list[Compared]:
    """Compare each, and print a line for each."""
    print(f"{'script':48} {'numbers':>9}  {'largest difference':18} {'fedsag':>8} {'NVFLARE':>8}")
    done = []
    for number, (script, words) in enumerate(scripts(places)):
        each = compare(script, words, folder / str(number))
        done.append(each)
        figures = f"{each.numbers:9}  {each.difference:<18.3g} {each.fedsag_s:6.1f} s {each.nvflare_s:6.1f} s"
        print(f"{each.script:48} {each.failed or figures}", flush=True)
    if not done:
        print("there is no job.py", file=sys.stderr)
    return done


def _shown(script: Path) -> str:
    return os.path.relpath(script)[-48:]


def _models(root: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Each key of the final models, by the path of its file."""
    for path in sorted(path for pattern in _MODELS for path in root.glob(pattern)):
        name = str(path.relative_to(root))
        if path.suffix == ".npy":
            yield name, np.load(path)
            continue
        saved = torch.load(path, map_location="cpu", weights_only=False)  # NVFLARE puts arrays into the file too
        for key, value in sorted(saved["model"].items()):
            yield f"{name} {key}", np.asarray(value, dtype=np.float64)
