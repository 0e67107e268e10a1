"""The processes of one client that train one model together, as torchrun starts them: rank 0 alone talks to the server.

What rank 0 learns of the run the others find in the store that their process group has. Nobody waits for who never
asks: a script in which rank 0 alone asks, and tells the others by itself, does as it always did.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import timedelta
from typing import Any

_AS_LONG_AS_IT_TAKES = timedelta(days=365)
_RUNNING, _OVER = b"running", b"over"


class Loop:
    """This process's passes through `while flare.is_running()`."""

    def __init__(self, rank: str) -> None:
        self._is_first = rank == "0"
        self._passes = 0

    def goes_on(self, ask: Callable[[], bool]) -> bool:
        """What `ask` says, in rank 0, or said there at the same pass, in the others; False where there is no group."""
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
            store.wait([key], _AS_LONG_AS_IT_TAKES)
            return bool(store.get(key) == _RUNNING)
        except RuntimeError:  # who had the store is gone, and with it the run
            return False


def _store() -> Any:
    """That of the process group, if this process is in one with others."""
    dist = sys.modules.get("torch.distributed")  # a script that has a group has imported it
    if dist is None or not dist.is_available() or not dist.is_initialized() or dist.get_world_size() < 2:
        return None
    return dist.distributed_c10d._get_default_store()
