"""Reads the logs of processes. `since` is the size of a log, in bytes, when its process started."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from fedsag_cli import foreign

_LARGEST_TAIL = 1 << 16  # bytes
_AT_ONCE = 1 << 16  # bytes
_LONGEST_LINE = 500  # characters
_NOTES_IN = 20_000  # the first bytes
_NOTE = "note: "
_STACK = re.compile(r"(Current t|T)hread 0x")
_FRAME = re.compile(r' *File "([^"]+)", line (\d+)')
_TRACEBACK = "Traceback (most recent call last):"
_CHAINED = ("During handling of the above exception", "The above exception was the direct cause")
_RANK = re.compile(r"\[(rank\d+)\]: ?")  # torch marks the lines of each of its processes
_LAUNCHER = re.compile(r"([\w.]+\.)?(ChildFailedError|CalledProcessError|ProcessExitedException)\b")


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


class LogTail:
    """A log that another process writes: its lines as they come, from a place in it on."""

    def __init__(self, log: Path, *, since: int = 0) -> None:
        self._log, self._at = log, since
        self._rest = b""

    def lines(self, *, to_the_end: bool) -> Iterator[str]:
        """The lines since the last call, with one that is not complete if there will be no more."""
        while chunk := self._chunk():
            self._at += len(chunk)
            *whole, rest = (self._rest + chunk).split(b"\n")
            self._rest = _as_far_as_shown(rest)
            yield from map(_shown, whole)
        if to_the_end and self._rest:
            yield _shown(self._rest)
            self._rest = b""

    def _chunk(self) -> bytes:
        try:
            with self._log.open("rb") as file:
                if file.seek(0, os.SEEK_END) < self._at:  # it was emptied
                    self._at = 0
                file.seek(self._at)
                return file.read(_AT_ONCE)
        except OSError:
            return b""


def _as_far_as_shown(line: bytes) -> bytes:
    """The part that is kept of a line that has no end yet: it may become as long as the log."""
    return line if len(line) <= _AT_ONCE else line[line.rfind(b"\r", 0, -1) + 1 :][: _AT_ONCE + 1]


def _shown(line: bytes) -> str:
    text = foreign.log_line(line.decode(errors="replace"))
    return text if len(line) <= _AT_ONCE else f"{text[:_LONGEST_LINE]} …"


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
    """The last line of the last traceback, and file:line of its deepest frame in `folder`; else empty texts.

    If a launcher such as torchrun printed that traceback, because a process that it had started failed, that process's
    own traceback counts.
    """
    lines = tail(log, 1000, since=since)
    errors = list(_errors(lines, folder))
    if not errors:
        return "", ""
    *earlier, last = errors
    if not _LAUNCHER.match(last.text):
        return last.text, last.where
    root, exit_code = _root_cause(lines)
    of_root = [each for each in earlier if each.source == f"rank{root}"] or [
        each for each in earlier if not each.source
    ]
    if of_root:
        return of_root[-1].text, of_root[-1].where
    return f"{last.text} rank {root}, exit code {exit_code}" if exit_code else last.text, last.where


class _Error(NamedTuple):
    text: str
    where: str
    source: str  # the process, if a launcher marks its lines: rank0


def _errors(lines: Iterable[str], folder: Path) -> Iterator[_Error]:
    """The last error of each chain of tracebacks, in their order. The lines of several processes may be mixed."""
    inside: dict[str, str] = {}  # where the traceback of each process is, as far as it is known
    held: dict[str, _Error] = {}
    for marked in lines:
        mark = _RANK.match(marked)
        source, line = (mark[1], marked[mark.end() :]) if mark else ("", marked)
        if line == _TRACEBACK:
            if source in held:
                yield held.pop(source)
            inside[source] = ""
        elif line.startswith(_CHAINED):
            held.pop(source, None)
        elif source in inside and (frame := _FRAME.match(line)):
            if Path(frame[1]).is_relative_to(folder):
                inside[source] = f"{frame[1]}:{frame[2]}"
        elif source in inside and line and not line.startswith(" "):
            held[source] = _Error(line, inside.pop(source), source)
    yield from held.values()


def _root_cause(lines: Sequence[str]) -> tuple[str, str]:
    """The rank and the exit code of the process that failed first, in the table that torchrun prints at its end."""
    table = lines[
        max((index for index, line in enumerate(lines) if line.startswith("Root Cause")), default=len(lines)) :
    ]
    found = {name: value for name, _, value in (line.partition(":") for line in table)}
    named = {name.strip(): value.split() for name, value in found.items()}
    return "".join(named.get("rank", [])[:1]), "".join(named.get("exitcode", [])[:1])


def notes(log: Path, *, since: int = 0) -> list[str]:
    """The texts of the lines `note: …` at the start of a log."""
    try:
        with log.open("rb") as file:
            file.seek(since)
            text = file.read(_NOTES_IN).decode(errors="replace")
    except OSError:
        return []
    return [line.removeprefix(_NOTE) for line in text.splitlines() if line.startswith(_NOTE)]
