"""The curve of a metric over the rounds of a run, as SVG: its text has the colour of the page it is on."""

from __future__ import annotations

import html
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from fedsag_cli.errors import counted
from fedsag_cli.events import Metrics
from fedsag_cli.report import Report, over_sites

_WIDTH, _HEIGHT = 640, 280
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 620, 40, 240  # of the plane within
_MEAN = "#2f80d0"  # stands out on white and on black
_MOST_LINES = 10  # sites with a line of their own; of more, the range is shown
_MOST_LABELS, _LABEL = 12, 36  # below the plane: how many, and the room for one
_MOST_DOTS = 40
_FINAL = "final"
_STYLE = "font-family:system-ui,sans-serif;font-size:12px;max-width:100%;height:auto"


@dataclass(frozen=True, slots=True, repr=False)
class Chart:
    """A picture that a notebook shows. `str()` of it is SVG, for a file."""

    title: str
    svg: str

    def __str__(self) -> str:
        return self.svg

    def __repr__(self) -> str:
        return f"<Chart {self.title}: str() of it is SVG>"

    def _repr_html_(self) -> str:
        return self.svg


def chart_of(report: Report, metric: str) -> Chart:
    """The mean of a metric, and what each site measured; the model after the last round too, if it was measured."""
    steps = [(str(each.round_num), each.metrics, each.metrics_by_site) for each in report.rounds]
    if metric in report.final_metrics:
        steps.append((_FINAL, report.final_metrics, report.final_metrics_by_site))
    mean = [metrics.get(metric) for _, metrics, _ in steps]
    measured = {site for _, _, by_site in steps for site, each in by_site.items() if each.get(metric) is not None}
    own: dict[str, list[float | None]] = {}
    ends: list[tuple[float, float] | None] = []
    key = "mean"
    if len(measured) > _MOST_LINES:
        ends = [_ends(by_site, metric) for _, _, by_site in steps]
        key = f"mean, and {'10 % to 90 %' if len(measured) > over_sites.MANY else 'the range'} of the sites"
    elif measured:
        named = [site for site in report.sites if site in measured]
        own = {site: [by_site.get(site, {}).get(metric) for _, _, by_site in steps] for site in named}
        key = "mean, and each site"
    plane = _Plane([mean, *own.values(), [end for each in ends for end in each or ()]])
    labels = [label for label, _, _ in steps]
    parts = [*_axes(plane, labels), *_range(plane, ends), *_sites(plane, own), *_curve(plane, mean, labels, metric)]
    heading = f'<text x="{_LEFT}" y="20" font-weight="600">{html.escape(metric)}</text>'
    side = f'<text x="{_RIGHT}" y="20" text-anchor="end" opacity=".65">{key}</text>'
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" role="img" '
        f'aria-label="{html.escape(metric)} by round" fill="currentColor" style="{_STYLE}">'
        f"{heading}{side}{''.join(parts)}</svg>"
    )
    return Chart(f"{metric} over {counted(len(report.rounds), 'round')}", svg)


class _Plane:
    """From the number of a round and a value to a place in the picture."""

    def __init__(self, series: Sequence[Sequence[float | None]]) -> None:
        values = [value for each in series for value in each if value is not None] or [0.0]
        self.num_steps = len(series[0])
        self.ticks = _ticks(min(values), max(values), 5)
        self._low, self._high = self.ticks[0], self.ticks[-1]

    def x(self, step: int) -> float:
        inner = _RIGHT - _LEFT - 24  # the first and the last point stand off the sides
        return round(_LEFT + 12 + inner * (step / (self.num_steps - 1) if self.num_steps > 1 else 0.5), 1)

    def y(self, value: float) -> float:
        return round(_BOTTOM - (_BOTTOM - _TOP) * (value - self._low) / (self._high - self._low), 1)

    def path(self, values: Sequence[float | None]) -> str:
        """A line through the values; it is broken where one is missing."""
        words, pen = [], "M"
        for step, value in enumerate(values):
            if value is None:
                pen = "M"
                continue
            words.append(f"{pen}{self.x(step)} {self.y(value)}")
            pen = "L"
        return "".join(words)


def _axes(plane: _Plane, labels: Sequence[str]) -> Iterator[str]:
    for value in plane.ticks:
        y = plane.y(value)
        yield f'<path d="M{_LEFT} {y}H{_RIGHT}" stroke="currentColor" opacity=".15"/>'
        yield f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end" opacity=".65">{value:.6g}</text>'
    every = next(size for size in _sizes() if size * _MOST_LABELS >= len(labels))
    for step, label in enumerate(labels):
        is_covered = labels[-1] == _FINAL != label and plane.x(len(labels) - 1) - plane.x(step) < _LABEL
        if label == _FINAL or (int(label) % every == 0 and not is_covered):
            yield f'<text x="{plane.x(step)}" y="{_BOTTOM + 18}" text-anchor="middle" opacity=".65">{label}</text>'
    yield f'<text x="{(_LEFT + _RIGHT) / 2}" y="{_HEIGHT - 6}" text-anchor="middle" opacity=".65">round</text>'


def _ends(by_site: Mapping[str, Metrics], metric: str) -> tuple[float, float] | None:
    """The lowest and the highest value; of many sites without a tenth at each end."""
    values = [value for _, value in over_sites.of_metric(by_site, metric)]
    found = over_sites.quantiles(values)
    if found is None:
        return None
    return (found.tenth, found.ninetieth) if len(values) > over_sites.MANY else (found.lowest, found.highest)


def _range(plane: _Plane, ends: Sequence[tuple[float, float] | None]) -> Iterator[str]:
    """A band from the lower to the upper ends."""
    known = [(step, *each) for step, each in enumerate(ends) if each is not None]
    if known:
        corners = [(step, low) for step, low, _ in known] + [(step, high) for step, _, high in reversed(known)]
        outline = " ".join(f"{plane.x(step)},{plane.y(value)}" for step, value in corners)
        yield f'<polygon points="{outline}" opacity=".15"/>'


def _sites(plane: _Plane, own: Mapping[str, Sequence[float | None]]) -> Iterator[str]:
    for site, values in own.items():
        name = html.escape(site)
        yield (
            f'<path d="{plane.path(values)}" fill="none" stroke="currentColor" stroke-width="1.5" opacity=".4">'
            f"<title>{name}</title></path>"
        )


def _curve(plane: _Plane, mean: Sequence[float | None], labels: Sequence[str], metric: str) -> Iterator[str]:
    yield f'<path d="{plane.path(mean)}" fill="none" stroke="{_MEAN}" stroke-width="2.5" stroke-linejoin="round"/>'
    radius = 4 if len(labels) <= _MOST_DOTS else 2
    for step, (value, label) in enumerate(zip(mean, labels, strict=True)):
        if value is None:
            continue
        said = html.escape(f"{'final model' if label == _FINAL else f'round {label}'}: {metric} {value:.4g}")
        place = f'cx="{plane.x(step)}" cy="{plane.y(value)}" r="{radius}"'
        yield f'<circle {place} fill="{_MEAN}"><title>{said}</title></circle>'


def _sizes() -> Iterator[int]:
    """1, 2, 5, 10, 20, 50, …"""
    for power in itertools.count():
        yield from (factor * 10**power for factor in (1, 2, 5))


def _ticks(low: float, high: float, wanted: int) -> list[float]:
    """Round numbers from below `low` to above `high`, about as many as wanted."""
    largest = max(abs(low), abs(high)) or 1.0
    span = high - low if high - low > 1e-6 * largest else largest  # values that differ in rounding alone
    size = 10.0 ** math.floor(math.log10(span / wanted))
    step = next(size * factor for factor in (1, 2, 2.5, 5, 10) if size * factor * wanted >= span)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [number * step for number in range(first, max(last, first + 1) + 1)]
