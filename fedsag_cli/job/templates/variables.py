"""What can be overridden in a job: every key with its value, type, default and meaning."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedsag_cli.catalog.signatures import Parameter
from fedsag_cli.errors import JobError
from fedsag_cli.job import components
from fedsag_cli.job.config import files, hocon, literals, placeholders, tree
from fedsag_cli.job.config.tree import Place
from fedsag_cli.job.templates import find, overrides
from fedsag_cli.job.templates.create import template_of
from fedsag_cli.job.templates.draft import FileNames, declared_in
from fedsag_cli.job.templates.find import Variable

_NOT_ASKED = ("id", "path", "class_path", "name", "format_version")
_PARTS = ("args", "components", "task_data_filters", "task_result_filters")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One key as `-f FILE key=value` takes it. `default` is None where none is known."""

    file: str
    key: str
    value: Any
    kind: str
    default: Any
    meaning: str
    component: str


@files.reading()
def of_job(folder: Path, templates_dir: Path | None = None) -> list[Row]:
    """Everything that can be set in the job, file by file. Raises JobError."""
    meta = hocon.find(folder, "meta")
    configs = [path for path in sorted(folder.glob("*/config/**/*")) if path.suffix in hocon.CONFIG_SUFFIXES]
    if not (meta or configs):
        raise JobError(f"{folder} is no job: it has no meta.conf", hint="fedsag job create makes one")
    paths = [path.relative_to(folder).as_posix() for path in [*([meta] if meta else []), *configs]]
    names = FileNames(paths, list({path.relative_to(folder).parts[0] for path in configs}))
    declared = _declared(folder, names, templates_dir)
    rows: list[Row] = []
    for path in paths:
        conf = hocon.load(folder / path, name=names.short(path))
        custom = folder / path.partition("/")[0] / "custom"
        rows += _File(conf, names.short(path), declared.get(path, []), custom).rows()
    return rows


def _declared(folder: Path, names: FileNames, templates_dir: Path | None) -> Mapping[str, Sequence[Variable]]:
    """What the job's template said, where it can still be found; a job does without."""
    name = template_of(folder)
    try:
        return declared_in(find.find(name, templates_dir), names) if name else {}
    except JobError:
        return {}


class _File:
    def __init__(self, conf: Mapping[str, Any], name: str, declared: Sequence[Variable], custom: Path) -> None:
        self._conf = conf
        self._name = name
        self._declared = {variable.name: variable for variable in declared}
        self._named = list(components.named_in(conf))
        self._search = [custom]

    def rows(self) -> list[Row]:
        """What the template declared first, in its order; then what else stands there, then what could."""
        places = [*self._declared_places(), *self._leaves(), *self._defaults()]
        unique: dict[Place, Any] = {}
        for at, default in places:
            inside = any(at[: len(above)] == above for above in unique)
            if not inside:
                unique[at] = default
        counts = Counter(at[-1] for at in unique)
        return [self._row(at, default, bare=counts[at[-1]] == 1) for at, default in unique.items()]

    def _declared_places(self) -> Iterator[tuple[Place, Any]]:
        for name, variable in self._declared.items():
            places = [at for at, value in tree.walk(self._conf) if at[-1] == name and not self._repeats(at, value)]
            if len(places) == 1:
                yield places[0], variable.default

    def _leaves(self) -> Iterator[tuple[Place, Any]]:
        for at, value in tree.leaves(self._conf):
            asked = at[-1] not in _NOT_ASKED and (value or at[-1] not in _PARTS)
            if asked and not self._repeats(at, value):
                parameters = {p.name: p for p in self._parameters(at)} if at[-2:-1] == ("args",) else {}
                yield at, parameters[str(at[-1])].default if at[-1] in parameters else None

    def _defaults(self) -> Iterator[tuple[Place, Any]]:
        for named in self._named:
            for parameter in self._parameters(named.at_arg("")):
                given = parameter.name in named.args or f"{parameter.name}_id" in named.args
                if not (given or parameter.required or parameter.default is None):
                    yield named.at_arg(parameter.name), parameter.default

    def _parameters(self, at: Place) -> Sequence[Parameter]:
        for named in self._named:
            if named.at == at[:-2]:
                signature = overrides.signature(named.path, self._search)
                return signature.parameters if signature else []
        return []

    def _repeats(self, at: Place, value: Any) -> bool:
        """Whether the value only says `{key}`, the key at the file's top."""
        return len(at) > 1 and placeholders.stands_for(value) == at[-1] and at[-1] in self._conf

    def _row(self, at: Place, default: Any, *, bare: bool) -> Row:
        key = str(at[-1])
        declared = self._declared.get(key)
        try:
            value = tree.get(self._conf, at)
        except LookupError:
            value = default
        return Row(
            file=self._name,
            key=key if bare and (declared or at[-2:-1] in ((), ("args",))) else self._called(at),
            value=value,
            kind=declared.kind if declared else literals.kind_of(value) or "null",
            default=default,
            meaning=declared.meaning if declared else "",
            component=self._component(at),
        )

    def _called(self, at: Place) -> str:
        return tree.written(at) if at[-1] in self._declared else tree.whole(at)

    def _component(self, at: Place) -> str:
        around = [named for named in self._named if at[: len(named.at)] == named.at]
        return max(around, key=lambda named: len(named.at)).title if around else ""
