"""Those who are told every event and change nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from fedsag_cli import events
from fedsag_cli.events import Event


class Observer(Protocol):
    def on(self, event: Event) -> None:
        """Told in the order in which things happened."""


class EventsFile:
    """Writes every event as a line of JSON, at once: what is there after a crash is what had happened."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb", buffering=0)

    def on(self, event: Event) -> None:
        self._file.write(events.to_line(event))

    def close(self) -> None:
        self._file.close()
