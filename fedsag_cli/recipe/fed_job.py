"""`FedJob`: a job of which a script says part by part what the server and the clients get."""

from __future__ import annotations

import os
import re
import shlex
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from fedsag_cli.arguments import Least
from fedsag_cli.errors import UsageError
from fedsag_cli.interop import vocabulary
from fedsag_cli.recipe import ending, folder, sources
from fedsag_cli.recipe.checking import Count, Expected, Framework, Mode, Transfer, checked, path_of
from fedsag_cli.recipe.folder import App
from fedsag_cli.recipe.lacking import lacking
from fedsag_cli.recipe.parts import Model, Part, made
from fedsag_cli.recipe.settings import ExchangeFormat, FilterType, FrameworkType, TransferType

ALL_SITES = "@ALL"
SERVER = SERVER_SITE_NAME = "server"
_NAME = re.compile(r"[A-Za-z0-9_.-]+( [A-Za-z0-9_.-]+)*")
_EXECUTOR = "nvflare.app_common.executors.client_api_executor.ClientAPIExecutor"
_EXCHANGED_AS = {
    FrameworkType.PYTORCH: ExchangeFormat.PYTORCH,
    FrameworkType.NUMPY: ExchangeFormat.NUMPY,
    FrameworkType.RAW: ExchangeFormat.RAW,
}


@dataclass(frozen=True, slots=True)
class JobCtx:
    """For which target, and under which id, an object adds itself to a job."""

    obj: Any
    target: str
    comp_id: str | None


class FedJob:
    """A job. `to`, `to_server` and `to_clients` add to it; `export_job` writes its folder, `simulator_run` runs it."""

    @checked
    def __init__(
        self,
        name: str = "fed_job",
        min_clients: Count = 1,
        mandatory_clients: Sequence[str] | None = None,
        meta_props: Mapping[str, Any] | None = None,
        fail_fast: bool = False,  # noqa: ARG002  a client that has ended is noticed at once
    ) -> None:
        if not _NAME.fullmatch(name) or name.startswith("."):
            raise UsageError(f"the job's name {name!r} cannot be the name of a folder")
        self.name, self.min_clients = name, min_clients
        self.mandatory_clients, self.meta_props = list(mandatory_clients or ()), dict(meta_props or {})
        self.clients: list[str] = []
        self.comp_ids: dict[str, str] = {}
        self._apps: dict[str, App] = {}
        self._referred: dict[str, Any] = {}
        ending.job_made(name)

    def to(self, obj: Any, target: str, id: str | None = None, **named: Any) -> Any:  # noqa: A002
        """Add a part, a file, a folder, or a dict of further keys of the config file. The id of a part is returned."""
        if obj is None or obj == "":
            raise UsageError(f"{self.name}: there is nothing to add to {target!r}")
        if isinstance(obj, bool | int | float | bytes | list | tuple | type):
            raise UsageError(f"{self.name}: {obj!r} is no part: give an object of a class, a file or a dict")
        if not isinstance(target, str) or not target:
            raise UsageError(f"{self.name}: {target!r} is no site: give 'server', or a client's name")
        self.set_up(target)
        app = self._apps[target]
        if isinstance(obj, str):
            sources.check(obj)
            app.resources.append(obj)
            return None
        if isinstance(obj, dict):
            app.params.update(obj)
            return None
        added = self._add(obj, JobCtx(obj, target, id), named)
        self._add_referred(obj, app)
        return added

    def to_server(self, obj: Any, id: str | None = None, **named: Any) -> Any:  # noqa: A002
        return self.to(obj, SERVER, id=id, **named)

    def to_clients(self, obj: Any, id: str | None = None, **named: Any) -> Any:  # noqa: A002
        return self.to(obj, ALL_SITES, id=id, **named)

    def as_id(self, obj: Any) -> str:
        """An id for `obj`, which goes where a part goes that has this id as an argument."""
        self._referred[name := str(uuid.uuid4())] = obj
        return name

    def set_up(self, target: str) -> None:
        if target not in self._apps:
            self._apps[target] = App()
            if target != SERVER:
                self.clients.append(target)
                self.set_up_client(target)

    def set_up_client(self, target: str) -> None:
        """For subclasses: called when a client gets its first part."""

    # what an object with a method add_to_fed_job(job, ctx) calls

    def add_component(self, comp_id: str | None, obj: Any, ctx: JobCtx) -> str:
        return self._apps[ctx.target].add_component(obj, comp_id or ctx.comp_id or "component")

    def add_controller(self, obj: Any, ctx: JobCtx) -> str:
        app = self._apps[ctx.target]
        app.workflows[name := app.free_id(ctx.comp_id or "controller")] = obj
        return name

    def add_executor(self, obj: Any, tasks: Sequence[str] | None, ctx: JobCtx) -> None:
        self._apps[ctx.target].executors.append((tasks or ["*"], obj))

    def add_filter(self, obj: Any, filter_type: str, tasks: Sequence[str] | None, ctx: JobCtx) -> None:
        app = self._apps[ctx.target]
        chains = {FilterType.TASK_RESULT: app.result_filters, FilterType.TASK_DATA: app.data_filters}
        if filter_type not in chains:
            raise UsageError(f"filter_type is {filter_type!r}: it must be one of {', '.join(chains)}")
        chains[filter_type].append((tasks or ["*"], obj))

    def add_resources(self, resources: Sequence[str], ctx: JobCtx) -> None:
        for each in resources:
            sources.check(each)
            self._apps[ctx.target].resources.append(each)

    def add_file_source(
        self, src_path: str, dest_dir: str | None = None, app_folder_type: str | None = None, ctx: JobCtx | None = None
    ) -> None:
        sources.check(src_path)
        target = ctx.target if ctx else ALL_SITES
        self.set_up(target)
        kind = "config" if app_folder_type == "config" else "custom"
        self._apps[target].files.append((src_path, dest_dir or "", kind))

    def add_file_to_server(
        self, src_path: str, dest_dir: str | None = None, app_folder_type: str | None = None
    ) -> None:
        self.set_up(SERVER)
        self.add_file_source(src_path, dest_dir, app_folder_type, JobCtx(None, SERVER, None))

    def add_file_to_clients(
        self, src_path: str, dest_dir: str | None = None, app_folder_type: str | None = None
    ) -> None:
        self.add_file_source(src_path, dest_dir, app_folder_type)

    @property
    def client_apps(self) -> list[str]:
        """The targets of clients."""
        return [target for target in self._apps if target != SERVER]

    def has_workflow(self, name: str) -> bool:
        server = self._apps.get(SERVER, App())
        return any(_name_of(part) == name for part in server.workflows.values())

    def export_job(self, job_root: str | os.PathLike[str]) -> None:
        """Write the job folder `job_root`/NAME, which fedsag and NVFLARE run. Raises a FedsagError."""
        meta = {
            "name": self.name,
            "resource_spec": {},
            "min_clients": self.min_clients,
            **({"mandatory_clients": self.mandatory_clients} if self.mandatory_clients else {}),
            **self.meta_props,
        }
        apps: dict[str, folder.Halves]
        if self.client_apps in ([], [ALL_SITES]):
            apps, sites = {"app": (self._apps.get(SERVER), self._apps.get(ALL_SITES))}, {"app": [ALL_SITES]}
        elif ALL_SITES in self._apps:
            one = next(target for target in self.client_apps if target != ALL_SITES)
            raise UsageError(f"{self.name}: there are parts for all clients and for {one}: give the others names too")
        else:
            apps = {f"app_{site}": (app, None) if site == SERVER else (None, app) for site, app in self._apps.items()}
            sites = {f"app_{site}": [site] for site in self._apps}
        ending.job_used()
        folder.write(path_of(job_root, "the folder of the export") / self.name, meta, apps, sites)

    @checked
    def simulator_run(
        self,
        workspace: str | os.PathLike[str],
        n_clients: Annotated[int, Least(0)] | None = None,
        clients: Sequence[str] | None = None,
        threads: Annotated[int, Least(0)] | None = None,
        gpu: str | None = None,
        log_config: str | None = None,  # noqa: ARG002  the logs of all processes are in the workspace
    ) -> int:
        """Run the job with `fedsag simulator`, to its end, and return 0. Raises a FedsagError."""
        from fedsag_cli.recipe.simulating import simulate_beside, site_names

        named = [target for target in self.client_apps if target != ALL_SITES]
        names = list(clients or named) or site_names(n_clients)
        if not names:
            raise UsageError(f"{self.name}: there are no clients", hint="give n_clients, or their names as clients")
        if named and n_clients and n_clients != len(named):
            raise UsageError(f"{self.name} is for {', '.join(named)}, but n_clients is {n_clients}")
        if unknown := [name for name in names if named and name not in named]:
            raise UsageError(
                f"{self.name} has nothing for the client {unknown[0]}", hint=f"it is for {', '.join(named)}"
            )
        simulate_beside(workspace, self.name, self.export_job, clients=names, threads=threads or len(names), gpus=gpu)
        return 0

    def _add(self, obj: Any, ctx: JobCtx, named: dict[str, Any]) -> Any:
        if (add := getattr(obj, "add_to_fed_job", None)) is not None:
            return add(self, ctx, **named)
        tasks, kind = named.pop("tasks", None), named.pop("filter_type", None)
        if named:
            raise UsageError(f"to(): there is no argument {next(iter(named))!r}", hint="known: id, tasks, filter_type")
        if kind is not None:
            return self.add_filter(obj, kind, tasks, ctx)
        if _is_workflow(obj) and ctx.target == SERVER:
            return self.add_controller(obj, ctx)
        if _is_executor(obj):
            return self.add_executor(obj, tasks, ctx)
        return self.add_component(None, obj, ctx)

    def _add_referred(self, obj: Any, app: App) -> None:
        values = obj.given if isinstance(obj, Part) else getattr(obj, "__dict__", {})
        for value in list(values.values()):
            if isinstance(value, str) and value in self._referred:
                part = self._referred.pop(value)
                app.components[value] = part
                self._add_referred(part, app)


class BaseFedJob(FedJob):
    """A job with a model selector, and with an `initial_model` if there is one. `comp_ids` has the ids of its parts."""

    @checked
    def __init__(
        self,
        initial_model: Any = None,
        name: str = "fed_job",
        min_clients: Count = 1,
        mandatory_clients: Sequence[str] | None = None,
        key_metric: str | None = "accuracy",
        validation_json_generator: Any = None,  # noqa: ARG002  the results of cross-site evaluation are always written
        model_selector: Any = None,
        convert_to_fed_event: Any = None,  # noqa: ARG002  logged values always reach the server
        analytics_receiver: Any = None,
        metrics_artifact_writer: Any = None,  # noqa: ARG002  these files are always written
        model_persistor: Any = None,
        model_locator: Any = None,  # noqa: ARG002  the persistor has the models
        key_metric_mode: Mode | None = "max",
    ) -> None:
        if isinstance(initial_model, str):  # the first argument of NVFLARE's job without a model is the name
            raise UsageError(f"initial_model is {initial_model!r}: give the name as name={initial_model!r}")
        super().__init__(name, min_clients, mandatory_clients)
        selector = model_selector or (key_metric and selects_best(key_metric, key_metric_mode))
        if selector:
            self.to_server(selector, id="model_selector")
        if analytics_receiver is not None:
            self.to_server(analytics_receiver, id="receiver")
        if initial_model is not None or model_persistor is not None:
            self.comp_ids.update(self.to_server(PTModel(initial_model, persistor=model_persistor)))


class FedAvgJob(BaseFedJob):
    """A job in which `n_clients` average a model for `num_rounds`; the clients' script is added by `to`."""

    @checked
    def __init__(
        self, initial_model: Any, n_clients: Count, num_rounds: Count, name: str = "fed_job", **other: Any
    ) -> None:
        super().__init__(initial_model, name, **other)
        args = {"num_clients": n_clients, "num_rounds": num_rounds, **self.comp_ids}
        args.pop("locator_id", None)
        self.to_server(made(vocabulary.FEDERATED_AVERAGING.path, **args))


class PTModel:
    """A model of torch, as an object or as a dict with its `class_path` and `args`; it becomes a persistor's."""

    @checked
    def __init__(
        self,
        model: Any,
        persistor: Any = None,
        locator: Any = None,  # noqa: ARG002
        allow_numpy_conversion: bool = True,
        initial_ckpt: str | None = None,
        best_model_filename: str | None = None,
    ) -> None:
        self._persistor = persistor or made(
            "nvflare.app_opt.pt.file_model_persistor.PTFileModelPersistor",
            model=Model(model) if model is not None else None,
            source_ckpt_file_full_name=initial_ckpt,
            best_global_model_file_name=best_model_filename,
            **({} if allow_numpy_conversion else {"allow_numpy_conversion": False}),
        )

    def add_to_fed_job(self, job: FedJob, ctx: JobCtx) -> dict[str, str]:
        persistor = job.add_component("persistor", self._persistor, ctx)
        locator = made("nvflare.app_opt.pt.file_model_locator.PTFileModelLocator", pt_persistor_id=persistor)
        return {"persistor_id": persistor, "locator_id": job.add_component("locator", locator, ctx)}


class ScriptRunner:
    """A client's script with the Client API. `launch_external_process`: it is started by `command`."""

    @checked
    def __init__(
        self,
        script: str,
        script_args: str | Sequence[str] | Mapping[str, Any] = "",
        launch_external_process: bool = False,
        command: str | Sequence[str] = "python3 -u",
        framework: Framework = FrameworkType.PYTORCH,
        server_expected_format: Expected = ExchangeFormat.NUMPY,
        params_transfer_type: Transfer = TransferType.FULL,
        launch_once: bool = True,
        launch_timeout: Any = 300.0,  # noqa: ARG002  a process that does not start is an error at once
        shutdown_timeout: Any = 0.0,  # noqa: ARG002  fedsag has its own limit
        memory_gc_rounds: Any = 0,  # noqa: ARG002
        cuda_empty_cache: Any = False,  # noqa: ARG002
        execution_mode: str | None = None,
    ) -> None:
        if framework not in _EXCHANGED_AS:
            raise lacking(f"framework {getattr(framework, 'value', framework)!r} of ScriptRunner")
        if execution_mode not in (None, "in_process", "external_process"):
            raise lacking(f"execution_mode {execution_mode!r} of ScriptRunner")
        if isinstance(script_args, Mapping):
            raise UsageError(f"{script}: its words are a dict", hint="per_site_config gives each site its own")
        sources.check(script)
        if Path(script).is_dir():
            raise UsageError(f"{script} is a folder, not a script")
        self._script = script
        place = sources.name_in_job(script)
        args: dict[str, Any] = {"params_exchange_format": _EXCHANGED_AS[FrameworkType(framework)].value}
        if launch_external_process or execution_mode == "external_process":
            words = [*_words(command, "command"), f"custom/{place}", *_words(script_args, "script_args")]
            args |= {"execution_mode": "external_process", "command": words}
            args |= {} if launch_once else {"launch_once": False}
        else:
            text = script_args if isinstance(script_args, str) else shlex.join(map(str, script_args))
            args |= {"execution_mode": "in_process", "task_script_path": place, "task_script_args": text}
        for key, value, usual in (
            ("server_expected_format", server_expected_format, "numpy"),
            ("params_transfer_type", params_transfer_type, "FULL"),
        ):
            if (text := getattr(value, "value", value)) != usual:
                args[key] = text
        self._executor = made(_EXECUTOR, **args)

    def add_to_fed_job(self, job: FedJob, ctx: JobCtx, tasks: Sequence[str] | None = None) -> dict[str, str]:
        if ctx.target == SERVER:
            raise UsageError("a ScriptRunner is for clients: add it by to_clients()")
        job.add_executor(self._executor, tasks, ctx)
        job.add_resources([self._script], ctx)
        return {}


def selects_best(key_metric: str, mode: str | None) -> Part:
    """The part that selects the best model. `mode`: "max" (or None), or "min"."""
    path = "nvflare.app_common.widgets.intime_model_selector.IntimeModelSelector"
    return made(path, key_metric=key_metric, negate_key_metric=True if mode == "min" else None)


def _is_workflow(obj: Any) -> bool:
    return vocabulary.is_workflow(_name_of(obj)) or _derives(obj, vocabulary.CONTROLLERS)


def _is_executor(obj: Any) -> bool:
    return vocabulary.is_executor(_name_of(obj)) or _derives(obj, ("Executor", *vocabulary.LEARNER_EXECUTORS))


def _name_of(obj: Any) -> str:
    """The name of NVFLARE's class of a part; empty for an object of the script's own class."""
    return str(vars(type(obj)).get("nvflare_path", "")).rpartition(".")[2]


def _derives(obj: Any, names: Sequence[str]) -> bool:
    of_theirs = [each for each in type(obj).__mro__ if each.__module__.partition(".")[0] in ("nvflare", "fedsag_cli")]
    return any(each.__name__ in names for each in of_theirs)


def _words(given: str | Sequence[str], name: str) -> list[str]:
    try:
        return shlex.split(given) if isinstance(given, str) else [str(each) for each in given]
    except ValueError as error:
        raise UsageError(f"ScriptRunner: {name} {given!r}: {error}") from None
