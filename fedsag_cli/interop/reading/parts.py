"""One object of a config file with a class of NVFLARE: the component of fedsag that stands for it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedsag_cli import catalog
from fedsag_cli.errors import JobError, nearest
from fedsag_cli.facts import Nvflare
from fedsag_cli.interop import vocabulary
from fedsag_cli.interop.vocabulary import LEFT_OUT, NOT_NEEDED

_NVFLARE = "nvflare."


class Parts:
    """The translation of the parts of one file. `notes` has a line for each part that was left out."""

    def __init__(self, file: str, search: Sequence[Path] = ()) -> None:
        """`search`: the folders with the job's own modules."""
        self.file, self.search = file, search
        self.notes: list[str] = []
        self.ids: Collection[Any] = ()
        """The ids of all components of the file."""
        self.not_needed: dict[Any, str] = {}
        """The ids of components that were left out, each with the id of the component in its place (empty: none)."""
        self.persistor = ""
        """The id of the persistor: its models are those that a model locator of NVFLARE finds."""
        self._missing: dict[str, list[str]] = {"workflow": [], "component": []}

    @functools.cached_property
    def known(self) -> Mapping[str, tuple[str, Nvflare]]:
        """The components of fedsag, by NVFLARE's names.

        Read from the source of every component: only a job with a class of NVFLARE needs them.
        """
        return vocabulary.components()

    def check_missing(self) -> None:
        """Raises JobError if fedsag lacks a workflow or, otherwise, a component: components depend on the workflow."""
        if not any(self._missing.values()):
            return
        workflows = [name for name, (known, _) in self.known.items() if catalog.facts_of(known).asks_for]
        supported = {
            "workflow": [*workflows, *vocabulary.AVERAGING_WORKFLOWS],
            "component": [name for name in self.known if name not in workflows],
        }
        for kind, paths in self._missing.items():
            if paths:
                *before, last = dict.fromkeys(paths)
                missing = f"{kind}s {', '.join(before)} and {last} are" if before else f"{kind} {last} is"
                hints = dict.fromkeys(nearest(path.rpartition(".")[2], supported[kind]) for path in paths)
                near = [hint for hint in hints if not hint.startswith("known")]
                raise JobError(f"{self.file}: NVFLARE's {missing} not supported yet", hint="; ".join(near or hints))

    def part(self, part: Any) -> Any:
        """The component of fedsag; None if none is needed."""
        name = self.nvflare_name(part)
        if name is None or part.get("disabled"):
            return part
        if name in self.known and not _finds_trained_models(name, args_of(part)):
            if path_of(part) in vocabulary.COPIED_CLASSES:
                self.note(f"{path_of(part)} is fedsag's {self.known[name][0]}, not a class in custom/")
            return self.translated(part, name, *self.known[name])
        if name in LEFT_OUT:
            self.note(f"{name} is left out: {LEFT_OUT[name]}")
        elif name not in NOT_NEEDED:
            self.lacks("component", part)
        self.not_needed[part.get("id")] = str(args_of(part).get(NOT_NEEDED.get(name, ""), ""))
        return None

    def lacks(self, kind: str, part: Mapping[str, Any]) -> None:
        """Remember a "workflow" or a "component" that fedsag does not have."""
        self._missing[kind].append(path_of(part))

    def translated(self, part: Mapping[str, Any], name: str, component: str, differs: Nvflare) -> dict[str, Any]:
        """The component `component`, which stands for NVFLARE's class `name`, with its arguments."""
        known = catalog.signature_of(component)
        args = self.args(part, name, differs, lambda key: known is None or known.takes(key))
        may_miss: set[str] = {f"{each.name}_id" for each in known.arguments if not each.required} if known else set()
        names = {**differs.renamed, **differs.older_names}
        for key in may_miss & set(differs.defaults) - {names.get(key, key) for key in args_of(part)}:
            if args[key] not in self.ids or args[key] in self.not_needed:
                del args[key]  # NVFLARE's default id, of a component that is not there
        return {**_other_keys(part), "path": component, "args": args}

    def args(
        self, part: Mapping[str, Any], name: str, differs: Nvflare, takes: Callable[[str], bool]
    ) -> dict[str, Any]:
        """The arguments with fedsag's names. There is a note for each that has an effect only in NVFLARE.

        An argument that names a component which fedsag does not need names the one in its place, or is left out.
        """
        args, given = dict(differs.defaults), args_of(part)
        names = {**differs.renamed, **differs.older_names}
        for older, value in given.items():
            key = names.get(older, older)
            if key.endswith("_id") and isinstance(value, str) and value in self.not_needed:
                value = self.not_needed[value] or (self.persistor if key == "persistor_id" else "")
                if not value:
                    args.pop(key, None)
                    continue
            if key != older and key in given:
                self.note(f"{name}: {older} is left out: {key} is given too")
                continue
            if takes(key):
                args[key] = value
            elif key in differs.expected:
                if value not in differs.expected[key]:
                    self.note(f"{name}: {key} = {value!r} has no effect in fedsag")
            elif key not in differs.ignored:
                self.note(f"{name}: fedsag has no {key}: it is left out")
        return args

    def nvflare_name(self, part: Any) -> str | None:
        """The name of NVFLARE's class, from its path or, as until 2.5, from its name alone; None for other classes."""
        path = catalog.path_in(part) or ""
        if path.startswith(_NVFLARE) or path in vocabulary.COPIED_CLASSES:
            return path.rpartition(".")[2]
        if not path or "." in path or path != part.get("name"):
            return None
        if path not in catalog.KNOWN:
            return path
        return path if path in self.known or path in vocabulary.NAMES else None

    def nvflare_base(self, part: Any) -> str:
        """The class of NVFLARE from which a class of the job's own derives, as its source shows; empty if from none."""
        return catalog.base_of_nvflare(catalog.path_in(part) or "", self.search)

    def note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


def _finds_trained_models(name: str, args: Mapping[str, Any]) -> bool:
    """Whether it is a model locator for the models that the persistor writes, and not for files of its own."""
    names, folder = args.get("model_name"), args.get("model_dir")
    is_own = isinstance(names, Mapping) or any(Path(each).is_absolute() for each in (names, folder) if each)
    return name == "NPModelLocator" and not is_own


def objects(values: Mapping[str, Any], key: str) -> list[Any]:
    """The objects in a list. The job's reader reports other values as errors."""
    found = values.get(key, [])
    return [each for each in found if isinstance(each, Mapping)] if isinstance(found, list) else []


def path_of(part: Mapping[str, Any]) -> str:
    return catalog.path_in(part) or ""


def args_of(part: Mapping[str, Any]) -> Mapping[str, Any]:
    args = part.get("args")
    return args if isinstance(args, Mapping) else {}


def unused_id(name: str, taken: Collection[Any]) -> str:
    numbered = (f"{name}_{number}" for number in range(2, len(taken) + 3))
    return next(each for each in (name, *numbered) if each not in taken)


def named_by(args: Any, components: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The components that these arguments name by their ids, and those that these name, in the order of the file."""
    by_id = {part.get("id"): part for part in components}
    seen: set[str] = set()
    names = list(_texts_in(args))
    while names:
        if (name := names.pop()) in by_id and name not in seen:
            seen.add(name)
            names += _texts_in(args_of(by_id[name]))
    return [part for name, part in by_id.items() if name in seen]


def _texts_in(value: Any) -> Iterator[str]:
    match value:
        case str():
            yield value
        case Mapping():
            for inner in value.values():
                yield from _texts_in(inner)
        case list():
            for inner in value:
                yield from _texts_in(inner)


def _other_keys(part: Mapping[str, Any]) -> dict[str, Any]:
    """The keys except for the class and the arguments."""
    return {key: value for key, value in part.items() if key not in (*catalog.NAMING_KEYS, "args")}
