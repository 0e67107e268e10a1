"""Ends processes: a group, all that descend from this one, all that carry a mark in their environment."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def die_with_parent(parent: int) -> None:
    """Let the end of `parent`, this process's own, be our end too."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before we could ask to be told
        os._exit(1)


def adopt_orphans() -> None:
    """What descends from this process stays below it, also where its own parent has ended."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def kill_group(leader: int, number: int = signal.SIGKILL) -> None:
    """Signal a process and all that share its group. One that is gone already is fine."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, number)


def group_lives(leader: int) -> bool:
    """Whether any process is in the group still, those included that ended and were not yet waited for."""
    try:
        os.killpg(leader, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # macOS, of a group whose every process has ended
        return False
    return True


def kill_descendants() -> None:
    """SIGKILL to the children of this process, which has one thread, and, as they become ours, to theirs."""
    while children := _children():
        for pid in children:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        for pid in children:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)


def kill_marked(name: str, value: str) -> None:
    """SIGKILL to every process that was started with `name=value` in its environment, but for this one."""
    mark = f"{name}={value}".encode()
    while found := [pid for pid in _all() if pid != os.getpid() and mark in _environment(pid)]:
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value)


def _children() -> list[int]:
    with contextlib.suppress(OSError):
        pid = os.getpid()
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def _all() -> list[int]:
    with contextlib.suppress(OSError):
        return [int(name) for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208  names are all we need
    return []


def _environment(pid: int) -> list[bytes]:
    with contextlib.suppress(OSError):  # somebody else's, or gone
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return []
