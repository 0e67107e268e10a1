"""What came of a sweep: a result for each run, and the runs of one variation with several seeds together."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence

import msgspec

from fedsag_cli.history.reading import FINISHED
from fedsag_cli.params.metrics import looks_lower_is_better
from fedsag_cli.report import Report, curves

NOT_RUN = "not run"
"""The status of a run that has not begun."""


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """A metric of a run: the lowest and the highest value, and that of the last model that was measured.

    None: not finite.
    """

    lowest: float | None
    highest: float | None
    last: float | None

    def best(self, *, lowest: bool) -> float | None:
        return self.lowest if lowest else self.highest


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """One run of a sweep.

    `name`: of its folder. `chosen`: the values of the keys that vary. `run`: its number in the database, 0 if it has
    none. `workspace`: where it is; in report.json, the path begins at the folder of the sweep. `is_earlier`: it was
    there before this sweep, and was not run again.
    """

    name: str
    chosen: list[str]
    seed: int
    status: str = NOT_RUN
    exit_code: int | None = None
    cause: str = ""
    run: int = 0
    workspace: str = ""
    seconds: float | None = None
    digest: str = ""
    metrics: dict[str, Measured] = {}
    is_earlier: bool = False


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """The runs with the same values and different seeds. `best` and `last` are means over those that have the metric.

    `best_sd`, `last_sd`: the standard deviations, of two or more. `seconds`: their mean.
    """

    chosen: list[str]
    runs: list[int]
    names: list[str]
    statuses: list[str]
    best: float | None = None
    best_sd: float | None = None
    last: float | None = None
    last_sd: float | None = None
    seconds: float | None = None


class SweepReport(msgspec.Struct, frozen=True, kw_only=True):
    """`keys`: what varies. `rows`: the best one first, by `metric`. `results`: in the order of the product."""

    format: int = 1
    job: str
    keys: list[str]
    seeds: list[int]
    metric: str = ""
    lowest: bool = False
    rows: list[Row] = []
    results: list[Result] = []

    @property
    def failed(self) -> list[Result]:
        return [each for each in self.results if each.status not in (FINISHED, NOT_RUN)]


def result_of(result: Result, report: Report, status: str) -> Result:
    """The result with what the run's report tells."""
    metrics = {}
    for name in curves.metrics_of(report):
        ends = (curves.best(report, name, lowest=lowest) for lowest in (True, False))
        low, high = (end.value if end else None for end in ends)
        metrics[name] = Measured(lowest=low, highest=high, last=curves.final(report, name))
    return msgspec.structs.replace(
        result,
        status=status,
        exit_code=report.exit_code,
        cause="" if report.ok else report.cause,
        seconds=report.seconds,
        digest=report.digest,
        metrics=metrics,
    )


def summed_up(
    results: Sequence[Result], *, job: str, keys: Sequence[str], metric: str = "", lowest: bool | None = None
) -> SweepReport:
    """`metric`: by default the first of the first run that has one. `lowest`: None: as the metric's name says."""
    metric = metric or next((name for each in results for name in each.metrics), "")
    lowest = _is_lowest(metric, lowest)
    groups: dict[tuple[str, ...], list[Result]] = {}
    for each in results:
        groups.setdefault(tuple(each.chosen), []).append(each)
    rows = [_row(group, metric, lowest) for group in groups.values()]
    rows.sort(key=lambda row: _rank(row, lowest))
    return SweepReport(
        job=job,
        keys=list(keys),
        seeds=list(dict.fromkeys(each.seed for each in results)),
        metric=metric,
        lowest=lowest,
        rows=rows,
        results=list(results),
    )


def best_of(results: Sequence[Result], metric: str, *, lowest: bool | None = None) -> tuple[Result, float] | None:
    """The finished run with the best value, and the value; None if no run has one. `lowest`: as in `summed_up`."""
    down = _is_lowest(metric, lowest)
    done = [each for each in results if each.status == FINISHED and metric in each.metrics]
    known = [(each, top) for each in done if (top := each.metrics[metric].best(lowest=down)) is not None]
    return (min if down else max)(known, key=lambda pair: pair[1], default=None)


def without_metric(report: SweepReport) -> Iterator[str]:
    """What the user should know if no run has the metric by which all are compared."""
    known = {name: None for each in report.results for name in each.metrics}
    if known and report.metric not in known:
        yield f"no run has the metric {report.metric!r}, so they are in no order; there are: {', '.join(known)}"


def _is_lowest(metric: str, lowest: bool | None) -> bool:
    return looks_lower_is_better(metric) if lowest is None else lowest


def _row(group: Sequence[Result], metric: str, lowest: bool) -> Row:
    done = [each.metrics[metric] for each in group if each.status == FINISHED and metric in each.metrics]
    bests = [top for each in done if (top := each.best(lowest=lowest)) is not None]
    lasts = [each.last for each in done if each.last is not None]
    seconds = [each.seconds for each in group if each.seconds is not None]
    return Row(
        chosen=group[0].chosen,
        runs=[each.run for each in group if each.run],
        names=[each.name for each in group],
        statuses=[each.status for each in group],
        best=_mean(bests),
        best_sd=_deviation(bests),
        last=_mean(lasts),
        last_sd=_deviation(lasts),
        seconds=statistics.fmean(seconds) if seconds else None,
    )


def _rank(row: Row, lowest: bool) -> tuple[bool, float]:
    return (True, 0.0) if row.best is None else (False, row.best if lowest else -row.best)


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None


def _deviation(values: Sequence[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None
