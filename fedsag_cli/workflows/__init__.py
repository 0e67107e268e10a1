"""The contract of a workflow: what it can ask of the clients, and what is asked of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from fedsag_cli.model import Reply, Task
from fedsag_cli.workflows.run import Run


class Clients(Protocol):
    """All clients, as a workflow sees them."""

    @property
    def sites(self) -> Sequence[str]:
        """Their names, in the order in which replies are given."""

    def takes(self, task_name: str, *, by_name: bool = False) -> Sequence[str]:
        """The sites whose executors list a task of this name; `by_name`: no pattern such as "*" will do."""

    def broadcast(
        self,
        task: Task,
        *,
        to: Iterable[str] | None = None,
        min_responses: int = 0,
        timeout_s: float | None = None,
        grace_s: float | None = None,
        allow_non_finite: bool = False,
    ) -> Iterator[Reply]:
        """Replies in site order, each as soon as every earlier site answered, failed or was given up.

        The values in `task.model.params` are exchanged for the same ones in the file that travels, so that they are
        held once.

        `to`: these sites (default: all that take the task). `timeout_s`: a client is given up so long after it was
        handed the task; None, never. `grace_s`: once `min_responses` (at least one) answered, a client that has the
        task is given up so long after; its clock, too, begins when it was handed the task; None, never.

        A reply whose params have other keys, shapes or kinds of number than those that were sent, or NaN or infinity
        where these have none (unless `allow_non_finite`), counts as failed, and so does a number of steps that is none.
        Failures are events, not replies. A reply's params live until the next one is asked for. Raises
        NotEnoughClients as soon as `min_responses` is out of reach.
        """

    def reject(self, reply: Reply, cause: str) -> None:
        """Count a reply that was given as failed, for the reason told. Raises NotEnoughClients like `broadcast`."""


class Controller(Protocol):
    """A workflow: plain loops over `clients.broadcast`."""

    def run(self, clients: Clients, run: Run) -> None:
        """Work until done. Raises RunError."""
