"""Scatter and gather: send the model to every client, aggregate what comes back, repeat."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from fedsag_cli.aggregators import Aggregator
from fedsag_cli.arguments import Least, checked
from fedsag_cli.errors import JobError, TensorError
from fedsag_cli.events import ModelSaved, ModelValidated, Notice, RoundFinished, RoundStarted, told
from fedsag_cli.facts import Facts, Nvflare
from fedsag_cli.model import FEDPROX_MU, FLModel, ParamsType, Reply, Task
from fedsag_cli.params import arithmetic, checks, seeds
from fedsag_cli.persistors import Persistor
from fedsag_cli.workflows import Clients
from fedsag_cli.workflows.early_stopping import StopCondition
from fedsag_cli.workflows.model_selector import IntimeModelSelector
from fedsag_cli.workflows.rounds import NumRounds, Patience, PersistEvery, StartRound, StopCond
from fedsag_cli.workflows.run import Best, Run


class ScatterAndGather:
    """`num_rounds` rounds from `start_round` on, each with every client that takes the train task.

    With `num_clients`, each round draws so many of them, by the run's seed (more than there are counts as all). It
    needs answers from `min_clients` (likewise) and, once it has those, waits `wait_time_after_min_received` seconds for
    the others. `train_timeout` seconds after it was handed the task, a client is given up (0: never). An update whose
    keys, shapes or kinds of number are not those of the model that was sent, or in which a number is NaN or infinite
    (unless `allow_non_finite`), counts as failed. The global model is written every `persist_every_n_rounds` rounds and
    at the end (0: at the end only). Where executors list `validate_task_name` by its name, the last aggregate is
    validated too, by all that answered in the last round.

    `stop_cond`, such as "accuracy >= 80", ends the rounds early: after the first in which that metric's mean over the
    clients, weighted with their steps, has come to the value, or after `patience` rounds in which it was no better.
    `fedprox_mu` goes along with each model, in its meta, for scripts that add FedProx's proximal term to their loss.
    """

    facts = Facts(
        asks_for=("train_task_name",),
        nvflare=Nvflare(
            path="nvflare.app_common.workflows.scatter_and_gather.ScatterAndGather",
            defaults={"min_clients": 1000, "aggregator_id": "aggregator"},  # 1000: more than there are, so all
            ignored=(
                "shareable_generator_id",
                "task_check_period",
                "snapshot_every_n_rounds",
                "memory_gc_rounds",
                "enable_tensor_disk_offload",
            ),
            expected={"ignore_result_error": (None,)},
            added={"shareable_generator_id": "shareable_generator"},
            left_out={
                "model_selector_id": "",  # its selector listens to events
                "validate_task_name": "",
                "num_clients": "asks all clients",
                "stop_cond": "runs all rounds",
                "patience": "",
                "fedprox_mu": "does not send it",
                "allow_non_finite": "does not check for NaN and infinity",
            },
            whole_numbers=("wait_time_after_min_received", "train_timeout"),
        ),
    )

    @checked
    def __init__(
        self,
        aggregator: Annotated[Aggregator, "merges the clients' updates into one"],
        persistor: Annotated[Persistor, "loads the first global model and writes the trained one"],
        model_selector: Annotated[IntimeModelSelector | None, "says which round's model is the best"] = None,
        min_clients: Annotated[int, Least(1), "answers that a round needs"] = 1,
        num_clients: Annotated[int | None, Least(1), "clients drawn in each round (null: all)"] = None,
        num_rounds: NumRounds = 5,
        start_round: StartRound = 0,
        wait_time_after_min_received: Annotated[
            float, Least(0), "seconds to wait for the other clients once min_clients have answered"
        ] = 10,
        train_timeout: Annotated[float, Least(0), "seconds that a client has for its answer (0: no limit)"] = 0,
        train_task_name: Annotated[str, "name of the task to train, as the executors list it"] = "train",
        validate_task_name: Annotated[str, "name of the task to validate the last model"] = "validate",
        persist_every_n_rounds: PersistEvery = 1,
        allow_empty_global_weights: Annotated[bool, "whether the first model may have no params"] = False,
        allow_non_finite: Annotated[bool, "whether an update may have NaN and infinity"] = False,
        stop_cond: StopCond = None,
        patience: Patience = None,
        fedprox_mu: Annotated[
            float | None, Least(0), "FedProx's coefficient mu, sent with each model in its meta (null, 0: none)"
        ] = None,
    ) -> None:
        """Raises JobError naming the argument that is out of range."""
        self._aggregator = aggregator
        self._persistor = persistor
        self._selector = model_selector
        self._min_clients, self._num_clients = min_clients, num_clients
        self._stopping = StopCondition(stop_cond, patience) if stop_cond else None
        self._start_round, self._end_round = start_round, start_round + num_rounds
        self._grace_s = wait_time_after_min_received
        self._timeout_s = train_timeout or None
        self._train, self._validate = train_task_name, validate_task_name
        self._persist_every = persist_every_n_rounds
        self._allow_empty = allow_empty_global_weights
        self._allow_non_finite = allow_non_finite
        self._said_along = {FEDPROX_MU: fedprox_mu} if fedprox_mu else {}
        self._answered: list[str] | None = None  # the sites that did in the last round
        self._said_unscored = self._said_unstoppable = False

    def run(self, clients: Clients, run: Run) -> None:
        model = run.model or self._first_model()
        self._compare_with(len(clients.takes(self._train)), run)
        self._answered = run.last.sites if run.last else None
        with _Writer(run) as writer:
            if run.best_model:
                writer.write(self._persistor.save_best, run.best_model)
            if self._is_over(run):
                writer.write(self._persistor.save, model)
            while not self._is_over(run):
                round_num = max(run.next_round, self._start_round)
                model = self._one_round(clients, run, self._sent_in(model, round_num), writer)
            if run.next_round < self._end_round:
                run.emit(Notice(text=f"stopped after round {run.next_round - 1}: {self._reason_to_stop(run)}"))
            self._validate_last(clients, run, self._sent_in(model, run.next_round), writer)
        run.model = model

    def _is_over(self, run: Run) -> bool:
        return run.next_round >= self._end_round or bool(self._reason_to_stop(run))

    def _reason_to_stop(self, run: Run) -> str:
        return self._stopping.reason(run.plateau, run.last.metrics) if self._stopping and run.last else ""

    def _one_round(self, clients: Clients, run: Run, model: FLModel, writer: _Writer) -> FLModel:
        round_num = model.current_round or 0
        targets = self._drawn(clients.takes(self._train), run, round_num)
        num_rounds = self._end_round - self._start_round
        run.round_started(
            RoundStarted(round_num=round_num, first_round=self._start_round, num_rounds=num_rounds, sites=list(targets))
        )
        measured: dict[str, dict[str, float]] = {}
        weights: dict[str, float] = {}
        clock = _Clock()
        for reply in clients.broadcast(
            Task(name=self._train, model=replace(model, meta=model.meta | self._said_along)),
            to=targets,
            min_responses=min(self._min_clients, len(targets)),
            timeout_s=self._timeout_s,
            grace_s=self._grace_s,
        ):
            clock.lap("wait")
            try:
                weights[reply.site] = self._accept(reply, model)
                measured[reply.site] = reply.model.metrics or {}
            except TensorError as error:
                clients.reject(reply, error.message)
            clock.lap("aggregate")
        clock.lap("wait")
        self._select(run, model, writer, measured)
        change = self._aggregator.aggregate()
        if measured and not change.params:
            run.emit(Notice(text=f"round {round_num}: no update had a weight above zero: the model stays as it is"))
        merged = self._updated(model, change)
        clock.lap("aggregate")
        self._answered = list(measured)
        metrics = told(arithmetic.weighted_means(measured, weights))
        is_last = self._stops_with(metrics, run) or round_num + 1 == self._end_round
        if is_last or (self._persist_every and (round_num + 1) % self._persist_every == 0):
            writer.write(self._persistor.save, merged)
        finished = RoundFinished(
            round_num=round_num,
            sites=list(measured),
            metrics=metrics,
            wait_s=clock.laps["wait"],
            aggregate_s=clock.laps["aggregate"],
            save_s=clock.lap("save"),
        )
        run.round_finished(finished, merged)
        return merged

    def _drawn(self, takers: Sequence[str], run: Run, round_num: int) -> Sequence[str]:
        """Those that this round is for, in site order. Who is drawn depends on nothing but the names and the seed."""
        if self._num_clients is None or self._num_clients >= len(takers):
            return takers
        lots = {site: seeds.derived(run.seed, "drawn", run.workflow, round_num, site) for site in takers}
        drawn = set(sorted(takers, key=lots.__getitem__)[: self._num_clients])
        return [site for site in takers if site in drawn]

    def _stops_with(self, metrics: Mapping[str, float | None], run: Run) -> bool:
        """Count the round in that ends with these; whether it is the last."""
        if self._stopping is None:
            return False
        if self._stopping.metric not in metrics and not self._said_unstoppable:
            self._said_unstoppable = True
            run.emit(Notice(text=_unstoppable(self._stopping.metric, ", ".join(sorted(metrics)) or "none")))
        run.plateau = self._stopping.counted(run.plateau, metrics)
        return bool(self._stopping.reason(run.plateau, metrics))

    def _accept(self, reply: Reply, sent: FLModel) -> float:
        update = reply.model
        if update.params is None or (sent.params and not update.params):
            raise TensorError(f"{reply.site} sent no params for task {self._train!r}")
        checks.check(update, sent.params or {}, allow_non_finite=self._allow_non_finite)
        steps = update.num_steps
        self._aggregator.accept(reply.site, update)
        if self._selector:
            self._selector.accept(reply.site, update.metrics or {}, steps)
        return steps

    def _select(
        self,
        run: Run,
        sent: FLModel,
        writer: _Writer,
        measured: Mapping[str, Mapping[str, float]],
        *,
        is_final: bool = False,
    ) -> None:
        """Whether the model that was sent is the best so far. That of round 0, which nobody trained, is not judged."""
        if self._selector is None:
            return
        score, round_num = self._selector.score(), sent.current_round or 0
        best = run.best.score if run.best else None
        if measured and score is None and not self._said_unscored:
            self._said_unscored = True
            names = ", ".join(sorted({name for metrics in measured.values() for name in metrics})) or "none"
            run.emit(Notice(text=_unscored(self._selector.key_metric, names)))
        if round_num > 0 and score is not None and self._selector.is_better(score, best):
            run.better(Best(score, round_num, self._selector.key_metric, is_final), sent)
            writer.write(self._persistor.save_best, sent)

    def _validate_last(self, clients: Clients, run: Run, model: FLModel, writer: _Writer) -> None:
        """By the clients that list the task and answered in the last round: nobody waits for one that is late.

        By its name: where executors take "*", scripts may know of no task but to train.
        """
        takers = clients.takes(self._validate, by_name=True)
        targets = [site for site in takers if self._answered is None or site in self._answered]
        if not targets:
            return
        measured: dict[str, dict[str, float]] = {}
        task = Task(name=self._validate, model=model)
        for reply in clients.broadcast(task, to=targets, timeout_s=self._timeout_s):
            try:
                steps = reply.model.num_steps
            except TensorError as error:
                clients.reject(reply, error.message)
                continue
            measured[reply.site] = reply.model.metrics or {}
            if self._selector:
                self._selector.accept(reply.site, measured[reply.site], steps)
        metrics = told(arithmetic.weighted_means(measured, dict.fromkeys(measured, 1.0)))
        by_site = {site: told(own) for site, own in measured.items()}
        run.emit(ModelValidated(round_num=model.current_round or 0, metrics=metrics, by_site=by_site))
        self._select(run, model, writer, measured, is_final=True)

    def _sent_in(self, model: FLModel, round_num: int) -> FLModel:
        num_rounds = self._end_round - self._start_round
        return model.at_round(round_num, num_rounds, start_round=self._start_round)

    def _first_model(self) -> FLModel:
        model = self._persistor.load()
        if not model.params and not self._allow_empty:
            raise JobError(
                "the persistor gives a model without params", hint="or set allow_empty_global_weights = true"
            )
        return model

    def _updated(self, model: FLModel, merged: FLModel) -> FLModel:
        base = model.params or {}
        change = merged.params or {}
        is_diff = merged.params_type is ParamsType.DIFF
        params = arithmetic.applied(base, change) if is_diff else arithmetic.replaced(base, change)
        return replace(model, params=params, params_type=ParamsType.FULL, metrics=None)

    def _compare_with(self, there: int, run: Run) -> None:
        """Tell, once, what asks for more clients than there are."""
        drawn = min(self._num_clients or there, there)
        if self._num_clients and self._num_clients > there:
            run.emit(Notice(text=f"num_clients is {self._num_clients}, there are {there} clients: all take part"))
        elif self._min_clients > drawn:
            have = f"there are {there} clients" if drawn == there else f"a round has {drawn} clients"
            run.emit(Notice(text=f"min_clients is {self._min_clients}, {have}: it counts as {drawn}"))


def _unscored(key_metric: str, names: str) -> str:
    return f"no client sent a finite {key_metric!r}, the key_metric, so no model is judged; metrics sent: {names}"


def _unstoppable(metric: str, names: str) -> str:
    return f"no client sent {metric!r}, on which stop_cond waits; metrics sent: {names}"


class _Clock:
    """Seconds by stage."""

    def __init__(self) -> None:
        self.laps = {"wait": 0.0, "aggregate": 0.0, "save": 0.0}
        self._last = time.monotonic()

    def lap(self, stage: str) -> float:
        """Count the time since the last lap to `stage`, and give that stage's sum."""
        now = time.monotonic()
        self.laps[stage] += now - self._last
        self._last = now
        return self.laps[stage]


class _Writer:
    """One thread that writes models while the clients train, at most one behind; at the end all are written."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._pool = ThreadPoolExecutor(1)
        self._pending: list[Future[None]] = []

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._pool.shutdown()
        if kind is None:
            self._wait_for(len(self._pending))

    def write(self, save: Callable[[FLModel], Path], model: FLModel) -> None:
        """Raises what an earlier writing raised."""
        self._wait_for(len(self._pending) - 1)
        self._pending.append(self._pool.submit(self._write, save, model))

    def _wait_for(self, count: int) -> None:
        for _ in range(count):
            self._pending.pop(0).result()

    def _write(self, save: Callable[[FLModel], Path], model: FLModel) -> None:
        self._run.emit(ModelSaved(path=str(save(model))))
