"""What the commands `fedsag runs compare` and `diff` print: curves and settings by run, differences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fedsag_cli import foreign
from fedsag_cli.cli import display, wording
from fedsag_cli.cli.runs_tables import Cells, as_json, show_with_settings
from fedsag_cli.errors import counted
from fedsag_cli.params.metrics import looks_lower_is_better
from fedsag_cli.report import curves, differing

if TYPE_CHECKING:
    from fedsag_cli.history.finding import Found
    from fedsag_cli.history.first_difference import Compared, Difference
    from fedsag_cli.report.curves import Best

_MOST_BARS = 16
_FLAT = 20  # more than twice the steps of height that bars have
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
    """For each metric a table with a row for each run; then the settings for which a row had no room."""
    reports = [each.report for each in found]
    settings = differing.settings(reports)
    metrics = list(dict.fromkeys(name for report in reports for name in curves.metrics_of(report)))
    left = list(settings)
    for metric in metrics[:_MOST_METRICS]:
        left = _show_metric(found, metric, settings)
        display.gap()
    if len(metrics) > _MOST_METRICS:
        display.line(f"{counted(len(metrics) - _MOST_METRICS, 'more metric')}: --format json has all")
    if left or not settings:
        show_settings({name: settings[name] for name in left}, [each.name for each in found])


def _show_metric(found: Sequence[Found], metric: str, settings: Mapping[str, Sequence[Any]]) -> list[str]:
    """Returns the settings for which there was no room."""
    reports = [each.report for each in found]
    every = [curves.to_the_end(report, metric) for report in reports]
    tops = [curves.best(report, metric) for report in reports]
    display.line(f"{metric}: {_best_of(found, metric, tops)}{_scale_of(every)}")
    known = [value for curve in every for value in curve if value is not None]
    scale = () if _need_own_scales(every) else known
    longest = max(map(len, every))
    bars = min(_MOST_BARS, longest)
    ends: Cells = {
        "best": [f"{wording.cell(top.value)}{_where(top)}" if top else "" for top in tops],
        "last": [wording.cell(curves.final(report, metric)) for report in reports],
        "rounds": [str(len(report.rounds)) for report in reports],
        "curve": [wording.sparkline(curve, max(1, bars * len(curve) // max(1, longest)), scale) for curve in every],
    }
    return show_with_settings({"run": [each.name for each in found]}, settings, ends, reports)


def _best_of(found: Sequence[Found], metric: str, tops: Sequence[Best | None]) -> str:
    values = [(top.value, each.name) for top, each in zip(tops, found, strict=True) if top]
    if not values:
        return "no value is finite"
    lowest = looks_lower_is_better(metric)
    value = (min if lowest else max)(value for value, _ in values)
    best = [name for each, name in values if each == value]
    named = f"run {best[0]}" if len(best) == 1 else f"runs {wording.few(best)}"
    return f"the {'lowest' if lowest else 'highest'} is {wording.cell(value)}, of {named}"


def _where(top: Best) -> str:
    return " final" if top.round_num is None else f" in round {top.round_num}"


def _scale_of(every: Sequence[curves.Curve]) -> str:
    known = [value for curve in every for value in curve if value is not None]
    if not known:
        return ""
    if _need_own_scales(every):
        return "; each curve has a scale of its own"
    return f"; the curves have one scale, from {wording.cell(min(known))} to {wording.cell(max(known))}"


def _need_own_scales(every: Sequence[curves.Curve]) -> bool:
    """Whether a curve would be flat on the scale of all."""
    spans = [span for curve in every if (span := _span(curve))]
    return bool(spans) and min(spans) * _FLAT < _span([value for curve in every for value in curve])


def _span(curve: curves.Curve) -> float:
    """Halved: the difference of two large numbers may be infinite."""
    known = [value / 2 for value in curve if value is not None]
    return max(known) - min(known) if known else 0.0


def said_of(compared: Compared, names: Sequence[str], digests: Sequence[str]) -> Iterator[str]:
    """Sentences on where two runs differ first."""
    same = f"{counted(compared.models, 'model')} in {counted(compared.rounds, 'round')}"
    if compared.difference is not None:
        yield f"first difference: {_difference(compared.difference, names)}"
        before = "1 model in 1 round is" if compared.models == 1 else f"{same} are"
        yield f"{before} the same in both" if compared.models else "no model is the same in both"
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
    only = "" if difference.only_in is None else f", which is in run {names[difference.only_in]} only"
    return where(difference) + only


def where(difference: Difference) -> str:
    """The round, the model and the tensor that differ."""
    what = f"the answer of {difference.site}" if difference.site else "the model that the server sent"
    tensor = f", tensor {difference.tensor}" if difference.tensor else ""
    more = f" and {counted(difference.num_tensors - 1, 'other')}" if difference.num_tensors > 1 else ""
    return f"round {difference.round_num}, {what} ({difference.task}){tensor}{more}"
