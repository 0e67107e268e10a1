"""`@flare.train` and `@flare.evaluate`, by which scripts of NVFLARE's took part before there was a loop to write."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import fedsag_cli.client as flare
from fedsag_cli.client import APIContext, FLModel

_METRIC = "accuracy"  # what a metric without a name is called: as their templates' key_metric

_measured: dict[str, Any] = {}  # what `evaluate` gave, for `train` to send along


def clear(ctx: APIContext | None = None) -> None:
    """Nothing is left to clear: `send` lets both models go."""


def train(function: Callable[..., Any] | None = None, **_: Any) -> Any:
    """The function gets the received model as its first argument; the FLModel it gives is sent.

    Raises TypeError where it gives something else.
    """

    def does(model: FLModel | None, call: Callable[[FLModel | None], Any]) -> Any:
        update = call(model)
        if not isinstance(update, FLModel):
            raise TypeError(f"a function under @flare.train gives an FLModel, not a {type(update).__name__}")
        if _measured:
            update.metrics = dict(_measured)
            _measured.clear()
        flare.send(update)
        return update

    return _decorated(does, function)


def evaluate(function: Callable[..., Any] | None = None, **_: Any) -> Any:
    """The function gets the received model as its first argument; the metrics it gives go along with what is trained.

    Called before the one under `@flare.train`. Where the task is to evaluate, they are sent at once. Raises TypeError
    where it gives none.
    """

    def does(model: FLModel | None, call: Callable[[FLModel | None], Any]) -> Any:
        metrics = call(model)
        if metrics is None:
            raise TypeError("a function under @flare.evaluate gives metrics, not None")
        named = metrics if isinstance(metrics, Mapping) else {_METRIC: metrics}
        if flare.is_train():
            _measured.update(named)
        else:
            flare.send(FLModel(metrics=dict(named)))
        return metrics

    return _decorated(does, function)


def _decorated(does: Callable[..., Any], function: Callable[..., Any] | None) -> Any:
    """With and without parentheses. What the caller gives as first argument is the received model's place."""

    def decorator(inner: Callable[..., Any]) -> Callable[..., Any]:
        first = next(iter(inspect.signature(inner).parameters), None)

        @functools.wraps(inner)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            others = {name: value for name, value in kwargs.items() if name != first}
            return does(flare.receive(), lambda model: inner(model, *args[1:], **others))

        return wrapped

    return decorator if function is None else decorator(function)
