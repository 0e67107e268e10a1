"""Fingerprints of params, by which two runs are compared: one of all, and one of each tensor.

They are XXH3, which is as fast as memory. It finds differences; it is no proof against somebody who wants to deceive.
"""

from __future__ import annotations

from dataclasses import dataclass

import xxhash

from fedsag_cli.params.tensor_file import TensorFile

_DIGITS = 8  # hex digits for each tensor


@dataclass(frozen=True, slots=True)
class Fingerprints:
    """`digest`: of names, kinds, dtypes, shapes and bytes; `tensors`: eight hex digits for each of `names`."""

    digest: str = ""
    tensors: str = ""
    names: tuple[str, ...] = ()


NONE = Fingerprints()


def fingerprints(file: TensorFile | None) -> Fingerprints:
    """Those of the params in a file, in the order of the keys. Raises TensorError if the file is damaged."""
    if file is None:
        return NONE
    whole = xxhash.xxh3_128()
    names, tensors = [], []
    for name, form, data in file.pieces():
        found = xxhash.xxh3_128(data)
        found.update(form.encode())
        whole.update(f"{name}\0{found.hexdigest()}\0".encode())
        names.append(name)
        tensors.append(found.hexdigest()[:_DIGITS])
    return Fingerprints(whole.hexdigest(), "".join(tensors), tuple(names)) if names else NONE
