"""How numbers, their course, times, metrics and lists of names are written on a line."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import islice

from fedsag_cli.events import Metrics
from fedsag_cli.report.over_sites import MANY, quantiles

_MOST_METRICS = 6  # in one line
_MOST_NAMES = 4  # of sites, or rounds, in one line
MOST = "10–90 %"
"""What the spread of many values is called."""
_BARS = "▁▂▃▄▅▆▇█"


def number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4g}"


def cell(value: str | float | None) -> str:
    """The value in a table, in which an empty cell says that there is none."""
    return value if isinstance(value, str) else "" if value is None else number(value)


def spread(values: Collection[float | None]) -> str:
    """The lowest and the highest of several values, of many without a tenth at each end; empty if they look alike."""
    known = [value for value in values if value is not None]
    found = quantiles(known)
    if found is None:
        return ""
    low, high = (found.tenth, found.ninetieth) if len(known) > MANY else (found.lowest, found.highest)
    if number(low) == number(high):
        return ""
    return f"{number(low)}–{number(high)}" if low >= 0 else f"{number(low)} to {number(high)}"


def metrics(measured: Metrics, most: int = _MOST_METRICS, by_site: Mapping[str, Metrics] | None = None) -> str:
    """The first `most` metrics; with `by_site`, the spread of each over the sites."""
    first = []
    for name, value in islice(measured.items(), most):
        range_ = spread(values := [each[name] for each in (by_site or {}).values() if name in each])
        which = f"{MOST}: " if len(values) > MANY else ""
        first.append(f"{name} {number(value)}{f' ({which}{range_})' if range_ else ''}")
    more = f" and {len(measured) - most:,} more" if len(measured) > most else ""
    return ", ".join(first) + more


def size(num_bytes: int) -> str:
    """Bytes in the largest unit of which there is at least one: 812 bytes, 1.5 kB, 2.0 GB."""
    if num_bytes < 1000:
        return f"{num_bytes} bytes"
    units = {unit: num_bytes / 1000**power for power, unit in enumerate(("kB", "MB", "GB", "TB"), 1)}
    return next((f"{value:.1f} {unit}" for unit, value in units.items() if value < 999.95), f"{units['TB']:.0f} TB")


def clock(seconds: float) -> str:
    """Minutes and seconds, with hours if there are any: 1:05, 2:00:00."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def duration(seconds: float) -> str:
    """A short time to a tenth of a second, a longer one to a second, a long one as a clock."""
    if seconds < 9.95:
        return f"{max(0.0, seconds):.1f} s"
    return f"{seconds:.0f} s" if seconds < 99.5 else clock(seconds)


def few(names: Sequence[str]) -> str:
    """The names, or the first and the last of many."""
    if len(names) <= _MOST_NAMES:
        return ", ".join(names)
    return f"{', '.join(names[: _MOST_NAMES - 1])}, … {names[-1]}"


def sparkline(values: Sequence[float | None], width: int, scale: Iterable[float | None] = ()) -> str:
    """The values as bars, at most `width` of them, each the mean of its neighbours. `scale`: further values."""
    shown = _means(values, width)
    known = [value for value in [*values, *scale] if value is not None]
    if not known:
        return ""
    low, high = min(known) / 2, max(known) / 2  # halves: the difference of two large numbers may be infinite
    span = high - low
    steps = len(_BARS) - 1
    return "".join(
        " " if value is None else _BARS[round((value / 2 - low) / span * steps) if span else steps // 2]
        for value in shown
    )


def _means(values: Sequence[float | None], width: int) -> list[float | None]:
    if len(values) <= width:
        return list(values)
    parts = [values[len(values) * at // width : len(values) * (at + 1) // width] for at in range(width)]
    known = [[value for value in part if value is not None] for part in parts]
    return [sum(part) / len(part) if part else None for part in known]
