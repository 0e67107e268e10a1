"""The contract of a filter, and chains of filters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol

from fedsag_cli.model import FLModel
from fedsag_cli.plan import matches


class Filter(Protocol):
    """Changes models before they are sent or after they are received, in the process whose config names it.

    A filter that removes params by their names can have a method `excludes(name)`, which says whether it does. With it,
    a script may also give such keys that the model does not have, if differences are sent.
    """

    def process(self, model: FLModel) -> FLModel:
        """The model to use instead of `model`, which must not be changed."""


class Chain:
    """The filters of one direction, in the order of the config; each is for the tasks that match its patterns."""

    def __init__(self, links: Iterable[tuple[Sequence[str], Filter]] = ()) -> None:
        """`links`: pairs of task name patterns and the filter for those tasks."""
        self._links = list(links)

    @property
    def filters(self) -> list[Filter]:
        """All of them."""
        return [link for _, link in self._links]

    def of(self, task_name: str) -> Iterator[Filter]:
        """The filters for this task."""
        for patterns, link in self._links:
            if matches(task_name, patterns):
                yield link

    def excludes(self, task_name: str, name: str) -> bool:
        """Whether a filter removes all params of this name, and says so by its `excludes`."""
        asked = (getattr(link, "excludes", None) for link in self.of(task_name))
        return any(callable(excludes) and excludes(name) for excludes in asked)

    def process(self, task_name: str, model: FLModel) -> FLModel:
        """The model to send. Raises TypeError where a filter makes no such thing, and whatever a filter raises."""
        for link in self.of(task_name):
            model = made_by(link, model)
        return model


def made_by(link: Filter, model: FLModel) -> FLModel:
    """What one filter makes of `model`. Raises TypeError where that is no model, and whatever the filter raises."""
    made: object = link.process(model)
    name = f"{type(link).__name__}.process()"
    if not isinstance(made, FLModel):
        raise TypeError(f"{name} returned {type(made).__name__}, not an FLModel")
    if not isinstance(made.params, Mapping | None):
        raise TypeError(f"{name} returned params that are a {type(made.params).__name__}, not a dict")
    return made
