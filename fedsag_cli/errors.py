"""Every error that fedsag raises on purpose: a message, a hint, and the exit code of the command.

FedsagError                   1   the base class; only its subclasses are raised
├── UsageError                2   a flag or an argument is wrong
│   └── WorkspaceError        2   the workspace cannot be used
├── JobError                  3   a template, a job or the config file is wrong
├── RunError                  4   the run failed
│   ├── NotEnoughClients      4   too few clients can still answer a task
│   ├── NotEnoughMemory       4   the clients cannot all stay in memory
│   ├── OutOfTime             4   the run took longer than it may
│   └── ChannelClosed         4   the other process has closed the channel
│       └── BadMessage        4   it sent a message that fedsag never sends; the channel is closed
├── ClientError               4   a call of the Client API is not possible now (also a RuntimeError)
├── TensorError               4   params that cannot be sent, or a damaged tensor file (also a ValueError)
└── Interrupted               130 or 143
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, ParamSpec, TypeVar

Args = ParamSpec("Args")
Result = TypeVar("Result")


class FedsagError(Exception):
    """An error that the user can act on: `message` says what is wrong and where, `hint` what to do now.

    `details` are further lines to print. `report` is the report of the run that failed, a `simulator.report.Report`;
    None if no run had begun.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.details: Sequence[str] = ()
        self.report: Any = None

    def __str__(self) -> str:
        """Message and hint, for a traceback in a script."""
        return f"{self.message} ({self.hint})" if self.hint else self.message


class UsageError(FedsagError):
    exit_code = 2


class WorkspaceError(UsageError):
    pass


class JobError(FedsagError):
    """`file`: the config file, or the script, that is wrong; `at`: the keys and indices of the value in it, the
    outermost first; `line`: its line, where the error itself knows it. `others`: what else is wrong with the job.
    """

    exit_code = 3

    def __init__(
        self, message: str, *, hint: str = "", file: str = "", at: tuple[str | int, ...] = (), line: int | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.file, self.at, self.line = file, at, line
        self.others: Sequence[JobError] = ()


class Gathering:
    """Gathers the errors of checks that do not depend on each other. The end of its `with` block raises the first.

    That has the further ones as `others`. An error of the block itself comes last.
    """

    def __init__(self) -> None:
        self._errors: dict[str, JobError] = {}  # by message: several checks may meet the same error

    def attempt(self, check: Callable[Args, Result], *args: Args.args, **named: Args.kwargs) -> Result | None:
        """What the check returns; None if it raises a JobError."""
        try:
            return check(*args, **named)
        except JobError as error:
            self.add(error)
            return None

    def add(self, error: JobError) -> None:
        for each in (error, *error.others):
            self._errors.setdefault(each.message, each)

    def check(self) -> None:
        """Raise the first error, if there is one."""
        if self._errors:
            first, *others = self._errors.values()
            first.others = others
            raise first

    def __enter__(self) -> Gathering:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, JobError):
            self.add(error)
        if error is None or isinstance(error, JobError | UsageError):
            self.check()


class RunError(FedsagError):
    exit_code = 4


class NotEnoughClients(RunError):
    """`round_num` is None if the task belongs to no round. `cause` is the first failure."""

    def __init__(
        self, task: str, *, needed: int, possible: int, round_num: int | None = None, cause: str = "", hint: str = ""
    ) -> None:
        what = f"task {task!r}" if round_num is None else f"round {round_num}"
        clients = {0: "no client", 1: "only 1 client"}.get(possible, f"only {possible} clients")
        super().__init__(
            f"{what} needs {counted(needed, 'answer')}, but {clients} can still answer"
            + (f"; the first failure: {cause}" if cause else ""),
            hint=hint,
        )


class NotEnoughMemory(RunError):
    def __init__(self, *, clients: int, needed: int, free: int, where: str) -> None:
        need = f"{counted(clients, 'client')} {'needs' if clients == 1 else 'need'}"
        super().__init__(
            f"{need} about {needed / 1e9:.1f} GB of {where} memory, {free / 1e9:.1f} GB are free",
            hint="use fewer clients (-n), smaller data in each, or launch_once=false so that only working clients live",
        )


class OutOfTime(RunError):
    """`limit`: as the user wrote it, such as 10m."""

    def __init__(self, limit: str) -> None:
        super().__init__(f"the run took longer than --max-time {limit}")


class ChannelClosed(RunError):
    pass


class BadMessage(ChannelClosed):
    pass


class ClientError(FedsagError, RuntimeError):
    exit_code = 4


class TensorError(FedsagError, ValueError):
    exit_code = 4


class Interrupted(FedsagError):
    """A signal ended the run: the exit code is 128 + the signal's number."""

    def __init__(self, signal_number: int, *, hint: str = "") -> None:
        super().__init__("interrupted", hint=hint)
        self.exit_code = 128 + signal_number


def counted(number: int, noun: str) -> str:
    """The number with its noun: "1 client", "2 clients"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def there_are(number: int, noun: str) -> str:
    """The number with its noun and verb: "there is 1 client", "there are 2 clients"."""
    return f"there {'is' if number == 1 else 'are'} {counted(number, noun)}"


_MOST_NAMES = 100


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint: the known name that is most similar to `name`; if none is, or only one with another number, all names.

    Of more than a hundred, only the ends.
    """
    names = sorted(set(known), key=lambda each: re.sub(r"\d+", lambda digits: digits[0].zfill(9), each))
    near = difflib.get_close_matches(name, names, n=1)
    if near and not _is_counted_alike(name, near[0]):
        return f"did you mean {near[0]!r}?"
    shown = names if len(names) <= _MOST_NAMES else [*names[:3], f"… {names[-1]}"]
    return f"known: {', '.join(shown)}" if names else ""


def _is_counted_alike(name: str, known: str) -> bool:
    """Whether they differ in their number only: then it is no slip of the keyboard, but a thing that is not there."""
    numbered = re.compile(r"\d+$")
    return name != known and numbered.sub("#", name) == numbered.sub("#", known)


_WAYS_OUT = {
    errno.ENOSPC: "free some space on that disk",
    errno.EDQUOT: "free some space: your quota on that disk is used up",
    errno.EROFS: "that disk can only be read now: choose a folder on another disk",
    errno.EMFILE: "`ulimit -n` raises the limit of open files; or give fewer clients",
    errno.ENFILE: "the whole system has too many open files; or give fewer clients",
    errno.EAGAIN: "raise the limit of processes (`ulimit -u`, or the container's), or give fewer clients",
    errno.ENOMEM: "free some memory, or give fewer clients",
}


@contextlib.contextmanager
def system_errors() -> Iterator[None]:
    """Raise what the system refuses in this block as a RunError."""
    try:
        yield
    except (OSError, MemoryError, RuntimeError) as error:
        if (refused := of_system(error)) is None:
            raise
        raise refused from None


def of_system(error: BaseException, what: str = "") -> RunError | None:
    """What the system refused to this process, as an error that the user can act on; None for any other error.

    `what`: what failed, if the error does not name a file.
    """
    if isinstance(error, MemoryError):
        return RunError("no memory is left", hint=_WAYS_OUT[errno.ENOMEM])
    if isinstance(error, RuntimeError) and "start new thread" in str(error):
        return RunError("no thread can be started", hint=_WAYS_OUT[errno.EAGAIN])
    if isinstance(error, OSError):
        named = error.filename or what
        message = f"{named}: {error.strerror}" if named and error.strerror else str(error)
        return RunError(message, hint=_WAYS_OUT.get(error.errno or 0, ""))
    return None
