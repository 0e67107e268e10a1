"""The Client API for Lightning: `patch(trainer)` makes `validate` and `fit` answer the tasks of a run.

    import fedsag_cli.client.lightning as flare

    trainer = Trainer(max_epochs=1)
    flare.patch(trainer)                          # joins the run, unless flare.init() was called
    while flare.is_running():
        trainer.validate(model, datamodule=data)  # measures the received model
        trainer.fit(model, datamodule=data)       # trains it and sends the result

Works with trainers of `lightning.pytorch` and of `pytorch_lightning`; this module imports neither. If a trainer has
several processes, all of them run the script and call `is_running()`; only rank 0 is connected to the server.
"""

from __future__ import annotations

import sys
from typing import Any

from fedsag_cli import client
from fedsag_cli.client import (
    AnalyticsDataType,
    APIContext,
    FLModel,
    ParamsType,
    get_config,
    get_job_id,
    get_site_name,
    init,
    log,
    partition,
    receive,
    send,
    shutdown,
    site,
    system_info,
)
from fedsag_cli.client.lightning.callback import FLCallback
from fedsag_cli.client.lightning.logger import ClientLogger
from fedsag_cli.client.lightning.progress import Trainer
from fedsag_cli.client.trainer_ranks import Ranks, TaskKind
from fedsag_cli.errors import ClientError

__all__ = [
    "APIContext",
    "AnalyticsDataType",
    "ClientLogger",
    "FLCallback",
    "FLModel",
    "ParamsType",
    "get_config",
    "get_job_id",
    "get_site_name",
    "init",
    "is_evaluate",
    "is_running",
    "is_submit_model",
    "is_train",
    "log",
    "partition",
    "patch",
    "receive",
    "send",
    "shutdown",
    "site",
    "system_info",
]

_PACKAGES = ("lightning.pytorch", "pytorch_lightning")
_NEW_PROCESSES = ("_MultiProcessingLauncher", "_XLALauncher")
_SHARDED = ("FSDPStrategy", "ModelParallelStrategy", "DeepSpeedStrategy")

_callbacks: dict[str, type[FLCallback]] = {}  # by package
_ranks: dict[APIContext, Ranks] = {}


def patch(
    trainer: Trainer, restore_state: bool = True, load_state_dict_strict: bool = True, update_fit_loop: bool = True
) -> None:
    """Make `trainer.validate` measure the received model, and `trainer.fit` train it and send the result.

    `restore_state`: optimizers and learning rate schedulers continue from their state at the end of the last round.
    `load_state_dict_strict`: False if the received model and the module have different keys; only common keys are
    loaded and sent. `update_fit_loop`: every `fit` trains for another `max_epochs` (`max_steps`); False if the
    script changes that limit itself. A second call for a trainer does nothing.

    Raises TypeError if `trainer` is not a Trainer of Lightning; ClientError if its strategy cannot take part, or
    `init` fails.
    """
    package = _package_of(trainer)
    _check_strategy(trainer)
    if any(isinstance(each, FLCallback) for each in trainer.callbacks):
        return
    if package not in _callbacks:
        base = sys.modules[package].Callback
        _callbacks[package] = type("FLCallback", (FLCallback, base), {"__module__": __name__})
    trainer.callbacks.append(
        _callbacks[package](
            _ranks_of(_joined(str(trainer.global_rank))),
            restore_state=restore_state,
            strict=load_state_dict_strict,
            update_fit_loop=update_fit_loop,
        )
    )


def is_running(ctx: APIContext | None = None) -> bool:
    """Wait for the next task: True if there is one, False at the end of the run. The same in every rank."""
    return _ranks_of(ctx).next_task() is not TaskKind.OVER


def is_train(ctx: APIContext | None = None) -> bool:
    """Whether the current task is to train. Every rank may call it."""
    return _ranks_of(ctx).kind() is TaskKind.TRAIN


def is_evaluate(ctx: APIContext | None = None) -> bool:
    """Whether the current task is to evaluate, which `trainer.validate` answers. Every rank may call it."""
    return _ranks_of(ctx).kind() is TaskKind.EVALUATE


def is_submit_model(ctx: APIContext | None = None) -> bool:
    """Whether the current task is to send the site's own model. Every rank may call it.

    The next `validate` or `fit` sends the trainer's best checkpoint; without one, the module with its last weights.
    """
    return _ranks_of(ctx).kind() is TaskKind.SUBMIT_MODEL


def _package_of(trainer: Any) -> str:
    for name in _PACKAGES:
        kind = getattr(sys.modules.get(name), "Trainer", None)  # the package of `trainer` is loaded
        if isinstance(kind, type) and isinstance(trainer, kind):
            return name
    raise TypeError(f"flare.patch() takes a Trainer of {' or '.join(_PACKAGES)}, not a {type(trainer).__name__}")


def _check_strategy(trainer: Trainer) -> None:
    """Raises ClientError for a strategy that cannot take part in a run."""
    strategy = trainer.strategy
    launchers = {kind.__name__ for kind in type(strategy.launcher).__mro__}
    kinds = {kind.__name__ for kind in type(strategy).__mro__}
    if not launchers.isdisjoint(_NEW_PROCESSES):
        raise ClientError(
            f"{type(strategy).__name__} starts new processes for every fit, which cannot take part in a run",
            hint='use Trainer(strategy="ddp")',
        )
    if not kinds.isdisjoint(_SHARDED):
        raise ClientError(
            f"{type(strategy).__name__} splits a model over several processes; none of them can send the whole model",
            hint='use Trainer(strategy="ddp"), or one device',
        )


def _joined(rank: str) -> APIContext:
    """The context of this rank: the script's own, or a new one."""
    if client._last and client._last[0]._session.rank == rank:
        return client._last[0]
    return init(rank)


def _ranks_of(ctx: APIContext | None) -> Ranks:
    session = client._session(ctx, "is_running")
    context = ctx or client._last[0]
    if context not in _ranks:
        _ranks[context] = Ranks(session)
    return _ranks[context]
