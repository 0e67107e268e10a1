"""Writes parameters to a tensor file and reads them: with their order, ties and dtypes, without pickle.

A file that is sent has no name. It is a memfd, sealed after writing, so nobody can change it while it is read. If
memory is short, it is an unlinked temporary file; a reader that does not trust the sender copies it. In both cases only
the descriptor exists, so no file remains, even if a process is killed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import mmap
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fedsag_cli import machine
from fedsag_cli.errors import TensorError
from fedsag_cli.model import Params, Tree
from fedsag_cli.params import layout
from fedsag_cli.params.encoding import flat, flattened, viewed
from fedsag_cli.params.layout import RESERVED, Entry, Extra, Flat, read_header, shown
from fedsag_cli.params.trees import put_together, taken_apart
from fedsag_cli.workspace import write_whole

_PIECE = 1 << 20
_SEALS = ("F_SEAL_SEAL", "F_SEAL_SHRINK", "F_SEAL_GROW", "F_SEAL_WRITE")


class TensorFile:
    """A tensor file, by its descriptor. Close it after use; params from `load` stay valid."""

    def __init__(self, fd: int, *, trusted: bool = False) -> None:
        """Takes over `fd`. Raises TensorError if another process could change the file, or it has holes.

        `trusted`: nobody changes the file, so `load` maps it even if it is not sealed. Otherwise an unsealed file is
        copied.
        """
        self._fd = fd
        self._header: tuple[dict[str, Entry], Extra, int] | None = None
        try:
            self.size = os.fstat(fd).st_size
            self._is_fixed = trusted or _is_sealed(fd)
            if not trusted:
                _check(fd)
        except BaseException:
            self.close()
            raise

    @classmethod
    def write(
        cls, params: Mapping[str, Any], *, trees: Mapping[str, Tree] | None = None, scratch: str | Path | None = None
    ) -> TensorFile:
        """A new file with `params`, and with `trees` by name. Raises TensorError naming what cannot be sent, OSError.

        `scratch`: the folder for an unlinked file, which is used if memory is short.
        """
        flats = _flats(params, trees or {})
        size = sum(len(flat.data) for flat in flats.values())
        fd = _new_file(size, scratch)
        try:
            try:
                layout.write(fd, flats)
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.ENOMEM) or scratch is None:
                    raise
                os.close(fd)
                fd = _new_file_on_disk(scratch)
                layout.write(fd, flats)
            _seal(fd)
        except BaseException:
            os.close(fd)
            raise
        return cls(fd, trusted=True)

    @classmethod
    def open(cls, path: Path) -> TensorFile:
        """Open a file with a name, such as a checkpoint. Raises OSError."""
        return cls(os.open(path, os.O_RDONLY | os.O_CLOEXEC), trusted=True)

    def fileno(self) -> int:
        return self._fd

    @property
    def is_fixed(self) -> bool:
        """Whether nobody can change it any more."""
        return self._is_fixed

    def is_same_as(self, other: TensorFile) -> bool:
        """Whether it has the same bytes. Raises OSError."""
        if self.size != other.size:
            return False
        places = range(0, self.size, _PIECE)
        return all(os.pread(self._fd, _PIECE, place) == os.pread(other._fd, _PIECE, place) for place in places)

    @property
    def entries(self) -> Mapping[str, Entry]:
        """Every key of the params in order, tied ones too, with dtype and shape. Raises TensorError if the file is
        damaged."""
        entries, extra, _ = self._read_header()
        return {name: entries[extra.ties.get(name, name)] for name in _keys_in(extra)}

    @property
    def trees(self) -> list[str]:
        """The names of the trees. Raises TensorError if the file is damaged."""
        _, extra, _ = self._read_header()
        return [name[1:] for name in extra.order if name.startswith(RESERVED) and RESERVED not in name[1:]]

    @property
    def places(self) -> Mapping[str, tuple[int, int]]:
        """The first byte of each of the params in the file, and its size. Raises TensorError if the file is damaged."""
        _, _, start = self._read_header()
        offsets = {name: entry.data_offsets for name, entry in self.entries.items()}
        return {name: (start + first, last - first) for name, (first, last) in offsets.items()}

    def contents(self) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """All bytes of the file, mapped as params are. Raises TensorError if the file became shorter."""
        return np.frombuffer(self._memory(), np.uint8)

    def part(self, first: int, size: int, scratch: str | Path) -> TensorFile:
        """The tensor file that lies within this one, as a new file. Raises TensorError if it is not whole, OSError."""
        fd = _new_file(size, scratch)
        try:
            if _copy(self._fd, first, size, fd) < size:
                raise TensorError(f"not a tensor file: it is shorter than {first + size} bytes")
            _seal(fd)
        except BaseException:
            os.close(fd)
            raise
        return TensorFile(fd, trusted=True)

    def append_to(self, fd: int) -> bool:
        """Write all bytes at the current position of `fd`; False if this file became shorter. Raises OSError."""
        return _copy(self._fd, 0, self.size, fd) == self.size

    def load(self) -> Params:
        """The params, mapped copy-on-write: changing them does not change the file.

        A file that its sender could still change is copied. Raises TensorError if the file is damaged.
        """
        _, extra, _ = self._read_header()
        names = _keys_in(extra)
        if not names:
            return {}
        value_of = self._values()
        return {name: value_of(name) for name in names}

    def pieces(self) -> Iterator[tuple[str, str, memoryview]]:
        """Each of the params in order: its name, its kind, dtype and shape in one text, and its bytes in the file.

        Raises TensorError if the file is damaged.
        """
        entries, extra, start = self._read_header()
        names = _keys_in(extra)
        memory = memoryview(self._memory()) if names else memoryview(b"")
        for name in names:
            entry = entries[extra.ties.get(name, name)]
            first, last = entry.data_offsets
            kind = extra.kinds.get(name, "torch")
            yield name, f"{kind} {entry.dtype} {entry.shape}", memory[start + first : start + last]

    def tree(self, name: str) -> Tree:
        """The tree of this name, mapped as params are. Raises TensorError if there is none, or the file is damaged."""
        if name not in self.trees:
            raise TensorError(f"not a tensor file: it has no tree {name!r}")
        value_of = self._values()
        skeleton = value_of(RESERVED + name)
        if not isinstance(skeleton, bytes):
            raise TensorError(f"not a tensor file: the tree {shown(name)} has no skeleton")
        return put_together(skeleton, lambda number: value_of(_leaf_name(name, number)))

    def twin(self) -> TensorFile:
        """The same file, with a second descriptor."""
        return TensorFile(os.dup(self._fd), trusted=self._is_fixed)

    def on_disk(self, scratch: str | Path, *, stop: Callable[[], bool] = lambda: False) -> TensorFile | None:
        """A copy in an unlinked file in the folder `scratch`. Raises OSError.

        None if `stop` returned True before the copy was complete, or if this file became shorter.
        """
        fd = _new_file_on_disk(scratch)
        try:
            if _copy(self._fd, 0, self.size, fd, stop) == self.size:
                return TensorFile(os.dup(fd), trusted=True)
        finally:
            os.close(fd)
        return None

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> TensorFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read_header(self) -> tuple[dict[str, Entry], Extra, int]:
        if self._header is None:
            with _as_tensor_error():
                self._header = read_header(self._fd, self.size)
        return self._header

    def _values(self) -> Callable[[str], Any]:
        """Gives values by their names, from one mapping of the file. Tied ones are one object."""
        entries, extra, start = self._read_header()
        memory = self._memory()
        found: dict[str, Any] = {}

        def value_of(name: str) -> Any:
            source = extra.ties.get(name, name)
            if source not in entries:
                raise TensorError(f"not a tensor file: it has no {shown(name)}")
            if source not in found:
                found[source] = viewed(source, memory, start, entries[source], extra.kinds.get(name, "torch"))
            return found[source]

        return value_of

    def _memory(self) -> mmap.mmap:
        with _as_tensor_error():
            if self._is_fixed:
                return mmap.mmap(self._fd, self.size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
            memory = mmap.mmap(-1, self.size, flags=mmap.MAP_PRIVATE)
            while missing := self.size - memory.tell():
                piece = os.pread(self._fd, min(_PIECE, missing), memory.tell())
                if not piece:
                    raise TensorError(
                        f"not a tensor file: it was {self.size} bytes long, and {missing} of them are missing"
                    )
                memory.write(piece)
        return memory


def save(path: Path, params: Mapping[str, Any], trees: Mapping[str, Tree] | None = None) -> None:
    """Write `params` and `trees` to a file with a name, completely or not at all. Raises OSError, TensorError."""
    flats = _flats(params, trees or {})
    write_whole(path, lambda file: layout.write(file.fileno(), flats))


def copied(data: memoryview, scratch: str | Path | None = None) -> int:
    """The descriptor of a new file with these bytes of a tensor file, which nobody can change. Raises OSError."""
    fd = _new_file(len(data), scratch)
    try:
        written = 0
        while written < len(data):
            written += os.write(fd, data[written:])
        _seal(fd)
    except BaseException:
        os.close(fd)
        raise
    return fd


def same_bits(params: Mapping[str, Any], others: Mapping[str, Any]) -> bool:
    """Whether these have the same names, dtypes, shapes and bytes. Raises TensorError."""
    return list(params) == list(others) and all(
        _are_same(flattened(name, value), flattened(name, others[name])) for name, value in params.items()
    )


def _are_same(one: Flat, other: Flat) -> bool:
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    pieces = (slice(first, first + _PIECE) for first in range(0, one.data.nbytes, _PIECE))
    return all(
        np.array_equal(np.frombuffer(one.data[piece], np.uint8), np.frombuffer(other.data[piece], np.uint8))
        for piece in pieces
    )


def digest(params: Mapping[str, Any]) -> str:
    """The SHA-256 of names, dtypes, shapes and bytes, in the order of the keys. Raises TensorError."""
    sha = hashlib.sha256()
    for name, value in params.items():
        flat = flattened(name, value)
        sha.update(f"{name}\0{flat.dtype}\0{flat.shape}\0".encode())
        sha.update(flat.data)
    return sha.hexdigest()


def _flats(params: Mapping[str, Any], trees: Mapping[str, Tree]) -> dict[str, Flat]:
    flats = {name: flattened(name, value) for name, value in params.items()}
    for name, tree in trees.items():
        skeleton, leaves = taken_apart(tree, name)
        flats[RESERVED + name] = flat(name, skeleton)
        flats |= {_leaf_name(name, number): leaf for number, leaf in enumerate(leaves)}
    return flats


def _leaf_name(tree: str, number: int) -> str:
    return f"{RESERVED}{tree}{RESERVED}{number}"


def _keys_in(extra: Extra) -> list[str]:
    return [name for name in extra.order if not name.startswith(RESERVED)]


@contextlib.contextmanager
def _as_tensor_error() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise TensorError(f"not a tensor file: it cannot be read: {error.strerror}") from None


def _check(fd: int) -> None:
    """Raises TensorError if an untrusted file is not of the kind that `TensorFile.write` makes."""
    status, seals = os.fstat(fd), _seals(fd)
    could_be_sealed = seals == 0  # a memfd without seals; a file on a disk cannot have seals
    if not _is_sealed(fd) and (status.st_nlink > 0 or could_be_sealed):
        raise TensorError("a tensor file must be sealed, or have no name: others could change it")
    if seals > 0 and status.st_blocks * 512 < status.st_size:
        raise TensorError("not a tensor file: it has holes, and reading them would take memory")
    if not _is_sealed(fd) and 0 < machine.free_memory() < status.st_size:
        raise TensorError(f"a tensor file of {status.st_size} bytes does not fit into memory")


def _copy(source: int, first: int, size: int, target: int, stop: Callable[[], bool] = lambda: False) -> int:
    """Copy `size` bytes from the byte `first` on; how many it was until the end or `stop`. Raises OSError."""
    copied = 0
    while copied < size and not stop():
        piece = os.pread(source, min(_PIECE, size - copied), first + copied)
        if not piece:
            break
        copied += os.write(target, piece)
    return copied


def _new_file(size: int, scratch: str | Path | None) -> int:
    large = size > 64 << 20
    if not hasattr(os, "memfd_create") or (scratch is not None and large and size > machine.free_memory() // 2):
        return _new_file_on_disk(scratch)
    return os.memfd_create("fedsag-tensors", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)


def _new_file_on_disk(scratch: str | Path | None) -> int:
    with tempfile.TemporaryFile(dir=scratch) as file:
        return os.dup(file.fileno())


def _seal(fd: int) -> None:
    if hasattr(fcntl, "F_ADD_SEALS"):
        try:
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, sum(getattr(fcntl, name) for name in _SEALS))
        except OSError as error:
            if error.errno != errno.EINVAL:  # EINVAL: an unlinked file on a disk, which has no seals
                raise


def _is_sealed(fd: int) -> bool:
    needed = getattr(fcntl, "F_SEAL_SHRINK", 0) | getattr(fcntl, "F_SEAL_WRITE", 0)
    return _seals(fd) > 0 and _seals(fd) & needed == needed


def _seals(fd: int) -> int:
    """The seals of `fd`; -1 where it cannot have seals."""
    if not hasattr(fcntl, "F_GET_SEALS"):
        return -1
    try:
        return fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    except OSError:
        return -1
