"""Writes models to files in a thread of its own, while the clients train."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from fedsag_cli.events import ModelSaved
from fedsag_cli.model import FLModel
from fedsag_cli.workflows.run import Run


class Writer:
    """A thread that writes models while the clients train. At most one model waits; at the end all are written."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._pool = ThreadPoolExecutor(1)
        self._pending: list[Future[None]] = []
        self._written: set[Path] = set()

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._pool.shutdown()
        if kind is None:
            self._wait_for(len(self._pending))
            self._run.written(sorted(self._written))

    def write(self, save: Callable[[FLModel], Path], model: FLModel) -> None:
        """Write a model in the thread. Raises what an earlier write raised."""
        self._wait_for(len(self._pending) - 1)
        self._pending.append(self._pool.submit(self._write, save, model))

    def _wait_for(self, count: int) -> None:
        for _ in range(count):
            self._pending.pop(0).result()

    def _write(self, save: Callable[[FLModel], Path], model: FLModel) -> None:
        path = save(model)
        self._written.add(path)
        self._run.emit(ModelSaved(path=str(path)))
