"""Cyclic weight transfer (Chang et al., 2018, https://doi.org/10.1093/jamia/ocy017): the model goes from site to site.

w  <-  train_k(w)    for each client k of the round, one after the other
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from fedsag_cli.arguments import Least, OneOf, checked
from fedsag_cli.errors import JobError, nearest
from fedsag_cli.facts import Facts, Nvflare
from fedsag_cli.model import FLModel
from fedsag_cli.params.checks import Rules, check_passed_on, has_payload
from fedsag_cli.persistors import Persistor
from fedsag_cli.workflows import Clients
from fedsag_cli.workflows.rounds import NumRounds, Patience, PersistEvery, Rounds, StartRound, StopCond
from fedsag_cli.workflows.run import Run

FIXED = "FIXED"
NEVER_TWICE = "RANDOM_WITHOUT_SAME_IN_A_ROW"
ORDERS = ["FIXED", "RANDOM", "RANDOM_WITHOUT_SAME_IN_A_ROW", "fixed", "random"]


class Cyclic:
    """In each round, the model visits the clients in an order. Each trains the model that the one before it sent.

    A client that fails is passed over: the next one gets the model that the failed one got. The run stops as soon as
    fewer than `min_clients` clients of a round can still train. Each client measures the model that it receives, so a
    round's metrics belong to several models, and there is no best model. Clients whose executors list
    `validate_task_name` and that answered in the last round measure the final model.
    """

    facts = Facts(
        asks_for=("train_task_name",),
        names_sites=("order",),
        nvflare=Nvflare(
            path="nvflare.app_common.workflows.cyclic_ctl.CyclicController",
            also={"Cyclic": {"num_clients": 2}, "CyclicServerController": {}},
            defaults={
                "min_clients": 1000,  # all, for in NVFLARE no client may fail
                "persistor_id": "persistor",
                "allow_empty_global_weights": True,
            },
            renamed={"task_name": "train_task_name"},
            older_names={"learn_task_name": "train_task_name", "cyclic_order": "order"},
            ignored=(
                "task_assignment_timeout",
                "shareable_generator_id",
                "task_check_period",
                "snapshot_every_n_rounds",
                "memory_gc_rounds",
            ),
            expected={"allow_early_termination": (False,), "starting_client": (None, "")},
            added={"shareable_generator_id": "shareable_generator"},
            left_out={
                "num_clients": "visits all clients",
                "min_clients": "stops if a client fails",
                "start_round": "begins with round 0",
                "train_timeout": "waits for each client without a limit",
                "validate_task_name": "",
                "allow_empty_global_weights": "",
                "stop_cond": "runs all rounds",
                "patience": "",
                "allow_non_finite": "does not check for NaN and infinity",
            },
        ),
    )

    @checked
    def __init__(
        self,
        persistor: Annotated[Persistor, "loads the first global model and writes the trained one"],
        num_rounds: NumRounds = 5,
        start_round: StartRound = 0,
        order: Annotated[
            str | Sequence[str],
            OneOf(ORDERS),
            "order of the clients: FIXED (that of their names), RANDOM, RANDOM_WITHOUT_SAME_IN_A_ROW (no client trains "
            "twice in a row), or a list of names",
        ] = FIXED,
        num_clients: Annotated[int | None, Least(1), "number of clients drawn in each round (null: all)"] = None,
        min_clients: Annotated[int, Least(1), "number of clients that must train in each round"] = 1,
        train_timeout: Annotated[float, Least(0), "seconds that a client has for its answer (0: no limit)"] = 0,
        train_task_name: Annotated[str, "name of the task to train, as the executors list it"] = "train",
        validate_task_name: Annotated[str, "name of the task to validate the last model"] = "validate",
        persist_every_n_rounds: PersistEvery = 1,
        allow_empty_global_weights: Annotated[bool, "whether the first model may have no params"] = False,
        allow_non_finite: Annotated[bool, "whether an update may have NaN and infinity"] = False,
        stop_cond: StopCond = None,
        patience: Patience = None,
    ) -> None:
        """Raises JobError naming the argument that is out of range."""
        self._rounds = Rounds(
            persistor,
            num_rounds=num_rounds,
            start_round=start_round,
            persist_every_n_rounds=persist_every_n_rounds,
            stop_cond=stop_cond,
            patience=patience,
            allow_empty_model=allow_empty_global_weights,
        )
        self._order = order.upper() if isinstance(order, str) else list(order)
        self._num_clients, self._min_clients = num_clients, min_clients
        self._timeout_s, self._allow_non_finite = train_timeout or None, allow_non_finite
        self._train, self._validate = train_task_name, validate_task_name

    def run(self, clients: Clients, run: Run) -> None:
        takers = self._candidates(clients.takes(self._train))
        with self._rounds.begin(clients, run) as rounds:
            for current in rounds:
                sites = self._in_order(current.draw(takers, self._num_clients), run)
                current.announce(list(dict.fromkeys(sites)))  # a list may name one of them twice
                needed = min(self._min_clients, len(sites))
                model, num_trained = current.model, 0
                for num_left, site in zip(range(len(sites) - 1, -1, -1), sites, strict=True):
                    for reply in current.broadcast(
                        self._train,
                        to=[site],
                        model=model,
                        min_responses=int(num_trained + num_left < needed),
                        timeout_s=self._timeout_s,
                        allow_non_finite=self._allow_non_finite,
                        check=self._passed_on if has_payload(model.params) else None,
                    ):
                        model = current.updated(model, reply.keep())
                        num_trained += 1
                current.finish(model)
            rounds.validate(self._validate, timeout_s=self._timeout_s)

    def _passed_on(self, update: FLModel, sent: Mapping[str, Any]) -> FLModel:
        return check_passed_on(update, sent, Rules(allow_non_finite=self._allow_non_finite))

    def _candidates(self, takers: Sequence[str]) -> Sequence[str]:
        """The sites that the model may visit. Raises JobError if there are none, or one of a list does not train."""
        if not takers:
            raise JobError(f"no client takes the task {self._train!r}", hint="see tasks in config_fed_client")
        named = [] if isinstance(self._order, str) else self._order
        if missing := [site for site in named if site not in takers]:
            raise JobError(
                f"order: {missing[0]!r} is no client that takes the task {self._train!r}",
                hint=nearest(missing[0], takers),
            )
        return named or takers

    def _in_order(self, sites: Sequence[str], run: Run) -> Sequence[str]:
        if not isinstance(self._order, str) or self._order == FIXED:
            return sites
        shuffled = [sites[index] for index in run.rng("order").permutation(len(sites))]
        last = run.last.sites[-1:] if run.last else []
        return [*shuffled[1:], shuffled[0]] if self._order == NEVER_TWICE and shuffled[:1] == last else shuffled
