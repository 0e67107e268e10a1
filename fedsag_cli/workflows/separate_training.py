"""Every client trains a model of its own, and nothing is merged: what a federation is compared with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from fedsag_cli.arguments import Least, checked
from fedsag_cli.errors import JobError, NotEnoughClients
from fedsag_cli.facts import Facts
from fedsag_cli.model import FLModel, Params
from fedsag_cli.persistors import ModelName, Persistor
from fedsag_cli.workflows import Clients
from fedsag_cli.workflows.model_selector import IntimeModelSelector
from fedsag_cli.workflows.rounds import NumRounds, Round, Rounds, StartRound
from fedsag_cli.workflows.run import Run


class SeparateTraining:
    """In each round, each client that is drawn trains its own model further. All begin with the persistor's model.

    With several clients, the run's model has the params of all: `site-1/weight` is the `weight` of site-1. A client
    that fails in a round keeps its model. The arguments are those of ScatterAndGather.
    """

    facts = Facts(asks_for=("train_task_name",))

    @checked
    def __init__(
        self,
        persistor: Annotated[Persistor, "loads the first model and writes the trained ones"],
        model_selector: Annotated[IntimeModelSelector | None, "selects the best models"] = None,
        num_clients: Annotated[int | None, Least(1), "number of clients drawn in each round (null: all)"] = None,
        num_rounds: NumRounds = 5,
        start_round: StartRound = 0,
        train_timeout: Annotated[float | None, Least(0), "seconds that a client has for its answer (0: no limit)"] = 0,
        train_task_name: Annotated[str, "name of the task to train, as the executors list it"] = "train",
        validate_task_name: Annotated[str, "name of the task to validate the last model"] = "validate",
        allow_empty_global_weights: Annotated[bool, "whether the first model may have no params"] = False,
        allow_non_finite: Annotated[bool, "whether an update may have NaN and infinity"] = False,
        allow_unknown_keys: Annotated[
            bool, "whether an update may have params that the model does not have (they are left out)"
        ] = False,
    ) -> None:
        """Raises JobError naming the argument that is out of range."""
        self._persistor, self._selector = persistor, model_selector
        self._num_clients, self._num_rounds, self._start_round = num_clients, num_rounds, start_round
        self._timeout_s, self._allow_empty = train_timeout or None, allow_empty_global_weights
        self._train, self._validate = train_task_name, validate_task_name
        self._allow_non_finite, self._allow_unknown_keys = allow_non_finite, allow_unknown_keys

    def run(self, clients: Clients, run: Run) -> None:
        sites = clients.takes(self._train)
        if not sites:
            raise JobError(f"no client takes the task {self._train!r}", hint="see tasks in config_fed_client")
        rounds = Rounds(
            _OfEach(self._persistor, sites),
            self._selector,
            num_rounds=self._num_rounds,
            start_round=self._start_round,
            allow_empty_model=self._allow_empty,
        )
        with rounds.begin(clients, run) as loop:
            for current in loop:
                current.finish(self._trained(current, current.draw(sites, self._num_clients), sites))
            loop.validate(self._validate, timeout_s=self._timeout_s, own=lambda model: _own_models(model, sites))

    def _trained(self, current: Round, drawn: Sequence[str], sites: Sequence[str]) -> FLModel:
        """The models after the round. Raises NotEnoughClients if nobody has trained."""
        own = _own_models(current.model, sites)
        current.announce(drawn)
        have_trained = False
        with ExitStack() as tasks:
            asked = [
                current.ask(
                    self._train,
                    to=[site],
                    model=own[site],
                    timeout_s=self._timeout_s,
                    allow_non_finite=self._allow_non_finite,
                    allow_unknown_keys=self._allow_unknown_keys,
                )
                for site in drawn
            ]
            for replies in map(tasks.enter_context, asked):
                for reply in replies:
                    own[reply.site], have_trained = current.updated(own[reply.site], reply.keep()), True
        if not have_trained:
            raise NotEnoughClients(self._train, needed=1, possible=0, round_num=current.number)
        return replace(current.model, params=_joined({site: own[site].params or {} for site in sites}))


class _OfEach:
    """A persistor that begins with its model once for each site."""

    def __init__(self, persistor: Persistor, sites: Sequence[str]) -> None:
        self._persistor, self._sites = persistor, sites

    @property
    def files(self) -> Sequence[Path]:
        return self._persistor.files

    def load(self) -> FLModel:
        model = self._persistor.load()
        return replace(model, params=_joined(dict.fromkeys(self._sites, model.params or {})))

    def save(self, model: FLModel) -> Path:
        return self._persistor.save(model)

    def save_best(self, model: FLModel) -> Path:
        return self._persistor.save_best(model)

    def get(self, name: ModelName) -> FLModel | None:
        return self._persistor.get(name)


def _joined(by_site: Mapping[str, Params]) -> Params:
    """The params of all sites' models, by site and name; of one site, as they are."""
    if len(by_site) == 1:
        return next(iter(by_site.values()))
    return {f"{site}/{name}": value for site, params in by_site.items() for name, value in params.items()}


def _own_models(joined: FLModel, sites: Iterable[str]) -> dict[str, FLModel]:
    """The model of each site: the inverse of `_joined`."""
    by_site: dict[str, dict[str, Any]] = {site: {} for site in sites}
    for name, value in (joined.params or {}).items():
        site, _, own = ("", "", name) if len(by_site) == 1 else name.partition("/")
        by_site[site or next(iter(by_site))][own] = value
    return {site: replace(joined, params=params) for site, params in by_site.items()}
