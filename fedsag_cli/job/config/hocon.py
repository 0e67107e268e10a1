"""Reads HOCON, JSON and YAML files into plain values, and writes values so that they are read back unchanged.

The problems of pyhocon are handled here. It loses `""` in a list and turns a raw tab into spaces: both are replaced by
marks before parsing. It makes a network request for `include url(…)`: includes are replaced by the file's text, or
refused, before parsing. Its work on `${…}` is limited: see `substitutions`.
"""

from __future__ import annotations

import copy
import datetime
import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from fedsag_cli.errors import JobError
from fedsag_cli.job.config import files, substitutions, tree, yml
from fedsag_cli.leftovers import is_leftover

SUFFIXES = (".json", ".conf")  # in NVFLARE's order
CONFIG_SUFFIXES = (*SUFFIXES, *yml.SUFFIXES)

LARGEST = 1_000_000  # bytes of a file, and of all files that it includes together
_DEEPEST = 100
_MOST_WORDS = 20_000  # of a file that is not JSON: pyhocon takes a few seconds for them

_UNITS = (
    "ns|nanos?|nanoseconds?|us|micros?|microseconds?|ms|millis?|milliseconds?|s|seconds?|m|minutes?|h|hours?"
    "|w|weeks?|d|days?|mo|months?|y|years?"
)
_TOKENS = re.compile(
    r'(?P<text>"""[\s\S]*?"""+|"(?:[^"\\\n]|\\.)*")'
    r'|(?P<comment>#[^\n\r]*|(?<![^\s,{}\[\]="])//[^\n\r]*)'
    r"|\\[\s\S]"
    rf"|(?P<duration>(?<![^\s,\[{{=])\d+ *(?:{_UNITS})(?![A-Za-z0-9]))"
    r"|(?<![\w$])(?i:include)[ \t]*(?:"
    r"(?P<required>required[ \t]*\([ \t]*)?"
    r'(?:"(?P<plain>[^"\\\n]*)"|file[ \t]*\([ \t]*"(?P<file>[^"\\\n]*)"[ \t]*\))(?(required)[ \t]*\))'
    r'|(?P<elsewhere>(?:(?:required|file|url|package|classpath)[ \t]*\(|")[^\n]*))'
)
_WORDS = re.compile(r'(?P<comment>#[^\n]*|//[^\n]*)|"""[\s\S]*?"""+|"(?:[^"\\\n]|\\.)*"|[^\s{}\[\],=:"]+|[{}\[\],=:"]')
_INCLUDE = re.compile(r"(?i)(in)(clude)")
_COMMENT_LINE = re.compile(r"(?m)^[ \t]*#.*$")
_ODD_ESCAPE = re.compile(r'\\[^"\\nrt]')
_JSON_KEY = re.compile(r"[A-Za-z0-9_@ -]+")
_BARE_KEY = re.compile(r"(?!(?i:include)$)[A-Za-z_][A-Za-z0-9_-]*")
_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"})


def find(folder: Path, stem: str, *, also_below: bool = False) -> Path | None:
    """The file named `stem` in `folder` or, with `also_below`, in a subfolder: .json before .conf before .yml."""
    for name in (stem + suffix for suffix in CONFIG_SUFFIXES):
        below = sorted(folder.rglob(name)) if also_below else []
        whole = [path for path in below if not any(map(is_leftover, path.relative_to(folder).parts))]
        found = next((path for path in [folder / name, *whole] if path.is_file()), None)
        if found:
            return found
    return None


def load(path: Path, *, name: str = "", errors: str = "strict") -> dict[str, Any]:
    """The values of a .conf, .json or .yml file. `name` is its name in errors. Raises JobError."""
    name = name or str(path)
    return loads(text_of(path, name=name, errors=errors), name=name, folder=path.parent, suffix=path.suffix)


def loads(text: str, *, name: str, folder: Path | None = None, suffix: str = ".conf") -> dict[str, Any]:
    """The values of the text of a file with this suffix. HOCON's `include "x"` reads the file x in `folder`.

    Raises JobError naming `name` and the line.
    """
    if suffix in yml.SUFFIXES:
        return yml.loads(text, name=name)
    if suffix == ".json":
        return loads_json(text, name=name)
    plain = _as_json(text)
    return _by_pyhocon(text, name, folder) if plain is None else plain


def _as_json(text: str) -> dict[str, Any] | None:
    """Read a text that is JSON, except for lines of comments, as JSON: a hundred times faster than with pyhocon.

    None if it is not JSON, or if pyhocon may read it differently.
    """
    if _ODD_ESCAPE.search(text):
        return None
    try:
        parsed = json.loads(
            _COMMENT_LINE.sub("", text),
            object_pairs_hook=_without_repeated_keys,
            parse_constant=_refuse_constant,
            parse_float=_finite,
        )
    except (ValueError, RecursionError):
        return None
    deep = any(len(at) > _DEEPEST for at, _ in tree.walk(parsed))
    return parsed if isinstance(parsed, dict) and parsed and not deep else None


def _without_repeated_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Raises ValueError for a key that is set twice: HOCON merges its objects."""
    found = dict(pairs)
    if len(found) < len(pairs) or not all(_JSON_KEY.fullmatch(key) for key in found):
        raise ValueError("a key is set twice, or HOCON and JSON read it differently")
    return found


def _finite(number: str) -> float:
    """The number. Raises ValueError if it is infinite."""
    if math.isinf(value := float(number)):
        raise ValueError(f"{number} is too large")
    return value


def _by_pyhocon(text: str, name: str, folder: Path | None) -> dict[str, Any]:
    return copy.deepcopy(_parsed(text, _Marks(text).put(text, name, folder, seen=()), name))


@lru_cache(maxsize=32)  # the runs of a sweep read the same files, which takes as long as all else of their planning
def _parsed(text: str, prepared: str, name: str) -> dict[str, Any]:
    """`prepared`: the text with marks, and with what it includes."""
    from pyhocon.config_parser import ConfigParser  # 0.05 s: imported late, while the nursery is already starting
    from pyhocon.exceptions import ConfigException
    from pyparsing import ParseBaseException

    marks = _Marks(text)
    if sum(word["comment"] is None for word in _WORDS.finditer(prepared)) > _MOST_WORDS:
        raise JobError(
            f"{name}: has more than {_MOST_WORDS:,} words and signs, which takes too long to read as HOCON",
            hint="write it as JSON, which is read at once: quote keys and texts, and separate values by commas",
        )
    try:
        parsed = ConfigParser.parse(prepared, resolve=False)
        substitutions.resolve(parsed, ConfigParser, name=name)
    except ParseBaseException as error:
        line = marks.take(error.line).strip()
        text = f"{name}: line {error.lineno} is not HOCON: {line or 'the file ends too early'}"
        raise JobError(text, file=name, line=error.lineno) from None
    except ConfigException as error:
        raise JobError(f"{name}: {marks.take(str(error))}") from None
    except RecursionError:
        raise JobError(f"{name}: nested too deeply") from None
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise JobError(f"{name}: pyhocon cannot read it: {type(error).__name__}: {marks.take(str(error))}") from None
    plain = _plain(parsed, marks, name, "")
    if not isinstance(plain, dict):
        raise JobError(f"{name}: must contain keys and values, not a list")
    return plain


def value(text: str, *, name: str) -> Any:
    """One HOCON value, such as `[1, 2]`, `{a = 1}` or `5`. Raises JobError."""
    parsed = loads(f"value = {text}\n", name=name)
    if list(parsed) != ["value"]:
        raise JobError(f"{name}: more than one value: {text}")
    return parsed["value"]


def dumps(tree: Mapping[str, Any], *, name: str, suffix: str = ".conf") -> str:
    """`tree` as the text of a file with this suffix. Raises JobError if HOCON cannot write it."""
    if suffix == ".json":
        return json.dumps(tree, indent=2) + "\n"
    if suffix in yml.SUFFIXES:
        return yml.dumps(tree)
    text = "".join(f"{line}\n" for line in _assignments(tree, ""))
    try:
        same = json.dumps(loads(text, name=name)) == json.dumps(tree)
    except JobError:
        same = False
    if not same:
        odd = sorted(key for key in _keys(tree) if not _BARE_KEY.fullmatch(key))
        raise JobError(f"{name}: HOCON cannot write one of these keys: {', '.join(map(repr, odd))}")
    return text


def literal(value: Any, indent: str = "") -> str:
    """One value as HOCON. Raises ValueError for a value that HOCON cannot write."""
    match value:
        case None | True | False:
            return {None: "null", True: "true", False: "false"}[value]
        case str():
            # only escapes that pyhocon decodes; other characters are written as UTF-8
            return f'"{value.translate(_ESCAPES)}"'
        case int():
            return str(int(value))
        case float() if math.isfinite(value):
            return repr(float(value))
        case Mapping():
            lines = "".join(f"{indent}  {line}\n" for line in _assignments(value, indent + "  "))
            return f"{{\n{lines}{indent}}}" if value else "{}"
        case list() | tuple() if any(isinstance(item, Mapping | list | tuple) for item in value):
            inner = "".join(f"{indent}  {literal(item, indent + '  ')}\n" for item in value)
            return f"[\n{inner}{indent}]"
        case list() | tuple():
            return f"[{', '.join(literal(item) for item in value)}]"
    raise ValueError(f"HOCON cannot write {value!r}")


def has_comments(text: str, suffix: str = ".conf") -> bool:
    if suffix != ".conf":
        return suffix != ".json" and yml.has_comments(text)
    return any(token["comment"] for token in _TOKENS.finditer(text))


class _Marks:
    """Marks, characters for private use, that replace what pyhocon would lose: a tab, and an empty text."""

    def __init__(self, text: str) -> None:
        unused = (chr(code) for code in range(0xE000, 0xF900) if chr(code) not in text)
        self._tab, self._nothing = next(unused), next(unused)
        self._budget = LARGEST  # bytes, for included files

    def put(self, text: str, name: str, folder: Path | None, seen: tuple[Path, ...]) -> str:
        """The text for pyhocon: with marks, and with the included files instead of `include`."""

        def line(token: re.Match[str]) -> int:
            return text.count("\n", 0, token.start()) + 1

        def mark(token: re.Match[str]) -> str:
            if token["duration"]:
                raise JobError(
                    f"{name}: line {line(token)}: {token['duration']!r} would be read as a duration",
                    hint="write a plain number of seconds, or quote it if it is a text",
                )
            if token["elsewhere"]:
                raise JobError(
                    f"{name}: line {line(token)}: include {token['elsewhere'].strip()}: "
                    "only a file in the same folder can be included",
                    hint='write include "name.conf"; fedsag loads nothing from other places',
                )
            if token["plain"] is not None or token["file"] is not None:
                where = f"{name}: line {line(token)}: include"
                return self._included(token["plain"] or token["file"] or "", where, folder, seen)
            if token["text"] == '""':
                return f'"{self._nothing}"'
            if token["comment"] and not text[text.rfind("\n", 0, token.start()) + 1 : token.start()].strip():
                return ""  # pyhocon is slow with comments
            if token["text"] or token["comment"]:
                hidden = _INCLUDE.sub(rf"\1{self._nothing}\2", token[0])
                return hidden.replace("\t", self._tab)
            return token[0]

        return _TOKENS.sub(mark, text)

    def take(self, text: str) -> str:
        """The text with each mark replaced by what it stands for."""
        return text.replace(self._tab, "\t").replace(self._nothing, "")

    def _included(self, path: str, where: str, folder: Path | None, seen: tuple[Path, ...]) -> str:
        where = f"{where} {path!r}"
        if folder is None or "\0" in path or Path(path).suffix not in SUFFIXES:
            raise JobError(f"{where}: only a .conf or .json file in the same folder can be included")
        file = files.real(folder / path)
        if not file.is_relative_to(files.real(folder)) or file.suffix not in SUFFIXES:
            raise JobError(f"{where}: only a .conf or .json file in the same folder can be included")
        if file in seen:
            raise JobError(f"{where}: it includes itself")
        text = text_of(file, name=where).strip()
        self._budget -= len(text) + 1
        if self._budget < 0:
            raise JobError(f"{where}: the included files are too large")
        if self._tab in text or self._nothing in text:
            raise JobError(f"{where}: it contains characters for private use, which cannot be included")
        inner = self.put(text, str(file), file.parent, (*seen, file))
        return f"\n{inner[1:-1] if inner.startswith('{') and inner.endswith('}') else inner}\n"


def text_of(path: Path, *, name: str, errors: str = "strict") -> str:
    """The file's text, in UTF-8. Raises JobError."""
    try:
        if path.exists() and not path.is_file():
            raise JobError(f"{name} is not a regular file")  # reading a pipe could wait for ever
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
        if len(data) > LARGEST:
            raise JobError(f"{name} is larger than {LARGEST:,} bytes")
        return data.decode("utf-8-sig", errors)
    except UnicodeDecodeError as error:
        raise JobError(f"{name}: byte {error.start} is not UTF-8") from None
    except OSError as error:
        raise JobError(f"{name} cannot be read: {os.strerror(error.errno or 0)}") from None


def loads_json(text: str, *, name: str) -> dict[str, Any]:
    """The values of a JSON text. Raises JobError naming `name` and the line."""
    try:
        parsed = json.loads(text, parse_constant=_refuse_constant)
        if any(len(at) > _DEEPEST for at, _ in tree.walk(parsed)):
            raise RecursionError
    except json.JSONDecodeError as error:
        text = f"{name}: line {error.lineno} is not JSON: {error.msg}"
        raise JobError(text, file=name, line=error.lineno) from None
    except RecursionError:
        raise JobError(f"{name}: nested too deeply") from None
    except ValueError as error:
        raise JobError(f"{name}: {error}") from None
    if not isinstance(parsed, dict):
        raise JobError(f"{name}: must contain keys and values, not {type(parsed).__name__}")
    return parsed


def _refuse_constant(word: str) -> Any:
    raise ValueError(f"{word} is not JSON")


def _plain(node: Any, marks: _Marks, name: str, path: str) -> Any:
    match node:
        case dict():
            # dict.items: pyhocon's own items() looks each key up again, as a path
            keys = {key: marks.take(key[1:-1] if len(key) > 1 and key[0] == key[-1] == '"' else key) for key in node}
            return {keys[key]: _plain(inner, marks, name, f"{path}{keys[key]}.") for key, inner in dict.items(node)}
        case list():
            return [_plain(inner, marks, name, f"{path[:-1]}[{index}].") for index, inner in enumerate(node)]
        case str():
            return marks.take(str(node))
        case None | bool() | int() | float():
            return node
    if type(node).__name__ == "NoneValue":
        return None
    if isinstance(node, datetime.timedelta) or type(node).__name__ == "relativedelta":
        raise JobError(
            f"{name}: {path[:-1]} is a duration",
            hint="write a plain number of seconds, or quote it if it is a text",
        )
    raise JobError(f"{name}: {path[:-1]} cannot be read as a value")


def _assignments(tree: Mapping[str, Any], indent: str) -> Iterator[str]:
    for key, inner in tree.items():
        yield f"{_key(key)} = {literal(inner, indent)}"


def _key(key: str) -> str:
    return key if _BARE_KEY.fullmatch(key) else f'"{key}"'


def _keys(tree: Any) -> Iterator[str]:
    if isinstance(tree, Mapping):
        for key, inner in tree.items():
            yield key
            yield from _keys(inner)
    elif isinstance(tree, list | tuple):
        for inner in tree:
            yield from _keys(inner)
