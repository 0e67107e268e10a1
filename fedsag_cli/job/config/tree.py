"""Places in a tree of plain values: `components[0].args.x` is written, walked, set and removed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

Place = tuple[str | int, ...]

_STEP = re.compile(r'(?:(?<=[\s\S])\.|^)(?:"(?P<quoted>[^"]*)"|(?P<key>[^.\[\]"]+))|\[(?P<index>\d+)\]')
_PLAIN_KEY = re.compile(r'[^.\[\]"]+')


def place(text: str) -> Place | None:
    """The place `text` names, or None where it names none."""
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


def written(place: Place) -> str:
    """How a user writes a place."""
    words = [f"[{step}]" if isinstance(step, int) else f".{_quoted(step)}" for step in place]
    return "".join(words).removeprefix(".")


def whole(place: Place) -> str:
    """The same, but a key at the top in quotes: bare it stands for every key of that name."""
    return f'"{place[0]}"' if len(place) == 1 else written(place)


def _quoted(key: str) -> str:
    return key if _PLAIN_KEY.fullmatch(key) else f'"{key}"'


def get(tree: Any, place: Place) -> Any:
    """Raises LookupError where there is nothing."""
    for step in place:
        kind: type[Any] = list if isinstance(step, int) else Mapping
        if not isinstance(tree, kind):
            raise LookupError(step)
        tree = tree[step]
    return tree


def put(tree: Any, place: Place, value: Any) -> None:
    """Objects on the way are made where there are none. Raises LookupError where another value is in the way."""
    *way, last = place
    for step in way:
        if isinstance(tree, dict) and isinstance(step, str):
            tree.setdefault(step, {})
        tree = get(tree, (step,))
    if isinstance(last, int):
        get(tree, (last,))
    elif not isinstance(tree, dict):
        raise LookupError(last)
    tree[last] = value


def remove(tree: Any, place: Place) -> None:
    """Raises LookupError where there is nothing."""
    get(tree, place)
    del get(tree, place[:-1])[place[-1]]


def walk(tree: Any, at: Place = ()) -> Iterator[tuple[Place, Any]]:
    """Every value with its place, from the outside in."""
    if at:
        yield at, tree
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from walk(value, (*at, key))
    elif isinstance(tree, list):
        for index, value in enumerate(tree):
            yield from walk(value, (*at, index))


def leaves(tree: Any) -> Iterator[tuple[Place, Any]]:
    """The values a user may set: texts, numbers, bools, lists of those, and whatever is empty."""
    inside: Place | None = None
    for at, value in walk(tree):
        if inside and at[: len(inside)] == inside:
            continue
        if isinstance(value, Mapping) and value:
            continue
        if isinstance(value, list) and any(isinstance(item, Mapping | list) for item in value):
            continue
        inside = at
        yield at, value
