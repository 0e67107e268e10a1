"""The file events.jsonl: written event by event, and read when a run is resumed."""

from __future__ import annotations

import contextlib
from pathlib import Path

import msgspec

from fedsag_cli import events, foreign
from fedsag_cli.events import Event


class EventsFile:
    """An observer that writes every event as a line of JSON at once, so that none is lost in a crash."""

    def __init__(self, path: Path) -> None:
        """Appends to the file if it exists. Raises OSError."""
        self._file = path.open("ab", buffering=0)

    def on(self, event: Event) -> None:
        self._file.write(events.to_line(foreign.masked(event)))

    def close(self) -> None:
        self._file.close()


def read_events(path: Path) -> list[Event]:
    """The events in a file. An incomplete last line is removed from the file. Raises OSError."""
    with path.open("r+b") as file:
        *lines, rest = file.read().split(b"\n")
        if rest:
            file.truncate(file.tell() - len(rest))
    found = []
    for line in lines:
        with contextlib.suppress(msgspec.DecodeError):  # not a line of ours
            found.append(events.from_line(line))
    return found
