"""`is_running` for clients of several processes, as torchrun starts them: only rank 0 is connected to the server.

Rank 0 writes each answer into the store of the process group, where the other ranks read it. No rank waits for one that
does not call `is_running`: a script in which only rank 0 calls it, and tells the others itself, works too.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import timedelta
from typing import Any

_TIMEOUT = timedelta(days=365)  # the next task may be hours away
_RUNNING, _OVER = b"running", b"over"


class Loop:
    """This process's passes through `while flare.is_running()`."""

    def __init__(self, rank: str) -> None:
        self._is_first = rank == "0"
        self._passes = 0

    def is_running(self, ask: Callable[[], bool]) -> bool:
        """What `ask` returns in rank 0. Others get the answer of the same pass; False if there is no group."""
        store = _store()
        key = f"fedsag/pass-{self._passes}"
        self._passes += 1
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
        except RuntimeError:  # the process with the store has ended, and with it the run
            return False


def _store() -> Any:
    """The store of this process's group; None if it is in no group with others."""
    dist = sys.modules.get("torch.distributed")  # a script that has a group has imported it
    if dist is None or not dist.is_available() or not dist.is_initialized() or dist.get_world_size() < 2:
        return None
    return dist.distributed_c10d._get_default_store()
