"""Reads the text after `key=` as a value of the key's type."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from fedsag_cli.arguments import Argument
from fedsag_cli.errors import JobError
from fedsag_cli.job.config import hocon

EXPECTED = {
    "text": "a text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "list": "a list such as [1, 2]",
    "object": "an object such as {a = 1}",
}
_OF_ARGUMENT = {"str": "text", "int": "int", "float": "float", "bool": "bool", "list": "list", "dict": "object"}
_INT = re.compile(r"[+-]?[0-9]{1,1000}")  # Python does not read longer numbers
_FLOAT = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


_EMPTY = '""'  # what a shell makes of `\"\"`, as NVFLARE's documents write an empty text


def parse(text: str, kind: str | None, *, where: str) -> Any:
    """Read `text` as a value of `kind`; None: of the kind that the text looks like. Raises JobError naming `where`."""
    match kind:
        case "text":
            return "" if text == _EMPTY else text
        case "int" if _INT.fullmatch(text.strip()):
            return int(text)
        case "float" if _FLOAT.fullmatch(text.strip()) and math.isfinite(float(text)):
            return float(text) if re.search(r"[.eE]", text) else int(text)
        case "bool" if text.strip().lower() in ("true", "false"):
            return text.strip().lower() == "true"
        case "list" | "object":
            value = hocon.value(text, name=where)
            if isinstance(value, list if kind == "list" else Mapping):
                return value
        case None:
            return _guessed(text, where)
    raise JobError(f"{where} must be {EXPECTED[kind]}, not {text!r}")


def kind_of(value: Any) -> str | None:
    """The kind of a value; None for null."""
    match value:
        case bool():
            return "bool"
        case int():
            return "int"
        case float():
            return "float"
        case str():
            return "text"
        case list():
            return "list"
        case Mapping():
            return "object"
    return None


def kinds_of_argument(argument: Argument) -> list[str]:
    """The kinds of value that an argument takes, without null; empty if it takes any value."""
    return [_OF_ARGUMENT[kind] for kind in argument.kinds]


def _guessed(text: str, where: str) -> Any:
    word = text.strip()
    if word.lower() in ("true", "false", "null"):
        return {"true": True, "false": False, "null": None}[word.lower()]
    if _INT.fullmatch(word):
        return int(word)
    if _FLOAT.fullmatch(word) and math.isfinite(float(word)):
        return float(word)
    if (word[:1], word[-1:]) in (("[", "]"), ("{", "}")):
        return hocon.value(word, name=where)
    return "" if word == _EMPTY else text
