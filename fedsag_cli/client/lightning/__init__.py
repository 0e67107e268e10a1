"""A Lightning script as a client: one line makes its `validate` and `fit` those of a federation.

    import fedsag_cli.client.lightning as flare

    trainer = Trainer(max_epochs=1)
    flare.patch(trainer)                          # joins the run, where flare.init() has not
    while flare.is_running():
        trainer.validate(model, datamodule=data)  # measures the model that was received
        trainer.fit(model, datamodule=data)       # trains it, and sends what came of it

Trainers of `lightning.pytorch` and of `pytorch_lightning` will do; neither is imported here. Where a trainer has
several processes, all of them run the script: rank 0 talks to the server, and `is_running()` must be called by all.
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
    receive,
    send,
    shutdown,
    system_info,
)
from fedsag_cli.client.lightning.callback import FLCallback
from fedsag_cli.client.lightning.logger import ClientLogger
from fedsag_cli.client.lightning.progress import Trainer
from fedsag_cli.client.lightning.ranks import Ranks, Standing
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
    "patch",
    "receive",
    "send",
    "shutdown",
    "system_info",
]

_PACKAGES = ("lightning.pytorch", "pytorch_lightning")
_ANEW = ("_MultiProcessingLauncher", "_XLALauncher")
_SHARDS = ("FSDPStrategy", "ModelParallelStrategy", "DeepSpeedStrategy")

_callbacks: dict[str, type[FLCallback]] = {}  # by package
_ranks: dict[APIContext, Ranks] = {}


def patch(
    trainer: Trainer, restore_state: bool = True, load_state_dict_strict: bool = True, update_fit_loop: bool = True
) -> None:
    """From now on `trainer.validate` measures the received model, `trainer.fit` trains it and sends the result.

    `restore_state`: optimizers and learning rate schedulers go on where the round before left them.
    `load_state_dict_strict`: false where the received model may have keys that the module has not, and lack others;
    those that both have travel. `update_fit_loop`: every round trains `max_epochs` (`max_steps`) of its own; false
    where the script moves that limit itself. A trainer that is patched already stays as it is.

    Raises TypeError where `trainer` is none of Lightning's, ClientError where its strategy cannot take part, or where
    no fedsag run started this process.
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
    """Whether there is a task to answer; waits until that is known. False at the end of the run, in every rank."""
    return _ranks_of(ctx).await_task() is not Standing.OVER


def is_train(ctx: APIContext | None = None) -> bool:
    """Whether the current task is to train. Every rank may ask."""
    return _ranks_of(ctx).role() is Standing.TRAIN


def is_evaluate(ctx: APIContext | None = None) -> bool:
    """Whether the current task is to evaluate what was received: `trainer.validate` answers it. Every rank may ask."""
    return _ranks_of(ctx).role() is Standing.EVALUATE


def is_submit_model(ctx: APIContext | None = None) -> bool:
    """Whether the current task is to send the site's own model. Every rank may ask.

    A script that does nothing about it sends, with its next `validate` or `fit`, the best checkpoint it has, or else
    what it trained last.
    """
    return _ranks_of(ctx).role() is Standing.SUBMIT_MODEL


def _package_of(trainer: Any) -> str:
    for name in _PACKAGES:
        kind = getattr(sys.modules.get(name), "Trainer", None)  # what made `trainer` is loaded
        if isinstance(kind, type) and isinstance(trainer, kind):
            return name
    raise TypeError(f"flare.patch() takes a Trainer of {' or '.join(_PACKAGES)}, not a {type(trainer).__name__}")


def _check_strategy(trainer: Trainer) -> None:
    """Raises ClientError."""
    strategy = trainer.strategy
    starters = {kind.__name__ for kind in type(strategy.launcher).__mro__}
    kinds = {kind.__name__ for kind in type(strategy).__mro__}
    if not starters.isdisjoint(_ANEW):
        raise ClientError(
            f"{type(strategy).__name__} starts processes anew for every fit: none of them could keep to the run",
            hint='use Trainer(strategy="ddp")',
        )
    if not kinds.isdisjoint(_SHARDS):
        raise ClientError(
            f"{type(strategy).__name__} divides a model among processes: none of them has it whole",
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
