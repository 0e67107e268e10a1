"""The output of `fedsag simulator`: live on a terminal, lines in a pipe, JSON for programs; a table at the end."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from fedsag_cli import events
from fedsag_cli.cli import display
from fedsag_cli.cli.display import Format
from fedsag_cli.events import Event, Failure, Metrics, Observer
from fedsag_cli.simulator.report import Report

_MOST_ROWS = 12  # clients shown one by one in the live view
_MOST_SITES = 6  # sites with a column of their own in the table at the end
_WORKING = "working on "


@contextmanager
def view(output: Format) -> Iterator[Observer]:
    """The observer that prints events in this format, and live on a terminal."""
    if output is Format.JSON:
        yield JsonView()
    elif display.on_terminal(sys.stdout):
        with LiveView() as live:
            yield live
    else:
        yield PlainView()


class JsonView:
    """One event a line."""

    def on(self, event: Event) -> None:
        display.line(events.to_line(event).decode().rstrip("\n"))


class PlainView:
    """One line for each event that a reader of a log needs."""

    def __init__(self) -> None:
        self._lines = Lines()

    def on(self, event: Event) -> None:
        for text in self._lines.of(event):
            display.line(display.escaped(text))


class LiveView:
    """The round, the state and last metrics of every client, and the time left; failures and notes above it."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self._lines = Lines()
        self._console = Console(highlight=False)
        self._states: dict[str, str] = {}
        self._metrics: dict[str, str] = {}
        self._round = self._end_round = 0
        self._first_round: int | None = None
        self._began = time.monotonic()
        self._rounds_began = 0.0
        self._stage = "starting"
        self._live = Live(console=self._console, refresh_per_second=8, transient=True, get_renderable=self._drawn)

    def __enter__(self) -> LiveView:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def on(self, event: Event) -> None:
        from rich.text import Text

        self._follow(event)
        texts = self._lines.of(event)
        for text in texts if not isinstance(event, events.RoundStarted | events.ReplyAccepted) else ():
            self._console.print(Text(display.escaped(text)), soft_wrap=True)

    def _follow(self, event: Event) -> None:
        match event:
            case events.RunStarted():
                self._states = dict.fromkeys(event.sites, "not started")
            case events.ProcessStarted() if event.name in self._states:
                self._states[event.name] = "starting"
            case events.RoundStarted():
                self._round, self._end_round = event.round_num, event.first_round + event.num_rounds
                self._stage = "running"
                if self._first_round is None:
                    self._first_round, self._rounds_began = event.round_num, time.monotonic()
            case events.ClientReady():
                self._states[event.site] = "waiting"
            case events.TaskSent():
                self._states[event.site] = f"{_WORKING}{event.task}"
            case events.ReplyAccepted():
                self._states[event.site] = "answered"
                self._metrics[event.site] = _metrics(event.metrics)
            case events.ReplyFailed():
                self._states[event.site] = "failed"
            case events.NotAwaited():
                self._states[event.site] = "not waited for"
            case events.ClientStopped():
                self._states[event.site] = "stopped"
            case events.ProcessExited() if event.name in self._states and event.exit_code:
                self._states[event.name] = "failed"
            case events.ProcessExited() if event.name in self._states:
                self._states[event.name] = "ended"
            case events.WorkflowFinished():
                self._stage = "ending"

    def _drawn(self) -> Any:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        head = Table.grid(padding=(0, 2))
        if self._first_round is None:
            head.add_row(f"{self._stage} …", f"{_seconds(time.monotonic() - self._began)}")
            return Group(head, self._clients())
        total, done = self._end_round - self._first_round, self._round - self._first_round
        spent = time.monotonic() - self._rounds_began
        left = f"about {_seconds(max(0.0, spent / done * total - spent))} left" if done else ""
        bar = ProgressBar(total=total, completed=done if self._stage == "running" else total, width=30)
        head.add_row(
            Text(f"round {self._round} of {self._first_round}–{self._end_round - 1}", style="bold"),
            bar,
            f"{_seconds(time.monotonic() - self._began)}",
            left,
        )
        return Group(head, self._clients())

    def _clients(self) -> Any:
        from rich.table import Table
        from rich.text import Text

        table = Table.grid(padding=(0, 2))
        if len(self._states) > _MOST_ROWS:
            counts: dict[str, int] = {}
            for state in self._states.values():
                counts[state] = counts.get(state, 0) + 1
            table.add_row("  ", f"{len(self._states)} clients: " + ", ".join(f"{n} {s}" for s, n in counts.items()))
            return table
        colours = {"failed": "red", "answered": "green"}
        for site, state in self._states.items():
            colour = "cyan" if state.startswith(_WORKING) else colours.get(state, "dim")
            table.add_row("  ", site, Text(state, style=colour), Text(self._metrics.get(site, "")))
        return table


class Lines:
    """The lines to print for each event. An answer is shown with its round if that round is running."""

    def __init__(self) -> None:
        self._round: int | None = None
        self._skipped: set[tuple[str, str, str, int]] = set()  # answers that the run does not wait for

    def of(self, event: Event) -> list[str]:
        """The lines for an event, in the order of the run; most events have none."""
        match event:
            case events.RunStarted():
                threads = _count(event.threads, "thread")
                settings = f"{event.slots} at a time, {threads} each, seed {event.seed}, {event.launcher}"
                return [
                    f"job {event.job}: {_count(len(event.sites), 'client')}, {settings}",
                    f"workspace {event.workspace}",
                ]
            case events.ServerReady() if event.whole_rounds:
                return [f"resumed: {_count(event.whole_rounds, 'round')} done"]
            case events.RoundStarted():
                self._round = event.round_num
                return [f"round {event.round_num} started with {_count(len(event.sites), 'client')}"]
            case events.ReplyAccepted():
                head = f"{self._when(event.round_num)}{event.site} answered {event.task} in {event.work_s:.1f} s"
                return [_with_metrics(head, event.metrics)]
            case events.ReplyFailed():
                return _failure(f"{self._when(event.round_num)}{event.site} failed in {event.task}", event.failure)
            case events.NotAwaited():
                self._skipped.add(_answer(event))
                return [f"{self._when(event.round_num)}{event.site} is not waited for in {event.task}: enough answered"]
            case events.ReplyLate() if _answer(event) in self._skipped:
                self._skipped.remove(_answer(event))
            case events.ReplyLate():
                return [f"note: {event.site} answered {event.task} too late: its answer is not used"]
            case events.ClientStopped():
                return _failure(f"note: {event.site}", event.failure)
            case events.Notice():
                return [f"note: {event.text}"]
            case events.RoundFinished():
                self._round = None
                took = event.wait_s + event.aggregate_s + event.save_s
                head = f"round {event.round_num} finished in {took:.1f} s: {_count(len(event.sites), 'answer')}"
                return [_with_metrics(head, event.metrics)]
            case events.ModelValidated():
                return [_with_metrics(f"final model measured by {_count(len(event.by_site), 'client')}", event.metrics)]
            case events.BestModel():
                which = "final model" if event.is_final else f"round {event.round_num}: the model that was sent"
                return [f"{which} is the best so far: {event.metric} {_number(event.score)}"]
            case events.RunFinished() if not event.ok:
                return [f"the run failed; its report: {event.report}"]
        return []

    def _when(self, round_num: int) -> str:
        return f"round {round_num}: " if round_num == self._round else ""


def summary(report: Report) -> None:
    """A table with a row for each round, and the paths of the results."""
    display.line("")
    rows, columns = table_of(report)
    display.table(rows, columns)
    display.line("")
    if report.rounds:
        display.line("the metrics of a round are measured before training, on the model that the server sent")
    if report.best:
        best = report.best
        which = "the final model" if best.is_final else f"the model sent in round {best.round_num}"
        display.line(f"best: {which}, {best.metric} {_number(best.score)} (weighted by the model selector)")
    for text in [*_failed_sites(report), *_not_waited_for(report)]:
        display.line(display.escaped(text))
    for path in report.models:
        display.line(f"model      {path}")
    for view in report.curves:
        display.line(f"curves     {view}")
    display.line(f"digest     {report.digest}")
    display.line(f"report     {report.workspace}/report.json")
    display.line(f"events     {report.workspace}/events.jsonl")
    display.line(f"logs       {report.workspace}/<site>/log.txt")
    display.line(f"seconds    {report.times.get('run_finished_s', 0.0):.1f}")


def table_of(report: Report) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows and columns. For each round: the mean of each metric, each site's own if sites are few, answers, seconds."""
    measured = [*(each.metrics for each in report.rounds), *(last.metrics for last in report.validations)]
    metrics = list(dict.fromkeys(name for each in measured for name in each))
    by_site = [(site, name) for name in metrics for site in report.sites] if len(report.sites) <= _MOST_SITES else []
    if len(metrics) > 1:
        headings = {(site, name): f"{site} {name}" for site, name in by_site}
    else:
        headings = {(site, name): site for site, name in by_site}

    def row(label: str, means: Metrics, own: Mapping[str, Metrics]) -> dict[str, Any]:
        cells = {"round": label, **{name: _number(means[name]) if name in means else "" for name in metrics}}
        for site, name in by_site:
            mine = own.get(site, {})
            cells[headings[site, name]] = _number(mine[name]) if name in mine else ""
        return cells

    rows = []
    named = [*(each.workflow for each in report.rounds), *(last.workflow for last in report.validations)]
    workflows = list(dict.fromkeys(named))
    for workflow in workflows:
        for each in report.rounds:
            if each.workflow == workflow:
                cells = row(str(each.round_num), each.metrics, each.metrics_by_site)
                cells["answered"] = f"{len(each.answered)} of {len(each.asked)}"
                rows.append(cells | {"workflow": workflow, "seconds": f"{each.total_s:.2f}"})
        for last in report.validations:
            if last.workflow == workflow and last.metrics:
                answered = len(last.metrics_by_site)
                cells = row("final", last.metrics, last.metrics_by_site)
                cells["answered"] = f"{answered} of {answered + len(last.failed)}"
                rows.append(cells | {"workflow": workflow, "seconds": ""})
    first = ["workflow"] if len(workflows) > 1 else []
    return rows, [*first, "round", *metrics, *headings.values(), "answered", "seconds"]


def failures(report: Report) -> list[str]:
    """For every site that failed, in order: the round, the task, the cause, the line in the job, the end of the log."""
    texts = []
    for site, first in report.failures.items():
        when = "" if first.round_num is None else f", round {first.round_num}"
        task = f", {first.task}" if first.task else ""
        texts += _failure(f"{site}{when}{task}", first.failure)
    return texts


def _failed_sites(report: Report) -> list[str]:
    """One line for every site that failed: the rounds, and the first cause."""
    several = len({each.workflow for each in report.rounds}) > 1
    failed = [
        (f"{each.workflow} round {each.round_num}" if several else f"round {each.round_num}", each.failed)
        for each in report.rounds
    ]
    failed += [("validation", each.failed) for each in report.validations] or [("validation", report.final_failed)]
    texts = []
    for site, first in report.failures.items():
        labels = [label for label, failures in failed if site in failures]
        rounds = ", ".join(labels).replace(", round ", ", ")
        texts.append(f"failed: {site}{f' in {rounds}' if rounds else ''}: {first.failure.cause}")
    return texts


def _answer(event: events.NotAwaited | events.ReplyLate) -> tuple[str, str, str, int]:
    return event.site, event.workflow, event.task, event.round_num


def _not_waited_for(report: Report) -> list[str]:
    """One line for the sites whose answers some rounds did not wait for."""
    counts = Counter(site for each in report.rounds for site in each.not_waited_for)
    named = [f"{site} in {_count(counts[site], 'round')}" for site in report.sites if site in counts]
    more = [f"{len(named) - _MOST_SITES} more"] if len(named) > _MOST_SITES else []
    return [f"not waited for: {', '.join([*named[:_MOST_SITES], *more])}"] if named else []


def _failure(head: str, failure: Failure) -> list[str]:
    texts = [f"{head}: {failure.cause}"]
    if failure.where:
        texts.append(f"    at {failure.where}")
    if failure.log_tail:
        texts.append(f"    the last lines of {failure.log}:")
        texts += [f"    | {text.expandtabs(4)}" for text in failure.log_tail]
    elif failure.log:
        texts.append(f"    its log: {failure.log}")
    return texts


def _with_metrics(text: str, metrics: Metrics) -> str:
    return f"{text}, {_metrics(metrics)}" if metrics else text


def _metrics(metrics: Metrics) -> str:
    return ", ".join(f"{name} {_number(value)}" for name, value in metrics.items())


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4g}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _seconds(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
