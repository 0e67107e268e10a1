"""Excludes params from the models that are sent."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated

from fedsag_cli.arguments import Regex, checked
from fedsag_cli.facts import Facts, Nvflare
from fedsag_cli.model import Exchange, FLModel


class ExcludeVars:
    """Removes params from a model before it is sent."""

    facts = Facts(
        nvflare=Nvflare(
            path="nvflare.app_common.filters.exclude_vars.ExcludeVars",
            expected={"data_kinds": (None, ["WEIGHT_DIFF", "WEIGHTS"], ["WEIGHTS", "WEIGHT_DIFF"])},
        )
    )

    @checked
    def __init__(
        self,
        exclude_vars: Annotated[
            str | Sequence[str],
            Regex(),
            "params to remove: a list of their names, or a regular expression that matches them",
        ],
    ) -> None:
        self._names = set() if isinstance(exclude_vars, str) else set(exclude_vars)
        self._pattern = re.compile(exclude_vars) if isinstance(exclude_vars, str) and exclude_vars else None

    def process(self, model: FLModel, exchange: Exchange) -> FLModel:  # noqa: ARG002
        if model.params is None:
            return model
        kept = {name: value for name, value in model.params.items() if not self.excludes(name)}
        return replace(model, params=kept)

    def excludes(self, name: str) -> bool:
        """Whether params of this name are removed."""
        return name in self._names or bool(self._pattern and self._pattern.search(name))
