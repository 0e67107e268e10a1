"""Applies `-f FILE key=value key-`: finds each key in the file, and sets or removes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedsag_cli import catalog
from fedsag_cli.arguments import Argument
from fedsag_cli.catalog import signatures
from fedsag_cli.errors import JobError, nearest
from fedsag_cli.job import components
from fedsag_cli.job.config import literals, placeholders, tree
from fedsag_cli.job.config.tree import KeyPath
from fedsag_cli.job.meta import KEYS as META_KEYS


class _Unknown(JobError):
    """A file has no such key."""


_OPEN_META = ("deploy_map", "resource_spec", "launcher_spec", "custom_props", "stats_pool_config")


@dataclass(frozen=True, slots=True, kw_only=True)
class Override:
    """One key of a file and its new text; None: remove the key."""

    key: str
    text: str | None

    @classmethod
    def read(cls, word: str, file: str) -> Override:
        """`key=value`, `key=` or `key-`. Raises JobError."""
        key, equals, text = word.partition("=")
        if not equals and not key.endswith("-"):
            raise JobError(f"{file}: {word!r}: key=value is expected", hint="to remove a key, write key-")
        removes = key.endswith("-")
        if removes and text:
            raise JobError(f"{file}: {word!r}: a key to remove takes no value", hint=f"write {key} to remove it")
        key = key.removesuffix("-")
        if not key:
            raise JobError(f"{file}: {word!r}: the key is missing", hint="key=value is expected")
        return cls(key=key, text=None if removes else text)


def apply(
    conf: dict[str, Any],
    overrides: Sequence[Override],
    *,
    file: str,
    search: Sequence[Path] = (),
    elsewhere: Mapping[str, str] | None = None,
) -> None:
    """Apply `overrides` to `conf`. If a key has several, the last one is used.

    `elsewhere`: the file of each variable of the template, for hints. Raises JobError naming file, key, and the nearest
    known name.
    """
    finder = _Finder(conf, file, search, elsewhere or {})
    values: dict[KeyPath, Any] = {}
    removed: set[KeyPath] = set()
    for override in overrides:
        where = f"{file}: {override.key}"
        if override.text is None:
            at, _ = finder.find(override.key, removes=True)
            removed.add(at)
        else:
            at, kind = finder.find(override.key, removes=False)
            is_null = override.text.strip() == "null" and finder.takes_null(at)
            values[at] = None if is_null else literals.parse(override.text, kind, where=where)
            removed.discard(at)
    for at, value in values.items():
        try:
            tree.put(conf, at, value)
        except LookupError:
            raise JobError(f"{file}: {tree.written(at)}: the value above it is not an object") from None
    # from the end, because removing an element of a list moves the elements after it
    for at in sorted(removed, key=lambda at: [(isinstance(step, int), step) for step in at], reverse=True):
        tree.remove(conf, at)


def knows(conf: Mapping[str, Any], override: Override, *, file: str, search: Sequence[Path] = ()) -> bool:
    """Whether `conf` has the key, or a component in it takes an argument of this name."""
    try:
        _Finder(conf, file, search, {}).find(override.key, removes=override.text is None)
    except _Unknown:
        return False
    except JobError:  # it has the key more than once, or with another mistake: `apply` says what is wrong
        return True
    return True


def known_names(conf: Mapping[str, Any], *, file: str, search: Sequence[Path] = ()) -> list[str]:
    """The keys and arguments that an override may set without a path."""
    return _Finder(conf, file, search, {}).names()


def signature(path: str, search: Sequence[Path]) -> signatures.Signature | None:
    """The arguments of a component. A missing class with the name of a known one may take any others, too."""
    try:
        return components.signature(path, search)
    except JobError:
        name = path.rpartition(".")[2]
        namesake = components.signature(name, ()) if name in catalog.KNOWN else None
    return namesake and signatures.Signature(arguments=namesake.arguments, open_ended=True)


class _Finder:
    """Finds the key path of a key in a file, and the kind of its value."""

    def __init__(
        self, conf: Mapping[str, Any], file: str, search: Sequence[Path], elsewhere: Mapping[str, str]
    ) -> None:
        self._conf = conf
        self._file = file
        self._elsewhere = elsewhere
        self._signatures: dict[KeyPath, tuple[components.Named, signatures.Signature | None]] = {}
        for named in components.named_in(conf):
            self._signatures[named.at] = (named, signature(named.path, search))

    def find(self, key: str, *, removes: bool) -> tuple[KeyPath, str | None]:
        """The key path and the kind. Raises JobError if the key does not exist, or is found more than once."""
        at = tree.key_path(key)
        if at is None:
            raise JobError(
                f"{self._file}: {key!r} is not a key", hint="write name, or a path such as components[0].args.x"
            )
        if len(at) == 1 and not key.startswith('"'):
            at = self._bare(str(at[0]), removes=removes)
        else:
            self._check_path(at, removes=removes)
        return at, None if removes else self._kind(at)

    def takes_null(self, at: KeyPath) -> bool:
        """Whether the key is an argument that may be null."""
        argument = self._argument(at)
        return argument is not None and "None" in argument.kind.split(" | ")

    def _bare(self, key: str, *, removes: bool) -> KeyPath:
        paths = [at for at, _ in tree.walk(self._conf) if at[-1] == key]
        if key in self._conf:
            # `num_rounds = "{num_rounds}"` at a lower level only repeats the variable at the top
            paths = [at for at in paths if at == (key,) or placeholders.stands_for(tree.get(self._conf, at)) != key]
        if not paths and not removes:
            paths = [
                named.at_arg(key)
                for named, signature in self._signatures.values()
                if key in _settable(named, signature)
            ]
        if not paths and not removes and self._is_meta and key in META_KEYS:
            paths = [(key,)]
        if not paths:
            other = self._elsewhere.get(key)
            hint = f"it is a key of {other}" if other else nearest(key, self.names())
            raise _Unknown(f"{self._file} has no key {key!r}", hint=hint)
        if len(paths) > 1:
            found = ", ".join(tree.unambiguous(at) for at in paths)
            raise JobError(f"{self._file}: {key!r} is found more than once: {found}", hint="write the whole path")
        return paths[0]

    def _check_path(self, at: KeyPath, *, removes: bool) -> None:
        """Raises JobError unless the key path exists or may be added."""
        for end in range(1, len(at) + 1):
            try:
                tree.get(self._conf, at[:end])
            except LookupError:
                if removes or not self._may_add(at, end):
                    raise self._missing(at, end) from None
                return

    def _may_add(self, at: KeyPath, end: int) -> bool:
        """Whether the step at[end - 1], which does not exist, may be added."""
        if any(isinstance(step, int) for step in at[end - 1 :]):
            return False
        if self._is_meta:
            return at[0] in _OPEN_META
        inside = [named_at for named_at in self._signatures if named_at == at[: len(named_at)]]
        if not inside:
            return False
        named_at = max(inside, key=len)
        named, signature = self._signatures[named_at]
        rest = at[len(named_at) :]
        if rest[0] != "args":
            return len(rest) == 1 and rest[0] in components.KEYS
        if len(rest) > 1 and signature and not signature.takes(str(rest[1])):
            raise JobError(
                f"{self._file}: {tree.written(at)}: {named.title} takes no argument {rest[1]!r}",
                hint=nearest(str(rest[1]), _settable(named, signature)),
            )
        return True

    def _missing(self, at: KeyPath, end: int) -> JobError:
        step, above = at[end - 1], tree.get(self._conf, at[: end - 1])
        if isinstance(step, int):
            problem = f"has {len(above)} entries" if isinstance(above, list) else "is not a list"
            return JobError(f"{self._file}: {tree.written(at)}: {tree.written(at[: end - 1])} {problem}")
        names = [tree.written((*at[: end - 1], key)) for key in above] if isinstance(above, Mapping) else []
        hint = nearest(tree.written(at[:end]), names) if names else f"{tree.written(at[: end - 1])} is not an object"
        return _Unknown(f"{self._file} has no key {tree.written(at[:end])!r}", hint=hint)

    def _kind(self, at: KeyPath) -> str | None:
        argument = self._argument(at)
        kinds = literals.kinds_of_argument(argument) if argument else []
        if len(kinds) == 1:
            return kinds[0]
        try:
            value = tree.get(self._conf, at)
        except LookupError:
            return literals.kind_of(argument.default if argument else None)
        variable = placeholders.stands_for(value)
        return literals.kind_of(self._conf.get(variable or "", value))

    def _argument(self, at: KeyPath) -> Argument | None:
        named, signature = self._signatures.get(at[:-2], (None, None))
        if named and signature and at[-2] == "args":
            return next((argument for argument in signature.arguments if argument.name == at[-1]), None)
        return None

    def names(self) -> list[str]:
        keys = [str(at[-1]) for at, _ in tree.leaves(self._conf) if isinstance(at[-1], str)]
        arguments = [name for pair in self._signatures.values() for name in _settable(*pair)]
        return [*keys, *arguments, *(META_KEYS if self._is_meta else ())]

    @property
    def _is_meta(self) -> bool:
        return self._file.startswith("meta.")


def _settable(named: components.Named, signature: signatures.Signature | None) -> list[str]:
    """The arguments that a component takes, without those that are given as `x_id`."""
    names = [argument.name for argument in signature.arguments] if signature else []
    return [name for name in names if f"{name}_id" not in named.args]
