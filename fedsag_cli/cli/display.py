"""Prints tables, lines, JSON, errors, and the live screen. Only this module prints.

It escapes and masks every text: other modules pass what they have, and styles beside it.
"""

from __future__ import annotations

import io
import math
import os
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from itertools import groupby
from typing import Any, TextIO, TypeAlias

from fedsag_cli import foreign
from fedsag_cli.errors import FedsagError, Interrupted

Cell: TypeAlias = "tuple[str, str]"
"""A text and its style: "bold", "dim", or a colour."""

Row: TypeAlias = "Sequence[Cell]"

_WIDTH, _HEIGHT = 80, 24  # of what is fitted where there is no terminal
_REDRAW_S, _GATHER_S = 0.25, 0.1
_HIDE_CURSOR, _SHOW_CURSOR, _ERASE_BELOW = "\x1b[?25l", "\x1b[?25h", "\x1b[J"
_PLAIN_SIGNS = str.maketrans({"–": "-", "…": "."} | dict.fromkeys("▁▂▃▄▅▆▇█", " "))  # of ours
_CI = ("CI", "GITHUB_ACTIONS", "GITLAB_CI", "TF_BUILD", "JENKINS_URL", "TEAMCITY_VERSION")
_KERNEL = {"TERM": "xterm-color", "PAGER": "cat", "GIT_PAGER": "cat"}  # what IPython's kernel sets for `!command`
_STYLES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}


class Format(str, Enum):
    """The value of --format."""

    TXT = "txt"
    JSON = "json"


class Columns(str, Enum):
    """The value of --table."""

    BRIEF = "brief"
    FULL = "full"


class _Shown:
    """`tracebacks`: whether an error is printed with its traceback, -debug. `to_nobody`: the reader has gone.

    `errors_as_json`: whether an error is a line of JSON on standard output, `--format json`. `a_document`: whether that
    has its one JSON document already.
    """

    tracebacks = errors_as_json = a_document = False
    to_nobody = False


def has_no_reader() -> bool:
    """Whether nobody reads standard output any more: a command that only shows has nothing left to do."""
    return _Shown.to_nobody


def on_terminal() -> bool:
    return _is_terminal(sys.stdout)


def can_redraw() -> bool:
    """Whether standard output is a terminal whose cursor can move up, and somebody looks at it.

    In a notebook and with TERM=dumb the cursor cannot move; in CI, the output becomes a log.
    """
    in_notebook = "JPY_PARENT_PID" in os.environ or all(os.environ.get(key) == is_ for key, is_ in _KERNEL.items())
    in_ci = any(os.environ.get(name, "false").lower() not in ("", "0", "false") for name in _CI)
    return _is_capable(sys.stdout) and not in_notebook and not in_ci


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


def tell_errors(*, as_json: bool) -> None:
    """Choose how errors are told: as words on standard error, or as a line of JSON on standard output."""
    _Shown.errors_as_json, _Shown.a_document = as_json, False


def line(text: str) -> None:
    _write(sys.stdout, _safe(text))


def offer(word: str, meaning: str) -> None:
    """Print a word that a shell may complete, and its meaning."""
    _write(sys.stdout, f"{_safe(word)}\t{_safe(meaning)}")


def document(value: Any) -> None:
    import json  # --version does not need it

    _Shown.a_document = True
    _write(sys.stdout, json.dumps(_finite(foreign.masked(value)), indent=2))


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
    _error(error.message, error.hint, error.details, error.exit_code)


def bug(error: BaseException) -> None:
    """An error that fedsag does not expect: its traceback is what its authors need."""
    _traceback(error)
    message = f"a bug in fedsag: {type(error).__name__}: {error}"
    _error(message, "please report it, with the lines above", (), FedsagError.exit_code)


def interrupted() -> int:
    """Ctrl-C in a command that has no run, which only a program needs to be told; the exit code."""
    ended = Interrupted(signal.SIGINT)
    if _Shown.errors_as_json:
        error(ended)
    return ended.exit_code


def _error(message: str, hint: str, details: Sequence[str], exit_code: int) -> None:
    """A line of JSON; but words on standard error, where standard output is a document of which it would be no part."""
    if _Shown.errors_as_json and not _Shown.a_document:
        from fedsag_cli import events

        lines = list(map(_safe, details))
        failed = events.CommandFailed(message=_safe(message), hint=_safe(hint), details=lines, exit_code=exit_code)
        json_line(events.to_line(failed).decode().rstrip("\n"))
        return
    _message("error", message, "red")
    for text in details:
        _write(sys.stderr, _safe(text))
    if hint:
        _message("hint", hint, "dim")


def help_text(text: str) -> None:
    for each in text.splitlines():
        _write(sys.stderr, _safe(each))


def table(rows: Sequence[Mapping[str, str]], columns: Sequence[str], *, by: str = "", wraps: bool = True) -> None:
    """Print a table: one line for each row, with `-` for an empty cell; on a terminal long cells are wrapped.

    `by`: on a terminal, this column is a heading above its rows. Where it does not wrap, a terminal shows it as a pipe
    does, and the caller has made it fit.
    """
    cells = [{column: _safe(row[column]) for column in columns} for row in rows]
    if on_terminal() and wraps:
        shown = [column for column in columns if column != by]
        for title, group in groupby(cells, key=lambda row: row[by] if by else ""):
            if title:
                _write(sys.stdout, _styled(title, "bold"))
            _wrapped_table([_safe(column) for column in shown], [[row[column] for column in shown] for row in group])
            _write(sys.stdout, "")
        return
    lines = [[_safe(column) for column in columns], *([row[column] or "-" for column in columns] for row in cells)]
    widths = [max(map(len_of, column)) for column in zip(*lines, strict=True)]
    for number, texts in enumerate(lines):
        _write(sys.stdout, _aligned(texts, widths) if number else _styled(_aligned(texts, widths), "bold"))


def gap() -> None:
    """An empty line after a table, which has one on a terminal."""
    if not on_terminal():
        line("")


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


def bar(share: float, width: int) -> str:
    """A bar of which this part is done."""
    done = round(width * share)
    full, rest = ("━", "─") if _can_write("━─") else ("#", "-")
    return full * done + rest * (width - done)


class Screen:
    """Rows at the bottom of the terminal that are drawn anew several times a second, and lines above them.

    Between two drawings, the cursor is at the beginning of the first row: a terminal whose size changes moves it with
    that row, so what was drawn for another size is always found and erased.
    """

    def __init__(self, rows: Callable[[int, int], Sequence[Row]]) -> None:
        """`rows` gives at most as many rows as its second argument says; the first is the number of columns."""
        self._rows = rows
        self._lines: list[str] = []
        self._shown = ""
        self._lock = threading.Lock()
        self._changed, self._is_over = threading.Event(), False
        self._thread = threading.Thread(target=self._redraw, name="screen", daemon=True)

    def __enter__(self) -> Screen:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over = True
        self._changed.set()
        self._thread.join()
        self._write("")
        _write(sys.stdout, _SHOW_CURSOR, end="")

    def line(self, text: str) -> None:
        with self._lock:
            self._lines.append(_safe(text))
        self._changed.set()
        if self._is_over:
            self._write("")

    def _redraw(self) -> None:
        _write(sys.stdout, _HIDE_CURSOR, end="")
        try:
            while not self._is_over:
                self._write(self._drawn())
                if self._changed.wait(_REDRAW_S):
                    time.sleep(_GATHER_S)  # many lines that come together are one drawing
                    self._changed.clear()
        except Exception as failure:
            # whatever it is: the lines, and the run, go on without the rows
            self._is_over = True
            self.line(f"note: a bug in fedsag ended the live view: {failure!r}")

    def _write(self, drawn: str) -> None:
        with self._lock:
            lines, self._lines = self._lines, []
        if lines or drawn != self._shown:
            above = "".join(f"{line}\n" for line in lines)
            _write(sys.stdout, f"\r{_ERASE_BELOW}{above}{drawn}", end="")
            self._shown = drawn

    def _drawn(self) -> str:
        """Rows of the same number of cells are aligned. What does not fit is cut at the end of the row."""
        columns, height = _size_of_terminal()
        texts = []
        rows = [[(_safe(text), style) for text, style in row] for row in self._rows(columns - 1, height - 1)]
        for _, group in groupby(rows[: height - 1], key=len):
            alike = list(group)
            widths = [max(len_of(row[number][0]) for row in alike) for number in range(len(alike[0]))]
            texts += [_fitted(row, widths, columns - 1) for row in alike]
        return "\n".join(texts) + (f"\x1b[{len(texts) - 1}A" if len(texts) > 1 else "") + "\r"


class StatusLine:
    """One line at the bottom of the terminal, and lines above it.

    It has no thread, unlike `Screen`: a process that forks others must not have a second one.
    """

    def __init__(self) -> None:
        self._shown = ""

    def show(self, text: str) -> None:
        """Show this line in place of the one before. What does not fit is cut."""
        if text != self._shown:
            self._shown = text
            self._write("")

    def line(self, text: str) -> None:
        self._write(f"{_encodable(_safe(text))}\n")

    def close(self) -> None:
        _write(sys.stdout, f"\r{_ERASE_BELOW}{_SHOW_CURSOR}", end="")

    def _write(self, above: str) -> None:
        columns, _ = _size_of_terminal()
        drawn = _encodable(_cut(_safe(self._shown), columns - 1))
        _write(sys.stdout, f"\r{_ERASE_BELOW}{above}{_HIDE_CURSOR}{drawn}\r", end="")


def _fitted(row: Row, widths: Sequence[int], columns: int) -> str:
    """The row, each cell as wide as `widths` says, in at most this number of columns."""
    parts = []
    has_colours = _has_colours(sys.stdout)
    for number, ((text, style), width) in enumerate(zip(row, widths, strict=True)):
        gap = "  " if number else ""
        room = columns - len(gap)
        if room <= 0:
            break
        cut = text if len_of(text) <= room else _cut(text.rstrip(), room)
        is_styled = cut.strip() and style and has_colours
        parts.append(gap + (f"\x1b[{_STYLES[style]}m{cut}\x1b[0m" if is_styled else cut))
        if cut != text or number == len(row) - 1:
            break
        padding = min(width - len_of(text), room - len_of(text))
        parts.append(" " * padding)
        columns = room - len_of(text) - padding
    return _encodable("".join(parts))


def _cut(text: str, columns: int) -> str:
    """The text, or its beginning with a sign that it goes on."""
    if len_of(text) <= columns:
        return text
    if text.isascii():
        return f"{text[: columns - 1]}…"
    while len_of(text) > columns - 1:
        text = text[:-1]
    return f"{text}…"


def _size_of_terminal() -> tuple[int, int]:
    """Columns and rows. The terminal is asked each time: it knows when its size changes, unlike the environment."""
    try:
        columns, rows = os.get_terminal_size(sys.stdout.fileno())
    except (OSError, ValueError):  # it is no terminal any more
        columns = rows = 0
    return columns or _WIDTH, rows or _HEIGHT


def _can_write(text: str) -> bool:
    return _encodable(text) == text


def _encodable(text: str) -> str:
    """The text with other signs for those that the terminal's encoding does not have: as wide as it was."""
    encoding = _encoding(sys.stdout)
    return _with_plain_signs(text, sys.stdout).encode(encoding, "replace").decode(encoding)


def _with_plain_signs(text: str, stream: TextIO | None) -> str:
    """The text; with plain signs for those of ours, of the same width, if the stream's encoding does not have all."""
    try:
        text.encode(_encoding(stream))
    except UnicodeEncodeError:
        return text.translate(_PLAIN_SIGNS)
    return text


def _encoding(stream: TextIO | None) -> str:
    return getattr(stream, "encoding", None) or "utf-8"


def _safe(text: str) -> str:
    return foreign.one_line(foreign.masked(text))


def _finite(value: Any) -> Any:
    """The value with None for each number that JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    return [_finite(each) for each in value] if isinstance(value, (list, tuple)) else value


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
            stream.write(_with_plain_signs(text, stream) + end)
            stream.flush()  # the reader of a pipe gets each line at once
        except OSError:  # the reader has gone (`| head`), or the disk is full: the run continues
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, stream.fileno())
            os.close(nothing)
            _Shown.to_nobody |= stream is sys.stdout


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
