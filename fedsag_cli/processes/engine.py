"""The contract of an engine, which starts and ends the processes of a run."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

from fedsag_cli.events import Event
from fedsag_cli.processes.child import ProcessSpec


class Engine(Protocol):
    """Starts processes, receives their events, and ends them. A process is identified by the name in its spec."""

    def prepare(self, modules: Sequence[str]) -> None:
        """Announce modules that the processes will import, so that the engine can import them now. Returns at once."""

    def start(self, spec: ProcessSpec) -> None:
        """Start a process. `next_event` returns its ProcessStarted and, at its end, its ProcessExited."""

    def tell(self, name: str, event: Event) -> None:
        """Send `event` to a process that has a link. Does nothing if the process has ended."""

    def next_event(self, timeout_s: float | None = None) -> Event:
        """The next event of the engine or of a process. A process's own events come before its ProcessExited.

        Raises TimeoutError after `timeout_s` seconds without an event.
        """

    def end(self, name: str) -> None:
        """End one process and its children at once; a Python script first prints its stack to its log.

        `next_event` returns its ProcessExited. Does nothing if it has ended.
        """

    def stop(self, grace_s: float = 5.0, show_stack: Collection[str] = ()) -> None:
        """End every process and its children with SIGTERM and, after `grace_s` seconds, SIGKILL.

        Python scripts in `show_stack` first print their stacks to their logs.
        """
