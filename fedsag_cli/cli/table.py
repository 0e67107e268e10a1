"""The table at the end of a run: a row for each round and for the trained model, as wide as the room is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from fedsag_cli import foreign
from fedsag_cli.cli import display, wording
from fedsag_cli.errors import counted
from fedsag_cli.events import Metrics
from fedsag_cli.report import Report, RoundReport, over_sites

_LONGEST_NAME = 24  # of a metric, in a heading
_SHORTEST_NAME = 8
_LONGEST_WORKFLOW = 16
_OURS = ("workflow", "round", "answered", "seconds")
_OF_ANSWERS = ("workflow", "round", "site", "answer", "seconds")


class Table(NamedTuple):
    """Rows as `display.table` takes them. `left_out` says what is not in it."""

    rows: Sequence[Mapping[str, str]]
    columns: Sequence[str]
    left_out: str = ""


def brief(report: Report, width: int) -> Table:
    """One column for each metric, the best model's first, with the range over the sites where they differ.

    Where the sites are many, the first metric has columns for its quantiles over them. The table is at most `width`
    columns wide: the ranges are left out first, then the last metrics, the quantiles, the seconds and the answers. One
    metric stays; the ends of the quantiles give way to a second one.
    """
    lines = _lines(report)
    names = _metric_names(report, lines)
    workflow, label, answered, seconds = _own_columns(lines)
    longest = min(_LONGEST_NAME, max(_SHORTEST_NAME, width - _width([*workflow, label]) - 2))
    are_many = over_sites.are_many(report)
    ours = (*_OURS, *over_sites.NAMES) if are_many else _OURS
    headings = _unique([foreign.shortened(name, longest) for name in names], ours)
    means = [_mean(name, heading, lines) for name, heading in zip(names, headings, strict=True)]
    ranges = [_with_range(name, heading, lines) for name, heading in zip(names, headings, strict=True)]
    before = [*workflow, label]
    after = [answered, seconds]
    while after and _width([*before, *means[:1], *after]) > width:
        after.pop()
    quantiles: Sequence[_Column] = ()
    if are_many and names and (every := _quantiles(names[0], lines)):
        wanted = [(chosen, count) for count in (2, 1) for chosen in (every, every[1:-1])]  # a further metric first
        fits = (each for each, n in wanted if _width([*before, *means[:n], *each, *after]) <= width)
        quantiles = next(fits, ())
    if quantiles:
        ranges[0] = None
    free = width - _width([*before, *quantiles, *after])
    shown: list[_Column] = []
    for number, (mean, with_range) in enumerate(zip(means, ranges, strict=True)):
        column = with_range if number == 0 and with_range is not None and 2 + with_range.width <= free else mean
        free -= 2 + column.width
        if shown and free < 0:
            break
        shown.append(column)
    without = 0
    for number, wide in enumerate(ranges[: len(shown)]):
        if wide is not None and shown[number] is not wide:
            if (more := wide.width - shown[number].width) <= free:
                shown[number], free = wide, free - more
            else:
                without += 1
    parts = [f"{len(names) - len(shown):,} of {counted(len(names), 'metric')}"] if len(shown) < len(names) else []
    parts += (
        ["how far the clients differ"] if without or (len(shown) < len(names) and any(ranges[len(shown) :])) else []
    )
    return _table([*before, *shown[:1], *quantiles, *shown[1:], *after], " and ".join(parts))


def full(report: Report, width: int | None) -> Iterator[Table]:
    """Every metric, with the value of each site; as several tables, if one would be wider than `width`.

    Where the sites are many, each has a row for each round in which it took part, in a table of its own.
    """
    lines = _lines(report)
    workflow, label, answered, seconds = _own_columns(lines)
    names = _metric_names(report, lines)
    are_many = over_sites.are_many(report)
    measured = {site for line in lines for site in line.own}
    sites = [site for site in report.sites if site in measured] if len(report.sites) > 1 and not are_many else []
    titles = [" ".join(filter(None, [site, name])) for name in names for site in ("", *sites)]
    headings = iter(_unique(titles))
    columns = []
    for name in names:
        columns.append(_mean(name, next(headings), lines))
        for site in sites:
            cells = [_cell(line.own.get(site, {}), name) for line in lines]
            columns.append(_Column(next(headings), cells))
    yield from _parts([*workflow, label], [*columns, answered, seconds], width)
    if are_many:
        yield from _each_answer(report, names, width)


def _each_answer(report: Report, names: Sequence[str], width: int | None) -> Iterator[Table]:
    """A row for each site and round in which it took part: what it measured, and how long its task took."""
    rows = [(each, site, each.metrics_by_site.get(site, {})) for each in report.rounds for site in _took_part(each)]
    states = [_answer_of(site, each) for each, site, _ in rows]
    workflows = [foreign.shortened(each.workflow, _LONGEST_WORKFLOW) for each, _, _ in rows]
    first = [
        *([_Column("workflow", workflows)] if len(set(workflows)) > 1 else []),
        _Column("round", [str(each.round_num) for each, _, _ in rows]),
        _Column("site", [site for _, site, _ in rows]),
    ]
    measured = [
        _Column(heading, [_cell(own, name) for _, _, own in rows])
        for name, heading in zip(names, _unique(names, _OF_ANSWERS), strict=True)
    ]
    took = [f"{each.work_s[site]:.2f}" if site in each.work_s else "" for each, site, _ in rows]
    yield from _parts(first, [*measured, _Column("answer", states), _Column("seconds", took)], width)


def _parts(first: Sequence[_Column], columns: Sequence[_Column], width: int | None) -> Iterator[Table]:
    """The columns in as many tables as they need, each with those in `first`."""
    free = None if width is None else width - _width(first)
    start = 0
    while start < len(columns):
        end, room = start + 1, None if free is None else free - 2 - columns[start].width
        while end < len(columns) and (room is None or (room := room - 2 - columns[end].width) >= 0):
            end += 1
        yield _table([*first, *columns[start:end]])
        start = end


def _took_part(each: RoundReport) -> list[str]:
    """The sites that had a task in the round, in order."""
    known = each.num_steps.keys() | each.metrics_by_site.keys() | each.failed.keys() | set(each.not_waited_for)
    return [site for site in dict.fromkeys([*each.asked, *known]) if site in known]


def _answer_of(site: str, each: RoundReport) -> str:
    if site in each.failed:
        return "failed"
    return "answered" if site in each.num_steps or site in each.metrics_by_site else "not waited for"


class _Line(NamedTuple):
    """A row: of a round, of the final model or of the best one."""

    workflow: str
    label: str
    means: Metrics
    own: Mapping[str, Metrics]
    answered: str
    seconds: str


class _Column(NamedTuple):
    heading: str
    cells: Sequence[str]

    @property
    def width(self) -> int:
        return max(map(display.len_of, [self.heading, *self.cells]))


def _lines(report: Report) -> list[_Line]:
    named = [*(each.workflow for each in report.rounds), *(last.workflow for last in report.validations)]
    lines = []
    for workflow in dict.fromkeys(named):
        for each in report.rounds:
            if each.workflow == workflow:
                answers = f"{len(each.answered)} of {len(each.asked)}"
                seconds = f"{each.total_s:.2f}" if each.is_whole else ""
                lines.append(_Line(workflow, str(each.round_num), each.metrics, each.metrics_by_site, answers, seconds))
        for final in report.validations:
            if final.workflow == workflow and final.metrics:
                count = len(final.metrics_by_site)
                answers = f"{count} of {count + len(final.failed)}"
                lines.append(_Line(workflow, "final", final.metrics, final.metrics_by_site, answers, ""))
        if (best := report.best) and best.workflow == workflow:
            which = "final" if best.is_final else str(best.round_num)
            sent = next((line for line in lines if (line.workflow, line.label) == (workflow, which)), None)
            row = sent or _Line(workflow, "", {}, {}, "", "")
            means = row.means | {best.metric: best.score}
            lines.append(row._replace(label=f"best: {which}", means=means, seconds=""))
    return lines


def _metric_names(report: Report, lines: Sequence[_Line]) -> list[str]:
    names = dict.fromkeys(name for line in lines for name in line.means)
    if report.best and report.best.metric in names:
        names = {report.best.metric: None} | names  # it is shown before all others
    return list(names)


def _own_columns(lines: Sequence[_Line]) -> tuple[list[_Column], _Column, _Column, _Column]:
    """The columns that are not metrics; that of the workflows if there are several."""
    workflows = [foreign.shortened(line.workflow, _LONGEST_WORKFLOW) for line in lines]
    return (
        [_Column("workflow", workflows)] if len(set(workflows)) > 1 else [],
        _Column("round", [line.label for line in lines]),
        _Column("answered", [line.answered for line in lines]),
        _Column("seconds", [line.seconds for line in lines]),
    )


def _mean(name: str, heading: str, lines: Sequence[_Line]) -> _Column:
    return _Column(heading, [_cell(line.means, name) for line in lines])


def _with_range(name: str, heading: str, lines: Sequence[_Line]) -> _Column | None:
    """Each mean with the range over the sites; None if they never differ."""
    ranges = [wording.spread([own[name] for own in line.own.values() if name in own]) for line in lines]
    if not any(ranges):
        return None
    means = [_cell(line.means, name) for line in lines]
    cells = [f"{mean} ({each})" if each and mean else mean for mean, each in zip(means, ranges, strict=True)]
    are_many = any(len(line.own) > over_sites.MANY for line in lines)
    return _Column(f"{heading} ({wording.MOST if are_many else 'sites'})", cells)


def _quantiles(name: str, lines: Sequence[_Line]) -> list[_Column]:
    """A column for each quantile over the sites; none if they never differ."""
    found = [over_sites.quantiles(value for _, value in over_sites.of_metric(line.own, name)) for line in lines]
    if not any(each and wording.number(each.lowest) != wording.number(each.highest) for each in found):
        return []
    return [
        _Column(heading, ["" if each is None else f"{each[number]:.3g}" for each in found])
        for number, heading in enumerate(over_sites.NAMES)
    ]


def _cell(measured: Metrics, name: str) -> str:
    return wording.number(measured[name]) if name in measured else ""


def _unique(headings: Sequence[str], ours: Sequence[str] = _OURS) -> list[str]:
    """Each heading once: a metric may be called as a column of ours, or as a site."""
    taken = set(ours)
    found = []
    for heading in headings:
        unique = heading if heading not in ours else f"{heading} (metric)"
        number = 1
        while unique in taken:
            number += 1
            unique = f"{heading} ({number})"
        taken.add(unique)
        found.append(unique)
    return found


def _width(columns: Sequence[_Column]) -> int:
    return sum(column.width for column in columns) + 2 * (len(columns) - 1)


def _table(columns: Sequence[_Column], left_out: str = "") -> Table:
    headings = [column.heading for column in columns]
    rows = [dict(zip(headings, cells, strict=True)) for cells in zip(*(each.cells for each in columns), strict=True)]
    return Table(rows, headings, left_out)
