"""What the commands `fedsag runs compare` and `diff` print: settings side by side, curves on one scale, differences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fedsag_cli import foreign
from fedsag_cli.cli import display, wording
from fedsag_cli.cli.runs_tables import as_json
from fedsag_cli.errors import counted
from fedsag_cli.report import curves, differing

if TYPE_CHECKING:
    from fedsag_cli.history.finding import Found
    from fedsag_cli.history.first_difference import Compared, Difference

_MOST_BARS = 32
_MOST_METRICS = 6
_LONGEST_NAME = 40  # of a setting
_COLUMN = 18  # of a run, with the gap before it


def comparison_as_json(found: Sequence[Found]) -> dict[str, Any]:
    reports = [each.report for each in found]
    metrics = dict.fromkeys(name for report in reports for name in curves.metrics_of(report))
    return {
        "runs": [as_json(each, whole=False) for each in found],
        "settings": differing.settings(reports),
        "curves": {name: [curves.curve(report, name) for report in reports] for name in metrics},
    }


def show_settings(settings: Mapping[str, Sequence[Any]], names: Sequence[str]) -> None:
    """A row for each setting, a column for each run; as several tables, if the runs are many."""
    if not settings:
        display.line("the runs have the same settings")
        return
    short = differing.short_names(list(settings))
    at_once = max(1, (display.width() - _LONGEST_NAME // 2) // _COLUMN)
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
        display.gap()


def show_comparison(found: Sequence[Found]) -> None:
    reports = [each.report for each in found]
    names = [each.name for each in found]
    show_settings(differing.settings(reports), names)
    metrics = list(dict.fromkeys(name for report in reports for name in curves.metrics_of(report)))
    for metric in metrics[:_MOST_METRICS]:
        every = [curves.curve(report, metric) for report in reports]
        known = [value for curve in every for value in curve if value is not None]
        if known:
            display.line(f"{metric}: by round, from {wording.cell(min(known))} to {wording.cell(max(known))}")
        bars = min(_MOST_BARS, max(map(len, every)))
        table = []
        for each, curve in zip(found, every, strict=True):
            top = curves.best(each.report, metric)
            at = "" if top is None else " final" if top.round_num is None else f" in round {top.round_num}"
            drawn = wording.sparkline(curve, max(1, bars * len(curve) // max(map(len, every))), known)
            table.append(
                {
                    "run": each.name,
                    "curve": drawn,
                    "first": wording.cell(next((value for value in curve if value is not None), None)),
                    "best": f"{wording.cell(top.value)}{at}" if top else "",
                    "last": wording.cell(curves.final(each.report, metric)),
                    "rounds": str(len(curve)),
                }
            )
        display.table(table, ["run", "curve", "first", "best", "last", "rounds"])
        display.gap()
    if len(metrics) > _MOST_METRICS:
        display.line(f"{counted(len(metrics) - _MOST_METRICS, 'more metric')}: --format json has all")


def said_of(compared: Compared, names: Sequence[str], digests: Sequence[str]) -> Iterator[str]:
    """Sentences on where two runs differ first."""
    same = f"{counted(compared.models, 'model')} in {counted(compared.rounds, 'round')}"
    if compared.difference is not None:
        yield _difference(compared.difference, names)
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


def _difference(difference: Difference, names: Sequence[str]) -> str:
    where = f"round {difference.round_num}"
    if difference.only_in is not None:
        what = f"the answer of {difference.site}" if difference.site else "a model that the server sent"
        return (
            f"the runs differ first in {where}: {what} ({difference.task}) is in run {names[difference.only_in]} only"
        )
    who = f"{difference.site}: its answer" if difference.site else "server: the model that it sent"
    tensor = f", tensor {difference.tensor}" if difference.tensor else ""
    more = f" and {counted(difference.num_tensors - 1, 'other')}" if difference.num_tensors > 1 else ""
    return f"the runs differ first in {where}, {who} ({difference.task}){tensor}{more}"
