"""What a trainer keeps from one `fit` to the next: its limits, and the state of optimizers and schedulers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

from fedsag_cli.errors import ClientError

Trainer: TypeAlias = Any
"""A Trainer of `lightning.pytorch` or `pytorch_lightning`; neither needs to be installed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The limits of one `fit`, as the script set them. -1 or None: no limit."""

    max_epochs: int | None
    min_epochs: int | None
    max_steps: int
    min_steps: int | None

    @classmethod
    def of(cls, trainer: Trainer) -> Limits:
        return cls(
            max_epochs=trainer.max_epochs,
            min_epochs=trainer.min_epochs,
            max_steps=trainer.max_steps,
            min_steps=trainer.min_steps,
        )

    def extend(self, trainer: Trainer) -> None:
        """Set the trainer's limits for one more `fit`: the trainer counts epochs and steps over all calls."""
        loop, epochs, steps = trainer.fit_loop, epochs_done(trainer), trainer.global_step
        loop.max_epochs = _add(self.max_epochs, epochs)
        loop.min_epochs = _add(self.min_epochs, epochs)
        loop.epoch_loop.max_steps = _add(self.max_steps, steps)
        loop.epoch_loop.min_steps = _add(self.min_steps, steps)


def _add(limit: Any, done: int) -> Any:
    return limit if limit is None or limit == -1 else limit + done


def epochs_done(trainer: Trainer) -> int:
    """The number of epochs that the trainer's loop compares with its limit."""
    processed: int = trainer.fit_loop.epoch_progress.current.processed
    return processed


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerState:
    """The state of optimizers and schedulers at the end of a `fit`; the next `fit` creates new ones."""

    optimizers: list[Any]
    schedulers: list[Any]

    @classmethod
    def of(cls, trainer: Trainer) -> OptimizerState:
        return cls(
            optimizers=[each.state_dict() for each in trainer.optimizers],
            schedulers=[each.scheduler.state_dict() for each in trainer.lr_scheduler_configs],
        )

    def restore(self, trainer: Trainer) -> None:
        """Load the state into the trainer. Raises ClientError if the script has created other optimizers."""
        configs = trainer.lr_scheduler_configs
        same_number = (len(self.optimizers), len(self.schedulers)) == (len(trainer.optimizers), len(configs))
        try:
            if not same_number:
                raise ValueError("their number has changed")
            trainer.strategy.load_optimizer_state_dict({"optimizer_states": self.optimizers})
            for config, state in zip(configs, self.schedulers, strict=True):
                config.scheduler.load_state_dict(state)
        except ValueError as error:
            raise ClientError(
                f"the optimizers cannot continue from the last round: {error}",
                hint="flare.patch(trainer, restore_state=False) starts every round with new ones",
            ) from None
