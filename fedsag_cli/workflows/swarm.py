"""Swarm learning (Warnat-Herresthal et al., 2021, https://doi.org/10.1038/s41586-021-03583-3): clients take turns.

In each round, one client is drawn to aggregate the updates of all: no party has the role of the server for long. Which
model comes out does not depend on who aggregates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated

from fedsag_cli.aggregators import Aggregator
from fedsag_cli.arguments import Least, checked
from fedsag_cli.errors import JobError, nearest
from fedsag_cli.facts import Facts, Nvflare
from fedsag_cli.persistors import Persistor
from fedsag_cli.workflows import Clients
from fedsag_cli.workflows.model_selector import IntimeModelSelector
from fedsag_cli.workflows.rounds import NumRounds, Patience, Rounds, StartRound, StopCond
from fedsag_cli.workflows.run import Run
from fedsag_cli.workflows.scatter_and_gather import merged

AGGREGATOR = "aggregator"
"""The key in a round's `aggregate` for the client that was drawn."""


class Swarm:
    """Federated averaging in which a client, drawn anew in each round, has the role of the server.

    Here the server computes: the drawn client is told with the round (`aggregate` in report.json), and the updates and
    the models go through the server. So the model has the same bits as with ScatterAndGather. `train_clients` train and
    `aggr_clients` can be drawn; the other arguments are as there.
    """

    facts = Facts(
        asks_for=("train_task_name",),
        names_sites=("train_clients", "aggr_clients"),
        nvflare=Nvflare(
            path="nvflare.app_common.ccwf.swarm_server_ctl.SwarmServerController",
            defaults={"persistor_id": "persistor", "aggregator_id": "aggregator"},
            older_names={
                "learn_task_name": "train_task_name",
                "learn_task_timeout": "train_timeout",
                "wait_time_after_min_resps_received": "wait_time_after_min_received",
            },
            ignored=("shareable_generator_id", "starting_client"),
            expected={"metric_comparator_id": (None, ""), "min_clients": (0,), "participating_clients": (None, [])},
        ),
    )

    @checked
    def __init__(
        self,
        aggregator: Annotated[Aggregator, "merges the clients' updates into one"],
        persistor: Annotated[Persistor, "loads the first global model and writes the trained one"],
        model_selector: Annotated[IntimeModelSelector | None, "selects the best model"] = None,
        num_rounds: NumRounds = 5,
        start_round: StartRound = 0,
        train_clients: Annotated[Sequence[str] | None, "the clients that train (null: all)"] = None,
        aggr_clients: Annotated[
            Sequence[str] | None, "the clients of which one is drawn in each round to aggregate (null: all)"
        ] = None,
        min_responses_required: Annotated[int, Least(1), "number of answers that a round needs"] = 1,
        wait_time_after_min_received: Annotated[
            float, Least(0), "seconds to wait for the other clients once min_responses_required have answered"
        ] = 10,
        train_timeout: Annotated[float | None, Least(0), "seconds that a client has for its answer (0: no limit)"] = 0,
        train_task_name: Annotated[str, "name of the task to train, as the executors list it"] = "train",
        validate_task_name: Annotated[str, "name of the task to validate the last model"] = "validate",
        stop_cond: StopCond = None,
        patience: Patience = None,
    ) -> None:
        """Raises JobError naming the argument that is out of range."""
        self._aggregator = aggregator
        self._rounds = Rounds(
            persistor,
            model_selector,
            num_rounds=num_rounds,
            start_round=start_round,
            stop_cond=stop_cond,
            patience=patience,
        )
        self._trainers, self._aggregators = train_clients, aggr_clients
        self._min_responses = min_responses_required
        self._grace_s, self._timeout_s = wait_time_after_min_received, train_timeout or None
        self._train, self._validate = train_task_name, validate_task_name

    def run(self, clients: Clients, run: Run) -> None:
        trainers = _named(self._trainers, clients.takes(self._train), "train_clients")
        candidates = _named(self._aggregators, clients.sites, "aggr_clients")
        with self._rounds.begin(clients, run) as rounds:
            for current in rounds:
                drawn = candidates[int(run.rng(AGGREGATOR).integers(len(candidates)))]
                update = merged(
                    current,
                    self._aggregator,
                    self._train,
                    sites=trainers,
                    min_responses=min(self._min_responses, len(trainers)),
                    timeout_s=self._timeout_s,
                    grace_s=self._grace_s,
                )
                current.finish(replace(update, meta={**update.meta, AGGREGATOR: drawn}))
            rounds.validate(self._validate, timeout_s=self._timeout_s)


def _named(names: Sequence[str] | None, sites: Sequence[str], argument: str) -> Sequence[str]:
    """Those of the sites that are named; without names, all. Raises JobError for another name, or if there are none."""
    if missing := [name for name in names or () if name not in sites]:
        raise JobError(f"{argument}: there is no client {missing[0]!r} for it", hint=nearest(missing[0], sites))
    if not sites:
        raise JobError(f"{argument}: no client takes the task", hint="see tasks in config_fed_client")
    return [site for site in sites if site in names] if names else sites
