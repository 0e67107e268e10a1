"""A federated run beside its baselines: what each measured in the end, and in how many steps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from fedsag_cli.errors import counted
from fedsag_cli.report import BaselineReport, Report, curves

FEDERATED = "federated"
_ALIKE = 0.05  # numbers of steps that differ by less are taken for the same


class Row(NamedTuple):
    """A run: `values` are those of the sites, `seconds` None if it has not ended. `cause`: why it failed."""

    kind: str
    value: float | None
    values: list[float]
    num_steps: float
    seconds: float | None
    run: int
    cause: str


def outcome(report: Report, kind: str, number: int = 0) -> BaselineReport:
    """What is kept of a run in the report of the run that it is compared with. `number`: the run's."""
    last = next((each for each in reversed(report.rounds) if each.metrics), None)
    is_final = bool(report.final_metrics)
    metrics, by_site = report.final_metrics, report.final_metrics_by_site
    if not is_final and last is not None:
        metrics, by_site = last.metrics, last.metrics_by_site
    return BaselineReport(
        kind=kind,
        run=number,
        workspace=report.workspace,
        ok=report.ok,
        cause="" if report.ok else report.cause,
        rounds=report.rounds_done,
        metrics=metrics,
        metrics_by_site=by_site,
        is_final=is_final,
        num_steps=sum(sum(each.num_steps.values()) for each in report.rounds),
        seconds=report.seconds,
        digest=report.digest,
    )


def metric_of(report: Report) -> str:
    """The metric by which the runs are compared: that which selects the best model; empty if nothing was measured."""
    return next(iter(curves.metrics_of(report)), "")


def rows(report: Report, number: int = 0) -> list[Row]:
    """The federated run, then each baseline; none if there are no baselines. `number`: the federated run's."""
    name = metric_of(report)
    compared = [outcome(report, FEDERATED, number), *report.baselines] if report.baselines else []
    return [_row(each, name) for each in compared]


def _row(each: BaselineReport, name: str) -> Row:
    values = [value for own in each.metrics_by_site.values() if (value := own.get(name)) is not None]
    return Row(each.kind, each.metrics.get(name), values, each.num_steps, each.seconds, each.run, each.cause)


def doubts(report: Report) -> Iterator[str]:
    """Why the comparison may be an unfair one."""
    federated = outcome(report, FEDERATED)
    if report.baselines and report.inherited_rounds:
        yield (
            f"{FEDERATED} is a fork, and has {counted(report.inherited_rounds, 'round')} of its parent; "
            "its baselines have the settings of the fork in all rounds"
        )
    for each in report.baselines:
        if not each.ok:
            continue
        if abs(each.num_steps - federated.num_steps) > _ALIKE * federated.num_steps:
            steps = counted(round(each.num_steps), "step")
            yield (
                f"{each.kind} trained {steps}, {FEDERATED} {federated.num_steps:,.0f}: "
                "the comparison is not one of equal training"
            )
        if each.is_final != federated.is_final:
            which = "the final model" if each.is_final else "the model sent in the last round"
            yield f"{each.kind} has the metrics of {which}, {FEDERATED} not"


def replaced(report: Report, new: BaselineReport) -> None:
    """Put a baseline into the report, in the place of an earlier one of its kind."""
    report.baselines = list(({each.kind: each for each in report.baselines} | {new.kind: new}).values())
