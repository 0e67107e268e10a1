"""What the commands `fedsag runs …` print of runs: lists, facts, and answers of the database."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from fedsag_cli import foreign, history
from fedsag_cli.cli import baselines, display, failures, wording
from fedsag_cli.cli.summary import farthest
from fedsag_cli.errors import counted
from fedsag_cli.history import rows
from fedsag_cli.history.reading import FINISHED, RUNNING, STOPPED
from fedsag_cli.report import curves, differing

if TYPE_CHECKING:
    from fedsag_cli.history.asking import Answer
    from fedsag_cli.history.finding import Found
    from fedsag_cli.report import Report

_BARS = 8  # of a curve in a list
_MOST_METRICS = 6
_LONGEST_CELL = 16
_LONGEST_COMMAND = 32
_LONGEST_NAME = 40  # of a setting
_MOST_NAMED = 4  # settings for which there is no room
_LABEL = 11  # columns
_GAP = 2  # between columns
_AGES = ((60, 1, "s"), (3600, 60, "min"), (86400, 3600, "h"), (864000, 86400, "d"))

Cells: TypeAlias = "dict[str, list[str]]"
"""By heading: a cell for each row."""


def as_json(found: Found, *, whole: bool = True) -> dict[str, Any]:
    """`whole`: with the report; else with the best and the last value of each metric."""
    import msgspec

    report = found.report
    known = {
        "run": found.number or None,
        "id": found.row.id if found.row else None,
        "status": found.status,
        "job": report.job,
        "template": report.template,
        "began": report.began,
        "seconds": report.seconds,
        "seed": report.seed,
        "parent": report.parent,
        "parent_round": report.parent_round,
        "clients": len(report.sites),
        "workspace": str(found.root) if found.root else found.row.workspace if found.row else "",
    }
    if whole:
        return known | {"faults": found.faults, "report": msgspec.to_builtins(report)}
    metrics = {}
    for name in curves.metrics_of(report):
        top = curves.best(report, name)
        metrics[name] = {
            "best": top.value if top else None,
            "best_round": top.round_num if top else None,
            "last": curves.final(report, name),
        }
    changed = {name: report.settings.get(name) for name in report.changed}
    return known | {"files": found.row.files if found.row else "", "changed": changed, "metrics": metrics}


def show_list(found: Sequence[Found]) -> None:
    """Only settings that differ have a column, as many as there is room for."""
    reports = [each.report for each in found]
    leading = [next(iter(curves.metrics_of(report)), "") for report in reports]
    same = len(set(filter(None, leading))) <= 1
    name = foreign.shortened(max(leading, default=""), _LONGEST_CELL) if same else ""
    cells: Cells = {"run": [each.name for each in found], "age": [_age(report.began) for report in reports]}
    if any(report.parent for report in reports):
        cells["fork of"] = _forks(reports)
    ends: Cells = {"status": [each.status for each in found]}
    if any(each.status != FINISHED for each in found):
        ends["rounds"] = [_rounds_done(each, "/") for each in found]
    if not same:
        ends["metric"] = [foreign.shortened(each, _LONGEST_CELL) for each in leading]
    tops = [curves.best(report, metric) for report, metric in zip(reports, leading, strict=True)]
    ends[f"best {name}".strip()] = [wording.cell(top.value) if top else "" for top in tops]
    ends["last"] = [wording.cell(curves.final(report, each)) for report, each in zip(reports, leading, strict=True)]
    ends["curve"] = [
        wording.sparkline(curves.to_the_end(report, each), _BARS) for report, each in zip(reports, leading, strict=True)
    ]
    settings = differing.settings(reports, whole=False)
    if left := show_with_settings(cells, settings, ends, reports):
        short = differing.short_names(list(settings))
        display.line(f"the runs differ also in {_few([short[name] for name in left])}: see fedsag runs compare")


def show_with_settings(
    cells: Cells, settings: Mapping[str, Sequence[Any]], ends: Cells, reports: Sequence[Report]
) -> list[str]:
    """A table with a row for each run: `cells`, then as many settings as there is room for, then `ends`.

    In a pipe, all that a user gave have room. Returns the settings for which there is none.
    """
    short = differing.short_names(list(settings))
    fits = display.on_terminal()
    free = display.width() - _wide(cells) - _wide(ends) + _GAP
    left: list[str] = []
    for name in differing.by_hand_first(settings, reports):
        heading = _heading(short[name], {**cells, **ends})
        column = _values(settings[name], free if fits else None)
        free -= _wide({heading: column})
        if (left or free < 0) if fits else not differing.is_by_hand(name, reports):
            left.append(name)
            continue
        cells = {**cells, heading: column}
    table = {**cells, **ends}
    display.table(
        [{head: table[head][index] for head in table} for index in range(len(reports))], list(table), wraps=False
    )
    return left


def _values(values: Sequence[Any], free: int | None) -> list[str]:
    """The cells of a setting; `free`: the room for them, None in a pipe. A command line is cut at its end: cut in the
    middle, it would show the name of one option with the value of another.
    """
    own = differing.without_common_options(values)
    texts = ["" if value is None else foreign.one_line(foreign.masked(display.shown(value))) for value in own]
    if free is None:
        return texts
    if any(" -" in f" {text}" for text in texts):
        longest = max(_LONGEST_CELL, min(_LONGEST_COMMAND, free - _GAP))
        return [text if len(text) <= longest else f"{text[: longest - 1]}…" for text in texts]
    return [foreign.shortened(text, _LONGEST_CELL) for text in texts]


def _few(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = f" and {counted(len(names) - _MOST_NAMED, 'more setting')}" if len(names) > _MOST_NAMED else ""
    return f"{', '.join(foreign.shortened(name, _LONGEST_NAME) for name in names[:_MOST_NAMED])}{more}"


def headline(found: Found) -> str:
    """Which run it is: its number, its job, its status and its age."""
    named = f"run {found.name}" if found.row else f"the run in {found.name}"
    began = found.report.began
    since = f"began {_age(began)}{' ago' if time.time() - began < _AGES[-1][0] else ''}" if began else ""
    return ", ".join(filter(None, [named, f"job {found.report.job}" * bool(found.report.job), _status(found), since]))


def show_run(found: Found) -> None:
    show_facts(found)
    report = found.report
    display.line("")
    if report.rounds:
        _show_rounds(found)
        display.gap()
    baselines.show(report)
    for text in farthest(report):
        display.line(text)
    for text in failures.failed_sites(report):
        display.line(text)
    for path in report.models if found.root else ():
        _fact("model", path)
    if report.digest:
        _fact("digest", report.digest)
    if found.root is None:
        _fact("files", _gone(found))
        return
    _fact("workspace", str(found.root))
    if found.status == STOPPED and found.row and found.rounds_done:
        _fact("continue", history.command_to_continue(found.root))
    for name in ("report.html", "report.json", "events.jsonl"):
        if (found.root / name).is_file():
            _fact(name.partition(".")[0] if name != "report.html" else "page", str(found.root / name))


def _show_rounds(found: Found) -> None:
    """The database has less of them than the run's own report."""
    from fedsag_cli.cli.table import brief

    report = found.report
    if found.root is not None:
        made = brief(report, display.width())
        display.table(made.rows, made.columns, wraps=False)
        return
    metrics = curves.metrics_of(report)[:_MOST_METRICS]
    rows = [
        {"round": str(each.round_num)} | {name: wording.cell(each.metrics.get(name)) for name in metrics}
        for each in report.rounds
    ]
    display.table(rows, ["round", *metrics])


def show_facts(found: Found) -> None:
    report = found.report
    took = report.seconds
    joined = " after" if found.status == FINISHED else ","
    _fact("run", f"{found.name}, {_status(found)}{f'{joined} {took:.1f} s' if took is not None else ''}")
    if report.cause and found.status != FINISHED:
        _fact("cause", report.cause)
    _fact("job", f"{report.job or 'unknown'}{f', from the template {report.template}' if report.template else ''}")
    if report.began:
        _fact("began", time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(report.began)))
    threads = counted(report.threads, "torch thread")
    _fact("clients", f"{len(report.sites)}, {report.slots} at a time, {threads} each; {report.launcher}")
    if report.parent:
        _fact("fork of", _parent(report))
    _fact("seed", str(report.seed))
    for name, value in report.changed.items():
        now = display.shown(report.settings[name]) if name in report.settings else "left out"
        was = "; the template does not have it" if value is None else f"; the template has {display.shown(value)}"
        _fact("changed", f"{name} = {now}{was}")
    for metric in curves.metrics_of(report)[:_MOST_METRICS]:
        if top := curves.best(report, metric):
            where = "final model" if top.round_num is None else f"round {top.round_num}"
            last = wording.cell(curves.final(report, metric))
            _fact("metric", f"{metric}: best {wording.cell(top.value)} ({where}), last {last}")
    _fact("versions", ", ".join(f"{name} {version}" for name, version in report.versions.items()))


def _forks(reports: Sequence[Report]) -> list[str]:
    """Of which run each is a fork, and after which round; empty if it is none."""
    numbers = {name: history.number_called(name) for name in {report.parent for report in reports}}
    return [f"{numbers[each.parent] or '?'} after {each.parent_round}" if each.parent else "" for each in reports]


def _parent(report: Report) -> str:
    """Of which run a fork was made, and after which round."""
    number = history.number_called(report.parent)
    return f"{f'run {number}' if number else 'a run that is not in the list'} after round {report.parent_round}"


def show_answer(answer: Answer) -> None:
    display.table(
        [
            {
                name: "" if value is None else display.shown(value)
                for name, value in zip(answer.columns, row, strict=True)
            }
            for row in answer.rows
        ],
        answer.columns,
    )
    if not answer.rows:
        display.line("no rows")


def _gone(found: Found) -> str:
    row = found.row
    if row is None or row.files == rows.THERE:
        return f"gone: {row.workspace if row else ''} has no run, or another one"
    if row.files == rows.REMOVED:
        return f"removed from {row.workspace}, where only the last runs are kept"
    return f"gone: another run replaced them in {row.workspace}"


def _fact(label: str, text: str) -> None:
    display.line(f"{label:<{_LABEL}}{text}")


def _status(found: Found) -> str:
    if found.status == FINISHED:
        return found.status
    done = _rounds_done(found, " of ")
    if done and found.status == RUNNING:
        return f"{found.status}, {done} rounds done"
    return f"{found.status} after {done} rounds" if done else found.status


def _rounds_done(found: Found, of: str) -> str:
    """As `3 of 6`, of the last workflow; empty if their number is not known."""
    report = found.report
    last = report.rounds[-1].workflow if report.rounds else ""
    done = found.rounds_done - sum(each.is_whole for each in report.rounds if each.workflow != last)
    return f"{done}{of}{report.num_rounds}" if report.num_rounds else ""


def _age(began: float) -> str:
    seconds = max(0.0, time.time() - began)
    for limit, unit, name in _AGES:
        if seconds < limit:
            return f"{seconds / unit:.0f} {name}"
    return time.strftime("%Y-%m-%d", time.localtime(began)) if began else ""


def _heading(name: str, taken: Mapping[str, object]) -> str:
    heading = foreign.shortened(name, _LONGEST_CELL)
    while heading in taken:
        heading += "'"
    return heading


def _wide(cells: Cells) -> int:
    return sum(_GAP + max(map(display.len_of, [head, *column])) for head, column in cells.items())
