"""NVFLARE's Client API under the name of fedsag's, and with its manners.

What `receive` gives is the script's own: changing it changes no difference that is sent. `send` leaves both models as
they are.
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

_in_hand: list[Any] = []  # NVFLARE's model of the current task, and the script's


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
    model = copy.copy(model)  # NVFLARE takes the params out of what it is given
    if model.metrics is not None:
        model.metrics = {name: float(value) for name, value in model.metrics.items()}
    _nvflare.send(model, ctx=ctx)
    _in_hand.clear()
