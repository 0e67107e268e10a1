"""`@flare.train` and `@flare.evaluate`, which older scripts for NVFLARE use instead of the loop."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import fedsag_cli.client as flare
from fedsag_cli.client import APIContext, FLModel

_METRIC = "accuracy"  # the name for a metric without a name: the key_metric of NVFLARE's templates

_measured: dict[str, Any] = {}  # what `evaluate` returned; `train` sends it


def clear(ctx: APIContext | None = None) -> None:
    """Does nothing: no model is kept after `send`."""


def train(function: Callable[..., Any] | None = None, **_: Any) -> Any:
    """For a function that gets the received model as its first argument, and returns the FLModel to send.

    Raises TypeError if it returns something else.
    """

    def answer(model: FLModel | None, call: Callable[[FLModel | None], Any]) -> Any:
        update = call(model)
        if not isinstance(update, FLModel):
            raise TypeError(f"a function with @flare.train returns an FLModel, not a {type(update).__name__}")
        if _measured:
            update.metrics = dict(_measured)
            _measured.clear()
        flare.send(update)
        return update

    return _decorated(answer, function)


def evaluate(function: Callable[..., Any] | None = None, **_: Any) -> Any:
    """For a function that gets the received model as its first argument, and returns metrics.

    Call it before the function with `@flare.train`, which sends the metrics. If the task is to evaluate, they are sent
    at once. Raises TypeError if it returns None.
    """

    def answer(model: FLModel | None, call: Callable[[FLModel | None], Any]) -> Any:
        metrics = call(model)
        if metrics is None:
            raise TypeError("a function with @flare.evaluate returns metrics, not None")
        named = metrics if isinstance(metrics, Mapping) else {_METRIC: metrics}
        if flare.is_train():
            _measured.update(named)
        else:
            flare.send(FLModel(metrics=dict(named)))
        return metrics

    return _decorated(answer, function)


def _decorated(answer: Callable[..., Any], function: Callable[..., Any] | None) -> Any:
    """A decorator with or without parentheses. The received model replaces the caller's first argument."""

    def decorator(inner: Callable[..., Any]) -> Callable[..., Any]:
        first = next(iter(inspect.signature(inner).parameters), None)

        @functools.wraps(inner)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            others = {name: value for name, value in kwargs.items() if name != first}
            return answer(flare.receive(), lambda model: inner(model, *args[1:], **others))

        return wrapped

    return decorator if function is None else decorator(function)
