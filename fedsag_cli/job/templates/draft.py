"""The draft of a new job: all its files, prepared from a template before anything is written."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from fedsag_cli.catalog.signatures import Signature
from fedsag_cli.errors import JobError, nearest
from fedsag_cli.job import components
from fedsag_cli.job.config import CLIENT_FILE, SERVER_FILE, TEMPLATE_FILE, files, hocon, literals, placeholders, tree
from fedsag_cli.job.config.files import Bounds
from fedsag_cli.job.config.tree import KeyPath
from fedsag_cli.job.meta import ALL
from fedsag_cli.job.templates.find import Template, Variable
from fedsag_cli.job.templates.measuring import answers_validate
from fedsag_cli.job.templates.overrides import Override, apply
from fedsag_cli.job.templates.project import Project
from fedsag_cli.job.templates.rendering import render
from fedsag_cli.leftovers import is_leftover
from fedsag_cli.workspace import SERVER

META = "meta.conf"
_SCRIPT, _ARGUMENTS = "app_script", "app_config"  # the variables for the script and its arguments, as in NVFLARE
_TASKS, _VALIDATE = "tasks", "validate"
_NOT_CONFIG = (TEMPLATE_FILE, "info.md", "README.md", "__init__.py", "custom")

FileOverrides = Sequence[tuple[str, Sequence[str]]]
"""The files and the words of each `-f FILE key=value …`, in order."""


@dataclass(kw_only=True)
class Draft:
    """Texts to write and files to copy, by their path in the job; notes and warnings for the user."""

    apps: Sequence[str]
    texts: dict[str, str] = field(default_factory=dict)
    copies: dict[str, Path] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def make_draft(template: Template, name: str, overrides: FileOverrides = (), script_dir: Path | None = None) -> Draft:
    """The draft of a job named `name`. Raises JobError naming file, key, and the nearest known name."""
    draft = Draft(apps=list(template.apps), copies=_configs(template))
    customs: dict[str, list[Path]] = {}
    project = Project(script_dir) if script_dir else None
    code = project.files() if project else []
    draft.notes += project.notes() if project else []
    for app, folder in template.apps.items():
        customs[app] = [script_dir] if script_dir else _custom_folders(template, folder)
        for custom in customs[app]:
            found = code if project else _sources(custom, template.bounds)
            draft.copies |= {f"{app}/custom/{path}": file for path, file in found}

    names = FileNames([META, *draft.copies], draft.apps)
    declared = declared_in(template, names)
    overrides_of = _by_file(overrides, names)
    elsewhere = {variable.name: names.short(path) for path, there in declared.items() for variable in there}
    for path in list(dict.fromkeys([META, *draft.copies])):
        entry = _File(
            path=path,
            short=names.short(path),
            source=draft.copies.get(path),
            variables={variable.name: variable for variable in declared.get(path, [])},
            overrides=overrides_of.get(path, []),
            search=customs.get(path.partition("/")[0], []),
            shipped=_custom_folders(template, template.apps[app]) if (app := path.partition("/")[0]) in customs else [],
            elsewhere=elsewhere,
        )
        if path == META or entry.overrides or (template.variables and entry.is_template):
            try:
                draft.texts[path] = entry.text(template, name, draft)
            except JobError as error:
                if entry.is_used:
                    raise
                draft.notes.append(f"{entry.short} was copied unchanged: {error.message}")
            else:
                draft.copies.pop(path, None)
    return draft


@dataclass(frozen=True, slots=True, kw_only=True)
class Unchanged:
    """One file of the jobs that a template makes, with the template's values: its short name, and what is in it."""

    name: str
    conf: Mapping[str, Any]
    variables: Sequence[Variable]
    custom: Path


def file_names(template: Template) -> list[str]:
    """The short names of the files in which `-f` sets values. Raises JobError."""
    paths = [META, *_configs(template)]
    names = FileNames(paths, list(template.apps))
    return [names.short(path) for path in dict.fromkeys(paths) if PurePosixPath(path).suffix in hocon.CONFIG_SUFFIXES]


def variables_of(template: Template, file: str) -> list[Variable]:
    """The variables that the template declares for the file that users call `file`. Raises JobError."""
    names = FileNames([META, *_configs(template)], list(template.apps))
    return declared_in(template, names).get(names.find(file), [])


def unchanged(template: Template, file: str) -> Unchanged:
    """The file that users call `file`, as the template makes it. Raises JobError."""
    configs = _configs(template)
    apps = list(template.apps)
    names = FileNames([META, *configs], apps)
    path = names.find(file)
    variables = declared_in(template, names).get(path, [])
    entry = _File(
        path=path,
        short=names.short(path),
        source=configs.get(path),
        variables={variable.name: variable for variable in variables},
        overrides=[],
        search=[],
        shipped=[],
        elsewhere={},
    )
    custom = template.apps.get(path.partition("/")[0], template.folder) / "custom"
    return Unchanged(name=entry.short, conf=entry.conf(template), variables=variables, custom=custom)


class FileNames:
    """The names that users give to files of a job: `config_fed_server.conf`, or `app_1/…` if there are several apps."""

    def __init__(self, paths: Sequence[str], apps: Sequence[str]) -> None:
        self._apps = apps
        self._known: dict[str, str] = {}
        for path in paths:
            if PurePosixPath(path).suffix in hocon.CONFIG_SUFFIXES:
                self._known |= {path: path, _without_config(path): path, self.short(path): path}

    def short(self, path: str) -> str:
        short = _without_config(path)
        return short.partition("/")[2] if short != path and len(self._apps) == 1 else short

    def find(self, name: str) -> str:
        """The file's path in the job. Raises JobError with the nearest known name."""
        short = sorted({self.short(path) for path in self._known.values()})
        if PurePosixPath(name).is_absolute():
            raise JobError(f"-f {name}: use the file's name in the job", hint=nearest(name, short))
        found = self._known.get(str(PurePosixPath(name)))
        if found is None:
            several = [path for path in short if path.endswith(f"/{name}")]
            if several:
                raise JobError(f"-f {name}: this job has several apps", hint=f"say which: {', '.join(several)}")
            raise JobError(f"-f {name}: there is no such file in the job", hint=nearest(name, short))
        return found


def _without_config(path: str) -> str:
    app, _, inside = path.partition("/")
    return f"{app}/{inside.removeprefix('config/')}" if inside.startswith("config/") else path


def declared_in(template: Template, names: FileNames) -> dict[str, list[Variable]]:
    """The template's variables, by the path of their file. Raises JobError."""
    declared: dict[str, list[Variable]] = {}
    for variable in template.variables:
        try:
            path = names.find(variable.file)
        except JobError as error:
            where = f"{template.name}/{TEMPLATE_FILE}: variable {variable.name!r}"
            raise JobError(f"{where}: {error.message.removeprefix('-f ')}", hint=error.hint) from None
        declared.setdefault(path, []).append(variable)
    return declared


def _configs(template: Template) -> dict[str, Path]:
    """The template's config files, by their path in the job. Raises JobError."""
    found = {
        f"{app}/config/{path}": file
        for app, folder in template.apps.items()
        for path, file in _config_files(template, folder)
    }
    meta = hocon.find(template.folder, "meta")
    return found | ({META: meta} if meta else {})


def _sources(folder: Path, bounds: Bounds | None) -> Iterator[tuple[str, Path]]:
    files.check(folder, bounds)
    return files.below(folder, bounds)


def _config_files(template: Template, folder: Path) -> Iterator[tuple[str, Path]]:
    files.check(folder, template.bounds)
    apps = {path for path in template.apps.values() if path != folder}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or is_leftover(path.name) or path in apps:
            continue
        files.check(path, template.bounds)
        if path.name in _NOT_CONFIG or path.stem == "meta":
            continue
        if path.is_dir():
            yield from ((f"{path.name}/{inner}", file) for inner, file in _sources(path, template.bounds))
        else:
            yield path.name, path


def _custom_folders(template: Template, app: Path) -> list[Path]:
    """The custom/ folders of an app: the template's, which all apps share, then the app's own."""
    folders = dict.fromkeys([template.folder / "custom", app / "custom"])
    return [folder for folder in folders if folder.is_dir()]


def _by_file(overrides: FileOverrides, names: FileNames) -> dict[str, list[Override]]:
    found: dict[str, list[Override]] = {}
    for name, words in overrides:
        path = names.find(name)
        found.setdefault(path, []).extend(Override.read(word, names.short(path)) for word in words)
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    """One file of the job, made from a file of the template."""

    path: str
    short: str
    source: Path | None
    variables: Mapping[str, Variable]
    overrides: Sequence[Override]
    search: Sequence[Path]
    shipped: Sequence[Path]
    elsewhere: Mapping[str, str]

    @property
    def is_template(self) -> bool:
        is_config = self.path == META or self.path.split("/")[1:2] == ["config"]
        return is_config and self.source is not None and self.source.suffix == ".conf"

    @property
    def is_used(self) -> bool:
        """Whether a command reads the file. Others may be old copies, which stop nothing."""
        stem = PurePosixPath(self.path).stem
        return self.path == META or stem in (SERVER_FILE, CLIENT_FILE) or bool(self.overrides or self.variables)

    def text(self, template: Template, name: str, draft: Draft) -> str:
        """The text of the file in the job. Notes for the user are added to the draft. Raises JobError."""
        text = self._rendered(template, name, draft)
        conf = self._read(text)
        changed = copy.deepcopy(conf)
        edits = [override for override in self.overrides if not self._is_rendered(override)]
        if self.path == META and any(override.key == "name" for override in edits):
            raise JobError(f"{META}: name is the name of the job's folder", hint="-j sets it")
        apply(changed, edits, file=self.short, search=self.search, elsewhere=self.elsewhere)
        if self.path == META:
            changed["name"] = name
        self._check_arguments(changed)
        draft.warnings += self._unknown_names(changed)
        if repr(changed) == repr(conf):  # with ==, 1 would be equal to true
            return text
        if hocon.has_comments(text, self._suffix):
            keys = ", ".join(override.key for override in edits) or "name"
            draft.notes.append(f"{self.short} was rewritten to set {keys}: its comments are lost")
        return hocon.dumps(changed, name=self.short, suffix=self._suffix)

    def conf(self, template: Template) -> dict[str, Any]:
        """What is in the file without overrides. Raises JobError."""
        return self._read(self._rendered(template, template.folder.name, Draft(apps=list(template.apps))))

    @property
    def _suffix(self) -> str:
        return PurePosixPath(self.path).suffix

    def _is_rendered(self, override: Override) -> bool:
        return self.is_template and override.text is not None and override.key in self.variables

    def _rendered(self, template: Template, name: str, draft: Draft) -> str:
        """The text after rendering, before values are set in its tree."""
        if self.source is None:
            return hocon.dumps(_default_meta(name, draft.apps), name=META)
        if self.path == META and self.source.suffix != self._suffix:
            return hocon.dumps(hocon.load(self.source, name=self.source.name), name=META)
        text = hocon.text_of(self.source, name=self.short)
        if not (template.variables and self.is_template):
            return text
        values = {variable.name: variable.default for variable in self.variables.values()}
        for override in self.overrides:
            if override.text is not None and override.key in self.variables:
                kind = self.variables[override.key].kind
                values[override.key] = literals.parse(override.text, kind, where=f"{self.short}: {override.key}")
        given = {override.key for override in self.overrides}
        if _ARGUMENTS not in given and values.get(_ARGUMENTS) and self._has_another_script(values):
            written = f"{values[_ARGUMENTS]!r} of the template is for its own script"
            draft.notes.append(f"{self.short}: {_ARGUMENTS} is empty: {written}")
            values[_ARGUMENTS] = type(values[_ARGUMENTS])()
        if _TASKS not in given and self._only_trains(values):
            values[_TASKS] = [task for task in values[_TASKS] if task != _VALIDATE]
            draft.notes.append(
                f"{self.short}: {_TASKS} is without {_VALIDATE!r}, so the final model is not measured: "
                f"{values[_SCRIPT]} does not ask for flare.is_evaluate()"
            )
        return render(text, {"name": name, **values}, name=f"{template.name}/{self.source.name}")

    def _has_another_script(self, values: Mapping[str, Any]) -> bool:
        """Whether the template comes with a script, and the job runs another one."""
        own = self.variables[_SCRIPT].default if _SCRIPT in self.variables else ""
        is_shipped = any((folder / str(own)).is_file() for folder in self.shipped)
        return is_shipped and (self.search != self.shipped or values[_SCRIPT] != own)

    def _only_trains(self, values: Mapping[str, Any]) -> bool:
        """Whether the template lets clients measure models, and the job's script is another one that only trains."""
        measures = _VALIDATE in (values.get(_TASKS) or ()) and "train" in values[_TASKS]
        return (
            measures
            and self._has_another_script(values)
            and answers_validate(str(values[_SCRIPT]), self.search) is False
        )

    def _read(self, text: str) -> dict[str, Any]:
        return hocon.loads(text, name=self.short, folder=self.source and self.source.parent, suffix=self._suffix)

    def _check_arguments(self, conf: Mapping[str, Any]) -> None:
        """Raises JobError for a value that an override sets and that its component refuses."""
        paths = [path for override in self.overrides if (path := tree.key_path(override.key))]
        overridden = {step for path in paths for step in path}
        try:
            resolved = placeholders.resolved(conf, placeholders.nowhere(SERVER), name=self.short)
        except JobError:
            return  # reported when the job is read
        for named in components.named_in(resolved):
            try:
                known = components.signature(named.path, self.search)
            except JobError:
                continue
            for name, problem in components.problems(known, named.args).items() if known else ():
                at = named.at_arg(name)
                is_inside = any(at[: len(path)] == path for path in paths)
                if is_inside or overridden & self._keys_of(conf, at, known):
                    raise JobError(f"{self.short}: {tree.written(at)} {problem}")

    def _keys_of(self, conf: Mapping[str, Any], at: KeyPath, known: Signature | None) -> set[str | int]:
        """The keys that an argument depends on: its own, those that it needs, and the variables in its value."""
        needed = [name for each in known.arguments if each.name == at[-1] for name in each.needs] if known else []
        try:
            variables = placeholders.names(tree.get(conf, at))
        except LookupError:
            variables = iter(())
        return {at[-1], *needed, *variables}

    def _unknown_names(self, conf: Mapping[str, Any]) -> Iterator[str]:
        for override in self.overrides:
            if placeholders.stands_for(override.text):
                continue  # an error, which is reported when the job is read
            for name in dict.fromkeys(placeholders.names(override.text)):
                if name not in conf and name not in placeholders.SYSTEM:
                    where = f"{self.short}: {override.key}"
                    yield f"{where}: there is no variable {name!r}, so the text stays unchanged"


def _default_meta(name: str, apps: Sequence[str]) -> dict[str, Any]:
    """A single app is deployed to all sites; of several, app_server to the server and app_1 to site-1."""
    deploy_map = {apps[0]: [ALL]} if len(apps) == 1 else {app: [_site(app)] for app in apps}
    return {"name": name, "min_clients": 1, "deploy_map": deploy_map}


def _site(app: str) -> str:
    word = app.removeprefix("app_")
    return f"site-{word}" if word.isdigit() else word
