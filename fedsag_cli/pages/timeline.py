"""The timeline of a page: each span of time while they are few, else how much of each moment was worked and waited."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any

from fedsag_cli.pages.activity import AGGREGATED, FAILED, SAVED, WAITED, WORKED, Activity
from fedsag_cli.pages.numbers import packed

_MOST_SPANS = 12_000
_MOST_CELLS = 160_000  # sites and moments
_MOST_ROWS = 2000
_MOST_MOMENTS = 1200


def of(sites: Sequence[str], activity: Activity) -> dict[str, Any]:
    """Empty if no site had a task."""
    if not activity.names or activity.total <= 0:
        return {}
    order = {site: at for at, site in enumerate(dict.fromkeys([*sites, *activity.names]))}
    names = list(order)[:_MOST_ROWS]
    place = [order[site] for site in activity.names]  # a span has the number of a site as the events named it
    page = {
        "sites": names,
        "total": activity.total,
        "resumed": activity.resumed,
        "skipped": activity.skipped,
    }
    if len(activity.rows) <= _MOST_SPANS:
        return page | {"spans": _spans(activity, place, len(names))}
    return page | {"shares": _shares(activity, place, len(names))}


def _spans(activity: Activity, place: Sequence[int], count: int) -> dict[str, Any]:
    rows = [place[row] if row >= 0 else -1 for row in activity.rows]
    chosen = sorted((at for at, row in enumerate(rows) if row < count), key=lambda at: activity.starts[at])
    return {
        "rows": packed((rows[at] for at in chosen), "h"),
        "kinds": packed((activity.kinds[at] for at in chosen), "b"),
        "starts": packed(activity.starts[at] for at in chosen),
        "ends": packed(activity.ends[at] for at in chosen),
        "rounds": packed((activity.rounds[at] for at in chosen), "i"),
        "tasks": packed((min(activity.tasks_of[at], 32767) for at in chosen), "h"),
        "names": list(activity.tasks)[:1000],
    }


def _shares(activity: Activity, place: Sequence[int], count: int) -> dict[str, Any]:
    """For each site and moment 0 to 255: how much of it was worked, and waited. The server's row is the last."""
    moments = max(20, min(_MOST_MOMENTS, _MOST_CELLS // (count + 1)))
    worked = array("d", bytes(8 * (count + 1) * moments))
    waited = array("d", bytes(8 * (count + 1) * moments))
    scale = moments / activity.total
    of_kind = {WORKED: worked, FAILED: worked, WAITED: waited, AGGREGATED: worked, SAVED: worked}
    for row, kind, start, end in zip(activity.rows, activity.kinds, activity.starts, activity.ends, strict=True):
        line = place[row] if row >= 0 else count
        if row >= 0 and line >= count:
            continue
        cells, base = of_kind[kind], line * moments
        first, last = max(0.0, start) * scale, min(end * scale, float(moments))
        at = min(int(first), moments - 1)
        while at + 1 < last:
            cells[base + at] += at + 1 - max(first, at)
            at += 1
        cells[base + at] += max(0.0, last - max(first, at))
    return {
        "moments": moments,
        "worked": packed((min(255, round(255 * share)) for share in worked), "B"),
        "waited": packed((min(255, round(255 * share)) for share in waited), "B"),
    }
