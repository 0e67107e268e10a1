"""HOCON as most files use it: keys, values, comments. Reading it here is much faster than with pyhocon.

All else, and every error, is left to pyhocon: keys with dots or set twice, values of several
parts, `${…}`, `include`, texts without quotes, units.
"""

from __future__ import annotations

import re
from typing import Any

_DEEPEST = 50
_GAP = re.compile(r"(?:[ \t\n]|#[^\n]*(?=\n|\Z))*")
_BLANKS = re.compile(r"[ \t]*")
_KEY = re.compile(r'(?:(?!(?i:include)\b)(?P<bare>[A-Za-z_][A-Za-z0-9_-]*)|"(?P<quoted>[A-Za-z0-9_@ -]+)")[ \t]*')
_SCALAR = re.compile(
    r'"(?P<text>(?:[^"\\\n]|\\[\\"nrt])*)"'
    r"|(?P<number>-?(?:0|[1-9]\d{0,14})(?P<fraction>(?:\.\d{1,15})?(?:[eE][+-]?\d{1,2})?))"
    r"|(?P<word>true|false|null)"
)
_ESCAPE = re.compile(r"\\(.)")
_ESCAPES = {"\\": "\\", '"': '"', "n": "\n", "r": "\r", "t": "\t"}
_WORDS = {"true": True, "false": False, "null": None}


def loads(text: str) -> dict[str, Any] | None:
    """The values of a text; None where only pyhocon can read it."""
    if "\r" in text:
        return None
    try:
        return _Text(text).root()
    except _NotPlain:
        return None


class _NotPlain(Exception):
    pass


class _Text:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def root(self) -> dict[str, Any]:
        self._skip(_GAP)
        if self._takes("{"):
            found = self._object("}", 0)
            self._skip(_GAP)
        else:
            found = self._object("", 0)
        if self._at < len(self._text) or not found:
            raise _NotPlain
        return found

    def _object(self, end: str, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while self._has_next(end, is_first=not found):
            key = _KEY.match(self._text, self._at)
            if not key:
                raise _NotPlain
            self._at = key.end()
            name = key["bare"] or key["quoted"]
            if name in found:
                raise _NotPlain
            if self._takes("=") or self._takes(":"):
                self._skip(_BLANKS)
            elif self._text[self._at : self._at + 1] != "{":
                raise _NotPlain
            found[name] = self._value(depth + 1)
        return found

    def _list(self, depth: int) -> list[Any]:
        found: list[Any] = []
        while self._has_next("]", is_first=not found):
            found.append(self._value(depth + 1))
        return found

    def _value(self, depth: int) -> Any:
        if depth > _DEEPEST:
            raise _NotPlain
        if self._takes("{"):
            return self._object("}", depth)
        if self._takes("["):
            return self._list(depth)
        found = _SCALAR.match(self._text, self._at)
        if not found:
            raise _NotPlain
        self._at = found.end()
        if found["text"] is not None:
            return _ESCAPE.sub(lambda escape: _ESCAPES[escape[1]], found["text"])
        if found["number"]:
            return float(found["number"]) if found["fraction"] else int(found["number"])
        return _WORDS[found["word"]]

    def _has_next(self, end: str, *, is_first: bool) -> bool:
        """Whether a member follows, after a comma or a new line; if not, `end` was read."""
        start = self._at
        self._skip(_BLANKS)
        has_comma = not is_first and self._takes(",")
        self._skip(_GAP)
        if self._takes(end) if end else self._at == len(self._text):
            if has_comma:
                raise _NotPlain
            return False
        if not (is_first or has_comma or "\n" in self._text[start : self._at]):
            raise _NotPlain
        return True

    def _takes(self, sign: str) -> bool:
        found = self._text.startswith(sign, self._at)
        self._at += len(sign) * found
        return found

    def _skip(self, pattern: re.Pattern[str]) -> None:
        found = pattern.match(self._text, self._at)
        self._at = found.end() if found else self._at
