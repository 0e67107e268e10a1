"""What a run's rounds say of one metric: its values, the best of them, and the last."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

from fedsag_cli.params.metrics import looks_lower_is_better
from fedsag_cli.report import Report

Curve: TypeAlias = "list[float | None]"
"""A value for each round, in their order; None where it was not measured, or is not finite."""


class Best(NamedTuple):
    """`round_num`: the round whose *sent* model has the value; None for the final model."""

    value: float
    round_num: int | None


def metrics_of(report: Report) -> list[str]:
    """The names of the metrics by which the model was measured; the one that selects the best model is the first."""
    names = dict.fromkeys(name for each in report.rounds for name in each.metrics) | dict.fromkeys(report.final_metrics)
    first = report.best.metric if report.best else ""
    return [first, *(name for name in names if name != first)] if first in names else list(names)


def curve(report: Report, metric: str) -> Curve:
    return [each.metrics.get(metric) for each in report.rounds]


def to_the_end(report: Report, metric: str) -> Curve:
    """The curve, and after it the value of the final model, if that was measured."""
    last = [report.final_metrics[metric]] if metric in report.final_metrics else []
    return [*curve(report, metric), *last]


def final(report: Report, metric: str) -> float | None:
    """The value of the last model that was measured."""
    if metric in report.final_metrics:
        return report.final_metrics[metric]
    return next((each.metrics[metric] for each in reversed(report.rounds) if metric in each.metrics), None)


def best(report: Report, metric: str, *, lowest: bool | None = None) -> Best | None:
    """`lowest`: whether the lowest value is the best; None: as the metric's name says."""
    lowest = looks_lower_is_better(metric) if lowest is None else lowest
    found = [Best(value, each.round_num) for each in report.rounds if (value := each.metrics.get(metric)) is not None]
    if (value := report.final_metrics.get(metric)) is not None:
        found.append(Best(value, None))
    if not found:
        return None
    return (min if lowest else max)(found, key=lambda each: each.value)
