"""The workspace, a folder with every file of a run; and `write_whole`, which writes a file completely or not at all.

W/plan.json  events.jsonl  report.json  report.html
W/.fedsag/                                        the lock, and the list of the files that fedsag made
W/server/log.txt
W/server/simulate_job/app_server/                 the server's app, its working directory; models are written here
W/server/simulate_job/checkpoints/                what a resumed run starts from
W/<site>/log.txt
W/<site>/simulate_job/app_<site>/                 a client's app, its working directory
W/worker/simulate_job/app_worker/                 with workers, instead: the app of all clients
W/worker/logs/<site>.txt                          what a worker printed in the tasks of a client
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import IO

import msgspec

from fedsag_cli.errors import WorkspaceError
from fedsag_cli.leftovers import is_leftover
from fedsag_cli.made import Made

SERVER = "server"
WORKER = "worker"  # the place of the app of all worker processes, which are called "worker:1", "worker:2", …
JOB_ID = "simulate_job"  # as in NVFLARE: scripts know it by get_job_id(), configs by {JOB_ID}
_LOGS = "logs"
_CONFIG = "config"  # of each app: a folder that a run deploys, and in which scripts hardly write
ROUND, BEST, STATES = "round", "best", "states"
"""The kinds of checkpoint: of the last round, of the best model so far, and of what sites keep from task to task."""
RECORD = "record.jsonl"  # beside the checkpoints: it proves them, and has what happened in each round
_CHECKPOINT = re.compile(rf"(?P<kind>{ROUND}|{BEST}|{STATES})(-\d+)?-\d{{6,}}\.safetensors")
_PART = ".part"  # the end of the name of an incomplete file
_LARGE = 1 << 20  # bytes; the places of a run share one copy of a file that has as many
_FICLONE = 0x40049409  # of Linux: a file of its own, on the same blocks of the disk until one of the two is written
_LAST_WORK_S = 10.0  # the server of a killed run is killed with it
_LOOK_S = 1.0  # a look at the lock is over at once
_MOVE = "move it, or choose another folder with -w"
_COPY = "copy the job to another place, or choose another folder with -w"


def site_of(process: str) -> str:
    """The site of a process: "site-1" of "site-1", and of "site-1:2", which is its second executor."""
    return process.partition(":")[0]


def log_by_worker(root: Path, site: str) -> Path:
    """With workers: the file for what they print in the tasks of a client, in the workspace at `root`."""
    return root / WORKER / _LOGS / f"{site}.txt"


def by_number(name: str) -> tuple[str, int]:
    """A key that sorts the names of sites: site-2 before site-10."""
    word = name.rstrip("0123456789")
    return word, int(name[len(word) :] or 0)


class Workspace:
    """A folder for one run at a time. A file in it that fedsag did not make is never deleted."""

    def __init__(self, root: Path) -> None:
        """Raises WorkspaceError if the path leads nowhere."""
        try:
            self.root = root.resolve()  # the server gives its paths in this form
        except (RuntimeError, ValueError) as error:  # links in a circle; a null byte
            raise WorkspaceError(f"{root} is not a folder: {error}", hint="choose another folder") from None
        checkpoints = str(self.checkpoints.relative_to(self.root))
        self._made = Made(self.root, self._list_of_made, {checkpoints: _CHECKPOINT.pattern})
        self._first: dict[Path, Path] = {}  # by large file of an app: its first copy of this run
        self._lock = -1
        self.mark = secrets.token_hex(8)  # in the environment of all processes of this run
        self.mark_before = ""  # that of the run before, of which processes may be left

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
    def report_page(self) -> Path:
        return self.root / "report.html"

    @property
    def sweep(self) -> Path:
        """What was asked for, in the folder of a sweep."""
        return self.root / "sweep.json"

    @property
    def has_sweep(self) -> bool:
        """Whether this is the folder of a sweep, which has the workspaces of its runs in it."""
        try:
            is_of_a_run = self.plan.exists() or self.events.exists()
            return self.scratch.is_dir() and self.sweep.is_file() and not is_of_a_run
        except OSError:  # such as a name that is too long: `take` tells why it cannot be used
            return False

    @property
    def scratch(self) -> Path:
        return self.root / ".fedsag"

    def site(self, name: str) -> Path:
        """The folder of SERVER, of a site or of one of its processes."""
        return self.root / site_of(name)

    def job(self, name: str) -> Path:
        return self.site(name) / JOB_ID

    def app(self, name: str) -> Path:
        """The app of SERVER, of a site or of one of its processes: the working directory of that process."""
        return self.job(name) / f"app_{site_of(name)}"

    def log(self, name: str) -> Path:
        """The file for the output of SERVER, of a process of a site or of a worker."""
        site, _, number = name.partition(":")
        if site not in (SERVER, WORKER) and (self.app(WORKER) / _CONFIG).is_dir():  # the run has workers
            return log_by_worker(self.root, site)
        return self._log_beside_app(site) if not number else self.site(site) / f"log_{number}.txt"

    def _log_beside_app(self, name: str) -> Path:
        return self.site(name) / "log.txt"

    @property
    def client_logs(self) -> Path:
        """With workers, the folder of all clients' logs."""
        return self.root / WORKER / _LOGS

    @property
    def checkpoints(self) -> Path:
        return self.job(SERVER) / "checkpoints"

    @property
    def record(self) -> Path:
        return self.checkpoints / RECORD

    @property
    def lock(self) -> Path:
        return self.scratch / "lock"

    @property
    def has_run(self) -> bool:
        """Whether fedsag has used this folder before."""
        return self.scratch.is_dir()

    @property
    def is_in_use(self) -> bool:
        """Whether a run uses this folder now."""
        try:
            with self.lock.open("rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    @property
    def _list_of_made(self) -> Path:
        return self.scratch / "made"

    def needed(self) -> list[Path]:
        """The files that fedsag needs to continue a run, beside its checkpoints."""
        return [self.plan, self._list_of_made]

    def take(self) -> None:
        """Lock the workspace until `release`. Raises WorkspaceError if another run uses it, or it cannot be written."""
        try:
            str(self.root).encode()
        except UnicodeEncodeError:
            raise WorkspaceError("the path of the workspace is not UTF-8: plan.json cannot contain it") from None
        try:
            for path in (self.scratch, self.lock, self.scratch / SERVER, self._list_of_made):
                if path.is_symlink():  # what it leads to is not ours to write
                    raise WorkspaceError(f"{path} is a link", hint=_MOVE)
            self.scratch.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise WorkspaceError(
                f"the workspace {self.root} cannot be used: {error.strerror}: {error.filename}"
            ) from None
        try:
            _lock(self._lock)
        except OSError:
            pid, _ = self._holder()
            self.release()
            raise WorkspaceError(
                f"the workspace {self.root} is used by another run, process {pid}",
                hint="wait for it, or choose another folder with -w",
            ) from None
        try:
            if not self.lock.exists() or not os.path.samestat(os.fstat(self._lock), self.lock.stat()):
                raise OSError(errno.EBUSY, "another run has just moved it aside")
            _, self.mark_before = self._holder()
            os.ftruncate(self._lock, 0)
            os.pwrite(self._lock, f"{os.getpid()}\n{os.fstat(self._lock).st_ino}\n{self.mark}\n".encode(), 0)
            os.close(self.hold_as_server())  # the server of a killed run may need a moment to end
        except OSError as error:
            self.release()
            raise WorkspaceError(f"the workspace {self.root} cannot be used: {error.strerror}") from None

    def hold_as_server(self) -> int:
        """Wait for the server of an earlier run to end, and lock: the next run waits while this process lives.

        A process that the server starts does not have the lock. Raises OSError.
        """
        fd = os.open(self.scratch / SERVER, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        ends = time.monotonic() + _LAST_WORK_S
        while True:
            try:
                fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in (errno.EACCES, errno.EAGAIN) or time.monotonic() > ends:
                    os.close(fd)
                    raise OSError(error.errno, "the server of an earlier run still uses it") from None
                time.sleep(0.02)
            else:
                return fd

    def _holder(self) -> tuple[str, str]:
        """The process that has, or had, the lock, and the mark of its run; no mark in a copy of the workspace."""
        pid, inode, mark, *_ = [*os.pread(self._lock, 100, 0).decode(errors="replace").splitlines(), "", "", ""]
        return pid, mark if inode == str(os.fstat(self._lock).st_ino) else ""

    def __enter__(self) -> Workspace:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def move_to(self, place: Path) -> None:
        """Move the folder with all that is in it, and take a new one where it was. Raises OSError, WorkspaceError.

        `place` does not exist. If the folder cannot be moved, nothing has changed.
        """
        place.parent.mkdir(exist_ok=True)
        before = self.mark_before
        self.root.rename(place)
        moved, self._lock = self._lock, -1  # held until the new folder is taken: nobody resumes the run meanwhile
        try:
            self.take()
        finally:
            os.close(moved)
        self.mark_before = before

    def remove(self) -> bool:
        """Remove what the run made in the folder, which is taken, and the folder. Raises OSError.

        Returns whether it stays, as something else is in it.
        """
        self.clear()
        for path in (self._list_of_made, self.scratch / SERVER, self.lock):
            path.unlink(missing_ok=True)
        for folder in (self.scratch, self.root):
            try:
                folder.rmdir()
            except OSError as error:
                if error.errno != errno.ENOTEMPTY:
                    raise
                return True
        return False

    def reopen(self) -> None:
        """Read the record of earlier runs. Incomplete files are removed. Raises OSError."""
        self._first = {}
        self._made.read()
        self.remove_parts()

    def clear(self, *, replaced: Iterable[Path] = ()) -> None:
        """Remove the files that an earlier run made, and of those in `replaced` what its scripts wrote. Raises OSError.

        The user's files stay.
        """
        self.reopen()
        of_scripts = [path for path in replaced if self._made.is_of_a_script(path) and not self._made.knows(path)]
        self._made.remove(*of_scripts, first=self.plan)  # without a plan, a run that is partly removed is not resumed

    def remove_parts(self) -> None:
        """Remove the incomplete files of processes that were killed. Raises OSError."""
        with contextlib.suppress(FileNotFoundError):
            parts = [path for path in self.checkpoints.iterdir() if path.suffix == _PART and _kind_of(path.stem)]
            self._made.remove_parts([*map(_part_of, self._made.paths()), *parts])

    def place(self, path: Path) -> str:
        """The absolute path of what a component will write. A link of the user's in the workspace is not followed."""
        named = os.path.abspath(path)  # noqa: PTH100  resolve() follows links
        return named if self.root in Path(named).parents else str(path.resolve())

    def claim(self, *paths: Path, folders: Iterable[Path] = ()) -> None:
        """Record that fedsag will write these files, and all files in `folders`. Raises WorkspaceError, OSError."""
        inside, whole = self._inside(paths), self._inside(folders)
        self.check_free(*inside, *whole)
        files = [self._made.will_make(path, grows=path.suffix == ".jsonl") for path in inside]
        self._made.announce([*files, *(self._made.will_fill(folder, ".*") for folder in whole)])
        self._made.make_folders(path.parent for path in [*inside, *whole])

    def check_free(self, *paths: Path, of_scripts: Collection[Path] = ()) -> None:
        """Raises WorkspaceError if a path exists and fedsag did not make it, or it is behind a link.

        `of_scripts`: there, a file that the script of an earlier run wrote may be in the way.
        """
        inside = self._inside(paths)
        for path in {path.parent: path for path in inside}.values():
            if (link := self._made.obstacle(path)) is not None:
                raise WorkspaceError(f"{link} is not a folder, but a link or a file", hint=_MOVE)
        for path in inside:
            for there in () if self._made.owns(path) else (path, _part_of(path)):
                if not os.path.lexists(there) or self._made.is_new(there):  # the server may write at once
                    continue
                if path in of_scripts and self._made.is_of_a_script(there) and not self._made.knows(there):
                    continue
                if self._made.knows(there):
                    raise WorkspaceError(f"{there} has changed since fedsag made it", hint=_MOVE)
                raise WorkspaceError(f"{there} already exists, and fedsag did not make it", hint=_MOVE)

    def _inside(self, paths: Iterable[Path]) -> list[Path]:
        return [path for path in paths if path.is_relative_to(self.root) and path != self.root]

    def check_usable(self, *files: Path) -> None:
        """Raises WorkspaceError, OSError if `take`, or a `claim` of these files, would be refused. Makes nothing."""
        if self.is_in_use:
            raise WorkspaceError(f"the workspace {self.root} is used by another run", hint="wait for it")
        there = next(folder for folder in (self.root, *self.root.parents) if os.path.lexists(folder))
        if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
            reason = "may not be written" if there.is_dir() else "is not a folder"
            raise WorkspaceError(f"the workspace {self.root} cannot be used: {there} {reason}", hint=_MOVE)
        self._made.read()
        self.check_free(*files)

    def check_job(self, job: Path, names: Iterable[str], sources: Iterable[Path]) -> None:
        """Raises WorkspaceError if the job is where this run, or a run before it, has its files."""
        for name in names:
            if job.resolve().is_relative_to(self.root / name):
                raise WorkspaceError(
                    f"the job {job} is in {self.root / name}, where the run writes its own files",
                    hint=_COPY,
                )
        for source in sources:
            real = source.resolve()
            if self.root in real.parents and self._made.knows(real):
                raise WorkspaceError(
                    f"{source} of the job is a file that an earlier run made in this workspace",
                    hint=_COPY,
                )

    def adopt(self, files: Mapping[Path, Path], *, may_link: bool) -> None:
        """Make files of another workspace, the keys, files of this one too: a second name or a copy. Raises OSError."""
        self.claim(*files.values())
        for source, target in files.items():
            if (may_link and _link(source, target)) or _clone(source, target):
                continue
            with source.open("rb") as original:
                write_whole(target, partial(shutil.copyfileobj, original), sync=True)
        self._made.note(files.values())

    def files_of(self, app: Path, name: str) -> list[Path]:
        """The files of SERVER or of a site: its log, the files that `deploy` copies from its app, and checkpoints."""
        copies = [self.app(name) / source.relative_to(app) for source in files_in(app)]
        return [self._log_beside_app(name), *copies, *(self._all_checkpoints() if name == SERVER else ())]

    def settle(self) -> None:
        """After the run: record its files as they are now, and forget those it did not write. Raises OSError."""
        self._made.settle()

    def changes_for_all(self) -> list[str]:
        """After the run: what its scripts did to files that places share. Raises OSError."""
        return [
            f"{paths[0]} was changed in the run, and {len(paths)} places share this file: all of them had the change. "
            "A script should replace a large file, or write a new one"
            for paths in self._made.changed_in_several_places()
        ]

    def restore(self, app: Path, name: str) -> None:
        """Deploy again what is gone or empty, as after a power cut. Raises WorkspaceError if a script was changed."""
        pairs = [(source, self.app(name) / source.relative_to(app)) for source in files_in(app)]
        lost = [target for source, target in pairs if not target.is_file() or _is_emptied(source, target)]
        changed = any(s.suffix == ".py" and t not in lost and s.read_bytes() != t.read_bytes() for s, t in pairs)
        if lost or changed:
            for target in lost:
                target.unlink(missing_ok=True)
            self.deploy(app, name)

    def deploy(self, app: Path, name: str) -> None:
        """Copy an app folder into the workspace, for SERVER or a site. Raises WorkspaceError, OSError."""
        pairs = [(source, self.app(name) / source.relative_to(app)) for source in files_in(app)]
        self.check_free(*self.files_of(app, name))
        copies = [self._made.will_make(target, source=_is_source(target)) for _, target in pairs]
        self._made.announce([self._made.will_make(self._log_beside_app(name), grows=True), *copies])
        own = [self.app(name), *([self.checkpoints] if name == SERVER else ())]
        self._made.make_folders([*own, *(target.parent for _, target in pairs)])
        self._log_beside_app(name).touch(0o644)
        for source, target in pairs:
            target.unlink(missing_ok=True)  # an older copy may have other names, in places of the user's
            try:
                self._copy(source, target)
            except OSError as error:  # shutil names the source even if the target failed
                raise OSError(error.errno, f"{error.strerror}, copied from {source}", str(target)) from None
        self._made.note([self._log_beside_app(name), *(target for _, target in pairs)])

    def _copy(self, source: Path, target: Path) -> None:
        """Copy a file of an app. A large one that is no source may be a link to its first copy, then read-only.

        The user's own file is never linked. Raises OSError.
        """
        found = source.stat()
        mode = found.st_mode & 0o777  # without set-user-id: another user owns the copy
        is_large = found.st_size >= _LARGE and not _is_source(target)
        first = self._first.setdefault(source.resolve(), target) if is_large else target
        if is_large and _clone(source, target):
            target.chmod(mode)
        elif first != target and _link(first, target):
            target.chmod(mode & ~0o222)
        else:
            shutil.copyfile(source, target)
            target.chmod(mode)

    def _all_checkpoints(self) -> list[Path]:
        """All checkpoints there are, or the place of the first."""
        with contextlib.suppress(OSError):
            return checkpoints_in(self.checkpoints)
        return [self.checkpoints / checkpoint_name(ROUND, 0, 0)]


def _lock(fd: int) -> None:
    """Raises OSError if another run has the lock. Who looks at `is_in_use` shares it for a moment."""
    ends = time.monotonic() + _LOOK_S
    while True:
        try:
            return fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            if time.monotonic() > ends:
                raise


def _is_emptied(source: Path, target: Path) -> bool:
    return target.stat().st_size == 0 < source.stat().st_size


def _clone(source: Path, target: Path) -> bool:
    """Whether the file system could make a copy that takes no room until it is written. If not, there is no file."""
    if sys.platform != "linux":
        return False
    with source.open("rb") as original, target.open("xb") as copy, contextlib.suppress(OSError):
        fcntl.ioctl(copy.fileno(), _FICLONE, original.fileno())
        return True
    target.unlink()
    return False


def _link(first: Path, target: Path) -> bool:
    """Whether the file system could give a file a second name."""
    try:
        target.hardlink_to(first)
    except OSError:
        return False
    return True


def _is_source(path: Path) -> bool:
    """Whether only a user would change this file of an app."""
    return path.suffix == ".py" or path.parent.name == _CONFIG


def files_in(folder: Path) -> Iterator[Path]:
    """Every file in an app folder and its subfolders, sorted by name, without leftovers."""
    for base, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not is_leftover(name))
        yield from (Path(base, name) for name in sorted(files) if not is_leftover(name))


def checkpoint_name(kind: str, workflow: int, number: int) -> str:
    """The name of a checkpoint's file, by the number of its round. The first workflow, 0, is not named.

    Files of STATES are numbered through the whole run.
    """
    return f"{kind}-{f'{workflow}-' if workflow else ''}{number:06d}.safetensors"


def checkpoints_in(folder: Path, *kinds: str) -> list[Path]:
    """The checkpoints of these kinds in a folder; by default of all kinds."""
    return [path for path in folder.iterdir() if _kind_of(path.name) in (kinds or (ROUND, BEST, STATES))]


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
    for, not for reports. `shared`: several processes may write one path at a time;
    one that is killed leaves its half written file. Raises OSError naming `path`, and whatever `write` raises; then
    the file is as it was.
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


def wait_for_disk(path: Path) -> None:
    """Return when the disk has this file or, for a folder, its list of names. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _part_of(path: Path) -> Path:
    return path.with_name(path.name + _PART)
