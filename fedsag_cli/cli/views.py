"""The output of `fedsag simulator`: live on a terminal, lines in a pipe, JSON for programs; a table at the end."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import NamedTuple, Protocol, TypeAlias

from fedsag_cli import events, foreign
from fedsag_cli.cli import display
from fedsag_cli.cli.display import Cell, Format
from fedsag_cli.errors import RunError, counted
from fedsag_cli.events import Event, Failure, Metrics
from fedsag_cli.report import Report, TableReport

_MOST_ROWS = 12  # clients shown one by one in the live view
_MOST_SITES = 6  # sites with a column of their own in the table at the end
_MOST_METRICS = 6  # in one line
_MOST_NAMES = 4  # of sites, or rounds, in one line
_WIDEST_HEADING = 24
_BAR = 30
_OURS = ("workflow", "round", "answered", "seconds")  # columns of the table
_LATE_S = 2.0  # an estimate is no better
_WORKING = "working on "

Kind: TypeAlias = "tuple[str, str]"
"""What failures have in common: the cause, without names and numbers, and the place."""


class View(Protocol):
    """An observer that shows events. `told`: the failures that it has shown, by site and kind."""

    @property
    def told(self) -> Collection[tuple[str, Kind]]: ...

    def on(self, event: Event) -> None: ...


@contextmanager
def view(output: Format) -> Iterator[View]:
    """The observer that prints events in this format, and live on a terminal."""
    if output is Format.JSON:
        yield JsonView()
    elif display.can_redraw():
        live = LiveView()
        with live.screen:
            yield live
    else:
        yield PlainView()


class JsonView:
    """One event a line."""

    told: Collection[tuple[str, Kind]] = ()

    def on(self, event: Event) -> None:
        display.json_line(events.to_line(event).decode().rstrip("\n"))


class PlainView:
    """One line for each event that a reader of a log needs."""

    def __init__(self) -> None:
        self._lines = Lines()

    @property
    def told(self) -> Collection[tuple[str, Kind]]:
        return self._lines.told

    def on(self, event: Event) -> None:
        for text in self._lines.of(event):
            display.line(text)


class LiveView:
    """The round, the state and last metrics of every client, and the time left; failures and notes above it."""

    def __init__(self) -> None:
        self._lines = Lines()
        self._states: dict[str, str] = {}
        self._metrics: dict[str, str] = {}
        self._began = time.monotonic()
        self._pace: Pace | None = None
        self._slots = 1
        self._stage = "starting"
        self.screen = display.Screen(self._rows)

    @property
    def told(self) -> Collection[tuple[str, Kind]]:
        return self._lines.told

    def on(self, event: Event) -> None:
        self._follow(event)
        texts = self._lines.of(event)
        for text in texts if not isinstance(event, events.RoundStarted | events.ReplyAccepted) else ():
            self.screen.line(text)

    def _follow(self, event: Event) -> None:
        now = time.monotonic()
        match event:
            case events.RunStarted():
                self._states, self._slots = dict.fromkeys(event.sites, "not started"), event.slots
            case events.ProcessStarted() if event.name in self._states:
                self._states[event.name] = "starting"
            case events.WorkflowStarted():
                self._pace, self._stage = None, f"{event.workflow} running" if event.num_workflows > 1 else "running"
            case events.RoundStarted():
                if self._pace is None or not self._pace.goes_on_with(event):
                    self._pace = Pace(event, now, at_once=self._slots)
                self._pace.begin_round(event, now)
                self._stage = "running"
            case events.ClientReady():
                self._states[event.site] = "waiting"
            case events.TaskSent():
                self._states[event.site] = f"{_WORKING}{event.task}"
            case events.ReplyArrived():
                self._states[event.site] = "answered"
                self._count(event.site, event.round_num, now)
            case events.ReplyAccepted():
                self._states[event.site] = "answered"
                self._count(event.site, event.round_num, now)
                if event.metrics:
                    what = event.task if self._pace is None else f"round {event.round_num}"
                    self._metrics[event.site] = f"{what}: {_metrics(event.metrics, 3)}"
            case events.ReplyFailed():
                self._states[event.site] = "failed"
                self._count(event.site, event.round_num, now)
            case events.NotAwaited():
                self._states[event.site] = "not waited for"
                self._count(event.site, event.round_num, now)
            case events.ClientStopped():
                self._states[event.site] = "stopped"
            case events.ProcessExited() if event.name in self._states and event.exit_code:
                self._states[event.name] = "failed"
            case events.ProcessExited() if event.name in self._states:
                self._states[event.name] = "ended"
            case events.WorkflowFinished():
                self._stage = "ending"

    def _count(self, site: str, round_num: int, now: float) -> None:
        if self._pace is not None and round_num == self._pace.round_num:
            self._pace.answered(site, now)

    def _rows(self) -> Sequence[Sequence[Cell]]:
        now = time.monotonic()
        spent = _seconds(now - self._began)
        if (pace := self._pace) is None:
            return [[(f"{self._stage} …", ""), (spent, "")], *self._clients()]
        done = round(_BAR * (pace.share if self._stage == "running" else 1.0))
        left = pace.left_s(now)
        still = "" if left is None else f"about {_seconds(left)} left" if left >= 0 else "longer than expected"
        head = f"round {pace.round_num} of {pace.first}–{pace.end - 1}"
        return [
            [
                (head, "bold"),
                ("━" * done + "─" * (_BAR - done), "cyan"),
                (spent, ""),
                (still, ""),
            ],
            *self._clients(),
        ]

    def _clients(self) -> Iterator[Sequence[Cell]]:
        if len(self._states) > _MOST_ROWS:
            counts: dict[str, int] = {}
            for state in list(self._states.values()):
                counts[state] = counts.get(state, 0) + 1
            yield [
                (f"  {len(self._states)} clients", ""),
                (", ".join(f"{n} {state}" for state, n in counts.items()), ""),
            ]
            return
        colours = {"failed": "red", "answered": "green"}
        for site, state in list(self._states.items()):
            colour = "cyan" if state.startswith(_WORKING) else colours.get(state, "dim")
            yield [(f"  {site}", ""), (state, colour), (self._metrics.get(site, ""), "")]


class Pace:
    """How far the rounds of a workflow are, counted in answers, and how long the others will take."""

    def __init__(self, first: events.RoundStarted, now: float, *, at_once: int) -> None:
        """`at_once`: how many clients work at the same time."""
        self.first, self.end = first.first_round, first.first_round + first.num_rounds
        self.round_num = first.round_num
        self._workflow = first.workflow
        self._start, self._began, self._at_once = first.round_num, now, at_once
        self._asked = 1
        self._answered: set[str] = set()
        self._ends: float | None = None

    def goes_on_with(self, event: events.RoundStarted) -> bool:
        """Whether it is a later round of the same workflow."""
        return event.workflow == self._workflow and event.round_num > self.round_num

    def begin_round(self, event: events.RoundStarted, now: float) -> None:
        self.round_num, self._asked = event.round_num, max(1, len(event.sites))
        self._answered.clear()
        if (ends := self._estimated(now)) is not None:
            self._ends = ends

    def answered(self, site: str, now: float) -> None:
        """An answer, or a failure. Within a round, the end is not put off."""
        self._answered.add(site)
        has_paced = self.round_num > self._start or len(self._answered) >= min(self._at_once, self._asked)
        if has_paced and (ends := self._estimated(now)) is not None:
            self._ends = ends if self._ends is None else min(self._ends, ends)

    @property
    def share(self) -> float:
        """The part of the rounds that is done, of those that this process runs."""
        return min(1.0, self._done / max(1, self.end - self._start))

    def left_s(self, now: float) -> float | None:
        """None if it is not known; below zero if it takes longer than expected."""
        if self._ends is None:
            return None
        left = self._ends - now
        return left if left < -_LATE_S else max(0.0, left)

    @property
    def _done(self) -> float:
        return self.round_num - self._start + min(1.0, len(self._answered) / self._asked)

    def _estimated(self, now: float) -> float | None:
        left = self.end - self._start - self._done
        return now + (now - self._began) / self._done * left if self._done else None


class Lines:
    """The lines to print for each event. An answer is shown with its round if that round is running.

    A failure is told whole the first time. Of failures alike in one round, only the number is told, at its end.
    """

    def __init__(self) -> None:
        self.told: set[tuple[str, Kind]] = set()
        self._causes: dict[Kind, str] = {}
        self._alike: dict[Kind, list[str]] = {}  # the sites that failed in this round, for what they were not told for
        self._round: int | None = None
        self._asked = self._clients = 0
        self._skipped: set[tuple[str, str, str, int]] = set()  # answers that the run does not wait for

    def of(self, event: Event) -> list[str]:
        """The lines for an event, in the order of the run; most events have none."""
        match event:
            case events.RunStarted():
                self._clients = len(event.sites)
                threads = counted(event.threads, "thread")
                settings = f"{event.slots} at a time, {threads} each, seed {event.seed}, {event.launcher}"
                return [
                    f"job {event.job}: {counted(self._clients, 'client')}, {settings}",
                    f"workspace {event.workspace}",
                ]
            case events.ServerReady() if event.whole_rounds:
                return [f"resumed: {counted(event.whole_rounds, 'round')} done"]
            case events.WorkflowStarted() if event.num_workflows > 1:
                number = f"{event.number} of {event.num_workflows}"
                return [*self._failed_alike(), f"workflow {event.workflow} started ({number})"]
            case events.RoundStarted():
                before = self._failed_alike()
                self._round, self._asked = event.round_num, len(event.sites)
                return [*before, f"round {event.round_num} started with {counted(self._asked, 'client')}"]
            case events.ReplyAccepted():
                task = _task(event)
                head = f"{self._when(event.round_num)}{event.site} answered {task} in {event.work_s:.1f} s"
                return [_with_metrics(head, event.metrics)]
            case events.ReplyFailed():
                return self._failed(event)
            case events.NotAwaited():
                self._skipped.add(_answer(event))
                return [f"{self._when(event.round_num)}{event.site} is not waited for in {event.task}: enough answered"]
            case events.ReplyLate() if _answer(event) in self._skipped:
                self._skipped.remove(_answer(event))
            case events.ReplyLate():
                return [f"note: {event.site} answered {event.task} too late: its answer is not used"]
            case events.ClientStopped():
                self.told.add((event.site, kind_of(event.site, event.failure)))
                return _failure(f"note: {event.site}", event.failure)
            case events.Notice():
                return [f"note: {event.text}"]
            case events.RoundFinished():
                alike, asked = self._failed_alike(), self._asked
                self._round = None
                took = event.wait_s + event.aggregate_s + event.save_s
                answers = counted(len(event.sites), "answer")
                missing = f" of {counted(asked, 'client')}" if len(event.sites) < asked else ""
                head = f"round {event.round_num} finished in {took:.1f} s: {answers}{missing}"
                chosen = event.aggregate.get("chosen")
                taken = [f"round {event.round_num}: chosen: {_few(chosen)}"] if isinstance(chosen, list) else []
                return [*alike, _with_metrics(head, event.metrics), *taken]
            case events.ModelValidated():
                head = f"final model measured by {counted(len(event.by_site), 'client')}"
                return [*self._failed_alike(), _with_metrics(head, event.metrics)]
            case events.BestModel():
                which = "final model" if event.is_final else f"round {event.round_num}: the model that was sent"
                return [f"{which} is the best so far: {event.metric} {_number(event.score)}"]
            case events.RunFinished():
                how = "failed" if event.exit_code == RunError.exit_code else "ended early"
                said = [] if event.ok else [f"the run {how}; its report: {event.report}"]
                return [*self._failed_alike(), *said]
        return []

    def _failed(self, event: events.ReplyFailed) -> list[str]:
        kind = kind_of(event.site, event.failure)
        if (event.site, kind) in self.told:
            return []
        self.told.add((event.site, kind))
        alike = self._alike.setdefault(kind, [])
        alike.append(event.site)
        head = f"{self._when(event.round_num)}{event.site} failed in {_task(event)}"
        if kind not in self._causes:
            self._causes[kind] = _of_any_site(event.site, event.failure.cause)
            return _failure(head, event.failure)
        return [f"{head}: {event.failure.cause}"] if len(alike) == 1 else []

    def _failed_alike(self) -> list[str]:
        """For each kind of which several sites failed in this round, how many."""
        several = [(kind, sites) for kind, sites in self._alike.items() if len(sites) > 1]
        self._alike = {}
        when = "" if self._round is None else self._when(self._round)
        clients = self._asked or self._clients
        return [f"{when}{_alike(len(sites), clients)}: {self._causes[kind]}" for kind, sites in several]

    def _when(self, round_num: int) -> str:
        return f"round {round_num}: " if round_num == self._round else ""


def summary(report: Report) -> None:
    """A table with a row for each round, and the paths of the results."""
    display.line("")
    table = Table(report, display.width())
    if table.rows:
        display.table(table.rows, table.columns)
        if not display.on_terminal():
            display.line("")
    if table.left_out:
        display.line(f"not in the table: {table.left_out}; report.json has all")
    for each in report.tables:
        _result(each)
    if report.rounds:
        display.line("metrics of a round are measured on the model that each client received, before training")
    if report.best:
        best = report.best
        which = "the final model" if best.is_final else f"the model sent in round {best.round_num}"
        display.line(f"best: {which}, {best.metric} {_number(best.score)}, as the model selector weighs it")
    if spent := next((each.privacy for each in reversed(report.rounds) if each.privacy), None):
        epsilon = "infinite" if spent.epsilon is None else _number(spent.epsilon)
        display.line(f"privacy: epsilon {epsilon} at delta {spent.delta:g}, {spent.mechanism}")
    for text in [*_failed_sites(report), *_not_waited_for(report)]:
        display.line(text)
    for path in report.models:
        display.line(f"model      {path}")
    for view in report.curves:
        display.line(f"curves     {view}")
    if report.rounds:  # without a round, nothing was trained
        display.line(f"digest     {report.digest}")
    display.line(f"page       {report.workspace}/report.html")
    display.line(f"report     {report.workspace}/report.json")
    display.line(f"events     {report.workspace}/events.jsonl")
    display.line(f"logs       {report.workspace}/<site>/log.txt")
    display.line(f"seconds    {report.times.get('run_finished_s', 0.0):.1f}")


def _result(found: TableReport) -> None:
    """A table that a workflow found, with as many of its columns as fit."""
    cells = [[_cell(value) for value in row] for row in found.rows]
    columns = [_Column(name, [row[number] for row in cells]) for number, name in enumerate(found.columns)]
    free = display.width()
    shown: list[_Column] = []
    for column in columns:
        free -= column.width
        if shown and free < 0:
            break
        shown.append(column)
    display.line(f"{found.title}:")
    rows = [{column.heading: column.cells[index] for column in shown} for index in range(len(cells))]
    display.table(rows, [column.heading for column in shown])
    if len(shown) < len(columns):
        display.line(f"not in the table: {len(columns) - len(shown)} of {len(columns)} columns; report.json has all")
    if not display.on_terminal():
        display.line("")


def _cell(value: str | float | None) -> str:
    return value if isinstance(value, str) else "" if value is None else _number(value)


def table_of(report: Report, width: int = 80) -> tuple[list[dict[str, str]], list[str]]:
    """The rows and columns of `Table`."""
    table = Table(report, width)
    return table.rows, table.columns


class Table:
    """For each round: the mean of each metric, each site's own if sites are few, answers, seconds.

    It is at most `width` columns wide, but shows at least one metric. `left_out` says what it does not show.
    """

    def __init__(self, report: Report, width: int) -> None:
        lines = _table_lines(report)
        workflows = dict.fromkeys(line.workflow for line in lines)
        metrics = dict.fromkeys(name for line in lines for name in line.means)
        if report.best and report.best.metric in metrics:
            metrics = {report.best.metric: None} | metrics  # it is shown before all others
        names = list(metrics)
        sites = report.sites if len(report.sites) <= _MOST_SITES else []
        first = [_Column("round", [line.label for line in lines])]
        if len(workflows) > 1:
            first = [_Column("workflow", [line.workflow for line in lines]), *first]
        last = [
            _Column("answered", [line.answered for line in lines]),
            _Column("seconds", [line.seconds for line in lines]),
        ]
        free = width - sum(column.width for column in [*first, *last])
        wanted = [(site, name) for name in names for site in sites]
        for own in (wanted, wanted[: len(sites)], []):
            shown = _fitting(lines, [*(("", name) for name in names), *own], free)
            if len(shown) == len(names) + len(own):
                break
        columns = [*first, *shown, *last]
        self.columns = [column.heading for column in columns]
        self.rows = [{column.heading: column.cells[index] for column in columns} for index in range(len(lines))]
        missing = max(0, len(names) - len(shown))
        has_own = any(line.own for line in lines) and len(report.sites) > 1
        parts = [f"{missing:,} of {counted(len(names), 'metric')}"] if missing else []
        if has_own and (missing or len(shown) < len(names) * (1 + len(report.sites))):
            parts.append("the clients' other values" if own else "the values of each client")
        self.left_out = ", ".join(parts)


class _Line(NamedTuple):
    """A row of the table, of a round or of the final model."""

    workflow: str
    label: str
    means: Metrics
    own: Mapping[str, Metrics]
    answered: str
    seconds: str


def _table_lines(report: Report) -> list[_Line]:
    named = [*(each.workflow for each in report.rounds), *(last.workflow for last in report.validations)]
    lines = []
    for workflow in dict.fromkeys(named):
        for each in report.rounds:
            if each.workflow == workflow:
                answers = f"{len(each.answered)} of {len(each.asked)}"
                seconds = f"{each.total_s:.2f}"
                lines.append(_Line(workflow, str(each.round_num), each.metrics, each.metrics_by_site, answers, seconds))
        for final in report.validations:
            if final.workflow == workflow and final.metrics:
                answered = len(final.metrics_by_site)
                answers = f"{answered} of {answered + len(final.failed)}"
                lines.append(_Line(workflow, "final", final.metrics, final.metrics_by_site, answers, ""))
    return lines


class _Column(NamedTuple):
    heading: str
    cells: Sequence[str]

    @property
    def width(self) -> int:
        """With the space before it."""
        return 2 + max(map(display.len_of, [self.heading, *self.cells]))


def _fitting(lines: Sequence[_Line], wanted: Sequence[tuple[str, str]], free: int) -> list[_Column]:
    """The first of the wanted columns, named by site (empty: the mean) and metric, that fit into `free`; at least one.

    Each has a heading of its own: a metric may be called as a column of ours, or as a site.
    """
    columns: list[_Column] = []
    taken = set(_OURS)
    several = len({name for _, name in wanted}) > 1
    for site, name in wanted:
        text = (f"{site} {name}" if several else site) if site else name
        heading = foreign.shortened(text, _WIDEST_HEADING)
        unique = heading if site or heading not in _OURS else f"{heading} (metric)"
        number = 1
        while unique in taken:
            number += 1
            unique = f"{heading} ({number})"
        taken.add(unique)
        measured = [line.own.get(site, {}) if site else line.means for line in lines]
        column = _Column(unique, [_number(each[name]) if name in each else "" for each in measured])
        free -= column.width
        if columns and free < 0:
            break
        columns.append(column)
    return columns


def failures(report: Report, told: Collection[tuple[str, Kind]] = ()) -> list[str]:
    """For the failures that were not told: the sites, round, task, cause, the line in the job, the end of the log."""
    texts = []
    for sites in _by_kind(report):
        first = report.failures[sites[0]]
        if all((site, kind_of(site, report.failures[site].failure)) in told for site in sites):
            continue
        when = "" if first.round_num is None else f", round {first.round_num}"
        task = f", {first.task}" if first.task else ""
        if len(sites) > 1:
            texts.append(f"{_alike(len(sites), len(report.sites))}: {_few(sites)}; the first:")
        texts += _failure(f"{sites[0]}{when}{task}", first.failure)
    return texts


def kind_of(site: str, failure: Failure) -> Kind:
    """What this failure has in common with those of other sites."""
    return re.sub(r"\d+(\.\d+)?", "#", _of_any_site(site, failure.cause)), failure.where


def _of_any_site(site: str, cause: str) -> str:
    return re.sub(rf"(?<![\w.-]){re.escape(site)}(?![\w-])", "<site>", cause)


def _by_kind(report: Report) -> list[list[str]]:
    """The sites that failed, in order; those that failed alike together."""
    sites: dict[Kind, list[str]] = {}
    for site, first in report.failures.items():
        sites.setdefault(kind_of(site, first.failure), []).append(site)
    return list(sites.values())


def _failed_sites(report: Report) -> list[str]:
    """One line for every site that failed: the rounds, and the first cause."""
    several = len({each.workflow for each in report.rounds}) > 1
    failed = [
        (f"{each.workflow} round {each.round_num}" if several else f"round {each.round_num}", each.failed)
        for each in report.rounds
    ]
    failed += [("validation", each.failed) for each in report.validations] or [("validation", report.final_failed)]
    texts = []
    for sites in _by_kind(report):
        labels = [label for label, failures in failed if any(site in failures for site in sites)]
        rounds = _few(labels).replace(", round ", ", ")
        who = f"{_alike(len(sites), len(report.sites))}: {_few(sites)}" if len(sites) > 1 else f"failed: {sites[0]}"
        texts.append(f"{who}{f' in {rounds}' if rounds else ''}: {report.failures[sites[0]].failure.cause}")
    return texts


def _alike(number: int, clients: int) -> str:
    return f"{number} of {counted(clients, 'client')} failed alike"


def _few(names: Sequence[str]) -> str:
    """The names, or the first and the last of many."""
    if len(names) <= _MOST_NAMES:
        return ", ".join(names)
    return f"{', '.join(names[: _MOST_NAMES - 1])}, … {names[-1]}"


def _task(event: events.ReplyAccepted | events.ReplyFailed) -> str:
    return f"{event.task} (model {event.model_owner})" if event.model_owner else event.task


def _answer(event: events.NotAwaited | events.ReplyLate) -> tuple[str, str, str, int]:
    return event.site, event.workflow, event.task, event.round_num


def _not_waited_for(report: Report) -> list[str]:
    """One line for the sites whose answers some rounds did not wait for."""
    counts = Counter(site for each in report.rounds for site in each.not_waited_for)
    named = [f"{site} in {counted(counts[site], 'round')}" for site in report.sites if site in counts]
    more = [f"{len(named) - _MOST_SITES} more"] if len(named) > _MOST_SITES else []
    return [f"not waited for: {', '.join([*named[:_MOST_SITES], *more])}"] if named else []


def _failure(head: str, failure: Failure) -> list[str]:
    texts = [f"{head}: {failure.cause}"]
    if failure.where:
        texts.append(f"    at {failure.where}")
    if failure.log_tail:
        texts.append(f"    the last lines of {failure.log}:")
        texts += [f"    | {text}" for text in failure.log_tail]
    elif failure.log:
        texts.append(f"    its log: {failure.log}")
    return texts


def _with_metrics(text: str, metrics: Metrics) -> str:
    return f"{text}, {_metrics(metrics)}" if metrics else text


def _metrics(metrics: Metrics, most: int = _MOST_METRICS) -> str:
    first = ", ".join(f"{name} {_number(value)}" for name, value in islice(metrics.items(), most))
    return f"{first} and {len(metrics) - most:,} more" if len(metrics) > most else first


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4g}"


def _seconds(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
