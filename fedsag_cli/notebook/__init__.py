"""Runs from Python: `simulate` runs a job as `fedsag simulator` does, and gives a `Run` with its numbers and its curve.

    import fedsag_cli

    run = fedsag_cli.simulate("jobs/first", clients=2, threads=2, seed=1)
    run.rounds
    run.plot()

It stands above the command line, because it shows what the command shows: only `cli/display.py` prints.
"""

from __future__ import annotations

import html
import importlib.util
import math
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from fedsag_cli.arguments import declared, problems
from fedsag_cli.cli import views, wording
from fedsag_cli.errors import FedsagError, Interrupted, UsageError, counted, nearest
from fedsag_cli.notebook.chart import Chart, chart_of
from fedsag_cli.report import BestReport, Report, RoundReport
from fedsag_cli.report.curves import metrics_of
from fedsag_cli.simulator import simulate as _simulate
from fedsag_cli.simulator.options import Options, count_or_all
from fedsag_cli.simulator.time_limit import time_limit

__all__ = ["Run", "simulate"]

_OURS = ("workflow", "round", "answered", "asked", "seconds")  # columns of `Run.rounds`


def simulate(
    job: str | Path = "current_job",
    *,
    clients: int | str | Sequence[str] | None = None,
    threads: int | None = None,
    workspace: str | Path | None = None,
    seed: int | None = None,
    gpu: str | None = None,
    torch_threads: int | None = None,
    launcher: str | None = None,
    engine: str = "local",
    address: str | None = None,
    values: Mapping[str, Any] | None = None,
    max_clients: int | None = None,
    max_time: str | None = None,
    resume: bool = False,
    at: int | str | None = None,
    keep_checkpoints: int | str | None = None,
    force: bool = False,
    strict: bool = False,
    quiet: bool = False,
) -> Run:
    """Run the job in the folder `job` on this machine, and wait for its end.

    The arguments are options of `fedsag simulator`, with the same defaults: `clients` is -n, or the names of -c,
    `threads` is -t, and `values` has what --set sets, by key. A line is printed for each step, unless `quiet`.

    Raises a FedsagError that says what is wrong and what to do: UsageError, WorkspaceError and JobError before anything
    starts, RunError if the run failed; its `report` says how far it came. Ctrl-C, or a notebook's "interrupt", ends the
    run with all its processes and raises KeyboardInterrupt. In a thread that is not the main one the run works too, but
    there no signal ends it.
    """
    for name, problem in problems(declared(simulate), locals()).items():
        raise UsageError(f"{name} {problem}")
    for name, place in {"job": job, "workspace": workspace}.items():
        if not isinstance(place, (str, Path)) and not (name == "workspace" and place is None):
            raise UsageError(f"{name} must be a text or a Path, not {place!r}")
    for name, value in {"job": job, "workspace": workspace, "clients": clients}.items():
        if value in ("", [], ()):  # to Path, it is the current folder; no names would mean the default
            raise UsageError(f"{name} is empty", hint="is a variable empty that it was made of?")
    options = Options(
        num_clients=clients if isinstance(clients, int) else None,
        clients=_names(clients),
        slots=threads,
        gpus=gpu,
        threads=torch_threads,
        launcher=launcher,
        engine=engine,
        address=address,
        seed=seed,
        sets=[f"{key}={_as_typed(value)}" for key, value in (values or {}).items()],
        max_clients=max_clients,
        max_time=time_limit(max_time),
        resume=resume,
        at=None if at is None else str(at),
        keep_checkpoints=count_or_all(None if keep_checkpoints is None else str(keep_checkpoints)),
        force=force,
        strict=strict,
    )
    try:
        folder = None if workspace is None else Path(workspace).expanduser()  # there is no shell to do it
        return Run(_simulate(Path(job).expanduser(), folder, options, [] if quiet else [views.PlainView()]))
    except Interrupted as stopped:
        if (number := stopped.exit_code - 128) != signal.SIGINT:
            signal.raise_signal(number)  # now that the run has ended, this process does what it was told to do
        raise KeyboardInterrupt(str(stopped)) from None
    except FedsagError as error:
        raise error.with_traceback(None) from None  # a notebook shows every frame: the message would be far from it


def _as_typed(value: Any) -> str:
    """The value as it is typed after KEY=."""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


@dataclass(frozen=True, slots=True, repr=False)
class Run:
    """A run that is done. `report` is what its report.json has."""

    report: Report

    @property
    def rounds(self) -> Any:
        """For each round its number, the mean of each metric, how many clients answered, and its seconds.

        A pandas DataFrame if pandas is installed, else a list of dicts. The metrics are those of the model *sent* in
        the round. There is a column `workflow` if the job has several, which count their own rounds.
        """
        rows = _rows(self.report.rounds)
        if importlib.util.find_spec("pandas") is None:
            return rows
        import pandas  # optional, and half a second

        return pandas.DataFrame(rows)

    @property
    def best(self) -> BestReport | None:
        """The best score and the round whose model has it, if the job selects a best model."""
        return self.report.best

    @property
    def digest(self) -> str:
        """The SHA-256 of the final model: the same seed gives the same one."""
        return self.report.digest

    @property
    def workspace(self) -> Path:
        """The folder with all files of the run."""
        return Path(self.report.workspace)

    def plot(self, metric: str | None = None) -> Chart:
        """The curve of a metric over the rounds, by default of the one that decides which model is the best.

        A notebook draws the chart; `str(chart)` is its SVG. Raises UsageError if the run has no such metric.
        """
        names = [name for name in metrics_of(self.report) if any(name in each.metrics for each in self.report.rounds)]
        if not names:
            raise UsageError("this run has no metrics", hint="let the script send metrics with its update")
        if metric is not None and metric not in names:
            raise UsageError(f"this run has no metric {metric!r}", hint=nearest(metric, names))
        return chart_of(self.report, metric or names[0])

    def __repr__(self) -> str:
        return f"<Run {self.report.job}: {self._facts()}>"

    def _repr_html_(self) -> str:
        told = {"workspace": self.report.workspace, "digest": self.digest}
        lines = [f"<b>{html.escape(self.report.job)}</b>: {html.escape(self._facts())}"]
        lines += [f"{name} <code>{html.escape(value)}</code>" for name, value in told.items() if value]
        drawn = str(self.plot()) if any(each.metrics for each in self.report.rounds) else ""
        return f"<div>{'<br>'.join(lines)}</div>{drawn}"

    def _facts(self) -> str:
        report, best = self.report, self.best
        facts = [counted(len(report.rounds), "round"), counted(len(report.sites), "client"), f"seed {report.seed}"]
        if best:
            which = "of the final model" if best.is_final else f"in round {best.round_num}"
            facts.append(f"best {best.metric} {wording.number(best.score)} {which}")
        if not (best and best.is_final):
            facts += [f"final {name} {wording.number(value)}" for name, value in list(report.final_metrics.items())[:1]]
        return ", ".join(facts)


def _names(clients: int | str | Sequence[str] | None) -> list[str]:
    if clients is None or isinstance(clients, int):
        return []
    return [str(name).strip() for name in (clients.split(",") if isinstance(clients, str) else clients)]


def _rows(rounds: Sequence[RoundReport]) -> list[dict[str, Any]]:
    has_several = len({each.workflow for each in rounds}) > 1
    return [
        {
            **({"workflow": each.workflow} if has_several else {}),
            "round": each.round_num,
            **{_column(name): math.nan if value is None else value for name, value in each.metrics.items()},
            "answered": len(each.answered),
            "asked": len(each.asked),
            "seconds": each.total_s,
        }
        for each in rounds
    ]


def _column(metric: str) -> str:
    return f"{metric} (metric)" if metric in _OURS else metric
