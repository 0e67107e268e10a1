"""The events of a run, read from its workspace by another process while the run writes them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from fedsag_cli.errors import WorkspaceError
from fedsag_cli.events import Event, RunFinished
from fedsag_cli.simulator.events_file import EventsTail
from fedsag_cli.workspace import Workspace

_LOOK_S = 0.2  # a file does not say that it has grown


class EventStream:
    """The events of a run in the order of its file, as they come, up to its end.

    `is_over`: whether the run has ended already. `has_end`: after all events, whether the run has told its end; one
    that was killed has not.
    """

    has_end = False

    def __init__(self, workspace: Workspace) -> None:
        """Raises WorkspaceError if the file cannot be read."""
        self._workspace = workspace
        self._file = EventsTail(workspace.events)
        self._first = self._more()
        while _is_end(self._first) and workspace.is_in_use:  # this run ends just now, or the next one is starting
            time.sleep(_LOOK_S)
            if self._file.is_replaced:
                self._file = EventsTail(workspace.events)
                self._first = []
            self._first += self._more()
        self.is_over = _is_end(self._first) or not workspace.is_in_use

    def __iter__(self) -> Iterator[Event]:
        found, is_last = self._first, False
        while True:
            yield from found
            if found:
                self.has_end = _is_end(found)
            if self.has_end or is_last:
                return
            is_last = not self._workspace.is_in_use  # then what it wrote before it ended is read once more
            if not (found := self._more()) and not is_last:
                time.sleep(_LOOK_S)

    def _more(self) -> list[Event]:
        try:
            return self._file.more()
        except OSError as error:
            raise WorkspaceError(f"{self._workspace.events}: {error.strerror}") from None


def _is_end(found: Sequence[Event]) -> bool:
    """A run that was resumed has several ends in its file: the last line counts."""
    return bool(found) and isinstance(found[-1], RunFinished)
