"""Where answers wait for their turn: in memory at first, the large ones on disk when that takes long.

So what the server holds does not grow with the number of clients that are ahead of the slowest one, and answers that
come close after each other are not copied.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from pathlib import Path

from fedsag_cli import machine
from fedsag_cli.params.tensor_file import TensorFile

_LARGE = 16 << 20  # bytes; less is not worth the way
_PATIENCE_S = 0.25


class Kept:
    """One answer's file, wherever it is by now."""

    def __init__(self, file: TensorFile, *, patience_s: float) -> None:
        self.size = file.size
        self._due = time.monotonic() + patience_s
        self._file = file
        self._lock = threading.Lock()
        self._wanted = threading.Event()  # or not wanted any more: it is not to be moved

    def take(self) -> TensorFile:
        """Its turn has come: the file is the caller's."""
        self._wanted.set()
        with self._lock:
            return self._file

    def close(self) -> None:
        self.take().close()

    def move(self, scratch: Path) -> None:
        """To disk, when it has waited long enough. Stays where it is if it is wanted before, or the disk is full."""
        self._wanted.wait(max(0.0, self._due - time.monotonic()))
        with contextlib.suppress(OSError):  # no room, or no descriptor left
            with self._lock:
                if self._wanted.is_set():
                    return
                source = self._file.twin()  # whoever takes the file closes it, whether or not we still read
            with source:
                other = source.on_disk(scratch, stop=self._wanted.is_set)
            if other is not None:
                with self._lock:
                    if not self._wanted.is_set():
                        self._file, other = other, self._file
                other.close()


class Attic:
    """Keeps answers. A thread of its own carries the large ones to disk, one after the other."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._waiting: queue.SimpleQueue[Kept | None] = queue.SimpleQueue()
        self._carrier: threading.Thread | None = None

    def keep(self, file: TensorFile, *, beside: int) -> Kept:
        """`beside`: bytes of those that wait already. Where they are many, it will take long.

        Beyond a quarter of the free memory nobody else is heard until it is on disk.
        """
        kept = Kept(file, patience_s=0.0 if beside >= _LARGE else _PATIENCE_S)
        if beside and beside + file.size > max(_LARGE, machine.free_memory() // 4):
            kept.move(self._scratch)
        elif file.size >= _LARGE:
            if self._carrier is None:
                self._carrier = threading.Thread(target=self._carry, daemon=True)
                self._carrier.start()
            self._waiting.put(kept)
        return kept

    def close(self) -> None:
        if self._carrier is not None:
            self._waiting.put(None)
            self._carrier.join()

    def _carry(self) -> None:
        while (kept := self._waiting.get()) is not None:
            kept.move(self._scratch)
