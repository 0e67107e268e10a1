"""The settings in ~/.fedsag/config.conf, which apply to every command."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from fedsag_cli import machine
from fedsag_cli.errors import JobError
from fedsag_cli.job.config import files, hocon
from fedsag_cli.job.section import Section

_OTHER_WAYS = "set HOME to a folder of your own, or name the templates in each command with -d"


def absolute(path: Path | str) -> Path:
    """The absolute path without `..`; links are not resolved. Raises JobError if the current folder was removed."""
    try:
        return Path(os.path.abspath(path))  # noqa: PTH100  resolve() would follow links, absolute() keeps `..`
    except FileNotFoundError:
        raise JobError("the current folder was removed", hint="cd to an existing folder") from None


def config_file() -> Path:
    return machine.home() / ".fedsag" / "config.conf"


@files.reading()
def templates_dir() -> Path | None:
    """The templates folder that the config file names; None if it names none. Raises JobError.

    A file that only another user may read, as in that user's home folder, is left out.
    """
    file = config_file()
    conf = Section({} if is_hidden(file) else _read(file), str(file))
    section = conf.section("job_template", {})
    return Path(section.text("path")) if "path" in section else None


@files.reading()
def set_templates_dir(folder: Path) -> Path:
    """Store an existing folder, and return its absolute path. Other settings do not change. Raises JobError."""
    folder = absolute(folder)
    if not folder.is_dir():
        raise JobError(f"there is no folder {folder}", hint="-jt names a folder with job templates")
    file = config_file()
    conf = _read_own(file)
    templates = conf.setdefault("job_template", {})
    if not isinstance(templates, dict):
        raise Section(conf, str(file)).wrong("job_template", f"must be an object, not {templates!r}")
    templates["path"] = str(folder)
    _write(conf)
    return folder


@files.reading()
def forget_templates_dir() -> None:
    """Remove the stored folder. Other settings do not change. Raises JobError."""
    conf = _read_own(config_file())
    templates = conf.get("job_template")
    if isinstance(templates, dict) and "path" in templates:
        del templates["path"]
        if not templates:
            del conf["job_template"]
        _write(conf)


def _read_own(file: Path) -> dict[str, Any]:
    """The settings to change. Raises JobError."""
    if is_hidden(file):
        raise JobError(f"{file} belongs to another user and cannot be read", hint=_OTHER_WAYS)
    return _read(file)


def _write(conf: dict[str, Any]) -> None:
    from fedsag_cli.workspace import write_whole  # not at the top: reading settings does not need it

    file = config_file()
    text = hocon.dumps(conf, name=str(file))  # a path may not be UTF-8: its bytes are written unchanged
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, lambda out: out.write(text.encode(errors="surrogateescape")), shared=True)
    except OSError as error:
        raise JobError(f"{file} cannot be written: {error.strerror}", hint=_OTHER_WAYS) from None


def _read(file: Path) -> dict[str, Any]:
    return hocon.load(file, errors="surrogateescape") if file.exists() else {}


def is_hidden(file: Path) -> bool:
    """Whether the file belongs to another user, and this one may not read it."""
    try:
        return file.stat().st_uid != os.getuid() and not os.access(file, os.R_OK)
    except PermissionError:  # of a folder above it
        return True
    except OSError:
        return False
