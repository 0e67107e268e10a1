"""The live view: the round, the time left, the last metrics, and every client, in the room that the terminal has."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence

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
                self._pace, self._stage, self._began, self._slots = None, "starting", event.at, event.slots
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
        clients, states = self._clients.all, self._clients.states()
        top = [self._progress(now, columns), *self._metrics()]
        free = height - len(top) - 2
        signs = _map(states, columns) if len(clients) > free else []
        if len(signs) > free // 2:
            signs = []
        top += [*_counts(states, columns, with_signs=bool(signs)), *self._slowest(now)]
        free -= len(signs)
        shown = clients if len(clients) <= free else self._busiest(free - 1)  # a row is left for a log
        rows = [*top, *signs, *self._each(shown, states, now, columns, last_line)]
        if columns < _FOR_LOGS:
            named = shown if 2 * len(shown) <= free else self._clients.working[:1]
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
        head = f"round {pace.round.round_num} of {pace.round.first_round}–{last}"
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
        clients = self._clients.all
        if working := self._clients.working:
            text = f"slowest: {working[0].site}, {wording.duration(now - working[0].since)} so far"
            usual = working[0].usual_s
        elif took := [(client.took_s, client) for client in clients if client.took_s is not None]:
            longest, client = max(took, key=lambda each: each[0])
            text, usual = f"slowest: {client.site}, {wording.duration(longest)}", client.usual_s
        else:
            return
        if len(clients) > 1:
            yield [(text + (f", usually {wording.duration(usual)}" if usual is not None else ""), "")]

    def _busiest(self, most: int) -> list[Client]:
        """Of the clients that work, those that are longest at it, in the order of the sites."""
        chosen = {client.site for client in self._clients.working[: max(0, most)]}
        return [client for client in self._clients.all if client.site in chosen]

    def _each(
        self, clients: Sequence[Client], states: Mapping[str, str], now: float, columns: int, last_line: LastLine
    ) -> Iterator[Row]:
        for client in clients:
            state = states[client.site]
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


def _counts(states: Mapping[str, str], columns: int, *, with_signs: bool) -> Iterator[Row]:
    """How many clients there are in each state, with the sign that each of them has in the map."""
    found = Counter(states.values())
    text = f"{counted(len(states), 'client')}: "
    for number, state in enumerate(state for state in _SIGNS if found[state]):
        sign = f"{_SIGNS[state][0]} " if with_signs else ""
        more = f"{', ' if number else ''}{sign}{found[state]} {state}"
        if number and len(text + more) > columns:
            yield [(f"{text},", "")]
            text, more = "  ", more.removeprefix(", ")
        text += more
    if states:
        yield [(text, "")]


def _map(states: Mapping[str, str], columns: int) -> list[Row]:
    """A sign for each client, in the order of the sites."""
    signs = "".join(_SIGNS[state][0] for state in states.values())
    size = max(1, columns - 2)
    return [[(f"  {signs[start : start + size]}", "")] for start in range(0, len(signs), size)]


def _logs(sites: Sequence[str], last_line: LastLine) -> Iterator[Row]:
    for site in sites:
        if text := last_line(site):
            yield [(f"  {site} | {text}", "dim")]
