"""Writes a job folder completely or not at all: it is built in a temporary folder, which then replaces the old one."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedsag_cli.errors import JobError
from fedsag_cli.job.config import TEMPLATE_FILE, hocon
from fedsag_cli.leftovers import is_copy, is_leftover

_PREFIX = ".fedsag-"
_NEW, _OLD, _TARGET = "new", "old", "target"  # in a temporary folder: two jobs, and the name of the folder to replace


def is_job(folder: Path) -> bool:
    """Whether `folder` is a job: it has a deploy_map, or an app with config files."""
    if (folder / TEMPLATE_FILE).exists():
        return False  # a template
    metas = [path for path in folder.glob("meta.*") if path.suffix in hocon.CONFIG_SUFFIXES and path.is_file()]
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
    if all(is_leftover(path.name) for path in folder.iterdir()):
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
    """The files of a job folder that are not meta.* and not in an app, without leftovers and copies."""
    for path in sorted(folder.iterdir()):
        if is_leftover(path.name) or (is_copy(path.name) and path.is_file() and not path.is_symlink()):
            continue
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
    part, lock = None, -1
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        part, lock = _locked_folder(folder)
        yield part
    except OSError as error:
        raise JobError(f"{folder} cannot be created: {error.strerror or error}: {error.filename or ''}") from None
    finally:
        if part:
            _put_back(part, folder)
            shutil.rmtree(part, ignore_errors=True)
            os.close(lock)
        for path in missing:
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()


def _locked_folder(folder: Path) -> tuple[Path, int]:
    """A new temporary folder, and a descriptor that locks it: without the lock it belongs to a killed command."""
    while True:
        part = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=folder.parent))
        lock = -1
        try:
            lock = os.open(part, os.O_RDONLY | os.O_CLOEXEC)
            if _lock(lock) is not False:
                (part / _TARGET).write_bytes(os.fsencode(folder.name))
                return part, lock
        except FileNotFoundError:
            pass  # another command removed it before it was locked: try again
        if lock >= 0:
            os.close(lock)


def _lock(descriptor: int) -> bool | None:
    """Whether the lock is ours now; None if the file system has no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno == errno.EWOULDBLOCK else None
    return True


def recover(parent: Path) -> None:
    """Remove the temporary folders of killed commands in `parent`; an old job that has lost its place gets it back."""
    for part in parent.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            if part.is_symlink() or part.stat().st_uid != os.geteuid():
                continue
            lock = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                if _lock(lock):
                    _recover(part)
            finally:
                os.close(lock)


def _recover(part: Path) -> None:
    names = {path.name for path in part.iterdir()}
    if not names:
        part.rmdir()  # the command was killed before it wrote anything
    elif _TARGET in names <= {_NEW, _OLD, _TARGET}:
        target = part.parent / Path(os.fsdecode((part / _TARGET).read_bytes()) or _OLD).name
        if _OLD in names and not os.path.lexists(target):
            (part / _OLD).rename(target)
        shutil.rmtree(part, ignore_errors=True)


def copy(source: Path, target: Path) -> None:
    """Copy a file, and make its folders. Raises OSError."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    target.chmod(source.stat().st_mode & 0o777)  # without set-user-id: another user owns the copy


def exchange(part: Path, folder: Path) -> list[str]:
    """Replace `folder` by part/new, in one step where the system can. The files that were edited in it are kept.

    Returns notes for the user.
    """
    new, old = part / _NEW, part / _OLD
    _stamp(new)
    if not folder.exists():
        new.rename(folder)
        return []
    notes = list(_keep_edits(folder, new))
    if _swap(new, folder):
        old = new
    else:  # a command that is killed between these two steps is put right by `recover`
        folder.rename(old)
        new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
    return [*notes, f"the old job could not be removed completely: {old}"] if old.exists() else notes


def _swap(one: Path, other: Path) -> bool:
    """Exchange two folders in one step. False if this was not possible."""
    import ctypes  # not at the top: only -force needs it

    libc = ctypes.CDLL(None, use_errno=True)
    names = os.fsencode(one), os.fsencode(other)
    exchange, here = 2, -100
    if hasattr(libc, "renameat2"):
        return bool(libc.renameat2(here, names[0], here, names[1], exchange) == 0)
    if hasattr(libc, "renamex_np"):  # macOS
        return bool(libc.renamex_np(*names, exchange) == 0)
    return False


def _stamp(folder: Path) -> None:
    """Give everything in a new job the same time: what has another time later was edited, or added."""
    now = time.time_ns()
    for path in [*folder.rglob("*"), folder]:
        os.utime(path, ns=(now, now))


def _keep_edits(folder: Path, new: Path) -> Iterator[str]:
    """Keep a second link to each edited file of the old job, in a folder beside it. Yields a note that names them."""
    edited = [path for path in _edited(folder) if not _is_same(folder / path, new / path)]
    if not edited:
        return
    kept = _free_name(folder)
    for path in edited:
        (kept / path).parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(folder / path, kept / path)
        except OSError:  # the file system has no hard links
            copy(folder / path, kept / path)
    names = ", ".join(map(str, edited[:3])) + (f" and {len(edited) - 3} more" if len(edited) > 3 else "")
    yield f"the old job had files that you changed or added; they are now in {kept}: {names}"


def _edited(folder: Path) -> list[Path]:
    """The files whose time differs from that of the others; none if the times are not those of `_stamp`."""
    times = {path: path.lstat().st_mtime_ns for path in sorted(folder.rglob("*")) if not _is_left(path, folder)}
    made, count = Counter(times.values()).most_common(1)[0] if times else (0, 0)
    if count < 2:
        return []
    changed = (path for path, at in times.items() if at != made)
    return [path.relative_to(folder) for path in changed if path.is_file() and not path.is_symlink()]


def _is_left(path: Path, folder: Path) -> bool:
    return any(map(is_leftover, path.relative_to(folder).parts))


def _is_same(one: Path, other: Path) -> bool:
    if not other.is_file() or one.stat().st_size != other.stat().st_size:
        return False
    with one.open("rb") as here, other.open("rb") as there:
        while piece := here.read(1 << 20):
            if piece != there.read(1 << 20):
                return False
    return True


def _free_name(folder: Path) -> Path:
    names = (f"{folder.name}.edits{number}" for number in ["", *(f"-{count}" for count in range(2, 10_000))])
    return next(path for name in names if not os.path.lexists(path := folder.with_name(name)))


def _put_back(part: Path, folder: Path) -> None:
    """Restore the old folder if the exchange was interrupted. Raises JobError."""
    old, new = part / _OLD, part / _NEW
    if old.exists() and new.exists():
        try:
            old.rename(folder)
        except OSError as error:
            shutil.rmtree(new, ignore_errors=True)
            raise JobError(f"the old job of {folder} is now in {old}: {error.strerror}") from None
