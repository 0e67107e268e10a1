"""Job scripts, such as job.py, through both systems: each as it is, and how far apart the final models are.

Most scripts draw random numbers without a seed. Where the models differ, NVFLARE runs the script once more: then its
own two models show whether the script alone makes the difference.
"""

from __future__ import annotations

import math
import os
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from benchmark import measure, systems
from benchmark.measure import Failed

_LIMIT_S = 1800
_ROOT = "NVFLARE_SIMULATOR_WORKSPACE_ROOT"  # where both systems write, whatever the script says
_MODELS = ("*/server/simulate_job/app_server/FL_global_model.pt", "*/server/simulate_job/models/[!b]*.npy")  # not best_
_NEAR = 1e-6


@dataclass(frozen=True, kw_only=True)
class Compared:
    """What came of a script. `failed`: what was printed last, where one of them failed; `difference` is then NaN.

    `again`: how far apart two runs with NVFLARE are; NaN where it ran once, since the models are near enough.
    """

    script: str
    numbers: int = 0
    difference: float = float("nan")
    same_bits: bool = False
    again: float = float("nan")
    fedsag_s: float = float("nan")
    nvflare_s: float = float("nan")
    failed: str = ""

    @property
    def is_alike(self) -> bool:
        """Whether the models are as near as the script allows."""
        return self.difference <= _NEAR or self.again > _NEAR


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
    seconds: dict[str, float] = {}
    try:
        seconds["fedsag"], ours = _ran([systems.FEDSAG, "run"], script, words, folder / "fedsag")
        seconds["nvflare"], theirs = _ran(systems.nvflare_program("python"), script, words, folder / "nvflare")
        if not ours or list(ours) != list(theirs):
            return Compared(
                script=_shown(script), failed=f"models are {list(ours)[:3]} here and {list(theirs)[:3]} there"
            )
        difference, again = _apart(ours, theirs), float("nan")
        if not difference <= _NEAR:
            again = _apart(_ran(systems.nvflare_program("python"), script, words, folder / "again")[1], theirs)
    except Failed as error:
        system = "nvflare" if "fedsag" in seconds else "fedsag"
        return Compared(script=_shown(script), failed=f"{system}: {str(error).strip().splitlines()[-1]}")
    return Compared(
        script=_shown(script),
        numbers=sum(value.size for value in ours.values()),
        difference=difference,
        same_bits=all(value.tobytes() == theirs[key].astype(value.dtype).tobytes() for key, value in ours.items()),
        again=again,
        fedsag_s=seconds["fedsag"],
        nvflare_s=seconds["nvflare"],
    )


def _ran(
    command: Sequence[str], script: Path, words: Sequence[str], folder: Path
) -> tuple[float, dict[str, np.ndarray]]:
    """The seconds of a run of the script in its own folder, and its models. Raises Failed."""
    folder.mkdir(parents=True)
    there = ["sh", "-c", 'cd "$1" && shift && exec "$@"', "sh", str(script.parent.absolute()), *command, script.name]
    took = measure.run([*there, *words], folder=folder, env={_ROOT: str(folder)}, limit_s=_LIMIT_S)
    return took.seconds, dict(_models(folder))


def _apart(ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray]) -> float:
    return max((float(np.abs(value - theirs[key]).max()) for key, value in ours.items() if value.size), default=0.0)


def table(places: Sequence[str], folder: Path) -> list[Compared]:
    """Compare each, and print a line for each."""
    print(f"{'script':48} {'numbers':>9}  {'largest difference':18} {'NVFLARE twice':13} {'fedsag':>8} {'NVFLARE':>8}")
    done = []
    for number, (script, words) in enumerate(scripts(places)):
        each = compare(script, words, folder / str(number))
        done.append(each)
        apart = "same bits" if each.same_bits else f"{each.difference:.3g}"
        again = "" if math.isnan(each.again) else f"{each.again:.3g}"
        figures = f"{each.numbers:9}  {apart:18} {again:13} {each.fedsag_s:6.1f} s {each.nvflare_s:6.1f} s"
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
            yield f"{name} {key}", torch.as_tensor(value).double().numpy()
