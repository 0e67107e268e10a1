"""Lets pyhocon replace `${…}` in a HOCON file, with limits on time and size.

pyhocon copies the value of each `${…}` without a limit on the size. If keys are set many times, it may try an endless
number of combinations. A file from another person must not block the command or fill the memory.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from fedsag_cli.errors import JobError

_BUDGET = 100_000  # total number of characters and values in inserted values
_CALLS = 5_000_000  # function calls, which take one or two seconds; one `${…}` needs about a hundred
_COMBINATIONS = 1000


def resolve(config: Any, parser: Any, *, name: str) -> None:
    """Replace each `${…}` in `config`, which `parser` read, by its value. Raises JobError and the parser's errors."""
    budget = _BUDGET
    too_much = JobError(f"{name}: its keys and ${{…}} depend on each other in too many ways", hint="set each key once")

    class Bounded(parser):  # type: ignore[misc]
        @classmethod
        def _do_substitute(cls, substitution: Any, resolved_value: Any, *args: Any, **kwargs: Any) -> Any:
            nonlocal budget
            budget -= weight(resolved_value)
            if budget < 0:
                raise JobError(f"{name}: ${{{substitution.variable}}} makes the file too large")
            return super()._do_substitute(substitution, resolved_value, *args, **kwargs)

        @classmethod
        def _find_substitutions(cls, item: Any) -> Any:
            if any(
                num > _COMBINATIONS for num, _ in enumerate(_overridden(item))
            ):  # a circle, which pyhocon would follow for ever
                raise too_much
            return super()._find_substitutions(item)

    if math.prod(max(1, _count(node)) for node in _set_again(config)) > _COMBINATIONS:
        raise too_much
    with _bounded(_CALLS, too_much):
        Bounded.resolve_substitutions(config)


@contextmanager
def _bounded(num_calls: int, error: JobError) -> Iterator[None]:
    """Raise `error` after `num_calls` function calls in the block: a limit that is the same on every machine."""
    left = num_calls

    def count(*_: Any) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise error

    if sys.getprofile() is None:  # otherwise a profiler is active: it must not be replaced
        sys.setprofile(count)
    try:
        yield
    finally:
        if sys.getprofile() is count:
            sys.setprofile(None)


def _overridden(node: Any) -> Iterator[Any]:
    """The values that a node replaces, one after the other."""
    while _has(node, "tokens"):
        node = node.overridden_value
        yield node


def _set_again(node: Any) -> Iterator[Any]:
    """The values with `${…}` that replace earlier ones."""
    if _has(node, "tokens"):
        if node.overridden_value is not None:
            yield node
        yield from _set_again(node.overridden_value)
    for inner in _inside(node):
        yield from _set_again(inner)


def _count(node: Any) -> int:
    """The number of `${…}` in a node."""
    return int(_has(node, "variable")) + sum(map(_count, _inside(node)))


def weight(node: Any) -> int:
    """The number of characters and values in a node."""
    return 1 + (len(node) if isinstance(node, str) else sum(map(weight, _inside(node))))


def _has(node: Any, name: str) -> bool:
    """Whether a node has this attribute. Not for objects: pyhocon gives them their keys as attributes."""
    return not isinstance(node, dict) and hasattr(node, name)


def _inside(node: Any) -> Iterable[Any]:
    if isinstance(node, dict):
        return dict.values(node)
    if _has(node, "tokens"):
        return list(node.tokens)
    return node if isinstance(node, list) else ()
