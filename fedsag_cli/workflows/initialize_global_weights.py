"""The first global model comes from a client: the workflow after this one starts from it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from fedsag_cli.arguments import Least, OneOf, checked
from fedsag_cli.errors import JobError, RunError, nearest
from fedsag_cli.facts import Facts, Nvflare
from fedsag_cli.model import FLModel, ParamsType, Task
from fedsag_cli.workflows import Clients
from fedsag_cli.workflows.run import Run

FIRST = "first"
CLIENT = "client"


class InitializeGlobalWeights:
    """Clients send their weights, and those of one of them are the global model: of the first site, or of a named one.

    The model of a workflow's persistor, or of a workflow before this one, is not used.
    """

    facts = Facts(
        asks_for=("task_name",),
        names_sites=("weights_client_name",),
        nvflare=Nvflare(
            path="nvflare.app_common.workflows.initialize_global_weights.InitializeGlobalWeights",
            expected={"weights_prop_name": ("global_model",)},
            whole_numbers=("wait_time_after_min_received", "task_timeout"),
        ),
    )

    @checked
    def __init__(
        self,
        task_name: Annotated[str, "name of the task to send weights, as the executors list it"] = "get_weights",
        weight_method: Annotated[
            str,
            OneOf(["first", "client"]),
            "whose weights are used: first (the first site that answers, in the order of their names) or client",
        ] = FIRST,
        weights_client_name: Annotated[
            str | Sequence[str] | None, "the client whose weights are used, or with first the clients that are asked"
        ] = None,
        min_responses_required: Annotated[int, Least(0), "number of answers that are needed (0: all)"] = 0,
        wait_time_after_min_received: Annotated[
            float, Least(0), "seconds to wait for the other clients once min_responses_required have answered"
        ] = 0,
        task_timeout: Annotated[float, Least(0), "seconds that a client has for its answer (0: no limit)"] = 0,
    ) -> None:
        """Raises JobError naming the argument that is out of range."""
        if weight_method == CLIENT and not (weights_client_name and isinstance(weights_client_name, str)):
            raise JobError("weight_method 'client' needs weights_client_name, the name of one client")
        self._task, self._method = task_name, weight_method
        self._named = [weights_client_name] if isinstance(weights_client_name, str) else weights_client_name
        self._min_responses = min_responses_required
        self._grace_s, self._timeout_s = wait_time_after_min_received, task_timeout or None

    def run(self, clients: Clients, run: Run) -> None:
        takers = clients.takes(self._task)
        for site in self._named or ():
            if site not in takers:
                raise JobError(f"{site!r} is no client that takes the task {self._task!r}", hint=nearest(site, takers))
        asked = self._named or takers
        needed = min(self._min_responses or len(asked), len(asked))
        first: FLModel | None = None
        task = Task(name=self._task, model=FLModel())
        with clients.ask(
            task, to=asked, min_responses=needed, timeout_s=self._timeout_s, grace_s=self._grace_s
        ) as replies:
            for reply in replies:
                if not reply.model.params or reply.model.params_type is not ParamsType.FULL:
                    replies.reject(reply, f"its answer to the task {self._task!r} has no weights")
                elif first is None:
                    first = FLModel(params=reply.keep().params)
        if first is None:
            raise RunError(f"no client sent weights for the task {self._task!r}", hint="read the clients' logs")
        run.model = first
