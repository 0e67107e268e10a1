"""The contract of a workflow, and of the clients that it works with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

from fedsag_cli.model import Reply, Task
from fedsag_cli.workflows.run import Run


class Clients(Protocol):
    """All clients, as a workflow sees them."""

    @property
    def sites(self) -> Sequence[str]:
        """Their names, in the order of the replies."""

    def takes(self, task_name: str, *, by_name: bool = False) -> Sequence[str]:
        """The sites whose executors list this task. `by_name`: a pattern such as "*" does not count."""

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
        """Send the task and yield the replies in site order, each as soon as all earlier sites answered or failed.

        `to`: these sites (default: all that take the task). `min_responses`: number of replies that are needed.
        `timeout_s`: seconds that a client has for its answer, counted from when it received the task; None: no limit.
        `grace_s`: once `min_responses` clients (at least one) have answered, every other client has the time of the
        slowest of them plus `grace_s` seconds, counted from when it received the task; None: no limit.

        A reply whose params have other keys, shapes or kinds of number than those that were sent counts as failed. So
        does one with NaN or infinity where the sent values have none (unless `allow_non_finite`), and one whose number
        of steps is not a number. A failure is an event, not a reply. With `allow_unknown_keys`, keys that the model
        does not have are left out of the reply. So are those that `ignores` is true for.

        The values in `task.model.params` are replaced by the same values in the file that is sent, so that they are in
        memory once. A reply's params are valid until the next reply is requested. Raises NotEnoughClients as soon as
        `min_responses` can no longer be reached.
        """

    def reject(self, reply: Reply, cause: str) -> None:
        """Count a reply as failed, with this cause. Raises NotEnoughClients as `broadcast` does."""


class Controller(Protocol):
    """A workflow: loops over the replies of the clients."""

    def run(self, clients: Clients, run: Run) -> None:
        """Work until done. Raises RunError."""
