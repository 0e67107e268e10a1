"""Random streams that depend on (seed, site, round) only: the same for every `-t`, for fork and spawn.

A script that seeds itself keeps its own streams from then on. torch tells by its initial seed; `random` and numpy do
not tell, so their `seed` functions are watched.
"""

from __future__ import annotations

import functools
import random
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from fedsag_cli.params.seeds import derived, set_seed


class Streams:
    """One client's random streams, watched from before its script begins."""

    def __init__(self, seed: int, site: str) -> None:
        self._seed, self._site = seed, site
        self._sowing = False
        self._torch_seed: int | None = None
        self.script_seeded = False
        set_seed(derived(seed, site))
        self._note_torch()
        random.seed = self._watched(random.seed)
        np.random.seed = self._watched(np.random.seed)

    def at(self, round_num: int) -> None:
        """Set them for a round, unless the script has set one itself."""
        if self._torch_seed is not None and sys.modules["torch"].initial_seed() != self._torch_seed:
            self.script_seeded = True
        if self.script_seeded:
            return
        self._sowing = True
        try:
            set_seed(derived(self._seed, self._site, round_num))
        finally:
            self._sowing = False
        self._note_torch()

    def _note_torch(self) -> None:
        if torch := sys.modules.get("torch"):
            self._torch_seed = torch.initial_seed()

    def _watched(self, seed: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(seed)
        def watched(*args: Any, **kwargs: Any) -> Any:
            if not self._sowing:
                self.script_seeded = True
            return seed(*args, **kwargs)

        return watched


_streams: dict[tuple[int, str], Streams] = {}


def streams(seed: int, site: str) -> Streams:
    """This process's streams: made before the script where we start it, at `init()` where something else did."""
    key = (seed, site)
    if key not in _streams:
        _streams[key] = Streams(seed, site)
    return _streams[key]
