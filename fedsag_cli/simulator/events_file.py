"""The file events.jsonl: written event by event, read when a run is resumed, and followed by who watches a run."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import msgspec

from fedsag_cli import events
from fedsag_cli.events import Event


class EventsFile:
    """An observer that writes every event as a line of JSON at once, so that none is lost in a crash.

    The events have no secrets: who tells them masks them.
    """

    def __init__(self, path: Path) -> None:
        """Appends to the file if it exists. Raises OSError."""
        self._file = path.open("ab", buffering=0)

    def on(self, event: Event) -> None:
        self._file.write(events.to_line(event))

    def close(self) -> None:
        self._file.close()


def read_events(path: Path) -> list[Event]:
    """The events in a file. An incomplete last line is removed from the file. Raises OSError."""
    with path.open("r+b") as file:
        *lines, rest = file.read().split(b"\n")
        if rest:
            file.truncate(file.tell() - len(rest))
    return _events_in(lines)


class EventsTail:
    """The events of a file that another process writes, as they come."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self._rest = b""

    def more(self) -> list[Event]:
        """The events since the last call; none if there is no file yet. Raises OSError."""
        if self._file is None:
            try:
                self._file = self._path.open("rb")
            except FileNotFoundError:
                return []
        *lines, self._rest = (self._rest + self._file.read()).split(b"\n")
        return _events_in(lines)

    @property
    def is_replaced(self) -> bool:
        """Whether there is another file now, or none."""
        try:
            return self._file is not None and not os.path.samestat(self._path.stat(), os.fstat(self._file.fileno()))
        except OSError:
            return True


def _events_in(lines: Sequence[bytes]) -> list[Event]:
    found = []
    for line in lines:
        with contextlib.suppress(msgspec.DecodeError):  # not a line of ours
            found.append(events.from_line(line))
    return found
