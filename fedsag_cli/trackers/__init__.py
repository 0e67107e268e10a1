"""The contract of a tracker, which stores what scripts log, and each round's metrics, for tools such as TensorBoard."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from fedsag_cli.events import ValuesLogged


@runtime_checkable
class Tracker(Protocol):
    """Stores logged values. It is called in its own thread, so that the run does not wait for it.

    An exception becomes a note for the user, and the run continues. `extra` names the extra of fedsag that installs
    what the tracker needs. `folders`, relative to the server's working directory, belong to the tracker: the next run
    in the same workspace removes everything in them.
    """

    extra: str

    @property
    def folders(self) -> Sequence[Path]: ...

    @property
    def view(self) -> str:
        """The command, or the address, that shows the stored values; empty if there is none."""

    def open(self, job: str) -> None:
        """Import what the tracker needs, for a job with this name. Write nothing yet. Raises ImportError."""

    def write(self, values: Sequence[ValuesLogged]) -> None:
        """Store values of one site, in this order: all of them, or none and raise. They must not be lost if the run is
        killed after this call.

        `values` has at least one element, and at most 100 names in all.
        """

    def close(self) -> None:
        """Called once, after the last value."""
