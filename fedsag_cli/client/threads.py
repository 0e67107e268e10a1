"""The number of threads of torch, numpy and scipy in a script's process.

They read OMP_NUM_THREADS when they are imported, and they are imported before the script starts: a script that sets the
variable would set it too late. So these are followed whenever the script sets them.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

import numpy as np

from fedsag_cli import machine

_FOR_TORCH = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
_FOR_NUMPY = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_OPENBLAS_SETTERS = (
    "scipy_openblas_set_num_threads64_",
    "scipy_openblas_set_num_threads",
    "openblas_set_num_threads64_",
    "openblas_set_num_threads",
)


def follow() -> None:
    """Use OMP_NUM_THREADS now, and what the script sets from now on."""
    _set_threads("OMP_NUM_THREADS", os.environ.get("OMP_NUM_THREADS", ""))
    os.environ.__class__ = _Followed


class _Followed(type(os.environ)):  # type: ignore[misc]  # a class that only os has
    def __setitem__(self, name: str, value: str) -> None:
        super().__setitem__(name, value)
        _set_threads(name, value)


def _set_threads(name: str, value: str) -> None:
    count = value.partition(",")[0].strip()  # after the comma: threads of nested regions
    if not count.isdecimal() or int(count) == 0:
        return  # the libraries do not use such a value either
    if name in _FOR_TORCH and (torch := sys.modules.get("torch")):
        torch.set_num_threads(int(count))
    for library in _openblas() if name in _FOR_NUMPY else ():
        for setter in _OPENBLAS_SETTERS:
            if hasattr(library, setter):
                getattr(library, setter)(int(count))


def _openblas() -> list[ctypes.CDLL]:
    """The libraries for linear algebra that come with numpy and scipy from PyPI; elsewhere they use others."""
    packages = [Path(np.__file__).parent]
    if linalg := sys.modules.get("scipy.linalg"):
        packages.append(Path(str(linalg.__file__)).parents[1])
    return [ctypes.CDLL(str(file)) for package in packages for file in machine.openblas_of(package)]
