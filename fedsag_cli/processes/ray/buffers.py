"""The contents of tensor files as buffers that Ray's object store takes and gives without a further copy."""

from __future__ import annotations

import mmap
import os
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Buffer: TypeAlias = npt.NDArray[np.uint8]


def content(fd: int) -> Buffer:
    """The bytes of the file `fd`, mapped: shape (size,), uint8. They stay valid when `fd` is closed. Raises OSError."""
    size = os.fstat(fd).st_size
    return np.frombuffer(mmap.mmap(fd, size, access=mmap.ACCESS_READ) if size else b"", np.uint8)
