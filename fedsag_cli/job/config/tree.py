"""Key paths such as `components[0].args.x` in a tree of plain values: read, written, set and removed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

KeyPath: TypeAlias = tuple[str | int, ...]
"""The keys and indices that lead to a value, from the outside in."""

_STEP = re.compile(r'(?:(?<=[\s\S])\.|^)(?:"(?P<quoted>[^"]*)"|(?P<key>[^.\[\]"]+))|\[(?P<index>\d+)\]')
_PLAIN_KEY = re.compile(r'[^.\[\]"]+')


def key_path(text: str) -> KeyPath | None:
    """The key path that `text` writes, or None if it writes none."""
    steps: list[str | int] = []
    at = 0
    while at < len(text):
        step = _STEP.match(text, at)
        if not step:
            return None
        index = step["index"]
        steps.append(int(index) if index is not None else step["quoted"] or step["key"] or "")
        at = step.end()
    return tuple(steps) if steps and isinstance(steps[0], str) else None


def written(path: KeyPath) -> str:
    """How a user writes a key path."""
    words = [f"[{step}]" if isinstance(step, int) else f".{_quoted(step)}" for step in path]
    return "".join(words).removeprefix(".")


def unambiguous(path: KeyPath) -> str:
    """The same, but a key at the top is in quotes: without them it means any key of that name."""
    return f'"{path[0]}"' if len(path) == 1 else written(path)


def _quoted(key: str) -> str:
    return key if _PLAIN_KEY.fullmatch(key) else f'"{key}"'


def get(tree: Any, path: KeyPath) -> Any:
    """Raises LookupError if there is nothing."""
    for step in path:
        kind: type[Any] = list if isinstance(step, int) else Mapping
        if not isinstance(tree, kind):
            raise LookupError(step)
        tree = tree[step]
    return tree


def put(tree: Any, path: KeyPath, value: Any) -> None:
    """Missing objects on the path are added. Raises LookupError if the path leads through another value."""
    *way, last = path
    for step in way:
        if isinstance(tree, dict) and isinstance(step, str):
            tree.setdefault(step, {})
        tree = get(tree, (step,))
    if isinstance(last, int):
        get(tree, (last,))
    elif not isinstance(tree, dict):
        raise LookupError(last)
    tree[last] = value


def remove(tree: Any, path: KeyPath) -> None:
    """Raises LookupError if there is nothing."""
    get(tree, path)
    del get(tree, path[:-1])[path[-1]]


def walk(tree: Any, at: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    """Every value with its key path, from the outside in."""
    if at:
        yield at, tree
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from walk(value, (*at, key))
    elif isinstance(tree, list):
        for index, value in enumerate(tree):
            yield from walk(value, (*at, index))


def leaves(tree: Any) -> Iterator[tuple[KeyPath, Any]]:
    """The values a user may set: texts, numbers, bools, lists of those, and whatever is empty."""
    inside: KeyPath | None = None
    for at, value in walk(tree):
        if inside and at[: len(inside)] == inside:
            continue
        if isinstance(value, Mapping) and value:
            continue
        if isinstance(value, list) and any(isinstance(item, Mapping | list) for item in value):
            continue
        inside = at
        yield at, value
