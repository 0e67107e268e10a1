"""What each site keeps from task to task, as its accepted answers say. See `state` in `fedsag_cli.client`.

A site's process has what went along with its last answer. That counts once the workflow has taken the answer. If the
answer fails, is rejected or comes too late, what counts is what there was before, and goes along with the next task.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from fedsag_cli.errors import TensorError
from fedsag_cli.model import Tree
from fedsag_cli.params.tensor_file import TensorFile
from fedsag_cli.server.spool import Spool, SpooledFile
from fedsag_cli.wire.messages import OF_FILTERS, OF_SCRIPT


@dataclass(eq=False)
class Version:
    """What a site kept after the task of this number; nothing if there is no file."""

    task_id: int = 0
    file: SpooledFile | None = None


class SiteState:
    """What one site keeps. It is saved with each round: it implements `Stateful`."""

    def __init__(self, spool: Spool, scratch: Path) -> None:
        self._spool, self._scratch = spool, scratch
        self._whole = Version()  # of the last task that is over and whose answer was accepted
        self._of_process: dict[str, Version] = {}  # a site has several if it has several executors
        self._answers: dict[int, Version] = {}  # to tasks that are not over, by task
        self._accepted: set[int] = set()  # those of these tasks whose answer the workflow has taken

    def state(self) -> Tree:
        latest = self._latest([self._answers[task] for task in self._accepted])
        return None if latest.file is None else _trees_in(latest.file.twin())

    def restore(self, state: Tree) -> None:
        self._whole = Version(file=self._spool.put(TensorFile.write({}, trees=state, scratch=self._scratch)))

    # its processes

    def started(self, process: str) -> None:
        """A new process has nothing."""
        self._of_process[process] = Version()

    def missing(self, process: str) -> TensorFile | None:
        """What a process has not and needs for the next task, as a file that the caller closes."""
        latest = self._latest(self._answers.values())
        before, self._of_process[process] = self._of_process[process], latest
        if latest is before or (latest.file is None and before.file is None):
            return None
        if latest.file is None:
            return TensorFile.write({}, trees={OF_SCRIPT: {}, OF_FILTERS: {}}, scratch=self._scratch)
        return latest.file.twin()

    def arrived(self, process: str, task_id: int, file: TensorFile | None) -> Version:
        """An answer came; what came along is what the process has now. None: that has not changed."""
        if file is not None:
            self._of_process[process] = Version(task_id, self._spool.put(file))
        return self._of_process[process]

    # its answers

    def keep(self, task_id: int, version: Version) -> None:
        """The answer is valid, and waits for its turn."""
        self._answers[task_id] = version

    def check(self, task_id: int) -> None:
        """The workflow gets the answer. Raises TensorError if what came along is not what a client sends."""
        version = self._answers[task_id]
        if version.file is None:
            return
        file = version.file.twin()
        if not file.is_fixed:
            with file:
                copied = file.on_disk(self._scratch)  # its sender could still change it
            if copied is None:
                raise TensorError("not a tensor file: it became shorter")
            version.file.close()
            version.file, file = self._spool.put(copied), copied.twin()
        _trees_in(file)

    def accept(self, task_id: int) -> None:
        """The workflow has taken the answer."""
        self._accepted.add(task_id)

    def reject(self, task_id: int) -> None:
        self._accepted.discard(task_id)
        if (version := self._answers.pop(task_id, None)) is not None:
            self.drop(version)

    def end(self, task_id: int) -> None:
        """The task is over: its answer counts if it was accepted."""
        if task_id in self._accepted and self._answers[task_id].task_id > self._whole.task_id:
            before, self._whole = self._whole, self._answers[task_id]
            self.drop(before)
        self.reject(task_id)

    def drop(self, version: Version) -> None:
        """Close the file of a version, unless it counts or may count."""
        if version.file is not None and version is not self._whole and version not in self._answers.values():
            version.file.close()

    def close(self) -> None:
        for version in (self._whole, *self._answers.values()):
            if version.file is not None:
                version.file.close()

    def _latest(self, answers: Iterable[Version]) -> Version:
        return max((self._whole, *answers), key=lambda version: version.task_id)


def _trees_in(file: TensorFile) -> Tree:
    with file:
        trees = {name: file.tree(name) for name in (OF_SCRIPT, OF_FILTERS)}
    if wrong := [name for name, tree in trees.items() if not isinstance(tree, dict)]:
        raise TensorError(f"not a tensor file: its {wrong[0]} is no dict")
    return trees
