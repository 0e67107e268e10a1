"""Clients of which a workflow can ask one, once: with the answer it ends."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
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
        """The replies raise TaskDone after the one that the workflow has accepted, and NotEnoughClients if it fails."""
        asked = set(self.takes(task.name) if to is None else to)
        first = next((site for site in self.sites if site in asked), None)
        if first is None:
            return self._clients.ask(task, to=asked, min_responses=min_responses, **rules)
        return _OneReply(self._clients.ask(task, to=[first], min_responses=1, **rules), self._answered)

    def broadcast(self, task: Task, **how: Any) -> Iterator[Reply]:
        with self.ask(task, **how) as replies:
            yield from replies


class _OneReply:
    """Implements `workflows.Replies`: the workflow looks at the one reply as at any other, and may reject it."""

    def __init__(self, replies: Replies, answered: Callable[[], object]) -> None:
        self._replies, self._answered = replies, answered
        self._is_accepted = False

    def __enter__(self) -> Replies:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self._replies.__exit__(kind, error, trace)
        if error is None:
            self._check_done()

    def __iter__(self) -> Iterator[Reply]:
        return self

    def __next__(self) -> Reply:
        self._check_done()
        reply = next(self._replies)
        self._is_accepted = True
        return reply

    def reject(self, reply: Reply, cause: str) -> None:
        self._is_accepted = False
        self._replies.reject(reply, cause)

    def _check_done(self) -> None:
        if self._is_accepted:
            self._answered()
            raise TaskDone
