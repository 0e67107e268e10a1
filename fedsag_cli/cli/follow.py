"""The logs of chosen sites, line by line as they grow, each line behind the name of its site."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

from fedsag_cli import events
from fedsag_cli.events import Event
from fedsag_cli.simulator.logs import LogTail, size
from fedsag_cli.workspace import Workspace, site_of

_LOOK_S = 0.2  # a file does not say that it has grown


class Follow:
    """An observer that reads the logs in a thread of its own. On leaving, it reads them to their ends."""

    def __init__(self, sites: Sequence[str], say: Callable[[str], None]) -> None:
        self._sites, self._say = sites, say
        self._logs: dict[str, LogTail] = {}  # by process
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._read, name="follow", daemon=True)
        self._workspace: Workspace | None = None

    def __enter__(self) -> Follow:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_over.set()
        self._thread.join()

    def on(self, event: Event) -> None:
        match event:
            case events.RunStarted():
                self._workspace = workspace = Workspace(Path(event.workspace))
                self._logs = {site: LogTail(log := workspace.log(site), since=size(log)) for site in self._sites}
            case events.ProcessStarted() if self._workspace and site_of(event.name) in self._sites:
                if event.name not in self._logs:  # a further executor of the site
                    self._logs |= {event.name: LogTail(self._workspace.log(event.name))}

    def _read(self) -> None:
        while True:
            is_last = self._is_over.wait(_LOOK_S)
            for process, log in dict(self._logs).items():
                for text in log.lines(to_the_end=is_last):
                    self._say(f"{process} | {text}")
            if is_last:
                return
