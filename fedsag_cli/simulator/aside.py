"""The engine for processes that are tried aside: in a workspace that is removed, and on no record."""

from __future__ import annotations

import os
import queue
import secrets
from collections.abc import Iterator
from contextlib import contextmanager

from fedsag_cli.events import Event
from fedsag_cli.plan import Plan
from fedsag_cli.processes.local import LocalEngine, can_fork
from fedsag_cli.simulator import environment
from fedsag_cli.simulator.options import FORK
from fedsag_cli.simulator.signals import have_standard_streams, signals_interrupt
from fedsag_cli.wire.channel import private_address
from fedsag_cli.wire.messages import ADDRESS, RUN, TOKEN
from fedsag_cli.workspace import Workspace


@contextmanager
def engine_for(
    plan: Plan, workspace: Workspace, events_to: queue.SimpleQueue[Event] | None = None
) -> Iterator[tuple[LocalEngine, dict[str, str]]]:
    """An engine for the processes of a plan, and their environment. At the end all of them are ended."""
    have_standard_streams()
    with signals_interrupt(), private_address() as address:
        own = {ADDRESS: address, TOKEN: secrets.token_hex(16), RUN: workspace.mark}
        env = environment.for_processes(os.environ) | own
        engine = LocalEngine(fork=plan.launcher == FORK and can_fork(), env=env, events_to=events_to)
        try:
            engine.prepare(plan.preload)
            yield engine, env
        finally:
            engine.stop(grace_s=0.0)
