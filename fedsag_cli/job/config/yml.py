"""Reads and writes YAML config files: plain values without aliases. `1e-3` is a number, a date is a text."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from fedsag_cli.errors import JobError
from fedsag_cli.job.config import tree
from fedsag_cli.job.config.tree import KeyPath

SUFFIXES = (".yml", ".yaml")
_DEEPEST = 100
_FLOAT = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?\Z")
_COMMENT = re.compile(r"(?m)(?:^|\s)#")


def loads(text: str, *, name: str) -> dict[str, Any]:
    """The values of a YAML text. Raises JobError naming `name` and the line."""
    import yaml

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                line = self.peek_event().start_mark.line + 1
                raise JobError(f"{name}: line {line}: an alias (`*…`) is not allowed", hint="write it out")
            return super().compose_node(parent, index)

    _set_resolvers(Loader)
    try:
        parsed = yaml.load(text, Loader=Loader)
        if any(len(at) > _DEEPEST for at, _ in tree.walk(parsed)):
            raise RecursionError
    except yaml.MarkedYAMLError as error:
        number = error.problem_mark.line + 1 if error.problem_mark else None
        says = f"line {number} is " if number else ""
        raise JobError(f"{name}: {says}not YAML: {error.problem}", file=name, line=number) from None
    except (yaml.YAMLError, ValueError) as error:
        raise JobError(f"{name}: not YAML: {error}") from None
    except RecursionError:
        raise JobError(f"{name}: nested too deeply") from None
    if not isinstance(parsed, dict):
        raise JobError(f"{name}: must contain keys and values, not {type(parsed).__name__}")
    for at, value in (((), parsed), *tree.walk(parsed)):
        if isinstance(value, dict) and not all(isinstance(key, str) for key in value):
            raise JobError(f"{name}: {tree.written(at) or 'the top'}: every key must be a text")
        if not isinstance(value, dict | list | str | int | float | bool | None):
            raise JobError(f"{name}: {tree.written(at)}: {value!r} is not a plain value")
    return parsed


def lines(text: str) -> dict[KeyPath, int]:
    """The line of each key and of each item of a list, by its key path. Empty for a text that is not YAML."""
    import yaml

    try:
        return dict(_lines_in(yaml.compose(text, Loader=yaml.SafeLoader), ()))
    except (yaml.YAMLError, ValueError, RecursionError):
        return {}


def _lines_in(node: Any, at: KeyPath) -> Iterator[tuple[KeyPath, int]]:
    kind = getattr(node, "id", "")
    pairs = ((key.value, key, inner) for key, inner in node.value) if kind == "mapping" else ()
    items = ((index, inner, inner) for index, inner in enumerate(node.value)) if kind == "sequence" else ()
    for step, named, inner in (*pairs, *items):
        yield (*at, step), named.start_mark.line + 1
        yield from _lines_in(inner, (*at, step))


def dumps(values: Mapping[str, Any]) -> str:
    """`values` as a YAML text."""
    import yaml

    class Dumper(yaml.SafeDumper):  # type: ignore[misc]
        def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
            return True

    _set_resolvers(Dumper)  # so that a text that looks like a number is written in quotes
    return str(yaml.dump(values, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=120))


def has_comments(text: str) -> bool:
    """Whether the text may have comments. A quoted text can look like a comment."""
    return _COMMENT.search(text) is not None


def _set_resolvers(kind: Any) -> None:
    """Make a loader or a dumper treat `1e-3` as a number, and a date as a text."""
    kind.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in known if tag != "tag:yaml.org,2002:timestamp"]
        for first, known in kind.yaml_implicit_resolvers.items()
    }
    kind.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))
