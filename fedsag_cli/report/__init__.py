"""The report of a run, report.json, built from its events."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec

from fedsag_cli import events
from fedsag_cli.events import Event, Failure, Metrics
from fedsag_cli.report.alike import Kind, kind_of
from fedsag_cli.workspace import site_of

FORMAT = 1
"""The version of the form of report.json. It rises when a field goes away or changes its meaning."""

_MOST_LOGS = 30  # of failures that are alike, whose ends are kept
_SETTINGS = (
    "job", "workspace", "sites", "slots", "threads", "seed", "launcher", "versions", "plan", "overrides", "parent",
    "parent_round", "inherited_rounds",
)  # fmt: skip


class PrivacyReport(msgspec.Struct, kw_only=True):
    """After this round, the run so far is (epsilon, delta)-differentially private. `epsilon`: None is infinite."""

    epsilon: float | None
    delta: float
    mechanism: str


class RoundReport(msgspec.Struct, kw_only=True):
    """One round of a workflow. `metrics` belong to the model *sent* in it. Times in seconds, sizes in bytes."""

    workflow: str = ""
    round_num: int
    asked: list[str] = []
    answered: list[str] = []
    metrics: Metrics = {}
    metrics_by_site: dict[str, Metrics] = {}
    num_steps: dict[str, float] = {}
    aggregate: dict[str, Any] = {}  # what the aggregator says of the merged update
    privacy: PrivacyReport | None = None
    failed: dict[str, Failure] = {}
    not_waited_for: list[str] = []  # enough others had answered: they have not failed
    bytes_sent: int = 0
    bytes_received: int = 0
    work_s: dict[str, float] = {}
    wait_s: float = 0.0
    aggregate_s: float = 0.0
    save_s: float = 0.0
    total_s: float = 0.0
    is_whole: bool = False


class TableReport(msgspec.Struct, kw_only=True):
    """A table that a workflow found, such as each site's metrics of each model."""

    workflow: str = ""
    title: str
    columns: list[str]
    rows: list[list[str | float | None]]


class ValidationReport(msgspec.Struct, kw_only=True):
    """The last model of a workflow, as the clients that validate measured it."""

    workflow: str = ""
    task: str = ""
    round_num: int
    metrics: Metrics = {}
    metrics_by_site: dict[str, Metrics] = {}
    failed: dict[str, Failure] = {}


class SiteFailure(msgspec.Struct, kw_only=True):
    """The first failure of a site, and its round; `task` is empty if the site had none."""

    workflow: str = ""
    round_num: int | None
    task: str
    failure: Failure


class BestReport(msgspec.Struct, kw_only=True):
    """The best score, and the round whose *sent* model has it."""

    workflow: str = ""
    round_num: int
    metric: str
    score: float
    is_final: bool = False


class BaselineReport(msgspec.Struct, kw_only=True):
    """A run with which this one is compared: see `baselines`. `run`: its number, 0 if it has none.

    `metrics`: the means over its sites, of the final models if `is_final`, else of those sent in the last round.
    `num_steps`: those of all sites and rounds.
    """

    kind: str
    run: int = 0
    workspace: str = ""
    ok: bool = False
    cause: str = ""
    rounds: int = 0
    metrics: Metrics = {}
    metrics_by_site: dict[str, Metrics] = {}
    is_final: bool = False
    num_steps: float = 0.0
    seconds: float | None = None
    digest: str = ""


class Report(msgspec.Struct, kw_only=True):
    """The results of a run, with the version of this form as `format`.

    `final_metrics` were measured on the final model, if the job validates it.

    `rounds` and `validations` are in the order in which they happened. Each workflow counts its own rounds.
    `times` (in seconds) and `exit_codes` are those since the run was started or last resumed.
    """

    format: int = FORMAT
    job: str = ""
    workspace: str = ""
    ok: bool = False
    exit_code: int = 1
    cause: str = ""
    hint: str = ""
    sites: list[str] = []
    first_round: int = 0
    num_rounds: int = 0
    slots: int = 0
    threads: int = 0
    seed: int = 0
    launcher: str = ""
    versions: dict[str, str] = {}
    plan: str = ""  # the SHA-256 of all that decides the result
    overrides: list[str] = []  # the words of --set, in `settings` too
    began: float = 0.0  # seconds since 1970; of the first part of a run that was resumed
    parent: str = ""  # of a fork: the run that it was made of
    parent_round: int | None = None  # after this round of it
    inherited_rounds: int = 0  # so many of the first rounds are those of the parent
    template: str = ""
    settings: dict[str, Any] = {}  # by config file and key
    changed: dict[str, Any] = {}  # those that the template has otherwise, with its values
    rounds: list[RoundReport] = []
    validations: list[ValidationReport] = []
    tables: list[TableReport] = []
    best: BestReport | None = None
    final_metrics: Metrics = {}
    final_metrics_by_site: dict[str, Metrics] = {}
    final_failed: dict[str, Failure] = {}
    failures: dict[str, SiteFailure] = {}  # in the order in which they happened
    resumed_at: list[int] = []  # the number of rounds that were done at each resume
    digest: str = ""
    seeded_themselves: list[str] = []
    samples: dict[str, int] = {}  # by site: how many it trains on, where its script tells
    models: list[str] = []
    curves: list[str] = []  # the commands or addresses that show them
    notices: list[str] = []
    baselines: list[BaselineReport] = []
    exit_codes: dict[str, int] = {}
    times: dict[str, float] = {}
    earlier_s: float = 0.0  # how long the run went on before it was last resumed, without the time between

    @property
    def seconds(self) -> float | None:
        """How long the whole run went on, without the time between its parts; None if it has not ended."""
        last = self.times.get("run_finished_s")
        return None if last is None else self.earlier_s + last

    @property
    def rounds_done(self) -> int:
        return sum(each.is_whole for each in self.rounds)


class ReportBuilder:
    """An observer that builds the report, event by event."""

    def __init__(self) -> None:
        self.report = Report()
        self._began = self._round_began = self._last = 0.0
        self._moments: dict[str, float] = {}
        self._earlier_notices: set[str] = set()  # from before the last resume
        self._alike: Counter[Kind] = Counter()  # failures that had the end of a log

    def complete(self, rounds: Sequence[Sequence[Event]]) -> list[Event]:
        """Hear again what happened in whole rounds from the first one on that was not heard to its end; return that."""
        known = self.report.rounds
        whole = 0
        for mine, told in zip(known, rounds, strict=False):
            if not mine.is_whole or (mine.workflow, mine.round_num) != _name_of(told):
                break
            whole += 1
        missing = [event for told in rounds[whole:] for event in told]
        if missing:
            del known[whole:]
        for event in missing:
            self.on(event)
        return missing

    def on(self, event: Event) -> None:
        report = self.report
        match event:
            case events.TaskSent() | events.ReplyAccepted():  # the most frequent events stand first
                if current := self._round_of(event):
                    self._within_round(current, event)
            case events.ReplyArrived():
                pass
            case events.RunStarted():
                report.earlier_s += max(0.0, self._last - self._began) if self._began else 0.0
                self._began = self._last = event.at
                report.began = report.began or event.at
                self._moments.clear()
                self._earlier_notices = set(report.notices)
                if event.workspace != report.workspace:
                    report.models, report.curves = [], []
                for name in _SETTINGS:
                    setattr(report, name, getattr(event, name))
            case events.RunSettings():
                report.template, report.settings, report.changed = event.template, event.settings, event.changed
            case events.ServerReady():
                self._moments["server_ready"] = event.at
                self._resume(event)
            case events.ClientReady():
                self._moments.setdefault("first_client_ready", event.at)
            case events.RoundStarted():
                report.first_round, report.num_rounds = event.first_round, event.num_rounds
                if report.rounds and not report.rounds[-1].is_whole:  # an earlier part of the run did not finish it
                    report.rounds.pop()
                report.rounds.append(RoundReport(workflow=event.workflow, round_num=event.round_num, asked=event.sites))
                self._round_began = event.at
                self._forget_final()  # it was not the last
            case events.RoundFinished():
                if current := self._round_of(event):
                    self._finish_round(current, event)
            case events.ModelValidated():
                self._validated(event)
            case events.PrivacySpent():
                if current := self._round_of(event):
                    current.privacy = PrivacyReport(epsilon=event.epsilon, delta=event.delta, mechanism=event.mechanism)
            case events.ResultTable():
                self._add_table(event)
            case events.BestModel():
                report.best = BestReport(
                    workflow=event.workflow,
                    round_num=event.round_num,
                    metric=event.metric,
                    score=event.score,
                    is_final=event.is_final,
                )
            case events.ModelSaved() if event.path not in report.models:
                report.models.append(event.path)
            case events.CurvesKept() if event.view not in report.curves:
                report.curves.append(event.view)
            case events.Notice() if event.text not in self._earlier_notices:
                report.notices.append(event.text)
            case events.ProcessExited():
                report.exit_codes[event.name] = event.exit_code
                if event.exit_code and event.failure and (site := site_of(event.name)) in report.sites:
                    report.failures.setdefault(site, self._failure(event.failure))
            case events.ClientStopped() if event.has_failed:
                self._stopped(event)
            case events.WorkflowFinished():
                report.digest = event.digest
                report.seeded_themselves = sorted({*report.seeded_themselves, *event.seeded_themselves})
                self._moments["workflow_finished"] = event.at
            case events.RunFinished():
                report.ok, report.exit_code = event.ok, event.exit_code
                report.cause, report.hint = event.cause, event.hint
                self._moments["run_finished"] = event.at
                report.times = {name + "_s": at - self._began for name, at in self._moments.items()}
            case events.NotAwaited():
                if current := self._round_of(event):
                    current.not_waited_for.append(event.site)
            case events.ReplyFailed():
                failure = self._kept(event)
                if current := self._round_of(event):
                    current.failed[event.site] = failure
                elif any(each.workflow == event.workflow for each in report.rounds):
                    report.final_failed[event.site] = failure
                self._fail(event, failure)
        self._last = max(self._last, event.at)

    def _add_table(self, event: events.ResultTable) -> None:
        made = TableReport(workflow=event.workflow, title=event.title, columns=event.columns, rows=event.rows)
        named = (event.workflow, event.title)
        self.report.tables = [each for each in self.report.tables if (each.workflow, each.title) != named] + [made]

    def _resume(self, ready: events.ServerReady) -> None:
        """Remove the rounds that were not complete when the earlier run ended: they are run again."""
        report = self.report
        if ready.last and len(report.rounds) < ready.whole_rounds:
            report.rounds.append(
                RoundReport(workflow=ready.last.workflow, round_num=ready.last.round_num, asked=ready.last.sites)
            )
            self._round_began = ready.last.at  # its other events are lost
        del report.rounds[ready.whole_rounds :]
        if ready.last and report.rounds and not report.rounds[-1].is_whole:
            self._finish_round(report.rounds[-1], ready.last)
        failed = {site for each in report.rounds for site in each.failed}
        report.failures = {site: first for site, first in report.failures.items() if site in failed}
        report.exit_codes, report.best = {}, None
        self._forget_final()
        last = ready.last.workflow if ready.last else None  # it measures its last model again
        report.validations = [each for each in report.validations if last is not None and each.workflow != last]
        if ready.best:
            self.on(ready.best)
        if ready.whole_rounds > report.inherited_rounds:
            report.resumed_at.append(ready.whole_rounds)

    def _round_of(
        self,
        event: events.TaskSent
        | events.ReplyAccepted
        | events.ReplyFailed
        | events.NotAwaited
        | events.PrivacySpent
        | events.RoundFinished,
    ) -> RoundReport | None:
        """The round of the event; None for a task outside the rounds, such as the validation of the last model."""
        workflow, round_num = event.workflow, event.round_num
        for each in reversed(self.report.rounds):  # it is nearly always the last
            if each.round_num == round_num and each.workflow == workflow:
                return each
        return None

    def _forget_final(self) -> None:
        report = self.report
        report.final_metrics, report.final_metrics_by_site, report.final_failed = {}, {}, {}

    def _validated(self, event: events.ModelValidated) -> None:
        report = self.report
        report.final_metrics, report.final_metrics_by_site = event.metrics, event.by_site
        report.validations.append(
            ValidationReport(
                workflow=event.workflow,
                task=event.task,
                round_num=event.round_num,
                metrics=event.metrics,
                metrics_by_site=event.by_site,
                failed=dict(report.final_failed),
            )
        )

    def _failure(self, failure: Failure, event: events.ReplyFailed | None = None) -> SiteFailure:
        if event is not None:
            workflow, task, round_num = event.workflow, event.task, event.round_num
            return SiteFailure(workflow=workflow, task=task, round_num=round_num, failure=failure)
        if not self.report.rounds:
            return SiteFailure(round_num=None, task="", failure=failure)
        last = self.report.rounds[-1]
        return SiteFailure(workflow=last.workflow, round_num=last.round_num, task="", failure=failure)

    def _kept(self, event: events.ReplyFailed) -> Failure:
        """The failure; of many that are alike, only the first have the ends of their logs."""
        if not event.failure.log_tail:
            return event.failure
        kind = kind_of(event.site, event.failure)
        self._alike[kind] += 1
        if self._alike[kind] <= _MOST_LOGS:
            return event.failure
        return msgspec.structs.replace(event.failure, log_tail=[])

    def _fail(self, event: events.ReplyFailed, failure: Failure) -> None:
        """The exit of the process may have been reported before this, without the task."""
        known = self.report.failures.get(event.site)
        if known is None or not known.task:
            self.report.failures[event.site] = self._failure(failure, event)

    def _stopped(self, event: events.ClientStopped) -> None:
        """Keep the first cause, and add the line at which the client was stopped, and its log."""
        known = self.report.failures.setdefault(event.site, self._failure(event.failure))
        known.failure = msgspec.structs.replace(event.failure, cause=known.failure.cause)

    def _finish_round(self, current: RoundReport, event: events.RoundFinished) -> None:
        current.answered, current.metrics, current.aggregate = event.sites, event.metrics, event.aggregate
        current.wait_s, current.aggregate_s, current.save_s = event.wait_s, event.aggregate_s, event.save_s
        current.metrics_by_site = event.by_site or current.metrics_by_site  # without those of other tasks of the round
        current.total_s, current.is_whole = event.at - self._round_began, True

    def _within_round(self, current: RoundReport, event: events.TaskSent | events.ReplyAccepted) -> None:
        if isinstance(event, events.TaskSent):
            current.bytes_sent += event.size
            return
        if not current.is_whole:  # otherwise it is late, and counts in a later round
            current.metrics_by_site[event.site] = event.metrics
        current.num_steps[event.site] = event.num_steps
        if event.num_samples is not None:
            self.report.samples[event.site] = event.num_samples
        current.work_s[event.site] = event.work_s
        current.bytes_received += event.size


def _name_of(told: Sequence[Event]) -> tuple[str, int] | None:
    return next(((end.workflow, end.round_num) for end in told if isinstance(end, events.RoundFinished)), None)
