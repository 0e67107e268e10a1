"""What a site keeps from task to task: what its script has in `flare.state`, and what its filters keep.

It is always what went along with the last answer, or came with the task. Changes count when they go along with an
answer, and are gone otherwise: in every launch mode and after --resume, the same bits are there.
"""

from __future__ import annotations

from typing import Any

from fedsag_cli.errors import TensorError
from fedsag_cli.model import Tree
from fedsag_cli.params.tensor_file import TensorFile
from fedsag_cli.wire.messages import OF_FILTERS, OF_SCRIPT


class Kept:
    """What this process has of it."""

    def __init__(self, scratch: str) -> None:
        self._scratch = scratch
        self._file: TensorFile | None = None  # None: nothing is kept
        self._trees: dict[str, dict[str, Tree]] = {}  # those that were asked for since the task came

    @property
    def of_script(self) -> dict[str, Tree]:
        """The script's part, which may be changed in place."""
        return self._tree(OF_SCRIPT)

    def of_filter(self, name: str) -> dict[str, Tree]:
        """A filter's part, which may be changed in place."""
        part: dict[str, Tree] = self._tree(OF_FILTERS).setdefault(name, {})
        return part

    def settle(self, file: TensorFile | None) -> None:
        """A task came, or an answer was sent. `file`: what is kept from now on; None: what this process has.

        The file is taken over, and changes since the last call are gone.
        """
        self._trees.clear()
        if file is not None:
            self.forget()
            self._file = file

    def forget(self) -> None:
        """A worker's next task is that of another site."""
        self._trees.clear()
        if self._file is not None:
            self._file.close()
            self._file = None

    def changed(self) -> TensorFile | None:
        """A file of all that is kept now, which the caller passes to `settle` or closes; None if no bit has changed.

        Raises TensorError naming what cannot be kept, OSError.
        """
        if not self._trees:
            return None
        filters = {name: part for name, part in self._tree(OF_FILTERS).items() if part}
        trees = {OF_SCRIPT: self.of_script, OF_FILTERS: filters}
        if self._file is None and not any(trees.values()):
            return None
        try:
            file = TensorFile.write({}, trees=trees, scratch=self._scratch)
        except TensorError as error:
            raise error.with_traceback(None) from None  # the line of the script counts, not ours below this one
        if self._file is not None and file.is_same_as(self._file):
            file.close()
            return None
        return file

    def _tree(self, name: str) -> dict[str, Any]:
        if name not in self._trees:
            self._trees[name] = {} if self._file is None else self._file.tree(name)
        return self._trees[name]
