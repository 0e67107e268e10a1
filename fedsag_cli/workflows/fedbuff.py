"""FedBuff: asynchronous federated averaging with a buffer (Nguyen et al., 2022, https://arxiv.org/abs/2106.06639)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated

import numpy as np

from fedsag_cli.accountants import Accountant
from fedsag_cli.aggregators import Aggregator, give, merged_by
from fedsag_cli.arguments import Least, checked
from fedsag_cli.errors import JobError, NotEnoughClients, TensorError
from fedsag_cli.facts import Facts
from fedsag_cli.model import FLModel, ParamsType, Task, Tree
from fedsag_cli.params import arithmetic
from fedsag_cli.persistors import Persistor
from fedsag_cli.updaters import Updater
from fedsag_cli.workflows import Clients
from fedsag_cli.workflows.rounds import NumRounds, PersistEvery, Round, Rounds
from fedsag_cli.workflows.run import Run
from fedsag_cli.workflows.virtual_time import Finished, VirtualTime


class FedBuff:
    """Clients train all the time, and every `buffer_size` updates make the next global model: that is a round here.

    Who is ready is drawn at once to train the current model, while others still train older ones. An update of a model
    that is t rounds old is multiplied by (1 + t) ** -0.5. With `buffer_size = 1` this is FedAsync (Xie et al., 2019),
    with that staleness function. Deviation from the paper: no client trains the same model twice.

    The time is virtual: each training takes |N(0, 1)|, drawn from the seed of the run, as in the paper. So a run gives
    the same bits again, for any number of threads. The metrics of a round are those of its updates, which the clients
    measured on the models that they received. Whole numbers in the params are not multiplied.
    """

    facts = Facts(asks_for=("train_task_name",))

    @checked
    def __init__(
        self,
        aggregator: Annotated[Aggregator, "merges the updates in the buffer into one"],
        persistor: Annotated[Persistor, "loads the first global model and writes the trained one"],
        updater: Annotated[
            Updater | None, "makes the next model from the merged update (null: it is added to the model)"
        ] = None,
        buffer_size: Annotated[int, Least(1), "number of updates that make the next model"] = 2,
        concurrency: Annotated[
            int | None, Least(1), "number of clients that train at the same time (null: all)"
        ] = None,
        num_rounds: NumRounds = 5,
        train_timeout: Annotated[float, Least(0), "seconds that a client has for its answer (0: no limit)"] = 0,
        train_task_name: Annotated[str, "name of the task to train, as the executors list it"] = "train",
        persist_every_n_rounds: PersistEvery = 1,
    ) -> None:
        """Raises JobError naming the argument that is out of range, and for an aggregator that accounts for privacy."""
        if isinstance(aggregator, Accountant):
            raise JobError(
                f"FedBuff cannot work with {type(aggregator).__name__}: its noise and its account of privacy are for a "
                "round in which every client that is asked answers, not for a buffer",
                hint="use ScatterAndGather with it",
            )
        self._aggregator = aggregator
        self._rounds = Rounds(
            persistor, updater=updater, num_rounds=num_rounds, persist_every_n_rounds=persist_every_n_rounds
        )
        self._buffer_size, self._concurrency = buffer_size, concurrency
        self._train, self._timeout_s = train_task_name, train_timeout or None
        self._trained: dict[str, int] = {}  # the last round of which each site was sent the model
        self._time: VirtualTime | None = None
        self._restored: Tree = None

    def run(self, clients: Clients, run: Run) -> None:
        sites = clients.takes(self._train)
        if self._buffer_size > len(sites):
            raise JobError(f"buffer_size is {self._buffer_size}, and {len(sites)} clients take {self._train!r}")
        with self._rounds.begin(clients, run) as rounds, VirtualTime(clients, timeout_s=self._timeout_s) as self._time:
            if self._restored is not None:
                self._time.restore(self._restored)
            for current in rounds:
                rng, received = run.rng("fedbuff"), 0
                self._fill(sites, current, rng)
                current.announce(self._time.sites)
                if callable(begin := getattr(self._aggregator, "begin", None)):
                    begin(current.model, current.cohort(self._time.sites))
                current.lap("aggregate")
                for finished in self._time:
                    current.lap("wait")
                    received += self._accept(finished, current)
                    if received == self._buffer_size:
                        break
                    self._fill(sites, current, rng)
                    current.lap("aggregate")
                if received < self._buffer_size:
                    raise NotEnoughClients(
                        self._train, round_num=current.number, needed=self._buffer_size, possible=received
                    )
                self._time.take()  # a checkpoint has the states of the sites whose replies are accepted
                current.finish(merged_by(self._aggregator))

    def _fill(self, sites: Sequence[str], current: Round, rng: np.random.Generator) -> None:
        """Let sites that are free train the current model, until enough of them are at work."""
        assert self._time is not None
        at_work = self._time.sites
        free = [site for site in sites if site not in at_work and self._trained.get(site) != current.number]
        count = min(len(free), (self._concurrency or len(sites)) - len(at_work))
        for site in rng.permutation(free)[: max(0, count)].tolist():
            self._trained[site] = current.number
            self._time.ask(Task(name=self._train, model=current.model), site, abs(rng.normal()))

    def _accept(self, finished: Finished, current: Round) -> bool:
        """Put an update into the buffer. False if the client failed."""
        reply, sent = finished.reply, finished.task.model
        if reply is None:
            return False
        staleness = current.number - (sent.current_round or 0)
        try:
            give(self._aggregator, replace(reply, model=_change(reply.model, sent, (1 + staleness) ** -0.5)))
        except TensorError as error:
            finished.replies.reject(reply, error.message)
            return False
        current.count(reply, finished.replies)
        return True

    def state(self) -> Tree:
        return {"trained": self._trained, "time": self._time.state() if self._time else None}

    def restore(self, state: Tree) -> None:
        self._trained, self._restored = state["trained"], state["time"]


def _change(update: FLModel, sent: FLModel, factor: float) -> FLModel:
    """By how much training changed the model that was sent, times `factor`. Raises TensorError."""
    params = update.params
    if not params:
        raise TensorError("its update has no params")
    if update.params_type is ParamsType.FULL:
        params = arithmetic.difference(params, sent.params or {})
    return replace(update, params=arithmetic.scaled(params, factor), params_type=ParamsType.DIFF)
