"""Those who are told every event and change nothing."""

from __future__ import annotations

import contextlib
from pathlib import Path

import msgspec

from fedsag_cli import events
from fedsag_cli.events import Event


class EventsFile:
    """Writes every event as a line of JSON, at once: what is there after a crash is what had happened."""

    def __init__(self, path: Path) -> None:
        """Goes on after what is there."""
        self._file = path.open("ab", buffering=0)

    def on(self, event: Event) -> None:
        self._file.write(events.to_line(event))

    def close(self) -> None:
        self._file.close()


def told_before(path: Path) -> list[Event]:
    """The events in a file that a run has left; a last line that was cut off is removed from it. Raises OSError."""
    with path.open("r+b") as file:
        *lines, rest = file.read().split(b"\n")
        if rest:
            file.truncate(file.tell() - len(rest))
    told = []
    for line in lines:
        with contextlib.suppress(msgspec.DecodeError):  # a line somebody else has put there
            told.append(events.from_line(line))
    return told
