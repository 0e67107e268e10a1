"""How long a trainer trains in one round, and what it keeps from round to round: optimizer and learning rate."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass
from typing import Any

from fedsag_cli.client.hf.params import Trainer
from fedsag_cli.errors import ClientError
from fedsag_cli.model import Tree

log = logging.getLogger("fedsag")

_STATE = "hf"  # in flare.state


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

    A schedule then has the steps of all rounds; the trainer's own count begins again with each `train`. `flare.state`
    keeps both: they go on in a resumed run, in a script that starts again for every task, and in that of a worker.
    """

    def __init__(self, trainer: Trainer, budget: Budget, *, restore_state: bool) -> None:
        self._trainer, self._budget, self._restore = trainer, budget, restore_state
        self._steps = 0  # of one round
        self._new: dict[str, Any] = {}  # what `_parts` are before their first step, by name
        self._settings = ""  # of the optimizer and schedule that the script asks for
        self._state: MutableMapping[str, Tree] = {}
        self._kept: dict[str, Any] = {}  # of `_state`

    @property
    def steps_before(self) -> int:
        """The steps of all rounds before."""
        steps: int = self._kept.get("steps", 0)
        return steps

    def take(self, state: MutableMapping[str, Tree]) -> None:
        """With each task: what the site keeps."""
        self._state, self._kept = state, state.get(_STATE, {})

    def prepare(self, total_rounds: int | None) -> None:
        """Before the trainer's own `train`: set its limit. Raises ClientError if the data has no length or is empty."""
        trainer = self._trainer
        self._steps = self._budget.in_steps(trainer)
        if not self._restore:
            trainer.args.max_steps = self._steps
            return
        if total_rounds is None:
            log.warning("the number of rounds is not known: the learning-rate schedule gets longer in every round")
        planned = self._steps * (total_rounds or 0)
        trainer.args.max_steps = max(planned, self.steps_before + self._steps)

    def begin(self) -> None:
        """When the trainer has its optimizer and schedule: continue from the site's last round, or begin anew."""
        if not self._new:
            self._new = {name: copy.deepcopy(part.state_dict()) for name, part in self._parts()}
            self._settings = _settings(self._trainer)
        kept = self._kept if self._restore else {}
        if kept.get("settings", self._settings) != self._settings:
            log.warning("the script asks for another optimizer or learning rate than before: both begin anew")
            kept = {}
        for name, part in self._parts():
            part.load_state_dict(copy.deepcopy(kept.get(name, self._new[name])))  # its steps would change it in place

    def is_done(self, steps: int) -> bool:
        """Whether the round has had its steps."""
        return steps >= self._steps

    def end(self, steps: int) -> None:
        """After the trainer's own `train`: keep what goes on."""
        kept: dict[str, Tree] = {"steps": self.steps_before + steps}
        if self._restore:
            kept |= {"settings": self._settings} | {name: part.state_dict() for name, part in self._parts()}
        self._state[_STATE] = kept

    def _parts(self) -> Iterator[tuple[str, Any]]:
        """What the trainer itself would keep from one `train` to the next, or a new process would not have."""
        yield "optimizer", self._trainer.optimizer
        yield "schedule", self._trainer.lr_scheduler
        if self._trainer.accelerator.scaler is not None:  # of gradients in fp16
            yield "scaler", self._trainer.accelerator.scaler


def _settings(trainer: Trainer) -> str:
    """What the script asks for, as a text: a fork of a run may ask for something else.

    A schedule that sets the learning rate `lr` of a group remembers the one that was asked for as `initial_lr`.
    """
    optimizer = getattr(trainer.optimizer, "optimizer", trainer.optimizer)  # without what accelerate wraps around it
    asked = [{"initial_lr": group["lr"]} | group | {"lr": None, "params": None} for group in optimizer.param_groups]
    return (
        f"{type(optimizer).__name__} {type(trainer.lr_scheduler).__name__} {[sorted(each.items()) for each in asked]}"
    )
