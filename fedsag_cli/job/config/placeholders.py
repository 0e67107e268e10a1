"""Replaces placeholders such as `{name}` in a config file by the values of variables.

Every top-level key is a variable. The system's variables, such as SITE_NAME, take precedence.

- A text that is only `{name}` becomes the variable's value, with its type. An unknown name is an error.
- A longer text is formatted as by `str.format`: `{name}` is the value, `{name[key]}` a value inside it, `{{` a brace.
  If that is not possible, the text stays unchanged.
- `{$NAME}` is an environment variable.
- `{@name:x=1:y={z}}` is a copy of the object at the top-level key `@name`, in which `{x}` is 1.
- `${secret:NAME}` (an environment variable) and `${secret:file:PATH}` (a file's text) are kept. They are replaced only
  when the script is started, so that no file of a run contains secrets.

Placeholders in an inserted value are replaced only if the value comes from the same file.
"""

from __future__ import annotations

import os
import re
import string
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fedsag_cli import foreign
from fedsag_cli.errors import Gathering, JobError, nearest
from fedsag_cli.job.config import tree as trees
from fedsag_cli.job.config.substitutions import weight
from fedsag_cli.job.config.tree import KeyPath

SYSTEM = (
    "SITE_NAME", "WORKSPACE", "JOB_ID", "JOB_CUSTOM_DIR", "JOB_CONFIG_DIR",
    "ROOT_URL", "CP_URL", "RELAY_URL", "SECURE_MODE",
)  # fmt: skip


_BUDGET = 1_000_000  # total number of characters and values in inserted values
_NAME = re.compile(r"[A-Za-z_@$][\w@$-]*")
_WHOLE = re.compile(r"\s*\{(?P<name>[A-Za-z_@$][\w@$-]*)\}\s*")
_INVOKED = re.compile(r"\s*\{(?P<name>[A-Za-z_@$][\w@$-]*)(?P<given>(?::[^:={}]+=(?:\{[^{}]*\}|[^:{}]*))+)\}\s*")
_GIVEN = re.compile(r":([^:={}]+)=(\{[^{}]*\}|[^:{}]*)")
_FIELD = re.compile(r"(?P<name>[^.\[\]{}]+)(?P<keys>(?:\[[^\[\]]+\])*)")
_SPEC = re.compile(r"[^\d{}]*\d{0,3}(?:\.\d{0,3})?[^\d{}]*")
_SECRET = re.compile(r"\$\{(secret:(?:file:[^{}\s\0]+|[A-Za-z_]\w*))\}")
_OF_THE_ENVIRONMENT = re.compile(r"\{\$([A-Za-z_@$][\w@$-]*)|\$\{secret:([A-Za-z_]\w*)\}")
_ALMOST_SECRET = "${secret:"
_BOOLS = {word: yes for yes, words in ((True, "yes true t y"), (False, "no false f n")) for word in words.split()}
_FORMATTER = string.Formatter()


def resolved(tree: Mapping[str, Any], system: Mapping[str, Any], *, name: str) -> dict[str, Any]:
    """`tree` with its placeholders replaced, and without its `@name` keys, which are only templates.

    Raises JobError naming the key, and the nearest known name or the keys that refer to each other in a circle.
    """
    try:
        return _Resolver(tree, system, name, _Budget(name)).tree()
    except RecursionError:
        raise JobError(f"{name}: nested too deeply") from None


def nowhere(site: str) -> dict[str, Any]:
    """The system's variables for `site` in a job that is not being run."""
    return {**dict.fromkeys(SYSTEM, ""), "SITE_NAME": site}


class Secrets:
    """The values of the secrets in commands. Each is read only once, because its file may be a pipe."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self._known: dict[str, str] = {}

    def revealed(self, word: str) -> str:
        """The word with the values of its secrets. Raises JobError for a secret that does not exist or has no name."""
        if _ALMOST_SECRET in _SECRET.sub("", word):
            raise JobError(
                f"{word!r} has a {_ALMOST_SECRET}…}} without a name",
                hint="${secret:NAME} is the environment's NAME, ${secret:file:PATH} a file's text",
            )
        return _SECRET.sub(self._one, word)

    def _one(self, found: re.Match[str]) -> str:
        if found[0] not in self._known:
            secret = self._known[found[0]] = self._look_up(found[0], found[1].removeprefix("secret:"))
            foreign.hide(secret, found[0])
        return self._known[found[0]]

    def _look_up(self, written: str, name: str) -> str:
        if not name.startswith("file:"):
            if name not in self._environment:
                raise JobError(
                    f"{written}: there is no environment variable {name}", hint="set it where you run fedsag simulator"
                )
            return _of_variable(name, self._environment[name])
        path = name.removeprefix("file:")
        try:
            return Path(path).read_text(encoding="utf-8").removesuffix("\n")
        except (OSError, UnicodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not text"
            raise JobError(f"{written}: {path}: {why}") from None


def _of_variable(name: str, value: str) -> str:
    """The value of an environment variable. Raises JobError if a job cannot contain it."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise JobError(f"the value of the environment variable {name} is not UTF-8") from None
    return value


def names(value: Any) -> Iterator[str]:
    """The names of the variables in `value`, without environment variables."""
    if isinstance(value, str):
        try:
            fields = [field or "" for _, field, _, _ in _FORMATTER.parse(_SECRET.sub("", value))]
        except ValueError:
            return
        found = (match["name"] for match in map(_FIELD.fullmatch, fields) if match)
        yield from (name for name in found if _NAME.fullmatch(name) and not name.startswith("$"))
    elif isinstance(value, Mapping | list):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from names(inner)


def environment(value: Any) -> Iterator[str]:
    """The names of the environment variables in `value`, also of those that are secrets."""
    if isinstance(value, str):
        yield from (plain or secret for plain, secret in _OF_THE_ENVIRONMENT.findall(value))
    elif isinstance(value, Mapping | list):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from environment(inner)


def stands_for(value: Any) -> str | None:
    """The name of the variable if `value` is only `{name}`; else None."""
    found = _WHOLE.fullmatch(value) if isinstance(value, str) else None
    return found["name"] if found else None


class _Unknown(LookupError):
    """There is no variable of that name."""


class _Budget:
    """The limit for the size of inserted values in one file: variables that contain variables could fill the memory."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._left = _BUDGET

    def spend(self, name: str, weight: int) -> None:
        self._left -= weight
        if self._left < 0:
            raise JobError(f"{self._file}: {{{name}}} makes the file too large")


class _Resolver:
    def __init__(self, tree: Mapping[str, Any], system: Mapping[str, Any], file: str, budget: _Budget) -> None:
        self._tree = tree
        self._system = system
        self._file = file
        self._budget = budget
        self._done: dict[str, Any] = {}
        self._weights: dict[str, int] = {}

    def tree(self) -> dict[str, Any]:
        try:
            return {key: self._variable(key, ()) for key in self._tree if not key.startswith("@")}
        except JobError as first:
            self._check_each(first)
            raise

    def _check_each(self, first: JobError) -> None:
        """Raises the first error with all others."""
        with Gathering() as found:
            found.add(first)
            for at, value in trees.walk(self._tree):
                if isinstance(value, str) and not str(at[0]).startswith("@"):
                    found.attempt(self._value, value, (str(at[0]),), at)

    def _variable(self, key: str, above: tuple[str, ...]) -> Any:
        if key in above:
            circle = " -> ".join((*above[above.index(key) :], key))
            raise JobError(f"{self._file}: {key} refers to itself: {circle}", file=self._file, at=(key,))
        if key not in self._done:
            self._done[key] = self._value(self._tree[key], (*above, key), (key,))
        return self._done[key]

    def _value(self, value: Any, above: tuple[str, ...], at: KeyPath) -> Any:
        if isinstance(value, Mapping):
            return {key: self._value(inner, above, (*at, key)) for key, inner in value.items()}
        if isinstance(value, list):
            return [self._value(inner, above, (*at, index)) for index, inner in enumerate(value)]
        if not isinstance(value, str):
            return value
        try:
            if name := stands_for(value):
                return self._value_of(name, above)
            if invoked := _INVOKED.fullmatch(value):
                return self._invoked(invoked["name"], dict(_GIVEN.findall(invoked["given"])), above, at)
        except _Unknown as error:
            name = str(error)
            known = [known for known in (*self._tree, *SYSTEM) if known != at[0]]
            hint = "there is no environment variable of that name" if name.startswith("$") else nearest(name, known)
            where = f"{self._file}: {trees.written(at)} is {value!r}"
            raise JobError(f"{where}: there is no variable {name!r}", hint=hint, file=self._file, at=at) from None
        return self._formatted(value, above)

    def _formatted(self, text: str, above: tuple[str, ...]) -> str:
        shielded = _SECRET.sub(r"${{\1}}", text)
        try:
            pieces = [
                literal + ("" if field is None else self._field(field, spec or "", conversion, above))
                for literal, field, spec, conversion in _FORMATTER.parse(shielded)
            ]
        except (LookupError, ValueError, TypeError):
            return text
        return "".join(pieces)

    def _field(self, field: str, spec: str, conversion: str | None, above: tuple[str, ...]) -> str:
        """The formatted value. Raises LookupError, ValueError or TypeError if it cannot be formatted."""
        found = _FIELD.fullmatch(field)
        if not found or not _SPEC.fullmatch(spec):
            raise _Unknown(field)
        value = self._value_of(found["name"], above)
        for key in re.findall(r"[^\[\]]+", found["keys"]):
            value = value[int(key) if key.isdigit() else key]
        written = _FORMATTER.format_field(_FORMATTER.convert_field(value, conversion), spec)
        self._budget.spend(found["name"], len(written))
        return str(written)

    def _invoked(self, name: str, given: Mapping[str, str], above: tuple[str, ...], at: KeyPath) -> Any:
        """The object at the key `name`, with the `given` values for its names."""
        item = self._tree.get(name)
        if item is None:
            raise _Unknown(name)
        if not isinstance(item, Mapping):
            raise JobError(f"{self._file}: {trees.written(at)}: {name} must be an object, not {item!r}")
        if name in above:
            raise JobError(f"{self._file}: {name} refers to itself: {' -> '.join((*above, name))}")
        local = {
            key.strip(): self._value(text, above, at) if "{" in text else _typed(text) for key, text in given.items()
        }
        inside = _Resolver(self._tree, {**self._system, **local}, self._file, self._budget)
        made = inside._value(item, (*above, name), (name,))
        self._budget.spend(name, weight(made))
        return made

    def _value_of(self, name: str, above: tuple[str, ...]) -> Any:
        """Raises _Unknown, or JobError."""
        if name in self._system:
            return self._system[name]
        if name in self._tree:
            value = self._variable(name, above)
        elif name.startswith("$") and name[1:] in os.environ:
            foreign.hide_variable(name[1:], os.environ[name[1:]])
            return _of_variable(name[1:], os.environ[name[1:]])
        else:
            raise _Unknown(name)
        if name not in self._weights:
            self._weights[name] = weight(value)
        self._budget.spend(name, self._weights[name])
        return value


def _typed(text: str) -> Any:
    """A value in `{@name:key=value}`: a number, a bool (yes or no), or else the text."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return _BOOLS.get(text.lower(), text)
