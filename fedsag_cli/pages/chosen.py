"""Which sites a page names: all of a few; of many those that took part; of thousands the worst, slowest and failed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from fedsag_cli.events import Metrics
from fedsag_cli.params.metrics import looks_lower_is_better
from fedsag_cli.report import Report, curves, over_sites

_MOST_SITES = 1000
_MOST_OF_A_KIND = 80


class Chosen(NamedTuple):
    """`names`: in the order of the run's sites. `took_part`: how many sites had a task."""

    names: list[str]
    took_part: int


def sites_of(report: Report) -> Chosen:
    """The sites that a page names."""
    had_a_task = _with_a_task(report)
    if len(report.sites) <= over_sites.MANY:
        return Chosen(report.sites, len(had_a_task))
    named = [site for site in report.sites if site in had_a_task]
    if len(named) > _MOST_SITES:
        wanted = _notable(report)
        named = [site for site in named if site in wanted]
    return Chosen(named, len(had_a_task))


def last_metrics(report: Report) -> dict[str, Metrics]:
    """By site."""
    return {site: own for each in report.rounds for site, own in each.metrics_by_site.items()}


def _with_a_task(report: Report) -> set[str]:
    found: set[str] = set()
    for each in report.rounds:
        found.update(each.num_steps, each.metrics_by_site, each.failed, each.answered, each.not_waited_for)
    for last in report.validations:
        found.update(last.metrics_by_site, last.failed)
    return found


def _notable(report: Report) -> set[str]:
    found = set(list(report.failures)[:_MOST_OF_A_KIND])
    for name in curves.metrics_of(report)[:1]:
        last = over_sites.of_metric(last_metrics(report), name)
        found |= _names(over_sites.farthest(last, _MOST_OF_A_KIND, lowest=not looks_lower_is_better(name)))
    took = ((site, each.seconds) for site, each in over_sites.longest_tasks(report).items())
    return found | _names(over_sites.farthest(took, _MOST_OF_A_KIND, lowest=False))


def _names(found: Iterable[tuple[str, float]]) -> set[str]:
    return {site for site, _ in found}


class Ends(NamedTuple):
    """The quantiles of a metric over the sites, and the names of the sites at its two ends."""

    quantiles: over_sites.Quantiles
    lowest: str
    highest: str


def ends_of(by_site: Mapping[str, Metrics], name: str) -> Ends | None:
    """None if no site has a value."""
    values = list(over_sites.of_metric(by_site, name))
    found = over_sites.quantiles(value for _, value in values)
    if found is None:
        return None
    return Ends(found, *(_first(values, value) for value in (found.lowest, found.highest)))


def _first(values: Iterable[tuple[str, float]], wanted: float) -> str:
    names: Iterator[str] = (site for site, value in values if value == wanted)
    return next(names)
