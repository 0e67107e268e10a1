"""The live view: the round, the time left, the last metrics, and every client, in the room that the terminal has."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import islice

from fedsag_cli import events, foreign
from fedsag_cli.cli import display, wording
from fedsag_cli.cli.clients import (
    ANSWERED,
    ENDED,
    FAILED,
    FOR_A_SLOT,
    LATE,
    NOT_AWAITED,
    NOT_STARTED,
    STARTING,
    STOPPED,
    WAITING,
    WORKING,
    Client,
    Clients,
)
from fedsag_cli.cli.display import Row
from fedsag_cli.cli.pace import Pace
from fedsag_cli.errors import counted
from fedsag_cli.events import Event
from fedsag_cli.workspace import by_number

_SIGNS = {  # of one client in the map of many; the order is that of the counts
    FAILED: ("x", "red"),
    STOPPED: ("x", "red"),
    WORKING: (">", "cyan"),
    STARTING: ("+", "cyan"),
    ANSWERED: ("#", "green"),
    NOT_AWAITED: ("-", "yellow"),
    LATE: ("-", "yellow"),
    FOR_A_SLOT: (".", "dim"),
    WAITING: (".", "dim"),
    NOT_STARTED: (".", "dim"),
    ENDED: (" ", "dim"),
}
_MOST_METRICS = 3  # in the head
_TREND = 8  # rounds in a sparkline
_LONGEST_NAME = 24  # of a metric
_SHORTEST_BAR, _LONGEST_BAR = 8, 40
_CLOCK, _STILL = 7, len("longer than expected")
_FEW = 30  # clients of which those of other rounds are shown too
_FOR_LOGS = 120  # from this width on, the newest line of a log stands beside its client

LastLine = Callable[[str], str]
"""The newest line of the log of a site; empty if there is none."""


class Progress:
    """Where a run is. It hears the events, and draws itself for any size of a terminal."""

    def __init__(self) -> None:
        self._clients = Clients()
        self._pace: Pace | None = None
        self._slots = 1
        self._began = 0.0
        self._stage = "starting"
        self._workflow = ""
        self._measured: dict[str, deque[float | None]] = {}
        self._measured_in = 0
        self._key_metric = ""

    def on(self, event: Event) -> None:
        self._clients.on(event)
        if self._pace is not None:
            self._pace.on(event)
        match event:
            case events.RunStarted():
                self._pace, self._began, self._slots = None, event.at, event.slots
                self._stage = "starting: importing torch" if "torch" in event.versions else "starting"
            case events.ServerReady():
                self._stage = "starting"
            case events.WorkflowStarted():
                self._pace = Pace(slots=self._slots)
                self._workflow = event.workflow if event.num_workflows > 1 else ""
                self._stage, self._measured, self._key_metric = "running", {}, ""
            case events.RoundStarted():
                self._stage = ""
            case events.TaskSent():
                current = self._pace.round if self._pace else None
                if current is None:
                    self._stage = event.task
                elif event.round_num > current.round_num:
                    self._stage = f"{event.task}, after the last round"
            case events.RoundFinished():
                self._measured_in = event.round_num
                for name, value in event.metrics.items():
                    self._measured.setdefault(name, deque(maxlen=_TREND)).append(value)
            case events.BestModel():
                self._key_metric = event.metric
            case events.WorkflowFinished():
                self._stage = "ending"

    def rows(self, now: float, columns: int, height: int, last_line: LastLine) -> list[Row]:
        """At most `height` rows, the most important ones first; cells that do not fit are cut by the display."""
        clients = self._clients
        top = [self._progress(now, columns), *self._metrics()]
        free = height - len(top) - 2
        of_round = clients.num > max(free, _FEW)  # of more clients, those of this round are shown
        num = clients.num_asked if of_round else clients.num
        known = [] if not clients.have_begun or num > free * columns else clients.asked if of_round else clients.all
        signs = _map([clients.state_of(each) for each in known], columns) if len(known) > free else []
        if len(signs) > free // 2:
            signs = []
        top += [*_counts(clients, columns, of_round=of_round, with_signs=bool(signs)), *self._slowest(now)]
        free -= len(signs)
        shown = known if len(known) == num <= free else self._busiest(free - 1)  # a row is left for a log
        rows = [*top, *signs, *self._each(shown, now, columns, last_line)]
        if columns < _FOR_LOGS:
            named = shown if 2 * len(shown) <= free else islice(clients.working, 1)
            rows += _logs([client.site for client in named], last_line)
        return rows[:height]

    def _progress(self, now: float, columns: int) -> Row:
        spent = wording.clock(now - self._began) if self._began else ""
        pace = self._pace
        if pace is None or pace.round is None or self._stage:
            return [(f"{self._named(self._stage, _LONGEST_NAME)} …", "bold"), (spent, "")]
        last = pace.round.first_round + pace.round.num_rounds - 1
        left = pace.left_s(now)
        still = "" if left is None else f"about {wording.clock(left)} left" if left >= 0 else "longer than expected"
        head = f"round {pace.round.round_num} (last: {last})"
        texts = [f"{pace.share:4.0%}", spent.rjust(_CLOCK), still.ljust(_STILL)]
        room = columns - sum(2 + len(text) for text in texts) - len(head) - 2
        head = self._named(head, max(0, min(_LONGEST_NAME, room - _SHORTEST_BAR - 2)))
        room = columns - sum(2 + len(text) for text in texts) - display.len_of(head) - 2
        bar = display.bar(pace.share, max(_SHORTEST_BAR, min(_LONGEST_BAR, room)))
        return [(head, "bold"), (bar, "cyan"), *((text, "") for text in texts)]

    def _named(self, text: str, longest: int) -> str:
        """The text behind the name of the workflow, if there are several and there is room for it."""
        return f"{foreign.shortened(self._workflow, longest)}: {text}" if self._workflow and longest > 3 else text

    def _metrics(self) -> Iterator[Row]:
        names = sorted(self._measured, key=lambda name: name != self._key_metric)[:_MOST_METRICS]
        if names:
            values = [_trend(name, self._measured[name]) for name in names]
            yield [(f"round {self._measured_in}: {'   '.join(values)}", "")]

    def _slowest(self, now: float) -> Iterator[Row]:
        """The client that is longest at work; where nobody works, the one that was."""
        clients = self._clients
        if longest := next(iter(clients.working), None):
            text = f"slowest: {longest.site}, {wording.duration(now - longest.since)} so far"
            usual = longest.usual_s
        elif clients.slowest is not None and (took := clients.slowest.took_s) is not None:
            text, usual = f"slowest: {clients.slowest.site}, {wording.duration(took)}", clients.slowest.usual_s
        else:
            return
        if clients.num > 1:
            yield [(text + (f", usually {wording.duration(usual)}" if usual is not None else ""), "")]

    def _busiest(self, most: int) -> list[Client]:
        """Of the clients that work, those that are longest at it, in the order of the sites."""
        return sorted(islice(self._clients.working, max(0, most)), key=lambda client: by_number(client.site))

    def _each(self, clients: Sequence[Client], now: float, columns: int, last_line: LastLine) -> Iterator[Row]:
        for client in clients:
            state = self._clients.state_of(client)
            elapsed, usual = client.elapsed_s(now), client.usual_s
            task = f" on {client.task}" if state == WORKING else ""
            row = [
                (f"  {client.site}", ""),
                (f"{state}{task}".ljust(len(FOR_A_SLOT)), _SIGNS[state][1]),
                ("" if elapsed is None else wording.duration(elapsed).rjust(6), ""),
                ("" if usual is None else f"usually {wording.duration(usual)}", "dim"),
                (self._own_metric(client), ""),
            ]
            yield [*row, (last_line(client.site), "dim")] if columns >= _FOR_LOGS else row

    def _own_metric(self, client: Client) -> str:
        names = sorted(client.metrics, key=lambda name: name != self._key_metric)
        return _trend(names[0], client.metrics[names[0]]) if names else ""


def _trend(name: str, values: Sequence[float | None]) -> str:
    """The last value, and how it came to it."""
    name = foreign.shortened(name, _LONGEST_NAME)
    last = list(values)[-_TREND:]
    bars = wording.sparkline(last, _TREND) if len(last) > 1 else ""
    return f"{name} {wording.number(values[-1])} {bars}".rstrip()


def _counts(clients: Clients, columns: int, *, of_round: bool, with_signs: bool) -> Iterator[Row]:
    """How many clients there are in each state, with the sign that each of them has in the map."""
    found = clients.counts(asked=of_round)
    text = counted(clients.num, "client")
    if of_round and clients.num_asked < clients.num:
        text += f", {clients.num_asked:,} in this round"
    text += ": "
    for number, state in enumerate(state for state in _SIGNS if found[state]):
        sign = f"{_SIGNS[state][0]} " if with_signs else ""
        more = f"{', ' if number else ''}{sign}{found[state]:,} {state}"
        if number and len(text + more) > columns:
            yield [(f"{text},", "")]
            text, more = "  ", more.removeprefix(", ")
        text += more
    if clients.num:
        yield [(text, "")]


def _map(states: Sequence[str], columns: int) -> list[Row]:
    """A sign for each client, in the order of the sites."""
    signs = "".join(_SIGNS[state][0] for state in states)
    size = max(1, columns - 2)
    return [[(f"  {signs[start : start + size]}", "")] for start in range(0, len(signs), size)]


def _logs(sites: Sequence[str], last_line: LastLine) -> Iterator[Row]:
    for site in sites:
        if text := last_line(site):
            yield [(f"  {site} | {text}", "dim")]
