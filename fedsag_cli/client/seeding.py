"""Seeds a client's random numbers for each task from (seed, site, workflow, round, nth task of the round): the same for
every -t and launcher.

A script that sets a seed itself keeps its own random numbers from then on. This is noticed by torch's initial seed, and
by wrappers of the `seed` functions of `random` and numpy. A worker's script keeps none: they would pass from client to
client.
"""

from __future__ import annotations

import contextlib
import functools
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

import numpy as np

from fedsag_cli.params.seeds import derived, of_round, seeded, set_seed


class Streams:
    """The random number generators of one client or, in a worker, of the client whose task it does."""

    def __init__(self, seed: int, site: str) -> None:
        """`site`: empty in a worker, until `serve` is called."""
        self._seed, self._site = seed, site
        self._is_worker = not site
        self._is_seeding = False
        self._torch_seed: int | None = None
        self.script_seeded = False
        set_seed(derived(seed, site))
        self._note_torch()
        if "torch" not in sys.modules:
            sys.meta_path.insert(0, _AtImport("torch", self._seed_torch))
        random.seed = self._watched(random.seed)
        np.random.seed = self._watched(np.random.seed)

    def serve(self, site: str) -> None:
        """The next tasks are those of this site."""
        self._site = site

    def at(self, round_num: int, workflow: int = 0, nth: int = 0) -> None:
        """Seed all generators for a task of a round of a workflow, unless the script has seeded one itself."""
        if not self._is_worker:
            if self._torch_seed is not None and sys.modules["torch"].initial_seed() != self._torch_seed:
                self.script_seeded = True
            if self.script_seeded:
                return
        self._is_seeding = True
        try:
            set_seed(of_round(self._seed, self._site, round_num, workflow, nth))
        finally:
            self._is_seeding = False
        self._note_torch()

    def take_back(self) -> None:
        """The script has not seeded anything: a library that it uses has done so."""
        self.script_seeded = False
        self._note_torch()

    @contextlib.contextmanager
    def aside(self, seed: int) -> Iterator[None]:
        """Other random numbers for the block, which may seed them too. After it, these go on as if it had not been."""
        import torch

        self._is_seeding = True
        try:
            with torch.random.fork_rng(), seeded(seed):  # those of GPUs too
                yield
        finally:
            self._is_seeding = False

    def _seed_torch(self) -> None:
        """Seed torch as if it had been imported before the script started."""
        sys.modules["torch"].manual_seed(derived(self._seed, self._site))
        self._note_torch()

    def _note_torch(self) -> None:
        if torch := sys.modules.get("torch"):
            self._torch_seed = torch.initial_seed()

    def _watched(self, seed: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(seed)
        def watched(*args: Any, **kwargs: Any) -> Any:
            if not self._is_seeding and not self._is_worker:
                self.script_seeded = True
            return seed(*args, **kwargs)

        return watched


class _AtImport:
    """A finder that calls `then` once, when `module` has been imported."""

    def __init__(self, module: str, then: Callable[[], None]) -> None:
        self._module, self._then = module, then

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(fullname, path) if fullname == self._module else None
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                execute(module)
                if self in sys.meta_path:
                    sys.meta_path.remove(self)
                    self._then()

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


_streams: dict[tuple[int, str], Streams] = {}


def streams(seed: int, site: str) -> Streams:
    """This process's generators: created before the script starts, or in `init()` if a command started the script."""
    key = (seed, site)
    if key not in _streams:
        _streams[key] = Streams(seed, site)
    return _streams[key]
