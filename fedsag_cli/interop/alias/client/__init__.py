"""NVFLARE's Client API under fedsag's name, and with fedsag's behaviour.

`receive` returns a copy: the script may change it, and the difference that is sent is still right. `send` does not
change either model.
"""

import copy
from typing import Any

import nvflare.client as _nvflare
from nvflare.client import (  # noqa: F401
    AnalyticsDataType,
    FLModel,
    ParamsType,
    get_config,
    get_job_id,
    get_site_name,
    get_task_name,
    init,
    is_evaluate,
    is_running,
    is_submit_model,
    is_train,
    log,
    shutdown,
    system_info,
)
from nvflare.client.api_context import APIContext  # noqa: F401

_in_hand: list[Any] = []  # NVFLARE's model of the current task, and the script's copy


def receive(timeout: float | None = None, ctx: Any = None) -> Any:
    theirs = _nvflare.receive(timeout=timeout, ctx=ctx)
    if theirs is None:
        return None
    if not _in_hand or _in_hand[0] is not theirs:
        mine = copy.copy(theirs)
        mine.params = copy.deepcopy(theirs.params)
        _in_hand[:] = [theirs, mine]
    return _in_hand[1]


def send(model: Any, clear_cache: bool = True, ctx: Any = None) -> None:  # noqa: ARG001
    model = copy.copy(model)  # NVFLARE removes the params from the model that it sends
    if model.metrics is not None:
        model.metrics = {name: float(value) for name, value in model.metrics.items()}
    _nvflare.send(model, ctx=ctx)
    _in_hand.clear()
