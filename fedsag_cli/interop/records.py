"""The files in which tools made for NVFLARE look for what a run did: meta.json, log_fl.txt and metrics/."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import msgspec

from fedsag_cli import events, foreign
from fedsag_cli.errors import WorkspaceError
from fedsag_cli.events import Event, Metrics
from fedsag_cli.job import Job
from fedsag_cli.model import NUM_STEPS
from fedsag_cli.params.metrics import weighted_means
from fedsag_cli.plan import ComponentSpec
from fedsag_cli.workspace import SERVER, Workspace, write_whole

_LOG = "log_fl.txt"
_ROUNDS = "round_metrics.jsonl"
_SUMMARY = "metrics_summary.json"
_MOST_SITES = 100  # NVFLARE's simulator has no more; each file names all sites, so ten thousand would be gigabytes
_AGGREGATION = {
    "method": "weighted_average",
    "weight_key": NUM_STEPS,
    "weight_formula": NUM_STEPS,
    "metric_policy": "finite_numeric_metrics_only_per_key_denominator",
}
_SELECTOR = "IntimeModelSelector"


def meta_of(job: Job) -> dict[str, Any]:
    """The job's meta file with the keys that NVFLARE needs."""
    sites = {app: list(named) for app, named in job.meta.deploy_map.items()}
    defaults = {"resource_spec": {}, "min_clients": job.meta.min_clients, "mandatory_clients": []}
    return {**defaults, **job.meta_values, "name": job.meta.name, "deploy_map": sites}


class Records:
    """An observer that writes these files. A file that the user put in such a place stays as it is.

    Of more than a hundred sites, only the server has them.
    """

    def __init__(self, workspace: Workspace, meta: Mapping[str, Any], components: Sequence[ComponentSpec]) -> None:
        """`components`: those of the server."""
        self._workspace, self._meta = workspace, meta
        chosen = next((spec.args for spec in components if spec.path.rpartition(".")[2] == _SELECTOR), {})
        self._lower_is_better = bool(chosen.get("negate_key_metric"))
        self._metrics = workspace.job(SERVER) / "metrics"
        self._log: IO[bytes] | None = None
        self._mine: set[Path] = set()
        self._answers: list[events.ReplyAccepted] = []
        self._last: dict[str, Any] = {}  # the record of the last round with metrics
        self._best: events.BestModel | None = None

    def on(self, event: Event) -> None:
        """Raises OSError if a file cannot be written."""
        match event:
            case events.RunStarted():
                self._begin(event.sites, has_folders=not event.workers)
            case events.ServerReady():
                self._resume(event)
            case events.RoundStarted():
                self._answers = []
                self._say(event, f"Round {event.round_num} started.")
            case events.ReplyAccepted():
                self._answers.append(event)
                self._say(event, f"Contribution from {event.site} ACCEPTED at round {event.round_num}.")
            case events.ReplyFailed():
                self._say(event, f"{event.site} failed in {event.task}: {event.failure.cause}", "WARNING")
            case events.BestModel():
                self._best = event
                self._say(event, f"new best validation metric at round {event.round_num}: {event.score}")
            case events.RoundFinished():
                self._add(event)
                self._say(event, f"Round {event.round_num} finished.")
            case events.Notice():
                self._say(event, event.text)
            case events.WorkflowFinished() | events.RunFailed():
                self._summarize()
            case events.RunFinished() if self._log:
                self._log.close()
                self._log = None

    def _begin(self, sites: Sequence[str], *, has_folders: bool) -> None:
        """`has_folders`: whether each site has a folder of its own."""
        text = _json({**self._meta, "job_clients": [{"name": site} for site in sites]}, indent=4)
        for name in (SERVER, *(sites if has_folders and len(sites) <= _MOST_SITES else ())):
            file, link = self._workspace.job(name) / "meta.json", self._workspace.root / name / _LOG
            if self._is_mine(file):
                write_whole(file, lambda out: out.write(text))
            if name != SERVER and self._is_mine(link) and not link.is_symlink():
                link.symlink_to("log.txt")  # a client's log has nothing but what NVFLARE keeps here
        for path in (self._metrics / _ROUNDS, self._metrics / _SUMMARY):
            self._is_mine(path)
        if self._is_mine(self._workspace.root / SERVER / _LOG):
            self._log = (self._workspace.root / SERVER / _LOG).open("ab", buffering=0)

    def _is_mine(self, path: Path) -> bool:
        try:
            self._workspace.claim(path)
        except WorkspaceError:
            return False
        self._mine.add(path)
        return True

    def _resume(self, ready: events.ServerReady) -> None:
        """Keep the records of the rounds that were complete when the earlier run ended: the others are run again."""
        path = self._metrics / _ROUNDS
        if not ready.whole_rounds or not path.exists() or path not in self._mine:
            return
        self._best = ready.best
        whole = []
        for line in path.read_bytes().splitlines(keepends=True)[: ready.whole_rounds]:
            try:
                record = json.loads(line.decode())
                self._last = record if record["aggregated_metrics"] else self._last
            except (ValueError, TypeError, KeyError):  # a power cut leaves zeros, or half a line
                break
            whole.append(line)
        write_whole(path, lambda out: out.writelines(whole))
        if ready.last and len(whole) < ready.whole_rounds:
            self._add(ready.last)

    def _add(self, finished: events.RoundFinished) -> None:
        """One line for each round, with or without metrics, so that `_resume` can count them."""
        answers = [each for each in self._answers if each.round_num == finished.round_num]
        means = finished.metrics | _finite_means(
            answers, {name for name, mean in finished.metrics.items() if mean is None}
        )
        known = [(None, means), *((each.site, each.metrics) for each in answers)]
        record = {
            "round": finished.round_num,
            "aggregated_metrics": _named(means),
            "sites": [
                {
                    "name": each.site,
                    "metrics": _named(each.metrics),
                    **({"weight": each.num_steps, "weight_key": NUM_STEPS} if each.num_steps > 0 else {}),
                }
                for each in answers
                if each.metrics
            ],
            "skipped_metrics": [
                {"name": name, "reason": "non_finite_number", **({"site": site} if site else {})}
                for site, metrics in known
                for name, value in metrics.items()
                if value is None
            ],
            "aggregation": _AGGREGATION,
        }
        self._last = record if finished.metrics else self._last
        path = self._metrics / _ROUNDS
        if path in self._mine:
            path.parent.mkdir(exist_ok=True)
            with path.open("ab") as file:
                file.write(_json(record) + b"\n")

    def _summarize(self) -> None:
        path = self._metrics / _SUMMARY
        if not self._last or path not in self._mine:
            return
        summary = {
            "schema_version": "1",
            "status": "metrics_reported",
            "final_round": self._last["round"],
            "final_aggregated_metrics": self._last["aggregated_metrics"],
            "round_metrics_file": _ROUNDS,
            "notes": ["The metrics of a round belong to the model sent in it; means are weighted by steps."],
            "job_name": self._meta["name"],
            "metric_source": "client_reported_flmodel_metrics",
            "aggregation": _AGGREGATION,
        }
        if best := self._best:
            mode = "min" if self._lower_is_better else "max"
            summary |= {
                "key_metric": {
                    "name": best.metric,
                    "mode": mode,
                    "mode_source": f"{_SELECTOR}.negate_key_metric",
                },
                "best_round": best.round_num,
                "best_metrics": [{"name": best.metric, "value": best.score}],
                "best_metric_source": _SELECTOR,
                "best_metric_detail_source": "initial_metrics",
            }
        self._metrics.mkdir(exist_ok=True)
        write_whole(path, lambda out: out.write(_json(summary, indent=2)))

    def _say(self, event: Event, text: str, level: str = "INFO") -> None:
        if self._log:
            at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event.at))
            line = f"{at},{int(event.at * 1000) % 1000:03d} - fedsag - {level} - {foreign.one_line(text)}\n"
            self._log.write(line.encode(errors="replace"))


def _finite_means(answers: Sequence[events.ReplyAccepted], names: Collection[str]) -> dict[str, float]:
    """The means of these metrics over the sites whose value is finite, as NVFLARE has them."""
    measured = {
        each.site: {name: value for name, value in each.metrics.items() if name in names and value is not None}
        for each in answers
    }
    return weighted_means(measured, {each.site: each.num_steps for each in answers})


def _named(metrics: Metrics) -> list[dict[str, Any]]:
    """Metrics as NVFLARE writes them: a name is a value, because a client chooses it. Without NaN and infinity."""
    return [{"name": name, "value": value} for name, value in metrics.items() if value is not None]


def _json(value: Any, *, indent: int = 0) -> bytes:
    data = msgspec.json.encode(value)
    return msgspec.json.format(data, indent=indent) if indent else data
