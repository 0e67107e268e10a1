"""Scatter and gather: in each round, send the model to the clients and aggregate their updates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any

from fedsag_cli.aggregators import Aggregator, give, merged_by
from fedsag_cli.arguments import Least, checked
from fedsag_cli.errors import JobError, TensorError, counted, there_are
from fedsag_cli.events import Notice
from fedsag_cli.facts import Facts, Nvflare
from fedsag_cli.model import FEDPROX_MU, FLModel
from fedsag_cli.persistors import Persistor
from fedsag_cli.samplers import Sampler
from fedsag_cli.updaters import Updater
from fedsag_cli.workflows import Clients
from fedsag_cli.workflows.model_selector import IntimeModelSelector
from fedsag_cli.workflows.rounds import NumRounds, Patience, PersistEvery, Round, Rounds, StartRound, StopCond
from fedsag_cli.workflows.run import Run


class ScatterAndGather:
    """In each round, clients that take the train task train the global model, and the aggregator merges the updates.

    A client fails if it has not answered `train_timeout` seconds after it received the task. Once `min_clients` have
    answered, each of the others has `wait_time_after_min_received` seconds more. Clients whose executors list
    `validate_task_name` and that answered in the last round measure the final model.
    """

    facts = Facts(
        asks_for=("train_task_name",),
        nvflare=Nvflare(
            path="nvflare.app_common.workflows.scatter_and_gather.ScatterAndGather",
            also={"ScatterAndGatherScaffold": {}},  # with the aggregator Scaffold
            defaults={
                "min_clients": 1000,
                "aggregator_id": "aggregator",
                "updater_id": "shareable_generator",
            },  # 1000: more than any run has, so all clients
            renamed={"shareable_generator_id": "updater_id"},
            ignored=(
                "task_check_period",
                "snapshot_every_n_rounds",
                "memory_gc_rounds",
                "enable_tensor_disk_offload",
            ),
            expected={"ignore_result_error": (None,)},
            added={"shareable_generator_id": "shareable_generator"},
            left_out={
                "sampler_id": "draws its clients at random",
                "model_selector_id": "",  # NVFLARE's selector listens to events
                "validate_task_name": "",
                "num_clients": "asks all clients",
                "stop_cond": "runs all rounds",
                "patience": "",
                "fedprox_mu": "does not send it",
                "allow_non_finite": "does not check for NaN and infinity",
                "allow_unknown_keys": "leaves such params out of differences and adds them to the model otherwise",
            },
            whole_numbers=("wait_time_after_min_received", "train_timeout"),
        ),
    )

    @checked
    def __init__(
        self,
        aggregator: Annotated[Aggregator, "merges the clients' updates into one"],
        persistor: Annotated[Persistor, "loads the first global model and writes the trained one"],
        model_selector: Annotated[IntimeModelSelector | None, "selects the best model"] = None,
        updater: Annotated[
            Updater | None, "makes the next model from the merged update (null: the update is it)"
        ] = None,
        sampler: Annotated[Sampler | None, "draws num_clients clients in each round (null: at random)"] = None,
        min_clients: Annotated[int, Least(1), "number of answers that a round needs"] = 1,
        num_clients: Annotated[int | None, Least(1), "number of clients drawn in each round (null: all)"] = None,
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
        allow_unknown_keys: Annotated[
            bool, "whether an update may have params that the model does not have (they are left out)"
        ] = False,
        stop_cond: StopCond = None,
        patience: Patience = None,
        fedprox_mu: Annotated[
            float | None, Least(0), "FedProx's coefficient mu, sent with each model in its meta (null, 0: none)"
        ] = None,
    ) -> None:
        """Raises JobError naming the argument that is out of range."""
        self._aggregator = aggregator
        self._rounds = Rounds(
            persistor,
            model_selector,
            updater=updater,
            num_rounds=num_rounds,
            start_round=start_round,
            persist_every_n_rounds=persist_every_n_rounds,
            stop_cond=stop_cond,
            patience=patience,
            allow_empty_model=allow_empty_global_weights,
        )
        self._sampler = sampler
        self._min_clients, self._num_clients = min_clients, num_clients
        self._grace_s, self._timeout_s = wait_time_after_min_received, train_timeout or None
        self._train, self._validate = train_task_name, validate_task_name
        self._allow_non_finite, self._allow_unknown_keys = allow_non_finite, allow_unknown_keys
        self._meta = {FEDPROX_MU: fedprox_mu} if fedprox_mu else {}

    def run(self, clients: Clients, run: Run) -> None:
        self._note_too_many(len(clients.takes(self._train)), run)
        with self._rounds.begin(clients, run) as rounds:
            for current in rounds:
                cohort = current.draw(clients.takes(self._train), self._num_clients, self._sampler)
                model = replace(current.model, meta=current.model.meta | self._meta)
                update = merged(
                    current,
                    self._aggregator,
                    self._train,
                    sites=cohort,
                    model=model,
                    min_responses=min(self._min_clients, len(cohort)),
                    timeout_s=self._timeout_s,
                    grace_s=self._grace_s,
                    allow_non_finite=self._allow_non_finite,
                    allow_unknown_keys=self._allow_unknown_keys,
                )
                current.finish(update)
            rounds.validate(self._validate, timeout_s=self._timeout_s)

    def _note_too_many(self, available: int, run: Run) -> None:
        """Give a note if the job asks for more clients than the run has: it then means all of them.

        Raises JobError if no client takes the task.
        """
        if not available:
            raise JobError(f"no client takes the task {self._train!r}", hint="see tasks in config_fed_client")
        drawn = min(self._num_clients or available, available)
        if self._num_clients and self._num_clients > available:
            run.emit(
                Notice(text=f"num_clients is {self._num_clients}, {there_are(available, 'client')}: all take part")
            )
        elif self._min_clients > drawn:
            have = there_are(available, "client") if drawn == available else f"a round has {counted(drawn, 'client')}"
            run.emit(Notice(text=f"min_clients is {self._min_clients}, {have}: it counts as {drawn}"))


def merged(
    current: Round,
    aggregator: Aggregator,
    task_name: str,
    *,
    sites: Sequence[str],
    model: FLModel | None = None,
    **how: Any,
) -> FLModel:
    """The update of a round: the sites do the task, and the aggregator merges their answers.

    `model`: a model to send instead of the round's. `how`: further arguments of `Round.ask`.
    """
    begin, excludes, check = (getattr(aggregator, name, None) for name in ("begin", "excludes", "check"))
    model = model or current.model
    if begin is not None:
        begun: object = begin(model, current.cohort(sites))
        if not isinstance(begun, FLModel | None):
            name = f"{type(aggregator).__name__}.begin()"
            raise TypeError(f"{name} returned {type(begun).__name__}, not an FLModel or None")
        model = begun or model
    with current.ask(task_name, to=sites, model=model, ignores=excludes, check=check, **how) as replies:
        for reply in replies:
            try:
                give(aggregator, reply)
            except TensorError as error:
                replies.reject(reply, error.message)
    return merged_by(aggregator)
