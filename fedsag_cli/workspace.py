"""The workspace, a folder with every file of a run; and `write_whole`, which writes a file completely or not at all.

W/plan.json  events.jsonl  report.json
W/.fedsag/                                        the lock, and the list of the files that fedsag made
W/server/log.txt
W/server/simulate_job/app_server/                 the server's app, its working directory; models are written here
W/server/simulate_job/checkpoints/                what a resumed run starts from
W/<site>/log.txt
W/<site>/simulate_job/app_<site>/                 a client's app, its working directory
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO

import msgspec

from fedsag_cli.errors import WorkspaceError

SERVER = "server"
JOB_ID = "simulate_job"  # as in NVFLARE: scripts know it by get_job_id(), configs by {JOB_ID}
ROUND, BEST = "round", "best"  # the two kinds of checkpoint: of the last round, and of the best model so far
_CHECKPOINT = re.compile(rf"(?P<kind>{ROUND}|{BEST})-\d{{6,}}\.safetensors")
_PART = ".part"  # the end of the name of an incomplete file


class Workspace:
    """A folder for one run at a time. A file in it that fedsag did not make is never deleted."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()  # the server gives its paths in this form
        self._made: set[str] = set()
        self._lock = -1

    @property
    def plan(self) -> Path:
        return self.root / "plan.json"

    @property
    def events(self) -> Path:
        return self.root / "events.jsonl"

    @property
    def report(self) -> Path:
        return self.root / "report.json"

    @property
    def scratch(self) -> Path:
        return self.root / ".fedsag"

    def site(self, name: str) -> Path:
        """The folder of SERVER or of a site."""
        return self.root / name

    def job(self, name: str) -> Path:
        return self.site(name) / JOB_ID

    def app(self, name: str) -> Path:
        """The app of SERVER or of a site: the working directory of that process."""
        return self.job(name) / f"app_{name}"

    def log(self, name: str) -> Path:
        """The file for the output of SERVER or of a site."""
        return self.site(name) / "log.txt"

    @property
    def checkpoints(self) -> Path:
        return self.job(SERVER) / "checkpoints"

    @property
    def has_run(self) -> bool:
        """Whether fedsag has used this folder before."""
        return self.scratch.is_dir()

    @property
    def _list_of_made(self) -> Path:
        return self.scratch / "made"

    def take(self) -> None:
        """Lock the workspace until `release`. Raises WorkspaceError if another run uses it, or it cannot be written."""
        try:
            str(self.root).encode()
        except UnicodeEncodeError:
            raise WorkspaceError("the path of the workspace is not UTF-8: plan.json cannot contain it") from None
        try:
            self.scratch.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.scratch / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise WorkspaceError(
                f"the workspace {self.root} cannot be used: {error.strerror}: {error.filename}"
            ) from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            pid = os.pread(self._lock, 100, 0).decode().strip()
            self.release()
            raise WorkspaceError(
                f"the workspace {self.root} is used by another run, process {pid}",
                hint="wait for it, or choose another folder with -w",
            ) from None
        try:
            os.ftruncate(self._lock, 0)
            os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0)
            os.close(self.hold_as_server())  # the server of a killed run may need a moment to end
        except OSError as error:
            self.release()
            raise WorkspaceError(f"the workspace {self.root} cannot be used: {error.strerror}") from None

    def hold_as_server(self) -> int:
        """Wait for the server of an earlier run to end, and lock: the next run waits while this descriptor is open."""
        fd = os.open(self.scratch / SERVER, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        fcntl.flock(fd, fcntl.LOCK_EX)
        return fd

    def release(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def clear(self) -> None:
        """Remove the files that an earlier run made. The user's files stay."""
        if not self._list_of_made.exists():
            return
        self.reopen()
        folders: set[Path] = set()
        whole = {self.root / name for name in self._made if name.endswith("/")}
        for path in sorted(
            self._paths_made(), key=lambda path: path != self.plan
        ):  # the plan first: without it, a run that is only partly removed cannot be resumed
            if path in whole and path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            elif not path.is_dir() or path.is_symlink():
                path.unlink(missing_ok=True)
            folders.update(parent for parent in path.parents if self.root in parent.parents)
        for checkpoint in checkpoints_in(self.checkpoints) if self.checkpoints.is_dir() else ():
            checkpoint.unlink()
        for folder in sorted(folders, key=lambda folder: -len(folder.parts)):
            shutil.rmtree(folder / "__pycache__", ignore_errors=True)  # Python made it from files that fedsag copied
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
        self._list_of_made.unlink(missing_ok=True)
        self._made = set()

    def reopen(self) -> None:
        """Take over the files of an earlier run. Incomplete files are removed."""
        if self._list_of_made.exists():
            self._made = set(self._list_of_made.read_text().split("\0")[:-1])  # each name ends with \0
        self.remove_parts()

    def remove_parts(self) -> None:
        """Remove the incomplete files of processes that were killed."""
        parts = [path for path in self.checkpoints.glob(f"*{_PART}") if _kind_of(path.name.removesuffix(_PART))]
        for part in [*map(_part_of, self._paths_made()), *parts]:
            part.unlink(missing_ok=True)

    def _paths_made(self) -> list[Path]:
        """The files that fedsag made. Paths outside the workspace, as in a damaged list, are left out."""
        paths = [self.root / name for name in sorted(self._made)]
        return [path for path in paths if self.root in path.parents and ".." not in path.parts]

    def claim(self, *paths: Path, folders: Iterable[Path] = ()) -> None:
        """Record that fedsag owns these files, and all files in `folders`. Raises WorkspaceError as `check_free`."""
        whole = list(folders)
        self.check_free(*paths, *whole)
        self.remember(*paths, folders=whole)

    def check_free(self, *paths: Path) -> None:
        """Raises WorkspaceError if a path exists and fedsag did not make it."""
        for path in (path for path in paths if self.root in path.parents):
            name = str(path.relative_to(self.root))
            if self._made.isdisjoint({name, f"{name}/"}) and (path.exists() or path.is_symlink()):
                raise WorkspaceError(
                    f"{path} already exists, and fedsag did not make it",
                    hint="move it, or choose another folder with -w",
                )

    def remember(self, *paths: Path, folders: Iterable[Path] = ()) -> None:
        """Add files, and folders with all their contents, to the list of what fedsag made. Raises OSError."""
        names = {str(path.relative_to(self.root)) for path in paths if self.root in path.parents}
        names |= {f"{path.relative_to(self.root)}/" for path in folders if self.root in path.parents}  # "/": a folder
        new = sorted(names - self._made)
        self._made.update(new)
        with self._list_of_made.open("ab", buffering=0) as file:
            size = file.tell()
            try:
                _write_all(file, "".join(f"{name}\0" for name in new).encode())
            except OSError:
                file.truncate(size)  # an incomplete name could be the name of a user's file
                raise

    def files_of(self, app: Path, name: str) -> list[Path]:
        """The files of SERVER or of a site: its log, and the files that `deploy` copies from its app."""
        return [self.log(name), *(self.app(name) / source.relative_to(app) for source in files_in(app))]

    def forget_missing(self) -> None:
        """After the run: remove files that were not written from the list. Raises OSError."""
        self._made = {name for name in self._made if (self.root / name).exists()}
        names = "".join(f"{name}\0" for name in sorted(self._made))
        write_whole(self._list_of_made, lambda file: file.write(names.encode()))

    def deploy(self, app: Path, name: str) -> None:
        """Copy an app folder into the workspace, for SERVER or a site. Raises WorkspaceError, OSError."""
        pairs = [(source, self.app(name) / source.relative_to(app)) for source in files_in(app)]
        self.claim(*self.files_of(app, name))
        self.app(name).mkdir(parents=True, exist_ok=True)
        for source, target in pairs:
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                shutil.copyfile(source, target)
                target.chmod(source.stat().st_mode & 0o777)  # without set-user-id: another user owns the copy
            except OSError as error:  # shutil names the source even if the target failed
                raise OSError(error.errno, f"{error.strerror}, copied from {source}", str(target)) from None


def _write_all(file: IO[bytes], data: bytes) -> None:
    while data:
        data = data[file.write(data) :]


def files_in(folder: Path) -> Iterator[Path]:
    """Every file in an app folder and its subfolders, sorted by name, without Python's caches."""
    for base, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if name != "__pycache__")
        yield from (Path(base, name) for name in sorted(files))


def checkpoint_name(kind: str, round_num: int) -> str:
    """The name of a checkpoint's file; `kind` is ROUND or BEST."""
    return f"{kind}-{round_num:06d}.safetensors"


def checkpoints_in(folder: Path, *kinds: str) -> list[Path]:
    """The checkpoints of these kinds in a folder; by default of both kinds."""
    return [path for path in folder.iterdir() if _kind_of(path.name) in (kinds or (ROUND, BEST))]


def _kind_of(name: str) -> str | None:
    found = _CHECKPOINT.fullmatch(name)
    return found["kind"] if found else None


def write_json(path: Path, value: msgspec.Struct) -> None:
    """Write `value` as indented JSON, completely or not at all. Raises OSError."""
    text = msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"
    write_whole(path, lambda file: file.write(text))


def write_whole(path: Path, write: Callable[[IO[bytes]], object], *, sync: bool = False, shared: bool = False) -> None:
    """Write a file whole or not at all: a reader finds all that `write` wrote, or what was there before.

    `sync`: this holds after a power cut too. It takes as long as the disk takes, so it is for the models a run is made
    for, not for checkpoints and reports. `shared`: several processes may write one path at a time; one that is killed
    leaves its half written file. Raises OSError naming `path`, and whatever `write` raises; then the file is as it was.
    """
    part = _part_of(path.with_name(f"{path.name}.{os.getpid()}") if shared else path)
    try:
        with part.open("wb") as file:
            write(file)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        part.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            part.unlink()
        if isinstance(error, OSError) and error.errno is not None:
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise


def _part_of(path: Path) -> Path:
    return path.with_name(path.name + _PART)
