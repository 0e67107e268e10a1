"""`optional_import`: a package that may be missing, for scripts that use NVFLARE's."""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["optional_import"]


def optional_import(module: str, *, name: str = "", **other: Any) -> tuple[Any, bool]:
    """The module, or what is called `name` in it, and whether it is there.

    If not, what is returned raises ImportError when it is used. Raises TypeError for NVFLARE's other arguments, such as
    a version, which fedsag does not compare.
    """
    if other:
        raise TypeError(f"optional_import: fedsag has no argument {next(iter(other))!r}")
    try:
        found = importlib.import_module(module)
        return (getattr(found, name) if name else found), True
    except (ImportError, AttributeError) as error:
        return _Missing(f"{module}{'.' if name else ''}{name}: {error}"), False


class _Missing:
    def __init__(self, cause: str) -> None:
        self._cause = cause

    def __getattr__(self, name: str) -> Any:
        raise ImportError(self._cause)

    def __call__(self, *_: Any, **__: Any) -> Any:
        raise ImportError(self._cause)
