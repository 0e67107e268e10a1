"""The callback that answers tasks: it loads the received model before `validate` and `fit`, and sends the result."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from fedsag_cli.client.fedprox_mu import get_fedprox_mu
from fedsag_cli.client.lightning.progress import Limits, OptimizerState, Trainer, epochs_done
from fedsag_cli.client.loading import load
from fedsag_cli.client.trainer_ranks import Ranks, TaskKind
from fedsag_cli.errors import ClientError
from fedsag_cli.model import FEDPROX_MU, NUM_STEPS, SCAFFOLD_CTRL_GLOBAL, FLModel, Params

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module, Parameter
    from torch.optim import Optimizer

    from fedsag_cli.client.scaffold import Scaffold

log = logging.getLogger("fedsag")


class FLCallback:
    """The callback of one trainer. `patch` makes it a Callback of the trainer's own package.

    `fit` answers the current task; `validate` answers a task to evaluate. Validation within `fit` is not used.
    """

    def __init__(self, ranks: Ranks, *, restore_state: bool, strict: bool, update_fit_loop: bool) -> None:
        super().__init__()
        self._ranks = ranks
        self._restore_state, self._strict, self._update_fit_loop = restore_state, strict, update_fit_loop
        self._model: FLModel | None = None  # of the current task
        self._metrics: dict[str, float] | None = None  # of that model
        self._measures = self._trains = False
        self._limits: Limits | None = None
        self._max_epochs: int | None = None  # the trainer's own limit, during a `fit` that must not train
        self._steps_before = 0
        self._optimizer_state: OptimizerState | None = None
        self._mu = 0.0  # FedProx's coefficient
        self._received_weights: dict[Parameter, Tensor] = {}  # by the parameter of the trained module
        self._scaffold: Scaffold | None = None

    def on_validation_start(self, trainer: Trainer, pl_module: Module) -> None:
        self._measures = False
        if trainer.state.fn != "validate":
            return
        named = trainer.ckpt_path  # given by the script, or chosen by a trainer without a module
        kind = self._ranks.current(may_wait=named is None)
        if kind is TaskKind.SUBMIT_MODEL:
            self._submit(trainer, pl_module)
        elif kind not in (TaskKind.ANSWERED, TaskKind.OVER):
            if named is not None:
                log.warning(
                    "the received model is measured, not the checkpoint %s; measure that one after trainer.fit()", named
                )
            self._load(pl_module)
            self._measures = True

    def on_validation_end(self, trainer: Trainer, pl_module: Module) -> None:  # noqa: ARG002
        if not self._measures:
            return
        self._measures = False
        measured = {str(name): float(value) for name, value in trainer.callback_metrics.items()}
        self._metrics = (self._metrics or {}) | measured
        if self._ranks.kind() is TaskKind.EVALUATE:
            self._answer(FLModel(metrics=self._metrics))

    def on_fit_start(self, trainer: Trainer, pl_module: Module) -> None:
        self._trains = False
        kind = self._ranks.current(may_wait=True)
        if kind is TaskKind.EVALUATE:
            raise ClientError(
                "the current task asks for metrics, which trainer.fit() does not send",
                hint="call trainer.validate() first, it answers this task",
            )
        if kind is TaskKind.ANSWERED and self._ranks.kind() is TaskKind.TRAIN:
            raise ClientError(
                "trainer.fit() was called a second time for one task",
                hint="the end of fit sends the answer, once for each task",
            )
        if self._limits is None:
            self._limits = Limits.of(trainer)
        if kind is TaskKind.SUBMIT_MODEL:
            self._submit(trainer, pl_module)
        if kind in (TaskKind.SUBMIT_MODEL, TaskKind.ANSWERED):
            log.info("nothing to train: the task was to %s", self._ranks.kind().value)
            self._max_epochs = trainer.fit_loop.max_epochs
            trainer.num_sanity_val_steps = 0
            trainer.fit_loop.max_epochs = epochs_done(trainer)
            return
        trainer.should_stop = False  # before Lightning 2.6, an early stop in one round would stop all later ones
        if self._update_fit_loop:
            self._limits.extend(trainer)
        if kind is TaskKind.OVER:
            log.warning("the run is over: the trained model is not sent")
            return
        self._load(pl_module)
        if self._optimizer_state is not None:
            self._optimizer_state.restore(trainer)
        self._steps_before = trainer.global_step
        self._trains = True
        self._keep_weights(pl_module)
        self._scaffold = self._begin_scaffold(trainer, pl_module)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: Module, optimizer: Optimizer) -> None:  # noqa: ARG002
        """FedProx, if the server has sent mu: add the gradient of mu / 2 * ||w - w_global||^2."""
        for w in (w for group in optimizer.param_groups for w in group["params"]):
            if self._trains and w in self._received_weights and w.grad is not None:
                w.grad.add_(w.detach() - self._received_weights[w], alpha=self._mu)

    def on_fit_end(self, trainer: Trainer, pl_module: Module) -> None:
        """Send the module. The trainer has already moved it and the state of its optimizers to the CPU."""
        if self._max_epochs is not None:
            trainer.fit_loop.max_epochs, self._max_epochs = self._max_epochs, None
        if not self._trains:
            return
        self._trains = False
        self._received_weights = {}
        if self._restore_state:
            self._optimizer_state = OptimizerState.of(trainer)
        if self._update_fit_loop:
            trainer.num_sanity_val_steps = 0  # validation has worked once, so no sanity check is needed
        steps = {NUM_STEPS: trainer.global_step - self._steps_before}
        controls = self._scaffold.finish() if self._scaffold else {}
        self._scaffold = None
        meta = {**getattr(pl_module, "__fl_meta__", {}), **steps, **controls}
        self._answer(FLModel(params=self._params(pl_module), metrics=self._metrics, meta=meta))

    def _load(self, pl_module: Module) -> None:
        model = self._ranks.model()
        if model is not self._model:
            self._model, self._metrics = model, None
        if model is not None and model.params is not None:
            load(pl_module, model.params, strict=self._strict)

    def _keep_weights(self, pl_module: Module) -> None:
        self._received_weights = {}
        if self._model is not None and self._model.meta.get(FEDPROX_MU):
            self._mu = get_fedprox_mu(self._model)
            self._received_weights = {w: w.detach().clone() for w in pl_module.parameters() if w.requires_grad}

    def _begin_scaffold(self, trainer: Trainer, pl_module: Module) -> Scaffold | None:
        """SCAFFOLD, if the server has sent its control variate: each step of the optimizers is corrected."""
        if self._model is None or SCAFFOLD_CTRL_GLOBAL not in self._model.meta:
            return None
        from fedsag_cli.client.scaffold import Scaffold  # needs torch

        return Scaffold(pl_module, trainer.optimizers, self._model, self._ranks.state())

    def _params(self, pl_module: Module) -> Params:
        params: Params = pl_module.state_dict()
        if self._strict or self._model is None or self._model.params is None:
            return dict(params)
        return {name: value for name, value in params.items() if name in self._model.params}

    def _submit(self, trainer: Trainer, pl_module: Module) -> None:
        """Send the best checkpoint; without one, the module with its last weights."""
        import torch

        best = str(getattr(trainer.checkpoint_callback, "best_model_path", ""))
        params = pl_module.state_dict()
        if best and Path(best).is_file():
            params = torch.load(best, map_location="cpu", weights_only=True)["state_dict"]
        self._ranks.model()  # the task must be received before it is answered
        self._answer(FLModel(params=dict(params)))

    def _answer(self, model: FLModel) -> None:
        self._ranks.send(model)
        self._model = self._metrics = None
