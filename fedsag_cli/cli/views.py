"""What `fedsag simulator` shows: live on a terminal, plain lines when piped, JSON for programs; a table at the end."""

from __future__ import annotations

import sys
import time
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


@contextmanager
def view(output: Format) -> Iterator[Observer]:
    """The observer that fits where we print to."""
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
    """A line for what a reader of a log wants to know."""

    def on(self, event: Event) -> None:
        for text in lines_of(event):
            display.line(display.escaped(text))


class LiveView:
    """The round, every client's state and last metrics, the time left; failures and notes scroll by above it."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

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
        if not isinstance(event, events.RoundStarted | events.ReplyAccepted):
            for text in lines_of(event):
                self._console.print(Text(display.escaped(text)), soft_wrap=True)

    def _follow(self, event: Event) -> None:
        match event:
            case events.RunStarted():
                self._states = dict.fromkeys(event.sites, "not started")
            case events.ProcessStarted() if event.name in self._states:
                self._states[event.name] = "starting"
            case events.RoundStarted():
                self._round, self._end_round = event.round_num, event.first_round + event.num_rounds
                self._stage = "training"
                if self._first_round is None:
                    self._first_round, self._rounds_began = event.round_num, time.monotonic()
            case events.ClientReady():
                self._states[event.site] = "waiting"
            case events.TaskSent():
                self._states[event.site] = "training" if event.task == "train" else f"working on {event.task}"
            case events.ReplyAccepted():
                self._states[event.site] = "answered"
                self._metrics[event.site] = _metrics(event.metrics)
            case events.ReplyFailed():
                self._states[event.site] = "failed"
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
        bar = ProgressBar(total=total, completed=done if self._stage == "training" else total, width=30)
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
        colours = {"training": "cyan", "failed": "red", "answered": "green"}
        for site, state in self._states.items():
            table.add_row("  ", site, Text(state, style=colours.get(state, "dim")), Text(self._metrics.get(site, "")))
        return table


def lines_of(event: Event) -> list[str]:
    """What a person should read of an event; nothing for most."""
    match event:
        case events.RunStarted():
            many = "client" if len(event.sites) == 1 else "clients"
            threads = "thread" if event.threads == 1 else "threads"
            settings = f"{event.slots} at a time, {event.threads} {threads} each, seed {event.seed}, {event.launcher}"
            return [f"job {event.job}: {len(event.sites)} {many}, {settings}", f"workspace {event.workspace}"]
        case events.ServerReady() if event.whole_rounds:
            rounds = "1 round" if event.whole_rounds == 1 else f"{event.whole_rounds} rounds"
            return [f"resumed: {rounds} done"]
        case events.RoundStarted():
            return [f"round {event.round_num}  started with {len(event.sites)} clients"]
        case events.ReplyAccepted():
            return [
                f"{_when(event)}  {event.site} answered in {event.work_s:.1f} s  {_metrics(event.metrics)}".rstrip()
            ]
        case events.ReplyFailed():
            return _failure(f"{_when(event)}  {event.site} failed", event.failure)
        case events.ReplyLate():
            return [f"note: {event.site} answered a task that had been given up: dropped"]
        case events.ClientStopped():
            return _failure(f"note: {event.site}", event.failure)
        case events.Notice():
            return [f"note: {event.text}"]
        case events.RoundFinished():
            took = event.wait_s + event.aggregate_s + event.save_s
            return [
                f"round {event.round_num}  finished in {took:.1f} s, {len(event.sites)} answered  "
                f"{_metrics(event.metrics)}".rstrip()
            ]
        case events.ModelValidated():
            return [f"final model  measured by {len(event.by_site)} clients  {_metrics(event.metrics)}"]
        case events.BestModel():
            which = "final model  it" if event.is_final else f"round {event.round_num}  the model sent"
            return [f"{which} is the best so far: {event.metric} {_number(event.score)}"]
        case events.RunFinished() if not event.ok:
            return [f"the run failed; what there is of it: {event.report}"]
    return []


def summary(report: Report) -> None:
    """A table by round, and where everything lies."""
    display.line("")
    rows, columns = table_of(report)
    display.table(rows, columns)
    display.line("")
    if report.rounds:
        display.line("a round's metrics are those of the model sent in it, measured before training")
    if report.best:
        best = report.best
        which = "the final model" if best.is_final else f"the model sent in round {best.round_num}"
        display.line(f"best: {which}, {best.metric} {_number(best.score)} (the mean as the model selector takes it)")
    for text in _who_failed(report):
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
    """By round: the mean of each metric, the sites' own where they are few, who answered, the time."""
    measured = [*(each.metrics for each in report.rounds), report.final_metrics]
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
    for each in report.rounds:
        cells = row(str(each.round_num), each.metrics, each.metrics_by_site)
        cells["answered"] = f"{len(each.answered)} of {len(each.asked)}"
        cells["seconds"] = f"{each.total_s:.2f}"
        rows.append(cells)
    if report.final_metrics:
        cells = row("final", report.final_metrics, report.final_metrics_by_site)
        answered = len(report.final_metrics_by_site)
        rows.append(cells | {"answered": f"{answered} of {answered + len(report.final_failed)}", "seconds": ""})
    return rows, ["round", *metrics, *headings.values(), "answered", "seconds"]


def failures(report: Report) -> list[str]:
    """Every site that failed, the first cause first: the round, why, the line in the job, the end of its log."""
    texts = []
    for site, first in report.failures.items():
        when = "" if first.round_num is None else f", round {first.round_num}"
        task = f", {first.task}" if first.task not in ("", "train") else ""
        texts += _failure(f"{site}{when}{task}", first.failure)
    return texts


def _who_failed(report: Report) -> list[str]:
    """One line a site that failed: in which rounds, and the first cause."""
    failed = [(f"round {each.round_num}", each.failed) for each in report.rounds] + [
        ("validation", report.final_failed)
    ]
    texts = []
    for site, first in report.failures.items():
        labels = [label for label, failures in failed if site in failures]
        rounds = ", ".join(labels).replace(", round ", ", ")
        texts.append(f"failed: {site}{f' in {rounds}' if rounds else ''}: {first.failure.cause}")
    return texts


def _when(event: events.ReplyAccepted | events.ReplyFailed) -> str:
    return f"round {event.round_num}" if event.task == "train" else event.task


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


def _metrics(metrics: Metrics) -> str:
    return ", ".join(f"{name} {_number(value)}" for name, value in metrics.items())


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4g}"


def _seconds(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
