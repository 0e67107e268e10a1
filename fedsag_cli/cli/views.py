"""Who shows the events of a run: live on a terminal, lines in a pipe, JSON for programs, or notes alone."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from fedsag_cli import events
from fedsag_cli.cli import display
from fedsag_cli.cli.display import Format, Row
from fedsag_cli.cli.lines import Lines
from fedsag_cli.cli.live import Progress
from fedsag_cli.cli.summary import where
from fedsag_cli.events import Event, Observer
from fedsag_cli.report.alike import Kind
from fedsag_cli.simulator import logs
from fedsag_cli.workspace import Workspace

_LOOKED_AT = 10  # lines: the last ones may be empty


class View(Protocol):
    """An observer that shows events. `told`: the failures that it has shown, by site and kind."""

    @property
    def told(self) -> Collection[tuple[str, Kind]]: ...

    def on(self, event: Event) -> None: ...

    def line(self, text: str) -> None:
        """Show a line that belongs to no event."""


@contextmanager
def view(output: Format, *, quiet: bool = False, redraws: bool = True) -> Iterator[View]:
    """The observer that prints events in this format, and live on a terminal that is ours alone (`redraws`)."""
    if output is Format.JSON:
        yield JsonView()
    elif quiet:
        yield QuietView()
    elif redraws and display.can_redraw():
        live = LiveView()
        with live.screen:
            yield live
    else:
        yield PlainView()


@contextmanager
def progress() -> Iterator[Sequence[Observer]]:
    """The observers that show how far a run is, on a terminal: its results are shown otherwise."""
    if not display.can_redraw():
        yield ()
        return
    live = LiveView(tells=False)
    with live.screen:
        yield [live]


class JsonView:
    """One event a line."""

    told: Collection[tuple[str, Kind]] = ()

    def on(self, event: Event) -> None:
        display.json_line(events.to_line(event).decode().rstrip("\n"))

    def line(self, text: str) -> None:
        """Nothing: it would be no JSON."""


class QuietView:
    """The notes alone, and where a run that failed is found: failures are told at the end."""

    told: Collection[tuple[str, Kind]] = ()

    def on(self, event: Event) -> None:
        if isinstance(event, events.Notice):
            self.line(f"note: {event.text}")
        elif isinstance(event, events.RunFinished) and not event.ok:
            for text in where(Path(event.report).parent):
                self.line(text)

    def line(self, text: str) -> None:
        display.line(text)


class PlainView:
    """One line for each event that a reader of a log needs."""

    def __init__(self) -> None:
        self._lines = Lines()

    @property
    def told(self) -> Collection[tuple[str, Kind]]:
        return self._lines.told

    def on(self, event: Event) -> None:
        for text in self._lines.of(event):
            self.line(text)

    def line(self, text: str) -> None:
        display.line(text)


class LiveView:
    """The live view at the bottom of the terminal; failures, notes and the results of rounds above it."""

    def __init__(self, *, tells: bool = True) -> None:
        """`tells`: with the lines above it."""
        self._tells = tells
        self._lines = Lines()
        self._progress = Progress()
        self._lock = threading.Lock()  # the screen draws in a thread of its own
        self._newest = NewestLines()
        self.screen = display.Screen(self._rows)

    @property
    def told(self) -> Collection[tuple[str, Kind]]:
        return self._lines.told

    def on(self, event: Event) -> None:
        with self._lock:
            self._progress.on(event)
        if isinstance(event, events.RunStarted):
            self._newest = NewestLines(Workspace(Path(event.workspace)))
        texts = self._lines.of(event)
        for text in texts if self._tells and not _is_in_the_rows(event) else ():
            self.line(text)

    def line(self, text: str) -> None:
        self.screen.line(text)

    def _rows(self, columns: int, height: int) -> Sequence[Row]:
        with self._lock:
            return self._progress.rows(events.now(), columns, height, self._newest.of)


def _is_in_the_rows(event: Event) -> bool:
    """Whether the rows show it. So are the answers about the models of others: as many as clients times models."""
    match event:
        case events.ReplyAccepted():
            return bool(event.model_owner)
        case events.RoundStarted() | events.ReplyArrived():
            return True
    return False


class NewestLines:
    """The newest line of the log of each site. A log that has not grown is not read again."""

    def __init__(self, workspace: Workspace | None = None) -> None:
        self._workspace = workspace
        self._known: dict[str, tuple[int, str]] = {}  # the size of the log, and its last line

    def of(self, site: str) -> str:
        if self._workspace is None:
            return ""
        log = self._workspace.log(site)
        size, text = self._known.get(site, (0, ""))
        if (now := logs.size(log)) != size:
            text = next((line for line in reversed(logs.tail(log, _LOOKED_AT)) if line.strip()), "")
            self._known[site] = now, text.strip()
        return self._known[site][1] if site in self._known else ""
