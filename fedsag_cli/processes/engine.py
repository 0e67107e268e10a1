"""The contract of an engine, which starts and ends the processes of a run."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

from fedsag_cli.events import Event
from fedsag_cli.processes.child import ProcessSpec


class Engine(Protocol):
    """Starts processes, receives their events, ends them. A process is known by the name in its spec."""

    def prepare(self, modules: Sequence[str]) -> None:
        """The processes will import these modules: the engine may import them now. Returns at once."""

    def start(self, spec: ProcessSpec) -> None:
        """Start a process. `next_event` gives its ProcessStarted and, at its end, its ProcessExited."""

    def tell(self, name: str, event: Event) -> None:
        """Send `event` to a process that has a link. Does nothing if the process has ended."""

    def next_event(self, timeout_s: float | None = None) -> Event:
        """The next event, of the engine or sent by a process; a process's own events come before its ProcessExited.

        Raises TimeoutError after `timeout_s` seconds without one.
        """

    def stop(self, grace_s: float = 5.0, show_stack: Collection[str] = ()) -> None:
        """End every process and its children with SIGTERM and, after `grace_s` seconds, SIGKILL.

        The processes in `show_stack`, where they are Python scripts, first print their stacks into their logs.
        """
