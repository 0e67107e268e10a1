"""What the logs of a node's processes have more than before."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from fedsag_cli.processes.ray.messages import Logged

_AT_ONCE = 1 << 20  # bytes of one log


class Logs:
    """The files `log*.txt` in the folders of the sites."""

    def __init__(self, root: Path, shown: str) -> None:
        """`root`: the folder of the run's files. `shown`: the folder to name in its place."""
        self._root = root
        self._named, self._shown = os.fsencode(root), os.fsencode(shown)
        self._sizes: dict[Path, int] = {}

    def grown(self) -> Iterator[Logged]:
        """Each log's new bytes, since the last call."""
        for log in sorted(self._root.glob("*/log*.txt")):
            try:
                size, before = log.stat().st_size, self._sizes.get(log, 0)
                if size == before:
                    continue
                with log.open("rb") as file:
                    file.seek(before if size > before else 0)  # it was emptied
                    while piece := file.read(_AT_ONCE):
                        self._sizes[log] = file.tell()
                        yield Logged(str(log.relative_to(self._root)), piece.replace(self._named, self._shown))
            except OSError:
                continue  # it is gone
