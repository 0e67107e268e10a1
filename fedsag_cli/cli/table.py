"""The table at the end of a run: a row for each round and for the trained model, as wide as the room is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from fedsag_cli import foreign
from fedsag_cli.cli import display, wording
from fedsag_cli.errors import counted
from fedsag_cli.events import Metrics
from fedsag_cli.report import Report

_LONGEST_NAME = 24  # of a metric, in a heading
_SHORTEST_NAME = 8
_LONGEST_WORKFLOW = 16
_OURS = ("workflow", "round", "answered", "seconds")
_RANGE = " (sites)"  # a heading whose cells have the range over the sites


class Table(NamedTuple):
    """Rows as `display.table` takes them. `left_out` says what is not in it."""

    rows: Sequence[Mapping[str, str]]
    columns: Sequence[str]
    left_out: str = ""


def brief(report: Report, width: int) -> Table:
    """One column for each metric, the best model's first, with the range over the sites where they differ.

    It is at most `width` columns wide: the ranges are left out first, then the last metrics, the seconds and the
    answers. One metric stays.
    """
    lines = _lines(report)
    names = _metric_names(report, lines)
    workflow, label, answered, seconds = _own_columns(lines)
    longest = min(_LONGEST_NAME, max(_SHORTEST_NAME, width - _width([*workflow, label]) - 2))
    headings = _unique([foreign.shortened(name, longest) for name in names])
    means = [_mean(name, heading, lines) for name, heading in zip(names, headings, strict=True)]
    ranges = [_with_range(name, heading, lines) for name, heading in zip(names, headings, strict=True)]
    before = [*workflow, label]
    after = [answered, seconds]
    while after and _width([*before, *means[:1], *after]) > width:
        after.pop()
    free = width - _width([*before, *after])
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
    return _table([*before, *shown, *after], lines, " and ".join(parts))


def full(report: Report, width: int | None) -> Iterator[Table]:
    """Every metric, with the value of each site; as several tables, if one would be wider than `width`."""
    lines = _lines(report)
    workflow, label, answered, seconds = _own_columns(lines)
    names = _metric_names(report, lines)
    sites = report.sites if len(report.sites) > 1 else []
    titles = [" ".join(filter(None, [site, name])) for name in names for site in ("", *sites)]
    headings = iter(_unique(titles))
    columns = []
    for name in names:
        columns.append(_mean(name, next(headings), lines))
        for site in sites:
            cells = [_cell(line.own.get(site, {}), name) for line in lines]
            columns.append(_Column(next(headings), cells))
    columns += [answered, seconds]
    first = [*workflow, label]
    while columns:
        count = 1
        while count < len(columns) and (width is None or _width([*first, *columns[: count + 1]]) <= width):
            count += 1
        yield _table([*first, *columns[:count]], lines)
        columns = columns[count:]


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
    return _Column(heading + _RANGE, cells)


def _cell(measured: Metrics, name: str) -> str:
    return wording.number(measured[name]) if name in measured else ""


def _unique(headings: Sequence[str]) -> list[str]:
    """Each heading once: a metric may be called as a column of ours, or as a site."""
    taken = set(_OURS)
    found = []
    for heading in headings:
        unique = heading if heading not in _OURS else f"{heading} (metric)"
        number = 1
        while unique in taken:
            number += 1
            unique = f"{heading} ({number})"
        taken.add(unique)
        found.append(unique)
    return found


def _width(columns: Sequence[_Column]) -> int:
    return sum(column.width for column in columns) + 2 * (len(columns) - 1)


def _table(columns: Sequence[_Column], lines: Sequence[_Line], left_out: str = "") -> Table:
    rows = [{column.heading: column.cells[index] for column in columns} for index in range(len(lines))]
    return Table(rows, [column.heading for column in columns], left_out)
