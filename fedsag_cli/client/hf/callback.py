"""What a trainer tells during `train`: its optimizer, its steps, and the values that it logs."""

from __future__ import annotations

from typing import Any

from fedsag_cli import client
from fedsag_cli.client import AnalyticsDataType
from fedsag_cli.client.hf.budget import Continuing
from fedsag_cli.client.plain import finite_numbers


class FLCallback:
    """The callback of one trainer. `patch` makes it a TrainerCallback.

    `steps`: of the optimizer in the current or last `train`. `is_used`: during a `train` that answers a task.
    """

    def __init__(self, continuing: Continuing, *, streams: bool) -> None:
        super().__init__()
        self._continuing, self.streams = continuing, streams
        self.steps = 0
        self.is_used = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:  # noqa: ARG002
        if self.is_used:
            self._continuing.begin()

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:  # noqa: ARG002
        self.steps = state.global_step
        if self.is_used and self._continuing.is_done(self.steps):
            control.should_training_stop = True

    def on_train_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:  # noqa: ARG002
        if self.is_used:
            self.steps = state.global_step
            self._continuing.end(self.steps)

    def on_log(self, args: Any, state: Any, control: Any, **given: Any) -> None:  # noqa: ARG002
        numbers = finite_numbers(given.get("logs") or {})
        if self.streams and state.is_world_process_zero and numbers:
            step = self._continuing.steps_before + (state.global_step if self.is_used else 0)  # else of the last round
            client.log("trainer", numbers, AnalyticsDataType.METRICS, global_step=step)
