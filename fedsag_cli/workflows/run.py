"""How far a run is: its next round, its model, its best score. Saved after each round, completely or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np

from fedsag_cli import foreign
from fedsag_cli.accountants import Accountant
from fedsag_cli.events import (
    BestModel,
    Event,
    ModelSent,
    ModelValidated,
    NotAwaited,
    Notice,
    PrivacySpent,
    ReplyAccepted,
    ReplyFailed,
    ReplyLate,
    ResultTable,
    RoundFinished,
    RoundStarted,
    ServerReady,
    TaskSent,
    to_line,
)
from fedsag_cli.model import FLModel, Stateful, Tree
from fedsag_cli.params import seeds, tensor_file
from fedsag_cli.params.tensor_file import TensorFile
from fedsag_cli.plan import ALL
from fedsag_cli.record import Whole
from fedsag_cli.workflows.checkpoints import Checkpoints
from fedsag_cli.workflows.state_files import SiteStates
from fedsag_cli.workspace import BEST, ROUND, SERVER

_OF_A_ROUND = (
    RoundStarted,
    ModelSent,
    TaskSent,
    ReplyAccepted,
    ReplyFailed,
    ReplyLate,
    NotAwaited,
    Notice,
    PrivacySpent,
    BestModel,
    ModelValidated,
    ResultTable,
)


_MUCH = 1_000_000_000  # bytes of all checkpoints that are kept; of less, nothing is said
_META = "meta"  # the tree of a checkpoint that has the model's meta


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
    """Where the run stands after a round, as the record has it."""

    next_round: int
    workflow: int = 0
    whole_rounds: int = 0
    best: Best | None = None
    plateau: Plateau | None = None


@dataclass(kw_only=True)
class Run:
    """How far a run is. `model` is the global model, None before the first checkpoint.

    `workflow` is the number of the current workflow, from 0; `workflows` are the names of all. `history` are the
    finished rounds of the current workflow. In a resumed run, `best_model` is the model with the score `best`: the
    earlier run may have been stopped before its persistor wrote it. `keeps` names what components keep from round to
    round, which no checkpoint has. The `accountants` are told each round.

    As an observer it hears the server's events, which the record gets with their round.
    """

    emit: Callable[[Event], None]
    checkpoints: Path | None = None
    seed: int = 0
    identity: str = ""  # the plan's
    keep_checkpoints: int = 1  # those of so many last rounds, or ALL
    needed: Callable[[], Iterable[Path]] = tuple  # further files without which it cannot be resumed
    keeps: Callable[[], Sequence[str]] = tuple
    notes: list[str] = field(default_factory=list, init=False)  # for the user, on how the run continues
    next_round: int = 0
    workflow: int = 0
    workflows: Sequence[str] = ()
    whole_rounds: int = 0
    history: list[RoundFinished] = field(default_factory=list)
    accountants: Sequence[Accountant] = ()
    model: FLModel | None = None
    trained: FLModel | None = None  # what the last finished round made; a workflow after it may begin with another one
    best: Best | None = None
    best_model: FLModel | None = None
    plateau: Plateau | None = None
    _keepers: dict[str, Stateful] = field(default_factory=dict, init=False)
    _states: SiteStates | None = field(default=None, init=False)
    _found: dict[str, Tree] = field(default_factory=dict, init=False)  # in the checkpoint, for those that are to come
    _files: Checkpoints | None = field(default=None, init=False)
    _saved: Path | None = field(default=None, init=False)  # the checkpoint of `model`
    _told_keeps: bool = field(default=False, init=False)
    _told_size: bool = field(default=False, init=False)
    _num_rounds: int = field(default=0, init=False)  # of the current workflow, as it has told
    _heard: list[bytes] = field(default_factory=list, init=False)
    _has_result: bool = field(default=False, init=False)  # beside a trained model

    def __post_init__(self) -> None:
        if self.checkpoints is not None:
            self._files = Checkpoints(self.checkpoints, self.identity, self.needed, self.keep_checkpoints)

    @classmethod
    def resumed(
        cls,
        checkpoints: Path,
        emit: Callable[[Event], None],
        seed: int = 0,
        workflows: Sequence[str] = (),
        identity: str = "",
        needed: Callable[[], Iterable[Path]] = tuple,
        keep_checkpoints: int = 1,
    ) -> Run:
        """A run that continues after its last complete round, or a new run if there is none.

        Raises TensorError naming a file that is not what the run wrote, OSError.
        """
        run = cls(
            emit=emit,
            checkpoints=checkpoints,
            seed=seed,
            workflows=workflows,
            identity=identity,
            needed=needed,
            keep_checkpoints=keep_checkpoints,
        )
        assert run._files is not None
        if whole := run._files.resume():
            state = msgspec.convert(whole.state, _State)
            for name in ("next_round", "workflow", "whole_rounds", "best", "plateau"):
                setattr(run, name, getattr(state, name))
            ends = [msgspec.json.decode(each.events[-1], type=RoundFinished) for each in run._files.whole_rounds]
            run.history = [end for end in ends if end.workflow == ends[-1].workflow]
            run._saved = checkpoints / whole.checkpoint
            run.model = run.trained = _model_in(run._saved)
            run._found = _kept_in(run._saved)
            if run.best and run.best.workflow == run.workflow and (file := run._best_file(run.best)).exists():
                if run._files.is_proven(file):
                    run.best_model = _model_in(file)
                else:
                    run.notes.append(f"{file} is not what this run wrote: the best model is not written again from it")
        if run._files.note:
            run.notes.append(run._files.note)
        return run

    def keep(self, name: str, keeper: Stateful) -> None:
        """Save what `keeper` keeps with each round, under this name. In a resumed run it gets what was saved now."""
        self._keepers[name] = keeper
        if name in self._found:
            keeper.restore(self._found.pop(name))

    def forget(self, names: Iterable[str]) -> None:
        """Nobody gets what was saved under these names."""
        for name in names:
            self._found.pop(name, None)

    def keep_states(self, states: SiteStates) -> None:
        """Save what sites keep with each round. In a resumed run they have what was saved now."""
        self._states = states
        if self._files is not None:
            states.files = self._files.states

    def on(self, event: Event) -> None:
        self._has_result |= isinstance(event, ResultTable)
        if isinstance(event, RoundStarted):
            self._num_rounds = event.num_rounds
        if self._files is not None and isinstance(event, _OF_A_ROUND):
            self._heard.append(_as_json(event))

    def as_event(self) -> ServerReady:
        """Where it continues, as the parent process is told."""
        return ServerReady(
            next_round=self.next_round,
            whole_rounds=self.whole_rounds,
            last=self.last,
            best=self._as_event(self.best) if self.best else None,
        )

    @property
    def last(self) -> RoundFinished | None:
        """The last finished round of the current workflow."""
        return self.history[-1] if self.history else None

    @property
    def workflow_name(self) -> str:
        """The name of the current workflow, as its events have it."""
        return self._name_of(self.workflow)

    def enter(self, workflow: int) -> bool:
        """Begin or continue a workflow. False if it was finished before."""
        if workflow > self.workflow:
            self.workflow, self.next_round = workflow, 0
            self.history, self.best_model, self.plateau = [], None, None
        return workflow == self.workflow

    def rng(self, *names: object) -> np.random.Generator:
        """Random numbers for a part of the server in the current round, or before the first one of the workflow."""
        return np.random.default_rng(seeds.derived(self.seed, *names, self.workflow, self.next_round))

    def begin_round(self, round_num: int) -> None:
        """Seed the server's random numbers for this round of the workflow."""
        seeds.set_seed(seeds.of_round(self.seed, SERVER, round_num, self.workflow))

    def save_best(self, best: Best, model: FLModel) -> None:
        """Save `model`, which was sent in this round and has the best score so far."""
        best = self.best = msgspec.structs.replace(best, workflow=self.workflow)
        if self._files is not None:
            self._files.save_best(self._best_file(best), model.params or {}, self._checkpoint_of(model))
        self.emit(self._as_event(best))

    def _checkpoint_of(self, model: FLModel) -> Path | None:
        """The checkpoint that has this model: the one sent in a round was saved at the end of the round before.

        None if a workflow has changed its values in place since.
        """
        if self._saved is None or self.model is None or model.params is not self.model.params:
            return None
        saved = _model_in(self._saved).params or {}
        return self._saved if tensor_file.same_bits(model.params or {}, saved) else None

    def finish_round(self, finished: RoundFinished, model: FLModel) -> None:
        """Save the state after this round."""
        self.next_round, self.model, self.trained = finished.round_num + 1, model, model
        self.history.append(finished)
        self.whole_rounds += 1
        if self._files is not None:
            state = _State(
                next_round=self.next_round,
                workflow=self.workflow,
                whole_rounds=self.whole_rounds,
                best=self.best,
                plateau=self.plateau,
            )
            file = self._files.path(ROUND, self.workflow, finished.round_num)
            keeps = list(self.keeps())
            if keeps and not self._told_keeps:
                self._told_keeps = True
                text = f"this run cannot be resumed: no checkpoint has what it keeps between rounds: {'; '.join(keeps)}"
                self.emit(Notice(text=text))
            heard, self._heard = self._heard, []
            whole = Whole(
                round_num=finished.round_num,
                checkpoint=file.name,
                state=msgspec.to_builtins(state),
                keeps=keeps,
                events=[msgspec.Raw(text) for text in (*heard, _as_json(finished))],
            )
            best = self._best_file(self.best) if self.best else None
            kept = {name: keeper.state() for name, keeper in self._keepers.items()}
            trees = {name: tree for name, tree in {_META: model.meta or None, **kept}.items() if tree is not None}
            changed = {} if self._states is None else self._states.changed()
            self._files.save(model.params or {}, trees, whole, best if best and best.exists() else None, changed)
            if self._states is not None:
                self._states.saved()
            self._saved = file
            self._tell_size(self._files.last_size)
        self.emit(finished)

    def _tell_size(self, size: int) -> None:
        """Tell once what the kept checkpoints will take, if it is much. `size`: the bytes of the last one."""
        count = self._num_rounds if self.keep_checkpoints == ALL else min(self.keep_checkpoints, self._num_rounds)
        if count > 1 and count * size >= _MUCH and not self._told_size and self.checkpoints is not None:
            self._told_size = True
            free = shutil.disk_usage(self.checkpoints).free
            text = (
                f"the checkpoint of a round has {size / 1e9:.1f} GB: {count} of them, as --keep-checkpoints says, take "
                f"{count * size / 1e9:.1f} GB in {self.checkpoints}, where {free / 1e9:.1f} GB are free"
            )
            self.emit(Notice(text=text))

    def written(self, models: Iterable[Path]) -> None:
        """The persistor has written these files for the last time."""
        if self._files is not None:
            self._files.prove(models)

    def finished(self, digest: str = "") -> None:
        """All workflows are done, with this digest of the final params: the persistor has written the best model."""
        if self._files is not None:
            self._files.finish(digest)
        if not self.whole_rounds and not self._has_result:
            self.emit(Notice(text="no workflow finished a round: there is no trained model"))

    def close(self) -> None:
        """End a run that failed: what was done stays."""
        if self._files is not None:
            self._files.close()

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
        assert self._files is not None
        return self._files.path(BEST, best.workflow, best.round_num)


def _kept_in(path: Path) -> dict[str, Tree]:
    with TensorFile.open(path) as file:
        return {name: file.tree(name) for name in file.trees if name != _META}


def _as_json(event: Event) -> bytes:
    return to_line(foreign.masked(event)).rstrip()


def _model_in(path: Path) -> FLModel:
    with TensorFile.open(path) as file:
        return FLModel(params=file.load(), meta=file.tree(_META) if _META in file.trees else {})
