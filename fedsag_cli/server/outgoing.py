"""A task that was sent, and the answers to it: their files, and their checks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

from fedsag_cli.model import MODEL_OWNER, FLModel, Params, Task
from fedsag_cli.params import checks
from fedsag_cli.params.fingerprints import NONE, Fingerprints, fingerprints
from fedsag_cli.params.packing import packed, unpacked
from fedsag_cli.params.tensor_file import TensorFile
from fedsag_cli.server import spool
from fedsag_cli.server.filtering import Filtering
from fedsag_cli.server.spool import Spooled
from fedsag_cli.wire.messages import Answer, ModelFacts
from fedsag_cli.workspace import SERVER

Check: TypeAlias = Callable[[FLModel, Mapping[str, Any]], FLModel]
"""A workflow's own check of an update, in place of the usual ones: the update to use. Raises TensorError."""


@dataclass
class Received:
    """A valid answer. `model`: its model, while the workflow processes it; `params`: those that were sent."""

    answer: Answer
    file: Spooled | None
    work_s: float
    params: Params | None = None
    prints: Fingerprints = NONE
    model: FLModel | None = None

    @property
    def size(self) -> int:
        return 0 if self.file is None else self.file.size

    def close(self) -> None:
        self.params = self.model = None
        if self.file is not None:
            self.file.close()


@dataclass
class Outgoing:
    """A task that was sent, and its answers that wait for their turn.

    `to_whom`: the site if one alone is asked, else "server". `nth`: how often this one, and each site, was asked before
    in this round.
    """

    task_id: int
    task: Task
    workflow: int
    to_whom: str
    nth: Mapping[str, int]
    rules: checks.Rules = checks.STRICT
    check: Check | None = None
    whole: Mapping[str, Any] = field(default_factory=dict)  # the model's params before the filters, if they changed it
    facts: ModelFacts = field(default_factory=ModelFacts)  # of the model that is sent
    file: TensorFile | None = None  # with its tensors
    prints: Fingerprints = NONE  # of its params
    received: dict[str, Received] = field(default_factory=dict)
    kept_bytes: int = 0
    turn: str | None = None  # the site whose reply the workflow gets next
    taken: Received | None = None
    is_finished: bool = False

    @property
    def targets(self) -> list[str]:
        """The sites that were asked."""
        return [site for site in self.nth if site != SERVER]

    @property
    def size(self) -> int:
        return 0 if self.file is None else self.file.size

    @property
    def round_num(self) -> int:
        return self.task.model.current_round or 0

    def pack(self, model: FLModel, scratch: Path) -> None:
        """Send `model`. The values in its params become the same ones in the file: they are in memory once.

        Raises TensorError, OSError.
        """
        self.task = Task(name=self.task.name, model=model)
        self.facts, self.file = packed(model, scratch=scratch)
        if model.params is not None and self.file is not None:
            model.params.update(self.file.load())
        self.prints = fingerprints(self.file)

    @property
    def model_owner(self) -> str:
        """Whose model is measured, in cross-site evaluation."""
        return str(self.task.model.meta.get(MODEL_OWNER, ""))

    def take(self, site: str) -> Received:
        """The answer of this site."""
        self.taken = self.received.pop(site)
        return self.taken

    def drop(self) -> None:
        """The workflow has processed the answer that it took last."""
        if self.taken is not None:
            self.taken.close()
            self.taken = None

    def filtered(self, filtering: Filtering, model: FLModel, site: str, *, sent: FLModel | None = None) -> FLModel:
        """`model` after the server's filters. Raises FilterError."""
        return filtering.filtered(model, self.task, site, sent=sent, workflow=self.workflow, nth=self.nth[site])

    def model_of(self, site: str, received: Received, filtering: Filtering) -> tuple[FLModel, Sequence[str]]:
        """The model of an answer, filtered and checked, and the keys that were left out.

        Raises FilterError; ValueError if it does not fit the task.
        """
        file = None if received.file is None else received.file.take()
        model = unpacked(received.answer.model, file)
        received.params, received.prints = model.params, fingerprints(file)
        model = self.filtered(filtering, model, site, sent=self.task.model)
        left_out: Sequence[str] = ()
        known = {**(self.task.model.params or {}), **self.whole}  # a filter may have changed its dtype and shape
        if self.check is not None:
            checked: object = self.check(model, known)
            if not isinstance(checked, FLModel):
                name = getattr(self.check, "__qualname__", "check()")
                raise TypeError(f"{name} returned {type(checked).__name__}, not an FLModel")
            model = checked
            model.num_steps  # noqa: B018  it raises
        else:
            more_keys = [key for key in received.answer.more_keys if not filtering.excludes(self.task.name, key)]
            model, left_out = checks.check(model, known, self.rules, more_keys=more_keys)
        if model.metrics is not None:
            model = replace(model, metrics=checks.floats(model.metrics))
        return model, left_out

    def keep(self, received: Received, model: FLModel, scratch: Path) -> FLModel:
        """The model of an answer that the workflow keeps. If many bytes are kept, it is on disk."""
        if not model.params:
            return model
        is_on_disk = received.file is not None and received.file.is_on_disk
        as_sent = received.params or {}
        if is_on_disk and all(value is as_sent.get(name) for name, value in model.params.items()):
            return model
        size = sum(getattr(value, "nbytes", 0) for value in model.params.values())
        if self.kept_bytes + size < spool.LARGE:
            self.kept_bytes += size
            return model
        return replace(model, params=spool.on_disk(model.params, scratch))

    def close(self) -> None:
        self.drop()
        for received in self.received.values():
            received.close()
        if self.file is not None:
            self.file.close()
