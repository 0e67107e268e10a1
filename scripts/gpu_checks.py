"""Runs with four clients on one GPU: the same model however they start, and what they do with CUDA and its memory."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from fedsag_cli import machine

CLIENTS, ROUNDS = 4, 2
LIMIT_S = 60  # for one run
LEFT_BYTES = 256 << 20  # how much the memory of a GPU may differ before and after, as other programs may use it
GPU, CPU = "gpu", "cpu"

# What runs as the job's script: it says what CUDA was before the first use, and what was used at the end.
PRELUDE = """
    import atexit
    import runpy
    import sys

    import torch

    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    print(f"cuda at the start: {torch.cuda.is_initialized()}", flush=True)

    def at_the_end():
        on_gpu = torch.cuda.is_available()
        peak = torch.cuda.max_memory_allocated() if on_gpu else 0
        print(f"device: {'cuda' if on_gpu else 'cpu'}, peak: {peak}", flush=True)

    atexit.register(at_the_end)
    runpy.run_path("custom/" + sys.argv.pop(1), run_name="__main__")
"""

# A script that trains and sends where its tensors are.
STAYS = """
    import argparse

    import torch

    import fedsag_cli.client as flare
    from net import Net

    parser = argparse.ArgumentParser()
    parser.add_argument("--fetch", action="store_true")
    args, _ = parser.parse_known_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    flare.init()
    net = Net().to(device)
    while flare.is_running():
        model = flare.receive()
        net.load_state_dict(model.params)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
        images = torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(model.current_round)).to(device)
        torch.nn.functional.cross_entropy(net(images), torch.arange(16, device=device) % 10).backward()
        optimizer.step()
        params = {name: value.cpu() if args.fetch else value for name, value in net.state_dict().items()}
        flare.send(flare.FLModel(params=params, metrics={"accuracy": float(model.current_round)}))
"""


@dataclass(frozen=True)
class Case:
    """A run: how it is started, and which other run has the same model."""

    name: str
    words: Sequence[str]
    script: str = "train.py"
    args: str = "--limit 200 --batch_size 20 --local_epochs 1"
    transfer: str = "DIFF"
    same_as: str = ""
    needs: str = ""  # a flag that not every version has


CASES = (
    Case("fork-t1", ("-t", "1")),
    Case("fork-t4", ("-t", "4"), same_as="fork-t1"),
    Case("spawn-t4", ("-t", "4", "--launcher", "spawn"), same_as="fork-t1"),
    Case("workers-t2", ("-t", "2", "--workers"), same_as="fork-t1", needs="--workers"),
    Case("fetched", ("-t", "4"), script="stays.py", args="--fetch", transfer="FULL"),
    Case("full-from-gpu", ("-t", "4"), script="stays.py", args="", transfer="FULL", same_as="fetched"),
    Case("diff-fetched", ("-t", "4"), script="stays.py", args="--fetch"),
    Case("diff-from-gpu", ("-t", "4"), script="stays.py", args="", same_as="diff-fetched"),
)


@dataclass
class Row:
    """What came of a case. `faults`: what does not hold; `skipped`: why it was not tried."""

    name: str
    seconds: float = 0.0
    digest: str = ""
    devices: list[str] = field(default_factory=list)
    peak: int = 0  # bytes of GPU memory, of the client that used most
    faults: list[str] = field(default_factory=list)
    skipped: str = ""


@dataclass(frozen=True)
class Ran:
    """A run that has ended: its exit code and output, the model's digest, the clients' logs."""

    code: int
    said: str
    digest: str
    logs: Sequence[str]
    seconds: float


def run_case(case: Case, folder: Path, device: str) -> Ran:
    """Make the job and run it."""
    job, workspace = folder / case.name / "job", folder / case.name / "ws"
    made = _fedsag(
        folder, device, "job", "create", "-j", str(job), "-w", "sag_pt",
        "-f", "config_fed_server.conf", f"num_rounds={ROUNDS}", f"min_clients={CLIENTS}",
        "-f", "config_fed_client.conf", "app_script=prelude.py", f"app_config={case.script} {case.args}",
        f"params_transfer_type={case.transfer}",
    )  # fmt: skip
    if made.returncode:
        return Ran(made.returncode, made.stdout, "", (), 0.0)
    [custom] = job.rglob("custom")
    for name, text in {"prelude.py": PRELUDE, "stays.py": STAYS}.items():
        (custom / name).write_text(textwrap.dedent(text))
    words = ["-n", str(CLIENTS), "--seed", "7", *(["-gpu", "0"] if device == GPU else []), *case.words]
    began = time.monotonic()
    ended = _fedsag(folder, device, "simulator", str(job), "-w", str(workspace), *words)
    took = time.monotonic() - began
    report = workspace / "report.json"
    digest = json.loads(report.read_text())["digest"] if report.is_file() else ""
    files = [path for path in sorted(workspace.glob("*/log*.txt")) if path.parent.name != "server"]
    logs = [path.read_text(errors="replace") for path in files]
    return Ran(ended.returncode, ended.stdout, digest, logs, took)


def _fedsag(folder: Path, device: str, *words: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"CUBLAS_WORKSPACE_CONFIG": ":4096:8", "FEDSAG_HOME": str(folder / "home")}
    if device == CPU:
        env["CUDA_VISIBLE_DEVICES"] = ""
    command = [sys.executable, "-m", "fedsag_cli", *words]
    try:
        return subprocess.run(
            command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=LIMIT_S
        )
    except subprocess.TimeoutExpired as expired:
        said = expired.stdout.decode(errors="replace") if isinstance(expired.stdout, bytes) else expired.stdout or ""
        return subprocess.CompletedProcess(command, 124, f"{said}\nit did not end within {LIMIT_S} s", None)


def checked(case: Case, ran: Ran, device: str, known: dict[str, str]) -> Row:
    """Hold a run against what is promised. `known`: the digests of the runs before."""
    row = Row(case.name, ran.seconds, ran.digest)
    if ran.code != 0:
        last = "; ".join(line.strip() for line in ran.said.strip().splitlines()[-3:])
        row.faults.append(f"exit code {ran.code}: {last}")
        return row
    known[case.name] = ran.digest
    if case.same_as in known and ran.digest != known[case.same_as]:
        row.faults.append(f"another model than {case.same_as}")
    if not any("cuda at the start" in log for log in ran.logs):
        row.faults.append("no client said anything")
    if any("cuda at the start: True" in log for log in ran.logs):
        row.faults.append("CUDA was initialised before the script ran")
    ends = [found for log in ran.logs for found in re.findall(r"device: (\w+), peak: (\d+)", log)]
    row.devices = sorted({where for where, _ in ends})
    row.peak = max((int(size) for _, size in ends), default=0)
    if wrong := set(row.devices) - {"cuda" if device == GPU else "cpu"}:
        row.faults.append(f"it trained on {', '.join(wrong)}")
    return row


def used_memory() -> int | None:
    """Bytes that all programs use of the first GPU; None if nvidia-smi does not say."""
    command = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "-i", "0"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
        return int(told.split()[0]) << 20
    except (OSError, ValueError, IndexError, subprocess.SubprocessError):
        return None


def check_all(cases: Sequence[Case], device: str, folder: Path) -> list[Row]:
    """A row for each case, and one for the memory that is left."""
    flags = _fedsag(folder, device, "simulator", "--help").stdout
    before = used_memory() if device == GPU else None
    rows: list[Row] = []
    known: dict[str, str] = {}
    for case in cases:
        if case.needs and case.needs not in flags:
            rows.append(Row(case.name, skipped=f"this version has no {case.needs}"))
        else:
            rows.append(checked(case, run_case(case, folder, device), device, known))
        print(_line(rows[-1]), flush=True)
    if before is not None and (after := used_memory()) is not None:
        rows.append(Row("memory", peak=max(0, after - before)))
        if after > before + LEFT_BYTES:
            rows[-1].faults.append(f"{(after - before) >> 20} MiB of GPU memory are still in use")
        print(_line(rows[-1]), flush=True)
    return rows


def _line(row: Row) -> str:
    verdict = f"not tried: {row.skipped}" if row.skipped else "; ".join(row.faults) or "ok"
    peak = f"{row.peak / (1 << 20):.0f} MiB" if row.peak else "-"
    where, model = ",".join(row.devices) or "-", row.digest[:12] or "-"
    return f"{row.name:<15}{row.seconds:6.1f} s  {where:<5}{peak:>9}  {model:<13} {verdict}"


def main(words: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(prog="scripts/gpu", description=__doc__)
    parser.add_argument("--device", choices=(GPU, CPU), default=GPU, help="cpu: the same runs without CUDA")
    parser.add_argument("--only", default="", help=f"some of {','.join(case.name for case in CASES)}")
    parser.add_argument("--json", type=Path, help="write the rows into this file, too")
    args = parser.parse_args(words)
    names = [name for name in args.only.split(",") if name]
    if wrong := [name for name in names if name not in {case.name for case in CASES}]:
        parser.error(f"there is no {wrong[0]!r}: choose from {', '.join(case.name for case in CASES)}")
    if args.device == GPU and not machine.num_gpus():
        print("no GPU here: nvidia-smi lists none (--device cpu tries the same runs without one)", file=sys.stderr)
        return 2
    folder = Path(tempfile.mkdtemp(prefix="fedsag-gpu-"))
    print(f"{'run':<15}{'time':>8}  {'on':<5}{'peak':>9}  {'model':<13} result")
    try:
        rows = check_all([case for case in CASES if not names or case.name in names], args.device, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if args.json:
        args.json.write_text(json.dumps([asdict(row) for row in rows], indent=2))
    return 1 if any(row.faults for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
