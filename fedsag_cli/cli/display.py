"""Prints tables, lines, JSON, errors, and the live screen. Only this module prints.

It escapes and masks every text: other modules pass what they have, and styles beside it.
"""

from __future__ import annotations

import io
import os
import shutil
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from itertools import groupby
from typing import Any, TextIO, TypeAlias

from fedsag_cli import foreign
from fedsag_cli.errors import FedsagError

Cell: TypeAlias = "tuple[str, str]"
"""A text and its style: "bold", "dim", or a colour."""

_WIDTH = 80  # of what is fitted where there is no terminal
_STYLES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}


class Format(str, Enum):
    """The value of --format."""

    TXT = "txt"
    JSON = "json"


class _Shown:
    """Whether an error is printed with its traceback: -debug."""

    tracebacks = False


def on_terminal() -> bool:
    return _is_terminal(sys.stdout)


def can_redraw() -> bool:
    """Whether standard output is a terminal whose cursor can move up. In a notebook and with TERM=dumb it cannot."""
    return _is_capable(sys.stdout) and "JPY_PARENT_PID" not in os.environ


def share_a_reader() -> bool:
    """Whether standard output and standard error go to the same terminal, file or pipe."""
    try:
        return os.path.samestat(os.fstat(sys.stdout.fileno()), os.fstat(sys.stderr.fileno()))
    except (AttributeError, OSError, ValueError):  # a stream is missing or closed, or is not a file
        return False


def width() -> int:
    """The number of columns for what is fitted: the terminal's, or 80."""
    return shutil.get_terminal_size((_WIDTH, 24)).columns if on_terminal() else _WIDTH


def escape_unencodable() -> None:
    """Print characters that the terminal's encoding does not have as escapes."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def show_tracebacks() -> None:
    _Shown.tracebacks = True


def line(text: str) -> None:
    _write(sys.stdout, _safe(text))


def offer(word: str, meaning: str) -> None:
    """Print a word that a shell may complete, and its meaning."""
    _write(sys.stdout, f"{_safe(word)}\t{_safe(meaning)}")


def document(value: Any) -> None:
    import json  # --version does not need it

    _write(sys.stdout, json.dumps(foreign.masked(value), indent=2))


def json_line(text: str) -> None:
    """Print a line of JSON. What a terminal could act on is escaped as JSON escapes it."""
    _write(sys.stdout, text if text.isprintable() else "".join(map(_json_escaped, text)))


def note(text: str) -> None:
    _message("note", text, "cyan")


def warning(text: str) -> None:
    _message("warning", text, "yellow")


def error(error: FedsagError) -> None:
    if _Shown.tracebacks:
        _traceback(error)
    _message("error", error.message, "red")
    for text in error.details:
        _write(sys.stderr, _safe(text))
    if error.hint:
        _message("hint", error.hint, "dim")


def bug(error: BaseException) -> None:
    """An error that fedsag does not expect: its traceback is what its authors need."""
    _traceback(error)
    _message("error", f"a bug in fedsag: {type(error).__name__}: {error}", "red")
    _message("hint", "please report it, with the lines above", "dim")


def help_text(text: str) -> None:
    for each in text.splitlines():
        _write(sys.stderr, _safe(each))


def table(rows: Sequence[Mapping[str, str]], columns: Sequence[str], *, by: str = "") -> None:
    """Print a table: in a pipe one line for each row, with `-` for an empty cell; on a terminal long cells are wrapped.

    `by`: on a terminal, this column is a heading above its rows.
    """
    cells = [{column: _safe(row[column]) for column in columns} for row in rows]
    if on_terminal():
        shown = [column for column in columns if column != by]
        for title, group in groupby(cells, key=lambda row: row[by] if by else ""):
            if title:
                _write(sys.stdout, _styled(title, "bold"))
            _wrapped_table([_safe(column) for column in shown], [[row[column] for column in shown] for row in group])
            _write(sys.stdout, "")
        return
    lines = [[_safe(column) for column in columns], *([row[column] or "-" for column in columns] for row in cells)]
    widths = [max(map(len_of, column)) for column in zip(*lines, strict=True)]
    for texts in lines:
        _write(sys.stdout, _aligned(texts, widths))


def shown(value: Any) -> str:
    """A value on one line, in quotes if it is an empty text or begins or ends with a space."""
    import json

    if isinstance(value, str):
        return value if value and value == value.strip() else f'"{value}"'
    return json.dumps(value, ensure_ascii=False)


def len_of(text: str) -> int:
    """The columns that a text takes: two for each wide character."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


class Screen:
    """Rows at the bottom of the terminal that are drawn anew several times a second, and lines above them."""

    def __init__(self, rows: Callable[[], Sequence[Sequence[Cell]]]) -> None:
        from rich.console import Console
        from rich.live import Live

        self._rows = rows
        self._console = Console(file=_Output(), highlight=False, markup=False, emoji=False)  # type: ignore[arg-type]
        self._live = Live(
            console=self._console,
            refresh_per_second=8,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
            get_renderable=self._drawn,
        )

    def __enter__(self) -> Screen:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def line(self, text: str) -> None:
        from rich.text import Text

        self._console.print(Text(_safe(text)), soft_wrap=True)

    def _drawn(self) -> Any:
        """Rows of the same number of cells are aligned."""
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        grids = []
        has_colours = _has_colours(sys.stdout)
        for count, rows in groupby(self._rows(), key=len):
            grids.append(grid := Table.grid(padding=(0, 2)))
            for number in range(count):  # where the room is short, the last column is cut, not the names before it
                grid.add_column(no_wrap=number < count - 1)
            for row in rows:
                styled = ((_safe(text), style if has_colours else "") for text, style in row)
                grid.add_row(*(Text(text, style, no_wrap=True, overflow="ellipsis") for text, style in styled))
        return Group(*grids)


class _Output(io.TextIOBase):
    """Standard output for rich: like all output, it may close while the run goes on."""

    def __init__(self) -> None:
        self._parts: list[str] = []

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return sys.stdout.encoding

    def isatty(self) -> bool:
        return sys.stdout.isatty()

    def fileno(self) -> int:
        return sys.stdout.fileno()

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self._parts.append(text)
        return len(text)

    def flush(self) -> None:
        parts, self._parts = self._parts, []
        _write(sys.stdout, "".join(parts), end="")


def _safe(text: str) -> str:
    return foreign.one_line(foreign.masked(text))


def _json_escaped(char: str) -> str:
    if char.isprintable():
        return char
    units = char.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))


def _is_terminal(stream: TextIO | None) -> bool:
    return stream is not None and stream.isatty()


def _is_capable(stream: TextIO | None) -> bool:
    """Whether the stream is a terminal that understands escape sequences."""
    return _is_terminal(stream) and os.environ.get("TERM", "dumb").lower() not in ("", "dumb", "unknown")


def _has_colours(stream: TextIO | None) -> bool:
    return _is_capable(stream) and not os.environ.get("NO_COLOR")


def _message(word: str, text: str, style: str) -> None:
    if _has_colours(sys.stderr):
        word = f"\x1b[{_STYLES[style]}m{word}\x1b[0m"
    _write(sys.stderr, f"{word}: {_safe(text)}")


def _traceback(error: BaseException) -> None:
    for text in "".join(traceback.format_exception(error)).splitlines():
        _write(sys.stderr, f"    | {_safe(text)}")  # a line of the message is not taken for one of ours


def _write(stream: TextIO | None, text: str, *, end: str = "\n") -> None:
    if stream is not None:  # a process may be started without standard streams
        try:
            stream.write(text + end)
            stream.flush()  # the reader of a pipe gets each line at once
        except OSError:  # the reader has gone (`| head`), or the disk is full: the run continues
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, stream.fileno())
            os.close(nothing)


def _aligned(texts: Sequence[str], widths: Sequence[int]) -> str:
    padded = (text + " " * (width - len_of(text)) for text, width in zip(texts, widths, strict=True))
    return "  ".join(padded).rstrip()


def _wrapped_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = _widths([heads, *rows], width() - 2 * (len(heads) - 1))
    for number, row in enumerate([heads, *rows]):
        columns = [_wrapped(text, size) for text, size in zip(row, widths, strict=True)]
        for index in range(max(map(len, columns))):
            text = _aligned([pieces[index] if index < len(pieces) else "" for pieces in columns], widths)
            _write(sys.stdout, text if number else _styled(text, "bold"))


def _wrapped(text: str, size: int) -> list[str]:
    if len_of(text) <= size:
        return [text]
    from rich.console import Console
    from rich.text import Text

    pieces = [piece.plain.rstrip() for piece in Text(text).wrap(Console(), size, overflow="fold")]
    return [piece for piece in pieces if piece]


def _widths(rows: Sequence[Sequence[str]], available: int) -> list[int]:
    """The widths of the columns, together at most `available` if that is possible: the widest become narrower.

    The first column counts half, so that it becomes narrower last.
    """
    full = [max(1, *map(len_of, column)) for column in zip(*rows, strict=True)]
    low, high = 0, max(full)

    def cut(limit: int) -> list[int]:
        return [max(1, min(size, limit if index else 2 * limit)) for index, size in enumerate(full)]

    while low < high:  # the largest limit that fits
        middle = (low + high + 1) // 2
        low, high = (middle, high) if sum(cut(middle)) <= available else (low, middle - 1)
    return cut(low)


def _styled(text: str, style: str) -> str:
    return f"\x1b[{_STYLES[style]}m{text}\x1b[0m" if _has_colours(sys.stdout) else text
