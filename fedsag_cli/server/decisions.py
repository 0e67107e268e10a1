"""What can happen while a run talks to its clients, and what the server decides to do about it: values alone."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from fedsag_cli.events import Failure
from fedsag_cli.wire.messages import Usage


class _Value(msgspec.Struct, frozen=True):
    """One thing that happened, or one decision."""


class Begun(_Value, frozen=True):
    """A workflow began a broadcast to `targets`. With `refused` the task cannot be sent: every target fails with it."""

    task_id: int
    targets: tuple[str, ...]
    min_responses: int = 0
    timeout_s: float | None = None
    grace_s: float | None = None
    round_num: int = 0
    refused: Failure | None = None


class Left(_Value, frozen=True):
    """The workflow left the broadcast: all replies are taken, or it wants no more of them."""


class Connected(_Value, frozen=True):
    """A client's process opened its channel."""

    site: str


class Asked(_Value, frozen=True):
    """A client asked for its first task."""

    site: str


class Answered(_Value, frozen=True):
    site: str
    task_id: int
    usage: Usage | None = None


class Disconnected(_Value, frozen=True):
    """A client's channel closed. `cause` is given where we closed it, because of what the client sent."""

    site: str
    cause: str = ""


class Exited(_Value, frozen=True):
    """A client's process ended. `failure` is what the process itself said about it."""

    site: str
    exit_code: int
    failure: Failure | None = None


class Taken(_Value, frozen=True):
    """The workflow has worked on the reply that was given, and asks for the next."""


class Rejected(_Value, frozen=True):
    """A reply that was given does not count."""

    site: str
    failure: Failure


class TimePassed(_Value, frozen=True):
    """Nothing else happened, and it is later."""


class Start(_Value, frozen=True):
    """Start the client's process. It takes a slot."""

    site: str


class Admit(_Value, frozen=True):
    """The client is ready for tasks."""

    site: str


class Send(_Value, frozen=True):
    """Send the task. It takes a slot. `tell_usage`: ask for the client's memory too."""

    site: str
    tell_usage: bool = False


class EndChannel(_Value, frozen=True):
    """Tell the client that there are no more tasks for this process (launch_once = false)."""

    site: str


class Keep(_Value, frozen=True):
    """The answer counts: keep it until it is its turn. `work_s`: seconds since the task was sent."""

    site: str
    work_s: float


class Drop(_Value, frozen=True):
    """The answer is late, or nobody asked for it."""

    site: str


class Give(_Value, frozen=True):
    """It is this reply's turn: give it to the workflow."""

    site: str


class Accept(_Value, frozen=True):
    """The workflow took the reply and did not reject it."""

    site: str


class Fail(_Value, frozen=True):
    """The client has no answer to this task. `hangs`: its process may still be at work."""

    site: str
    failure: Failure
    hangs: bool = False


class Warn(_Value, frozen=True):
    """A process answered its task, then failed."""

    text: str


class Finish(_Value, frozen=True):
    """Every target answered or failed, and every reply was taken."""


class QuorumLost(_Value, frozen=True):
    """Stop the run: `needed` answers are not `possible` any more."""

    needed: int
    possible: int
    cause: str
    hint: str


class MemoryShort(_Value, frozen=True):
    """Stop the run: so many `clients` more do not fit into the memory that is `free`. Bytes."""

    clients: int
    needed: int
    free: int
    where: str


class StrictFailure(_Value, frozen=True):
    """Stop the run: with --strict no process may fail."""

    text: str


Happening: TypeAlias = (
    Begun | Left | Connected | Asked | Answered | Disconnected | Exited | Taken | Rejected | TimePassed
)
Stop: TypeAlias = QuorumLost | MemoryShort | StrictFailure
Decision: TypeAlias = (
    Start
    | Admit
    | Send
    | EndChannel
    | Keep
    | Drop
    | Give
    | Accept
    | Fail
    | Warn
    | Finish
    | QuorumLost
    | MemoryShort
    | StrictFailure
)
