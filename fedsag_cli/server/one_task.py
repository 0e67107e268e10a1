"""Clients of which a workflow can ask one, once: with the answer it ends."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from fedsag_cli.model import Reply, Task
from fedsag_cli.workflows import Clients, Replies


class TaskDone(BaseException):
    """The one task is done. Not an Exception: no workflow shall take it for a failure of its own."""


class OneTask:
    """Implements `workflows.Clients`. Whoever is asked, only the first of them gets the task, without a time limit."""

    def __init__(self, clients: Clients, answered: Callable[[], object]) -> None:
        """`answered` is called when the client has answered and still lives."""
        self._clients, self._answered = clients, answered

    @property
    def sites(self) -> Sequence[str]:
        return self._clients.sites

    def takes(self, task_name: str, *, by_name: bool = False) -> Sequence[str]:
        return self._clients.takes(task_name, by_name=by_name)

    def ask(
        self,
        task: Task,
        *,
        to: Iterable[str] | None = None,
        min_responses: int = 0,
        timeout_s: float | None = None,  # noqa: ARG002
        grace_s: float | None = None,  # noqa: ARG002
        **rules: Any,
    ) -> Replies:
        """Raises TaskDone after the first answer, and NotEnoughClients if the client fails."""
        asked = set(self.takes(task.name) if to is None else to)
        first = next((site for site in self.sites if site in asked), None)
        if first is None:
            return self._clients.ask(task, to=asked, min_responses=min_responses, **rules)
        with self._clients.ask(task, to=[first], min_responses=1, **rules) as replies:
            next(iter(replies))
        self._answered()
        raise TaskDone

    def broadcast(self, task: Task, **how: Any) -> Iterator[Reply]:
        with self.ask(task, **how) as replies:
            yield from replies
