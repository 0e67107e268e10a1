"""The door for text that others wrote: scripts, templates, libraries, file names, the environment.

Such text is kept without the secrets that this process knows. It is shown on one line on which no terminal acts.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from typing import Any, TypeVar

T = TypeVar("T")

LONGEST = 2000
"""The number of characters that are shown of one text."""

_COLOURS = re.compile(r"\x1b\[[0-9;:]*m")
_LINE_BREAK = r"(?:[ \t│|]*(?:\r?\n|\\{1,9}[rn])[ \t│|]*)?"  # also in a frame, and as a repr writes it
_SHORTEST_SECRET = 4  # a shorter value stands in too many other words
_SHORTEST_LINE = 8  # of a secret with several lines, and of a value whose variable does not say that it is secret
_SHORT, _MOST_KNOWN = 100, 50_000  # characters of a text, and texts, that are looked through once
_CUT = 500  # a text of this length may have been cut within a secret
_SECRET_NAME = re.compile(
    r".*(PASS|PASSWORD|PASSWD|PASSPHRASE|PW|_PWD|SECRET|TOKEN|KEY|CREDENTIALS?|AUTH|COOKIE|DSN|SALT|PIN)", re.IGNORECASE
)
_PLAIN_VALUE = re.compile(r"[\d.,:+-]*|[A-Za-z_. -]*|[./~].*|[A-Za-z][\w+.-]*://[^@?]*", re.DOTALL)
"""Numbers, words, paths, and addresses without a user and a query."""


# what is shown


def one_line(text: str, longest: int = LONGEST) -> str:
    """At most `longest` characters of the text, with escapes for line breaks, control and bidi characters."""
    if len(text) > longest:
        text = f"{text[:longest]} … ({len(text) - longest:,} more characters)"
    return text if text.isprintable() else "".join(map(_harmless, text))


def shortened(text: str, longest: int) -> str:
    """As `one_line`; the middle of a longer text is left out, since names often differ at their ends."""
    text = one_line(masked(text))
    half = (longest - 1) // 2
    return text if len(text) <= longest else f"{text[: longest - 1 - half]}…{text[-half:]}"


def log_line(text: str) -> str:
    """A line of a log as a terminal would show it: without colours, and without what a progress bar has overwritten."""
    whole = _COLOURS.sub("", text).rstrip("\r")
    return whole[whole.rfind("\r") + 1 :].expandtabs(4)


def _harmless(char: str) -> str:
    if char.isprintable() or unicodedata.category(char) == "Zs":
        return char
    return char.encode("unicode_escape").decode()


# secrets


class _Secrets:
    """The secrets that this process knows: each text that is not shown, and what is shown in its place."""

    def __init__(self) -> None:
        self._shown: dict[str, str] = {}
        self._pattern: re.Pattern[str] | None = None
        self._known: dict[str, str] = {}  # short texts, and what is shown of them: the same names come again and again

    def __bool__(self) -> bool:
        return bool(self._shown)

    def add(self, text: str, shown: str) -> None:
        self._shown.setdefault(text, shown)
        self._shown = dict(sorted(self._shown.items(), key=lambda item: -len(item[0])))
        self._pattern = None
        self._known.clear()

    def shown(self) -> dict[str, str]:
        return dict(self._shown)

    def masked(self, lines: str) -> str:
        if not self._shown:
            return lines
        if len(lines) > _SHORT:
            return self._looked_through(lines)
        known = self._known.get(lines)
        if known is None:
            if len(self._known) == _MOST_KNOWN:
                self._known.clear()
            known = self._known[lines] = self._looked_through(lines)
        return known

    def _looked_through(self, lines: str) -> str:
        if self._pattern is None:  # a key may be a secret of many lines: compiled once for all of them
            self._pattern = re.compile("|".join(f"({_as_written(each)})" for each in self._shown))
        shown = list(self._shown.values())
        text = self._pattern.sub(lambda found: shown[(found.lastindex or 1) - 1], lines)
        return "\n".join(self._without_part(line) for line in text.split("\n"))

    def _without_part(self, line: str) -> str:
        """The line; where it may have been cut within a secret, without the part before the cut."""
        bare = line.rstrip(" .…")
        if len(bare) == len(line) < _CUT:
            return line
        for secret, shown in self._shown.items():
            for length in range(min(len(secret) - 1, len(bare)), _SHORTEST_SECRET - 1, -1):
                if bare.endswith(secret[:length]):
                    return bare[:-length] + shown + line[len(bare) :]
        return line


_secrets = _Secrets()


def hide(secret: str, shown: str) -> None:
    """From now on, `masked` replaces `secret` by `shown`, also where it is quoted or split. Very short ones stay."""
    lines = [line.strip() for line in secret.splitlines()]
    for text in [secret, *(line for line in lines if len(lines) > 1 and len(line) >= _SHORTEST_LINE)]:
        if len(text.strip()) >= _SHORTEST_SECRET:
            _secrets.add(text.strip(), shown)


def hide_variable(name: str, value: str) -> None:
    """Hide the value of an environment variable, unless both its name and its value look harmless."""
    if _SECRET_NAME.fullmatch(name) or (len(value) >= _SHORTEST_LINE and not _PLAIN_VALUE.fullmatch(value)):
        hide(value, f"{{${name}}}")


def hidden() -> dict[str, str]:
    """What is hidden, and what is shown in its place, for another process of this run."""
    return _secrets.shown()


def masked(value: T) -> T:
    """The value without secrets: a text, or a struct, dict or list with texts in it.

    A struct may name in OURS those of its fields in which there is no text of others.
    """
    return _masked(value) if _secrets else value


def _masked(value: Any) -> Any:
    if value is None or isinstance(value, int | float):
        return value
    if isinstance(value, str):
        return _secrets.masked(value)
    if (names := getattr(value, "__struct_fields__", None)) is not None:
        changed: dict[str, Any] = {}
        ours = getattr(value, "OURS", ())
        for name in names:
            if name not in ours and (new := _masked(old := getattr(value, name))) is not old and new != old:
                changed[name] = new
        return _replaced(value, changed) if changed else value
    if isinstance(value, dict | Mapping):
        return {_masked(key): _masked(inner) for key, inner in value.items()}
    if isinstance(value, list) and value and all(isinstance(each, str) for each in value):
        text = "\n".join(value)  # the lines of a log, in which a secret may be split
        without = _secrets.masked(text)
        return value if without == text else without.split("\n")
    return [_masked(each) for each in value] if isinstance(value, list) else value


def _replaced(value: Any, changed: dict[str, Any]) -> Any:
    import msgspec

    return msgspec.structs.replace(value, **changed)


def _as_written(secret: str) -> str:
    """A pattern for the secret as it is, and as Python, JSON, a shell or an address writes it, also within others."""
    return _LINE_BREAK.join(map(_char_as_written, secret))


def _char_as_written(char: str) -> str:
    if char.isascii() and char.isalnum():
        return char
    data = char.encode(errors="surrogateescape")
    percent = "".join(f"%{byte:02X}" for byte in data)
    ways = [r"\\{0,9}" + re.escape(char), f"(?i:{percent})"]
    if char == "\\":
        ways[0] = r"\\{1,9}"
    elif char == " ":
        ways.append(r"\+")
    elif char == "'":
        ways.append(re.escape("'\"'\"'"))
    elif not char.isprintable() or not char.isascii():
        escaped = char.encode("unicode_escape").decode().lstrip("\\")
        units = char.encode("utf-16-be", "surrogatepass")
        json = "".join(rf"\\{{1,9}}u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))
        ways += [rf"\\{{1,9}}{escaped}", f"(?i:{json})", "".join(rf"\\{{1,9}}x{byte:02x}" for byte in data)]
    return f"(?:{'|'.join(ways)})"
