"""The states of sites on disk. What a round costs depends on the sites whose state it has changed, not on all sites.

A round writes the states that it has changed to new files. A file is superseded once each state in it was written
again. If more than half of the bytes of the files do not count any more, the files with the fewest that do are written
again along with the round: it frees at least as many bytes as it copies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np

from fedsag_cli.params import tensor_file
from fedsag_cli.params.tensor_file import TensorFile
from fedsag_cli.workspace import STATES, checkpoint_name, checkpoints_in

_FILE_SIZE = 16 << 20  # bytes; a file has more only for one state that is as large
_MOST_STATES = 1000  # in a file
_LEAST_SIZE = 64 << 10  # bytes a file counts for at least, so that few small files are kept
_SPARE = 16 << 20  # bytes of superseded states that are never too many

_Bytes: TypeAlias = np.ndarray[Any, np.dtype[np.uint8]]


class KeptFile(Protocol):
    """A state: a tensor file of `size` bytes. `twin` gives it with a descriptor that the caller closes."""

    size: int

    def twin(self) -> TensorFile: ...


class SiteStates(Protocol):
    """What all sites keep from task to task. `files` are those of the run, which have what was saved before."""

    files: StateFiles | None

    def changed(self) -> Mapping[str, KeptFile]:
        """By site, the states that count and that `files` do not have."""

    def saved(self) -> None:
        """They have them now: all that `changed` gave."""


@dataclass(eq=False)
class _Held:
    """A file. `size`: as it counts. `places`: the first byte and the size of each state in it that counts, by site."""

    path: Path
    size: int
    places: dict[str, tuple[int, int]] = field(default_factory=dict)
    live: int = 0  # bytes of these states


@dataclass(frozen=True)
class _Source:
    size: int
    content: Callable[[], _Bytes]


class StateFiles:
    """The files in one folder; none at first."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held: dict[Path, _Held] = {}
        self._of_site: dict[str, _Held] = {}
        self._number = 0  # of the next file

    def restore(self, of_site: Mapping[str, str]) -> None:
        """Continue with the states of a run before, by site the file that has it. No file that is there is replaced.

        Raises TensorError, OSError.
        """
        for name in sorted(set(of_site.values())):
            path = self._folder / name
            with TensorFile.open(path) as file:
                places = {site: place for site, place in file.places.items() if of_site.get(site) == name}
                self._hold(path, file.size, places)
        there = [int(path.stem.rpartition("-")[2]) for path in checkpoints_in(self._folder, STATES)]
        self._number = max(there, default=-1) + 1

    @property
    def paths(self) -> list[Path]:
        """The files with states that count."""
        return list(self._held)

    def __contains__(self, site: str) -> bool:
        return site in self._of_site

    def read(self, site: str, scratch: Path) -> TensorFile:
        """The state of a site, as a new file. Raises TensorError, OSError."""
        held = self._of_site[site]
        with TensorFile.open(held.path) as file:
            return file.part(*held.places[site], scratch)

    def write(self, changed: Mapping[str, KeptFile]) -> dict[str, list[str]]:
        """Write the states that have changed to new files: the names of the files, and the sites in each.

        Raises TensorError, OSError.
        """
        sources = {site: _Source(kept.size, partial(_content_of, kept)) for site, kept in changed.items()}
        for site in changed:
            self._leave_out(site)
        while changed and (emptiest := self._wasteful(sum(source.size for source in sources.values()))) is not None:
            with TensorFile.open(emptiest.path) as file:
                content = file.contents()
            for site, (first, size) in list(emptiest.places.items()):
                sources[site] = _Source(size, partial(content.__getitem__, slice(first, first + size)))
                self._leave_out(site)
        written: dict[str, list[str]] = {}
        for batch in _batches(sources):
            path = self._folder / checkpoint_name(STATES, 0, self._number)
            tensor_file.save(path, {site: source.content() for site, source in batch.items()})
            with TensorFile.open(path) as file:
                self._hold(path, file.size, file.places)
            self._number += 1
            written[path.name] = list(batch)
        return written

    def _hold(self, path: Path, size: int, places: Mapping[str, tuple[int, int]]) -> None:
        live = sum(length for _, length in places.values())
        self._held[path] = held = _Held(path, max(size, _LEAST_SIZE), dict(places), live)
        self._of_site.update(dict.fromkeys(places, held))

    def _leave_out(self, site: str) -> None:
        """The state of this site is written again."""
        if (held := self._of_site.pop(site, None)) is not None:
            held.live -= held.places.pop(site)[1]
            if not held.places:
                del self._held[held.path]

    def _wasteful(self, coming: int) -> _Held | None:
        """The file with the smallest part that counts, if all together have too much that does not.

        `coming`: bytes that are to be written.
        """
        live = coming + sum(held.live for held in self._held.values())
        if coming + sum(held.size for held in self._held.values()) <= 2 * live + _SPARE:
            return None
        return min(self._held.values(), key=lambda held: held.live / held.size)


def _content_of(kept: KeptFile) -> _Bytes:
    with kept.twin() as file:
        return file.contents()


def _batches(sources: Mapping[str, _Source]) -> Iterator[dict[str, _Source]]:
    """What each file gets."""
    batch: dict[str, _Source] = {}
    size = 0
    for site, source in sources.items():
        if batch and (size + source.size > _FILE_SIZE or len(batch) == _MOST_STATES):
            yield batch
            batch, size = {}, 0
        batch[site] = source
        size += source.size
    if batch:
        yield batch
