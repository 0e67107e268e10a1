"""Random seeds: each part of a run has its own, derived from the seed of the run."""

from __future__ import annotations

import hashlib
import random
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np

from fedsag_cli import machine


def derived(seed: int, *parts: object) -> int:
    """A seed of 63 bits for a part of a run, such as ("site-1", 3)."""
    text = "/".join(map(str, (seed, *parts)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def derived_for_each(seed: int, *parts: object, names: Iterable[str]) -> dict[str, int]:
    """The same as `derived(seed, *parts, name)` for each of many names, in a third of the time."""
    begun = hashlib.sha256("/".join(map(str, (seed, *parts, ""))).encode())
    found: dict[str, int] = {}
    for name in names:
        own = begun.copy()
        own.update(name.encode())
        found[name] = int.from_bytes(own.digest()[:8], "little") >> 1
    return found


def of_round(seed: int, who: str, round_num: int, workflow: int, nth: int = 0) -> int:
    """The seed of a process in a round. Each workflow counts its own rounds: a second one has other numbers.

    `nth`: how often the process was asked before in this round.
    """
    return derived(
        seed, who, *(("workflow", workflow) if workflow else ()), round_num, *(("again", nth) if nth else ())
    )


def set_seed(seed: int) -> None:
    """Seed random, numpy and, if it is imported, torch with its CUDA devices."""
    random.seed(seed)
    np.random.seed(seed % (1 << 32))
    if torch := sys.modules.get("torch"):
        if machine.may_have_accelerator():
            torch.manual_seed(seed)  # CUDA devices too; if CUDA is not initialized yet, at its first use
        else:  # for that first use, it would format the stack three times: a tenth of a short round
            torch.default_generator.manual_seed(seed)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """As after `set_seed`, but for the CPU only; at the end, the generators go on where they were."""
    torch = sys.modules.get("torch")
    before = random.getstate(), np.random.get_state(), torch.default_generator.get_state() if torch else None
    random.setstate(random.Random(seed).getstate())  # not seed(): a client takes that for the script's own
    np.random.set_state(np.random.RandomState(seed % (1 << 32)).get_state())
    if torch:
        torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        if torch:
            torch.default_generator.set_state(before[2])
