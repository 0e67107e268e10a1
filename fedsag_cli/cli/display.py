"""Prints tables, lines, JSON and errors. Only this module and `views` print."""

from __future__ import annotations

import io
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from enum import Enum
from itertools import groupby
from typing import Any, TextIO

from fedsag_cli.errors import FedsagError


class Format(str, Enum):
    """The value of --format."""

    TXT = "txt"
    JSON = "json"


class _Shown:
    """Whether an error is printed with its traceback: -debug."""

    tracebacks = False


def on_terminal(stream: TextIO | None) -> bool:
    return stream is not None and stream.isatty()


def escape_unencodable() -> None:
    """Print characters that the terminal's encoding does not have as escapes."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def show_tracebacks() -> None:
    _Shown.tracebacks = True


def line(text: str) -> None:
    _write(sys.stdout, text)


def document(value: Any) -> None:
    import json  # --version does not need it

    _write(sys.stdout, json.dumps(value, indent=2))


def note(text: str) -> None:
    _message("note", text, "36")


def warning(text: str) -> None:
    _message("warning", text, "33")


def error(error: FedsagError) -> None:
    if _Shown.tracebacks:
        traceback.print_exception(error)
    _message("error", error.message, "31")
    for text in error.details:
        _write(sys.stderr, escaped(text))
    if error.hint:
        _message("hint", error.hint, "2")


def table(rows: Sequence[Mapping[str, str]], columns: Sequence[str], *, by: str = "") -> None:
    """Print a table: in a pipe one line for each row, with `-` for an empty cell; on a terminal long cells are wrapped.

    `by`: on a terminal, this column is a heading above its rows.
    """
    if on_terminal(sys.stdout):
        _rich_tables(rows, columns, by)
        return
    lines = [list(columns), *([escaped(row[column]) or "-" for column in columns] for row in rows)]
    widths = [max(len(row[index]) for row in lines) for index in range(len(columns))]
    for row in lines:
        line("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


def shown(value: Any) -> str:
    """A value on one line, in quotes if it is an empty text or begins or ends with a space."""
    import json

    if isinstance(value, str):
        return value if value and value == value.strip() else f'"{value}"'
    return json.dumps(value, ensure_ascii=False)


def escaped(text: str) -> str:
    """The text with escapes for line breaks and control characters: it stays one line, and no terminal executes it."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def _message(word: str, text: str, colour: str) -> None:
    text = escaped(text)  # a file name may contain a line break or an escape sequence
    if on_terminal(sys.stderr):
        word = f"\x1b[{colour}m{word}\x1b[0m"
    _write(sys.stderr, f"{word}: {text}")


def _write(stream: TextIO | None, text: str) -> None:
    if stream is not None:  # a process may be started without standard streams
        try:
            stream.write(f"{text}\n")
            stream.flush()  # the reader of a pipe gets each line at once
        except OSError:  # the reader has gone (`| head`), or the disk is full: the run continues
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, stream.fileno())
            os.close(nothing)


def _rich_tables(rows: Sequence[Mapping[str, str]], columns: Sequence[str], by: str) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    shown = [column for column in columns if column != by]
    for title, group in groupby(rows, key=lambda row: row[by] if by else ""):
        if title:
            console.print(Text(escaped(title), style="bold"))
        cells = [[escaped(row[column]) for column in shown] for row in group]
        widths = _widths([shown, *cells], console.width - 3 * (len(shown) - 1))
        drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
        for column, width in zip(shown, widths, strict=True):
            drawn.add_column(column, overflow="fold", width=width)
        for texts in cells:
            drawn.add_row(*map(Text, texts))
        console.print(drawn)
        console.print()


def _widths(rows: Sequence[Sequence[str]], available: int) -> list[int]:
    """The widths of the columns, together at most `available`: the widest become narrower, the first column last."""
    from rich.cells import cell_len

    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    while sum(widths) > available and max(widths) > 1:
        counted = [widths[0] / 2, *widths[1:]]
        widths[counted.index(max(counted))] -= 1
    return widths
