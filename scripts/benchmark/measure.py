"""How long a command takes, and how much memory it and all it starts hold at once."""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

_MARK = "FEDSAG_BENCH"  # in the environment of whatever a command starts
_EVERY_S = 0.05


class Failed(Exception):
    """A command of the benchmark did not do its work."""


@dataclass
class Held:
    """Memory of one process at one moment, in bytes. `files` are memory-backed ones it has open or mapped, by inode."""

    proportional: int = 0  # PSS without those files
    private: int = 0
    descriptors: int = 0
    files: Mapping[int, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        return self.proportional + sum(self.files.values())


@dataclass
class Memory:
    """What sampling found: the peak of all processes together, and what each one held, in the order of time."""

    peak: int = 0
    history: dict[int, list[Held]] = field(default_factory=dict)


@dataclass
class Took:
    """One run of a command. Moments in seconds since 1970. `pid`: of the command's own process."""

    pid: int
    began: float
    ended: float
    seconds: float
    cpu_s: float
    out: str
    memory: Memory | None = None

    def divided(self, count: int) -> Took:
        """The time of one of `count` runs that the command made."""
        return replace(self, seconds=self.seconds / count, cpu_s=self.cpu_s / count)


def run(
    command: Sequence[str],
    *,
    folder: Path,
    env: Mapping[str, str] | None = None,
    sample: bool = False,
    limit_s: float = 900.0,
    code: int = 0,
    meanwhile: Callable[[subprocess.Popen[bytes]], None] | None = None,
) -> Took:
    """Run `command` to its end, piped; `meanwhile` may hasten it. Raises Failed where it ends with another `code`."""
    mark = uuid.uuid4().hex
    log = folder / "said.txt"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with log.open("wb") as said:
        began_at, began = time.time(), time.perf_counter()
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=os.environ | {_MARK: mark, "FEDSAG_HOME": str(folder)} | dict(env or {}),
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        sampler = _Sampler(mark) if sample and sys.platform == "linux" else None
        limit = threading.Timer(limit_s, process.kill)  # wait(timeout) would look only every 50 ms
        limit.start()
        try:
            if meanwhile:
                meanwhile(process)
            ended_with = process.wait()
            ended_at, ended = time.time(), time.perf_counter()
        finally:
            limit.cancel()
            process.kill()  # of use where waiting was interrupted
            memory = sampler.stop() if sampler else None
    out = log.read_text(errors="replace")
    if ended_with != code:
        wanted = f", not {code}" if code else ""
        raise Failed(f"{' '.join(command)}: exit code {ended_with}{wanted}\n{out[-2000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Took(
        pid=process.pid, began=began_at, ended=ended_at, seconds=ended - began, cpu_s=cpu_s, out=out, memory=memory
    )


class _Sampler:
    """A thread that looks at every process with a mark, again and again."""

    def __init__(self, mark: str) -> None:
        self._mark = f"{_MARK}={mark}".encode()
        self._memory = Memory()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def stop(self) -> Memory:
        self._over.set()
        self._thread.join()
        return self._memory

    def _watch(self) -> None:
        took = 0.0
        while not self._over.wait(max(_EVERY_S, 4 * took)):  # who is looked at should not feel it
            began = time.perf_counter()
            held = {pid: found for pid in self._pids() if (found := _held_by(pid))}
            files: dict[int, int] = {}
            for pid, each in held.items():
                files.update(each.files)
                self._memory.history.setdefault(pid, []).append(each)
            together = sum(each.proportional for each in held.values()) + sum(files.values())
            self._memory.peak = max(self._memory.peak, together)
            took = time.perf_counter() - began

    def _pids(self) -> list[int]:
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if self._mark in (folder / "environ").read_bytes():
                    found.append(int(folder.name))
        return found


def _held_by(pid: int) -> Held | None:
    folder = Path("/proc") / str(pid)
    try:
        lines = (folder / "smaps_rollup").read_text().splitlines()[1:]
        kib = {line.split(":")[0]: int(line.split()[1]) for line in lines}
        descriptors = len(list((folder / "fd").iterdir()))
        files = _files_of(folder)
    except (OSError, ValueError, IndexError):
        return None  # it has ended
    return Held(
        proportional=(kib["Pss_Anon"] + kib["Pss_File"]) << 10,
        private=(kib["Private_Clean"] + kib["Private_Dirty"]) << 10,
        descriptors=descriptors,
        files=files,
    )


def _files_of(folder: Path) -> dict[int, int]:
    """Memory-backed files without a name that a process has open or mapped: bytes by inode."""
    found: dict[int, int] = {}
    places = [*(folder / "fd").iterdir()]
    for line in (folder / "maps").read_text().splitlines():
        if "/memfd:" in line:
            first, _, last = line.split(maxsplit=1)[0].partition("-")
            places.append(folder / "map_files" / f"{int(first, 16):x}-{int(last, 16):x}")
    for place in places:
        with contextlib.suppress(OSError):
            if str(place.readlink()).startswith("/memfd:"):
                status = place.stat()
                found[status.st_ino] = status.st_blocks * 512
    return found
