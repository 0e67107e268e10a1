"""Facts about this machine: the home folder, cores, GPUs, free memory, the memory of this process, and versions."""

from __future__ import annotations

import contextlib
import functools
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path

_ACCELERATOR = re.compile("nvidia|nvhost|nvmap|nvgpu|dxg|kfd|dri$|accel|mtia|davinci|habana|hl[0-9]|xdna|neuron|mali")
_GROUPS, _GROUPS_OF_PROCESS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def home() -> Path:
    """The user's home folder; the root folder, as in a container, if neither HOME nor the system names one."""
    try:
        return Path.home()
    except RuntimeError:
        return Path("/")


def fedsag_home() -> Path:
    """The folder for what fedsag keeps for this user: $FEDSAG_HOME, else ~/.fedsag."""
    return Path(os.environ.get("FEDSAG_HOME") or home() / ".fedsag")


def with_own_programs(env: Mapping[str, str]) -> dict[str, str]:
    """The environment `env` in which the python3 and torchrun of fedsag's virtual environment come first."""
    if sys.prefix == sys.base_prefix:
        return dict(env)
    return {**env, "PATH": os.pathsep.join([str(Path(sys.executable).parent), env.get("PATH", os.defpath)])}


def cores() -> int:
    """The number of processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def versions(preload: Collection[str]) -> dict[str, str]:
    """The versions on which the numbers of a run depend, and the CPU; torch's, if these modules of a run include it."""
    import importlib.metadata  # clients, which import this module, need neither

    from fedsag_cli import __version__

    packages = ["numpy", *(["torch"] if "torch" in preload else [])]
    known = {"fedsag": __version__, "python": platform.python_version()}
    for package in packages:
        try:
            known[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    known["platform"] = f"{sys.platform} {platform.machine()}"
    return known | ({"cpu": name} if (name := _cpu()) else {})


def _cpu() -> str:
    """The CPU's model, as Linux names it; empty if it is not known."""
    with contextlib.suppress(OSError), Path("/proc/cpuinfo").open(errors="replace") as lines:
        for line in lines:
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return ""


def free_memory() -> int:
    """Free memory in bytes, without swap and within the container's limit; 0 if that is not known."""
    return min((amount for amount in (_free_of_machine(), _free_of_container()) if amount is not None), default=0)


def private_memory() -> int:
    """Bytes that only this process uses; 0 if that is not known."""
    return _private(_fields(Path("/proc/self/smaps_rollup")))


def openblas_of(package: Path) -> list[Path]:
    """The library for linear algebra that comes with numpy or scipy from PyPI. `package`: the folder of either."""
    return list(package.with_name(f"{package.name}.libs").glob("lib*openblas*"))


def give_back_memory() -> None:
    """Give memory that was freed back to the system. glibc keeps most of it otherwise."""
    if trim := _malloc_trim():
        trim(0)


@functools.cache
def _malloc_trim() -> Callable[[int], int] | None:
    import ctypes

    return getattr(ctypes.CDLL(None), "malloc_trim", None)


def memory_of_session(leader: int) -> tuple[int, int]:
    """Bytes that a session of processes has for itself, at most so far, and those that its leader shares with others.

    The peak is the leader's; its children count with what they have now. Zeros if that is not known, or it has ended.
    """
    own = 0
    folder = Path(f"/proc/{leader}")
    rollup, status = _fields(folder / "smaps_rollup"), _fields(folder / "status")
    shared = max(0, rollup.get("Rss", 0) - _private(rollup))
    for pid in _session(leader):
        own += _private(_fields(Path(f"/proc/{pid}/smaps_rollup"))) if pid != leader else 0
    peak = max(_private(rollup), status.get("VmHWM", 0) - shared)
    return (own + peak, shared) if rollup else (0, 0)


def _private(fields: Mapping[str, int]) -> int:
    return fields.get("Private_Clean", 0) + fields.get("Private_Dirty", 0)


def _session(leader: int) -> Iterator[int]:
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError, IndexError):  # it has ended
            if int((folder / "stat").read_text().rpartition(")")[2].split()[3]) == leader:
                yield int(folder.name)


def _free_of_machine() -> int | None:
    if sys.platform == "darwin":
        return (
            os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
        )  # macOS does not report it: a guess, half of the memory
    return _fields(Path("/proc/meminfo")).get("MemAvailable")


def _free_of_container() -> int | None:
    """What the memory limits of the control groups leave; None without a limit."""
    free = (_free_of_group(group) for group in _groups())
    return min((amount for amount in free if amount is not None), default=None)


def _groups() -> Iterator[Path]:
    """The folders of the control groups, of both versions, that this process is in: each has limits of its own."""
    try:
        lines = _GROUPS_OF_PROCESS.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        mounted = ["memory"] if "memory" in controllers.split(",") else [] if controllers else ["", "unified"]
        for base in (_GROUPS / name for name in mounted):
            group = base / path.lstrip("/")
            yield from (each for each in (group, *group.parents) if each.is_relative_to(base))


def _free_of_group(group: Path) -> int | None:
    for limit, used, inactive in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            bytes_allowed = int((group / limit).read_text())  # "max": no limit
            bytes_used = int((group / used).read_text())
            stat = dict(line.split(" ", 1) for line in (group / "memory.stat").read_text().splitlines())
            return max(0, bytes_allowed - bytes_used + int(stat.get(inactive, 0)))  # unused cached files make room
        except (OSError, ValueError):
            continue
    return None


def _fields(file: Path) -> dict[str, int]:
    """The `Name:  123 kB` lines of a file in /proc, in bytes."""
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return {}
    words = (line.split() for line in lines if line.endswith("kB"))
    return {word[0].rstrip(":"): int(word[-2]) * 1024 for word in words}


@functools.cache
def may_have_accelerator(devices: Path = Path("/dev")) -> bool:
    """Whether this process may ever use a GPU or the like. On Linux, each driver is reached by a file in /dev."""
    return sys.platform != "linux" or any(_ACCELERATOR.match(path.name) for path in devices.iterdir())


def num_gpus() -> int | None:
    """The number of GPUs that nvidia-smi lists; None if that tool is missing or fails."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    try:
        listed = subprocess.run([tool, "-L"], capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return sum(line.startswith("GPU ") for line in listed.splitlines())
