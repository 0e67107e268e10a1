"""The contract of a tracker, which stores what scripts log, and each round's metrics, for tools such as TensorBoard."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeGuard, runtime_checkable

from fedsag_cli.events import ValuesLogged


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """What is known of a run when it begins.

    `settings`: file and key of each value in the config files -> the value, such as "config_fed_server.conf
    workflows[0].args.num_rounds" -> 5. `versions`: of Python and the libraries. `is_resumed`: whether the run continues
    one that was begun before in this workspace.
    """

    job: str
    workspace: Path = Path()
    sites: Sequence[str] = ()
    seed: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    is_resumed: bool = False


class Status(enum.Enum):
    """How a run, or a site's part in it, ended. KILLED: it was stopped before its end, as by Ctrl-C."""

    FINISHED = "FINISHED"
    FAILED = "FAILED"
    KILLED = "KILLED"


@dataclass(frozen=True, kw_only=True)
class RunEnd:
    """How a run ended.

    `digest`: of the trained model's params; empty if the run is not finished. `cause`: why it is not. `failed_sites`:
    those whose last task failed.
    """

    status: Status
    digest: str = ""
    cause: str = ""
    failed_sites: frozenset[str] = frozenset()

    def of(self, site: str) -> Status:
        """How this site's part ended. Sites that work while the run fails are stopped."""
        if site in self.failed_sites:
            return Status.FAILED
        return Status.KILLED if self.status is Status.FAILED else self.status


@runtime_checkable
class Tracker(Protocol):
    """Stores logged values. It is called in its own thread, so that the run does not wait for it.

    An exception becomes a note for the user, and the run continues. `extra` names the extra of fedsag that installs
    what the tracker needs. `folders`, relative to the server's working directory, belong to the tracker: the next run
    in the same workspace removes everything in them.

    A tracker that needs only the job's name may have `open(job)` and `close()` in place of `begin` and `finish`.
    """

    extra: str

    @property
    def folders(self) -> Sequence[Path]: ...

    @property
    def view(self) -> str:
        """The command, or the address, that shows the stored values; empty if there is none."""

    def begin(self, facts: RunFacts) -> None:
        """Called once, before the first value: when a client has started, or at the end of a run that has none.

        Raises ImportError if what the tracker needs is not installed.
        """

    def write(self, values: Sequence[ValuesLogged]) -> None:
        """Store values of one site, in this order: all of them, or none and raise. They must not be lost if the run is
        killed after this call. The site "server" stands for the whole run.

        `values` has at least one element, and at most 100 names in all.
        """

    def finish(self, end: RunEnd) -> None:
        """Called once, after the last value. It is not called if the process is killed."""


@runtime_checkable
class ShortTracker(Protocol):
    """The short form of a tracker: see there."""

    extra: str

    @property
    def folders(self) -> Sequence[Path]: ...

    @property
    def view(self) -> str: ...

    def open(self, job: str) -> None: ...

    def write(self, values: Sequence[ValuesLogged]) -> None: ...

    def close(self) -> None: ...


def is_tracker(part: object) -> TypeGuard[Tracker | ShortTracker]:
    return isinstance(part, Tracker | ShortTracker)


def begin(tracker: Tracker | ShortTracker, facts: RunFacts) -> None:
    """Let a tracker of either form begin. Raises what it raises."""
    if isinstance(tracker, Tracker):
        tracker.begin(facts)
    else:
        tracker.open(facts.job)


def finish(tracker: Tracker | ShortTracker, end: RunEnd) -> None:
    """Let a tracker of either form finish. Raises what it raises."""
    if isinstance(tracker, Tracker):
        tracker.finish(end)
    else:
        tracker.close()
