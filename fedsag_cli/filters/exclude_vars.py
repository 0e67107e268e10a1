"""Keeps named parameters at home."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from fedsag_cli.model import FLModel


class ExcludeVars:
    """Leaves out every key that is in a list of names, or in which a regular expression is found."""

    def __init__(self, exclude_vars: str | Sequence[str]) -> None:
        self._names = set() if isinstance(exclude_vars, str) else set(exclude_vars)
        self._pattern = re.compile(exclude_vars) if isinstance(exclude_vars, str) and exclude_vars else None

    def process(self, model: FLModel) -> FLModel:
        if model.params is None:
            return model
        kept = {name: value for name, value in model.params.items() if not self._excludes(name)}
        return replace(model, params=kept)

    def _excludes(self, name: str) -> bool:
        return name in self._names or bool(self._pattern and self._pattern.search(name))
