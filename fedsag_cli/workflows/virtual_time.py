"""Virtual time, for asynchronous workflows: which client is ready first depends on the seed, and never on the clock."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from fedsag_cli.model import FLModel, Reply, Task, Tree
from fedsag_cli.workflows import Clients, Replies


@dataclass(order=True)
class Finished:
    """A task that a client has finished at a moment of the virtual time. `reply`: None if it failed."""

    at: float
    number: int
    site: str = field(compare=False)
    task: Task = field(compare=False)
    replies: Replies = field(compare=False)
    reply: Reply | None = field(default=None, compare=False)


class VirtualTime:
    """Clients that work at the same time, each on a task of its own.

        with VirtualTime(clients) as at_work:
            for site in sites:
                at_work.ask(Task(name="train", model=model), site, rng.exponential())
            for finished in at_work:
                ...
                at_work.ask(Task(name="train", model=model), finished.site, rng.exponential())

    It yields the tasks in the order in which they end in virtual time, where each takes the seconds that `ask` was
    told. All are open at once: clients work while the workflow waits for another one. So the order, and with it the
    model, is the same for each run of a seed and for any number of slots.
    """

    def __init__(self, clients: Clients, **how: Any) -> None:
        """`how`: the arguments of `Clients.ask` for each task, such as `timeout_s`."""
        self._clients, self._how = clients, how
        self._at_work: list[Finished] = []
        self._numbers = 0
        self._last: Finished | None = None
        self.now = 0.0

    @property
    def sites(self) -> list[str]:
        """The sites at work, in the order in which they were asked."""
        return [each.site for each in sorted(self._at_work, key=lambda each: each.number)]

    def ask(self, task: Task, site: str, takes_s: float) -> None:
        """Let a site do a task, which takes so many seconds of virtual time."""
        self._ask(task, site, self.now + takes_s)

    def __enter__(self) -> VirtualTime:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End all tasks that are open."""
        for each in [*self._at_work, *([self._last] if self._last else [])]:
            each.replies.__exit__(kind, error, trace)
        self._at_work, self._last = [], None

    def __iter__(self) -> Iterator[Finished]:
        return self

    def __next__(self) -> Finished:
        """The task that ends next. The one before is over: its reply is valid until now."""
        self.take()
        if not self._at_work:
            raise StopIteration
        finished = self._last = heapq.heappop(self._at_work)
        self.now = finished.at
        finished.reply = next(iter(finished.replies), None)
        return finished

    def take(self) -> None:
        """The task that was yielded last is over: its reply counts as accepted, with the state of its site."""
        if self._last is not None:
            self._last.replies.__exit__(None, None, None)
            self._last = None

    def state(self) -> Tree:
        """The time, and the tasks at work with their models."""
        models: list[FLModel] = []
        work = []
        for each in sorted(self._at_work):
            if all(each.task.model is not model for model in models):
                models.append(each.task.model)
            number = next(number for number, model in enumerate(models) if model is each.task.model)
            work.append({"at": each.at, "site": each.site, "task": each.task.name, "model": number})
        return {"now": self.now, "work": work, "models": [_as_tree(model) for model in models]}

    def restore(self, state: Tree) -> None:
        """Ask those who were at work once more for the same."""
        self.now, models = state["now"], [FLModel(**model) for model in state["models"]]
        for each in state["work"]:
            self._ask(Task(name=each["task"], model=models[each["model"]]), each["site"], each["at"])

    def _ask(self, task: Task, site: str, at: float) -> None:
        replies = self._clients.ask(task, to=[site], **self._how)
        heapq.heappush(self._at_work, Finished(at, self._numbers, site, task, replies))
        self._numbers += 1


def _as_tree(model: FLModel) -> Tree:
    names = ("params", "start_round", "current_round", "total_rounds", "meta")
    return {name: getattr(model, name) for name in names}
