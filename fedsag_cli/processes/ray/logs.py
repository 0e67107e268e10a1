"""What the logs of a node's processes have more than before."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from fedsag_cli.processes.ray.messages import Logged
from fedsag_cli.workspace import WORKER, log_by_worker

_AT_ONCE = 1 << 20  # bytes of one log
_EVERY_S = 0.5  # the logs of clients whose tasks workers do: there may be thousands


class Logs:
    """The logs of the processes that were started here, and of the clients whose tasks workers do."""

    def __init__(self, root: Path, shown: str) -> None:
        """`root`: the folder of the run's files. `shown`: the folder to name in its place."""
        self._root = root
        self._named, self._shown = os.fsencode(root), os.fsencode(shown)
        self._sizes: dict[Path, int] = {}
        self._of_processes: dict[Path, None] = {}
        self._of_clients = log_by_worker(root, WORKER).parent
        self._of_clients.mkdir(parents=True)
        self._due = 0.0
        self._adding = threading.Lock()

    def watch(self, log: Path) -> None:
        """A process is about to start that will write to this file."""
        log.parent.mkdir(parents=True, exist_ok=True)
        with self._adding:
            self._of_processes[log] = None

    def grown(self, served: Iterable[str] = (), *, all_of_them: bool) -> Iterator[Logged]:
        """Each log's new bytes, since the last call.

        Of the clients whose tasks workers do, the logs of those in `served` are read, and all logs now and then.
        """
        with self._adding:
            logs = list(self._of_processes)
        logs += (log_by_worker(self._root, site) for site in served)
        if all_of_them or time.monotonic() > self._due:
            logs += sorted(self._of_clients.iterdir())
            self._due = time.monotonic() + _EVERY_S
        for log in logs:
            try:
                yield from self._more_of(log)
            except OSError:
                continue  # it is not there yet, or gone

    def _more_of(self, log: Path) -> Iterator[Logged]:
        size, before = log.stat().st_size, self._sizes.get(log, 0)
        if size == before:
            return
        with log.open("rb") as file:
            file.seek(before if size > before else 0)  # it was emptied
            while piece := file.read(_AT_ONCE):
                self._sizes[log] = file.tell()
                yield Logged(str(log.relative_to(self._root)), piece.replace(self._named, self._shown))
