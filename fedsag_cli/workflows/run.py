"""Where a run stands: the next round, the model it starts from, the best score. Saved whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec

from fedsag_cli.errors import TensorError
from fedsag_cli.events import BestModel, Event, RoundFinished, ServerReady
from fedsag_cli.model import FLModel
from fedsag_cli.params import seeds, tensor_file
from fedsag_cli.params.tensor_file import TensorFile
from fedsag_cli.workspace import BEST, ROUND, checkpoint_name, checkpoints_in, write_whole


class Best(msgspec.Struct, frozen=True):
    """The best score so far, and the round in which the model that has it was sent."""

    score: float
    round_num: int
    metric: str = ""
    is_final: bool = False  # it is the last aggregate, which clients have measured
    workflow: int = 0


class Plateau(msgspec.Struct, frozen=True):
    """The best value so far of the metric by which a workflow may stop early, and how many rounds have come since."""

    best: float
    rounds: int = 0


class _State(msgspec.Struct, frozen=True):
    """What stands beside the tensors in a checkpoint."""

    next_round: int
    workflow: int = 0
    whole_rounds: int = 0
    last: RoundFinished | None = None
    best: Best | None = None
    plateau: Plateau | None = None
    meta: dict[str, Any] = {}  # the model's


@dataclass(kw_only=True)
class Run:
    """A workflow's place in its rounds. `model` is None before the first checkpoint.

    `best_model` is the model that `best` speaks of, in a run that goes on after an earlier one: whether that one has
    still written it, nobody knows. `workflow` counts the job's workflows from 0.
    """

    emit: Callable[[Event], None]
    checkpoints: Path | None = None
    seed: int = 0
    next_round: int = 0
    workflow: int = 0
    whole_rounds: int = 0
    last: RoundFinished | None = None
    model: FLModel | None = None
    best: Best | None = None
    best_model: FLModel | None = None
    plateau: Plateau | None = None
    _checkpoint: Path | None = field(default=None, init=False)
    _best_files: set[Path] = field(default_factory=set, init=False)

    @classmethod
    def resumed(cls, checkpoints: Path, emit: Callable[[Event], None], seed: int = 0) -> Run:
        """A run that goes on after its last whole round; a new one where there is no checkpoint.

        Raises TensorError naming a checkpoint that is none.
        """
        run = cls(emit=emit, checkpoints=checkpoints, seed=seed)
        run._best_files = set(checkpoints_in(checkpoints, BEST))
        found = [(_state_in(path), path) for path in checkpoints_in(checkpoints, ROUND)]
        if found:  # two, where it was killed between writing one and removing the other
            *older, (state, path) = sorted(found, key=lambda each: (each[0].workflow, each[0].next_round))
            for _, other in older:
                other.unlink()
            for name in ("next_round", "workflow", "whole_rounds", "last", "best", "plateau"):
                setattr(run, name, getattr(state, name))
            run.model, run._checkpoint = replace(_model_in(path), meta=state.meta), path
            if run.best and run.best.workflow == run.workflow and run._best_file(run.best) in run._best_files:
                run.best_model = _model_in(run._best_file(run.best))
        return run

    def stands(self) -> ServerReady:
        """Where it goes on, for whoever follows it."""
        return ServerReady(
            next_round=self.next_round,
            whole_rounds=self.whole_rounds,
            last=self.last,
            best=_told(self.best) if self.best else None,
        )

    def enter(self, workflow: int) -> bool:
        """Begin or go on with a workflow. False where it was done before."""
        if workflow > self.workflow:
            self.workflow, self.next_round = workflow, 0
            self.last = self.best_model = self.plateau = None
        return workflow == self.workflow

    def begin_round(self, round_num: int) -> None:
        """What the server draws in this round depends on its seed and the round, not on what was drawn before."""
        seeds.set_seed(seeds.derived(self.seed, "server", round_num))

    def better(self, best: Best, model: FLModel) -> None:
        """Remember a new best score, and the model that has it, which was sent in this round."""
        best = self.best = msgspec.structs.replace(best, workflow=self.workflow)
        if self.checkpoints is not None:
            file = self._best_file(best)
            self._best_files.add(file)
            if self._checkpoint is None:
                tensor_file.save(file, model.params or {})
            else:
                _give_another_name(self._checkpoint, file)  # it was saved when the round before was whole
        self.emit(_told(best))

    def round_finished(self, finished: RoundFinished, model: FLModel) -> None:
        """Save where we are now: a new file, then the one before goes."""
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
        """The best model has its own file by now."""
        self._forget_models(but=None)

    def _best_file(self, best: Best) -> Path:
        assert self.checkpoints is not None
        return self.checkpoints / checkpoint_name(BEST, best.round_num)

    def _forget_models(self, *, but: Best | None) -> None:
        kept = {self._best_file(but)} if but else set()
        for path in self._best_files - kept:
            path.unlink(missing_ok=True)
        self._best_files &= kept


def _told(best: Best) -> BestModel:
    return BestModel(round_num=best.round_num, metric=best.metric, score=best.score, is_final=best.is_final)


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
    other.unlink(missing_ok=True)  # of the same round, before the run was resumed
    try:
        os.link(path, other)
    except OSError:  # a file system without links
        with path.open("rb") as saved:
            write_whole(other, lambda file: shutil.copyfileobj(saved, file))
