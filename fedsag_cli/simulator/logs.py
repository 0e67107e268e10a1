"""Reads the logs of processes. `since` is the size of a log, in bytes, when its process started."""

from __future__ import annotations

import os
import re
from pathlib import Path

from fedsag_cli import foreign

_LARGEST_TAIL = 1 << 16  # bytes
_LONGEST_LINE = 500  # characters
_NOTES_IN = 20_000  # the first bytes
_NOTE = "note: "
_STACK = re.compile(r"(Current t|T)hread 0x")
_FRAME = re.compile(r' *File "([^"]+)", line (\d+)')
_TRACEBACK = "Traceback (most recent call last):"


def size(log: Path) -> int:
    """The size of a log in bytes; 0 if there is no such file."""
    try:
        return log.stat().st_size
    except OSError:
        return 0


def tail(log: Path, count: int, *, since: int = 0) -> list[str]:
    """The last `count` lines; none if there is no such file."""
    try:
        with log.open("rb") as file:
            file.seek(max(since, file.seek(0, os.SEEK_END) - _LARGEST_TAIL))
            lines = file.read().decode(errors="replace").removesuffix("\n").split("\n")[-count:]
    except OSError:
        return []
    lines = [foreign.log_line(line) for line in lines] if lines != [""] else []
    return [line if len(line) <= _LONGEST_LINE else f"{line[:_LONGEST_LINE]} …" for line in lines]


def deepest_frame(log: Path, folder: Path, *, since: int = 0) -> str:
    """file:line of the deepest frame in `folder`, in the last stack that faulthandler printed, the main thread's."""
    found, is_looking = "", False
    for line in tail(log, 1000, since=since):
        if _STACK.match(line):
            is_looking = True
        elif is_looking and (frame := _FRAME.match(line)) and Path(frame[1]).is_relative_to(folder):
            found, is_looking = f"{frame[1]}:{frame[2]}", False
    return found


def last_error(log: Path, folder: Path, *, since: int = 0) -> tuple[str, str]:
    """The last line of the last traceback, and file:line of its deepest frame in `folder`; else empty texts."""
    error = where = ""
    is_inside = False
    for line in tail(log, 1000, since=since):
        if line == _TRACEBACK:
            error, where, is_inside = "", "", True
        elif is_inside and (frame := _FRAME.match(line)):
            where = f"{frame[1]}:{frame[2]}" if Path(frame[1]).is_relative_to(folder) else where
        elif is_inside and line and not line.startswith(" "):
            error, is_inside = line, False
    return error, where


def notes(log: Path, *, since: int = 0) -> list[str]:
    """The texts of the lines `note: …` at the start of a log."""
    try:
        with log.open("rb") as file:
            file.seek(since)
            text = file.read(_NOTES_IN).decode(errors="replace")
    except OSError:
        return []
    return [line.removeprefix(_NOTE) for line in text.splitlines() if line.startswith(_NOTE)]
