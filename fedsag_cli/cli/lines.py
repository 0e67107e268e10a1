"""The lines to print for each event of a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from fedsag_cli import events
from fedsag_cli.cli import failures, wording
from fedsag_cli.cli.summary import where
from fedsag_cli.errors import RunError, counted
from fedsag_cli.events import Event
from fedsag_cli.report.alike import Kind, kind_of, of_any_site
from fedsag_cli.report.over_sites import MANY

_APART_S = 10.0  # of lines that tell how far a round of many clients is


class Lines:
    """The lines of each event, in the order of the run. An event is shown with its round if that round is running.

    Within a round, an answer is told when it arrives, and of many clients only how many have answered; what was
    measured is told at the round's end. The first failure
    at a place in the job is told whole. Of failures alike in one round, only the number is told, at its end, and so are
    the clients that are not waited for.
    """

    def __init__(self) -> None:
        self.told: set[tuple[str, Kind]] = set()
        self._causes: dict[Kind, str] = {}
        self._places: set[str] = set()  # in the job, whose failures were told whole
        self._alike: dict[Kind, list[str]] = {}  # the sites that failed in this round, for what they were not told for
        self._round: int | None = None
        self._sites: list[str] = []
        self._inherited = 0  # rounds of the parent of a fork
        self._asked = 0
        self._sent: dict[str, float] = {}  # when each site got its task
        self._not_awaited: list[str] = []  # in this round
        self._answered = 0  # in this round
        self._outside: Counter[tuple[str, str]] = Counter()  # answers to a task of a workflow, outside its rounds
        self._said_at = 0.0  # when the number of answers was told
        self._skipped: set[tuple[str, str, str, int]] = set()  # answers that the run does not wait for

    def of(self, event: Event) -> list[str]:
        """The lines for an event; most events have none."""
        match event:
            case events.RunStarted():
                self._sites, self._inherited = event.sites, event.inherited_rounds
                threads = counted(event.threads, "thread")
                settings = f"{event.slots} at a time, {threads} each, seed {event.seed}, {event.launcher}"
                return [
                    f"job {event.job}: {counted(len(event.sites), 'client')}, {settings}",
                    f"workspace {event.workspace}",
                ]
            case events.ServerReady() if event.whole_rounds == self._inherited > 0:
                return [f"fork: {counted(event.whole_rounds, 'round')} of its parent done"]
            case events.ServerReady() if event.whole_rounds:
                return [f"resumed: {counted(event.whole_rounds, 'round')} done"]
            case events.WorkflowStarted() if event.num_workflows > 1:
                number = f"{event.number} of {event.num_workflows}"
                return [*self._gathered(), f"workflow {event.workflow} started ({number})"]
            case events.RoundStarted():
                before = self._gathered()
                self._round, self._asked = event.round_num, len(event.sites)
                self._answered, self._said_at = 0, event.at
                some = f"{self._asked} of " if self._asked < len(self._sites) else ""
                clients = counted(len(self._sites) if some else self._asked, "client")
                return [*before, f"round {event.round_num} started with {some}{clients}"]
            case events.TaskSent():
                self._sent[event.site] = event.at
            case events.ReplyArrived() if event.round_num == self._round:
                self._answered += 1
                if self._asked > MANY:
                    return self._progress(event)
                took = event.at - self._sent.get(event.site, event.at)
                return [f"{self._when(event.round_num)}{event.site} answered {event.task} in {took:.1f} s"]
            case events.ReplyAccepted() if event.round_num != self._round:
                return self._outside_rounds(event)
            case events.ReplyFailed():
                return self._failed(event)
            case events.NotAwaited():
                self._skipped.add(_answer(event))
                self._not_awaited.append(event.site)
            case events.ReplyLate() if _answer(event) in self._skipped:
                self._skipped.remove(_answer(event))
            case events.ReplyLate():
                return [f"note: {event.site} answered {event.task} too late: its answer is not used"]
            case events.ClientStopped():
                self.told.add((event.site, kind_of(event.site, event.failure)))
                return failures.whole(f"note: {event.site}", event.failure)
            case events.Notice():
                return [f"note: {event.text}"]
            case events.RoundFinished():
                return self._finished(event)
            case events.ModelValidated():
                measured = f", {wording.metrics(event.metrics, by_site=event.by_site)}" if event.metrics else ""
                return [*self._gathered(), f"final model measured by {counted(len(event.by_site), 'client')}{measured}"]
            case events.BestModel():
                which = "final model" if event.is_final else f"round {event.round_num}: the model that was sent"
                return [f"{which} is the best so far: {event.metric} {wording.number(event.score)}"]
            case events.RunFinished():
                how = "failed" if event.exit_code == RunError.exit_code else "ended early"
                said = () if event.ok else (f"the run {how}", *where(Path(event.report).parent))
                return [*self._gathered(), *said]
        return []

    def _outside_rounds(self, event: events.ReplyAccepted) -> list[str]:
        """Of a task that many clients answer, or for many models, the first answers."""
        self._outside[event.workflow, event.task] += 1
        count = self._outside[event.workflow, event.task]
        if count > MANY:
            return [f"more answers to {event.task} are not told one by one"] if count == MANY + 1 else []
        measured = f", {wording.metrics(event.metrics)}" if event.metrics else ""
        return [f"{event.site} answered {_task(event)} in {event.work_s:.1f} s{measured}"]

    def _progress(self, event: events.ReplyArrived) -> list[str]:
        """How many of many clients have answered, from time to time."""
        if event.at - self._said_at < _APART_S or self._answered == self._asked:
            return []
        self._said_at = event.at
        return [f"{self._when(event.round_num)}{self._answered:,} of {counted(self._asked, 'client')} answered"]

    def _finished(self, event: events.RoundFinished) -> list[str]:
        gathered, asked = self._gathered(), self._asked
        self._round = None
        took = event.wait_s + event.aggregate_s + event.save_s
        answers = counted(len(event.sites), "answer")
        missing = f" of {counted(asked, 'client')}" if len(event.sites) < asked else ""
        measured = f", {wording.metrics(event.metrics, by_site=event.by_site)}" if event.metrics else ""
        chosen = event.aggregate.get("chosen")
        taken = [f"round {event.round_num}: chosen: {wording.few(chosen)}"] if isinstance(chosen, list) else []
        return [*gathered, f"round {event.round_num} finished in {took:.1f} s: {answers}{missing}{measured}", *taken]

    def _failed(self, event: events.ReplyFailed) -> list[str]:
        kind = kind_of(event.site, event.failure)
        if (event.site, kind) in self.told:
            return []
        self.told.add((event.site, kind))
        alike = self._alike.setdefault(kind, [])
        alike.append(event.site)
        head = f"{self._when(event.round_num)}{event.site} failed in {_task(event)}"
        if kind not in self._causes:
            self._causes[kind] = of_any_site(event.site, event.failure.cause)
            return failures.first_there(head, event.failure, self._places)
        return [f"{head}: {event.failure.cause}"] if len(alike) == 1 else []

    def _gathered(self) -> list[str]:
        """What is told once for all clients: how many failed alike, and whom the round did not wait for."""
        when = "" if self._round is None else self._when(self._round)
        clients = self._asked or len(self._sites)
        several = [(kind, sites) for kind, sites in self._alike.items() if len(sites) > 1]
        texts = [f"{when}{failures.alike(len(sites), clients)}: {self._causes[kind]}" for kind, sites in several]
        if self._not_awaited:
            named = set(self._not_awaited)
            skipped = [site for site in self._sites if site in named]
            texts.append(f"{when}{_not_awaited(skipped)}: enough answered")
        self._alike, self._not_awaited = {}, []
        return texts

    def _when(self, round_num: int) -> str:
        return f"round {round_num}: " if round_num == self._round else ""


def _not_awaited(sites: Sequence[str]) -> str:
    if len(sites) == 1:
        return f"{sites[0]} is not waited for"
    return f"{counted(len(sites), 'client')} are not waited for ({wording.few(sites)})"


def _task(event: events.ReplyAccepted | events.ReplyFailed) -> str:
    return f"{event.task} (model {event.model_owner})" if event.model_owner else event.task


def _answer(event: events.NotAwaited | events.ReplyLate) -> tuple[str, str, str, int]:
    return event.site, event.workflow, event.task, event.round_num
