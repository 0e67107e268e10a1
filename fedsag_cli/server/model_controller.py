"""Workflows that users have written for NVFLARE, on its base classes: ModelController, BaseFedAvg and FedAvg.

Such a workflow has a method `run()` and sends models: `send_model_and_wait` returns the answers, `send_model` gives
each one to a callback. `RunsModelController` lets it work on fedsag's clients. A round begins when a model with a new
`current_round` is sent. It ends, and is told and saved, when the controller saves a model, when it begins the next
round (the model that it then sends is what the round made), or with the end of `run()`.

A resumed run lets the controller begin at the first round that is not complete: its `start_round` and `num_rounds` are
changed, and `load_model` gives the saved model. What else it keeps is kept only if it has `state()` and `restore()`.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from fedsag_cli.errors import JobError, RunError
from fedsag_cli.events import Notice
from fedsag_cli.facts import Facts
from fedsag_cli.interop.base.context import Engine, FLContext, Signal, Workspace
from fedsag_cli.interop.base.exchange import FLModelUtils, with_arrays
from fedsag_cli.interop.base.executors import FLComponentWrapper
from fedsag_cli.model import FLModel, Params, ParamsType, Reply, Stateful, Task, Tree
from fedsag_cli.params import arithmetic, checks
from fedsag_cli.persistors import Persistor
from fedsag_cli.server.weighted_aggregation import WeightedAggregationHelper
from fedsag_cli.workflows import Clients, Replies
from fedsag_cli.workflows.model_selector import IntimeModelSelector
from fedsag_cli.workflows.rounds import Round, RoundLoop, Rounds
from fedsag_cli.workflows.run import Run
from fedsag_cli.workspace import JOB_ID, SERVER

__all__ = ["BaseFedAvg", "FedAvg", "ModelController"]

_CLIENT_NAME = "client_name"
_Callback = Callable[[FLModel], Any]


class ModelController(FLComponentWrapper):
    """A workflow: its `run()` sends models, and gets the clients' as FLModels with `meta["client_name"]`.

    Params are numpy arrays, except those of a dtype that numpy does not have.
    """

    def __init__(
        self,
        *,
        persistor_id: str = "persistor",
        ignore_result_error: bool | None = None,
        allow_empty_global_weights: bool = False,
        task_check_period: float = 0.5,
    ) -> None:
        """`ignore_result_error`: whether a task goes on without clients that fail (None: while `min_responses` can)."""
        super().__init__()
        self._persistor_id = persistor_id
        self._ignore_result_error = ignore_result_error
        self._allow_empty_global_weights = allow_empty_global_weights
        self._task_check_period = task_check_period
        self.persistor: Any = None
        self._host: _Host | None = None

    def run(self) -> None:
        """The workflow."""
        raise NotImplementedError(f"{type(self).__name__} has no run()")

    def send_model_and_wait(
        self,
        task_name: str = "train",
        data: FLModel | None = None,
        targets: Sequence[Any] | None = None,
        min_responses: int | None = None,
        timeout: float = 0,
    ) -> list[FLModel]:
        """Send a task to these clients (None: all) and return their answers, in the order of the sites.

        `min_responses`: the task ends with so many (None, 0: all must answer). `timeout`: seconds (0: no limit).
        Raises NotEnoughClients.
        """
        found: list[FLModel] = []
        self._send(task_name, data, targets, min_responses, timeout, found.append)
        return found

    def send_model(
        self,
        task_name: str = "train",
        data: FLModel | None = None,
        targets: Sequence[Any] | None = None,
        min_responses: int | None = None,
        timeout: float = 0,
        callback: _Callback | None = None,
    ) -> None:
        """Send a task, and give each answer to `callback`.

        The callbacks were called when this returns. Only a call within a callback returns at once: its answers come
        after those of the tasks that were sent before, so that the result does not depend on who is fast.
        """
        if not callable(callback):
            raise TypeError(f"send_model() needs a callback, not {callback!r}")
        self._send(task_name, data, targets, min_responses, timeout, callback)

    def get_num_standing_tasks(self) -> int:
        """The number of tasks whose answers are not all there; 0 outside a callback."""
        return self._here.num_open

    def load_model(self) -> FLModel:
        """The global model: that of the persistor, of an earlier workflow, or of the run that is resumed."""
        model = self._here.model
        if not model.params and self.persistor is not None and not self._allow_empty_global_weights:
            raise JobError("the persistor gives a model without params", hint="set allow_empty_global_weights = true")
        return with_arrays(replace(model, meta=dict(model.meta)))

    def save_model(self, model: FLModel) -> None:
        """Let the persistor write the model. It ends the round, which is saved with this model."""
        self._here.save(model)

    def sample_clients(self, num_clients: int | None = None) -> list[str]:
        """Names of clients: so many, drawn by the run's seed (None, or more than there are: all)."""
        sites = self._here.sites
        if num_clients and num_clients > len(sites):
            self.warning(f"num_clients is {num_clients}, and there are {len(sites)} clients: all take part")
        if not num_clients or num_clients >= len(sites):
            return list(sites)
        return self._here.drawn(num_clients)

    def get_run_dir(self) -> str:
        return str(self.job_root)

    def get_app_dir(self) -> str:
        return str(self.app_root)

    def get_component(self, component_id: str) -> Any:
        """A component of the server; None if there is none with this id."""
        return self.engine.get_component(component_id)

    @property
    def _here(self) -> _Host:
        if self._host is None:
            raise RuntimeError(f"{type(self).__name__} does not run: its constructor cannot send or load models")
        return self._host

    def _send(
        self,
        task_name: str,
        data: FLModel | None,
        targets: Sequence[Any] | None,
        min_responses: int | None,
        timeout: float,
        callback: _Callback,
    ) -> None:
        if not isinstance(data, FLModel):
            raise TypeError(f"data must be an FLModel, not {type(data).__name__}")
        names = [getattr(target, "name", target) for target in targets] if targets else list(self._here.sites)
        needed = 0 if self._ignore_result_error else min_responses or len(names)
        self._here.send(
            task_name,
            data,
            to=names,
            needed=len(names) if self._ignore_result_error is False else min(needed, len(names)),
            ends_early=bool(min_responses) and needed < len(names),
            timeout_s=timeout or None,
            callback=callback,
        )


class BaseFedAvg(ModelController):
    """A workflow with rounds, and the two steps of federated averaging that `run()` needs."""

    def __init__(
        self,
        *,
        num_clients: int = 3,
        num_rounds: int = 5,
        start_round: int = 0,
        memory_gc_rounds: int = 0,
        **others: Any,
    ) -> None:
        """`memory_gc_rounds` has no effect. `others`: see ModelController."""
        super().__init__(**others)
        self.num_clients, self.num_rounds, self.start_round = num_clients, num_rounds, start_round
        self.memory_gc_rounds = memory_gc_rounds
        self.current_round: int | None = None  # type: ignore[assignment]  # before the first round

    def aggregate(
        self, results: list[FLModel], aggregate_fn: Callable[[list[FLModel]], FLModel] | None = None
    ) -> FLModel:
        """One update of many: by `aggregate_fn`, or their mean weighted by steps. Raises ValueError if one is empty."""
        if empty := [result.meta.get(_CLIENT_NAME) for result in results if not result.params]:
            raise ValueError(f"the answers of {empty} have no params")
        return (aggregate_fn or self.aggregate_fn)(results)

    @staticmethod
    def aggregate_fn(results: list[FLModel]) -> FLModel:
        """The mean of the params and of the metrics, weighted by steps."""
        if not results:
            raise ValueError("there are no answers to aggregate")
        params, metrics = WeightedAggregationHelper(), WeightedAggregationHelper()
        for result in results:
            name = str(result.meta.get(_CLIENT_NAME))
            params.add(result.params or {}, result.num_steps, name, result.current_round)
            metrics.add(result.metrics or {}, result.num_steps, name, result.current_round)
        return FLModel(
            params_type=results[0].params_type,
            params=params.get_result(),
            metrics=metrics.get_result() or None,
            meta={"nr_aggregated": len(results), "current_round": results[0].current_round},
        )

    def update_model(self, model: FLModel, aggr_result: FLModel) -> FLModel:
        """Put the update into `model`, or add it if it has differences. Returns `model`."""
        return FLModelUtils.update_model(model, aggr_result)


class FedAvg(BaseFedAvg):
    """Federated averaging, of which a user's class may replace steps. See BaseFedAvg for the arguments."""

    def __init__(self, *, task_name: str = "train", **others: Any) -> None:
        super().__init__(**others)
        self.task_name = task_name

    def run(self) -> None:
        model = self.load_model()
        model.start_round, model.total_rounds = self.start_round, self.num_rounds
        for round_num in range(self.start_round, self.start_round + self.num_rounds):
            self.current_round = model.current_round = round_num
            results = self.send_model_and_wait(self.task_name, model, targets=self.sample_clients(self.num_clients))
            model = self.update_model(model, self.aggregate(results, aggregate_fn=self.aggregate_fn))
            self.save_model(model)


class RunsModelController:
    """Runs a workflow of the job's own that derives from NVFLARE's ModelController."""

    facts = Facts(keeps_nothing=True)

    def __init__(
        self,
        controller: Annotated[ModelController, "the workflow"],
        persistor: Annotated[Persistor, "loads the first global model and writes the trained one"],
        model_selector: Annotated[IntimeModelSelector | None, "selects the best model"] = None,
        allow_empty_global_weights: Annotated[bool, "whether the first model may have no params"] = False,
    ) -> None:
        """Raises JobError if the class is none of these."""
        if not isinstance(controller, ModelController):
            raise JobError(f"controller must be a ModelController, not {type(controller).__name__}")
        controller._allow_empty_global_weights |= allow_empty_global_weights
        self._controller = controller
        self._persistor, self._selector = persistor, model_selector
        self.components: Mapping[str, Any] = {}  # of the server, by their ids

    def state(self) -> Tree:
        """What the controller itself says it keeps."""
        return self._controller.state() if isinstance(self._controller, Stateful) else {}

    def restore(self, state: Tree) -> None:
        if isinstance(self._controller, Stateful):
            self._controller.restore(state)

    def run(self, clients: Clients, run: Run) -> None:
        """Raises JobError if a run cannot be resumed with this controller."""
        logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
        controller = self._controller
        first = int(getattr(controller, "start_round", 0))
        rounds = Rounds(
            self._persistor,
            self._selector,
            num_rounds=int(getattr(controller, "num_rounds", 1)),
            start_round=first,
            persist_every_n_rounds=0,
            allow_empty_model=True,
        )
        if run.next_round > first:
            _continue_at(controller, run, rounds)
            if run.next_round >= rounds.end:
                run.emit(Notice(text=f"{type(controller).__name__} has done all its rounds"))
                return
        self._place(clients.sites)
        with rounds.begin(clients, run) as loop:
            controller._host = _Host(clients, run, loop, rounds)
            try:
                controller.initialize()
                controller.run()
                controller._host.end()
                controller.finalize()
            finally:
                controller._host = None

    def _place(self, sites: Sequence[str]) -> None:
        """Tell the controller where it is."""
        app = Path.cwd()
        engine = _Engine(Workspace(app), self.components, sites)
        controller, context = self._controller, FLContext(SERVER, JOB_ID, engine)
        controller.persistor = self._persistor
        controller.fl_ctx, controller.engine, controller.abort_signal = context, engine, Signal()
        controller.workspace, controller.site_name, controller.job_id = engine.get_workspace(), SERVER, JOB_ID
        controller.workspace_root, controller.job_root = str(app.parent.parent), str(app.parent)
        controller.app_root = str(app)


def _continue_at(controller: ModelController, run: Run, rounds: Rounds) -> None:
    """Let the controller's loop begin with the first round that is not complete."""
    if not hasattr(controller, "start_round") or not hasattr(controller, "num_rounds"):
        raise JobError(
            f"{type(controller).__name__} cannot continue at round {run.next_round}: it has no start_round",
            hint="start a new run with --force; a class derived from BaseFedAvg has one",
        )
    controller.start_round, controller.num_rounds = run.next_round, max(0, rounds.end - run.next_round)
    if not isinstance(controller, Stateful):
        text = f"{type(controller).__name__} continues at its start_round {run.next_round}: what it kept in attributes"
        run.emit(Notice(text=f"{text} and variables begins anew (state() and restore() keep it)"))


class _ClientName:
    """A client, as NVFLARE's engine names it."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return self.name


class _Engine(Engine):
    def __init__(self, workspace: Workspace, components: Mapping[str, Any], sites: Sequence[str]) -> None:
        super().__init__(workspace, components)
        self._clients = [_ClientName(site) for site in sites]

    def get_clients(self) -> list[_ClientName]:
        return list(self._clients)


@dataclass(frozen=True, slots=True)
class _Sent:
    """A task whose answers are not all handed over: the model that was sent, and the round in which it was."""

    replies: Replies
    data: FLModel
    callback: _Callback
    round: Round | None


class _Host:
    """What a controller that runs works on: the clients, and the round that it is in."""

    def __init__(self, clients: Clients, run: Run, loop: RoundLoop, rounds: Rounds) -> None:
        self._clients, self._run, self._loop, self._rounds = clients, run, loop, rounds
        self._like = dict(loop.model.params or {})  # of which values are in the form of the persistor's model
        self._resumed_at = run.next_round
        self._round: Round | None = None
        self._last: FLModel | None = None  # the last model that was sent in this round
        self._counted: set[str] = set()  # the sites whose metrics count for this round
        self._draws = 0
        self._waiting: deque[_Sent] = deque()
        self._is_handing_over = False

    @property
    def sites(self) -> Sequence[str]:
        return self._clients.sites

    @property
    def model(self) -> FLModel:
        return self._loop.model

    @property
    def num_open(self) -> int:
        return len(self._waiting)

    def drawn(self, count: int) -> list[str]:
        self._draws += 1
        rng = self._run.rng("clients", self._run.next_round, self._draws)
        chosen = set(rng.choice(len(self.sites), size=count, replace=False).tolist())
        return [site for number, site in enumerate(self.sites) if number in chosen]

    def send(
        self,
        task_name: str,
        data: FLModel,
        *,
        to: Sequence[str],
        needed: int,
        ends_early: bool,
        timeout_s: float | None,
        callback: _Callback,
    ) -> None:
        """Send a task and give its answers to `callback`; within a callback, the answers come later."""
        model = self._as_sent(data)
        current = self._round_of(data, model)
        if current is not None:
            current.announce(to)
            self._last = data
        replies = self._clients.ask(
            Task(name=task_name, model=model),
            to=to,
            min_responses=needed,
            timeout_s=timeout_s,
            grace_s=0.0 if ends_early else None,
            check=_check,
        )
        self._waiting.append(_Sent(replies, data, callback, current))
        if not self._is_handing_over:
            self._hand_over()

    def save(self, model: FLModel) -> None:
        if self._round is not None:
            self._finish(model, write=True)
        else:
            self._loop.replace_model(self._saved(model), max(0, self._run.next_round - 1), {}, write=True)

    def end(self) -> None:
        """The controller's `run()` has returned."""
        if self._round is not None:
            assert self._last is not None
            self._finish(self._last, write=False)

    def _hand_over(self) -> None:
        """Give the answers to all open tasks to their callbacks, task by task, each in the order of the sites."""
        self._is_handing_over = True
        try:
            while self._waiting:
                sent = self._waiting[0]
                with sent.replies as replies:
                    for reply in self._timed(replies):
                        if sent.round is not None and sent.round is self._round:
                            self._count(sent.round, reply, replies)
                        meta = {**reply.model.meta, "props": sent.data.meta, _CLIENT_NAME: reply.site}
                        sent.callback(with_arrays(replace(reply.keep(), meta=meta)))
                self._waiting.popleft()
        finally:
            self._is_handing_over = False

    def _timed(self, replies: Replies) -> Iterator[Reply]:
        """The replies; the current round is told how long they were waited for."""
        while True:
            self._lap("aggregate")
            reply = next(replies, None)
            self._lap("wait")
            if reply is None:
                return
            yield reply

    def _lap(self, stage: str) -> None:
        if self._round is not None:
            self._round.lap(stage)

    def _count(self, current: Round, reply: Reply, replies: Replies) -> None:
        """Count the metrics of a reply for the round: those of an update, or else the first of the site."""
        if reply.model.params or reply.site not in self._counted:
            self._counted.add(reply.site)
            current.count(reply, replies)

    def _round_of(self, data: FLModel, sent: FLModel) -> Round | None:
        """The round of a model that is sent: a new one, the current one, or None outside of rounds."""
        number = data.current_round
        if number is None or (self._round is not None and self._round.number == number):
            return self._round
        if number < self._run.next_round:
            if self._resumed_at and number < self._resumed_at:
                raise RunError(
                    f"the controller began again with round {number}, although its start_round is {self._resumed_at}",
                    hint="it cannot be resumed: start a new run with --force",
                )
            return None  # the round was saved before: this is done after it
        if self._round is not None:
            self._finish(data, write=False)
        self._run.begin_round(number)
        self._counted.clear()
        self._round = Round(self._loop, self._clients, self._run, sent)
        return self._round

    def _finish(self, model: FLModel, *, write: bool) -> None:
        """End the round, in which `model` was made."""
        assert self._round is not None
        current, self._round, self._last = self._round, None, None
        self._draws = 0  # a resumed run has none before its first round
        made = self._saved(model)
        current.finish(FLModel(params=made.params, metrics=model.metrics), write=write)
        self._like = self._like or dict(self._loop.model.params or {})

    def _as_sent(self, data: FLModel) -> FLModel:
        """The model as clients get it: of a resumed run, with the number of rounds that it had before."""
        sent = replace(self._saved(data), meta=dict(data.meta))
        if self._resumed_at and data.total_rounds is not None:
            return replace(sent, start_round=self._rounds.start, total_rounds=self._rounds.count)
        return sent

    def _saved(self, model: FLModel) -> FLModel:
        """The model with values in the form of the persistor's model, such as torch tensors, where it has the key."""
        params = model.params or {}
        if model.params_type is ParamsType.DIFF or not params.keys() <= self._like.keys():
            return model
        return replace(model, params=arithmetic.replaced({name: self._like[name] for name in params}, params))


def _check(update: FLModel, sent: Mapping[str, Any]) -> FLModel:
    """The usual check for an update of what was sent; other answers, such as counts, are as the client gives them."""
    known: Params = dict(sent)
    if known and update.params and update.params.keys() & known.keys():
        update, _ = checks.check(update, known)
    return update
