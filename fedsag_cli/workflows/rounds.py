"""The rounds of any workflow: events, metrics, the best model, saving, early stopping and resuming.

def __init__(self, persistor: Persistor, num_rounds: NumRounds = 5) -> None:
    self._rounds = Rounds(persistor, num_rounds=num_rounds)

def run(self, clients: Clients, run: Run) -> None:
    with self._rounds.begin(clients, run) as rounds:
        for current in rounds:
            for reply in current.broadcast("train"):
                ...
            current.finish(update)
"""

from __future__ import annotations

import heapq
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from types import TracebackType
from typing import Annotated, Any, TypeAlias

import numpy as np

from fedsag_cli.arguments import Least, Needs
from fedsag_cli.errors import JobError
from fedsag_cli.events import (
    Metrics,
    ModelValidated,
    Notice,
    PrivacySpent,
    RoundFinished,
    RoundStarted,
    as_metrics,
    as_plain,
)
from fedsag_cli.model import INITIAL_PARAMS, Cohort, FLModel, ParamsType, Reply, Task
from fedsag_cli.params import arithmetic, seeds
from fedsag_cli.params.encoding import is_payload
from fedsag_cli.params.metrics import weighted_means
from fedsag_cli.persistors import Persistor
from fedsag_cli.samplers import Sampler
from fedsag_cli.updaters import Updater
from fedsag_cli.updaters.averaging import Averaging
from fedsag_cli.workflows import Clients, Replies
from fedsag_cli.workflows.early_stopping import STOP_CONDITION, StopCondition
from fedsag_cli.workflows.model_selector import IntimeModelSelector
from fedsag_cli.workflows.run import Best, Run
from fedsag_cli.workflows.writer import Writer

NumRounds: TypeAlias = Annotated[int, Least(1), "number of rounds"]
StartRound: TypeAlias = Annotated[int, Least(0), "number of the first round"]
PersistEvery: TypeAlias = Annotated[
    int,
    Least(0),
    "number of rounds between two writes of the global model; it is always written after the last round (0: only then)",
]
StopCond: TypeAlias = Annotated[
    str | None,
    STOP_CONDITION,
    "early stopping: the first round in which this metric's mean over the clients, weighted by their steps, "
    "reaches the value is the last",
]
Patience: TypeAlias = Annotated[
    int | None,
    Least(1),
    Needs("stop_cond"),
    "number of rounds without a better value of stop_cond's metric, after which the workflow ends",
]

_MOST_NAMES = 6  # of metrics, in a note
_TRAINED = (
    "clients trained when they were asked to measure the final model. Their metrics count, their params do not. "
    "Let the script ask for flare.is_evaluate(), or leave {task!r} out of the executor's tasks"
)


class Rounds:
    """The rounds of a workflow, as its arguments set them.

    The first model is the persistor's. `model_selector` scores each model by the clients' metrics; the best model is
    saved. `updater` makes the next model from the merged update: without one, the update is the next model, or is added
    to the model (DIFF). `allow_empty_model`: the first model may have no params; then the first updates add them. The
    declarations in this module describe the other arguments.
    """

    def __init__(
        self,
        persistor: Persistor,
        model_selector: IntimeModelSelector | None = None,
        *,
        updater: Updater | None = None,
        num_rounds: int = 5,
        start_round: int = 0,
        persist_every_n_rounds: int = 1,
        stop_cond: str | None = None,
        patience: int | None = None,
        allow_empty_model: bool = False,
    ) -> None:
        self.persistor = persistor
        self.selector = model_selector
        self.updater: Updater = updater or Averaging()
        self.start, self.count = start_round, num_rounds
        self.persist_every = persist_every_n_rounds
        self.stopping = StopCondition(stop_cond, patience) if stop_cond else None
        self._allow_empty = allow_empty_model

    @property
    def end(self) -> int:
        """The number of the last round, plus one."""
        return self.start + self.count

    @contextmanager
    def begin(self, clients: Clients, run: Run) -> Iterator[RoundLoop]:
        """The rounds to do: all of them or, in a resumed run, those after the last complete round.

        At the end of the `with` block, all models are written. Raises JobError if there is no first model, OSError if a
        model cannot be written.
        """
        model = run.model or self._first_model()
        with Writer(run) as writer:
            loop = RoundLoop(self, clients, run, writer, model)
            yield loop
        run.model = loop.model

    def _first_model(self) -> FLModel:
        model = self.persistor.load()
        if not (model.params or self._allow_empty or INITIAL_PARAMS in model.meta):
            raise JobError("the persistor gives a model without params", hint="set allow_empty_global_weights = true")
        return model


class RoundLoop:
    """The rounds of a running workflow. `model` is the current global model."""

    def __init__(self, rounds: Rounds, clients: Clients, run: Run, writer: Writer, model: FLModel) -> None:
        self.model = model
        self._rounds, self._clients, self._run, self._writer = rounds, clients, run, writer
        self._noted: set[str] = set()
        if run.best_model:  # the earlier run may have ended before it was written
            writer.write(rounds.persistor.save_best, run.best_model)
        if self._is_over():
            writer.write(rounds.persistor.save, model)

    def __iter__(self) -> Iterator[Round]:
        """Raises RuntimeError if the last round was not finished."""
        run = self._run
        while not self._is_over():
            round_num = max(run.next_round, self._rounds.start)
            run.begin_round(round_num)
            yield Round(self, self._clients, run, self._sent_in(round_num))
            if run.next_round <= round_num:
                raise RuntimeError(f"round {round_num} was not finished: a workflow calls finish() in every round")
        if run.next_round < self._rounds.end:
            run.emit(Notice(text=f"stopped after round {run.next_round - 1}: {self._reason_to_stop()}"))

    def validate(
        self,
        task_name: str,
        *,
        timeout_s: float | None = None,
        own: Callable[[FLModel], Mapping[str, FLModel]] | None = None,
    ) -> None:
        """Let clients measure the final model: those that list the task by its name and answered in the last round.

        A pattern such as "*" is not enough, as the script may be able only to train. If it trains all the same, its
        params are not used: as in each round, its metrics are of the model that it received. `timeout_s`: as in
        `broadcast`. `own`: the model that each site measures, if it is a part of the final one.
        """
        model, answered = self._sent_in(self._run.next_round), self._run.last.sites if self._run.last else None
        takers = self._clients.takes(task_name, by_name=True)
        targets = [site for site in takers if answered is None or site in answered]
        if not targets:
            return
        measured: dict[str, Mapping[str, float]] = {}
        steps: dict[str, float] = {}
        have_trained = False
        for reply in self._measuring(task_name, own(model) if own else model, targets, timeout_s):
            measured[reply.site], steps[reply.site] = reply.model.metrics or {}, reply.model.num_steps
            have_trained |= reply.model.params is not None
        if have_trained:
            self._run.emit(Notice(text=_TRAINED.format(task=task_name)))
        metrics = as_metrics(weighted_means(measured, dict.fromkeys(measured, 1.0)))
        by_site = {site: as_metrics(values) for site, values in measured.items()}
        self._run.emit(
            ModelValidated(
                workflow=self._run.workflow_name,
                task=task_name,
                round_num=model.current_round or 0,
                metrics=metrics,
                by_site=by_site,
            )
        )
        self.judge(model, measured, steps, is_final=True)

    def _measuring(
        self,
        task_name: str,
        models: FLModel | Mapping[str, FLModel],
        targets: Sequence[str],
        timeout_s: float | None,
    ) -> Iterator[Reply]:
        """The answers of the sites that measure a model, or each its own."""
        asked = [(models, targets)] if isinstance(models, FLModel) else [(models[site], [site]) for site in targets]
        with ExitStack() as tasks:
            for replies in [
                tasks.enter_context(
                    self._clients.ask(Task(name=task_name, model=each), to=to, timeout_s=timeout_s, check=_metrics_of)
                )
                for each, to in asked
            ]:
                yield from replies

    def judge(
        self,
        sent: FLModel,
        measured: Mapping[str, Mapping[str, float]],
        steps: Mapping[str, float],
        *,
        is_final: bool = False,
    ) -> None:
        """Save the model that was sent if it is the best so far. The untrained model of round 0 does not count.

        A workflow after another one begins with a trained model.
        """
        selector, run, round_num = self._rounds.selector, self._run, sent.current_round or 0
        if selector is None:
            return
        for site, metrics in measured.items():
            selector.accept(site, metrics, steps[site])
        score = selector.score()
        if measured and score is None:
            names = {name for metrics in measured.values() for name in metrics}
            self.note_once(
                f"no client sent a finite {selector.key_metric!r}, the key_metric, so no best model is selected", names
            )
        best = run.best.score if run.best and run.best.metric in ("", selector.key_metric) else None
        is_trained = round_num > 0 or run.whole_rounds > 0
        if is_trained and score is not None and selector.is_better(score, best):
            run.save_best(Best(score, round_num, selector.key_metric, is_final), sent)
            self._writer.write(self._rounds.persistor.save_best, sent)

    def updated(self, model: FLModel, update: FLModel) -> FLModel:
        """The next global model. Raises TensorError."""
        return replace(self._rounds.updater.update(model, update), params_type=ParamsType.FULL, metrics=None)

    def replace_model(self, model: FLModel, round_num: int, metrics: Metrics, *, write: bool | None = None) -> None:
        """End a round with `model` as the global model. `write`: as in `Round.finish`."""
        self.model = model
        is_last = self._stops_with(metrics) or round_num + 1 == self._rounds.end
        every = self._rounds.persist_every
        is_due = is_last or (every and (round_num + 1) % every == 0)
        if is_due if write is None else write:
            self._writer.write(self._rounds.persistor.save, model)

    def start_writing(self) -> None:
        """The clients have their tasks: what is to be written can be written now."""
        self._writer.start()

    def started(self, round_num: int, sites: Sequence[str]) -> RoundStarted:
        """The event for the start of a round with these sites."""
        return RoundStarted(
            workflow=self._run.workflow_name,
            round_num=round_num,
            first_round=self._rounds.start,
            num_rounds=self._rounds.count,
            sites=list(sites),
        )

    def note_once(self, text: str, names: Iterable[str]) -> None:
        """Give a note about missing metrics, once, with the names of the metrics that were sent."""
        if text not in self._noted:
            self._noted.add(text)
            sent = sorted(names)
            more = f" and {len(sent) - _MOST_NAMES} more" if len(sent) > _MOST_NAMES else ""
            self._run.emit(Notice(text=f"{text}; metrics sent: {', '.join(sent[:_MOST_NAMES]) or 'none'}{more}"))

    def _sent_in(self, round_num: int) -> FLModel:
        return self.model.at_round(round_num, self._rounds.count, start_round=self._rounds.start)

    def _is_over(self) -> bool:
        return self._run.next_round >= self._rounds.end or bool(self._reason_to_stop())

    def _reason_to_stop(self) -> str:
        stopping, run = self._rounds.stopping, self._run
        return stopping.reason(run.plateau, run.last.metrics) if stopping and run.last else ""

    def _stops_with(self, metrics: Metrics) -> bool:
        """Count a round with these metrics, and say whether it is the last."""
        stopping, run = self._rounds.stopping, self._run
        if stopping is None:
            return False
        if stopping.metric not in metrics:
            self.note_once(f"no client sent {stopping.metric!r}, which stop_cond needs", metrics)
        run.plateau = stopping.counted(run.plateau, metrics)
        return bool(stopping.reason(run.plateau, metrics))


class Round:
    """One round of a workflow: `broadcast` sends `model` and yields the updates; `finish` makes the next model."""

    def __init__(self, loop: RoundLoop, clients: Clients, run: Run, model: FLModel) -> None:
        self.model = model
        self.number = model.current_round or 0
        self._loop, self._clients, self._run = loop, clients, run
        self._is_announced = False
        self._num_clients = 0  # those that take part in the draw
        self._by_lot = True  # whether it is at random
        self._asked: Sequence[str] = ()
        self._measured: dict[str, Mapping[str, float]] = {}
        self._steps: dict[str, float] = {}
        self._came_by: dict[str, Replies] = {}  # the task to which each site replied last
        self._clock = _Clock()

    def cohort(self, sites: Sequence[str]) -> Cohort:
        """These sites of all that take part in the round, for an aggregator."""
        rng = self._run.rng("aggregator")
        return Cohort(sites=sites, num_clients=self._num_clients or len(sites), round_num=self.number, rng=rng)

    def draw(self, sites: Sequence[str], count: int | None, sampler: Sampler | None = None) -> Sequence[str]:
        """Draw `count` of the sites (None: all), at random or by a sampler. They stay in order.

        The result depends only on the names, the run's seed, the workflow and the round, and on the earlier rounds if a
        sampler looks at them.
        """
        self._num_clients = len(sites)
        if sampler is not None:
            self._by_lot = False
            count = min(count or len(sites), len(sites))
            drawn = set(sampler.draw(sites, count, self._run.history, self._run.rng("sampler")))
            return [site for site in sites if site in drawn]
        if count is None or count >= len(sites):
            return sites
        lots = seeds.derived_for_each(self._run.seed, "drawn", self._run.workflow, self.number, names=sites)
        drawn = set(heapq.nsmallest(count, sites, key=lots.__getitem__))
        return [site for site in sites if site in drawn]

    def announce(self, sites: Sequence[str]) -> None:
        """Tell that the round begins, and who takes part. Without it, the first `broadcast` tells whom it asks."""
        self._asked = self._asked or sites
        if not self._is_announced:
            self._is_announced = True
            self._run.emit(self._loop.started(self.number, sites))

    def ask(
        self,
        task_name: str,
        *,
        to: Sequence[str] | None = None,
        model: FLModel | None = None,
        min_responses: int = 0,
        timeout_s: float | None = None,
        grace_s: float | None = None,
        allow_non_finite: bool = False,
        allow_unknown_keys: bool = False,
        ignores: Callable[[str], bool] | None = None,
        check: Callable[[FLModel, Mapping[str, Any]], FLModel] | None = None,
    ) -> Replies:
        """Send the round's model, as `Clients.ask` does. A reply without params has failed.

        `model`: a model to send instead. The metrics and steps of each reply count for the round. Raises
        NotEnoughClients.
        """
        targets = self._clients.takes(task_name) if to is None else to
        self.announce(targets)
        self._clock.lap("aggregate")
        replies = self._clients.ask(
            Task(name=task_name, model=model or self.model),
            to=targets,
            min_responses=min_responses,
            timeout_s=timeout_s,
            grace_s=grace_s,
            allow_non_finite=allow_non_finite,
            allow_unknown_keys=allow_unknown_keys,
            ignores=ignores,
            check=check,
        )
        self._clock.lap("wait")
        return _RoundReplies(self, replies, needs_params=bool((model or self.model).params), task_name=task_name)

    def broadcast(self, task_name: str, **how: Any) -> Iterator[Reply]:
        """The updates: the replies of `ask`, which has the same arguments. The task ends with the iteration."""
        with self.ask(task_name, **how) as replies:
            yield from replies

    def reject(self, reply: Reply, cause: str) -> None:
        """Count a reply as failed, with this cause. Raises NotEnoughClients if too few clients are left."""
        self._came_by[reply.site].reject(reply, cause)

    def count(self, reply: Reply, replies: Replies) -> None:
        """Count the metrics and steps of a reply for the round. The replies of `ask` are counted as they come."""
        self._measured[reply.site], self._steps[reply.site] = reply.model.metrics or {}, reply.model.num_steps
        self._came_by[reply.site] = replies

    def discount(self, reply: Reply) -> None:
        """Do not count them."""
        self._measured.pop(reply.site, None)
        self._steps.pop(reply.site, None)

    def lap(self, stage: str) -> None:
        """The time since the last lap was for this: "wait", or "aggregate", after which the server waits."""
        if stage == "aggregate":
            self._loop.start_writing()
        self._clock.lap(stage)

    def updated(self, model: FLModel, update: FLModel) -> FLModel:
        """`model` with an update, FULL or DIFF, as `finish` makes it of the round's model. The round goes on.

        Raises TensorError as `finish` does.
        """
        return self._loop.updated(model, update)

    def finish(self, update: FLModel, *, write: bool | None = None) -> None:
        """End the round: apply `update`, FULL or DIFF, to the round's model, and save the result.

        `write`: whether the persistor writes it (None: if the round is due for it). A key without an update keeps its
        value. Raises TensorError where the update has a key or a shape that the model has not, RuntimeError
        where the round was finished before.
        """
        if self._run.next_round > self.number:
            raise RuntimeError(
                f"round {self.number} was finished before: a workflow calls finish() once in every round"
            )
        self.announce([])
        self._loop.judge(self.model, self._measured, self._steps)
        if self._measured and not update.params:
            self._run.emit(
                Notice(text=f"round {self.number}: no update has a weight above zero: the model does not change")
            )
        merged = self._loop.updated(self.model, update)
        self._tell_not_finite(merged)
        self._clock.lap("aggregate")
        metrics = as_metrics(weighted_means(self._measured, self._steps))
        self._loop.replace_model(merged, self.number, metrics, write=write)
        finished = RoundFinished(
            workflow=self._run.workflow_name,
            round_num=self.number,
            sites=list(self._measured),
            metrics=metrics,
            by_site={site: as_metrics(measured) for site, measured in self._measured.items()},
            aggregate=as_plain({**(update.metrics or {}), **update.meta}),
            wait_s=self._clock.laps["wait"],
            aggregate_s=self._clock.laps["aggregate"],
            save_s=self._clock.lap("save"),
        )
        self._spend()
        self._run.finish_round(finished, merged)

    def _tell_not_finite(self, merged: FLModel) -> None:
        """Give a note if numbers become NaN or infinite. Updates are checked, but not how the next model is made."""
        for name, value in (merged.params or {}).items():
            before: Any = (self.model.params or {}).get(name)
            known = None if is_payload(before) or np.shape(before) != np.shape(value) else before
            if not is_payload(value) and (count := arithmetic.count_not_finite(value, known)):
                text = f"round {self.number}: the new model has {count} numbers in {name!r} that are NaN or infinite"
                self._run.emit(Notice(text=text))
                return

    def _spend(self) -> None:
        """Tell the accountants of this round, and the user what the run has spent."""
        num_sampled = len(self._asked)
        num_clients = max(self._num_clients, num_sampled) if self._by_lot else num_sampled
        for accountant in self._run.accountants if num_sampled else ():
            spent = accountant.spend(num_sampled, num_clients)
            self._run.emit(
                PrivacySpent(
                    workflow=self._run.workflow_name,
                    round_num=self.number,
                    epsilon=spent.epsilon if math.isfinite(spent.epsilon) else None,
                    delta=spent.delta,
                    mechanism=spent.mechanism,
                )
            )


class _RoundReplies:
    """The replies to a task of a round, which measures them."""

    def __init__(self, current: Round, replies: Replies, *, needs_params: bool, task_name: str) -> None:
        self._current, self._replies = current, replies
        self._needs_params, self._task_name = needs_params, task_name

    def __enter__(self) -> Replies:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._replies.__exit__(kind, error, trace)

    def __iter__(self) -> Iterator[Reply]:
        return self

    def __next__(self) -> Reply:
        self._current.lap("aggregate")
        try:
            reply = next(self._replies)
            while reply.model.params is None or (self._needs_params and not reply.model.params):
                self.reject(reply, f"its answer to the task {self._task_name!r} has no params")
                reply = next(self._replies)
        finally:
            self._current.lap("wait")
        self._current.count(reply, self)
        return reply

    def reject(self, reply: Reply, cause: str) -> None:
        self._current.discount(reply)
        self._replies.reject(reply, cause)


def _metrics_of(answer: FLModel, sent: Mapping[str, Any]) -> FLModel:  # noqa: ARG001
    """The answer of a client that measures: its params, which nobody uses, are empty. Raises TensorError."""
    answer.num_steps  # noqa: B018  it raises
    return replace(answer, params={}) if answer.params else answer


class _Clock:
    """Seconds by stage."""

    def __init__(self) -> None:
        self.laps = {"wait": 0.0, "aggregate": 0.0, "save": 0.0}
        self._last = time.monotonic()

    def lap(self, stage: str) -> float:
        """Add the time since the last call to `stage`, and return that stage's sum."""
        now = time.monotonic()
        self.laps[stage] += now - self._last
        self._last = now
        return self.laps[stage]
