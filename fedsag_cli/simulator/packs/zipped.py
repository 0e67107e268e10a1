"""The file of a pack, a zip: written so that the same contents give the same bytes, and read as a stranger's file."""

from __future__ import annotations

import hashlib
import re
import stat
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

import msgspec

from fedsag_cli.errors import UsageError, counted
from fedsag_cli.simulator.packs import FORMAT, PACK, Pack

MOST_FILES, MOST_BYTES = 100_000, 1 << 32
"""The limits of a pack: the number of its files, and their sizes together."""

_MOST_OF_PACK = 1 << 26  # bytes of pack.json
_PIECE = 1 << 20
_TIME = (1980, 1, 1, 0, 0, 0)  # the first that a zip can hold
_PLAIN, _PROGRAM, _FOLDER = 0o100644, 0o100755, 0o040755
_NAME = re.compile(r"[^\\\0]+")
_FAULTS = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, UnicodeError, ValueError)


class Writer:
    """A zip that is being written. `files`: the SHA-256 of each file so far; `sizes` in bytes."""

    def __init__(self, file: IO[bytes]) -> None:
        self._zip = zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED)
        self.files: dict[str, str] = {}
        self.sizes: dict[str, int] = {}
        self._size = 0

    def add(self, name: str, pieces: Iterable[bytes], *, is_program: bool = False) -> None:
        """Raises OSError, and UsageError where the pack would have too many files, or too large ones."""
        info = _entry(name, _PROGRAM if is_program else _PLAIN)
        info.compress_type = zipfile.ZIP_DEFLATED
        digest, size = hashlib.sha256(), 0
        with self._zip.open(info, "w", force_zip64=True) as entry:
            for piece in pieces:
                entry.write(piece)
                digest.update(piece)
                size += len(piece)
                self._size += len(piece)
                if self._size > MOST_BYTES:
                    raise UsageError(
                        f"the files of the pack are larger than {MOST_BYTES >> 30} GiB together, with {name}",
                        hint="keep data outside the job: a script can read them by their path",
                    )
        self.files[name], self.sizes[name] = digest.hexdigest(), size
        if len(self.files) > MOST_FILES:
            raise UsageError(f"the job has more than {MOST_FILES:,} files", hint="keep data outside the job")

    def add_folder(self, name: str) -> None:
        """An entry for a folder, for programs that look for one. Raises OSError."""
        self._zip.writestr(_entry(f"{name}/", _FOLDER), b"")

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, failed: object, *_: object) -> None:
        """Raises OSError, unless something else failed before."""
        try:
            self._zip.close()
        except OSError:
            if failed is None:
                raise


def _entry(name: str, mode: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, _TIME)
    info.create_system = 3  # the modes are those of Unix, on whatever system this is written
    info.external_attr = mode << 16
    return info


def pieces_of(path: Path) -> Iterator[bytes]:
    """The bytes of a file. Raises OSError."""
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            yield piece


def is_pack(path: Path) -> bool:
    """Whether the file is a zip with a pack.json."""
    try:
        with zipfile.ZipFile(path) as found:
            return PACK in found.namelist()
    except (OSError, *_FAULTS):
        return False


def unpack(path: Path, folder: Path) -> Pack:
    """Write the files of the pack into the folder, which does not exist, and return what its pack.json says.

    Raises UsageError if it is no pack, is broken, is of a newer version, or has other files than it says; then none of
    its files has been run.
    """
    try:
        with zipfile.ZipFile(path) as opened:
            entries = _entries(path, opened)
            pack = _read(path, opened, entries)
            _check_names(path, entries, pack)
            for name, info in entries.items():
                if name != PACK:
                    _write(path, opened, info, folder / name, pack.files[name])
    except _FAULTS as fault:
        raise UsageError(
            f"{path} is not a pack, or it is broken: {fault}", hint="`fedsag runs pack RUN` writes packs"
        ) from None
    except OSError as fault:
        raise UsageError(f"{fault.filename or path}: {fault.strerror or fault}") from None
    return pack


def _entries(path: Path, opened: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """The files by name. Raises UsageError for what no pack has: links, names that lead elsewhere."""
    found: dict[str, zipfile.ZipInfo] = {}
    for info in opened.infolist():
        parts = info.filename.removesuffix("/").split("/")
        kind = stat.S_IFMT(info.external_attr >> 16)
        wrong = (
            "leads out of the folder"
            if info.orig_filename != info.filename
            or not _NAME.fullmatch(info.filename)
            or not {"", ".", ".."}.isdisjoint(parts)
            else "is twice in it"
            if info.filename in found
            else "is not a regular file"
            if kind not in (0, stat.S_IFDIR if info.is_dir() else stat.S_IFREG) or (info.is_dir() and info.file_size)
            else "is encrypted"
            if info.flag_bits & 0x1
            else ""
        )
        if wrong:
            raise UsageError(f"{path} is not a pack of fedsag: {info.filename!r} {wrong}")
        if not info.is_dir():
            found[info.filename] = info
    size = sum(info.file_size for info in found.values())
    if len(found) > MOST_FILES + 1 or size > MOST_BYTES + _MOST_OF_PACK:
        raise UsageError(
            f"{path} is too large: {counted(len(found), 'file')}, {size / 1e9:.1f} GB",
            hint=f"a pack has at most {MOST_FILES:,} files and {MOST_BYTES >> 30} GiB",
        )
    return found


class _Format(msgspec.Struct):
    format: int


def _read(path: Path, opened: zipfile.ZipFile, entries: dict[str, zipfile.ZipInfo]) -> Pack:
    if PACK not in entries:
        raise UsageError(f"{path} is not a pack: it has no {PACK}", hint="`fedsag runs pack RUN` writes packs")
    if entries[PACK].file_size > _MOST_OF_PACK:
        raise UsageError(f"{path} is not a pack of fedsag: its {PACK} is too large")
    text = opened.read(entries[PACK])
    try:
        if (number := msgspec.json.decode(text, type=_Format).format) > FORMAT:
            raise UsageError(
                f"{path} is a pack of a newer version of fedsag: its format is {number}, this version reads {FORMAT}",
                hint="verify it with a newer version of fedsag",
            )
        return msgspec.json.decode(text, type=Pack)
    except msgspec.DecodeError as fault:
        raise UsageError(f"{path}: {PACK} is not what fedsag wrote: {fault}") from None


def _check_names(path: Path, entries: dict[str, zipfile.ZipInfo], pack: Pack) -> None:
    for name in sorted({*entries, *pack.files}):
        if name not in entries:
            raise UsageError(f"{path} is not what fedsag wrote: {name} is missing")
        if name != PACK and name not in pack.files:
            raise UsageError(f"{path} is not what fedsag wrote: {PACK} does not name {name}")


def _write(path: Path, opened: zipfile.ZipFile, info: zipfile.ZipInfo, target: Path, sha256: str) -> None:
    """Raises UsageError if the file is not the one that was packed. No more is written than its entry says."""
    target.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with opened.open(info) as entry, target.open("xb") as file:
        while piece := entry.read(_PIECE):
            digest.update(piece)
            file.write(piece)
    if digest.hexdigest() != sha256:
        raise UsageError(f"{path}: {info.filename} has changed since it was packed")
    if info.external_attr >> 16 & 0o100:
        target.chmod(0o755)
