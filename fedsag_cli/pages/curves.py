"""The curves of a page: metrics by round and site, and what scripts logged."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from fedsag_cli.events import Metrics
from fedsag_cli.pages import chosen
from fedsag_cli.pages.activity import Activity, Curve
from fedsag_cli.pages.numbers import packed, some
from fedsag_cli.report import Report, RoundReport

MOST_METRICS = 24  # of one workflow
MOST_ROUNDS = 2000  # of a mean
_MOST_VALUES = 130_000  # of all sites, metrics and rounds
_FEW_SITES = 8  # each may have a curve of its own; of more, a band shows how they differ
_MOST_NAMES = 40  # logged
_MOST_OF_A_NAME = 200  # sites that logged it
_MOST_LOGGED = 40_000  # points

Page = dict[str, Any]


def by_workflow(report: Report, named: Sequence[str]) -> list[Page]:
    """For each workflow its metrics: the means of all rounds (or some), and some values of each site in `named`."""
    measured: dict[str, list[RoundReport]] = {}
    for each in report.rounds:
        measured.setdefault(each.workflow, []).append(each)
    finals = {last.workflow: last for last in report.validations}
    room = _MOST_VALUES // max(1, len(measured))
    pages = []
    for workflow, rounds in measured.items():
        final = finals.get(workflow)
        last = (final.metrics, final.metrics_by_site) if final else ({}, {})
        pages.append(_workflow(workflow, rounds, report, named, last, room))
    return [page for page in pages if page["metrics"]]


def best_first(names: Iterable[str], report: Report) -> list[str]:
    """The names of metrics; first that by which the best model is chosen: of many metrics, a page shows the first."""
    chosen = report.best.metric if report.best else ""
    return sorted(names, key=lambda name: name != chosen)


def _workflow(
    name: str,
    rounds: Sequence[RoundReport],
    report: Report,
    named: Sequence[str],
    final: tuple[Metrics, dict[str, Metrics]],
    room: int,
) -> Page:
    some_rounds = [rounds[at] for at in some(len(rounds), MOST_ROUNDS)]
    told = [*((each.metrics, each.metrics_by_site) for each in some_rounds), *([final] if final[0] else [])]
    metrics: dict[str, None] = {}
    present: set[str] = set()
    for means, by_site in told:
        metrics.update(dict.fromkeys(means))
        present.update(by_site)
        for own in by_site.values():
            metrics.update(dict.fromkeys(own))
    names = best_first(metrics, report)[:MOST_METRICS]
    known = [site for site in named if site in present]
    room //= max(1, len(names) * len(known))
    places = [*some(len(some_rounds), room), *([len(some_rounds)] if final[0] else [])]
    ends = _Ends(told) if len(present) > _FEW_SITES else None
    return {
        "name": name,
        "rounds": [each.round_num for each in some_rounds],
        "has_final": bool(final[0]),
        "every": len(rounds) / max(1, len(some_rounds)),
        "sites": known,
        "measured": len(present),
        "places": places,
        "metrics": [
            {
                "name": metric,
                "mean": packed([means.get(metric) for means, _ in told]),
                "by_site": [_of_site(site, metric, told, places, room) for site in known],
            }
            | ({} if ends is None else ends.of(metric))
            for metric in names
        ],
        "ends": [] if ends is None else list(ends.names),
        "left_out": len(metrics) - len(names),
    }


def _of_site(
    site: str, metric: str, told: Sequence[tuple[Metrics, dict[str, Metrics]]], places: Sequence[int], room: int
) -> str | list[str]:
    """The values at the places; or of a site that took part in few rounds, the places and values of its own."""
    nothing: Metrics = {}
    own = [
        (at, value) for at, (_, each) in enumerate(told) if (value := each.get(site, nothing).get(metric)) is not None
    ]
    if 2 * len(own) >= len(told):
        return packed([told[at][1].get(site, nothing).get(metric) for at in places])
    kept = [own[at] for at in some(len(own), room)]
    return [packed([at for at, _ in kept], "i"), packed([value for _, value in kept])]


class _Ends:
    """For each round, how a metric differs over all sites. `names`: of the sites that have the lowest or highest."""

    def __init__(self, told: Sequence[tuple[Metrics, dict[str, Metrics]]]) -> None:
        self._told = told
        self.names: dict[str, int] = {}

    def of(self, metric: str) -> Page:
        found = [chosen.ends_of(by_site, metric) for _, by_site in self._told]
        numbers = [None if each is None else each.quantiles for each in found]
        return {
            "quantiles": [packed([None if each is None else each[at] for each in numbers]) for at in range(5)],
            "lowest": packed([-1 if each is None else self._number(each.lowest) for each in found], "i"),
            "highest": packed([-1 if each is None else self._number(each.highest) for each in found], "i"),
        }

    def _number(self, name: str) -> int:
        return self.names.setdefault(name, len(self.names))


def logged(activity: Activity, sites: Sequence[str]) -> Page:
    """What scripts logged: a chart for each name with a curve for each site; parameters, tags and texts."""
    names = list(activity.curves)[:_MOST_NAMES]
    order = {site: number for number, site in enumerate(sites)}
    count = sum(min(_MOST_OF_A_NAME, len(activity.curves[name])) for name in names)
    most = max(2, _MOST_LOGGED // max(1, count))
    return {
        "curves": [
            {
                "name": name,
                "sites": [
                    _curve(site, curve, most)
                    for site, curve in sorted(activity.curves[name].items(), key=lambda found: order.get(found[0], -1))[
                        :_MOST_OF_A_NAME
                    ]
                ],
            }
            for name in names
        ],
        "left_out": len(activity.curves) - len(names) + (1 if activity.curves_left_out else 0),
        "texts": [[site, name, text] for (site, name), text in activity.texts.items()],
    }


def _curve(site: str, curve: Curve, most: int) -> Page:
    steps, values = curve.steps, curve.values
    if curve.last is not None and steps[-1] != curve.last[0]:
        steps, values = steps + type(steps)("d", [curve.last[0]]), values + type(values)("d", [curve.last[1]])
    chosen = some(len(steps), most)
    return {
        "site": site,
        "steps": packed([steps[at] for at in chosen]),
        "values": packed([values[at] for at in chosen]),
    }


def json_text(value: Any) -> str:
    """A value of JSON as a text."""
    return msgspec.json.encode(value).decode()
