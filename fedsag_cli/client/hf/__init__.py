"""The Client API for Hugging Face: `patch(trainer)` makes `evaluate` and `train` answer the tasks of a run.

    import fedsag_cli.client.hf as flare

    trainer = Trainer(model, args, train_dataset=…, eval_dataset=…)
    flare.patch(trainer)       # joins the run, unless flare.init() was called
    while flare.is_running():
        trainer.evaluate()     # measures the received model
        trainer.train()        # trains it and sends the result

Works with `transformers.Trainer` and what is made from it, such as TRL's trainers. Of a model with a PEFT adapter, only
the adapter travels. This module imports neither. If a trainer has several processes, all of them run the script; only
rank 0 is connected to the server.
"""

from __future__ import annotations

import sys
from typing import Any, TypeVar

from fedsag_cli import client
from fedsag_cli.client import (
    AnalyticsDataType,
    APIContext,
    FLModel,
    ParamsType,
    get_config,
    get_job_id,
    get_site_name,
    get_task_name,
    init,
    log,
    partition,
    receive,
    send,
    shutdown,
    site,
    system_info,
)
from fedsag_cli.client.decorators import evaluate, train
from fedsag_cli.client.hf.budget import Budget, Continuing
from fedsag_cli.client.hf.callback import FLCallback
from fedsag_cli.client.hf.params import Trainer, Travelling, adapter_state
from fedsag_cli.client.hf.sharing import shared
from fedsag_cli.client.hf.tasks import TaskCalls
from fedsag_cli.client.trainer_ranks import Ranks, TaskKind
from fedsag_cli.errors import ClientError

__all__ = [
    "APIContext",
    "AnalyticsDataType",
    "FLModel",
    "ParamsType",
    "adapter_state",
    "evaluate",
    "get_config",
    "get_job_id",
    "get_site_name",
    "get_task_name",
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
    "shared",
    "shutdown",
    "site",
    "system_info",
    "train",
]

AnyTrainer = TypeVar("AnyTrainer")

_ranks: dict[APIContext, Ranks] = {}
_patched: dict[APIContext, tuple[Any, tuple[object, ...]]] = {}  # the trainer, and how it was patched


def patch(
    trainer: AnyTrainer,
    restore_state: bool = True,
    load_state_dict_strict: bool = True,
    params_scope: str = "auto",
    server_key_prefix: str | None = None,
    local_epochs: float | None = None,
    local_steps: int | None = None,
    stream_metrics: bool = False,
) -> AnyTrainer:
    """Make `trainer.evaluate` measure the received model, and `trainer.train` train it and send the result.

    `restore_state`: optimizer and learning-rate schedule go on from round to round, also in a resumed run, as
    `flare.state` keeps them; a schedule has the length of all rounds. False: each round has new ones.
    `load_state_dict_strict`: False if the received model and the trainer's have different keys; only common keys are
    loaded. `params_scope`: "model", all params travel; "adapter", those of the PEFT adapter; "auto", the adapter's if
    there is one. `server_key_prefix`: what the server's names have before the model's. `local_epochs`, `local_steps`:
    the length of a round, instead of the trainer's `num_train_epochs` or `max_steps`. `stream_metrics`: what the
    trainer logs goes to the job's trackers.

    The random numbers of each round are from the run's seed: `TrainingArguments.seed` has no effect on them. Returns
    the trainer. A second call with the same arguments does nothing.

    Raises TypeError if `trainer` is no Trainer; ClientError if an argument is wrong, or the trainer cannot take part.
    """
    _check(trainer)
    context = client._last[0] if client._last else init()
    length = local_epochs, local_steps
    how = restore_state, load_state_dict_strict, params_scope, server_key_prefix, length, stream_metrics
    if context in _patched:
        _check_again(trainer, how, _patched[context])
        return trainer
    travelling = Travelling.of(trainer, params_scope, strict=load_state_dict_strict, prefix=server_key_prefix)
    continuing = Continuing(trainer, Budget.of(trainer, local_epochs, local_steps), restore_state=restore_state)
    _wrap(trainer, _ranks_of(context), travelling, continuing, streams=stream_metrics)
    if context._session.streams is not None:
        context._session.streams.take_back()  # the trainer's constructor has seeded
    _patched[context] = trainer, how
    return trainer


def is_running(ctx: APIContext | None = None) -> bool:
    """Wait for the next task: True if there is one, False at the end of the run. The same in every rank."""
    return _ranks_of(ctx).next_task() is not TaskKind.OVER


def is_train(ctx: APIContext | None = None) -> bool:
    """Whether the current task is to train. Every rank may call it."""
    return _ranks_of(ctx).kind() is TaskKind.TRAIN


def is_evaluate(ctx: APIContext | None = None) -> bool:
    """Whether the current task is to evaluate, which `trainer.evaluate` answers. Every rank may call it."""
    return _ranks_of(ctx).kind() is TaskKind.EVALUATE


def is_submit_model(ctx: APIContext | None = None) -> bool:
    """Whether the current task is to send the site's own model, as it is now. Every rank may call it.

    The next `evaluate` or `train` sends it.
    """
    return _ranks_of(ctx).kind() is TaskKind.SUBMIT_MODEL


def _check(trainer: Trainer) -> None:
    """Raises TypeError, ClientError."""
    kind: Any = getattr(sys.modules.get("transformers.trainer"), "Trainer", None)  # the module of `trainer` is loaded
    if kind is None or not isinstance(trainer, kind):
        raise TypeError(f"flare.patch() takes a Trainer of transformers, not a {type(trainer).__name__}")
    args = trainer.args
    for is_wrong, what, hint in (
        (args.deepspeed, "DeepSpeed splits a model over several processes", "leave deepspeed out"),
        (args.fsdp, "FSDP splits a model over several processes", "leave fsdp out"),
        (args.load_best_model_at_end, "load_best_model_at_end would replace the trained model", "set it to False"),
        (trainer.model_init is not None, "model_init makes a new model for every train()", "give model=… instead"),
    ):
        if is_wrong:
            raise ClientError(f"this trainer cannot take part in a run: {what}", hint=hint)


def _check_again(trainer: Trainer, how: tuple[object, ...], first: tuple[Any, tuple[object, ...]]) -> None:
    if trainer is not first[0]:
        raise ClientError("flare.patch() was called for a second trainer", hint="one trainer answers all tasks")
    if how != first[1]:
        raise ClientError("flare.patch() was called again for this trainer, with other arguments")


def _wrap(trainer: Trainer, ranks: Ranks, travelling: Travelling, continuing: Continuing, *, streams: bool) -> None:
    from transformers import TrainerCallback

    kind = type("FLCallback", (FLCallback, TrainerCallback), {"__module__": __name__})
    callback = kind(continuing, streams=streams)
    calls = TaskCalls(trainer, ranks, travelling, continuing, callback)
    trainer.add_callback(callback)
    trainer.train, trainer.evaluate = calls.train, calls.evaluate


def _ranks_of(ctx: APIContext | None) -> Ranks:
    session = client._session(ctx, "is_running")
    context = ctx or client._last[0]
    if context not in _ranks:
        _ranks[context] = Ranks(session)
    return _ranks[context]
