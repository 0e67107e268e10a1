"""Trackers write what scripts log, and each round's metrics, for tools such as TensorBoard."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from fedsag_cli.events import ValuesLogged


@runtime_checkable
class Tracker(Protocol):
    """Called from one thread that nothing else waits for. Whatever it raises is told, and the run goes on.

    `extra` is the one of fedsag's extras that brings what it needs. `folders`, relative to the server's working
    directory, are its own: everything in them is removed by the next run there.
    """

    extra: str

    @property
    def folders(self) -> Sequence[Path]: ...

    @property
    def view(self) -> str:
        """What shows what it keeps: a command, or an address; empty if nothing does."""

    def open(self, job: str) -> None:
        """Import what it needs for a job of that name; nothing is on disk yet. Raises ImportError."""

    def write(self, values: Sequence[ValuesLogged]) -> None:
        """Keep these of one site, in their order, all or none; they are there whatever happens next.

        At least one, with at most 100 names in all.
        """

    def close(self) -> None:
        """Nothing more is written."""
