"""Every file operation of every process of a small run fails, or ends its process: what a run promises holds anyway."""

import argparse
import errno
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runs import FEDSAG, MARK, eventually, job, marked

SOURCE = Path(__file__).parents[1] / "scripts" / "fault_shim.c"
COMMAND, NURSERY = "command", "nursery"
ROLES = (COMMAND, NURSERY, "child1", "child2", "child3")  # the children are the server and two clients
KILL, INTERRUPT = "kill", "int"
ERRORS = tuple(map(str, (errno.ENOSPC, errno.EIO, errno.EMFILE)))
EXIT_CODES = {0, 2, 3, 4, 129, 130, 143}
LIMIT_S = 60
WORDS = ("-n", "2", "-t", "2", "--seed", "1")

Facts = tuple[str, list[dict[str, float]]]  # the digest of the model, and the metrics of each round


@dataclass(frozen=True)
class Fault:
    """At the `number`-th operation of a process: an errno, or a signal."""

    role: str
    number: int
    act: str

    def __str__(self) -> str:
        return f"{self.role}:{self.number}:{self.act}"


@dataclass
class Ran:
    code: int
    text: str
    is_over: bool
    left: list[int] = field(default_factory=list)


class Bench:
    """A job, the compiled shim, and what a run without a fault gives."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shim = folder / "shim.so"
        subprocess.run(
            [_compiler(), "-shared", "-fPIC", "-O1", "-o", self.shim, SOURCE, "-ldl", "-lpthread"], check=True
        )
        self.job = job(folder / "job")
        self._job_before = _contents(self.job)
        with Try(self) as whole:
            trace = whole.folder / "trace"
            trace.mkdir()
            assert whole.run(trace=trace).code == 0
            self.facts = whole.facts()
            self.operations = {path.name: path.read_text().splitlines() for path in trace.iterdir()}

    def every(self) -> Iterator[Fault]:
        for role in ROLES:
            for number in range(1, len(self.operations.get(role, [])) + 1):
                for act in (*ERRORS, KILL, INTERRUPT):
                    yield Fault(role, number, act)

    def operation(self, fault: Fault) -> str:
        lines = self.operations.get(fault.role, [])
        return lines[fault.number - 1] if fault.number <= len(lines) else "?"

    def broken(self, fault: Fault) -> list[str]:
        """What a run with this fault, and its continuation, do not keep."""
        with Try(self) as tried:
            ran = tried.run(fault=fault)
            found = tried.judged(ran, fault)
            again = tried.run("--resume")
            if again.code == 2 and "there is no run in" in again.text:
                again = tried.run()
            found += [f"resumed: {text}" for text in tried.judged(again, None)]
            if not found and tried.facts() != self.facts:
                found.append(f"resumed: {tried.facts()} instead of {self.facts}")
            if _contents(self.job) != self._job_before:
                found.append("the job has changed")
            return [*found, *ran.text.splitlines()[-20:]] if found else []


class Try:
    """One workspace, with files of the user's in it, and beside it a folder for temporary files."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self.folder = Path(tempfile.mkdtemp(prefix="f", dir="/tmp"))  # short: a socket's path ends at 107 bytes
        self.workspace, self.tmp = self.folder / "ws", self.folder / "tmp"
        self._mine = [
            self.workspace / "notes.txt",
            self.workspace / "site-1" / "mine.py",
            self.workspace / "server" / "simulate_job" / "models" / "mine.npy",
            self.tmp / "fedsag-run-notes" / "server.sock",
        ]
        for path in self._mine:
            path.parent.mkdir(parents=True, mode=0o700, exist_ok=True)
            path.write_text("mine")
        self._before = self._of_the_user()

    def __enter__(self) -> "Try":
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def run(self, *words: str, fault: Fault | None = None, trace: Path | None = None) -> Ran:
        mark = os.urandom(8).hex()
        env = os.environ | {MARK: mark, "TMPDIR": str(self.tmp), "HOME": str(self.folder)}
        if fault is not None or trace is not None:
            env |= {"LD_PRELOAD": str(self._bench.shim), "FAULT_ROOTS": f"{self.workspace}:{self.tmp}"}
            env |= {"FAULT": str(fault)} if fault else {"FAULT_TRACE": str(trace)}
        process = subprocess.Popen(
            [FEDSAG, "simulator", str(self._bench.job), "-w", str(self.workspace), *WORDS, *words],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            text, is_over = process.communicate(timeout=LIMIT_S)[0], True
        except subprocess.TimeoutExpired:
            process.kill()
            text, is_over = process.communicate()[0], False
        try:
            eventually(lambda: not marked(mark), limit_s=5.0)
        except AssertionError:
            left = marked(mark)
            for pid in left:
                os.kill(pid, 9)
            return Ran(process.returncode, text, is_over, left)
        return Ran(process.returncode, text, is_over)

    def facts(self) -> Facts:
        report = self._report() or {}
        return report.get("digest", ""), [each["metrics"] for each in report.get("rounds", [])]

    def judged(self, ran: Ran, fault: Fault | None) -> list[str]:
        """What a run did not keep."""
        was_killed = fault is not None and (fault.role, fault.act) == (COMMAND, KILL) and ran.code == -9
        found = [] if ran.is_over else ["it hangs"]
        if ran.code not in (EXIT_CODES if fault else {0}) and not was_killed:
            found.append(f"exit code {ran.code}")
        if any(line.startswith("Traceback") for line in ran.text.splitlines()):  # those in logs are indented
            found.append("a traceback")
        if ran.code in (2, 3, 4) and "error: " not in ran.text:
            found.append("no error is named")
        report = self._report()
        if report is not None and not was_killed and (report["exit_code"], report["ok"]) != (ran.code, ran.code == 0):
            found.append(f"exit code {ran.code}, and {report['exit_code']} in the report")
        if ran.code == 0 and self.facts() != self._bench.facts:
            found.append(f"exit code 0 with {self.facts()} instead of {self._bench.facts}")
        if ran.left:
            found.append(f"{len(ran.left)} processes are left")
        if left := [path.name for path in self.tmp.iterdir() if path.name != "fedsag-run-notes"]:
            found.append(f"left in the folder for temporary files: {left}")
        if not was_killed and (parts := [str(path) for path in self.workspace.rglob("*.part")]):
            found.append(f"incomplete files are left: {parts}")
        if self._of_the_user() != self._before:
            found.append("files of the user's have changed")
        return found

    def _report(self) -> dict[str, Any] | None:
        try:
            return json.loads((self.workspace / "report.json").read_text())
        except OSError:
            return None

    def _of_the_user(self) -> list[tuple[str, int]]:
        return [
            (path.read_text() if path.exists() else "", path.parent.stat().st_mode if path.exists() else 0)
            for path in self._mine
        ]


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _compiler() -> str:
    found = shutil.which("cc") or shutil.which("gcc")
    if found is None:
        raise SystemExit("there is no C compiler")
    return found


def main(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sample", type=int, help="so many, drawn by the seed, instead of all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--role", choices=ROLES, action="append", help="only these processes")
    parser.add_argument("--act", action="append", help="only these errnos and signals")
    parser.add_argument("--only", help="ROLE:N:ACT: only this one")
    given = parser.parse_args(words)
    with tempfile.TemporaryDirectory(prefix="faults", dir="/tmp") as folder:
        bench = Bench(Path(folder))
        faults = [fault for fault in bench.every() if fault.role in (given.role or ROLES)]
        faults = [fault for fault in faults if given.act is None or fault.act in given.act]
        if given.sample is not None:
            faults = random.Random(given.seed).sample(faults, min(given.sample, len(faults)))
        if given.only:
            role, number, act = given.only.split(":")
            faults = [Fault(role, int(number), act)]
        counts = {role: len(lines) for role, lines in bench.operations.items()}
        print(f"operations of each process: {counts}; {len(faults)} faults", flush=True)
        broken = 0
        for fault in faults:
            if problems := bench.broken(fault):
                broken += 1
                print(f"\n{fault} ({bench.operation(fault)})", *problems, sep="\n  ", flush=True)
    print(f"{len(faults)} faults, {broken} broken promises")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
