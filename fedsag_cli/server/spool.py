"""Keeps answers until their turn: in memory at first; large answers that wait long are moved to disk.

So the server's memory does not grow with the number of clients that are faster than the slowest one, and answers that
arrive shortly after each other are not copied. Updates that a workflow keeps are put on disk in the same way.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from pathlib import Path

from fedsag_cli import machine
from fedsag_cli.errors import TensorError
from fedsag_cli.model import Params
from fedsag_cli.params.tensor_file import TensorFile

LARGE = 16 << 20  # bytes; what is smaller is not worth the copy
_DELAY_S = 0.25


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


class SpooledFile:
    """One answer's file, in memory or on disk."""

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


class Spool:
    """Keeps answers. A thread moves the large ones to disk, one after the other."""

    def __init__(self, scratch: Path) -> None:
        self.waiting_bytes = 0  # of all answers that were not taken yet
        self._scratch = scratch
        self._queue: queue.SimpleQueue[SpooledFile | None] = queue.SimpleQueue()
        self._mover: threading.Thread | None = None

    def put(self, file: TensorFile) -> SpooledFile:
        """If many bytes wait already, this answer will wait long.

        If all that wait take more than a quarter of the free memory, the file is on disk when this returns.
        """
        before, self.waiting_bytes = self.waiting_bytes, self.waiting_bytes + file.size
        spooled = SpooledFile(file, self, delay_s=0.0 if before >= LARGE else _DELAY_S)
        if before and self.waiting_bytes > LARGE and self.waiting_bytes > machine.free_memory() // 4:
            spooled.move(self._scratch)
        elif file.size >= LARGE:
            if self._mover is None:
                self._mover = threading.Thread(target=self._move, daemon=True)
                self._mover.start()
            self._queue.put(spooled)
        return spooled

    def close(self) -> None:
        if self._mover is not None:
            self._queue.put(None)
            self._mover.join()

    def _move(self) -> None:
        while (spooled := self._queue.get()) is not None:
            spooled.move(self._scratch)
