"""What metrics have to reach at the end of a run: `--fail-under` and `--fail-over`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fedsag_cli.cli import wording
from fedsag_cli.errors import RunError, UsageError, nearest
from fedsag_cli.events import Metrics
from fedsag_cli.report import Report

UNDER, OVER = "--fail-under", "--fail-over"


@dataclass(frozen=True, slots=True)
class Limit:
    """`flag`: UNDER or OVER, which say when a run fails."""

    flag: str
    metric: str
    value: float

    def __str__(self) -> str:
        return f"{self.flag} {self.metric}={self.value:g}"

    def is_kept_by(self, value: float | None) -> bool:
        """Whether a metric may have this value. None, which stands for NaN and infinity, keeps no limit."""
        if value is None:
            return False
        return value >= self.value if self.flag == UNDER else value <= self.value


def limits(flag: str, words: Iterable[str]) -> list[Limit]:
    """The limits NAME=VALUE. Raises UsageError."""
    return [_limit(flag, word) for word in words]


def _limit(flag: str, word: str) -> Limit:
    name, _, number = word.rpartition("=")  # a metric's name may hold one
    if not name.strip():
        raise UsageError(f"{flag} {word!r} is not NAME=VALUE", hint=f"example: {flag} accuracy=0.8")
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UsageError(f"{flag} {word!r}: {number!r} is not a number", hint=f"example: {flag} {name.strip()}=0.8")
    return Limit(flag, name.strip(), value)


def check(report: Report, limits: Sequence[Limit]) -> None:
    """Raises RunError with the `report` if a metric does not keep its limit, or was not measured."""
    broken, hint = [], ""
    for each in limits:
        where, measured = _last_that_has(each.metric, report)
        if each.metric not in measured:
            broken.append(f"the run has not measured {each.metric} ({each})")
            hint = hint or nearest(each.metric, _names(report))
        elif not each.is_kept_by(value := measured[each.metric]):
            broken.append(f"{each.metric} of {where} is {_compared(value, each)}")
    if broken:
        error = RunError("; ".join(broken), hint=hint)
        error.report = report
        raise error


def _last_that_has(metric: str, report: Report) -> tuple[str, Metrics]:
    """The final model, or else the last model that was sent, on which the metric was measured; and its metrics."""
    if metric not in report.final_metrics:
        for each in reversed(report.rounds):
            if metric in each.metrics:
                return f"the model sent in round {each.round_num}", each.metrics
    return "the final model", report.final_metrics


def _names(report: Report) -> set[str]:
    return {name for measured in (report.final_metrics, *(each.metrics for each in report.rounds)) for name in measured}


def _compared(value: float | None, limit: Limit) -> str:
    if value is None:
        return f"not finite ({limit})"
    side = limit.flag.removeprefix("--fail-")
    shown, bound = wording.number(value), wording.number(limit.value)
    if shown == bound:
        shown, bound = repr(value), repr(limit.value)
    return f"{shown}, {side} {bound} ({limit.flag})"
