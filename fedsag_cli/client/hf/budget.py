"""How long a trainer trains in one round, and what it keeps from round to round: optimizer and learning rate."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import Any

from fedsag_cli.client.hf.params import Trainer
from fedsag_cli.errors import ClientError

log = logging.getLogger("fedsag")


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """The length of one round, as the script gave it: `steps` of the optimizer, or `epochs`."""

    steps: int | None
    epochs: float | None

    @classmethod
    def of(cls, trainer: Trainer, local_epochs: float | None, local_steps: int | None) -> Budget:
        """`local_steps` or `local_epochs`; else `max_steps` or `num_train_epochs` of the trainer's arguments.

        Raises ClientError if both are given, or one is not above 0.
        """
        if local_epochs is not None and local_steps is not None:
            raise ClientError("flare.patch(): give local_epochs or local_steps, not both")
        if local_epochs is None and local_steps is None:
            steps, epochs = trainer.args.max_steps, float(trainer.args.num_train_epochs)
            return cls(steps=steps, epochs=None) if steps > 0 else cls(steps=None, epochs=epochs)
        name, value = ("local_epochs", local_epochs) if local_steps is None else ("local_steps", local_steps)
        if not isinstance(value, int | float) or value <= 0:
            raise ClientError(f"flare.patch(): {name} must be above 0, not {value!r}")
        return cls(steps=local_steps, epochs=local_epochs)

    def in_steps(self, trainer: Trainer) -> int:
        """The steps of one round. Raises ClientError if the data has no length or is empty."""
        if self.steps is not None:
            return self.steps
        assert self.epochs is not None
        try:
            batches = len(trainer.get_train_dataloader())
        except TypeError:
            raise ClientError(
                "the training data has no length, so an epoch has no known number of steps",
                hint="flare.patch(trainer, local_steps=…) gives the steps of a round",
            ) from None
        if batches == 0:
            raise ClientError("this site's training data is empty")
        steps_of_epoch: int = math.ceil(batches / trainer.args.gradient_accumulation_steps)
        return math.ceil(self.epochs * steps_of_epoch)


class Continuing:
    """With `restore_state`, optimizer and learning-rate schedule go on from round to round; else they are new in each.

    A schedule then has the steps of all rounds; the trainer's own count begins again with each `train`.
    """

    def __init__(self, budget: Budget, *, restore_state: bool) -> None:
        self._budget, self._restore = budget, restore_state
        self._steps: int | None = None  # of one round
        self._state: tuple[Any, Any] | None = None  # of optimizer and schedule, at the end of a round
        self.steps_before = 0

    def prepare(self, trainer: Trainer, total_rounds: int | None) -> None:
        """Before the trainer's own `train`: set its limit."""
        if self._steps is None:
            self._steps = self._budget.in_steps(trainer)
        if not self._restore:
            trainer.optimizer = trainer.lr_scheduler = None
            trainer.args.max_steps = self._steps
            return
        if total_rounds is None:
            log.warning("the number of rounds is not known: the learning-rate schedule gets longer in every round")
        planned = self._steps * (total_rounds or 0)
        trainer.args.max_steps = max(planned, self.steps_before + self._steps)

    def begin(self, optimizer: Any, schedule: Any) -> None:
        """When the trainer has made its optimizer and schedule: continue from the last round."""
        if self._state is not None:
            for each, state in zip((optimizer, schedule), self._state, strict=True):
                each.load_state_dict(state)

    def is_done(self, steps: int) -> bool:
        """Whether the round has had its steps."""
        return self._steps is not None and steps >= self._steps

    def end(self, optimizer: Any, schedule: Any, steps: int) -> None:
        self.steps_before += steps
        if self._restore:
            self._state = optimizer.state_dict(), schedule.state_dict()
