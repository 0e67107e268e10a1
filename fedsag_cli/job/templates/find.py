"""Finds templates, and reads what they declare."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fedsag_cli
from fedsag_cli.errors import JobError, nearest
from fedsag_cli.job.config import CLIENT_FILE, SERVER_FILE, files, hocon, literals
from fedsag_cli.job.config.files import Bounds
from fedsag_cli.job.section import Section
from fedsag_cli.job.templates import settings

DEFAULT = "sag_pt"
INFO = "info.conf"


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
    """A template folder. If `variables` is empty, its files are copied unchanged."""

    name: str
    folder: Path
    description: str = "NA"
    controller_type: str = "NA"
    execution_api_type: str = "NA"
    variables: Sequence[Variable] = ()

    @classmethod
    def read(cls, folder: Path, *, name: str = "") -> Template:
        """Read the template in `folder`. Raises JobError."""
        name = name or folder.name
        if not os.path.lexists(folder / INFO):
            return cls(name=name, folder=folder)
        file = f"{name}/{INFO}"
        info = Section(hocon.load(folder / INFO, name=file), file)
        return cls(
            name=name,
            folder=folder,
            description=info.text("description", "NA"),
            controller_type=info.text("controller_type", "NA"),
            execution_api_type=info.text("execution_api_type", "NA"),
            variables=[_variable(section) for section in info.sections("variables")],
        )

    @property
    def apps(self) -> Mapping[str, Path]:
        """The folder with each app's config files, by app: the template's folder, or subfolders of it."""
        below = [path for path in sorted(self.folder.iterdir()) if path.is_dir() and _has_config(path)]
        return {path.name: path for path in below} if below else {"app": self.folder}

    @property
    def bounds(self) -> Bounds:
        """Links may have targets in the template, and in another template in the same folder, to share files."""
        root = files.real(self.folder)

        def allow(target: Path) -> bool:
            if target.is_relative_to(root):
                return True
            if not target.is_relative_to(root.parent) or target == root.parent:
                return False
            return (root.parent / target.relative_to(root.parent).parts[0] / INFO).is_file()

        return Bounds(whole="the template", allow=allow)


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplatesFolder:
    """A folder with templates, and the option or setting that named it."""

    folder: Path
    named_by: str


def templates_folder(given: Path | None = None) -> TemplatesFolder:
    """The folder with the templates: `given`, $FEDSAG_HOME, the config file's, or fedsag's. Raises JobError."""
    home = os.environ.get("FEDSAG_HOME")
    if given is not None:
        return TemplatesFolder(folder=settings.absolute(given), named_by="-d")
    if home:
        return TemplatesFolder(folder=settings.absolute(Path(home, "job_templates")), named_by="$FEDSAG_HOME")
    if stored := settings.templates_dir():
        return TemplatesFolder(folder=settings.absolute(stored), named_by=str(settings.config_file()))
    return TemplatesFolder(folder=_shipped(), named_by="shipped with fedsag")


@files.reading()
def all_templates(where: TemplatesFolder) -> list[Template]:
    """All templates in a folder, sorted by name. Raises JobError."""
    return [Template.read(folder) for folder in _folders(where)]


@files.reading()
def find_template(name: str, given: Path | None = None) -> Template:
    """The template named `name`, or the one in the folder `name`. Raises JobError with the nearest known name."""
    folder = settings.absolute(name)
    if folder.is_dir() and ((folder / INFO).is_file() or (os.sep in name and _has_job_files(folder))):
        return Template.read(folder, name=str(folder))
    where = templates_folder(given)
    for found in _folders(where):
        if found.name == name:
            return Template.read(found)
    raise JobError(
        f"there is no template {name!r} in {where.folder} ({where.named_by})",
        hint=nearest(name, [found.name for found in _folders(where)]) or "fedsag job list_templates shows them",
    )


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
    below = [folder, *(path for path in folder.iterdir() if path.is_dir())]
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
