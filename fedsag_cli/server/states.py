"""What each site keeps from task to task, as its accepted answers say. See `state` in `fedsag_cli.client`.

A site's process has what went along with its last answer. That counts once the workflow has taken the answer. If the
answer fails, is rejected or comes too late, what counts is what there was before, and goes along with the next task.

What counts at the end of a round is saved with it, if it has changed. From then on it is on disk alone, and is read
when a process needs it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from fedsag_cli.errors import TensorError
from fedsag_cli.params.tensor_file import TensorFile
from fedsag_cli.server.spool import Spool, Spooled
from fedsag_cli.wire.messages import OF_FILTERS, OF_SCRIPT
from fedsag_cli.workflows.state_files import StateFiles


@dataclass(eq=False)
class Version:
    """What a site kept after the task of this number. `file`: None if that is nothing, or if a round has saved it."""

    task_id: int = 0
    file: Spooled | None = None


class States:
    """What all sites keep. That of a site is made when it is asked for: it implements `SiteStates`."""

    def __init__(self, scratch: Path) -> None:
        self.files: StateFiles | None = None
        self.scratch, self.spool = scratch, Spool(scratch)
        self.touched: set[str] = set()  # sites for which, since the last round, something else may count
        self._of_site: dict[str, SiteState] = {}

    def __getitem__(self, site: str) -> SiteState:
        if site not in self._of_site:
            self._of_site[site] = SiteState(site, self)
        return self._of_site[site]

    def changed(self) -> Mapping[str, Spooled]:
        found = {site: self[site].unsaved() for site in sorted(self.touched)}
        return {site: file for site, file in found.items() if file is not None}

    def saved(self) -> None:
        if self.files is not None:
            for site in self.touched:
                self[site].saved()
            self.touched.clear()

    def close(self) -> None:
        for state in self._of_site.values():
            state.close()
        self.spool.close()


class SiteState:
    """What one site keeps."""

    def __init__(self, site: str, states: States) -> None:
        self._site, self._states = site, states
        self._nothing = Version()
        is_there = states.files is not None and site in states.files
        self._saved = Version() if is_there else self._nothing  # the one that the last whole round has
        self._whole = self._saved  # of the last task that is over and whose answer was accepted
        self._of_process: dict[str, Version] = {}  # a site has several if it has several executors
        self._answers: dict[int, Version] = {}  # to tasks that are not over, by task
        self._accepted: set[int] = set()  # those of these tasks whose answer the workflow has taken

    # with each round

    def unsaved(self) -> Spooled | None:
        """What counts now and is to be saved; None if the last whole round has it. Raises TensorError, OSError."""
        latest = self._that_counts()
        if latest is self._saved:
            return None
        before = self._saved
        if before is not self._nothing and before.file is None and self._may_count(before):
            # an accepted answer can be rejected until its task is over, and its file is superseded now
            before.file = self._states.spool.put(self._read())
        if latest is self._nothing:
            latest.file = self._states.spool.put(self._empty())
        return latest.file

    def saved(self) -> None:
        """What `unsaved` gave is in the files."""
        latest = self._that_counts()
        if latest.file is not None:
            latest.file.close()
            latest.file = None
        self._saved = latest

    # its processes

    def started(self, process: str) -> None:
        """A new process has nothing."""
        self._of_process[process] = self._nothing

    def missing(self, process: str) -> TensorFile | None:
        """What a process has not and needs for the next task, as a file that the caller closes."""
        latest = self._latest(self._answers.values())
        before, self._of_process[process] = self._of_process[process], latest
        if latest is before:
            return None
        if latest is self._nothing:
            return self._empty()
        return self._read() if latest.file is None else latest.file.twin()

    def arrived(self, process: str, task_id: int, file: TensorFile | None) -> Version:
        """An answer came; what came along is what the process has now. None: that has not changed."""
        if file is not None:
            self._of_process[process] = Version(task_id, self._states.spool.put(file))
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
                copied = file.on_disk(self._states.scratch)  # its sender could still change it
            if copied is None:
                raise TensorError("not a tensor file: it became shorter")
            version.file.close()
            version.file, file = self._states.spool.put(copied), copied.twin()
        with file:
            for name in (OF_SCRIPT, OF_FILTERS):
                if not isinstance(file.tree(name), dict):
                    raise TensorError(f"not a tensor file: its {name} is no dict")

    def accept(self, task_id: int) -> None:
        """The workflow has taken the answer."""
        self._accepted.add(task_id)
        self._states.touched.add(self._site)

    def reject(self, task_id: int) -> None:
        self._accepted.discard(task_id)
        if (version := self._answers.pop(task_id, None)) is not None:
            self._states.touched.add(self._site)
            self.drop(version)

    def end(self, task_id: int) -> None:
        """The task is over: its answer counts if it was accepted."""
        if task_id in self._accepted and self._answers[task_id].task_id > self._whole.task_id:
            before, self._whole = self._whole, self._answers[task_id]
            self.drop(before)
        self.reject(task_id)

    def drop(self, version: Version) -> None:
        """Close the file of a version, unless it counts or may count."""
        if version.file is not None and not self._may_count(version):
            version.file.close()

    def close(self) -> None:
        for version in (self._whole, *self._answers.values()):
            if version.file is not None:
                version.file.close()

    def _may_count(self, version: Version) -> bool:
        return version is self._whole or version in self._answers.values()

    def _that_counts(self) -> Version:
        return self._latest([self._answers[task] for task in self._accepted])

    def _latest(self, answers: Iterable[Version]) -> Version:
        return max((self._whole, *answers), key=lambda version: version.task_id)

    def _read(self) -> TensorFile:
        assert self._states.files is not None
        return self._states.files.read(self._site, self._states.scratch)

    def _empty(self) -> TensorFile:
        return TensorFile.write({}, trees={OF_SCRIPT: {}, OF_FILTERS: {}}, scratch=self._states.scratch)
