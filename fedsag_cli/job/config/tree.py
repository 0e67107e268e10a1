"""Key paths such as `components[0].args.x`: to read, set and remove values in a tree of plain values."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

KeyPath: TypeAlias = tuple[str | int, ...]
"""The keys and indices of a value, the outermost first."""

_STEP = re.compile(r'(?:(?<=[\s\S])\.|^)(?:"(?P<quoted>[^"]*)"|(?P<key>[^.\[\]"]+))|\[(?P<index>\d+)\]')
_PLAIN_KEY = re.compile(r'[^.\[\]"]+')


def key_path(text: str) -> KeyPath | None:
    """The key path in `text`; None if the text is not a key path."""
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
    """A key path as text, as users write it."""
    words = [f"[{step}]" if isinstance(step, int) else f".{_quoted(step)}" for step in path]
    return "".join(words).removeprefix(".")


def unambiguous(path: KeyPath) -> str:
    """As `written`, but with quotes around a single key: without quotes it means a key of that name at any level."""
    return f'"{path[0]}"' if len(path) == 1 else written(path)


def _quoted(key: str) -> str:
    return key if _PLAIN_KEY.fullmatch(key) else f'"{key}"'


def get(tree: Any, path: KeyPath) -> Any:
    """The value at `path`. Raises LookupError if there is none."""
    for step in path:
        kind: type[Any] = list if isinstance(step, int) else Mapping
        if not isinstance(tree, kind):
            raise LookupError(step)
        tree = tree[step]
    return tree


def put(tree: Any, path: KeyPath, value: Any) -> None:
    """Set the value at `path`, and add missing objects. Raises LookupError if a value on the path is no object."""
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
    """Remove the value at `path`. Raises LookupError if there is none."""
    get(tree, path)
    del get(tree, path[:-1])[path[-1]]


def walk(tree: Any, at: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    """Every value with its key path; a value comes before the values inside it."""
    if at:
        yield at, tree
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from walk(value, (*at, key))
    elif isinstance(tree, list):
        for index, value in enumerate(tree):
            yield from walk(value, (*at, index))


def leaves(tree: Any) -> Iterator[tuple[KeyPath, Any]]:
    """The values that a user may set: texts, numbers, bools, lists of those, and empty objects."""
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
