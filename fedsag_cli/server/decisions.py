"""The dispatcher's input, what can happen during a run, and its output, what the server does. Only values."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from fedsag_cli.events import Failure
from fedsag_cli.wire.messages import Usage


class _Value(msgspec.Struct, frozen=True):
    """One thing that happened, or one decision."""


class Begun(_Value, frozen=True):
    """A workflow asks `targets` to do a task. `refused`: why the task cannot be sent; then every target fails."""

    task_id: int
    targets: tuple[str, ...]
    min_responses: int = 0
    timeout_s: float | None = None
    grace_s: float | None = None
    round_num: int = 0
    refused: Failure | None = None


class Wanted(_Value, frozen=True):
    """The workflow asks for the next reply to a task: it has processed the one before."""

    task_id: int


class Left(_Value, frozen=True):
    """The workflow ended a task: it took all replies, or it needs no more than it has."""

    task_id: int


class Connected(_Value, frozen=True):
    """A client's process opened its channel."""

    site: str


class Asked(_Value, frozen=True):
    """A client asked for its first task."""

    site: str


class Served(_Value, frozen=True):
    """A worker is free, and works for this client from now on."""

    site: str


class Returned(_Value, frozen=True):
    """The client has its worker no more, which ended before it began the task, or is stopped as it is late."""

    site: str


class Answered(_Value, frozen=True):
    site: str
    task_id: int
    usage: Usage | None = None


class Disconnected(_Value, frozen=True):
    """A client's channel closed. If the server closed it, `cause` is what was wrong in the client's message."""

    site: str
    cause: str = ""


class Exited(_Value, frozen=True):
    """A client's process ended. `failure` is what the process itself reported."""

    site: str
    exit_code: int
    failure: Failure | None = None


class Rejected(_Value, frozen=True):
    """The workflow rejected a reply that it got."""

    task_id: int
    site: str
    failure: Failure


class TimePassed(_Value, frozen=True):
    """A deadline has passed."""


class Start(_Value, frozen=True):
    """Start the client's process, or find a worker for it. The client takes a slot."""

    site: str


class Admit(_Value, frozen=True):
    """The client is ready for tasks."""

    site: str


class Send(_Value, frozen=True):
    """Send the task. The client takes a slot. `tell_usage`: also ask how much memory it uses."""

    task_id: int
    site: str
    tell_usage: bool = False


class EndChannel(_Value, frozen=True):
    """Tell the client that there are no more tasks for this process (launch_once = false)."""

    site: str


class Release(_Value, frozen=True):
    """The worker of this client is free for another one."""

    site: str


class Keep(_Value, frozen=True):
    """The answer is valid: keep it until its turn. `work_s`: seconds since the task was sent."""

    task_id: int
    site: str
    work_s: float


class Drop(_Value, frozen=True):
    """Ignore the answer: it is late, or belongs to no task."""

    site: str


class Give(_Value, frozen=True):
    """Give the reply to the workflow, which asked for it: it is next in site order."""

    task_id: int
    site: str


class Accept(_Value, frozen=True):
    """The workflow took the reply and did not reject it."""

    task_id: int
    site: str


class Fail(_Value, frozen=True):
    """The client does not answer this task. `hangs`: its process may still work on it."""

    task_id: int
    site: str
    failure: Failure
    hangs: bool = False


class Skip(_Value, frozen=True):
    """The client is not waited for: enough others have answered, and the grace is over. It has not failed."""

    task_id: int
    site: str


class WaitOn(_Value, frozen=True):
    """Once in a run: these clients are waited for although enough others have answered and the grace is over."""

    sites: tuple[str, ...]


class Warn(_Value, frozen=True):
    """Warn the user: a process failed after its answer."""

    text: str


class Finish(_Value, frozen=True):
    """There are no more replies to a task: every target's was given, or it failed or is not waited for."""

    task_id: int


class QuorumLost(_Value, frozen=True):
    """Stop the run: only `possible` answers to a task can still arrive, and `needed` are required."""

    task_id: int
    needed: int
    possible: int
    cause: str
    hint: str


class MemoryShort(_Value, frozen=True):
    """Stop the run: `clients` further clients do not fit into memory. `needed` and `free` in bytes."""

    clients: int
    needed: int
    free: int
    where: str


class StrictFailure(_Value, frozen=True):
    """Stop the run: with --strict no process may fail."""

    text: str


Happening: TypeAlias = (
    Begun
    | Wanted
    | Rejected
    | Left
    | Connected
    | Asked
    | Served
    | Returned
    | Answered
    | Disconnected
    | Exited
    | TimePassed
)
Stop: TypeAlias = QuorumLost | MemoryShort | StrictFailure
Decision: TypeAlias = (
    Start
    | Admit
    | Send
    | EndChannel
    | Release
    | Keep
    | Drop
    | Give
    | Accept
    | Fail
    | Skip
    | WaitOn
    | Warn
    | Finish
    | QuorumLost
    | MemoryShort
    | StrictFailure
)
