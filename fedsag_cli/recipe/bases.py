"""What all recipes have: they are executed or exported, and parts are added for the clients and for the server.

Importing this module takes --export and --export-dir from sys.argv, before the script reads its words.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from fedsag_cli.cli import display
from fedsag_cli.errors import UsageError, nearest
from fedsag_cli.recipe.checking import NO_EFFECT, checked
from fedsag_cli.recipe.environments import Run
from fedsag_cli.recipe.fed_job import ALL_SITES, FedJob, ScriptRunner
from fedsag_cli.recipe.settings import FilterType, FrameworkType

OF_A_SITE = (
    "train_script", "train_args", "launch_external_process", "command", "framework", "server_expected_format",
    "params_transfer_type", "launch_once",
)  # fmt: skip
_EXPORT, _EXPORT_DIR = "--export", "--export-dir"


def _taken_from_words() -> str | None:
    """The folder to export to, if the words of the script ask for it; they are then gone. None: run the job."""
    words, kept, folder, exports = iter(sys.argv[1:]), [], "./fl_job", False
    for word in words:
        if word == _EXPORT:
            exports = True
        elif word == _EXPORT_DIR:
            if (given := next(words, None)) is None:
                return None  # the script's own parser says what is wrong
            folder = given
        elif word.startswith(f"{_EXPORT_DIR}="):
            folder = word.partition("=")[2]
        else:
            kept.append(word)
    sys.argv[1:] = kept
    return folder if exports else None


_export_to = _taken_from_words()


class Recipe:
    """A job that is made in one call. `framework` decides how cross-site evaluation finds the models."""

    framework: FrameworkType | None = None
    of_a_site: Sequence[str] = OF_A_SITE
    """The keys that `set_per_site_config` takes."""

    def __init__(self, job: FedJob) -> None:
        self.job, self.name = job, job.name
        self._by_site: dict[str, dict[str, Any]] = {}
        self._has_clients = False

    @property
    def _job(self) -> FedJob:
        return self.job

    def prepare_clients(self) -> None:
        """For subclasses: add to `job` what clients get."""

    @checked
    def execute(
        self,
        env: Any,
        server_exec_params: Mapping[str, Any] | None = None,
        client_exec_params: Mapping[str, Any] | None = None,
    ) -> Run:
        """Run the job in `env`; with --export among the script's words, write its folder and end the script."""
        if _export_to is not None:
            self.export(_export_to, server_exec_params, client_exec_params, env)
            display.line(f"job {self.name} is in {_export_to}")
            raise SystemExit(0)
        return self.run(env, server_exec_params, client_exec_params)

    @checked
    def run(
        self,
        env: Any,
        server_exec_params: Mapping[str, Any] | None = None,
        client_exec_params: Mapping[str, Any] | None = None,
    ) -> Run:
        if not hasattr(env, "deploy"):
            raise UsageError(f"{self.name}: {env!r} is no environment", hint="give SimEnv(num_clients=2)")
        self._complete(server_exec_params, client_exec_params)
        self.process_env(env)
        return Run(env, env.deploy(self.job))

    def export(
        self,
        job_dir: str,
        server_exec_params: Mapping[str, Any] | None = None,
        client_exec_params: Mapping[str, Any] | None = None,
        env: Any = None,
    ) -> None:
        """Write the job folder `job_dir`/NAME."""
        self._complete(server_exec_params, client_exec_params)
        if env is not None:
            self.process_env(env)
        self.job.export_job(job_dir)

    def process_env(self, env: Any) -> None:
        """For subclasses: what to change for this environment."""

    def set_per_site_config(self, config: Mapping[str, Mapping[str, Any]]) -> None:
        if (
            not isinstance(config, Mapping)
            or not config
            or not all(isinstance(each, Mapping) for each in config.values())
        ):
            raise UsageError("the config by site must be a dict with a dict for each site")
        if self._has_clients or self._by_site:
            raise UsageError("set_per_site_config must be called once, directly after the recipe is made")
        for site, values in config.items():
            for key in values:
                if key not in (*self.of_a_site, *NO_EFFECT):
                    raise UsageError(f"site {site}: there is no key {key!r}", hint=nearest(key, self.of_a_site))
        self._by_site = {site: dict(values) for site, values in config.items()}

    def configured_sites(self) -> list[str]:
        return list(self._by_site)

    def to_client_apps(self, obj: Any, clients: Sequence[str] | None = None, **named: Any) -> None:
        """Add a part to these clients, or to all."""
        self._clients_ready()
        targets = self.job.client_apps or [ALL_SITES]
        if clients is not None:
            if unknown := [name for name in clients if name not in targets]:
                raise UsageError(
                    f"{self.name} has no client {unknown[0]!r} of its own",
                    hint="set_per_site_config gives each client its own, directly after the recipe is made",
                )
            targets = list(clients)
        for target in targets:
            self.job.to(obj, target, **named)

    def add_client_input_filter(
        self,
        filter: Any,  # noqa: A002
        tasks: Sequence[str] | None = None,
        clients: Sequence[str] | None = None,
    ) -> None:
        self.to_client_apps(filter, clients, filter_type=FilterType.TASK_DATA, tasks=tasks)

    def add_client_output_filter(
        self,
        filter: Any,  # noqa: A002
        tasks: Sequence[str] | None = None,
        clients: Sequence[str] | None = None,
    ) -> None:
        self.to_client_apps(filter, clients, filter_type=FilterType.TASK_RESULT, tasks=tasks)

    def add_server_output_filter(self, filter: Any, tasks: Sequence[str] | None = None) -> None:  # noqa: A002
        self.job.to_server(filter, filter_type=FilterType.TASK_DATA, tasks=tasks)

    def add_server_input_filter(self, filter: Any, tasks: Sequence[str] | None = None) -> None:  # noqa: A002
        self.job.to_server(filter, filter_type=FilterType.TASK_RESULT, tasks=tasks)

    @checked
    def add_client_config(self, config: Mapping[str, Any], clients: Sequence[str] | None = None) -> None:
        self.to_client_apps(dict(config), clients)

    @checked
    def add_server_config(self, config: Mapping[str, Any]) -> None:
        self.job.to_server(dict(config))

    def add_client_file(self, file_path: str, clients: Sequence[str] | None = None) -> None:
        self.to_client_apps(str(file_path), clients)

    def add_server_file(self, file_path: str) -> None:
        self.job.to_server(str(file_path))

    def enable_log_streaming(self, *file_names: str) -> None:
        """Nothing: the logs of all processes are in the workspace."""

    def enable_tensor_streaming(self, *_: Any, **__: Any) -> None:
        """Nothing: fedsag sends models in pieces."""

    def add_decomposers(self, decomposers: Sequence[Any]) -> None:
        """Nothing: fedsag sends its messages itself."""

    def _clients_ready(self) -> None:
        if not self._has_clients:
            self._has_clients = True
            self.prepare_clients()

    def _complete(self, server: Mapping[str, Any] | None, client: Mapping[str, Any] | None) -> None:
        self._clients_ready()
        if server:
            self.job.to_server(dict(server))
        if client:
            self.to_client_apps(dict(client))


class ScriptRecipe(Recipe):
    """A recipe whose clients run a script."""

    def __init__(self, job: FedJob, given: Mapping[str, Any], tasks: Sequence[str] | None = None) -> None:
        """`given`: the arguments of the recipe. Those of OF_A_SITE are the script's, and may differ by site."""
        super().__init__(job)
        self._arguments, self._tasks = {key: given[key] for key in OF_A_SITE if key in given}, tasks
        self._runner({})  # its errors name the line of the recipe
        if given.get("per_site_config") is not None:
            self.set_per_site_config(given["per_site_config"])

    def set_per_site_config(self, config: Mapping[str, Mapping[str, Any]]) -> None:
        super().set_per_site_config(config)
        for values in config.values():
            self._runner(values)

    def prepare_clients(self) -> None:
        for site, values in (self._by_site or {ALL_SITES: {}}).items():
            named: dict[str, Any] = {"tasks": self._tasks} if self._tasks else {}
            self.job.to(self._runner(values), site, **named)

    def _runner(self, of_site: Mapping[str, Any]) -> ScriptRunner:
        given = {key: value for key, value in of_site.items() if value is not None and key in OF_A_SITE}
        arguments = {**self._arguments, **given}
        script, words = arguments.pop("train_script"), arguments.pop("train_args")
        return ScriptRunner(script, words, **arguments)
