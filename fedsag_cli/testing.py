"""Fakes for the tests of workflows and of other components: no process, no file, no waiting.

clients = FakeClients(a=lambda model: FLModel(params={"w": model.params["w"] + 1}), b=lambda model: None)
told = []

BestOfAll(FakePersistor(w=np.zeros(1)), num_rounds=2).run(clients, Run(emit=told.append))

assert clients.seen == [("a", 0), ("b", 0), ("a", 1), ("b", 1)]
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from fedsag_cli.errors import NotEnoughClients, TensorError
from fedsag_cli.model import Exchange, FLModel, Reply, Task
from fedsag_cli.params import checks
from fedsag_cli.persistors import ModelName

Script: TypeAlias = Callable[[FLModel], FLModel | None]
"""A client's update for the model that it receives; None if the client fails."""


class FakeClients:
    """Clients that answer at once, each with its own function. They implement `workflows.Clients`.

    `train` and `validate` are the functions for these two tasks, by site. For tests: `seen` has the (site, round) of
    every task "train", `sent` the params that were sent, by round, `asked` the arguments of each broadcast,
    `rejected` the causes by site.
    """

    def __init__(self, validate: Mapping[str, Script] | None = None, **train: Script) -> None:
        self._scripts: dict[str, Mapping[str, Script]] = {"train": train, "validate": validate or {}}
        self.sites: Sequence[str] = list(train)
        self.seen: list[tuple[str, int]] = []
        self.sent: dict[int, dict[str, Any]] = {}
        self.rejected: dict[str, str] = {}
        self.asked: list[dict[str, Any]] = []
        self._task, self._needed, self._possible = "", 0, 0

    def takes(self, task_name: str, *, by_name: bool = False) -> Sequence[str]:  # noqa: ARG002
        return list(self._scripts.get(task_name, {}))

    def broadcast(
        self,
        task: Task,
        *,
        to: Iterable[str] | None = None,
        min_responses: int = 0,
        timeout_s: float | None = None,
        grace_s: float | None = None,
        allow_non_finite: bool = False,
        allow_unknown_keys: bool = False,
        ignores: Callable[[str], bool] | None = None,
    ) -> Iterator[Reply]:
        rules = checks.Rules(allow_non_finite=allow_non_finite, allow_unknown_keys=allow_unknown_keys, ignores=ignores)
        named = None if to is None else set(to)
        targets = [site for site in self.takes(task.name) if named is None or site in named]
        self.asked.append({"task": task.name, "min": min_responses, "timeout_s": timeout_s, "grace_s": grace_s})
        self._task, self._needed, self._possible = task.name, min_responses, len(targets)
        round_num = task.model.current_round or 0
        self.sent[round_num] = dict(task.model.params or {})
        for site in targets:
            if task.name == "train":
                self.seen.append((site, round_num))
            answer = self._scripts[task.name][site](task.model)
            if answer is None:
                self._one_failed()
                continue
            try:
                model, _ = checks.check(answer, task.model.params or {}, rules)
            except TensorError as error:
                self.reject(Reply(site=site, model=answer), error.message)
            else:
                yield Reply(site=site, model=model)

    def reject(self, reply: Reply, cause: str) -> None:
        self.rejected[reply.site] = cause
        self._one_failed()

    def _one_failed(self) -> None:
        self._possible -= 1
        if self._possible < self._needed:
            raise NotEnoughClients(self._task, needed=self._needed, possible=self._possible)


def exchange(
    site: str = "site-1", *, task: str = "train", round_num: int = 0, sent: FLModel | None = None, seed: int = 0
) -> Exchange:
    """Where a filter works, with an empty state and its random numbers from `seed`."""
    rng = np.random.default_rng(seed)
    return Exchange(site=site, task=task, round_num=round_num, sent=sent, rng=rng, state={})


class FakePersistor:
    """Gives `params` as the first model. `saved` and `best` have the models that it was called to write."""

    files: Sequence[Path] = ()

    def __init__(self, **params: Any) -> None:
        self._params = params
        self.saved: list[FLModel] = []
        self.best: list[FLModel] = []

    def load(self) -> FLModel:
        return FLModel(params=dict(self._params))

    def save(self, model: FLModel) -> Path:
        self.saved.append(model)
        return Path("/fake/global.pt")

    def save_best(self, model: FLModel) -> Path:
        self.best.append(model)
        return Path("/fake/best.pt")

    def get(self, name: ModelName) -> FLModel | None:
        return next(reversed(self.best if name == "best" else self.saved), None)
