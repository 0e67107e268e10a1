"""Writes a job folder completely or not at all: it is built in a temporary folder, which then replaces the old one."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedsag_cli.errors import JobError
from fedsag_cli.job.config import hocon
from fedsag_cli.job.templates import find


def is_job(folder: Path) -> bool:
    """Whether `folder` is a job: it has a deploy_map, or an app with config files."""
    if (folder / find.INFO).exists():
        return False  # a template
    metas = [path for path in folder.glob("meta.*") if path.is_file()]
    if any("deploy_map" in hocon.text_of(path, name=str(path), errors="replace") for path in metas):
        return True
    return any(path.is_file() for path in folder.glob("*/config/config_fed_*"))


def check_target(folder: Path, *, force: bool, flag: str = "-j") -> None:
    """Raises JobError if a job cannot be written to `folder`. `flag`: the option that named it, for messages."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise JobError(f"{folder} is a file", hint=f"{flag} names the folder to create")
    if _contains_current_folder(folder):
        raise JobError(
            f"{folder} is the current folder", hint=f"{flag} names the folder to create, in this folder or elsewhere"
        )
    if not any(folder.iterdir()):
        return
    if not is_job(folder):
        raise JobError(f"{folder} exists and is not a job folder", hint=f"choose another folder with {flag}")
    if not force:
        raise JobError(
            f"there is already a job in {folder}", hint=f"-force replaces it, choose another folder with {flag}"
        )
    foreign = next(_foreign(folder), None)
    if foreign:
        raise JobError(f"-force would remove {foreign}, which is not part of the job", hint="move it away")


def _foreign(folder: Path) -> Iterator[Path]:
    """The files of a job folder that are not meta.* and not in an app."""
    for path in sorted(folder.iterdir()):
        if (path / "config").is_dir() or (path.name.startswith("meta.") and path.is_file()):
            continue
        below = sorted(path.rglob("*")) if path.is_dir() and not path.is_symlink() else [path]
        yield from (file for file in below if file.is_symlink() or not file.is_dir())


def _contains_current_folder(folder: Path) -> bool:
    try:
        return Path.cwd().is_relative_to(folder)
    except FileNotFoundError:
        return False  # the current folder was removed


@contextmanager
def new_folder_beside(folder: Path) -> Iterator[Path]:
    """A temporary folder next to `folder`, on the same disk. After an error, new parent folders are removed too."""
    missing = [path for path in folder.parents if not path.exists()]
    part = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=".fedsag-", dir=folder.parent))
        yield part
    except OSError as error:
        raise JobError(f"{folder} cannot be created: {error.strerror or error}: {error.filename or ''}") from None
    finally:
        if part:
            _put_back(part, folder)
            shutil.rmtree(part, ignore_errors=True)
        for path in missing:
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()


def copy(source: Path, target: Path) -> None:
    """Copy a file, and make its folders. Raises OSError."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    target.chmod(source.stat().st_mode & 0o777)  # without set-user-id: another user owns the copy


def exchange(part: Path, folder: Path) -> list[str]:
    """Replace `folder` by part/new. Returns a note if a part of the old folder remains."""
    old = part / "old"
    if folder.exists():
        folder.rename(old)
    (part / "new").rename(folder)
    shutil.rmtree(old, ignore_errors=True)
    return [f"the old job could not be removed completely: {old}"] if old.exists() else []


def _put_back(part: Path, folder: Path) -> None:
    """Restore the old folder if the exchange was interrupted. Raises JobError."""
    old = part / "old"
    if old.exists() and (part / "new").exists():
        try:
            old.rename(folder)
        except OSError as error:
            shutil.rmtree(part / "new", ignore_errors=True)
            raise JobError(f"the old job of {folder} is now in {old}: {error.strerror}") from None
