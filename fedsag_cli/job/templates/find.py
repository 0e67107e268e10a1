"""Finds templates, and reads what they declare."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fedsag_cli
from fedsag_cli.errors import JobError, nearest
from fedsag_cli.job.config import CLIENT_FILE, SERVER_FILE, TEMPLATE_FILE, files, hocon, literals
from fedsag_cli.job.config.files import Bounds
from fedsag_cli.job.section import Section
from fedsag_cli.job.templates import settings

DEFAULT = "sag_pt"
SHIPPED = "shipped with fedsag"


@dataclass(frozen=True, slots=True, kw_only=True)
class Variable:
    """A key in one of the template's files that users often set."""

    name: str
    file: str
    kind: str
    default: Any
    meaning: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """A template folder. If `variables` is empty, its files are copied unchanged. `source`: where it was found."""

    name: str
    folder: Path
    source: str = ""
    description: str = "NA"
    controller_type: str = "NA"
    execution_api_type: str = "NA"
    variables: Sequence[Variable] = ()

    @classmethod
    def read(cls, folder: Path, *, name: str = "", source: str = "") -> Template:
        """Read the template in `folder`. Raises JobError."""
        name = name or folder.name
        if not os.path.lexists(folder / TEMPLATE_FILE):
            return cls(name=name, folder=folder, source=source)
        files.check(folder / TEMPLATE_FILE, _bounds(folder))
        file = f"{name}/{TEMPLATE_FILE}"
        info = Section(hocon.load(folder / TEMPLATE_FILE, name=file), file)
        return cls(
            name=name,
            folder=folder,
            source=source,
            description=info.text("description", "NA"),
            controller_type=info.text("controller_type", "NA"),
            execution_api_type=info.text("execution_api_type", "NA"),
            variables=[_variable(section) for section in info.sections("variables")],
        )

    @property
    def apps(self) -> Mapping[str, Path]:
        """The folder with each app's config files, by app: the template's folder, or subfolders of it."""
        below = [path for path in sorted(self.folder.iterdir()) if path.name[0] != "." and _has_config(path)]
        return {path.name: path for path in below} if below else {"app": self.folder}

    @property
    def bounds(self) -> Bounds:
        return _bounds(self.folder)


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplatesFolder:
    """A folder with templates, and the option or setting that named it."""

    folder: Path
    named_by: str

    @property
    def shown(self) -> str:
        """The folder, for the list of templates."""
        return "fedsag" if self.named_by == SHIPPED else str(self.folder)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """The templates, sorted by name, and what is wrong with those that cannot be used."""

    templates: Sequence[Template]
    problems: Sequence[str]


def templates_folders(given: Path | None = None) -> Iterator[TemplatesFolder]:
    """The folders with templates: only `given`; else $FEDSAG_HOME, the config file's, fedsag's. Raises JobError.

    A template in an earlier folder takes precedence over one of the same name in a later one.
    """
    if given is not None:
        yield TemplatesFolder(folder=settings.absolute(given), named_by="-d")
        return
    home = os.environ.get("FEDSAG_HOME")
    if home and (own := settings.absolute(Path(home, "job_templates"))).exists():  # the folder is for other files too
        yield TemplatesFolder(folder=own, named_by="$FEDSAG_HOME")
    if stored := settings.templates_dir():
        yield TemplatesFolder(folder=settings.absolute(stored), named_by=str(settings.config_file()))
    yield TemplatesFolder(folder=_shipped(), named_by=SHIPPED)


@files.reading()
def all_templates(given: Path | None = None) -> Listed:
    """The templates of all folders. A folder or a template that cannot be read does not hide the others.

    Raises JobError if there is no folder `given`.
    """
    templates: dict[str, Template | None] = {}
    problems: list[str] = []
    for where in templates_folders(given):
        try:
            folders = list(_folders(where))
        except JobError as error:
            if given is not None:
                raise
            problems.append(error.message)
            continue
        for folder in folders:
            if folder.name not in templates:
                templates[folder.name] = _readable(folder, where, problems)
    found = [template for _, template in sorted(templates.items()) if template]
    return Listed(templates=found, problems=problems)


def _readable(folder: Path, where: TemplatesFolder, problems: list[str]) -> Template | None:
    try:
        with files.reading():
            return Template.read(folder, source=where.shown)
    except JobError as error:
        problems.append(f"the template {folder} cannot be used: {error.message}")
        return None


@files.reading()
def find_template(name: str, given: Path | None = None) -> Template:
    """The template named `name`, or the one in the folder `name`. Raises JobError with the nearest known name."""
    folder, source = find_folder(name, given)
    return Template.read(folder, name="" if source else str(folder), source=source)


@files.reading()
def find_folder(name: str, given: Path | None = None) -> tuple[Path, str]:
    """The folder of this template, and where it was found; empty if `name` is a folder. Raises as `find_template`."""
    folder = settings.absolute(name)
    if folder.is_dir() and ((folder / TEMPLATE_FILE).is_file() or (os.sep in name and _has_job_files(folder))):
        return folder, ""
    known: list[str] = []
    searched: list[str] = []
    for where in templates_folders(given):
        folders = {found.name: found for found in _folders(where)}
        if name in folders:
            return folders[name], where.shown
        known += folders
        searched.append(f"{where.folder} ({where.named_by})")
    raise JobError(
        f"there is no template {name!r} in {' or '.join(searched)}",
        hint=nearest(name, known) or "fedsag job list_templates shows them",
    )


def _bounds(folder: Path) -> Bounds:
    """Links may have targets in the template, and in another template in the same folder, to share files."""
    root = files.real(folder)

    def allow(target: Path) -> bool:
        if target.is_relative_to(root):
            return True
        if not target.is_relative_to(root.parent) or target == root.parent:
            return False
        return (root.parent / target.relative_to(root.parent).parts[0] / TEMPLATE_FILE).is_file()

    return Bounds(whole="the template", allow=allow)


def _shipped() -> Path:
    package = Path(fedsag_cli.__file__).parent
    in_wheel = package / "job_templates"
    return in_wheel if in_wheel.is_dir() else package.parent / "job_templates"


def _folders(where: TemplatesFolder) -> Iterator[Path]:
    if not where.folder.is_dir():
        raise JobError(
            f"there is no templates folder {where.folder} (named by {where.named_by})",
            hint="fedsag config -jt DIR stores another folder",
        )
    for folder in sorted(where.folder.iterdir()):
        readable = folder.is_dir() and os.access(folder, os.R_OK | os.X_OK)
        if readable and not folder.name.startswith(".") and _has_job_files(folder):
            yield folder


def _has_config(folder: Path) -> bool:
    return any(hocon.find(folder, stem) for stem in (SERVER_FILE, CLIENT_FILE))


def _has_job_files(folder: Path) -> bool:
    below = [folder, *(path for path in folder.iterdir() if path.is_dir() and os.access(path, os.R_OK | os.X_OK))]
    return hocon.find(folder, "meta") is not None or any(_has_config(path) for path in below)


def _variable(section: Section) -> Variable:
    section.expect(["name", "file", "type", "default", "meaning"])
    kind = section.choice("type", None, literals.EXPECTED)
    default = section.values.get("default")
    if literals.kind_of(default) != kind and not (kind == "float" and literals.kind_of(default) == "int"):
        raise section.wrong("default", f"must be {literals.EXPECTED[kind]}, not {default!r}")
    return Variable(
        name=section.text("name"),
        file=section.text("file"),
        kind=kind,
        default=default,
        meaning=section.text("meaning", ""),
    )
