"""What `fedsag sweep` prints: a line for each run that ends, how far the sweep is, and the table at the end."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import msgspec

from fedsag_cli import foreign
from fedsag_cli.cli import display, wording
from fedsag_cli.cli.display import Format
from fedsag_cli.errors import counted
from fedsag_cli.events import Failure
from fedsag_cli.history.reading import FAILED, FINISHED
from fedsag_cli.report import differing
from fedsag_cli.report.alike import Kind, kind_of
from fedsag_cli.sweep import Progress, Swept
from fedsag_cli.sweep.one_run import Ended
from fedsag_cli.sweep.page import named
from fedsag_cli.sweep.results import Result, Row, SweepReport, best_of

_MOST_ROWS = 50
_MOST_CAUSES = 5
_LONGEST_CELL = 20


class View:
    """Shows a sweep as lines; on a terminal with a line below them that says how far it is."""

    def __init__(
        self, keys: Sequence[str], seeds: Sequence[int], *, metric: str, lowest: bool | None, is_quiet: bool
    ) -> None:
        self._report = SweepReport(job="", keys=list(keys), seeds=list(seeds))  # what a run is called depends on it
        self._metric, self._lowest, self._is_quiet = metric, lowest, is_quiet
        self._status = display.StatusLine() if display.can_redraw() else None

    def ended(self, result: Result, end: Ended | None, progress: Progress) -> None:
        self._metric = self._metric or next(iter(result.metrics), "")
        if end is not None and end.bug:
            for text in end.bug.splitlines():
                self._line(f"    | {text}")
        if self._is_quiet and result.status == FINISHED:
            return
        facts = [f"{len(progress.results):,}/{progress.total:,}", named(result, self._report), result.status]
        if measured := result.metrics.get(self._metric):
            facts.append(f"{self._metric} {wording.number(measured.last)}")
        facts += [wording.duration(result.seconds)] if result.seconds is not None else []
        made = [f"run {result.run}"] if result.run else []
        made += ["made before"] if result.is_earlier else []
        facts += [", ".join(made)] if made else []
        self._line("  ".join(facts))
        if result.cause and result.status == FAILED:
            self._line(f"    {result.cause}")

    def look(self, progress: Progress) -> None:
        if self._status is not None:
            self._status.show(self._how_far(progress))

    def close(self) -> None:
        if self._status is not None:
            self._status.close()
            self._status = None

    def end(self, swept: Swept) -> None:
        """Print the results."""
        for text in swept.notes:
            display.note(text)
        _show_table(swept.report)
        display.line(f"page       {swept.folder}/report.html")
        display.line(f"report     {swept.folder}/report.json")

    def _how_far(self, progress: Progress) -> str:
        facts = [f"{progress.done:,} of {counted(progress.total, 'run')} done"]
        facts += [f"{progress.failed:,} failed"] if progress.failed else []
        facts.append(f"{len(progress.running)} running")
        left = progress.left_s(time.monotonic())
        facts += [f"{wording.clock(left)} left"] if left is not None else []
        if best := best_of(progress.results, self._metric, lowest=self._lowest):
            facts.append(f"best {self._metric} {wording.number(best[1])}: {named(best[0], self._report)}")
        return ", ".join(facts)

    def _line(self, text: str) -> None:
        if self._status is not None:
            self._status.line(text)
        else:
            display.line(text)


class JsonView:
    """A line of JSON for each run that ends, and one for the results."""

    def ended(self, result: Result, end: Ended | None, progress: Progress) -> None:  # noqa: ARG002  as View has it
        _json("SweepRunEnded", {"result": result})

    def look(self, progress: Progress) -> None:
        """Nothing: only what is new is told."""

    def close(self) -> None:
        """Nothing is open."""

    def end(self, swept: Swept) -> None:
        _json("SweepEnded", {"folder": str(swept.folder), "notes": swept.notes, "report": swept.report})


def view(
    output: Format, keys: Sequence[str], seeds: Sequence[int], *, metric: str, lowest: bool | None, quiet: bool
) -> View | JsonView:
    """`keys`: what the keys that vary are called. `metric`: the one to show; empty: the first that a run has."""
    if output is Format.JSON:
        return JsonView()
    return View(keys, seeds, metric=metric, lowest=lowest, is_quiet=quiet)


def causes(failed: Sequence[Result]) -> list[str]:
    """Why runs failed; those that failed alike together."""
    kinds: dict[Kind, list[Result]] = {}
    for each in failed:
        kinds.setdefault(kind_of(each.name, Failure(cause=each.cause)), []).append(each)
    told = [f"    {wording.few([each.name for each in alike])}: {alike[0].cause}" for alike in kinds.values()]
    more = [f"    and {counted(len(told) - _MOST_CAUSES, 'other cause')}"] if len(told) > _MOST_CAUSES else []
    return [*told[:_MOST_CAUSES], *more]


def _json(event: str, facts: dict[str, Any]) -> None:
    display.json_line(msgspec.json.encode({"event": event, **foreign.masked(facts)}).decode())


def _show_table(report: SweepReport) -> None:
    """The best variations first. On a terminal, columns that do not fit are left out, the last ones first."""
    rows = report.rows[:_MOST_ROWS]
    columns = {key: _values([row.chosen[at] for row in rows]) for at, key in enumerate(report.keys)}
    if report.metric:
        columns[f"best {report.metric}"] = [_mean(row.best, row.best_sd) for row in rows]
        columns["last"] = [_mean(row.last, row.last_sd) for row in rows]
    if any(row.statuses != [FINISHED] * len(row.statuses) for row in rows):
        columns["status"] = [_statuses(row) for row in rows]
    columns["seconds"] = ["" if row.seconds is None else f"{row.seconds:.1f}" for row in rows]
    columns["run"] = [_runs(row) for row in rows]
    least = max(1, len(report.keys) + bool(report.metric))  # the keys and the best value stay
    while display.on_terminal() and len(columns) > least and _wide(columns) > display.width():
        columns.popitem()
    display.line("")
    display.table(
        [{name: cells[at] for name, cells in columns.items()} for at in range(len(rows))], list(columns), wraps=False
    )
    if len(report.rows) > len(rows):
        display.line(f"and {counted(len(report.rows) - len(rows), 'more variation')}: report.json has all")
    if len(report.seeds) > 1:
        display.line(f"mean ± standard deviation over {len(report.seeds)} seeds")
    display.line("")


def _values(values: Sequence[str]) -> list[str]:
    """The cells of a key: of command lines, without the options that all have; on a terminal, shortened."""
    own = [value or "" for value in differing.without_common_options(values)]
    return [foreign.shortened(value, _LONGEST_CELL) for value in own] if display.on_terminal() else own


def _mean(mean: float | None, deviation: float | None) -> str:
    spread = "" if deviation is None else f" ± {deviation:.2g}"
    return "" if mean is None else f"{wording.cell(mean)}{spread}"


def _statuses(row: Row) -> str:
    counts = {status: row.statuses.count(status) for status in dict.fromkeys(row.statuses)}
    return (
        next(iter(counts)) if len(counts) == 1 else ", ".join(f"{count} {status}" for status, count in counts.items())
    )


def _runs(row: Row) -> str:
    numbers = sorted(row.runs)
    if len(numbers) > 2 and numbers[-1] - numbers[0] == len(numbers) - 1:
        return f"{numbers[0]}–{numbers[-1]}"
    return wording.few([str(number) for number in numbers])


def _wide(columns: dict[str, list[str]]) -> int:
    return sum(2 + max(map(display.len_of, [name, *cells])) for name, cells in columns.items()) - 2
