"""Names a process for all time, so that a row can tell whether the run's own process still lives."""

from __future__ import annotations

import os
import platform
from pathlib import Path


def this_process() -> str:
    """The machine, its start, the group of processes that see each other, the pid, and when the process began."""
    return "\n".join([*_here(), str(os.getpid()), _began(os.getpid())])


def is_gone(process: str) -> bool:
    """Whether the process has ended. One on another machine, or in another container, is not known to have ended."""
    host, boot, group, pid, began = [*process.split("\n"), "", "", "", "", ""][:5]
    here, booted, ours = _here()
    if host != here or not pid.isdecimal():
        return not pid.isdecimal()
    if boot != booted:
        return True
    if group != ours:
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return _began(int(pid)) != began


def _here() -> tuple[str, str, str]:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        group = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return platform.node(), "", ""
    return platform.node(), boot, group


def _began(pid: int) -> str:
    """In ticks since the start of the machine; empty where that is not known."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return ""
    fields = stat.rpartition(")")[2].split()
    return fields[19] if fields[0] != "Z" else "ended"
