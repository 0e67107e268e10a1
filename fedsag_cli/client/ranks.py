"""`is_running` for clients of several processes, as torchrun starts them: only rank 0 is connected to the server.

Rank 0 writes each answer into the store of the process group, and the other ranks read it. Rank 0 never waits for the
others. So a script in which only rank 0 calls `is_running`, and informs the other ranks itself, works too.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import timedelta
from typing import Any

_TIMEOUT = timedelta(days=365)  # the next task may be hours away
_RUNNING, _OVER = b"running", b"over"


class Loop:
    """Counts the calls of `flare.is_running()` in this process."""

    def __init__(self, rank: str) -> None:
        self._is_first = rank == "0"
        self._calls = 0

    def is_running(self, ask: Callable[[], bool]) -> bool:
        """What `ask` returns in rank 0. Other ranks get the answer of the same call; False if there is no group."""
        store = _store()
        key = f"fedsag/call-{self._calls}"
        self._calls += 1
        if self._is_first:
            answer = ask()
            if store is not None:
                store.set(key, _RUNNING if answer else _OVER)
            return answer
        if store is None:
            return False
        try:
            store.wait([key], _TIMEOUT)
            return bool(store.get(key) == _RUNNING)
        except RuntimeError:  # the process with the store has ended, so the run is over
            return False


def _store() -> Any:
    """The store of this process's group; None without a group of several processes."""
    dist = sys.modules.get("torch.distributed")  # a script that has a group has imported it
    if dist is None or not dist.is_available() or not dist.is_initialized() or dist.get_world_size() < 2:
        return None
    return dist.distributed_c10d._get_default_store()
