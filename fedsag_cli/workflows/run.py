"""How far a run is: its next round, its model, its best score. Saved after each round, completely or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec

from fedsag_cli.errors import TensorError
from fedsag_cli.events import BestModel, Event, Notice, RoundFinished, ServerReady
from fedsag_cli.model import FLModel
from fedsag_cli.params import seeds, tensor_file
from fedsag_cli.params.tensor_file import TensorFile
from fedsag_cli.workspace import BEST, ROUND, SERVER, checkpoint_name, checkpoints_in, write_whole


class Best(msgspec.Struct, frozen=True):
    """The best score so far, and the round in which the model that has it was sent."""

    score: float
    round_num: int
    metric: str = ""
    is_final: bool = False  # it is the last model, which clients measured after the last round
    workflow: int = 0


class Plateau(msgspec.Struct, frozen=True):
    """The best value so far of the metric that may stop a workflow early, and the number of rounds since then."""

    best: float
    rounds: int = 0


class _State(msgspec.Struct, frozen=True):
    """What a checkpoint holds beside the tensors."""

    next_round: int
    workflow: int = 0
    whole_rounds: int = 0
    last: RoundFinished | None = None
    best: Best | None = None
    plateau: Plateau | None = None
    meta: dict[str, Any] = {}  # the model's


@dataclass(kw_only=True)
class Run:
    """How far a run is. `model` is the global model, None before the first checkpoint.

    `workflow` is the number of the current workflow, from 0; `workflows` are the names of all. In a resumed run,
    `best_model` is the model with the score `best`: the earlier run may have been stopped before its persistor wrote
    it.
    """

    emit: Callable[[Event], None]
    checkpoints: Path | None = None
    seed: int = 0
    next_round: int = 0
    workflow: int = 0
    workflows: Sequence[str] = ()
    whole_rounds: int = 0
    last: RoundFinished | None = None
    model: FLModel | None = None
    best: Best | None = None
    best_model: FLModel | None = None
    plateau: Plateau | None = None
    _checkpoint: Path | None = field(default=None, init=False)
    _best_files: set[Path] = field(default_factory=set, init=False)

    @classmethod
    def resumed(
        cls, checkpoints: Path, emit: Callable[[Event], None], seed: int = 0, workflows: Sequence[str] = ()
    ) -> Run:
        """A run that continues after its last complete round, or a new run if there is no checkpoint.

        Raises TensorError naming a file that is not a checkpoint.
        """
        run = cls(emit=emit, checkpoints=checkpoints, seed=seed, workflows=workflows)
        run._best_files = set(checkpoints_in(checkpoints, BEST))
        found = [(_state_in(path), path) for path in checkpoints_in(checkpoints, ROUND)]
        if found:  # two, if the run was killed after writing one and before removing the other
            *older, (state, path) = sorted(found, key=lambda each: (each[0].workflow, each[0].next_round))
            for _, other in older:
                other.unlink()
            for name in ("next_round", "workflow", "whole_rounds", "last", "best", "plateau"):
                setattr(run, name, getattr(state, name))
            run.model, run._checkpoint = replace(_model_in(path), meta=state.meta), path
            if run.best and run.best.workflow == run.workflow and run._best_file(run.best) in run._best_files:
                run.best_model = _model_in(run._best_file(run.best))
        return run

    def as_event(self) -> ServerReady:
        """Where it continues, as the parent process is told."""
        return ServerReady(
            next_round=self.next_round,
            whole_rounds=self.whole_rounds,
            last=self.last,
            best=self._as_event(self.best) if self.best else None,
        )

    @property
    def workflow_name(self) -> str:
        """The name of the current workflow, as its events have it."""
        return self._name_of(self.workflow)

    def enter(self, workflow: int) -> bool:
        """Begin or continue a workflow. False if it was finished before."""
        if workflow > self.workflow:
            self.workflow, self.next_round = workflow, 0
            self.last = self.best_model = self.plateau = None
        return workflow == self.workflow

    def begin_round(self, round_num: int) -> None:
        """Seed the server's random numbers for this round: they depend on the seed and the round alone."""
        seeds.set_seed(seeds.derived(self.seed, SERVER, round_num))

    def save_best(self, best: Best, model: FLModel) -> None:
        """Save `model`, which was sent in this round and has the best score so far."""
        best = self.best = msgspec.structs.replace(best, workflow=self.workflow)
        if self.checkpoints is not None:
            file = self._best_file(best)
            self._best_files.add(file)
            if self._checkpoint is not None and self.model is not None and model.params is self.model.params:
                _give_another_name(self._checkpoint, file)  # it was saved at the end of the round before
            else:
                tensor_file.save(file, model.params or {})
        self.emit(self._as_event(best))

    def finish_round(self, finished: RoundFinished, model: FLModel) -> None:
        """Save the state after this round in a new file, then remove the file of the round before."""
        self.next_round, self.model, self.last = finished.round_num + 1, model, finished
        self.whole_rounds += 1
        if self.checkpoints is not None:
            # a new name each time: a rename over an old file waits for the disk, 2.3 ms against 0.03
            path = self.checkpoints / checkpoint_name(ROUND, finished.round_num)
            state = _State(
                next_round=self.next_round,
                workflow=self.workflow,
                whole_rounds=self.whole_rounds,
                last=finished,
                best=self.best,
                plateau=self.plateau,
                meta=model.meta,
            )
            tensor_file.save(path, model.params or {}, msgspec.to_builtins(state))
            if self._checkpoint is not None and self._checkpoint != path:
                self._checkpoint.unlink(missing_ok=True)
            self._checkpoint = path
            self._forget_models(but=self.best)
        self.emit(finished)

    def finished(self) -> None:
        """All workflows are done: the persistor has written the best model."""
        self._forget_models(but=None)
        if not self.whole_rounds:
            self.emit(Notice(text="no workflow finished a round: there is no trained model"))

    def _name_of(self, workflow: int) -> str:
        return self.workflows[workflow] if workflow < len(self.workflows) else ""

    def _as_event(self, best: Best) -> BestModel:
        return BestModel(
            workflow=self._name_of(best.workflow),
            round_num=best.round_num,
            metric=best.metric,
            score=best.score,
            is_final=best.is_final,
        )

    def _best_file(self, best: Best) -> Path:
        assert self.checkpoints is not None
        return self.checkpoints / checkpoint_name(BEST, best.round_num)

    def _forget_models(self, *, but: Best | None) -> None:
        kept = {self._best_file(but)} if but else set()
        for path in self._best_files - kept:
            path.unlink(missing_ok=True)
        self._best_files &= kept


def _state_in(path: Path) -> _State:
    with TensorFile.open(path) as file:
        try:
            return msgspec.convert(file.about, _State)
        except (TensorError, msgspec.ValidationError) as error:
            raise TensorError(f"{path} is no checkpoint: {error}", hint="start a new run without --resume") from None


def _model_in(path: Path) -> FLModel:
    with TensorFile.open(path) as file:
        return FLModel(params=file.load())


def _give_another_name(path: Path, other: Path) -> None:
    other.unlink(missing_ok=True)  # of the same round, from before the run was resumed
    try:
        os.link(path, other)
    except OSError:  # the file system has no links
        with path.open("rb") as saved:
            write_whole(other, lambda file: shutil.copyfileobj(saved, file))
