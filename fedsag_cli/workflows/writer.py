"""Writes models to files in a thread of its own, while the clients train."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from fedsag_cli.events import ModelSaved
from fedsag_cli.model import FLModel
from fedsag_cli.workflows.run import Run


class Writer:
    """A thread that writes models while the clients train. At most one model waits; at the end all are written.

    The thread begins with a model when the clients have their tasks: before that, it would be in the server's way.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._pool = ThreadPoolExecutor(1)
        self._waiting: tuple[Callable[[FLModel], Path], FLModel] | None = None
        self._pending: list[Future[None]] = []
        self._written: set[Path] = set()

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.start()
        self._pool.shutdown()
        if kind is None:
            self._wait_for(len(self._pending))
            self._run.written(sorted(self._written))

    def write(self, save: Callable[[FLModel], Path], model: FLModel) -> None:
        """Write a model in the thread. Raises what an earlier write raised."""
        self.start()
        self._wait_for(len(self._pending) - 1)
        self._waiting = save, model

    def start(self) -> None:
        """The clients are at work."""
        if self._waiting is not None:
            self._pending.append(self._pool.submit(self._write, *self._waiting))
            self._waiting = None

    def _wait_for(self, count: int) -> None:
        for _ in range(count):
            self._pending.pop(0).result()

    def _write(self, save: Callable[[FLModel], Path], model: FLModel) -> None:
        path = save(model)
        self._written.add(path)
        self._run.emit(ModelSaved(path=str(path)))
