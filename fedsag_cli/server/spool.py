"""Keeps answers until their turn: in memory at first; large answers that wait long are moved to disk.

So the server's memory does not grow with the number of clients that are faster than the slowest one, and answers that
arrive shortly after each other are not copied. Updates that a workflow keeps are put on disk in the same way. Of small
answers, only some have a descriptor; the others lie together in few files.
"""

from __future__ import annotations

import contextlib
import os
import queue
import tempfile
import threading
import time
from pathlib import Path
from typing import TypeAlias

from fedsag_cli import machine
from fedsag_cli.errors import TensorError
from fedsag_cli.model import Params
from fedsag_cli.params.tensor_file import TensorFile

LARGE = 16 << 20  # bytes; what is smaller is not worth the copy
_DELAY_S = 0.25
_MOST_OPEN = 256  # answers with a descriptor each
_PACK_SIZE = 64 << 20  # bytes, after which answers go to the next pack


def on_disk(params: Params, scratch: Path) -> Params:
    """The same params, read from an unlinked file in the folder `scratch` when they are used.

    They stay in memory if the disk is full, or if they have values that no file can have.
    """
    with contextlib.suppress(OSError, TensorError):
        with TensorFile.write(params, scratch=scratch) as written:
            file = written.on_disk(scratch)
        if file is not None:
            with file:
                return file.load()
    return params


class _Pack:
    """An unlinked file on disk that small answers share. It is closed with the last of them."""

    def __init__(self, scratch: Path) -> None:
        """Raises OSError."""
        self._file = tempfile.TemporaryFile(dir=scratch, buffering=0)  # noqa: SIM115  it stays open
        self._scratch = scratch
        self._count, self.size = 0, 0

    def add(self, file: TensorFile) -> int | None:
        """Copy a file to the end. The first byte of the copy; None if the file became shorter. Raises OSError."""
        first = self._file.seek(self.size)
        if not file.append_to(self._file.fileno()):
            return None
        self.size += file.size
        self._count += 1
        return first

    def read(self, first: int, size: int) -> TensorFile:
        """A copy of what was added, in memory. Raises OSError."""
        with TensorFile(os.dup(self._file.fileno()), trusted=True) as whole:
            return whole.part(first, size, self._scratch)

    def drop(self) -> None:
        """One of the answers is not needed any more."""
        self._count -= 1
        if not self._count:
            self._file.close()

    @property
    def is_open(self) -> bool:
        """Whether it takes one more answer."""
        return not self._file.closed and self.size < _PACK_SIZE


class PackedFile:
    """One answer's file, in a pack."""

    is_on_disk = False  # what `take` gives is in memory

    def __init__(self, size: int, first: int, pack: _Pack, spool: Spool) -> None:
        self.size = size
        self._first, self._pack, self._spool = first, pack, spool
        self._taken: TensorFile | None = None
        self._is_closed = False

    def take(self) -> TensorFile:
        """The file. The caller owns it, and closes it. Raises OSError."""
        if self._taken is None:
            self._taken = self.twin()
            self._leave()
        return self._taken

    def twin(self) -> TensorFile:
        """A copy of the file, which the caller closes. This one stays. Raises OSError."""
        return self._pack.read(self._first, self.size)

    def close(self) -> None:
        if self._taken is not None:
            self._taken.close()
        self._leave()

    def _leave(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            self._pack.drop()
            self._spool.waiting_bytes -= self.size


class SpooledFile:
    """One answer's file, in memory or on disk, with a descriptor of its own."""

    def __init__(self, file: TensorFile, spool: Spool, *, delay_s: float) -> None:
        self.size = file.size
        self.is_on_disk = False
        self._move_at = time.monotonic() + delay_s
        self._file, self._spool = file, spool
        self._lock = threading.Lock()
        self._taken = threading.Event()  # it must not be moved any more

    def take(self) -> TensorFile:
        """The file. The caller owns it, and closes it."""
        if not self._taken.is_set():
            self._taken.set()
            self._spool.waiting_bytes -= self.size
            self._spool.num_open -= 1
        with self._lock:
            return self._file

    def twin(self) -> TensorFile:
        """The file with a descriptor of its own, which the caller closes. This one stays, and may still be moved."""
        with self._lock:
            return self._file.twin()

    def close(self) -> None:
        self.take().close()

    def move(self, scratch: Path) -> None:
        """Move the file to disk after its delay. It stays in memory if it is taken before, or if the disk is full."""
        self._taken.wait(max(0.0, self._move_at - time.monotonic()))
        with contextlib.suppress(OSError):  # the disk is full, or no descriptor is left
            with self._lock:
                if self._taken.is_set():
                    return
                source = self._file.twin()  # the caller of `take` may close its own
            with source:
                other = source.on_disk(scratch, stop=self._taken.is_set)
            if other is not None:
                with self._lock:
                    if not self._taken.is_set():
                        self._file, other = other, self._file
                        self.is_on_disk = True
                other.close()


Spooled: TypeAlias = PackedFile | SpooledFile


class Spool:
    """Keeps answers. A thread moves the large ones to disk, one after the other."""

    def __init__(self, scratch: Path) -> None:
        self.waiting_bytes = 0  # of all answers that were not taken yet
        self.num_open = 0  # of these, with a descriptor each
        self._pack: _Pack | None = None  # the one that takes more
        self._scratch = scratch
        self._queue: queue.SimpleQueue[SpooledFile | None] = queue.SimpleQueue()
        self._mover: threading.Thread | None = None

    def put(self, file: TensorFile) -> Spooled:
        """Takes over `file`. If many bytes wait already, this answer will wait long.

        If all that wait take more than a quarter of the free memory, the file is on disk when this returns.
        """
        before, self.waiting_bytes = self.waiting_bytes, self.waiting_bytes + file.size
        if self.num_open >= _MOST_OPEN and file.size < LARGE and (packed := self._packed(file)) is not None:
            return packed
        self.num_open += 1
        spooled = SpooledFile(file, self, delay_s=0.0 if before >= LARGE else _DELAY_S)
        if before and self.waiting_bytes > LARGE and self.waiting_bytes > machine.free_memory() // 4:
            spooled.move(self._scratch)
        elif file.size >= LARGE:
            if self._mover is None:
                self._mover = threading.Thread(target=self._move, daemon=True)
                self._mover.start()
            self._queue.put(spooled)
        return spooled

    def _packed(self, file: TensorFile) -> PackedFile | None:
        """None if it stays as it is: the disk is full, or its sender has made it shorter."""
        with contextlib.suppress(OSError):
            if self._pack is None or not self._pack.is_open:
                self._pack = _Pack(self._scratch)
            if (first := self._pack.add(file)) is not None:
                file.close()
                return PackedFile(file.size, first, self._pack, self)
        return None

    def close(self) -> None:
        if self._mover is not None:
            self._queue.put(None)
            self._mover.join()

    def _move(self) -> None:
        while (spooled := self._queue.get()) is not None:
            spooled.move(self._scratch)
