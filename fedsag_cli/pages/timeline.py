"""The timeline of a page: each span of time. Of many, those of the last rounds, and for each moment the shares."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fedsag_cli.pages.activity import SAVED, SERVER, WAITED, Activity, Span
from fedsag_cli.pages.numbers import packed
from fedsag_cli.report import over_sites
from fedsag_cli.workspace import by_number

_MOST_SPANS = 8000
_CLOSE_SPANS = 1600
_MOST_CELLS = 160_000  # sites and moments
_MOST_ROWS = 2000
_MOST_MOMENTS = 1000
_FEW_ROUNDS = 60
_ROUNDS_A_MOMENT = 4  # with fewer, one sees how rounds and moments fall together, and not the run
_MOST_TASKS = 500


def of(sites: Sequence[str], activity: Activity) -> dict[str, Any]:
    """Empty if no site had a task."""
    if not activity.names or activity.total <= 0:
        return {}
    known = sorted(activity.names, key=by_number) if activity.are_workers else sites
    if len(known) > over_sites.MANY:
        known = [name for name in known if name in activity.names]
    order = {name: at for at, name in enumerate(dict.fromkeys([*known, *activity.names]))}
    names = list(order)[:_MOST_ROWS]
    place = [order[site] for site in activity.names]  # a span has the number of a site as the events named it
    page = {
        "sites": names,
        "whose": "worker" if activity.are_workers else "site",
        "total": activity.total,
        "resumed": activity.resumed,
        "skipped": activity.skipped,
    }
    if len(activity.spans) <= _MOST_SPANS:
        return page | {"spans": _spans(activity.spans, place, len(names))}
    last, is_part = _of_last_rounds(activity.spans, max(_CLOSE_SPANS, 4 * len(names)))
    spans = _spans(last, place, len(names))
    return page | {"spans": spans, "is_part": is_part, "shares": _shares(activity, place, len(names))}


def _of_last_rounds(spans: Sequence[Span], most: int) -> tuple[list[Span], bool]:
    """The spans since the end of a round: as many rounds as have few enough; of a longer round, its end, and True."""
    some = spans[-most:]
    since = next((each.end for each in some if each.kind == SAVED), some[0].start)
    if whole := [each for each in some if each.start >= since]:
        return whole, False
    return list(some), True


def _spans(spans: Sequence[Span], place: Sequence[int], count: int) -> dict[str, Any]:
    placed = [(place[each.row] if each.row != SERVER else SERVER, each) for each in spans]
    shown = sorted(((row, each) for row, each in placed if row < count), key=lambda found: found[1].start)
    tasks = list(dict.fromkeys(each.task for _, each in shown))[:_MOST_TASKS]
    numbers = {task: number for number, task in enumerate(tasks)}
    sites = {site: number for number, site in enumerate(dict.fromkeys(each.site for _, each in shown))}
    return {
        "rows": packed([row for row, _ in shown], "h"),
        "kinds": packed([each.kind for _, each in shown], "b"),
        "starts": packed([each.start for _, each in shown]),
        "ends": packed([each.end for _, each in shown]),
        "rounds": packed([each.round_num for _, each in shown], "i"),
        "tasks": packed([numbers.get(each.task, -1) for _, each in shown], "h"),
        "names": tasks,
        "of": packed([sites[each.site] for _, each in shown], "i") if len(sites) > 1 else "",
        "sites": list(sites) if len(sites) > 1 else [],
    }


def _shares(activity: Activity, place: Sequence[int], count: int) -> dict[str, Any]:
    """For each site and moment 0 to 255: how much of it was worked, and waited. The server's row is the last."""
    rounds = sum(each.kind == SAVED for each in activity.spans)
    wanted = _MOST_MOMENTS if rounds <= _FEW_ROUNDS else rounds // _ROUNDS_A_MOMENT
    moments = max(20, min(_MOST_MOMENTS, wanted, _MOST_CELLS // (count + 1)))
    worked = [0.0] * ((count + 1) * moments)
    waited = worked.copy()
    scale = moments / activity.total
    for span in activity.spans:
        line = count if span.row == SERVER else place[span.row]
        if line >= count and span.row != SERVER:
            continue
        cells, base = waited if span.kind == WAITED else worked, line * moments
        since, until = span.start * scale, span.end * scale
        at, last = int(since), min(int(until), moments - 1)
        if at < last:
            cells[base + at] += at + 1 - since
            for between in range(base + at + 1, base + last):
                cells[between] += 1.0
            since = last
        cells[base + last] += until - since
    return {
        "moments": moments,
        "worked": packed([min(255, int(255.5 * share)) for share in worked], "B"),
        "waited": packed([min(255, int(255.5 * share)) for share in waited], "B"),
    }
