"""`{name}` in a config file's texts: every top-level key is a variable, the system's own come before them.

A text that is nothing but `{name}` becomes the value itself, with its type. Inside a longer text the value is written
out. `{$NAME}` is the environment's, `{{name}}` the word itself in braces. A name nobody knows stays as it is written.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from fedsag_cli.errors import JobError
from fedsag_cli.job import tree as trees

SYSTEM = (
    "SITE_NAME", "WORKSPACE", "JOB_ID", "JOB_CUSTOM_DIR", "JOB_CONFIG_DIR",
    "ROOT_URL", "CP_URL", "RELAY_URL", "SECURE_MODE",
)  # fmt: skip

_ROOM = 1_000_000  # characters and values that names stand for
_NAME = r"[A-Za-z_][A-Za-z0-9_]*"
_PLACEHOLDER = re.compile(rf"\{{\{{(?P<literal>{_NAME})\}}\}}|\{{(?P<name>\$?{_NAME})\}}")


def resolved(tree: Mapping[str, Any], system: Mapping[str, str], *, name: str) -> dict[str, Any]:
    """`tree` with its placeholders replaced. Raises JobError naming the keys that go round in a circle."""
    try:
        return _Resolver(tree, system, name).tree()
    except RecursionError:
        raise JobError(f"{name}: nested too deeply") from None


def names(value: Any) -> Iterator[str]:
    """The variables that `value` speaks of, the environment's left out."""
    if isinstance(value, str):
        for found in _PLACEHOLDER.finditer(value):
            if found["name"] and not found["name"].startswith("$"):
                yield found["name"]
    elif isinstance(value, Mapping | list):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from names(inner)


def stands_for(value: Any) -> str | None:
    """The variable whose value `value` becomes, if it is nothing but `{name}`."""
    found = _PLACEHOLDER.fullmatch(value) if isinstance(value, str) else None
    return found["name"] if found else None


class _Resolver:
    def __init__(self, tree: Mapping[str, Any], system: Mapping[str, str], name: str) -> None:
        self._tree = tree
        self._system = system
        self._name = name
        self._done: dict[str, Any] = {}
        self._weights: dict[str, int] = {}
        self._room = _ROOM

    def tree(self) -> dict[str, Any]:
        return {key: self._variable(key, ()) for key in self._tree}

    def _variable(self, key: str, above: tuple[str, ...]) -> Any:
        if key in above:
            circle = " -> ".join((*above[above.index(key) :], key))
            raise JobError(f"{self._name}: {key} stands for itself: {circle}")
        if key not in self._done:
            self._done[key] = self._value(self._tree[key], (*above, key))
        return self._done[key]

    def _value(self, value: Any, above: tuple[str, ...]) -> Any:
        if isinstance(value, Mapping):
            return {key: self._value(inner, above) for key, inner in value.items()}
        if isinstance(value, list):
            return [self._value(inner, above) for inner in value]
        if not isinstance(value, str):
            return value
        whole = stands_for(value)
        if whole:
            return self._meaning(whole, above, otherwise=value)
        return _PLACEHOLDER.sub(lambda found: self._written(found, above), value)

    def _written(self, found: re.Match[str], above: tuple[str, ...]) -> str:
        if literal := found["literal"]:
            return f"{{{literal}}}" if self._knows(literal) else found[0]
        meaning = self._meaning(found["name"], above, otherwise=found[0])
        return str(meaning).lower() if isinstance(meaning, bool) else str(meaning)

    def _meaning(self, name: str, above: tuple[str, ...], *, otherwise: str) -> Any:
        if name.startswith("$"):
            return os.environ.get(name[1:], otherwise)
        if name in self._system:
            return self._system[name]
        if name not in self._tree:
            return otherwise
        meaning = self._variable(name, above)
        if name not in self._weights:
            parts = (part for _, part in trees.walk({name: meaning}))
            self._weights[name] = sum(len(part) if isinstance(part, str) else 1 for part in parts)
        self._room -= self._weights[name]
        if self._room < 0:  # names that stand for names twice each, and so on
            raise JobError(f"{self._name}: {{{name}}} makes it larger than any config")
        return meaning

    def _knows(self, name: str) -> bool:
        return name in self._system or name in self._tree
