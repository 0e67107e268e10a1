"""Stores metrics, params, tags and texts in MLflow: a run for fedsag's run, and one within it for each site."""

from __future__ import annotations

import os
import re
import shlex
import socket
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

from fedsag_cli.arguments import checked
from fedsag_cli.events import ValuesLogged
from fedsag_cli.facts import Facts, Nvflare
from fedsag_cli.trackers import RunEnd, RunFacts
from fedsag_cli.workspace import SERVER

_FOLDER = Path("..", "mlruns")
_PARENT = "mlflow.parentRunId"
_WORKSPACE = "fedsag.workspace"  # a tag, by which a resumed run finds itself in a store that others use too
_CAUSE = "fedsag.cause"
_MOST_PARAMS = 100  # at a time; these are MLflow's limits
_LONGEST_NAME = 250
_LONGEST_TAG = 5000


class MLflowReceiver:
    """Stores logged values in MLflow: an experiment for the job, a run for fedsag's run, and in it one for each site.

    The run has the settings, the seed, the versions and the digest as params, the metrics of the rounds, and its true
    status. To see them: `MLFLOW_ALLOW_FILE_STORE=true mlflow ui --backend-store-uri WS/server/simulate_job/mlruns`.
    """

    facts = Facts(
        extra="mlflow",
        nvflare=Nvflare(
            path="nvflare.app_opt.tracking.mlflow.mlflow_receiver.MLflowReceiver",
            older_names={"kwargs": "kw_args"},
            ignored=("events", "buffer_flush_time"),
            added={"events": ["fed.analytix_log_stats"]},
        ),
    )
    extra = facts.extra

    @checked
    def __init__(
        self,
        tracking_uri: Annotated[
            str | None, "address of MLflow's server or store (empty: MLFLOW_TRACKING_URI, else mlruns in the workspace)"
        ] = None,
        kw_args: Annotated[
            dict[str, Any] | None,
            "experiment_name (empty: the job's name), run_name (added to each site's name), experiment_tags, run_tags",
        ] = None,
        artifact_location: Annotated[str | None, "folder of a new experiment's files"] = None,
    ) -> None:
        self._uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI", "")
        self._settings = kw_args or {}
        self._artifacts = artifact_location or None
        self._client: Any = None
        self._experiment = ""
        self._runs: dict[str, str] = {}  # by site, and the whole run's under SERVER

    @property
    def folders(self) -> Sequence[Path]:
        return () if self._uri else (_FOLDER,)

    @property
    def view(self) -> str:
        if self._uri.startswith("http"):
            return re.sub("//[^/]*@", "//", self._uri)  # the address may contain a password
        store = self._uri if ":" in self._uri else str(Path(self._uri or _FOLDER).resolve())
        allowed = "MLFLOW_ALLOW_FILE_STORE=true " if _is_folder(self._uri) else ""
        command = f"{allowed}mlflow ui --backend-store-uri {shlex.quote(store)}"
        return command if find_spec("flask") else f"pip install mlflow && {command}"  # mlflow-skinny has no pages

    def begin(self, facts: RunFacts) -> None:
        if _is_folder(self._uri):
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # MLflow stores files only with this variable
        os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")  # no warning about a missing git
        from mlflow.tracking import MlflowClient

        self._client = MlflowClient(self._uri or _FOLDER.resolve().as_uri())
        self._experiment = self._experiment_of(self._settings.get("experiment_name") or facts.job)
        where = f"file://{socket.gethostname()}{facts.workspace.resolve().as_uri().removeprefix('file://')}"
        if not self._uri or facts.is_resumed:
            self._continue(where)
        if SERVER not in self._runs:
            name = self._settings.get("run_name") or facts.job
            self._runs[SERVER] = self._new_run(name, {_WORKSPACE: where})
        self._log_params(facts)

    def write(self, values: Sequence[ValuesLogged]) -> None:
        self._write(values, self._run_of(values[0].site))

    def finish(self, end: RunEnd) -> None:
        run = self._runs.pop(SERVER)
        if end.digest:
            self._client.log_param(run, "digest", end.digest)
        if end.cause:
            self._client.set_tag(run, _CAUSE, end.cause[:_LONGEST_TAG])
        self._client.set_terminated(run, end.status.value)
        for site, each in self._runs.items():
            self._client.set_terminated(each, end.of(site).value)

    def _write(self, values: Sequence[ValuesLogged], run: str) -> None:
        """MLflow checks the whole batch before it writes. Writing a text again replaces its file."""
        from mlflow.entities import Metric, Param, RunTag

        of_kind: dict[str, list[Any]] = {"metric": [], "param": [], "tag": [], "text": []}
        for each in values:
            for name, value in each.values.items():
                if each.kind == "metric":
                    number = float("nan") if value is None else float(value)
                    of_kind["metric"].append(Metric(name, number, int(each.at * 1000), each.step or 0))
                elif each.kind == "param":
                    of_kind["param"].append(Param(name, str(value)))
                elif each.kind == "tag":
                    of_kind["tag"].append(RunTag(name, str(value)))
                else:
                    of_kind["text"].append((str(value), name if Path(name).suffix else f"{name}.txt"))
        for text, path in of_kind["text"]:
            self._client.log_text(run, text, path)
        self._client.log_batch(run, metrics=of_kind["metric"], params=of_kind["param"], tags=of_kind["tag"])

    def _experiment_of(self, name: str) -> str:
        if known := self._client.get_experiment_by_name(name):
            return str(known.experiment_id)
        where = self._artifacts
        if where and not self._uri and "://" not in where:
            where = (_FOLDER / where).resolve().as_uri()
        return str(self._client.create_experiment(name, artifact_location=where, tags=self._tags("experiment_tags")))

    def _continue(self, where: str) -> None:
        """Find the runs of this workspace that were begun before fedsag's run was resumed."""
        newest = self._client.search_runs([self._experiment], f"tags.`{_WORKSPACE}` = '{where}'", max_results=1)
        if not newest:
            return
        run = self._runs[SERVER] = newest[0].info.run_id
        within = self._client.search_runs([self._experiment], f"tags.`{_PARENT}` = '{run}'")
        self._runs |= {each.data.tags.get("site", ""): each.info.run_id for each in within}
        for each in self._runs.values():
            self._client.update_run(each, status="RUNNING")
        if _CAUSE in newest[0].data.tags:
            self._client.delete_tag(run, _CAUSE)

    def _log_params(self, facts: RunFacts) -> None:
        """Those that the run does not have yet: MLflow changes none."""
        from mlflow.entities import Param

        known = self._client.get_run(self._runs[SERVER]).data.params
        given = {_param_name(key): value for key, value in facts.settings.items()}
        given |= {"seed": facts.seed, "clients": len(facts.sites)}
        given |= {f"versions.{name}": version for name, version in facts.versions.items()}
        params = [Param(name, str(value)) for name, value in given.items() if name not in known]
        for first in range(0, len(params), _MOST_PARAMS):
            self._client.log_batch(self._runs[SERVER], params=params[first : first + _MOST_PARAMS])

    def _run_of(self, site: str) -> str:
        if site not in self._runs:
            name = "-".join(filter(None, [site, self._settings.get("run_name")]))
            self._runs[site] = self._new_run(name, {"site": site, _PARENT: self._runs[SERVER]})
        return self._runs[site]

    def _new_run(self, name: str, tags: Mapping[str, str]) -> str:
        tags = {**self._tags("run_tags"), **tags}
        return str(self._client.create_run(self._experiment, run_name=name, tags=tags).info.run_id)

    def _tags(self, key: str) -> dict[str, str]:
        tags = self._settings.get(key)
        return {str(name): str(value) for name, value in tags.items()} if isinstance(tags, Mapping) else {}


def _is_folder(uri: str) -> bool:
    return uri.startswith("file:") or "://" not in uri


def _param_name(key: str) -> str:
    """The key of a setting as MLflow takes it: `workflows[0].args` becomes `workflows.0.args`."""
    return re.sub(r"[^\w.\-/: ]", "_", re.sub(r"\[(\d+)\]", r".\1", key))[:_LONGEST_NAME]
