"""What can be read in what a process printed."""

from __future__ import annotations

import os
import re
from pathlib import Path

_LARGEST_TAIL = 1 << 16  # bytes
_NOTES_IN = 20_000  # the first characters
_NOTE = "note: "
_STACK = re.compile(r"(Current t|T)hread 0x")
_FRAME = re.compile(r' *File "([^"]+)", line (\d+)')


def tail(log: Path, count: int) -> list[str]:
    """The last lines; none where there is no such file."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _LARGEST_TAIL))
            return file.read().decode(errors="replace").splitlines()[-count:]
    except OSError:
        return []


def place_in_stack(log: Path, folder: Path) -> str:
    """file:line of the deepest frame below `folder` in the stacks that faulthandler printed last; main's comes last."""
    found, is_found = "", False
    for line in tail(log, 1000):
        if _STACK.match(line):
            is_found = False
        elif not is_found and (frame := _FRAME.match(line)) and Path(frame[1]).is_relative_to(folder):
            found, is_found = f"{frame[1]}:{frame[2]}", True
    return found


def notes(log: Path) -> list[str]:
    """What it has said in lines that begin with `note:`, at its start."""
    text = log.read_text(errors="replace")[:_NOTES_IN]
    return [line.removeprefix(_NOTE) for line in text.splitlines() if line.startswith(_NOTE)]
