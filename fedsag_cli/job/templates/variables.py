"""Lists the keys of a job that can be overridden, with value, type, default and meaning."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedsag_cli.arguments import Argument
from fedsag_cli.errors import JobError
from fedsag_cli.job import components, meta, nearby, reader
from fedsag_cli.job.components import Named
from fedsag_cli.job.config import CLIENT_FILE, SERVER_FILE, files, hocon, literals, placeholders, tree
from fedsag_cli.job.config.tree import KeyPath
from fedsag_cli.job.templates import draft, overrides
from fedsag_cli.job.templates.create import template_of
from fedsag_cli.job.templates.draft import FileNames, declared_in
from fedsag_cli.job.templates.find import Template, Variable, find_template

_NOT_SHOWN = ("id", "path", "class_path", "name", "format_version")
_LISTS = ("args", "components", "task_data_filters", "task_result_filters")  # not shown if empty
_KEYS_OF_ENTRIES: Mapping[str, Mapping[str, str]] = {
    "workflows": components.KEYS,
    "components": components.KEYS,
    "executors": {**components.KEYS, **reader.EXECUTOR_KEYS},
    "task_data_filters": {**components.KEYS, **reader.FILTER_KEYS},
    "task_result_filters": {**components.KEYS, **reader.FILTER_KEYS},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One key, as in `-f FILE key=value`. `default` is None if none is known.

    `is_variable`: whether the job's template declares the key as one that users often set.
    """

    file: str
    key: str
    value: Any
    kind: str
    default: Any
    meaning: str
    component: str
    is_variable: bool


@files.reading()
def of_job(folder: Path, templates_dir: Path | None = None) -> list[Row]:
    """All keys that can be set in a job, file by file. Raises JobError."""
    meta_file = hocon.find(folder, "meta")
    configs = [path for app in sorted(folder.glob("*/config")) for path in _configs(app)]
    if not (meta_file or configs):
        raise JobError(f"{folder} is not a job: there is no meta.conf", hint=nearby.hint(folder.absolute()))
    paths = [path.relative_to(folder).as_posix() for path in [*([meta_file] if meta_file else []), *configs]]
    names = FileNames(paths, list({path.relative_to(folder).parts[0] for path in configs}))
    declared = _declared(folder, names, templates_dir)
    rows: list[Row] = []
    for path in paths:
        try:
            conf = hocon.load(folder / path, name=names.short(path))
        except JobError:
            if Path(path).stem in ("meta", SERVER_FILE, CLIENT_FILE):
                raise
            continue  # a copy or a file of the user beside them: no command reads it
        custom = folder / path.partition("/")[0] / "custom"
        rows += _File(conf, names.short(path), declared.get(path, []), custom).rows()
    return rows


@files.reading()
def of_template(template: Template, file: str) -> list[Row]:
    """All keys that can be set in one file of the jobs that a template makes. Raises JobError."""
    found = draft.unchanged(template, file)
    return _File(found.conf, found.name, found.variables, found.custom).rows()


def _configs(folder: Path) -> Iterator[Path]:
    found = (path for _, path in files.below(folder))
    return (path for path in sorted(found) if path.suffix in hocon.CONFIG_SUFFIXES)


def _declared(folder: Path, names: FileNames, templates_dir: Path | None) -> Mapping[str, Sequence[Variable]]:
    """The variables of the job's template; empty if the template is not found."""
    name = template_of(folder)
    try:
        return declared_in(find_template(name, templates_dir), names) if name else {}
    except JobError:
        return {}


class _File:
    def __init__(self, conf: Mapping[str, Any], name: str, declared: Sequence[Variable], custom: Path) -> None:
        self._conf = conf
        self._name = name
        self._declared = {variable.name: variable for variable in declared}
        self._components = [
            (named, {argument.name: argument for argument in signature.arguments} if signature else {})
            for named in components.named_in(conf)
            for signature in [overrides.signature(named.path, [custom])]
        ]
        self._places = dict(self._variables())

    def rows(self) -> list[Row]:
        """The template's variables in its order, then the other keys of the file, then arguments that are not set."""
        unique: dict[KeyPath, None] = {}
        for at in (*self._places.values(), *self._leaves(), *self._unset_arguments()):
            if not any(at[: len(above)] == above for above in unique):
                unique[at] = None
        counts = Counter(at[-1] for at in unique)
        return [self._row(at, bare=counts[at[-1]] == 1 or at in self._places.values()) for at in unique]

    def _variables(self) -> Iterator[tuple[str, KeyPath]]:
        """Each variable that is one key of the file, and where."""
        for name in self._declared:
            paths = [at for at, value in tree.walk(self._conf) if at[-1] == name and not self._repeats(at, value)]
            if len(paths) == 1:
                yield name, paths[0]

    def _leaves(self) -> Iterator[KeyPath]:
        for at, value in tree.leaves(self._conf):
            shown = at[-1] not in _NOT_SHOWN and (value or at[-1] not in _LISTS)
            if shown and not self._repeats(at, value):
                yield at

    def _unset_arguments(self) -> Iterator[KeyPath]:
        for named, arguments in self._components:
            for argument in arguments.values():
                given = argument.name in named.args or f"{argument.name}_id" in named.args
                if not given and not argument.required:
                    yield named.at_arg(argument.name)

    def _repeats(self, at: KeyPath, value: Any) -> bool:
        """Whether the value is only `{key}`, for the same key at the top of the file."""
        return len(at) > 1 and placeholders.stands_for(value) == at[-1] and at[-1] in self._conf

    def _row(self, at: KeyPath, *, bare: bool) -> Row:
        key = str(at[-1])
        variable = self._declared.get(key) if self._places.get(key, at) == at else None
        named, around = self._argument_around(at)
        argument = around if around and (len(at) == 1 or (named and at == named.at_arg(around.name))) else None
        default = variable.default if variable else argument.default if argument else None
        try:
            value = tree.get(self._conf, at)
        except LookupError:
            value = default
        return Row(
            file=self._name,
            key=key if bare and (variable or at[-2:-1] in ((), ("args",))) else self._called(at),
            value=value,
            kind=self._kind(variable, argument, value),
            default=default,
            meaning=(variable and variable.meaning) or (around.meaning if around else self._meaning_of_key(at)),
            component=named.title if named else "",
            is_variable=variable is not None,
        )

    def _kind(self, variable: Variable | None, argument: Argument | None, value: Any) -> str:
        if variable:
            return variable.kind
        kinds = literals.kinds_of_argument(argument) if argument else []
        return " or ".join(kinds) or literals.kind_of(value) or "null"

    def _called(self, at: KeyPath) -> str:
        return tree.written(at) if at[-1] in self._declared else tree.unambiguous(at)

    def _argument_around(self, at: KeyPath) -> tuple[Named | None, Argument | None]:
        """The component that a key belongs to, and the argument of the component that the key is a part of.

        A top-level key belongs to the component with an argument that is only `{key}`.
        """
        if len(at) == 1:
            for named, arguments in self._components:
                for name, value in named.args.items():
                    if name in arguments and placeholders.stands_for(value) == at[0]:
                        return named, arguments[name]
        around = [pair for pair in self._components if at[: len(pair[0].at)] == pair[0].at]
        if not around:
            return None, None
        named, arguments = max(around, key=lambda pair: len(pair[0].at))
        inside = at[len(named.at) :]
        name = str(inside[1]) if inside[:1] == ("args",) and len(inside) > 1 else ""
        return named, arguments.get(name) or arguments.get(name.removesuffix("_id"))

    def _meaning_of_key(self, at: KeyPath) -> str:
        if self._name.startswith("meta."):
            return meta.KEYS.get(str(at[0]), "")
        return _KEYS_OF_ENTRIES.get(str(at[0]), {}).get(str(at[-1]), "") if len(at) > 1 else ""
