"""Runs an executor that is written for NVFLARE, such as a class derived from its `Executor`, as a script.

Its one argument is a JSON object: the `executor` with its class path and arguments, and the `components` that it finds
by their ids. The executor works in the site's folder, as in NVFLARE.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

import fedsag_cli.client as flare
from fedsag_cli import catalog
from fedsag_cli.errors import ClientError
from fedsag_cli.interop import shim
from fedsag_cli.interop.base.context import Engine, FLContext, Signal, Workspace
from fedsag_cli.interop.base.exchange import FLModelUtils, Shareable
from fedsag_cli.interop.constants import AppConstants, EventType, MetaKey, ReservedKey, ReturnCode


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """A component: its class path, its arguments, and the id by which others find it."""

    path: str
    args: dict[str, Any] = {}
    id: str = ""


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """What runs: an executor and its components."""

    executor: Part
    components: list[Part] = []


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
    shim.install()
    config = msgspec.json.decode(sys.argv[1], type=Config)
    app = Path.cwd()
    os.chdir(app.parent.parent)
    components = {part.id: _build(part) for part in config.components}
    executor = _build(config.executor)
    engine = Engine(Workspace(app), components)
    engine.listeners.append(executor)
    flare.init()
    context = FLContext(flare.get_site_name(), flare.get_job_id(), engine)
    engine.fire_event(EventType.ABOUT_TO_START_RUN, context)
    engine.fire_event(EventType.START_RUN, context)
    while flare.is_running():
        model = flare.receive()
        assert model is not None  # is_running() was True
        task = flare.get_task_name()
        context.set_prop(ReservedKey.TASK_NAME, task)
        for key, value in (
            (AppConstants.CURRENT_ROUND, model.current_round),
            (AppConstants.NUM_ROUNDS, model.total_rounds),
        ):
            context.set_prop(key, value)
        engine.fire_event(EventType.BEFORE_TASK_EXECUTION, context)
        reply = executor.execute(task, _as_task(task, model), context, Signal())
        engine.fire_event(EventType.AFTER_TASK_EXECUTION, context)
        flare.send(_as_answer(task, reply))
    engine.fire_event(EventType.END_RUN, context)


def _as_task(task: str, model: flare.FLModel) -> Shareable:
    shareable = FLModelUtils.to_shareable(model)
    shareable.set_header(ReservedKey.TASK_NAME, task)
    for header, key in (
        (AppConstants.SUBMIT_MODEL_NAME, MetaKey.SUBMIT_MODEL_NAME),
        (AppConstants.MODEL_OWNER, "model_owner"),
    ):
        if key in model.meta:
            shareable.set_header(header, model.meta[key])
    return shareable


def _as_answer(task: str, reply: object) -> flare.FLModel:
    """The model or the metrics in an executor's answer. Raises ClientError if the task has failed."""
    if not isinstance(reply, Shareable):
        raise ClientError(f"execute() must return a Shareable, not {type(reply).__name__}")
    if (code := reply.get_return_code()) != ReturnCode.OK:
        raise ClientError(f"the executor answered {code} to the task {task!r}", hint="its log has the reason")
    try:
        return FLModelUtils.from_shareable(reply)
    except ValueError as error:
        raise ClientError(f"the executor's answer to the task {task!r}: {error}") from None


def _build(part: Part) -> Any:
    """Raises ClientError if there is no such class."""
    module, _, name = part.path.rpartition(".")
    try:
        made = getattr(importlib.import_module(module), name)
    except AttributeError:
        raise ClientError(f"{module} has no class {name!r}") from None
    return made(**{key: _built(value) for key, value in part.args.items()})


def _built(value: Any) -> Any:
    """An argument, in which an object with a class path is an instance of that class."""
    if isinstance(value, Mapping):
        if path := catalog.path_in(value, in_args=True):
            return _build(Part(path=path, args=dict(value.get("args") or {})))
        return {key: _built(inner) for key, inner in value.items()}
    return [_built(inner) for inner in value] if isinstance(value, list) else value


if __name__ == "__main__":
    main()
