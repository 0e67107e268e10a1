"""Fingerprints of params, by which two runs are compared: one of all, and one of each tensor.

They are XXH3, which is as fast as memory. It finds differences; it is no proof against somebody who wants to deceive.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import xxhash

from fedsag_cli.params.encoding import flattened

_DIGITS = 8  # hex digits for each tensor


@dataclass(frozen=True, slots=True)
class Fingerprints:
    """`digest`: of names, dtypes, shapes and bytes; `tensors`: eight hex digits for each of `names`."""

    digest: str = ""
    tensors: str = ""
    names: tuple[str, ...] = ()


NONE = Fingerprints()


def fingerprints(params: Mapping[str, Any] | None) -> Fingerprints:
    """Those of `params`, in the order of the keys. Raises TensorError."""
    if params is None:
        return NONE
    whole = xxhash.xxh3_128()
    tensors = []
    for name, value in params.items():
        flat = flattened(name, value)
        found = xxhash.xxh3_128(flat.data)
        found.update(f"{flat.kind}\0{flat.dtype}\0{flat.shape}".encode())
        whole.update(f"{name}\0{found.hexdigest()}\0".encode())
        tensors.append(found.hexdigest()[:_DIGITS])
    return Fingerprints(whole.hexdigest(), "".join(tensors), tuple(params))
