"""What the commands `fedsag runs …` print of runs: lists, facts, settings side by side, and curves on one scale."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fedsag_cli import foreign
from fedsag_cli.cli import display
from fedsag_cli.errors import counted
from fedsag_cli.history import curves, differing, rows
from fedsag_cli.history.reading import FINISHED, STOPPED

if TYPE_CHECKING:
    from fedsag_cli.history.asking import Answer
    from fedsag_cli.history.finding import Found
    from fedsag_cli.history.parting import Compared, Parting

_BARS = 8  # of a curve in a list
_MOST_BARS = 32
_MOST_METRICS = 6
_MOST_NAMED = 4
_LONGEST_CELL = 16
_LONGEST_NAME = 40
_LABEL = 11  # columns
_GAP = 2  # between columns
_AGES = ((60, 1, "s"), (3600, 60, "min"), (86400, 3600, "h"), (864000, 86400, "d"))

_Cells = dict[str, list[str]]  # by heading: a cell for each row


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
        "seconds": report.times.get("run_finished_s"),
        "seed": report.seed,
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


def comparison_as_json(found: Sequence[Found]) -> dict[str, Any]:
    reports = [each.report for each in found]
    metrics = dict.fromkeys(name for report in reports for name in curves.metrics_of(report))
    return {
        "runs": [as_json(each, whole=False) for each in found],
        "settings": differing.settings(reports),
        "curves": {name: [curves.curve(report, name) for report in reports] for name in metrics},
    }


def show_list(found: Sequence[Found]) -> None:
    """Only settings that differ have a column, as many as there is room for."""
    reports = [each.report for each in found]
    leading = [next(iter(curves.metrics_of(report)), "") for report in reports]
    same = len(set(filter(None, leading))) <= 1
    name = foreign.shortened(max(leading, default=""), _LONGEST_CELL) if same else ""
    cells: _Cells = {"run": [each.name for each in found], "age": [_age(report.began) for report in reports]}
    ends: _Cells = {"status": [_status(each) for each in found]}
    if not same:
        ends["metric"] = [foreign.shortened(each, _LONGEST_CELL) for each in leading]
    tops = [curves.best(report, metric) for report, metric in zip(reports, leading, strict=True)]
    ends[f"best {name}".strip()] = [_number(top.value) if top else "" for top in tops]
    ends["last"] = [_number(curves.final(report, each)) for report, each in zip(reports, leading, strict=True)]
    ends["curve"] = [
        curves.sparkline(curves.curve(report, each), _BARS) for report, each in zip(reports, leading, strict=True)
    ]
    differ = differing.settings(reports, chance=False)
    changed = {setting for report in reports for setting in report.changed}
    ranked = sorted(differ, key=lambda setting: " " in setting and setting not in changed)
    short = differing.short_names(list(differ))
    free = display.width() - _wide(cells) - _wide(ends) + _GAP
    for setting in ranked:
        heading = _heading(short[setting], {**cells, **ends})
        column = [
            "" if value is None else foreign.shortened(display.shown(value), _LONGEST_CELL) for value in differ[setting]
        ]
        free -= _wide({heading: column})
        if free < 0:
            break
        cells[heading] = column
    left = len(differ) - (len(cells) - 2)
    cells |= ends
    display.table([{head: cells[head][index] for head in cells} for index in range(len(found))], list(cells))
    if left:
        display.line(f"the runs differ in {counted(left, 'more setting')}: see fedsag runs compare")


def show_run(found: Found) -> None:
    show_facts(found)
    report = found.report
    display.line("")
    if report.rounds:
        _show_rounds(found)
        _gap()
    for site, first in report.failures.items():
        _fact("failed", f"{site}: {first.failure.cause}")
    for path in report.models if found.root else ():
        _fact("model", str(_now(found, path)))
    if report.digest:
        _fact("digest", report.digest)
    if found.root is None:
        _fact("files", _gone(found))
        return
    _fact("workspace", str(found.root))
    if found.status == STOPPED and found.row and any(each.is_whole for each in report.rounds):
        words = [found.row.job_folder or "JOB", "-w", str(found.root), "--resume"]
        _fact("continue", f"fedsag simulator {shlex.join(words)}")
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
        {"round": str(each.round_num)} | {name: _number(each.metrics.get(name)) for name in metrics}
        for each in report.rounds
    ]
    display.table(rows, ["round", *metrics])


def show_facts(found: Found) -> None:
    report = found.report
    took = report.times.get("run_finished_s")
    how = f" after {took:.1f} s" if took is not None else ""
    _fact("run", f"{found.name}, {_status(found)}{how}")
    if report.cause and found.status != FINISHED:
        _fact("cause", report.cause)
    _fact("job", f"{report.job or 'unknown'}{f', from the template {report.template}' if report.template else ''}")
    if report.began:
        _fact("began", time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(report.began)))
    threads = counted(report.threads, "torch thread")
    _fact("clients", f"{len(report.sites)}, {report.slots} at a time, {threads} each; {report.launcher}")
    _fact("seed", str(report.seed))
    for name, value in report.changed.items():
        now = display.shown(report.settings[name]) if name in report.settings else "left out"
        was = "; the template does not have it" if value is None else f"; the template has {display.shown(value)}"
        _fact("changed", f"{name} = {now}{was}")
    for metric in curves.metrics_of(report)[:_MOST_METRICS]:
        if top := curves.best(report, metric):
            where = "final model" if top.round_num is None else f"round {top.round_num}"
            _fact(
                "metric", f"{metric}: best {_number(top.value)} ({where}), last {_number(curves.final(report, metric))}"
            )
    _fact("versions", ", ".join(f"{name} {version}" for name, version in report.versions.items()))


def show_settings(settings: Mapping[str, Sequence[Any]], names: Sequence[str]) -> None:
    """A row for each setting, a column for each run; as several tables, if the runs are many."""
    if not settings:
        display.line("the runs have the same settings")
        return
    short = differing.short_names(list(settings))
    at_once = max(1, (display.width() - _LONGEST_NAME // 2) // (_LONGEST_CELL + _GAP))
    for start in range(0, len(names), at_once):
        shown = range(start, min(start + at_once, len(names)))
        heads = {index: f"run {names[index]}" for index in shown}
        display.table(
            [
                {"setting": foreign.shortened(short[name], _LONGEST_NAME)}
                | {heads[index]: "" if values[index] is None else display.shown(values[index]) for index in shown}
                for name, values in settings.items()
            ],
            ["setting", *heads.values()],
        )
        _gap()


def show_comparison(found: Sequence[Found]) -> None:
    reports = [each.report for each in found]
    names = [each.name for each in found]
    show_settings(differing.settings(reports), names)
    metrics = list(dict.fromkeys(name for report in reports for name in curves.metrics_of(report)))
    for metric in metrics[:_MOST_METRICS]:
        every = [curves.curve(report, metric) for report in reports]
        known = [value for curve in every for value in curve if value is not None]
        if known:
            display.line(f"{metric}: by round, from {_number(min(known))} to {_number(max(known))}")
        bars = min(_MOST_BARS, max(map(len, every)))
        table = []
        for each, curve in zip(found, every, strict=True):
            top = curves.best(each.report, metric)
            at = "" if top is None else " final" if top.round_num is None else f" in round {top.round_num}"
            drawn = curves.sparkline(curve, max(1, bars * len(curve) // max(map(len, every))), known)
            table.append(
                {
                    "run": each.name,
                    "curve": drawn,
                    "first": _number(next((value for value in curve if value is not None), None)),
                    "best": f"{_number(top.value)}{at}" if top else "",
                    "last": _number(curves.final(each.report, metric)),
                    "rounds": str(len(curve)),
                }
            )
        display.table(table, ["run", "curve", "first", "best", "last", "rounds"])
        _gap()
    if len(metrics) > _MOST_METRICS:
        display.line(f"{counted(len(metrics) - _MOST_METRICS, 'more metric')}: --format json has all")


def said_of(compared: Compared, names: Sequence[str], digests: Sequence[str]) -> Iterator[str]:
    """Sentences on where two runs part."""
    same = f"{counted(compared.models, 'model')} in {counted(compared.rounds, 'round')}"
    if compared.parting is not None:
        yield _parting(compared.parting, names)
        if compared.models:
            yield f"the same in both: {same}"
    elif not compared.models and compared.longer is None:
        yield "a run has no digests of its models by round: it was made by an older version, or sent none"
        if all(digests):
            ends = "the same model" if digests[0] == digests[1] else "different models"
            yield f"the runs end with {ends}, by their digests"
    elif not compared.models:
        yield "the runs have no model in common: they do not have the same workflows, rounds and tasks"
    elif compared.longer is not None:
        yield f"identical as far as both go: {same}; run {names[compared.longer]} goes on"
    elif all(digests) and digests[0] != digests[1]:
        yield f"the final models are not the same, though all before them is: {same}"
    else:
        yield f"identical, bit for bit: {same}"


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


def _parting(parting: Parting, names: Sequence[str]) -> str:
    where = f"round {parting.round_num}"
    if parting.only_in is not None:
        what = f"the answer of {parting.site}" if parting.site else "a model that the server sent"
        return f"the runs part in {where}: {what} ({parting.task}) is in run {names[parting.only_in]} only"
    who = f"{parting.site}: its answer" if parting.site else "server: the model that it sent"
    tensor = f", tensor {parting.tensor}" if parting.tensor else ""
    more = f" and {counted(parting.num_tensors - 1, 'other')}" if parting.num_tensors > 1 else ""
    return f"the runs part in {where}, {who} ({parting.task}){tensor}{more}"


def _gone(found: Found) -> str:
    row = found.row
    if row is None or row.files == rows.THERE:
        return f"gone: {row.workspace if row else ''} has no run, or another one"
    if row.files == rows.REMOVED:
        return f"removed from {row.workspace}, where only the last runs are kept"
    return f"gone: another run replaced them in {row.workspace}"


def _now(found: Found, path: str) -> Any:
    from fedsag_cli.history.reading import path_now

    return path_now(found.report, found.root, path) if found.root else path


def _gap() -> None:
    """An empty line after a table, which has one on a terminal."""
    if not display.on_terminal():
        display.line("")


def _fact(label: str, text: str) -> None:
    display.line(f"{label:<{_LABEL}}{text}")


def _status(found: Found) -> str:
    if found.status == FINISHED:
        return found.status
    done = sum(each.is_whole for each in found.report.rounds)
    return f"{found.status} {done}/{found.report.num_rounds}" if found.report.num_rounds else found.status


def _age(began: float) -> str:
    seconds = max(0.0, time.time() - began)
    for limit, unit, name in _AGES:
        if seconds < limit:
            return f"{seconds / unit:.0f} {name}"
    return time.strftime("%Y-%m-%d", time.localtime(began)) if began else ""


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _heading(name: str, taken: Mapping[str, object]) -> str:
    heading = foreign.shortened(name, _LONGEST_CELL)
    while heading in taken:
        heading += "'"
    return heading


def _wide(cells: _Cells) -> int:
    return sum(_GAP + max(map(display.len_of, [head, *column])) for head, column in cells.items())
