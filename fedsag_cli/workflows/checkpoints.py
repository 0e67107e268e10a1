"""The checkpoints of a run: a new one is proven, and on the disk, before the one before it goes.

Each is a tensor file, and so are those with the states of sites (see `state_files`). The record beside them has the
SHA-256 of each, and says where the run stands after each round. After a kill the last one is there; after a power cut
one is there that is about a second older.

Those of the last rounds are kept, as many as the run wants. A file goes when no round that is kept needs it. Only the
last round waits for the disk: after a power cut, the digest of an earlier one may say that it is not whole.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec

from fedsag_cli.errors import TensorError
from fedsag_cli.model import Tree
from fedsag_cli.params import tensor_file
from fedsag_cli.plan import ALL
from fedsag_cli.record import End, Found, Proof, Record, Whole, read, sha256_of
from fedsag_cli.workflows.state_files import KeptFile, StateFiles
from fedsag_cli.workspace import (
    BEST,
    RECORD,
    ROUND,
    STATES,
    checkpoint_name,
    checkpoints_in,
    wait_for_disk,
    write_whole,
)

_SMALL = 1 << 20  # bytes; the digest of a larger file would cost its round more than a millisecond
_SYNC_EVERY_S = 1.0


class Checkpoints:
    """Those in one folder, of a new run unless `resume` is called first. One thread writes them to the disk."""

    def __init__(
        self, folder: Path, identity: str = "", needed: Callable[[], Iterable[Path]] = tuple, keep: int = 1
    ) -> None:
        """`identity`: the plan's. `needed`: further files that a run needs to be continued.

        `keep`: the number of last rounds of which the checkpoints stay, or ALL.
        """
        self._folder, self._identity = folder, identity
        self._needed, self._keep = needed, keep
        self._kept_rounds: deque[frozenset[Path]] = deque()  # the files of each round that is kept
        self._uses: Counter[Path] = Counter()  # by file: of how many of these rounds it is
        self.states = StateFiles(folder)
        self._kept, self._num_lines = Found(), 0
        self._opened: Record | None = None
        self._pool = ThreadPoolExecutor(1)
        self._pending: Future[None] | None = None
        self._is_proving = False  # the last whole round, in the thread
        self._latest: frozenset[Path] = frozenset()  # the files of the last whole round
        self._settling: frozenset[Path] = frozenset()  # those that the thread is busy with
        self._durable: frozenset[Path] = frozenset()  # those that a power cut leaves
        self._superseded: set[Path] = set()
        self.last_size = 0  # bytes that the last round has written
        self._lock = threading.Lock()  # of these sets, and of opening the record
        self._synced_at = float("-inf")
        self.note = ""  # why a resumed run does not continue after the last round of its record

    def path(self, kind: str, workflow: int, round_num: int) -> Path:
        return self._folder / checkpoint_name(kind, workflow, round_num)

    def resume(self) -> Whole | None:
        """The last whole round whose checkpoint is proven; None if there is none to continue.

        Raises TensorError if what is there is not what the run wrote, OSError.
        """
        found = self._kept = read(self._folder / RECORD, self._identity)
        self._superseded = set(checkpoints_in(self._folder))
        wrong = self._what_is_wrong(found)
        rounds = [index for index, line in enumerate(found.lines) if isinstance(line, Whole)]
        for again, index in enumerate(reversed(rounds)):
            whole = found.lines[index]
            assert isinstance(whole, Whole)
            of_site = Found(found.lines[: index + 1]).states
            proofs = [found.proof(whole.checkpoint, after=index), *found.proofs(of_site.values())]
            proven = [proof for proof in proofs if proof is not None]
            fault = next(filter(None, (_fault(self._folder / proof.file, proof) for proof in proven)), "")
            if len(proven) == len(proofs) and not fault:
                self._num_lines = found.lines.index(proven[0], index) + 1
                while isinstance(next(iter(found.lines[self._num_lines :]), None), Proof):
                    self._num_lines += (
                        1  # of its states, and of models: after a kill at the end they are not written again
                    )
                self.states.restore(of_site)
                files = [self._folder / proof.file for proof in proven]
                best = [file for file in checkpoints_in(self._folder, BEST) if whole.best in ("", file.name)]
                self._latest = self._durable = frozenset({*files, *best})
                self._superseded -= self._latest
                self._keep_earlier(found, index)
                if again or wrong:
                    reason = wrong or "their checkpoints were not proven when the run ended"
                    self.note = f"{again} of the rounds that were done are run again: {reason}"
                return whole
            if again == 0:
                wrong = wrong or fault
        self.states.restore({})
        if wrong:
            raise TensorError(wrong, hint="put back what was there, or start a new run with --force")
        return None

    @property
    def whole_rounds(self) -> list[Whole]:
        """Those that the run had when it was resumed."""
        return Found(self._kept.lines[: self._num_lines]).rounds

    def is_proven(self, file: Path) -> bool:
        """Whether a file of the run that is continued is what it was."""
        proof = Found(self._kept.lines[: self._num_lines]).proof(file.name)
        return proof is not None and not _fault(file, proof)

    def save_best(self, file: Path, params: Mapping[str, Any], same_as: Path | None) -> None:
        """Save the best model so far; `same_as` is a checkpoint that has it already. Raises OSError, TensorError."""
        with self._lock:
            self._superseded.discard(file)  # of the same round, from before the run was resumed
        if same_as is not None:
            _give_another_name(same_as, file)
        else:
            tensor_file.save(file, params)
        if _is_small(file):
            self._prove(file)
        else:
            self._submit(self._prove, file)

    def save(
        self,
        params: Mapping[str, Any],
        trees: Mapping[str, Tree],
        whole: Whole,
        best: Path | None,
        states: Mapping[str, KeptFile],
    ) -> None:
        """Save the model after a whole round with `trees`, and record the round.

        `best`: the checkpoint of the best model so far. `states`: by site, those that have changed.

        Raises OSError (that of an earlier checkpoint too), TensorError.
        """
        file = self._folder / whole.checkpoint
        record = self._record  # it is there before the first file that it proves
        with self._lock:
            self._superseded.discard(file)  # of the same round, from before the run was resumed
        # a new name each time: a rename over an old file waits for the disk, 2.3 ms against 0.03
        tensor_file.save(file, params, trees)
        written = self.states.write(states)
        whole = msgspec.structs.replace(whole, states=written, best=best.name if best else "")
        new = [file, *(self._folder / name for name in written)]
        sizes = [each.stat().st_size for each in new]
        self.last_size, small = sum(sizes), all(size <= _SMALL for size in sizes)
        if self._is_proving or not small:
            self._wait()
        record.append(whole, *(map(self._proof_of, new) if small else ()))
        with self._lock:
            self._latest = frozenset({file, *self.states.paths, *([best] if best else ())})
            self._keep_round(self._latest)
        if small and not (self._is_due and (self._pending is None or self._pending.done())):
            self._forget()
        else:
            self._submit(self._settle, self._latest, () if small else new)
            self._is_proving = not small

    def prove(self, files: Iterable[Path]) -> None:
        """Record models that a persistor wrote, once the disk has their names. Raises OSError."""
        for file in files:
            wait_for_disk(file.parent)
            self._prove(file)

    def finish(self, digest: str) -> None:
        """The run has come to its end, with this digest of its params. Raises OSError.

        The best model has a file of its own now: without earlier rounds, no checkpoint of it is needed.
        """
        self._wait()
        self._record.append(End(digest=digest))
        if self._keep == 1:
            best = set(checkpoints_in(self._folder, BEST))
            self._superseded |= best
            self._latest -= best
        self._write_to_disk(self._latest)
        self.close()

    def close(self) -> None:
        """Write the last checkpoint to the disk, as far as this is possible."""
        with contextlib.suppress(OSError):
            self._wait()
            if self._latest != self._durable:
                self._write_to_disk(self._latest)
        self._pool.shutdown()
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    def _keep_round(self, files: frozenset[Path]) -> None:
        """Keep a new round with these files, and let the oldest go that is one too many."""
        self._kept_rounds.append(files)
        self._uses.update(files)
        self._superseded -= files
        while self._keep != ALL and len(self._kept_rounds) > self._keep:
            gone = self._kept_rounds.popleft()
            self._uses.subtract(gone)
            for file in [file for file in gone if not self._uses[file]]:
                del self._uses[file]
                self._superseded.add(file)

    def _keep_earlier(self, found: Found, index: int) -> None:
        """Keep those of the rounds of an earlier part of the run, up to the line `index`, whose files are there."""
        there = set(checkpoints_in(self._folder))
        for place in found.places if self._keep != 1 else ():
            files = frozenset(self._folder / name for name in place.files)
            if place.line < index and {self._folder / name for name in place.needs} <= there:
                self._keep_round(files & there)
        self._keep_round(self._latest)

    @property
    def _record(self) -> Record:
        with self._lock:
            if self._opened is None:
                self._opened = Record(self._folder / RECORD, self._identity, self._kept, self._num_lines)
            return self._opened

    @property
    def _is_due(self) -> bool:
        return time.monotonic() - self._synced_at >= _SYNC_EVERY_S

    def _what_is_wrong(self, found: Found) -> str:
        path = self._folder / RECORD
        if found.damaged:
            of_another = " (or it belongs to another plan)" if found.damaged == 1 else ""
            return f"{path} is damaged in line {found.damaged}{of_another}"
        if not path.exists() and (files := checkpoints_in(self._folder, ROUND)):
            return f"{path} is gone: nothing proves {files[0].name}"
        return ""

    def _submit(self, work: Callable[..., None], *args: Any) -> None:
        self._wait()
        self._settling = self._latest
        self._pending = self._pool.submit(work, *args)

    def _wait(self) -> None:
        if self._pending is not None:
            pending, self._pending = self._pending, None
            pending.result()
        self._settling, self._is_proving = frozenset(), False

    def _prove(self, *files: Path) -> None:
        self._record.append(*map(self._proof_of, files))

    def _proof_of(self, file: Path) -> Proof:
        return Proof(file=os.path.relpath(file, self._folder), sha256=sha256_of(file))

    def _settle(self, files: frozenset[Path], unproven: Sequence[Path]) -> None:
        if unproven:
            self._prove(*unproven)
        if self._is_due:
            self._write_to_disk(files)
        else:
            self._forget()

    def _write_to_disk(self, files: frozenset[Path]) -> None:
        first = self._synced_at < 0
        never_change = {file for file in self._durable if file.name.startswith(STATES)}
        for file in (*(files - never_change), *(self._needed() if first else ())):
            wait_for_disk(file)
        self._record.sync()
        for folder in [self._folder, *list(self._folder.parents)[:3]] if first else [self._folder]:
            wait_for_disk(folder)
        self._synced_at, self._durable = time.monotonic(), files
        self._forget()

    def _forget(self) -> None:
        with self._lock:
            for file in self._superseded - self._latest - self._durable - self._settling:
                file.unlink(missing_ok=True)
                self._superseded.discard(file)


def _fault(file: Path, proof: Proof) -> str:
    """Why a file is not what was recorded; empty if it is."""
    try:
        return "" if sha256_of(file) == proof.sha256 else f"{file} is no checkpoint of this run: its SHA-256 is another"
    except FileNotFoundError:
        return f"the checkpoint {file} is gone"


def _is_small(file: Path) -> bool:
    return file.stat().st_size <= _SMALL


def _give_another_name(path: Path, other: Path) -> None:
    other.unlink(missing_ok=True)
    try:
        os.link(path, other)
    except OSError:  # the file system has no links
        with path.open("rb") as saved:
            write_whole(other, lambda file: shutil.copyfileobj(saved, file))
