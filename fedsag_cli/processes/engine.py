"""The contract of an engine: where a run's processes live."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

from fedsag_cli.events import Event
from fedsag_cli.processes.child import ProcessSpec


class Engine(Protocol):
    """Starts processes, tells what becomes of them and what they tell, ends them."""

    def prepare(self, modules: Sequence[str]) -> None:
        """What the processes will import: may be made ready now. Returns at once."""

    def start(self, spec: ProcessSpec) -> None:
        """Start a process; `events` tells its ProcessStarted and, at its end, its ProcessExited."""

    def tell(self, name: str, event: Event) -> None:
        """Send `event` to a process that talks. One that is gone does not hear it."""

    def next_event(self, timeout_s: float | None = None) -> Event:
        """What happened next; what a process told comes before its ProcessExited. Raises TimeoutError."""

    def stop(self, grace_s: float = 5.0, hung: Collection[str] = ()) -> None:
        """End every process and its children: ask, wait `grace_s` seconds, insist.

        Those named `hung` print their stacks into their logs first, where they are Python scripts.
        """
