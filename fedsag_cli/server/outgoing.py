"""A task that was sent, and the answers to it: their files, the server's filters, and their checks."""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from fedsag_cli.errors import FedsagError
from fedsag_cli.events import Failure
from fedsag_cli.filters import Chain, Exchanges, made_by
from fedsag_cli.model import FLModel, Task
from fedsag_cli.params import checks
from fedsag_cli.params.tensor_file import TensorFile
from fedsag_cli.server.spool import SpooledFile
from fedsag_cli.wire.messages import Answer


@dataclass
class Received:
    """A valid answer. `model`: its model, while the workflow processes it."""

    answer: Answer
    file: SpooledFile | None
    work_s: float
    model: FLModel | None = None

    @property
    def size(self) -> int:
        return 0 if self.file is None else self.file.size

    def close(self) -> None:
        self.model = None
        if self.file is not None:
            self.file.close()


@dataclass
class Outgoing:
    """A task that was sent, and its answers that wait for their turn."""

    task_id: int
    task: Task
    whole: Mapping[str, Any] = field(default_factory=dict)  # the model's params before the filters, if they changed it
    file: TensorFile | None = None
    received: dict[str, Received] = field(default_factory=dict)
    received_bytes: int = 0
    turn: str | None = None  # the site whose reply the workflow gets next
    taken: Received | None = None
    is_finished: bool = False

    @property
    def size(self) -> int:
        return 0 if self.file is None else self.file.size

    @property
    def round_num(self) -> int:
        return self.task.model.current_round or 0

    def take(self, site: str) -> Received:
        taken = self.taken = self.received.pop(site)
        self.received_bytes -= taken.size
        return taken

    def model_of(
        self, received: Received, filters: Chain, exchanges: Exchanges, rules: checks.Rules
    ) -> tuple[FLModel, Sequence[str]]:
        """The model of an answer, filtered and checked, and the keys that were left out.

        Raises FilterError; ValueError if it does not fit the task.
        """
        params = None if received.file is None else received.file.take().load()
        model = filtered(filters, self.task.name, received.answer.model.with_params(params), exchanges)
        more_keys = [name for name in received.answer.more_keys if not filters.excludes(self.task.name, name)]
        known = {**(self.task.model.params or {}), **self.whole}  # a filter may have changed its dtype and shape
        model, left_out = checks.check(model, known, rules, more_keys=more_keys)
        if model.metrics is not None:
            model = replace(model, metrics=checks.floats(model.metrics))
        return model, left_out

    def close(self) -> None:
        for received in self.received.values():
            received.close()
        if self.file is not None:
            self.file.close()


class FilterError(Exception):
    """An exception of a filter, as the cause of a failure."""

    def __init__(self, name: str, error: Exception | SystemExit) -> None:
        text = error.message if isinstance(error, FedsagError) else f"{type(error).__name__}: {error}"
        super().__init__(text)
        frames = traceback.extract_tb(error.__traceback__)[2:]  # without our own
        where = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else ""
        self.failure = Failure(cause=f"the server's filter {name}: {text}", where=where)


def filtered(chain: Chain, task_name: str, model: FLModel, exchanges: Exchanges) -> FLModel:
    """`model` after the filters of `chain`. Raises FilterError."""
    for number, link in chain.of(task_name):
        try:
            model = made_by(link, model, exchanges(number))
        except (Exception, SystemExit) as error:
            # a filter may be the user's own and raise anything: one reply fails, and the log has the traceback
            traceback.print_exc()
            raise FilterError(type(link).__name__, error) from error
    return model
