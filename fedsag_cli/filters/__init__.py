"""The contract of a filter, and chains of filters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from fedsag_cli.model import FLModel
from fedsag_cli.plan import matches


class Filter(Protocol):
    """Changes models before they are sent or after they are received, in the process whose config names it."""

    def process(self, model: FLModel) -> FLModel:
        """The model to use instead of `model`, which must not be changed."""


class Chain:
    """The filters of one direction, in the order of the config; each is for the tasks that match its patterns."""

    def __init__(self, links: Iterable[tuple[Sequence[str], Filter]] = ()) -> None:
        """`links`: pairs of task name patterns and the filter for those tasks."""
        self._links = list(links)

    def of(self, task_name: str) -> Iterator[Filter]:
        """The filters for this task."""
        for patterns, link in self._links:
            if matches(task_name, patterns):
                yield link

    def process(self, task_name: str, model: FLModel) -> FLModel:
        for link in self.of(task_name):
            model = link.process(model)
        return model
