"""Finds the components in config files, and checks them against their constructors."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedsag_cli import arguments, catalog
from fedsag_cli.catalog.signatures import Signature
from fedsag_cli.errors import Gathering, JobError, nearest
from fedsag_cli.job import executor
from fedsag_cli.job.config import tree
from fedsag_cli.job.config.tree import KeyPath
from fedsag_cli.job.section import Section
from fedsag_cli.plan import ComponentSpec

KEYS: Mapping[str, str] = {
    "id": "name by which other components refer to it",
    **dict.fromkeys(catalog.NAMING_KEYS, "the component: one of fedsag's, or module.Class"),
    "args": "arguments of its constructor",
    "disabled": "whether the component is left out",
    "config_type": "dict: a plain object, although it has a path",
}
"""The keys of a component's object, with their meanings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """A component that a config file names: the key path of its object, its class path and its arguments."""

    at: KeyPath
    path: str
    args: Mapping[str, Any]

    @property
    def title(self) -> str:
        return self.path.rpartition(".")[2]

    def at_arg(self, name: str) -> KeyPath:
        return (*self.at, "args", name)


def named_in(values: Mapping[str, Any]) -> Iterator[Named]:
    """Every component of a file; a component in the arguments of another comes after it."""
    for at, value in tree.walk(values):
        if path := catalog.path_in(value, in_args="args" in at):
            args = value.get("args")
            yield Named(at=at, path=path, args=args if isinstance(args, Mapping) else {})


def signature(path: str, search: Sequence[Path]) -> Signature | None:
    """The arguments of the component's constructor; None if its source does not show them. Raises JobError."""
    if executor.is_executor(path):
        return executor.signature()
    if not all(word.isidentifier() for word in path.split(".")):
        raise JobError(f"{path!r} is not a class", hint="write module.Class")
    try:
        return catalog.signature_of(path, search)
    except (ValueError, RecursionError, MemoryError) as error:
        raise JobError(f"{path!r}: its source cannot be read: {error or type(error).__name__}") from None


def problems(known: Signature, args: Mapping[str, Any]) -> dict[str, str]:
    """What is wrong with the arguments of a component, by name. An argument that is a component is not checked here."""
    objects = {name for name, value in args.items() if catalog.path_in(value, in_args=True)}
    return arguments.problems([each for each in known.arguments if each.name not in objects], args)


def read(section: Section, search: Sequence[Path], ids: Collection[str] | None = None) -> ComponentSpec:
    """A component and its arguments, checked. `ids`: the values that `x_id` may have; None: any."""
    with Gathering() as found:
        found.attempt(section.expect, KEYS)
        path = catalog.path_in(section.values)
        if path is None:
            raise section.wrong("path", "is missing", hint="it names the component or its class")
        args = section.section("args", {})
        _check(path, section, args, search, ids)
    return ComponentSpec(path=path, id=section.text("id", ""), args=dict(args.values))


def _check(path: str, section: Section, args: Section, search: Sequence[Path], ids: Collection[str] | None) -> None:
    try:
        known = signature(path, search)
        catalog.check_base(path, search)
    except JobError as error:
        raise section.error("", f": {error.message}", hint=error.hint) from None
    with Gathering() as found:
        if known:
            found.attempt(_check_names, path, known, args)
            for name, problem in problems(known, args.values).items():
                found.add(args.wrong(name, problem))
            if ids is not None:
                found.attempt(_check_ids, known, args, ids)
        for key, value in args.values.items():
            found.attempt(_check_nested, value, Section({key: value}, args.file, args.at), key, search)


def _check_names(path: str, known: Signature, args: Section) -> None:
    with Gathering() as found:
        for key in args.values:
            if not known.takes(key) and not (executor.is_executor(path) and executor.is_ignored(key)):
                names = [argument.name for argument in known.arguments]
                found.add(args.error(key, f": {path} takes no argument {key!r}", hint=nearest(key, names)))
        missing = [each.name for each in known.arguments if each.required and each.name not in args]
        missing = [name for name in missing if not args.values.get(f"{name}_id")]
        if missing:
            words = " ".join(f'"{tree.written((*args.at, name))}=…"' for name in missing)
            hint = f"give create -f {args.file.replace('/config/', '/')} {words}, or write it in the file"
            for name in missing:
                found.add(args.wrong(name, f"is missing: {path} needs it", hint=hint))


def _check_ids(known: Signature, args: Section, ids: Collection[str]) -> None:
    names = {argument.name for argument in known.arguments}
    with Gathering() as found:
        for key, value in args.values.items():
            refers = key not in names and key.endswith("_id") and key.removesuffix("_id") in names
            if refers and value not in ("", None) and value not in ids:
                problem = f"is {value!r}: there is no component with that id"
                found.add(args.wrong(key, problem, hint=nearest(str(value), ids)))


def _check_nested(value: Any, around: Section, key: str | int, search: Sequence[Path]) -> None:
    if isinstance(value, Mapping):
        inner = Section(value, around.file, (*around.at, key))
        if path := catalog.path_in(value, in_args=True):
            _check(path, inner, inner.section("args", {}), search, None)
            return
        with Gathering() as found:
            for name, deeper in value.items():
                found.attempt(_check_nested, deeper, inner, name, search)
    elif isinstance(value, list):
        with Gathering() as found:
            for index, deeper in enumerate(value):
                place = Section({}, around.file, (*around.at, key))
                found.attempt(_check_nested, deeper, place, index, search)
