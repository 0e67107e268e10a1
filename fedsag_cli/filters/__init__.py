"""The contract of a filter, and chains of filters."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

from fedsag_cli.model import Exchange, FLModel
from fedsag_cli.plan import matches

Exchanges: TypeAlias = Callable[[int], Exchange]
"""Where the filter with this number in its chain works."""


class Filter(Protocol):
    """Changes models before they are sent or after they are received, in the process whose config names it.

    A filter that needs only the model can have `process(model)`. One that removes params by their names can have a
    method `excludes(name)`, which says whether it does. With it, a script may also give such keys that the model does
    not have, if differences are sent. `make_ready(site)` is called once, before the first task ("server" in the
    server). `filter_model(model, exchange)` takes the place of `process`, where that has another contract.
    """

    def process(self, model: FLModel, exchange: Exchange) -> FLModel:
        """The model to use instead of `model`, which must not be changed."""


class Chain:
    """The filters of one direction, in the order of the config; each is for the tasks that match its patterns."""

    def __init__(self, links: Iterable[tuple[Sequence[str], Any]] = ()) -> None:
        """`links`: pairs of task name patterns and the filter for those tasks."""
        self._links = list(links)

    @property
    def filters(self) -> list[Any]:
        """All of them."""
        return [link for _, link in self._links]

    def of(self, task_name: str) -> Iterator[tuple[int, Any]]:
        """The filters for this task, each with its number in the chain, from 0."""
        for number, (patterns, link) in enumerate(self._links):
            if matches(task_name, patterns):
                yield number, link

    def make_ready(self, site: str) -> None:
        """The run of this site, or of the server, begins."""
        for link in self.filters:
            if callable(make_ready := getattr(link, "make_ready", None)):
                make_ready(site)

    def excludes(self, task_name: str, name: str) -> bool:
        """Whether a filter removes all params of this name, and says so by its `excludes`."""
        asked = (getattr(link, "excludes", None) for _, link in self.of(task_name))
        return any(callable(excludes) and excludes(name) for excludes in asked)

    def process(self, task_name: str, model: FLModel, exchanges: Exchanges) -> FLModel:
        """The model to send. Raises TypeError where a filter makes no such thing, and whatever a filter raises."""
        for number, link in self.of(task_name):
            model = made_by(link, model, exchanges(number))
        return model


def made_by(link: Any, model: FLModel, exchange: Exchange) -> FLModel:
    """What one filter makes of `model`. Raises TypeError where that is no model, and whatever the filter raises."""
    if callable(filter_model := getattr(link, "filter_model", None)):
        made: object = filter_model(model, exchange)
    else:
        made = link.process(model, exchange) if _takes_exchange(link) else link.process(model)
    name = f"{type(link).__name__}.process()"
    if not isinstance(made, FLModel):
        raise TypeError(f"{name} returned {type(made).__name__}, not an FLModel")
    if not isinstance(made.params, Mapping | None):
        raise TypeError(f"{name} returned params that are a {type(made.params).__name__}, not a dict")
    return made


def _takes_exchange(link: Any) -> bool:
    try:
        inspect.signature(link.process).bind(None, None)
    except TypeError:
        return False
    return True
