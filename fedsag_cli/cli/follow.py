"""The logs of chosen sites, line by line as they grow, each line behind the name of its site."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType

from fedsag_cli import events, foreign
from fedsag_cli.events import Event
from fedsag_cli.simulator import logs
from fedsag_cli.workspace import Workspace, site_of

_LOOK_S = 0.2  # a file does not say that it has grown
_AT_ONCE = 1 << 16  # bytes
_LONGEST = 500  # characters of a line that is longer than that


class Follow:
    """An observer that reads the logs in a thread of its own. On leaving, it reads them to their ends."""

    def __init__(self, sites: Sequence[str], say: Callable[[str], None]) -> None:
        self._sites, self._say = sites, say
        self._logs: dict[str, _Log] = {}  # by process
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
                self._logs = {site: _Log(workspace.log(site)) for site in self._sites}
            case events.ProcessStarted() if self._workspace and site_of(event.name) in self._sites:
                if event.name not in self._logs:  # a further executor of the site
                    self._logs |= {event.name: _Log(self._workspace.log(event.name), since=0)}

    def _read(self) -> None:
        while True:
            is_last = self._is_over.wait(_LOOK_S)
            for process, log in dict(self._logs).items():
                for text in log.lines(to_the_end=is_last):
                    self._say(f"{process} | {text}")
            if is_last:
                return


class _Log:
    """One log, from a place in it on."""

    def __init__(self, path: Path, since: int | None = None) -> None:
        """`since`: in bytes; by default the present end, what is before it is of an earlier run."""
        self._path = path
        self._at = logs.size(path) if since is None else since
        self._rest = b""

    def lines(self, *, to_the_end: bool) -> Iterator[str]:
        """The lines that have come, with one that is not complete if there will be no more."""
        while chunk := self._chunk():
            self._at += len(chunk)
            *whole, rest = (self._rest + chunk).split(b"\n")
            self._rest = _as_far_as_shown(rest)
            yield from map(_shown, whole)
        if to_the_end and self._rest:
            yield _shown(self._rest)
            self._rest = b""

    def _chunk(self) -> bytes:
        try:
            with self._path.open("rb") as file:
                file.seek(self._at)
                return file.read(_AT_ONCE)
        except OSError:
            return b""


def _as_far_as_shown(line: bytes) -> bytes:
    """The part that is kept of a line that has no end yet: it may become as long as the log."""
    return line if len(line) <= _AT_ONCE else line[line.rfind(b"\r", 0, -1) + 1 :][: _AT_ONCE + 1]


def _shown(line: bytes) -> str:
    text = foreign.log_line(line.decode(errors="replace"))
    return text if len(line) <= _AT_ONCE else f"{text[:_LONGEST]} …"
