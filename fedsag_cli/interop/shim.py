"""Lets a script that imports `nvflare.client` run as it is, whether or not NVFLARE is installed.

In a client's process only. What the Client API is made of comes from us in any case: a run of ours can do nothing with
another system's. Other modules are NVFLARE's own where that is installed, and not there where it is not.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

_ROOT = "nvflare"
_ALWAYS = {
    "nvflare.client": "fedsag_cli.client",
    "nvflare.client.api": "fedsag_cli.client",
    "nvflare.app_common.abstract.fl_model": "fedsag_cli.client",
}
_WHERE_IT_IS_NOT_INSTALLED = {
    "nvflare.app_common.app_constant": "fedsag_cli.interop.constants",
}
_PACKAGES = {"nvflare", "nvflare.client", "nvflare.app_common", "nvflare.app_common.abstract"}


def install() -> None:
    """From now on these names can be imported. Once; again it does nothing."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,  # noqa: ARG002
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        if fullname.partition(".")[0] != _ROOT:
            return None
        ours = _ALWAYS.get(fullname)
        if ours is None and not _is_installed():
            ours = _WHERE_IT_IS_NOT_INSTALLED.get(fullname, "" if fullname in _PACKAGES else None)
        if ours is None:
            return None
        return ModuleSpec(fullname, _Loader(ours), is_package=fullname in _PACKAGES)


class _Loader(Loader):
    """Fills a module with the public names of ours; an empty package has none."""

    def __init__(self, ours: str) -> None:
        self._ours = ours

    def exec_module(self, module: ModuleType) -> None:
        if self._ours:
            known = vars(importlib.import_module(self._ours))
            module.__dict__.update({name: value for name, value in known.items() if not name.startswith("_")})
            module.__doc__ = known.get("__doc__")


def _is_installed() -> bool:
    return PathFinder.find_spec(_ROOT) is not None
