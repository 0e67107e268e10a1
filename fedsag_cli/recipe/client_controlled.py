"""`CCWFJob`: a job whose workflows NVFLARE's clients run. In fedsag the server runs them, with the same arguments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fedsag_cli.errors import UsageError
from fedsag_cli.recipe.checking import Count, checked
from fedsag_cli.recipe.fed_job import FedJob
from fedsag_cli.recipe.parts import made

_PATH = "nvflare.app_common.ccwf"
_TASKS = ("train", "validate", "submit_model")
_PARTS = ("persistor", "shareable_generator", "aggregator", "metric_comparator")


class _Config:
    """Arguments of a controller. The names are checked when the job is read; `first` may be given without a name."""

    first: tuple[str, ...] = ()

    def __init__(self, *args: Any, **named: Any) -> None:
        if len(args) > len(self.first):
            raise UsageError(f"{type(self).__name__}: arguments must be given by name")
        self.given: dict[str, Any] = {**dict(zip(self.first, args, strict=False)), **named}
        if missing := [name for name in self.first if self.given.get(name) is None]:
            raise UsageError(f"{type(self).__name__}: {missing[0]} is missing")


class SwarmServerConfig(_Config):
    first = ("num_rounds",)


class CyclicServerConfig(_Config):
    first = ("num_rounds",)


class SwarmClientConfig(_Config):
    first = ("executor", "persistor", "shareable_generator", "aggregator")


class CyclicClientConfig(_Config):
    first = ("executor", "persistor", "shareable_generator")


class CrossSiteEvalConfig(_Config):
    """`get_model_timeout` is for the clients, the other arguments are for the server."""


class CCWFJob(FedJob):
    """A job to which swarm learning, cyclic weight transfer and cross-site evaluation are added."""

    @checked
    def __init__(
        self,
        name: str = "fed_job",
        min_clients: Count = 1,
        mandatory_clients: Sequence[str] | None = None,
        executor_tasks: Sequence[str] | None = None,
        external_resources: str | None = None,
    ) -> None:
        super().__init__(name, min_clients, mandatory_clients)
        self._tasks, self._has_executor = list(executor_tasks or _TASKS), False
        if external_resources:
            self.to_server(external_resources)
            self.to_clients(external_resources)

    def add_swarm(
        self,
        server_config: SwarmServerConfig,
        client_config: SwarmClientConfig,
        cse_config: CrossSiteEvalConfig | None = None,
    ) -> None:
        self._add_workflow("Swarm", server_config, client_config, cse_config)

    def add_cyclic(
        self,
        server_config: CyclicServerConfig,
        client_config: CyclicClientConfig,
        cse_config: CrossSiteEvalConfig | None = None,
    ) -> None:
        self._add_workflow("Cyclic", server_config, client_config, cse_config)

    def add_cross_site_eval(self, cse_config: CrossSiteEvalConfig, persistor_id: str) -> None:
        args = dict(cse_config.given)
        timeout = args.pop("get_model_timeout", None)
        self.to_server(made(f"{_PATH}.cse_server_ctl.CrossSiteEvalServerController", **args))
        path = f"{_PATH}.cse_client_ctl.CrossSiteEvalClientController"
        self.to_clients(made(path, persistor_id=persistor_id, get_model_timeout=timeout), tasks=["cse_*"])

    def _add_workflow(
        self, kind: str, server: _Config, clients: _Config, evaluation: CrossSiteEvalConfig | None
    ) -> None:
        path = f"{_PATH}.{kind.lower()}"
        self.to_server(made(f"{path}_server_ctl.{kind}ServerController", **server.given))
        args = dict(clients.given)
        executor, selector = args.pop("executor"), args.pop("model_selector", None)
        for name in _PARTS:
            if (part := args.pop(name, None)) is not None:
                args[f"{name}_id"] = self.to_clients(part, id=name)
        controller = made(f"{path}_client_ctl.{kind}ClientController", **args)
        self.to_clients(controller, tasks=[f"{kind.lower()}_*"])
        if not self._has_executor:  # all workflows of a job train with one script
            self.to_clients(executor, tasks=self._tasks)
            self._has_executor = True
        if selector is not None:
            self.to_clients(selector, id="model_selector")
        if evaluation is not None:
            self.add_cross_site_eval(evaluation, args["persistor_id"])
