"""The processes of a client whose trainer has several: rank 0 is connected to the server and tells the other ranks."""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from datetime import timedelta
from enum import Enum
from typing import Any

from fedsag_cli import client
from fedsag_cli.client.session import Session
from fedsag_cli.model import FLModel
from fedsag_cli.params.seeds import derived, set_seed

_TASK_KIND = "FEDSAG_TASK_KIND"
_TIMEOUT = timedelta(days=365)  # torch's default is some minutes, and the next task may be hours away


class TaskKind(str, Enum):
    """The kind of the current task; ANSWERED or OVER if there is none to do."""

    TRAIN = "train"
    EVALUATE = "evaluate"
    SUBMIT_MODEL = "submit_model"
    ANSWERED = "answered"
    OVER = "over"


class Ranks:
    """The tasks as one rank sees them. All ranks must call the methods marked "by all ranks", in the same order."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.is_first = session.rank == "0"
        self._kind = TaskKind(os.environ.get(_TASK_KIND, "train"))  # a launcher starts other ranks during a task
        self._model: FLModel | None = None
        self._script_loops = False
        self._group: Any = None  # torch's process group, in which rank 0 sends to the others

    def next_task(self) -> TaskKind:
        """Wait for a task at the start of the script's loop: its kind, or OVER. By all ranks."""
        self._script_loops = True
        kind = self._agree(may_wait=True)
        if self.is_first:
            self._session.is_running()  # does not wait: it records that the loop starts again
        return kind

    def current(self, *, may_wait: bool) -> TaskKind:
        """The kind of the current task. By all ranks.

        If the last task is answered: with `may_wait`, wait for the next, unless the script's loop does so; otherwise
        ANSWERED.
        """
        return self._agree(may_wait=may_wait and not self._script_loops)

    def kind(self) -> TaskKind:
        """The kind of the current task; if it is answered, still of that task. By any rank."""
        if self.is_first:
            self._kind = self._kind_of(self._session.task_name())
        return self._kind

    def model(self) -> FLModel | None:
        """The model of the current task. By all ranks."""
        sent: tuple[FLModel | None, int | None] = (None, None)
        if self.is_first:
            model = self._session.receive()
            if model is not self._model:  # otherwise the other ranks have it already
                sent = model, self._seed(model)
        model, seed = self._from_first(sent)
        if model is not None:
            self._model = model
            if seed is not None and not self.is_first:
                set_seed(derived(seed, "rank", self._session.rank))
        return self._model

    def send(self, model: FLModel) -> None:
        """Answer the current task. By any rank; only rank 0 sends."""
        self._model = None
        if self.is_first:
            self._session.send(model)

    def state(self) -> MutableMapping[str, Any]:
        """What the site keeps: `flare.state` in rank 0, a copy of it in the others. By all ranks."""
        copy: dict[str, Any] = self._from_first(dict(client.state) if self.is_first else {})
        return client.state if self.is_first else copy

    def _agree(self, *, may_wait: bool) -> TaskKind:
        kind: TaskKind = self._from_first(self._find(may_wait=may_wait) if self.is_first else self._kind)
        if kind not in (TaskKind.ANSWERED, TaskKind.OVER):
            self._kind = kind
            os.environ[_TASK_KIND] = kind.value
        return kind

    def _find(self, *, may_wait: bool) -> TaskKind:
        session = self._session
        if not session.has_task and not session.is_over and not may_wait:
            return TaskKind.ANSWERED
        return TaskKind.OVER if session.wait() is None else self._kind_of(session.task_name())

    def _kind_of(self, task_name: str) -> TaskKind:
        config = self._session.config
        if task_name == config.evaluate_task_name:
            return TaskKind.EVALUATE
        return TaskKind.SUBMIT_MODEL if task_name == config.submit_model_task_name else TaskKind.TRAIN

    def _seed(self, model: FLModel | None) -> int | None:
        """The seed of this round for the other ranks; None if the script has seeded itself."""
        streams = self._session.streams
        if model is None or streams is None or streams.script_seeded:
            return None
        return derived(self._session.seed, self._session.site_name, model.current_round or 0)

    def _from_first(self, value: Any) -> Any:
        """The value of rank 0, in every rank.

        Without a process group, as before the trainer's first call, each rank gets its own value.
        """
        import torch.distributed as dist

        if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
            return value
        if self._group is None:
            self._group = dist.new_group(backend="gloo", timeout=_TIMEOUT)  # while NCCL waits, a GPU is busy
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self._group)
        return box[0]
