"""What happens in a run: one class for each kind of event, one JSON line for each event.

The server and the engine send events to the parent process. It writes them to `events.jsonl`, shows them, and makes
`report.json` of them. Times: `at` in seconds since 1970, durations `…_s` in seconds. Sizes in bytes.

The rounds of each workflow have their own numbers: a round is named by `workflow`, which is its workflow's id in the
job, and `round_num`.
"""

from __future__ import annotations

import math
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol, TypeAlias, Union

import msgspec

from fedsag_cli.wire.messages import STARTED_AT, LogKind

FORMAT = 1
"""The version of the form of events. It rises when a field or a kind goes away or changes its meaning."""

Metrics: TypeAlias = dict[str, float | None]
"""Measured values by name. None stands for NaN and infinity, which JSON cannot hold."""


def as_metrics(measured: Mapping[str, float]) -> Metrics:
    """What was measured, as events hold it."""
    return {name: value if math.isfinite(value) else None for name, value in measured.items()}


def as_plain(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The facts that JSON can hold; tensors, arrays and bytes are left out."""
    plain: dict[str, Any] = {}
    for name, value in facts.items():
        try:
            plain[name] = msgspec.json.decode(msgspec.json.encode(value, enc_hook=_number))
        except (TypeError, ValueError, RuntimeError):
            continue
    return plain


def _number(value: Any) -> float:
    """A numpy or torch scalar as a number. Raises TypeError."""
    return float(value)


def _since_boot() -> float:
    """Seconds, the same in all processes of this machine. Nobody can set this clock."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if sys.platform == "linux" else time.monotonic()


STARTED = float(os.environ.get(STARTED_AT) or time.time() - _since_boot())
"""When this machine was started, as its clock says it when a run begins: all processes of a run have this number."""


def now() -> float:
    """Seconds since 1970. Differences are right even if the clock is set during a run."""
    return STARTED + _since_boot()


class Event(msgspec.Struct, frozen=True, kw_only=True, tag=True, tag_field="event"):
    """Something that happened, and when."""

    OURS: ClassVar[Sequence[str]] = ("at", "digest", "tensors")  # as `foreign.masked` reads it

    at: float = msgspec.field(default_factory=now)


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """Why something ended: one sentence, and where to look."""

    cause: str
    where: str = ""  # the user's file:line
    log: str = ""
    log_tail: list[str] = []
    exit_code: int | None = None


def how_it_ended(exit_code: int) -> str:
    """How a process ended, in words. The exit code is negative for a signal."""
    if exit_code >= 0:
        return f"its process ended with exit code {exit_code}"
    try:
        name = signal.Signals(-exit_code).name
    except ValueError:
        name = "unknown"
    return f"it was killed by signal {-exit_code} ({name})" + (": perhaps out of memory" if exit_code == -9 else "")


class RunStarted(Event, frozen=True, kw_only=True):
    """`format`: the version of the form of all events of this run.

    `workers`: whether worker processes do the tasks of all sites, `slots` of them at a time.

    `plan`: the SHA-256 of all that decides the result. `overrides`: the words of `--set`.

    `parent`: of a fork, the run that it was made of, as `fedsag runs` calls it in the column id; it was made after the
    round `parent_round`, and the first `inherited_rounds` rounds are those of the parent.
    """

    format: int = FORMAT
    job: str
    workspace: str
    sites: list[str]
    slots: int
    threads: int
    seed: int
    launcher: str
    versions: dict[str, str]
    workers: bool = False
    plan: str = ""
    overrides: list[str] = []
    parent: str = ""
    parent_round: int | None = None
    inherited_rounds: int = 0


class RunSettings(Event, frozen=True, kw_only=True):
    """What is in the job's config files: values by file and key, such as "config_fed_server.conf key_metric".

    `template`: that of the job; empty if none is known. `changed`: the settings that the template has otherwise, with
    the template's values.
    """

    template: str = ""
    settings: dict[str, Any]
    changed: dict[str, Any] = {}


class ProcessStarted(Event, frozen=True, kw_only=True):
    """`node`: the machine, if the run has several."""

    name: str
    pid: int
    node: str = ""


class ProcessExited(Event, frozen=True, kw_only=True):
    """`exit_code` is negative for a signal. `node`: as in ProcessStarted."""

    name: str
    exit_code: int
    failure: Failure | None = None
    node: str = ""


class WillWrite(Event, frozen=True, kw_only=True):
    """The files that the server may write, and the folders that are its own. It is sent before anything is written."""

    paths: list[str]
    folders: list[str] = []


class ClientWanted(Event, frozen=True, kw_only=True):
    """The server needs the process of a client. `process`: its name, if it is not the site's first."""

    site: str
    process: str = ""


class WorkerUnwanted(Event, frozen=True, kw_only=True):
    """A worker in the task of a site that is not waited for any more shall be stopped: others need its place."""

    site: str
    process: str


class ClientReady(Event, frozen=True, kw_only=True):
    """A client has joined the run and waits for its first task. `process`: as in ClientWanted."""

    site: str
    process: str = ""


class WorkflowStarted(Event, frozen=True, kw_only=True):
    """A workflow begins, or continues in a resumed run. It is the `number`-th of the job, from 1 on."""

    workflow: str = ""
    number: int
    num_workflows: int


class RoundStarted(Event, frozen=True, kw_only=True):
    """The workflow has `num_rounds` rounds, the first of which is `first_round`."""

    workflow: str = ""
    round_num: int
    first_round: int
    num_rounds: int
    sites: list[str]


class ModelSent(Event, frozen=True, kw_only=True):
    """A task goes out, with this model. `digest`: the XXH3 of its params, 32 hex digits; empty without params.

    `tensors`: eight hex digits for each of the tensors, whose `names` are in the same order.
    """

    workflow: str = ""
    task: str
    round_num: int
    size: int
    digest: str = ""
    tensors: str = ""
    names: list[str] = []


class TaskSent(Event, frozen=True, kw_only=True):
    """`process`: with workers, the one that does the task."""

    site: str
    process: str = ""
    workflow: str = ""
    task: str
    round_num: int
    size: int


class ReplyAccepted(Event, frozen=True, kw_only=True):
    """`work_s`: from sending the task to receiving the answer.

    `model_owner`: whose model was measured, where a workflow lets clients measure several. `num_samples`: how many
    samples the site trains on; None if its script did not tell.

    `digest`, `tensors`, `names`: of the params as they arrived, as in ModelSent. No names: they are those of the model
    that was sent.
    """

    site: str
    workflow: str = ""
    task: str
    round_num: int
    model_owner: str = ""
    metrics: Metrics
    num_steps: float
    num_samples: int | None = None
    size: int
    work_s: float
    digest: str = ""
    tensors: str = ""
    names: list[str] = []


class ReplyFailed(Event, frozen=True, kw_only=True):
    """`hangs`: the client's process may still work on the task. `process`: as in ClientWanted.

    `model_owner`: as in ReplyAccepted.
    """

    site: str
    process: str = ""
    workflow: str = ""
    task: str
    round_num: int
    model_owner: str = ""
    failure: Failure
    hangs: bool = False


class NotAwaited(Event, frozen=True, kw_only=True):
    """The round goes on without the answer of a client, as enough others have answered. The client has not failed."""

    site: str
    workflow: str = ""
    task: str
    round_num: int


class ValuesLogged(Event, frozen=True, kw_only=True):
    """What the script of a site logs for trackers. NaN and infinity are None in JSON."""

    site: str
    kind: LogKind
    values: Mapping[str, float | str | None]
    step: int | None = None


class ReplyLate(Event, frozen=True, kw_only=True):
    """An answer arrived after the server had stopped waiting for it. It is not used.

    `task` and `round_num` are those of the task that the client was sent last; without one, `task` is empty.
    `process`: as in ClientWanted.
    """

    site: str
    process: str = ""
    workflow: str = ""
    task: str
    round_num: int = 0


class ClientStopped(Event, frozen=True, kw_only=True):
    """A client that hung, or still worked when the run was over, was stopped. Its log ends with its stack.

    `has_failed` is false for one that worked on a task whose answer was not waited for.
    """

    site: str
    failure: Failure
    has_failed: bool = True


class ReplyArrived(Event, frozen=True, kw_only=True):
    """A client has answered. The workflow takes the answers in the order of the sites: this one may still wait."""

    site: str
    workflow: str = ""
    task: str
    round_num: int


class Notice(Event, frozen=True, kw_only=True):
    """Something that the user should know. The run continues."""

    text: str


class RoundFinished(Event, frozen=True, kw_only=True):
    """`metrics`: the means of what the sites measured on the model sent in this round, weighted by their steps.

    `by_site`: what each of them measured. `aggregate`: what the aggregator says of the merged update, its metrics and
    meta.
    """

    workflow: str = ""
    round_num: int
    sites: list[str]
    metrics: Metrics
    by_site: dict[str, Metrics] = {}
    aggregate: dict[str, Any] = {}
    wait_s: float
    aggregate_s: float
    save_s: float


class ModelValidated(Event, frozen=True, kw_only=True):
    """The last model of a workflow, measured by the clients that list the task to validate."""

    workflow: str = ""
    task: str = ""
    round_num: int
    metrics: Metrics
    by_site: dict[str, Metrics]


class PrivacySpent(Event, frozen=True, kw_only=True):
    """After this round, the run so far is (epsilon, delta)-differentially private. `mechanism`: for whom, by what."""

    workflow: str = ""
    round_num: int
    epsilon: float | None  # None: infinite
    delta: float
    mechanism: str


class ResultTable(Event, frozen=True, kw_only=True):
    """A table that a workflow found. A workflow has one of each title: a later one replaces it.

    Raises ValueError if a row has not as many cells as there are columns.
    """

    workflow: str = ""
    title: str
    columns: list[str]
    rows: list[list[str | float | None]]

    def __post_init__(self) -> None:
        if wrong := [row for row in self.rows if len(row) != len(self.columns)]:
            raise ValueError(f"{len(self.columns)} columns, and a row of {len(wrong[0])} in the table {self.title!r}")


class BestModel(Event, frozen=True, kw_only=True):
    """The model sent in this round has the best score so far. `is_final`: it is the last model, measured at the end."""

    workflow: str = ""
    round_num: int
    metric: str
    score: float
    is_final: bool = False


class ServerReady(Event, frozen=True, kw_only=True):
    """The server can start: its components are built and its socket listens.

    In a resumed run, `whole_rounds` rounds are done, the last of them ended with `last`, `best` is the best score so
    far, and the run continues with `next_round`.
    """

    next_round: int = 0
    whole_rounds: int = 0
    last: RoundFinished | None = None
    best: BestModel | None = None


class ModelSaved(Event, frozen=True, kw_only=True):
    path: str


class CurvesKept(Event, frozen=True, kw_only=True):
    """A tracker has its first values. `view` is the command or the address that shows them."""

    view: str


class WorkflowFinished(Event, frozen=True, kw_only=True):
    """The last event of the server after a successful run."""

    digest: str
    seeded_themselves: list[str]
    late: list[str] = []  # clients that still work on a task the server no longer waits for


class RunFailed(Event, frozen=True, kw_only=True):
    """The last event of the server after a run that failed."""

    cause: str
    hint: str
    exit_code: int


class RunFinished(Event, frozen=True, kw_only=True):
    """The last event of the run. `report` is the path of report.json."""

    ok: bool
    exit_code: int
    cause: str
    hint: str = ""
    report: str = ""


class CommandFailed(Event, frozen=True, kw_only=True):
    """An error of a command, which prints it with `--format json`; no file has it. `details`: such as ends of logs."""

    message: str
    hint: str = ""
    details: list[str] = []
    exit_code: int


AnyEvent = Union[  # noqa: UP007  msgspec reads it at run time
    RunStarted,
    RunSettings,
    ProcessStarted,
    ProcessExited,
    WillWrite,
    ServerReady,
    ClientWanted,
    WorkerUnwanted,
    ClientReady,
    WorkflowStarted,
    RoundStarted,
    ModelSent,
    TaskSent,
    ReplyAccepted,
    ReplyFailed,
    ReplyLate,
    NotAwaited,
    ValuesLogged,
    ClientStopped,
    ReplyArrived,
    Notice,
    RoundFinished,
    ModelValidated,
    PrivacySpent,
    ResultTable,
    BestModel,
    ModelSaved,
    CurvesKept,
    WorkflowFinished,
    RunFailed,
    RunFinished,
    CommandFailed,
]

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(AnyEvent)


def to_line(event: Event) -> bytes:
    """One JSON object and a newline."""
    return _encoder.encode(event) + b"\n"


def from_line(line: bytes | str) -> Event:
    """The event of a line that `to_line` wrote. Raises msgspec.DecodeError."""
    event: Event = _decoder.decode(line)
    return event


class Observer(Protocol):
    def on(self, event: Event) -> None:
        """Called for every event, in the order of the events."""
