"""How failures are told: those that are alike once, with their number, their sites and one log."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from fedsag_cli.cli import wording
from fedsag_cli.errors import counted
from fedsag_cli.events import Failure
from fedsag_cli.report import Report
from fedsag_cli.report.alike import Kind, kind_of
from fedsag_cli.workspace import by_number


def failures(report: Report, told: Collection[tuple[str, Kind]] = ()) -> list[str]:
    """For the failures that were not told: the sites, round, task, cause, the line in the job, the end of the log.

    `told`: those that were, by site and kind.
    """
    texts = []
    places = {where for _, (_, where) in told}
    for sites in by_kind(report):
        first = report.failures[sites[0]]
        if all((site, kind_of(site, report.failures[site].failure)) in told for site in sites):
            continue
        when = "" if first.round_num is None else f", round {first.round_num}"
        task = f", {first.task}" if first.task else ""
        if len(sites) > 1:
            texts.append(f"{_who(sites, report)}; the first to fail:")
        texts += first_there(f"{sites[0]}{when}{task}", first.failure, places)
    return texts


def first_there(head: str, failure: Failure, places: set[str]) -> list[str]:
    """A failure, whole if it is the first at its place in the job. `places`: those that were told, to which it adds."""
    if failure.where in places:
        return [f"{head}: {failure.cause}"]
    places |= {failure.where} - {""}
    return whole(head, failure)


def failed_sites(report: Report) -> list[str]:
    """One line for all sites that failed alike: the rounds, and the first cause."""
    several = len({each.workflow for each in report.rounds}) > 1
    failed = [
        (f"{each.workflow} round {each.round_num}" if several else f"round {each.round_num}", each.failed)
        for each in report.rounds
    ]
    failed += [("validation", each.failed) for each in report.validations] or [("validation", report.final_failed)]
    kinds = by_kind(report)
    kind_of_site = {site: number for number, sites in enumerate(kinds) for site in sites}
    labels: list[list[str]] = [[] for _ in kinds]
    for label, of_round in failed:
        for number in {kind_of_site[site] for site in of_round if site in kind_of_site}:
            labels[number].append(label)
    texts = []
    for sites, of_kind in zip(kinds, labels, strict=True):
        rounds = wording.few(of_kind).replace(", round ", ", ").replace("… round ", "… ")
        who = _who(sites, report) if len(sites) > 1 else f"failed: {sites[0]}"
        texts.append(f"{who}{f' in {rounds}' if rounds else ''}: {report.failures[sites[0]].failure.cause}")
    return texts


def whole(head: str, failure: Failure) -> list[str]:
    """A failure with its place and the end of its log."""
    texts = [f"{head}: {failure.cause}"]
    if failure.where:
        texts.append(f"    at {failure.where}")
    if failure.log_tail:
        texts.append(f"    the last lines of {failure.log}:")
        texts += [f"    | {text}" for text in failure.log_tail]
    elif failure.log:
        texts.append(f"    its log: {failure.log}")
    return texts


def alike(number: int, clients: int) -> str:
    return f"{number} of {counted(clients, 'client')} failed for the same reason"


def _who(sites: Sequence[str], report: Report) -> str:
    """How many failed alike, and their names, in the order of their numbers."""
    return f"{alike(len(sites), len(report.sites))}: {wording.few(sorted(sites, key=by_number))}"


def by_kind(report: Report) -> list[list[str]]:
    """The sites that failed, in order; those that failed alike together."""
    sites: dict[Kind, list[str]] = {}
    for site, first in report.failures.items():
        sites.setdefault(kind_of(site, first.failure), []).append(site)
    return list(sites.values())
