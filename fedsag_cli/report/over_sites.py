"""How sites differ, where they are many: quantiles instead of a value for each, and the farthest by name."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from fedsag_cli.report import Report

MANY = 30
"""Of more sites that took part, tables, lines and pages tell quantiles and the farthest sites."""


class Quantiles(NamedTuple):
    """Of some values: the lowest, the one above a tenth of them, that in the middle, that below a tenth, the highest.

    Each is one of the values.
    """

    lowest: float
    tenth: float
    median: float
    ninetieth: float
    highest: float


NAMES = ("min", "10 %", "median", "90 %", "max")
"""What a table calls them."""


def quantiles(values: Iterable[float | None]) -> Quantiles | None:
    """Those of the values that are there; None if none is."""
    known = sorted(value for value in values if value is not None)
    last = len(known) - 1
    return Quantiles(*(known[round(share * last)] for share in (0.0, 0.1, 0.5, 0.9, 1.0))) if known else None


def of_metric(by_site: Mapping[str, Mapping[str, float | None]], name: str) -> Iterator[tuple[str, float]]:
    """Each site that measured it, and the value."""
    for site, own in by_site.items():
        if (value := own.get(name)) is not None:
            yield site, value


def farthest(values: Iterable[tuple[str, float]], most: int, *, lowest: bool) -> list[tuple[str, float]]:
    """The sites with the lowest, or highest, values."""
    return (heapq.nsmallest if lowest else heapq.nlargest)(most, values, key=lambda each: each[1])


def are_many(report: Report) -> bool:
    """Whether so many sites took part, in one round or another, that quantiles are shown."""
    found: set[str] = set()
    for each in report.rounds:
        found.update(each.asked, each.metrics_by_site)
        if len(found) > MANY:
            return True
    return False


class Times(NamedTuple):
    """The longest task of a site: its seconds, and the round."""

    seconds: float
    workflow: str
    round_num: int


def longest_tasks(report: Report) -> dict[str, Times]:
    """By site."""
    found: dict[str, Times] = {}
    for each in report.rounds:
        for site, seconds in each.work_s.items():
            if site not in found or seconds > found[site].seconds:
                found[site] = Times(seconds, each.workflow, each.round_num)
    return found
