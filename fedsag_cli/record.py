"""The record of a run: what the server did, line by line, each line bound to all before it by a digest.

A line is a SHA-256 in hex, a space, and JSON. The digest is that of the digest before it and of the JSON; before the
first stands the plan's `identity`. So a line proves itself, all lines before it, and that they belong to this plan.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, Union

import msgspec

_PIECE = 1 << 16  # bytes: they stay in the cache
_LINK_SIZE = 64  # hex digits of a SHA-256


class Whole(msgspec.Struct, frozen=True, kw_only=True, tag="round", tag_field="line"):
    """A whole round: its events, the name of its checkpoint, and where the run stands after it.

    `keeps` names what components of the job's own code keep from round to round, which no checkpoint has. `states`: by
    file, the sites whose states were written to it with this round. `best`: the file of the best model so far; empty if
    there is none.
    """

    round_num: int
    checkpoint: str
    state: dict[str, Any]
    keeps: list[str] = []
    states: dict[str, list[str]] = {}
    best: str = ""
    events: list[msgspec.Raw] = []


class Proof(msgspec.Struct, frozen=True, kw_only=True, tag="proof", tag_field="line"):
    """The SHA-256 of a file, whose path is relative to the folder of the record."""

    file: str
    sha256: str


class End(msgspec.Struct, frozen=True, kw_only=True, tag="end", tag_field="line"):
    """All workflows are done; the digest of the final params."""

    digest: str


Line: TypeAlias = Union[Whole, Proof, End]  # noqa: UP007  msgspec reads it at run time


class Place(NamedTuple):
    """A whole round in a record. `line`: the index of its line; `needs`: the files to continue a run after it."""

    line: int
    whole: Whole
    needs: frozenset[str]

    @property
    def files(self) -> frozenset[str]:
        """`needs`, and the best model so far."""
        return self.needs | {self.whole.best} if self.whole.best else self.needs


class Found(msgspec.Struct, frozen=True):
    """The lines of a record that are proven, the size of the file up to the end of each, and the links after each.

    `damaged` is the number of the first line that is not what the server wrote, from 1; 0 if every line is. A last line
    without its end is none: the server was killed while it wrote it.
    """

    lines: Sequence[Line] = ()
    ends: Sequence[int] = ()
    links: Sequence[str] = ()
    damaged: int = 0

    @property
    def rounds(self) -> list[Whole]:
        return [line for line in self.lines if isinstance(line, Whole)]

    @property
    def states(self) -> dict[str, str]:
        """By site, the file that has its state after the last round."""
        return {site: file for whole in self.rounds for file, sites in whole.states.items() for site in sites}

    @property
    def places(self) -> Iterator[Place]:
        """After each whole round, what a run needs to continue there."""
        of_site: dict[str, str] = {}
        for index, line in enumerate(self.lines):
            if isinstance(line, Whole):
                of_site.update({site: file for file, sites in line.states.items() for site in sites})
                yield Place(index, line, frozenset({line.checkpoint, *of_site.values()}))

    @property
    def digest(self) -> str:
        """The digest of the final params; empty if the run did not come to its end."""
        return next((line.digest for line in reversed(self.lines) if isinstance(line, End)), "")

    def proofs(self, files: Iterable[str]) -> list[Proof | None]:
        """The last proof of each of these files, which are different ones or given several times."""
        last = {line.file: line for line in self.lines if isinstance(line, Proof)}
        return [last.get(file) for file in dict.fromkeys(files)]

    def proof(self, file: str, after: int | None = None) -> Proof | None:
        """The last proof of a file or, with `after`, the first one after the line with this index."""
        lines = reversed(self.lines) if after is None else iter(self.lines[after + 1 :])
        return next((line for line in lines if isinstance(line, Proof) and line.file == file), None)


def read(path: Path, identity: str) -> Found:
    """The record of the plan with this identity; empty if there is no such file. Raises OSError."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return Found()
    lines: list[Line] = []
    ends: list[int] = []
    links: list[str] = []
    at, link = 0, identity
    while at < len(data):
        end = data.find(b"\n", at) + 1
        if not end:
            at = len(data)
            break
        text = data[at + _LINK_SIZE + 1 : end - 1]
        link = _linked(link, text)
        if data[at : at + _LINK_SIZE + 1] != f"{link} ".encode():
            break
        try:
            lines.append(msgspec.json.decode(text, type=Line))
        except (msgspec.DecodeError, UnicodeDecodeError):  # of another version
            break
        ends.append(end)
        links.append(link)
        at = end
    return Found(lines, ends, links, damaged=len(lines) + 1 if at < len(data) else 0)


class Record:
    """The record as the server writes it. Several threads may append."""

    def __init__(self, path: Path, identity: str, kept: Found, num_lines: int) -> None:
        """Keeps the first `num_lines` lines of `kept`, and removes what the file has after them. Raises OSError."""
        self._link = kept.links[num_lines - 1] if num_lines else identity
        self._lock = threading.Lock()
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        os.ftruncate(self._fd, kept.ends[num_lines - 1] if num_lines else 0)

    def append(self, *lines: Line) -> None:
        """Add lines, all or none. Raises OSError."""
        with self._lock:
            link, data = self._link, b""
            for line in lines:
                text = msgspec.json.encode(line)
                link = _linked(link, text)
                data += f"{link} ".encode() + text + b"\n"
            size = os.fstat(self._fd).st_size
            try:
                _write_all(self._fd, data)
            except OSError:
                with contextlib.suppress(OSError):
                    os.ftruncate(self._fd, size)
                raise
            self._link = link

    def sync(self) -> None:
        """Return when the disk has it. Raises OSError."""
        os.fsync(self._fd)

    def close(self) -> None:
        os.close(self._fd)


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hex. Raises OSError."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        for piece in _pieces(file.fileno()):
            digest.update(piece)
    return digest.hexdigest()


def _pieces(fd: int) -> Iterator[memoryview]:
    buffer = bytearray(_PIECE)
    while size := os.readv(fd, [buffer]):
        yield memoryview(buffer)[:size]


def _linked(link: str, text: bytes) -> str:
    return hashlib.sha256(link.encode() + text).hexdigest()


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]
