"""`train` and `evaluate` of one trainer, as they answer the tasks of a run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from fedsag_cli.client.hf.budget import Continuing
from fedsag_cli.client.hf.callback import FLCallback
from fedsag_cli.client.hf.params import Trainer, Travelling
from fedsag_cli.client.plain import finite_numbers
from fedsag_cli.client.trainer_ranks import Ranks, TaskKind
from fedsag_cli.errors import ClientError
from fedsag_cli.model import FEDPROX_MU, NUM_STEPS, SCAFFOLD_CTRL_GLOBAL, FLModel

log = logging.getLogger("fedsag")

Call: TypeAlias = Callable[..., Any]

_NOTHING_TO_DO = (TaskKind.ANSWERED, TaskKind.OVER)
_NOT_OF_MODEL = ("_runtime", "_per_second", "_preparation_time", "_compilation_time", "epoch", "_num_tokens")
_OTHER_GRADIENTS = {FEDPROX_MU: "FedProx", SCAFFOLD_CTRL_GLOBAL: "SCAFFOLD"}


class TaskCalls:
    """Stands before a trainer's own `train` and `evaluate`."""

    def __init__(
        self, trainer: Trainer, ranks: Ranks, travelling: Travelling, continuing: Continuing, callback: FLCallback
    ) -> None:
        self._trainer, self._ranks, self._travelling = trainer, ranks, travelling
        self._continuing, self._callback = continuing, callback
        self._own_train: Call = trainer.train
        self._own_evaluate: Call = trainer.evaluate
        self._model: FLModel | None = None  # of the current task
        self._metrics: dict[str, float] | None = None  # of that model
        self._is_inside = False  # the trainer's own `train` calls `evaluate` too

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """As the trainer's own, on the received model; the answer to a task to evaluate. None if there is no task."""
        if self._is_inside:
            return self._own_evaluate(*args, **kwargs)
        kind = self._ranks.current(may_wait=True)
        if kind in _NOTHING_TO_DO or kind is TaskKind.SUBMIT_MODEL:
            return self._without_work(kind, "evaluate")
        self._load()
        if self._callback.streams:  # it counts the steps
            self._continuing.take(self._ranks.state())
        found = self._own_evaluate(*args, **kwargs)
        self._metrics = (self._metrics or {}) | _of_model(found)
        if kind is TaskKind.EVALUATE:
            self._answer(FLModel(metrics=self._metrics))
        return found

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As the trainer's own, from the received model on; then the answer. None if the task is not to train."""
        if kwargs.get("resume_from_checkpoint", args[0] if args else None):
            raise ClientError(
                "trainer.train(resume_from_checkpoint=…) would replace the received model",
                hint="leave the argument out; fedsag simulator --resume continues a run",
            )
        kind = self._ranks.current(may_wait=True)
        if kind is not TaskKind.TRAIN:
            return self._without_work(kind, "train")
        self._load()
        assert self._model is not None
        _check(self._model)
        self._continuing.take(self._ranks.state())
        self._continuing.prepare(self._model.total_rounds)
        result = self._run(*args, **kwargs)
        meta = {NUM_STEPS: self._weight(), **getattr(self._trainer.model, "__fl_meta__", {})}
        self._answer(FLModel(params=self._travelling.current(), metrics=self._metrics, meta=meta))
        return result

    def _run(self, *args: Any, **kwargs: Any) -> Any:
        self._is_inside = self._callback.is_used = True
        self._callback.steps = 0
        try:
            return self._own_train(*args, **kwargs)
        finally:
            self._is_inside = self._callback.is_used = False

    def _weight(self) -> int:
        """Steps x batch size, over all processes of this client: a last batch that is smaller counts as a full one."""
        args = self._trainer.args
        return int(self._callback.steps * args.train_batch_size * args.gradient_accumulation_steps * args.world_size)

    def _without_work(self, kind: TaskKind, call: str) -> None:
        if kind is TaskKind.SUBMIT_MODEL:
            self._ranks.model()  # the task must be received before it is answered
            self._answer(FLModel(params=self._travelling.current()))
            return
        why = {TaskKind.OVER: "the run is over", TaskKind.ANSWERED: "the task is answered"}
        log.info("trainer.%s() does nothing: %s", call, why.get(kind, "the task is to evaluate"))

    def _load(self) -> None:
        """Once for a task: what the script does to the model after `evaluate` stays."""
        model = self._ranks.model()
        if model is self._model:
            return
        self._model, self._metrics = model, None
        if model is not None and model.params is not None:
            self._travelling.load(model.params)

    def _answer(self, model: FLModel) -> None:
        self._ranks.send(model)
        self._model = self._metrics = None


def _of_model(found: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a measurement that are of the model: not how long it took, nor what was trained before."""
    return {name: value for name, value in finite_numbers(found).items() if not name.endswith(_NOT_OF_MODEL)}


def _check(model: FLModel) -> None:
    for key, name in _OTHER_GRADIENTS.items():
        if model.meta.get(key):
            raise ClientError(
                f"the server asks for {name}, which flare.patch() does not do for trainers of transformers",
                hint="use a workflow that needs no other gradients, such as ScatterAndGather",
            )
