"""The processes of one client: rank 0 talks to the server and tells the others, which a launcher started beside it."""

from __future__ import annotations

import os
from datetime import timedelta
from enum import Enum
from typing import Any

from fedsag_cli.client.seeding import streams
from fedsag_cli.client.session import Session
from fedsag_cli.model import FLModel
from fedsag_cli.params.seeds import derived, set_seed
from fedsag_cli.wire.messages import SEED

_STANDING = "FEDSAG_STANDING"
_PATIENCE = timedelta(days=365)  # torch's is some minutes, and the next task may be hours away


class Standing(str, Enum):
    """What there is to do: a task's role, or why there is none."""

    TRAIN = "train"
    EVALUATE = "evaluate"
    SUBMIT_MODEL = "submit_model"
    ANSWERED = "answered"
    OVER = "over"


class Ranks:
    """This process among them. What says so must be called by all ranks at the same point of the script."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.is_first = session.rank == "0"
        self._role = Standing(os.environ.get(_STANDING, "train"))  # of the task in which a launcher started us
        self._model: FLModel | None = None
        self._script_loops = False
        self._way: Any = None  # torch's process group by which the first tells the others

    def await_task(self) -> Standing:
        """The next task's role, or OVER: the script's loop has come round. By all ranks."""
        self._script_loops = True
        standing = self._agree(may_wait=True)
        if self.is_first:
            self._session.is_running()  # known by now; it notes that the loop came round
        return standing

    def standing(self, *, may_wait: bool) -> Standing:
        """The role of the task in hand. By all ranks.

        Where there is none it may be waited for, unless the script's own loop does that: then it is ANSWERED.
        """
        return self._agree(may_wait=may_wait and not self._script_loops)

    def role(self) -> Standing:
        """The role of the task in hand or, once that is answered, of the last one. By any rank."""
        if self.is_first:
            self._role = self._role_of(self._session.task_name())
        return self._role

    def model(self) -> FLModel | None:
        """The model of the task in hand. By all ranks."""
        told: tuple[FLModel | None, int | None] = (None, None)
        if self.is_first:
            model = self._session.receive()
            if model is not self._model:  # the others have it
                told = model, self._seed(model)
        model, seed = self._from_first(told)
        if model is not None:
            self._model = model
            if seed is not None and not self.is_first:
                set_seed(derived(seed, "rank", self._session.rank))
        return self._model

    def send(self, model: FLModel) -> None:
        """Answer the task in hand. By any rank: only the first says something."""
        self._model = None
        if self.is_first:
            self._session.send(model)

    def _agree(self, *, may_wait: bool) -> Standing:
        standing: Standing = self._from_first(self._look(may_wait=may_wait) if self.is_first else self._role)
        if standing not in (Standing.ANSWERED, Standing.OVER):
            self._role = standing
            os.environ[_STANDING] = standing.value
        return standing

    def _look(self, *, may_wait: bool) -> Standing:
        session = self._session
        if not session.has_task and not session.is_over and not may_wait:
            return Standing.ANSWERED
        return Standing.OVER if session.wait() is None else self._role_of(session.task_name())

    def _role_of(self, task_name: str) -> Standing:
        config = self._session.config
        if task_name == config.evaluate_task_name:
            return Standing.EVALUATE
        return Standing.SUBMIT_MODEL if task_name == config.submit_model_task_name else Standing.TRAIN

    def _seed(self, model: FLModel | None) -> int | None:
        """Of the others' random streams in this round; None where the script set its own."""
        if model is None or SEED not in os.environ:
            return None
        seed, site = int(os.environ[SEED]), self._session.site_name
        return None if streams(seed, site).script_seeded else derived(seed, site, model.current_round or 0)

    def _from_first(self, said: Any) -> Any:
        """What rank 0 says, in every rank.

        Where there is no way to the others yet, what each says itself: the trainer's first call makes one, in all of
        them, and until then those that a launcher started know nothing but the task in which it did.
        """
        import torch.distributed as dist

        if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
            return said
        if self._way is None:
            self._way = dist.new_group(backend="gloo", timeout=_PATIENCE)  # while NCCL waits, a GPU is busy
        box = [said]
        dist.broadcast_object_list(box, src=0, group=self._way)
        return box[0]
