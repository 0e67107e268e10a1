"""Stores metrics, params, tags and texts in MLflow: an experiment for the job, a run for each site."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

from fedsag_cli.arguments import checked
from fedsag_cli.events import ValuesLogged
from fedsag_cli.facts import Facts, Nvflare

_FOLDER = Path("..", "mlruns")
_UNFINISHED = "RUNNING"


class MLflowReceiver:
    """Stores logged values in MLflow: an experiment for the job, a run for each site.

    To see them: `MLFLOW_ALLOW_FILE_STORE=true mlflow ui --backend-store-uri WS/server/simulate_job/mlruns`.
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
        self._job = ""
        self._new_client: Any = None
        self._client: Any = None
        self._experiment: str | None = None
        self._runs: dict[str, str] = {}

    @property
    def folders(self) -> Sequence[Path]:
        return () if self._uri else (_FOLDER,)

    @property
    def view(self) -> str:
        if self._uri.startswith("http"):
            return re.sub("//[^/]*@", "//", self._uri)  # the address may contain a password
        store = self._uri if ":" in self._uri else str(Path(self._uri or _FOLDER).resolve())
        command = f"MLFLOW_ALLOW_FILE_STORE=true mlflow ui --backend-store-uri {shlex.quote(store)}"
        return command if find_spec("flask") else f"pip install mlflow && {command}"  # mlflow-skinny has no pages

    def open(self, job: str) -> None:
        if not self._uri or self._uri.startswith("file:") or "://" not in self._uri:
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # MLflow stores files only with this variable
        os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")  # no warning about a missing git
        from mlflow.tracking import MlflowClient

        self._job, self._new_client = job, MlflowClient

    def write(self, values: Sequence[ValuesLogged]) -> None:
        if self._experiment is None:
            self._client = self._new_client(self._uri or _FOLDER.resolve().as_uri())
            self._experiment = self._experiment_of(self._settings.get("experiment_name") or self._job)
        self._write(values, self._run_of(values[0].site))

    def close(self) -> None:
        for run in self._runs.values():
            self._client.set_terminated(run)

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

    def _run_of(self, site: str) -> str:
        if site not in self._runs and not self._uri and (unfinished := self._unfinished_run(site)):
            self._runs[site] = unfinished  # from before fedsag's run was resumed
        if site not in self._runs:
            name = "-".join(filter(None, [site, self._settings.get("run_name")]))
            tags = self._tags("run_tags") | {"site": site}
            self._runs[site] = self._client.create_run(self._experiment, run_name=name, tags=tags).info.run_id
        return self._runs[site]

    def _unfinished_run(self, site: str) -> str | None:
        found = self._client.search_runs([self._experiment], f"tags.site = '{site}'")
        return next((run.info.run_id for run in found if run.info.status == _UNFINISHED), None)

    def _tags(self, key: str) -> dict[str, str]:
        tags = self._settings.get(key)
        return {str(name): str(value) for name, value in tags.items()} if isinstance(tags, Mapping) else {}
