"""The record of what runs made in a folder, and its removal. What is not in the record, or has changed since, stays.

A file is ours if it is the one that was recorded: name, device, inode, size and time of the last change. A run that
was killed could not record all of its files: what came to be at a place it had announced, while it lived, is ours too.
Nothing is reached, and nothing is removed, through a link.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import re
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from itertools import accumulate, groupby
from pathlib import Path, PurePosixPath
from typing import IO

import msgspec

_A_MOMENT_NS = 1_000_000_000  # a process of a run that was killed may end this much later
_FOR_EVER_NS = 1 << 62
_MOST_RUNS = 100  # that are remembered
_NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)  # the last two: a link, or a file, instead of a folder
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Entry(msgspec.Struct, frozen=True, kw_only=True, tag="made", omit_defaults=True):
    """Something that a run made, or announced (then `inode` is 0). `name` is relative; that of a folder ends with "/".

    `device`: 0 is the device of the root. `source`: no run changes this file, so a change is the user's. `grows`: a
    log, of which size and time do not matter. `within`: a pattern; files with such names that come to be in this folder
    during the run are the run's.
    """

    name: str
    inode: int = 0
    device: int = 0
    size: int = 0
    changed_ns: int = 0
    source: bool = False
    grows: bool = False
    within: str = ""

    @property
    def is_folder(self) -> bool:
        return self.name.endswith("/")

    @property
    def path(self) -> PurePosixPath:
        return _path_of(self.name)


class Span(msgspec.Struct, frozen=True, kw_only=True, tag="run", omit_defaults=True):
    """From when to when a run lived, in the time of the file system. `ended_ns` is 0 if it was killed."""

    began_ns: int
    ended_ns: int = 0

    def has(self, found: os.stat_result) -> bool:
        return self.began_ns <= found.st_ctime_ns <= self.ended_ns  # nobody can set st_ctime


class Record(msgspec.Struct, frozen=True, kw_only=True, tag="record"):
    """The record's own inode. If it has another one, the whole folder was copied, and each file has a new inode."""

    inode: int


_Line = Entry | Span | Record
_decoder = msgspec.json.Decoder(_Line)


class Made:
    """What runs made in the folder `root`, written down in `file`."""

    def __init__(self, root: Path, file: Path, filled: Mapping[str, str]) -> None:
        """`filled`: the folders in which each run makes files, with the pattern of their names."""
        self._root, self._file = root, file
        self._filled = [Entry(name=f"{name}/", within=pattern) for name, pattern in filled.items()]
        self._entries: dict[str, Entry] = {}
        self._spans: list[Span] = []
        self._now: Span | None = None  # that of this run
        self._ours: set[str] = set()  # what runs made and nobody has changed, and what this run has announced
        self._is_copy = False

    def owns(self, path: Path) -> bool:
        """Whether a run made what was at `path` when the record was read, or announced it since.

        The server of a resumed run may write at once, so it is too late to look now.
        """
        return not self._ours.isdisjoint({self._name(path), f"{self._name(path)}/"})

    def knows(self, path: Path) -> bool:
        """Whether a run made something at `path`, which may have changed since."""
        return not self._entries.keys().isdisjoint({self._name(path), f"{self._name(path)}/"})

    def is_of_a_script(self, path: Path) -> bool:
        """Whether this file came to be during a run, and nobody has changed it since."""
        found = self._stat(path)
        return found is not None and not stat.S_ISDIR(found.st_mode) and self._came_to_be_in_a_run(found)

    def is_new(self, path: Path) -> bool:
        """Whether what is at `path` came to be in this run."""
        found = self._stat(path)
        return found is not None and self._now is not None and self._now.has(found)

    def obstacle(self, path: Path) -> Path | None:
        """The first link or file on the way from the root to `path`, where a folder should be."""
        for parent in self._on_the_way(path.parent):
            with contextlib.suppress(OSError):
                if not stat.S_ISDIR(parent.lstat().st_mode):
                    return parent
        return None

    def paths(self) -> list[Path]:
        """The files that runs made or announced."""
        return [self._root / entry.name for entry in self._entries.values() if not entry.is_folder]

    def changed_in_several_places(self) -> list[list[Path]]:
        """The files with several names in the record that have changed since, each by its names. Raises OSError."""
        files = [entry for entry in self._entries.values() if entry.inode and not (entry.is_folder or entry.grows)]
        num_names = Counter((entry.device, entry.inode) for entry in files)
        several = [entry for entry in files if num_names[entry.device, entry.inode] > 1]
        changed: dict[tuple[int, int], list[Path]] = {}
        for entry, found in self._found(several):
            is_same = (entry.inode, entry.device) == (found.st_ino, self._device(found))
            if is_same and (entry.size, entry.changed_ns) != (found.st_size, found.st_mtime_ns):
                changed.setdefault((entry.device, entry.inode), []).append(self._root / entry.name)
        return [paths for paths in changed.values() if len(paths) > 1]

    # writing down

    def read(self) -> None:
        """Read the record of earlier runs, and complete that of a run that was killed. Raises OSError."""
        self._entries, self._spans, self._now, self._ours, self._is_copy = {}, [], None, set(), False
        try:
            with self._file.open("rb") as file:
                text, record = file.read(), os.fstat(file.fileno())
        except FileNotFoundError:
            return
        for line in _of_older_version(text) if b"\0" in text else _of_lines(text):
            match line:
                case Entry() if _is_inside(line.path):
                    self._entries[line.name] = line
                case Span():
                    self._spans.append(line)
                case Record():
                    self._is_copy = line.inode != record.st_ino
        self._know_what_is_filled()
        was_killed = bool(self._spans) and not self._spans[-1].ended_ns
        if was_killed:
            logs = self._found(entry for entry in self._entries.values() if entry.grows)
            last = max([record.st_mtime_ns, *(found.st_mtime_ns for _, found in logs)])
            self._spans[-1] = msgspec.structs.replace(self._spans[-1], ended_ns=last + _A_MOMENT_NS)
            self._look(self._spans[-1])
        if self._is_copy:
            found = list(self._found(self._entries.values()))
            self._entries |= {e.name: self._as_found(e, now) for e, now in found if self._is_ours(e, now)}
        if was_killed or self._is_copy:
            self._is_copy = False
            self._write()
        found = list(self._found(self._entries.values()))
        gone = self._entries.keys() - {entry.name for entry, _ in found}  # what comes there now, this run writes
        self._ours = gone | {entry.name for entry, now in found if self._is_ours(entry, now)}

    def announce(self, entries: Iterable[Entry]) -> None:
        """Record what this run will make. Raises OSError."""
        new = list(entries)
        known = [self._entries.get(entry.name, entry) for entry in new]
        self._append(
            msgspec.structs.replace(before, source=entry.source, grows=entry.grows, within=entry.within)
            for entry, before in zip(new, known, strict=True)
        )
        self._ours.update(entry.name for entry in new)

    def will_make(self, path: Path, *, source: bool = False, grows: bool = False) -> Entry:
        return Entry(name=self._name(path), source=source, grows=grows)

    def will_fill(self, folder: Path, within: str) -> Entry:
        return Entry(name=f"{self._name(folder)}/", within=within)

    def note(self, paths: Iterable[Path]) -> None:
        """Record these files as they are now. Raises OSError."""
        self._append(self._as_found(self._entries[self._name(path)], path.lstat()) for path in paths)

    def make_folders(self, folders: Iterable[Path]) -> None:
        """Make folders and those above them, and record which of them are new. Raises OSError."""
        wanted = {each for folder in set(folders) for each in self._on_the_way(folder)}
        new = []
        for folder in sorted(wanted):
            with contextlib.suppress(FileExistsError):
                folder.mkdir()
                new.append(self._as_found(Entry(name=f"{self._name(folder)}/"), folder.lstat()))
        self._append(new)

    def settle(self) -> None:
        """At the end of a run: record its files as they are now, and forget those it did not make. Raises OSError."""
        if self._now is not None:
            self._know_what_is_filled()
            self._look(self._now)
        self._entries = {entry.name: entry for entry, _ in self._found(self._entries.values()) if entry.inode}
        self._write()

    # removing

    def remove(self, *of_scripts: Path, first: Path) -> None:
        """Remove what runs made, `first` before all else; and files that their scripts made. Raises OSError.

        A folder stays if something else is in it.
        """
        files = [entry for entry in self._entries.values() if not entry.is_folder]
        for group in ([entry for entry in files if entry.name == self._name(first)], files):
            self._remove_files(group, self._is_ours)
        self._remove_files(map(self._entry, of_scripts), lambda _, found: self._came_to_be_in_a_run(found))
        self._remove_caches(files)
        folders = [entry for entry in self._entries.values() if entry.is_folder]
        folders.sort(key=lambda entry: -len(entry.path.parts))
        self._entries = {entry.name: entry for entry in folders if self._stays(entry)}
        self._ours = set(self._entries)
        self._write()

    def remove_parts(self, parts: Iterable[Path]) -> None:
        """Remove incomplete files: only those that came to be since the last run began. Raises OSError."""
        last = self._now or (self._spans[-1] if self._spans else Span(began_ns=_FOR_EVER_NS))
        self._remove_files(map(self._entry, parts), lambda _, found: found.st_ctime_ns >= last.began_ns)

    def _remove_files(self, entries: Iterable[Entry], is_ours: Callable[[Entry, os.stat_result], bool]) -> None:
        for entry, found, folder in self._found_with_folder(entries):
            if not stat.S_ISDIR(found.st_mode) and is_ours(entry, found):
                os.unlink(entry.path.name, dir_fd=folder)

    def _remove_caches(self, removed: Iterable[Entry]) -> None:
        """Remove what Python made of modules of ours."""
        modules: dict[PurePosixPath, set[str]] = {}
        for entry in removed:
            if entry.path.suffix == ".py":
                modules.setdefault(entry.path.parent, set()).add(entry.path.stem)
        for parent, stems in modules.items():
            with _suppressed(*_NOT_THERE, errno.ENOTEMPTY), self._opened(parent) as folder:
                with self._opened(parent / "__pycache__") as cache:
                    for name in os.listdir(cache):  # noqa: PTH208  a descriptor
                        if name.endswith(".pyc") and name.partition(".")[0] in stems:
                            os.unlink(name, dir_fd=cache)
                os.rmdir("__pycache__", dir_fd=folder)

    def _stays(self, entry: Entry) -> bool:
        """Remove a folder of ours; whether it stays, because something is in it."""
        for _, found, parent in self._found_with_folder([entry]):
            if self._is_ours(entry, found):
                try:
                    os.rmdir(entry.path.name, dir_fd=parent)
                except OSError as error:
                    if error.errno != errno.ENOTEMPTY:
                        raise
                    return True
        return False

    # looking

    def _know_what_is_filled(self) -> None:
        known = {entry.name: self._entries.get(entry.name, entry) for entry in self._filled}
        self._entries |= {e.name: msgspec.structs.replace(known[e.name], within=e.within) for e in self._filled}

    def _look(self, span: Span) -> None:
        """Record what a run made, as it is now."""
        for folder in [entry for entry in self._entries.values() if entry.within]:
            for entry in self._new_in(folder, span):
                self._entries.setdefault(entry.name, entry)
        for entry, found in list(self._found(self._entries.values())):
            is_known = entry.inode and (entry.source or entry.is_folder)
            if not is_known and self._came_to_be_in(span, found) and stat.S_ISDIR(found.st_mode) == entry.is_folder:
                self._entries[entry.name] = self._as_found(entry, found)

    def _new_in(self, folder: Entry, span: Span) -> Iterator[Entry]:
        """The files that came to be in a folder, and the folders that they are in."""
        with _suppressed(*_NOT_THERE), self._opened(folder.path) as opened:
            for base, folders, files, fd in os.fwalk(".", dir_fd=opened):
                names = [name for name in [*folders, *files] if re.fullmatch(folder.within, name)]
                for name, found in _stats(names, fd):
                    if not stat.S_ISDIR(found.st_mode) and self._came_to_be_in(span, found):
                        yield self._as_found(Entry(name=str(folder.path / base / name)), found)
                        yield from self._folders_of(folder, folder.path / base)

    def _folders_of(self, top: Entry, path: PurePosixPath) -> Iterator[Entry]:
        names = [f"{each}/" for each in (path, *path.parents) if each.is_relative_to(top.path)]
        new = [Entry(name=name) for name in names if not self._entries.get(name, top).inode]
        for entry, found in self._found(new):
            yield self._as_found(self._entries.get(entry.name, entry), found)

    def _is_ours(self, entry: Entry, found: os.stat_result) -> bool:
        """Whether what was found is what was recorded."""
        if not entry.inode or stat.S_ISDIR(found.st_mode) != entry.is_folder:
            return False
        if self._is_copy:  # it may have been made without the times
            return entry.is_folder or entry.grows or entry.size == found.st_size
        is_unchanged = (entry.size, entry.changed_ns) == (found.st_size, found.st_mtime_ns)
        is_same = (entry.inode, entry.device) == (found.st_ino, self._device(found))
        return is_same and (entry.is_folder or entry.grows or is_unchanged)

    def _came_to_be_in(self, span: Span, found: os.stat_result) -> bool:
        if self._is_copy:  # each file came to be when it was copied; but `cp -a`, and `mv` to another disk, keep this
            return span.began_ns <= found.st_mtime_ns <= span.ended_ns
        return span.has(found)

    def _came_to_be_in_a_run(self, found: os.stat_result) -> bool:
        return any(span.has(found) for span in (*self._spans, *([self._now] if self._now else [])))

    def _as_found(self, entry: Entry, found: os.stat_result) -> Entry:
        return msgspec.structs.replace(
            entry,
            inode=found.st_ino,
            device=self._device(found),
            size=0 if entry.is_folder else found.st_size,
            changed_ns=0 if entry.is_folder else found.st_mtime_ns,
        )

    def _device(self, found: os.stat_result) -> int:
        return 0 if found.st_dev == self._root_device else found.st_dev

    @cached_property
    def _root_device(self) -> int:
        return self._root.stat().st_dev

    def _name(self, path: Path) -> str:
        return str(path.relative_to(self._root))

    def _on_the_way(self, path: Path) -> Iterator[Path]:
        """The folders below the root that lead to `path`, and `path` itself."""
        names = accumulate(path.relative_to(self._root).parts, "{}/{}".format)
        return (self._root / name for name in names)

    def _entry(self, path: Path) -> Entry:
        return Entry(name=self._name(path))

    def _stat(self, path: Path) -> os.stat_result | None:
        return next((found for _, found in self._found([self._entry(path)])), None)

    def _found(self, entries: Iterable[Entry]) -> Iterator[tuple[Entry, os.stat_result]]:
        return ((entry, found) for entry, found, _ in self._found_with_folder(entries))

    def _found_with_folder(self, entries: Iterable[Entry]) -> Iterator[tuple[Entry, os.stat_result, int]]:
        """The entries that exist, what is there, and the descriptor of the folder that it is in."""
        by_folder = sorted(entries, key=lambda entry: entry.path.parent.parts)
        for parent, group in groupby(by_folder, key=lambda entry: entry.path.parent):
            with _suppressed(*_NOT_THERE), self._opened(parent) as folder:
                names = {entry.path.name: entry for entry in group}
                for name, found in _stats(names, folder):
                    yield names[name], found, folder

    @contextlib.contextmanager
    def _opened(self, folder: PurePosixPath) -> Iterator[int]:
        """The descriptor of a folder. Raises OSError, also if a part of its path is a link."""
        fd = os.open(self._root, _FOLDER)
        try:
            for part in folder.parts:
                below = os.open(part, _FOLDER, dir_fd=fd)
                os.close(fd)
                fd = below
            yield fd
        finally:
            os.close(fd)

    # the file

    def _append(self, entries: Iterable[Entry]) -> None:
        new = [entry for entry in entries if self._entries.get(entry.name) != entry]
        if not new and self._now is not None:
            return
        with _naming(self._file), self._file.open("ab", buffering=0) as file:
            before = os.fstat(file.fileno())
            lines: list[_Line] = [] if before.st_size else [Record(inode=before.st_ino)]
            span = self._now
            if span is None:
                os.utime(file.fileno())
                span = Span(began_ns=os.fstat(file.fileno()).st_mtime_ns, ended_ns=_FOR_EVER_NS)
                lines.append(Span(began_ns=span.began_ns))
            try:
                _write_all(file, b"".join(map(_to_line, [*lines, *new])))
            except OSError:
                with contextlib.suppress(OSError):
                    file.truncate(before.st_size)
                raise
        self._now = span
        self._entries.update({entry.name: entry for entry in new})

    def _write(self) -> None:
        """Write the record anew: every run in it has ended, and is not this one."""
        if self._now is not None:
            self._spans.append(self._now)
        part = self._file.with_name(f"{self._file.name}.part")
        try:
            with _naming(self._file), part.open("wb", buffering=0) as file:
                record = os.fstat(file.fileno())
                spans = [
                    span if span.ended_ns < _FOR_EVER_NS else msgspec.structs.replace(span, ended_ns=record.st_mtime_ns)
                    for span in self._spans[-_MOST_RUNS:]
                ]
                lines: list[_Line] = [Record(inode=record.st_ino), *spans, *self._entries.values()]
                _write_all(file, b"".join(map(_to_line, lines)))
            part.replace(self._file)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        self._spans, self._now = spans, None


@functools.lru_cache(maxsize=4096)
def _path_of(name: str) -> PurePosixPath:
    return PurePosixPath(name)


def _to_line(line: _Line) -> bytes:
    return msgspec.json.encode(line) + b"\n"


def _of_lines(text: bytes) -> Iterator[_Line]:
    for line in text.split(b"\n")[:-1]:
        with contextlib.suppress(msgspec.DecodeError):  # a line that was not written completely
            yield _decoder.decode(line)


def _of_older_version(text: bytes) -> Iterator[_Line]:
    """The record of a version that wrote names only."""
    yield Span(began_ns=0)
    for name in text.decode(errors="replace").split("\0")[:-1]:
        is_log = name == "events.jsonl" or name.endswith("/log.txt")
        yield Entry(name=name, grows=is_log, within=".*" if name.endswith("/") else "")
        yield from (Entry(name=f"{parent}/") for parent in list(PurePosixPath(name).parents)[:-1])


def _is_inside(path: PurePosixPath) -> bool:
    """Whether a path of a record, which may be damaged, is inside the folder."""
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts


def _stats(names: Iterable[str], folder: int) -> Iterator[tuple[str, os.stat_result]]:
    for name in names:
        with contextlib.suppress(FileNotFoundError, UnicodeEncodeError):
            name.encode()
            yield name, os.stat(name, dir_fd=folder, follow_symlinks=False)


def _write_all(file: IO[bytes], data: bytes) -> None:
    while data:
        data = data[file.write(data) :]


@contextlib.contextmanager
def _suppressed(*numbers: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in numbers:
            raise


@contextlib.contextmanager
def _naming(file: Path) -> Iterator[None]:
    """An error says which file could not be written."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(file)) from None
