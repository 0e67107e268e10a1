"""Components as config files name them: found in a tree, held against what their constructors take."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedsag_cli import catalog
from fedsag_cli.catalog.signatures import Signature
from fedsag_cli.errors import JobError, nearest
from fedsag_cli.job import executor, limits
from fedsag_cli.job.config import tree
from fedsag_cli.job.config.tree import Place
from fedsag_cli.job.section import Section
from fedsag_cli.plan import ComponentSpec

_KINDS: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (int, float),
    "bool": (bool,),
    "str": (str,),
    "None": (type(None),),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """A component that a config file names at `at`: its class path, and the place of its arguments."""

    at: Place
    path: str
    args: Mapping[str, Any]

    @property
    def title(self) -> str:
        return self.path.rpartition(".")[2]

    def at_arg(self, name: str) -> Place:
        return (*self.at, "args", name)


def named_in(values: Mapping[str, Any]) -> Iterator[Named]:
    """Every component of a file, those in the arguments of another after it."""
    for at, value in tree.walk(values):
        path = _path(value) if isinstance(value, Mapping) else None
        if path and value.get("config_type") != "dict":
            args = value.get("args")
            yield Named(at=at, path=path, args=args if isinstance(args, Mapping) else {})


def signature(path: str, search: Sequence[Path]) -> Signature | None:
    """What the component's constructor takes; None where nobody can tell. Raises JobError where there is none."""
    if executor.is_executor(path):
        return executor.SIGNATURE
    if not all(word.isidentifier() for word in path.split(".")):
        raise JobError(f"{path!r} is no class", hint="write module.Class")
    try:
        return catalog.signature_of(path, search)
    except (ValueError, RecursionError, MemoryError) as error:
        raise JobError(f"{path!r}: its source cannot be read: {error or type(error).__name__}") from None


def read(section: Section, search: Sequence[Path], ids: Collection[str] | None = None) -> ComponentSpec:
    """A component and its arguments, checked. `ids` are those an `x_id` may name; None: whatever it likes."""
    section.expect(["id", "path", "class_path", "name", "args", "disabled", "config_type"])
    path = _path(section.values)
    if path is None:
        raise JobError(f"{section.called('path')} is missing", hint="it names the component or its class")
    args = section.section("args", {})
    _check(path, section, args, search, ids)
    return ComponentSpec(path=path, id=section.text("id", ""), args=dict(args.values))


def _path(values: Mapping[str, Any]) -> str | None:
    named = (values.get(key) for key in ("path", "class_path", "name"))
    return next((path for path in named if isinstance(path, str) and path), None)


def _check(path: str, section: Section, args: Section, search: Sequence[Path], ids: Collection[str] | None) -> None:
    try:
        known = signature(path, search)
    except JobError as error:
        raise JobError(f"{section.called()}: {error.message}", hint=error.hint) from None
    if known:
        _check_names(path, known, args)
        for parameter in known.parameters:
            value = args.values.get(parameter.name)
            if parameter.name in args and not _fits(parameter.annotation, value):
                raise args.wrong(parameter.name, f"must be {parameter.annotation}, not {value!r}")
        limits.check(path, args)
        if ids is not None:
            _check_ids(known, args, ids)
    for key, value in args.values.items():
        _check_nested(value, Section({key: value}, args.file, args.at), key, search)


def _check_names(path: str, known: Signature, args: Section) -> None:
    for key in args.values:
        if not known.takes(key):
            names = [parameter.name for parameter in known.parameters]
            raise JobError(f"{args.called(key)}: {path} takes no argument {key!r}", hint=nearest(key, names))
    for parameter in known.parameters:
        if parameter.required and parameter.name not in args and not args.values.get(f"{parameter.name}_id"):
            raise JobError(f"{args.called(parameter.name)} is missing: {path} needs it")


def _check_ids(known: Signature, args: Section, ids: Collection[str]) -> None:
    names = {parameter.name for parameter in known.parameters}
    for key, value in args.values.items():
        refers = key not in names and key.endswith("_id") and key.removesuffix("_id") in names
        if refers and value not in ("", None) and value not in ids:
            raise args.wrong(key, f"is {value!r}: no component has that id", hint=nearest(str(value), ids))


def _check_nested(value: Any, around: Section, key: str, search: Sequence[Path]) -> None:
    if isinstance(value, Mapping):
        inner = Section(value, around.file, (*around.at, key))
        path = _path({**value, "name": None})
        if path and value.get("config_type") != "dict":
            _check(path, inner, inner.section("args", {}), search, None)
            return
        for name, deeper in value.items():
            _check_nested(deeper, inner, name, search)
    elif isinstance(value, list):
        for index, deeper in enumerate(value):
            _check_nested(deeper, Section({}, around.file, (*around.at, key)), f"[{index}]", search)


def _fits(annotation: str, value: Any) -> bool:
    """Whether a value may be what a constructor asks for; true where the annotation is not one of the plain types."""
    words = [word.strip() for word in annotation.split("|")]
    if not all(word in _KINDS for word in words):
        return True
    if isinstance(value, bool):
        return "bool" in words
    return any(isinstance(value, _KINDS[word]) for word in words)
