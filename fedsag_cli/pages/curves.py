"""The curves of a page: metrics by round and site, and what scripts logged."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from fedsag_cli.events import Metrics
from fedsag_cli.pages.activity import Activity, Curve
from fedsag_cli.pages.numbers import packed, some
from fedsag_cli.report import Report, RoundReport

MOST_METRICS = 24  # of one workflow
MOST_ROUNDS = 2000  # of a mean
_MOST_VALUES = 130_000  # of all sites, metrics and rounds
_MOST_NAMES = 40  # logged
_MOST_LOGGED = 40_000  # points

Page = dict[str, Any]


def by_workflow(report: Report) -> list[Page]:
    """For each workflow its metrics: the means of all rounds (or some), and the values of each site in some."""
    measured: dict[str, list[RoundReport]] = {}
    for each in report.rounds:
        measured.setdefault(each.workflow, []).append(each)
    finals = {last.workflow: last for last in report.validations}
    room = _MOST_VALUES // max(1, len(measured))
    pages = []
    for workflow, rounds in measured.items():
        final = finals.get(workflow)
        last = (final.metrics, final.metrics_by_site) if final else ({}, {})
        pages.append(_workflow(workflow, rounds, report, last, room))
    return [page for page in pages if page["metrics"]]


def best_first(names: Iterable[str], report: Report) -> list[str]:
    """The names of metrics; first that by which the best model is chosen: of many metrics, a page shows the first."""
    chosen = report.best.metric if report.best else ""
    return sorted(names, key=lambda name: name != chosen)


def _workflow(
    name: str,
    rounds: Sequence[RoundReport],
    report: Report,
    final: tuple[Metrics, dict[str, Metrics]],
    room: int,
) -> Page:
    chosen = [rounds[at] for at in some(len(rounds), MOST_ROUNDS)]
    metrics: dict[str, None] = {}
    present: dict[str, None] = {}
    for each in chosen:
        metrics.update(dict.fromkeys(each.metrics))
        present.update(dict.fromkeys(each.metrics_by_site))
        for own in each.metrics_by_site.values():
            metrics.update(dict.fromkeys(own))
    metrics.update(dict.fromkeys(final[0]))
    names = best_first(metrics, report)[:MOST_METRICS]
    known = [site for site in report.sites if site in present or site in final[1]] if present or final[1] else []
    places = some(len(chosen), room // max(1, len(names) * len(known)))
    told = [*((each.metrics, each.metrics_by_site) for each in chosen), *([final] if final[0] else [])]
    own_places = [*places, *([len(chosen)] if final[0] else [])]
    nothing: Metrics = {}
    return {
        "name": name,
        "rounds": [each.round_num for each in chosen],
        "has_final": bool(final[0]),
        "every": len(rounds) / max(1, len(chosen)),
        "sites": known,
        "places": own_places,
        "metrics": [
            {
                "name": metric,
                "mean": packed([means.get(metric) for means, _ in told]),
                "by_site": [
                    packed([told[at][1].get(site, nothing).get(metric) for at in own_places]) for site in known
                ],
            }
            for metric in names
        ],
        "left_out": len(metrics) - len(names),
    }


def logged(activity: Activity, sites: Sequence[str]) -> Page:
    """What scripts logged: a chart for each name with a curve for each site; parameters, tags and texts."""
    names = list(activity.curves)[:_MOST_NAMES]
    order = {site: number for number, site in enumerate(sites)}
    count = sum(len(activity.curves[name]) for name in names)
    most = max(2, _MOST_LOGGED // max(1, count))
    return {
        "curves": [
            {
                "name": name,
                "sites": [
                    _curve(site, curve, most)
                    for site, curve in sorted(activity.curves[name].items(), key=lambda found: order.get(found[0], -1))
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
