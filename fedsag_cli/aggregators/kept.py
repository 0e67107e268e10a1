"""The updates of a round, kept until all are there: for aggregators that compare them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedsag_cli.errors import RunError, TensorError, counted
from fedsag_cli.model import FLModel, ParamsType, Reply
from fedsag_cli.params.stacks import check_alike


class KeptUpdates:
    """Updates by site, in site order. Large ones are in a file."""

    def __init__(self) -> None:
        self._models: dict[str, FLModel] = {}
        self._first: dict[str, Any] = {}  # the first value of each key

    def add(self, reply: Reply) -> None:
        """Raises TensorError if FULL and DIFF are mixed, or a shape or a kind of number differs."""
        site, update = reply.site, reply.model
        if self._models and update.params_type is not self.params_type:
            raise TensorError(f"{site} sent {update.params_type}, others {self.params_type}")
        for name, value in (update.params or {}).items():
            if name in self._first:
                check_alike(name, value, self._first[name])
        kept = self._models[site] = reply.keep()
        self._first = {**(kept.params or {}), **self._first}

    @property
    def params_type(self) -> ParamsType:
        """FULL or DIFF; FULL if there is no update."""
        return next((model.params_type for model in self._models.values() if model.params_type), ParamsType.FULL)

    def take(self) -> Mapping[str, FLModel]:
        """All updates; none are kept after this."""
        models, self._models, self._first = self._models, {}, {}
        return models


def by_key(updates: Mapping[str, FLModel]) -> Mapping[str, Sequence[Any]]:
    """The values of each key, of all updates that have it."""
    values: dict[str, list[Any]] = {}
    for update in updates.values():
        for name, value in (update.params or {}).items():
            values.setdefault(name, []).append(value)
    return values


def need(number: int, there: int, who: str) -> None:
    """Raises RunError where there are fewer updates in a round than an aggregator needs."""
    if there < number:
        raise RunError(
            f"{who} needs {counted(number, 'update')} in each round, this one has {there}",
            hint="use more clients (-n), or set min_clients so that a round with too few of them ends the run",
        )
