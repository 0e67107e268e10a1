"""Fakes for the tests of workflows and of other components: no process, no file, no waiting.

clients = FakeClients(a=lambda model: FLModel(params={"w": model.params["w"] + 1}), b=lambda model: None)
told = []

BestOfAll(FakePersistor(w=np.zeros(1)), num_rounds=2).run(clients, Run(emit=told.append))

assert clients.seen == [("a", 0), ("b", 0), ("a", 1), ("b", 1)]
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias

import numpy as np

from fedsag_cli.errors import NotEnoughClients, TensorError
from fedsag_cli.model import Exchange, FLModel, Reply, Task
from fedsag_cli.params import checks
from fedsag_cli.persistors import ModelName
from fedsag_cli.workflows import Replies

Script: TypeAlias = Callable[[FLModel], FLModel | None]
"""A client's update for the model that it receives; None if the client fails."""


class FakeClients:
    """Clients that answer at once, each with its own function. They implement `workflows.Clients`.

    `train` and `validate` are the functions for these two tasks, by site; `tasks` has those for tasks of other names,
    as in `tasks={"submit_model": {"a": …}}`. For tests: `seen` has the (site, round) of every task "train", `sent` the
    params that were sent, by round, `asked` the arguments of each ask, `rejected` the causes by site.
    """

    def __init__(
        self,
        validate: Mapping[str, Script] | None = None,
        tasks: Mapping[str, Mapping[str, Script]] | None = None,
        **train: Script,
    ) -> None:
        self._scripts: dict[str, Mapping[str, Script]] = {"train": train, "validate": validate or {}, **(tasks or {})}
        named = [site for scripts in self._scripts.values() for site in scripts]
        self.sites: Sequence[str] = list(dict.fromkeys(named))
        self.seen: list[tuple[str, int]] = []
        self.sent: dict[int, dict[str, Any]] = {}
        self.rejected: dict[str, str] = {}
        self.asked: list[dict[str, Any]] = []
        self._queues: dict[str, list[_FakeReplies]] = {site: [] for site in self.sites}

    def takes(self, task_name: str, *, by_name: bool = False) -> Sequence[str]:  # noqa: ARG002
        return [site for site in self.sites if site in self._scripts.get(task_name, {})]

    def ask(
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
        check: Callable[[FLModel, Mapping[str, Any]], FLModel] | None = None,
    ) -> Replies:
        rules = checks.Rules(allow_non_finite=allow_non_finite, allow_unknown_keys=allow_unknown_keys, ignores=ignores)
        named = None if to is None else set(to)
        targets = [site for site in self.takes(task.name) if named is None or site in named]
        self.asked.append({"task": task.name, "min": min_responses, "timeout_s": timeout_s, "grace_s": grace_s})
        self.sent[task.model.current_round or 0] = dict(task.model.params or {})
        replies = _FakeReplies(self, task, targets, min_responses, check or _usual_check(rules))
        for site in targets:
            self._queues[site].append(replies)
        return replies

    def broadcast(self, task: Task, **how: Any) -> Iterator[Reply]:
        with self.ask(task, **how) as replies:
            yield from replies

    def work(self, site: str, replies: _FakeReplies) -> None:
        """Let a client do its tasks in the order in which it was asked, up to this one."""
        while replies in self._queues[site]:
            earliest = self._queues[site].pop(0)
            if earliest.task.name == "train":
                self.seen.append((site, earliest.task.model.current_round or 0))
            earliest.answers[site] = self._scripts[earliest.task.name][site](earliest.task.model)

    def drop(self, replies: _FakeReplies) -> None:
        """Nobody is asked any more for what was not done yet."""
        for queue in self._queues.values():
            if replies in queue:
                queue.remove(replies)


class _FakeReplies:
    """The replies to one task. `answers`: by site; None if it failed."""

    def __init__(
        self,
        clients: FakeClients,
        task: Task,
        targets: Sequence[str],
        needed: int,
        check: Callable[[FLModel, Mapping[str, Any]], FLModel],
    ) -> None:
        self.task, self.answers = task, dict[str, FLModel | None]()
        self._clients, self._check = clients, check
        self._left, self._needed, self._possible = list(targets), needed, len(targets)
        self._need_enough()

    def __enter__(self) -> Replies:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._left.clear()
        self._clients.drop(self)

    def __iter__(self) -> Iterator[Reply]:
        return self

    def __next__(self) -> Reply:
        while self._left:
            site = self._left.pop(0)
            self._clients.work(site, self)
            answer = self.answers.pop(site)
            if answer is None:
                self._one_failed()
                continue
            try:
                model = self._check(answer, self.task.model.params or {})
            except TensorError as error:
                self.reject(Reply(site=site, model=answer), error.message)
            else:
                return Reply(site=site, model=model)
        raise StopIteration

    def reject(self, reply: Reply, cause: str) -> None:
        self._clients.rejected[reply.site] = cause
        self._one_failed()

    def _one_failed(self) -> None:
        self._possible -= 1
        self._need_enough()

    def _need_enough(self) -> None:
        if self._possible < self._needed:
            raise NotEnoughClients(self.task.name, needed=self._needed, possible=self._possible)


def _usual_check(rules: checks.Rules) -> Callable[[FLModel, Mapping[str, Any]], FLModel]:
    return lambda update, sent: checks.check(update, sent, rules)[0]


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
