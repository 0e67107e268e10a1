"""The callback that answers tasks: what comes in before Lightning measures or trains, what goes out after."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from fedsag_cli.client.fedprox_mu import get_fedprox_mu
from fedsag_cli.client.lightning.loading import load
from fedsag_cli.client.lightning.progress import Left, Limits, Trainer, epochs_done
from fedsag_cli.client.lightning.ranks import Ranks, Standing
from fedsag_cli.errors import ClientError
from fedsag_cli.model import FEDPROX_MU, NUM_STEPS, FLModel, Params

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module, Parameter
    from torch.optim import Optimizer

log = logging.getLogger("fedsag")


class FLCallback:
    """One trainer's part in the run. `patch` makes it a Callback of the trainer's own package.

    The task in hand is answered by `fit`, or, where it asks for metrics only, by `validate`. Validation in the middle
    of `fit` is none of ours.
    """

    def __init__(self, ranks: Ranks, *, restore_state: bool, strict: bool, update_fit_loop: bool) -> None:
        super().__init__()
        self._ranks = ranks
        self._restore_state, self._strict, self._update_fit_loop = restore_state, strict, update_fit_loop
        self._model: FLModel | None = None  # that of the task in hand
        self._metrics: dict[str, float] | None = None  # measured on it
        self._measures = self._trains = False
        self._limits: Limits | None = None
        self._until: int | None = None  # the limit of a `fit` that must not train, to be set back
        self._steps_before = 0
        self._left: Left | None = None
        self._mu = 0.0  # FedProx's
        self._held_near: dict[Parameter, Tensor] = {}  # what trains, and where it was received

    def on_validation_start(self, trainer: Trainer, pl_module: Module) -> None:
        self._measures = False
        if trainer.state.fn != "validate":
            return
        named = trainer.ckpt_path  # by the script, or by a trainer that was given no module
        standing = self._ranks.standing(may_wait=named is None)
        if standing is Standing.SUBMIT_MODEL:
            self._submit(trainer, pl_module)
        elif standing not in (Standing.ANSWERED, Standing.OVER):
            if named is not None:
                log.warning("the received model is measured, not %s: that can be after trainer.fit()", named)
            self._take(pl_module)
            self._measures = True

    def on_validation_end(self, trainer: Trainer, pl_module: Module) -> None:  # noqa: ARG002
        if not self._measures:
            return
        self._measures = False
        measured = {str(name): float(value) for name, value in trainer.callback_metrics.items()}
        self._metrics = (self._metrics or {}) | measured
        if self._ranks.role() is Standing.EVALUATE:
            self._answer(FLModel(metrics=self._metrics))

    def on_fit_start(self, trainer: Trainer, pl_module: Module) -> None:
        self._trains = False
        standing = self._ranks.standing(may_wait=True)
        if standing is Standing.EVALUATE:
            raise ClientError(
                "the task in hand asks for metrics, and trainer.fit() gives none",
                hint="call trainer.validate() first: it answers such a task",
            )
        if standing is Standing.ANSWERED and self._ranks.role() is Standing.TRAIN:
            raise ClientError(
                "trainer.fit() was called a second time for one task",
                hint="the end of fit sends the answer: one a task",
            )
        if self._limits is None:
            self._limits = Limits.of(trainer)
        if standing is Standing.SUBMIT_MODEL:
            self._submit(trainer, pl_module)
        if standing in (Standing.SUBMIT_MODEL, Standing.ANSWERED):
            log.info("nothing to train: the task in hand was to %s", self._ranks.role().value)
            self._until = trainer.fit_loop.max_epochs
            trainer.num_sanity_val_steps = 0
            trainer.fit_loop.max_epochs = epochs_done(trainer)
            return
        trainer.should_stop = False  # before 2.6 what stopped a round early would stop all that follow
        if self._update_fit_loop:
            self._limits.begin_here(trainer)
        if standing is Standing.OVER:
            log.warning("the run is over: what is trained now stays here")
            return
        self._take(pl_module)
        if self._left is not None:
            self._left.go_on(trainer)
        self._steps_before = trainer.global_step
        self._trains = True
        self._hold_near(pl_module)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: Module, optimizer: Optimizer) -> None:  # noqa: ARG002
        """FedProx, where the server asks for it: the gradient of mu / 2 * ||w - w_global||^2 is added."""
        for w in (w for group in optimizer.param_groups for w in group["params"]):
            if self._trains and w in self._held_near and w.grad is not None:
                w.grad.add_(w.detach() - self._held_near[w], alpha=self._mu)

    def on_fit_end(self, trainer: Trainer, pl_module: Module) -> None:
        """The trainer has put the module on the CPU by now, and its optimizers' state."""
        if self._until is not None:
            trainer.fit_loop.max_epochs, self._until = self._until, None
        if not self._trains:
            return
        self._trains = False
        self._held_near = {}
        if self._restore_state:
            self._left = Left.by(trainer)
        if self._update_fit_loop:
            trainer.num_sanity_val_steps = 0  # what goes wrong in validation has gone wrong by now
        steps = {NUM_STEPS: trainer.global_step - self._steps_before}
        meta = {**getattr(pl_module, "__fl_meta__", {}), **steps}
        self._answer(FLModel(params=self._params(pl_module), metrics=self._metrics, meta=meta))

    def _take(self, pl_module: Module) -> None:
        model = self._ranks.model()
        if model is not self._model:
            self._model, self._metrics = model, None
        if model is not None and model.params is not None:
            load(pl_module, model.params, strict=self._strict)

    def _hold_near(self, pl_module: Module) -> None:
        self._held_near = {}
        if self._model is not None and self._model.meta.get(FEDPROX_MU):
            self._mu = get_fedprox_mu(self._model)
            self._held_near = {w: w.detach().clone() for w in pl_module.parameters() if w.requires_grad}

    def _params(self, pl_module: Module) -> Params:
        params: Params = pl_module.state_dict()
        if self._strict or self._model is None or self._model.params is None:
            return dict(params)
        return {name: value for name, value in params.items() if name in self._model.params}

    def _submit(self, trainer: Trainer, pl_module: Module) -> None:
        """The best checkpoint, or else what was trained last."""
        import torch

        best = str(getattr(trainer.checkpoint_callback, "best_model_path", ""))
        params = pl_module.state_dict()
        if best and Path(best).is_file():
            params = torch.load(best, map_location="cpu", weights_only=True)["state_dict"]
        self._ranks.model()  # an answer needs a task that was received
        self._answer(FLModel(params=dict(params)))

    def _answer(self, model: FLModel) -> None:
        self._ranks.send(model)
        self._model = self._metrics = None
