"""A terminal for tests: what is written to it is what a user would see."""

from __future__ import annotations

import io
from types import SimpleNamespace

import pyte

from fedsag_cli.cli import display


class Terminal(io.StringIO):
    """Standard output that pyte draws. It asks `size` for its size, which a test may change."""

    def __init__(self, columns: int = 80, rows: int = 24, encoding: str = "utf-8") -> None:
        super().__init__()
        self.screen = pyte.HistoryScreen(columns, rows, history=1000)
        self._stream = pyte.Stream(self.screen)
        self._encoding = encoding

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._encoding

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        text.encode(self.encoding)
        self._stream.feed(text.replace("\n", "\r\n"))  # as the driver of a terminal does
        return super().write(text)

    @property
    def shown(self) -> list[str]:
        return [line.rstrip() for line in self.screen.display]

    @property
    def scrolled_out(self) -> list[str]:
        return ["".join(row[at].data for at in range(self.screen.columns)).rstrip() for row in self.screen.history.top]

    def resize(self, columns: int, rows: int) -> None:
        self.screen.resize(rows, columns)

    def use(self, monkeypatch) -> Terminal:
        """Let `display` print here, with colours."""
        monkeypatch.setattr(display, "sys", SimpleNamespace(stdout=self, stderr=self))  # pytest has its own
        monkeypatch.setattr(display, "_size_of_terminal", lambda: (self.screen.columns, self.screen.lines))
        for name in ("NO_COLOR", "JPY_PARENT_PID", "CI", "GITHUB_ACTIONS"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("TERM", "xterm")
        return self
