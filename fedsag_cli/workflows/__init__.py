"""The contract of a workflow, and of the clients that it works with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Protocol

from fedsag_cli.model import FLModel, Reply, Task
from fedsag_cli.workflows.run import Run


class Replies(Protocol):
    """The replies to one task, in site order, each as soon as all earlier sites answered or failed.

    Leaving the `with` block ends the task: nobody is waited for any more.
    """

    def __enter__(self) -> Replies: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...

    def __iter__(self) -> Iterator[Reply]: ...

    def __next__(self) -> Reply:
        """The next reply. The one before counts as accepted. Raises NotEnoughClients."""

    def reject(self, reply: Reply, cause: str) -> None:
        """Count a reply as failed, with this cause. Raises NotEnoughClients if too few clients are left."""


class Clients(Protocol):
    """All clients, as a workflow sees them."""

    @property
    def sites(self) -> Sequence[str]:
        """Their names, in the order of the replies."""

    def takes(self, task_name: str, *, by_name: bool = False) -> Sequence[str]:
        """The sites whose executors list this task. `by_name`: a pattern such as "*" does not count."""

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
        """Ask clients to do a task.

            with clients.ask(task, min_responses=2) as replies:
                for reply in replies:
                    ...

        `to`: these sites (default: all that take the task). `min_responses`: number of replies that are needed.
        `timeout_s`: seconds that a client has for its answer, counted from when it received the task; None: no limit.
        `grace_s`: once `min_responses` clients (at least one) have answered, every other client has the time of the
        slowest of them plus `grace_s` seconds, counted from when it received the task; None: no limit.

        A reply whose params have other keys, shapes or kinds of number than those that were sent counts as failed. So
        does one with NaN or infinity where the sent values have none (unless `allow_non_finite`), and one whose number
        of steps is not a number. A failure is an event, not a reply. With `allow_unknown_keys`, keys that the model
        does not have are left out of the reply. So are those that `ignores` is true for. `check(update, sent)` takes
        the place of these checks: it returns the update to use, or raises TensorError; `sent` are the params that were
        sent.

        Several tasks may be open at once: nested, where a workflow asks for something else while it handles the replies
        to a task, or side by side. Each client does one task at a time, in the order in which it was asked, and has
        other random numbers each time. While the workflow waits for a reply, answers to all open tasks arrive.

        The values in `task.model.params` are replaced by the same values in the file that is sent, so that they are in
        memory once. A reply's params are valid until the next reply is requested; `Reply.keep` gives them for longer.
        Raises NotEnoughClients as soon as `min_responses` can no longer be reached, and JobError for a name in `to`
        that no client has.
        """

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
        check: Callable[[FLModel, Mapping[str, Any]], FLModel] | None = None,
    ) -> Iterator[Reply]:
        """The replies of `ask`, for a workflow that rejects none. The task ends with the iteration."""


class Controller(Protocol):
    """A workflow: loops over the replies of the clients."""

    def run(self, clients: Clients, run: Run) -> None:
        """Work until done. Raises RunError."""
