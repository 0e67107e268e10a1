"""Finds the line of each key in a config file: pyhocon and Python's JSON do not tell where a value stands.

The text is one that `hocon.loads` has read: nothing is checked here. A value that is set twice has the line where it is
set last.
"""

from __future__ import annotations

import contextlib
import re
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from fedsag_cli.errors import JobError
from fedsag_cli.job.config import files, hocon, yml
from fedsag_cli.job.config.tree import KeyPath

_DEEPEST = 200
_TOKENS = re.compile(
    r"(?P<newline>\n)"
    r"|(?P<space>[^\S\n]+)"
    r"|(?P<comment>(?:#|//)[^\n]*)"
    r'|(?P<text>"""[\s\S]*?"""+|"(?:[^"\\\n]|\\.)*")'
    r"|(?P<include>(?i:include)[^\S\n]*(?:(?:required|file)[^\S\n]*\([^\S\n]*)*\"(?P<path>[^\"\\\n]*)\"[^\S\n)]*)"
    r"|(?P<substitution>\$\{[^}\n]*\})"
    r"|(?P<sign>\+=|[{}\[\],=:])"
    r"|(?P<word>(?:[^\s{}\[\],=:\"#/$+]|/(?!/)|\$(?!\{)|\+(?!=))+|.)"
)


class Place(NamedTuple):
    """A file by its name in errors, and a line in it, from 1."""

    file: str
    line: int


def places(path: Path, *, name: str) -> dict[KeyPath, Place]:
    """Where each value of a config file is, by its key path. Empty if the file cannot be read.

    `name`: the file's name in errors. The values of an included file have a place in that one.
    """
    found: dict[KeyPath, Place] = {}
    with contextlib.suppress(JobError, RecursionError, _NotRead):
        text = hocon.text_of(path, name=name)
        if path.suffix in yml.SUFFIXES:
            found |= {at: Place(name, line) for at, line in yml.lines(text).items()}
        else:
            _Scanner(text, name, path, found, (files.real(path),)).whole(())
    return found


def place_of(found: dict[KeyPath, Place], at: KeyPath) -> Place | None:
    """The place of a value; of one that is not in the file, that of the object or list that it would be in."""
    return next((found[at[:end]] for end in range(len(at), 0, -1) if at[:end] in found), None)


class _NotRead(Exception):
    """The text is not one that `hocon.loads` reads."""


class _Scanner:
    """Reads one file, token by token, and writes to `found` the place of every key and of every item of a list."""

    def __init__(self, text: str, name: str, path: Path, found: dict[KeyPath, Place], seen: tuple[Path, ...]) -> None:
        self._name, self._path, self._found, self._seen = name, path, found, seen
        self._tokens = [token for token in _TOKENS.finditer(text) if not token["comment"]]
        self._at, self._line = 0, 1

    def whole(self, at: KeyPath) -> None:
        """Read the file, whose keys belong to the object at this key path."""
        self._skip(newlines=True)
        if self._sign() == "{":
            self._take()
        self._body(at)

    def _body(self, at: KeyPath) -> None:
        """The keys and values of an object up to its `}`, or the end of the file."""
        if len(at) > _DEEPEST:
            raise _NotRead
        while True:
            self._skip(newlines=True, commas=True)
            token = self._token()
            if token is None:
                return
            if token["sign"] == "}":
                self._take()
                return
            if token["include"]:
                self._take()
                self._include(token["path"], at)
                continue
            line = self._line
            inner = (*at, *self._key())
            for end in range(len(at) + 1, len(inner) + 1):
                self._found[inner[:end]] = Place(self._name, line)
            self._skip(newlines=True)
            if self._sign() in ("=", ":", "+="):
                self._take()
            elif self._sign() != "{":
                raise _NotRead
            self._skip(newlines=True)
            self._value(inner)

    def _key(self) -> list[str]:
        """The steps of a key such as `a.b` or `"a.b".c`."""
        steps = [""]
        while (token := self._token()) is not None and not token["sign"] and not token["newline"]:
            self._take()
            if token["text"]:
                steps[-1] += token["text"].strip('"')
            else:
                first, *rest = token[0].split(".")
                steps[-1] += first
                steps += rest
        return [step.strip() for step in steps]

    def _value(self, at: KeyPath) -> None:
        """A value up to the end of the line, or a sign that ends it. It may have several parts: `${a} {b = 1}`."""
        num_items = 0
        while (token := self._token()) is not None:
            if token["newline"] or token["sign"] in (",", "}", "]"):
                return
            self._take()
            if token["sign"] == "{":
                self._body(at)
            elif token["sign"] == "[":
                num_items = self._list(at, num_items)

    def _list(self, at: KeyPath, index: int) -> int:
        """The items of a list, of which the first has this index, up to its `]`. The index after the last."""
        while True:
            self._skip(newlines=True, commas=True)
            token = self._token()
            if token is None or token["sign"] == "]":
                self._take()
                return index
            item = (*at, index)
            self._found[item] = Place(self._name, self._line)
            before = self._at
            self._value(item)
            if self._at == before:
                raise _NotRead
            index += 1

    def _include(self, path: str, at: KeyPath) -> None:
        file = files.real(self._path.parent / path)
        if file in self._seen or not file.is_relative_to(files.real(self._path.parent)) or not file.is_file():
            raise _NotRead
        name = str(PurePosixPath(self._name).parent / path)
        text = hocon.text_of(file, name=name)
        _Scanner(text, name, file, self._found, (*self._seen, file)).whole(at)

    def _token(self) -> Any:
        return self._tokens[self._at] if self._at < len(self._tokens) else None

    def _sign(self) -> str:
        token = self._token()
        return token["sign"] or "" if token is not None else ""

    def _take(self) -> None:
        if (token := self._token()) is not None:
            self._line += token[0].count("\n")
            self._at += 1

    def _skip(self, *, newlines: bool, commas: bool = False) -> None:
        while (token := self._token()) is not None:
            skips = token["space"] or (newlines and token["newline"]) or (commas and token["sign"] == ",")
            if not skips:
                return
            self._take()
