"""Does work in a child process with limited memory and time, because a template may come from another person."""

from __future__ import annotations

import json
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path

from fedsag_cli.errors import JobError

MOST_SECONDS = 3  # of the processor; a template of fedsag takes a few milliseconds
MOST_BYTES = 512 << 20


def text_of(work: Callable[[], str], *, name: str) -> str:
    """The text that `work` returns. Raises the JobError that it raises, and JobError naming `name` past a limit."""
    ours, theirs = os.pipe()
    child = os.fork()
    if not child:
        try:
            _limit()
            with open(theirs, "w", encoding="ascii") as answer:
                json.dump(_answer(work), answer)
        finally:
            os._exit(0)
    os.close(theirs)
    try:
        with open(ours, encoding="ascii") as answer:
            told = answer.read()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    try:
        found = json.loads(told)
    except ValueError:
        found = {}
    if "text" in found:
        return str(found["text"])
    most = f"it takes more than {MOST_SECONDS} s or {MOST_BYTES >> 20} MB to make the file from the template"
    raise JobError(found.get("message", f"{name}: {most}"), hint=found.get("hint", ""))


def _answer(work: Callable[[], str]) -> dict[str, str]:
    try:
        return {"text": work()}
    except JobError as error:
        return {"message": error.message, "hint": error.hint}
    except MemoryError:
        return {}


def _limit() -> None:
    signal.signal(signal.SIGXCPU, signal.SIG_DFL)
    limits = {resource.RLIMIT_CORE: 0, resource.RLIMIT_CPU: MOST_SECONDS}
    if size := _size():
        limits[resource.RLIMIT_AS] = size + MOST_BYTES
    for kind, most in limits.items():
        _, hard = resource.getrlimit(kind)
        least = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (least, hard))


def _size() -> int:
    """The bytes of address space of this process; 0 if the system does not say, as on macOS."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * resource.getpagesize()
