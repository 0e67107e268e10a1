"""From one `fit` to the next: how far each goes, and what optimizers and schedulers were like at its end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

from fedsag_cli.errors import ClientError

Trainer: TypeAlias = Any
"""Of either package, and neither need be installed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How far each `fit` goes: as far as the first, from where it begins. -1, or None, is no limit."""

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

    def begin_here(self, trainer: Trainer) -> None:
        loop, epochs, steps = trainer.fit_loop, epochs_done(trainer), trainer.global_step
        loop.max_epochs = _later(self.max_epochs, epochs)
        loop.min_epochs = _later(self.min_epochs, epochs)
        loop.epoch_loop.max_steps = _later(self.max_steps, steps)
        loop.epoch_loop.min_steps = _later(self.min_steps, steps)


def _later(limit: Any, by: int) -> Any:
    return limit if limit is None or limit == -1 else limit + by


def epochs_done(trainer: Trainer) -> int:
    """How many the trainer has done, as its loop counts against its limit."""
    processed: int = trainer.fit_loop.epoch_progress.current.processed
    return processed


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """What optimizers and schedulers were like at the end of a `fit`; the next one makes them anew."""

    optimizers: list[Any]
    schedulers: list[Any]

    @classmethod
    def by(cls, trainer: Trainer) -> Left:
        return cls(
            optimizers=[each.state_dict() for each in trainer.optimizers],
            schedulers=[each.scheduler.state_dict() for each in trainer.lr_scheduler_configs],
        )

    def go_on(self, trainer: Trainer) -> None:
        """Raises ClientError where they are others now."""
        configs = trainer.lr_scheduler_configs
        same_number = (len(self.optimizers), len(self.schedulers)) == (len(trainer.optimizers), len(configs))
        try:
            if not same_number:
                raise ValueError("their number is not the same")
            trainer.strategy.load_optimizer_state_dict({"optimizer_states": self.optimizers})
            for config, state in zip(configs, self.schedulers, strict=True):
                config.scheduler.load_state_dict(state)
        except ValueError as error:
            raise ClientError(
                f"the optimizers cannot go on where the round before left them: {error}",
                hint="flare.patch(trainer, restore_state=False) begins every round with new ones",
            ) from None
