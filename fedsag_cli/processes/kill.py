"""Ends processes: a process group, all descendants, or all with a certain environment variable."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def die_with_parent(parent: int) -> None:
    """Let the system kill this process when `parent`, its parent, ends."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # the parent has ended before the call above
        os._exit(1)


def adopt_orphans() -> None:
    """Make this process the parent of all its descendants whose own parent ends."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def kill_group(leader: int, number: int = signal.SIGKILL) -> None:
    """Send a signal to a process group. Does nothing if the group has ended."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, number)


def group_lives(leader: int) -> bool:
    """Whether a process of the group exists, including a zombie (ended, but not yet waited for)."""
    try:
        os.killpg(leader, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # on macOS: every process of the group has ended
        return False
    return True


def kill_descendants() -> None:
    """Send SIGKILL to all descendants of this process, which must have one thread and have called `adopt_orphans`."""
    while children := _children():
        for pid in children:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        for pid in children:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)


def kill_marked(name: str, value: str) -> list[str]:
    """Send SIGKILL to every other process that was started with `name=value` in its environment.

    Returns which these were: their numbers and the beginnings of their commands.
    """
    mark = f"{name}={value}".encode()
    ended: dict[int, str] = {}
    while found := [pid for pid in _all() if pid != os.getpid() and mark in _environment(pid)]:
        for pid in found:
            ended.setdefault(pid, _command(pid))
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    return [f"{pid} ({command})" if command else str(pid) for pid, command in ended.items()]


def carry_marks(marks: Mapping[str, str]) -> None:
    """Let `kill_marked` find this process, and those that it forks later, by these values. Linux only.

    A forked process has the environment that its parent was started with, where others look for it. What is written
    there must be as long as what is there now: other names are left as they are.
    """
    try:
        known = Path("/proc/self/environ").read_bytes()
        begins = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[47])
    except (OSError, ValueError, IndexError):
        return
    for name, value in marks.items():
        found = re.search(rb"(?:^|\0)" + re.escape(name.encode()) + rb"=([^\0]*)", known)
        if found and begins and len(found[1]) == len(value.encode()):
            ctypes.memmove(begins + found.start(1), value.encode(), len(found[1]))


def kill_session(leader: int) -> None:
    """Send SIGKILL to every process of the session that `leader` began, which has ended. Linux only."""
    while found := [pid for pid in _all() if pid != leader and _session(pid) == leader]:
        for pid in found:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)


def _session(pid: int) -> int:
    """The session of a process that lives; 0 of one that has ended."""
    with contextlib.suppress(OSError):
        state, _, _, session, *_ = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return 0 if state == "Z" else int(session)
    return 0


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
    with contextlib.suppress(OSError):  # another user's process, or it has ended
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return []


def _command(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""
