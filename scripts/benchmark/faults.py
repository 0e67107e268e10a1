"""What goes wrong in a run on purpose, and how long it is until that is told and the command has ended."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark import measure, systems
from benchmark.measure import Failed
from benchmark.systems import Job, System

TOLD, TO_PROMPT = "told", "to the prompt"

_RUN_FAILED = 4
_TRAIN_TIMEOUT_S = 1
_LIMIT_S = 60.0
_LOOK_EVERY_S = 0.02


@dataclass(frozen=True, kw_only=True)
class Fault:
    """`how` is what faulty/train.py is told; `victim`, where there is one, is killed while the clients work."""

    says: str
    how: str
    victim: str = ""


ENDS = (
    Fault(says="client raises", how="raise"),
    Fault(says="client calls sys.exit(3)", how="exit"),
    Fault(says="client is killed", how="kill"),
    Fault(says="client ends without answering", how="end"),
)
HANGS = Fault(says="client hangs", how="hang")
KILLED = tuple(
    Fault(says=f"{victim} is killed", how="work", victim=victim)
    for victim in (("server", "nursery") if sys.platform == "linux" else ("server",))  # the nursery is found in /proc
)


def prepare(folder: Path, fault: Fault) -> System:
    """A numpy job of two clients of which both must answer."""
    timeout_s = _TRAIN_TIMEOUT_S if fault == HANGS else 0
    job = Job(
        template="sag_np",
        clients=2,
        slots=2,
        server=["num_rounds=1", "min_clients=2", f"train_timeout={timeout_s}"],
        client=[f"app_config={fault.how}"],
        code=systems.HERE / "faulty",
    )
    return systems.fedsag(folder, job, fault.says)


def commit(fault: Fault, system: System) -> dict[str, float]:
    """Run it: seconds from the fault until a site's failure was told, and until the prompt.

    Raises Failed where the fault did not happen, or the run did not fail as it should.
    """
    shutil.rmtree(system.folder / "ws", ignore_errors=True)  # the pids in it are those of strangers by now
    kills: list[float] = []

    def strike(command: subprocess.Popen[bytes]) -> None:
        if fault.victim and _at_work(system, command):
            pid = _pid(fault.victim, system)
            kills.append(time.time())
            os.kill(pid, signal.SIGKILL)

    took = measure.run(system.command, folder=system.folder, code=_RUN_FAILED, limit_s=_LIMIT_S, meanwhile=strike)
    if fault.victim:
        if not kills:
            raise Failed(f"{fault.says}: the run failed before it was\n{took.out[-2000:]}")
        return {TO_PROMPT: took.ended - kills[0]}
    if fault == HANGS:
        # the client's clock runs when its TaskSent is told, or a moment before
        began = _first(system, "RoundStarted", took.out)["at"] + _TRAIN_TIMEOUT_S
    else:
        began = _written_down(system, took.out)
    told_s = _first(system, "ReplyFailed", took.out, site="site-2")["at"] - began
    if told_s < 0:
        raise Failed(f"{fault.says}: told before it did\n{took.out[-2000:]}")
    return {TOLD: told_s, TO_PROMPT: took.ended - began}


def _at_work(system: System, command: subprocess.Popen[bytes]) -> bool:
    """Wait until both clients have their task; False where the command ends before."""
    while sum(event["event"] == "TaskSent" for event in system.events()) < 2:
        if command.poll() is not None:
            return False
        time.sleep(_LOOK_EVERY_S)
    return True


def _pid(victim: str, system: System) -> int:
    """The nursery is the server's parent."""
    started = (event for event in system.events() if event["event"] == "ProcessStarted")
    server = next(int(event["pid"]) for event in started if event["name"] == "server")
    if victim == "server":
        return server
    return int(Path(f"/proc/{server}/stat").read_text().rpartition(")")[2].split()[1])


def _written_down(system: System, out: str) -> float:
    for file in (system.folder / "ws/site-2").rglob("fault.txt"):
        return float(file.read_text())
    raise Failed(f"{system.name}: it did not\n{out[-2000:]}")


def _first(system: System, kind: str, out: str, **fields: str) -> Mapping[str, Any]:
    for event in system.events():
        if event["event"] == kind and fields.items() <= event.items():
            return event
    raise Failed(f"{system.name}: no {kind}\n{out[-2000:]}")
