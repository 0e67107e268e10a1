"""NVFLARE's Client API with fedsag's names and behaviour.

`receive` returns a copy. The script may change it; a difference is still computed from the received values. `send`
changes neither the model that it sends nor the received one.
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

state: dict[str, Any] = {}
"""What a site keeps between tasks: with NVFLARE, as long as its process lives."""

_received: list[Any] = []  # NVFLARE's model of the current task, and the script's copy


def receive(timeout: float | None = None, ctx: Any = None) -> Any:
    original = _nvflare.receive(timeout=timeout, ctx=ctx)
    if original is None:
        return None
    if not _received or _received[0] is not original:
        copied = copy.copy(original)
        copied.params = copy.deepcopy(original.params)
        _received[:] = [original, copied]
    return _received[1]


def send(model: Any, clear_cache: bool = True, ctx: Any = None) -> None:  # noqa: ARG001
    model = copy.copy(model)  # NVFLARE removes the params from the model that it sends
    if model.metrics is not None:
        model.metrics = {name: float(value) for name, value in model.metrics.items()}
    model.meta = _without_tensors(model.meta)
    _nvflare.send(model, ctx=ctx)
    _received.clear()


def site(ctx: Any = None) -> Any:  # noqa: ARG001
    raise RuntimeError("NVFLARE does not tell a script how many sites there are: use flare.get_site_name()")


def partition(labels: Any, how: str = "iid", **_: Any) -> Any:  # noqa: ARG001
    raise RuntimeError(
        "flare.partition() divides one data set among simulated sites: with NVFLARE, load the site's own data"
    )


def _without_tensors(value: Any) -> Any:
    """A tree with arrays for torch's tensors, which NVFLARE sends among params only."""
    if isinstance(value, dict):
        return {key: _without_tensors(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_tensors(inner) for inner in value]
    return value.detach().cpu().numpy() if hasattr(value, "detach") else value
