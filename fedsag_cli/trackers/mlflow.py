"""Keeps metrics, params, tags and texts in MLflow: an experiment for the job, a run for each site."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedsag_cli.events import ValuesLogged

_FOLDER = Path("..", "mlruns")
_MOST_METRICS = 1000  # that MLflow takes at once; of params and tags it takes 100


class MLflowReceiver:
    """`tracking_uri` names MLflow's store or server; without one it is files beside the server's app folder.

    `kw_args` may hold `experiment_name` (else the job's name), `run_name` (each site's goes before it),
    `experiment_tags` and `run_tags`. `artifact_location` is where an experiment that is new keeps its files.
    To look: `mlflow ui --backend-store-uri WS/server/simulate_job/mlruns`.
    """

    extra = "mlflow"

    def __init__(
        self,
        tracking_uri: str | None = None,
        kw_args: dict[str, Any] | None = None,
        artifact_location: str | None = None,
    ) -> None:
        self._uri = tracking_uri or ""
        self._words = kw_args or {}
        self._artifacts = artifact_location or None
        self._job = ""
        self._new_client: Any = None
        self._client: Any = None
        self._experiment: str | None = None
        self._runs: dict[str, str] = {}

    @property
    def folders(self) -> Sequence[Path]:
        return () if self._uri else (_FOLDER,)

    def open(self, job: str) -> None:
        if not self._uri:
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # MLflow keeps files when it is asked to only
        os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")  # no word about a missing git
        from mlflow.tracking import MlflowClient

        self._job, self._new_client = job, MlflowClient

    def write(self, values: Sequence[ValuesLogged]) -> None:
        if self._experiment is None:
            self._client = self._new_client(self._uri or _FOLDER.resolve().as_uri())
            self._experiment = self._experiment_of(self._words.get("experiment_name") or self._job)
        for site in dict.fromkeys(each.site for each in values):
            self._write([each for each in values if each.site == site], self._run_of(site))

    def close(self) -> None:
        for run in self._runs.values():
            self._client.set_terminated(run)

    def _write(self, values: Sequence[ValuesLogged], run: str) -> None:
        from mlflow.entities import Metric, Param, RunTag

        numbers = [
            Metric(name, float("nan") if value is None else float(value), int(each.at * 1000), each.step or 0)
            for each in values
            if each.kind == "metric"
            for name, value in each.values.items()
        ]
        for first in range(0, len(numbers), _MOST_METRICS):
            self._client.log_batch(run, metrics=numbers[first : first + _MOST_METRICS])
        for each in values:
            for name, text in each.values.items():
                if each.kind == "param":
                    self._client.log_batch(run, params=[Param(name, str(text))])
                elif each.kind == "tag":
                    self._client.log_batch(run, tags=[RunTag(name, str(text))])
                elif each.kind == "text":
                    self._client.log_text(run, str(text), name if Path(name).suffix else f"{name}.txt")

    def _experiment_of(self, name: str) -> str:
        if known := self._client.get_experiment_by_name(name):
            return str(known.experiment_id)
        where = self._artifacts
        if where and not self._uri and "://" not in where:
            where = (_FOLDER / where).resolve().as_uri()
        return str(self._client.create_experiment(name, artifact_location=where, tags=self._tags("experiment_tags")))

    def _run_of(self, site: str) -> str:
        if site not in self._runs:
            name = "-".join(filter(None, [site, self._words.get("run_name")]))
            tags = self._tags("run_tags") | {"site": site}
            self._runs[site] = self._client.create_run(self._experiment, run_name=name, tags=tags).info.run_id
        return self._runs[site]

    def _tags(self, key: str) -> dict[str, str]:
        tags = self._words.get(key)
        return {str(name): str(value) for name, value in tags.items()} if isinstance(tags, Mapping) else {}
