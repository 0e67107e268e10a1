"""The engine for several machines: the server on this one, the clients on the nodes of a Ray cluster."""

from __future__ import annotations

import contextlib
import importlib.util
import queue
import subprocess
import threading
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import msgspec

from fedsag_cli import events
from fedsag_cli.errors import ChannelClosed, RunError, UsageError
from fedsag_cli.events import Event, Failure, ProcessExited
from fedsag_cli.processes.child import ProcessSpec, as_sent
from fedsag_cli.processes.kill import kill_marked, kill_session
from fedsag_cli.processes.local import NURSERY, LocalEngine, last_line, start_helper
from fedsag_cli.processes.nursery import End, Preload, Stop
from fedsag_cli.processes.ray.messages import (
    FromDriver,
    Happened,
    Joined,
    Launch,
    Node,
    Refused,
    Settings,
    ToDriver,
    with_reason,
)
from fedsag_cli.wire.channel import UnixChannel
from fedsag_cli.wire.messages import TOKEN

_END_S = 40.0  # beyond the grace, for the nodes to end and Ray to be shut down


def check_installed() -> None:
    """Raises UsageError if Ray is not there."""
    if importlib.util.find_spec("ray") is None:
        raise UsageError("--engine ray needs Ray, which is not installed", hint="pip install 'fedsag[ray]'")


class RayEngine:
    """Implements `Engine`. A process with a link, which is the server, runs here; any other on its node."""

    def __init__(self, *, fork: bool, env: Mapping[str, str], address: str | None, root: Path) -> None:
        """Starts the driver. `address`: of a Ray cluster; None: Ray starts on this machine. `root`: the workspace."""
        self._token = env.get(TOKEN, "")
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._joined: queue.SimpleQueue[Joined | Refused] = queue.SimpleQueue()
        self._nodes: Joined | None = None
        self._stopping = False
        settings = Settings(address=address or "", root=str(root), fork=fork)
        self._head = LocalEngine(fork=fork, env=env, events_to=self._events)
        try:
            channel, self._driver, self._output = start_helper(
                "fedsag_cli.processes.ray.driver", msgspec.json.encode(settings).decode(), env=env
            )
            self._channel: UnixChannel[ToDriver, FromDriver] = UnixChannel(channel, FromDriver)
            self._reader = threading.Thread(target=self._read, daemon=True)
            self._reader.start()
        except BaseException:
            self._head.stop(grace_s=0.0)
            raise

    def nodes(self) -> Sequence[Node]:
        """The machines for clients. Waits for them. Raises UsageError, RunError."""
        return self._wait().nodes

    def notes(self) -> Sequence[str]:
        """What the user should know of the nodes."""
        return self._wait().notes

    def prepare(self, modules: Sequence[str]) -> None:
        self._head.prepare(modules)
        self._send(Preload(list(modules)))

    def start(self, spec: ProcessSpec) -> None:
        if spec.has_link:
            self._head.start(spec)
        else:
            self._send(Launch(msgspec.structs.replace(spec, env=as_sent(spec.env))))

    def tell(self, name: str, event: Event) -> None:
        self._head.tell(name, event)

    def next_event(self, timeout_s: float | None = None) -> Event:
        return self._head.next_event(timeout_s)

    def end(self, name: str) -> None:
        self._send(End(name))

    def stop(self, grace_s: float = 5.0, show_stack: Collection[str] = ()) -> None:
        self._stopping = True
        if self._nodes is None:
            self._driver.kill()  # Ray may still start, and there is no process on a node to end
        self._send(Stop(grace_s, list(show_stack)))
        self._head.stop(grace_s, show_stack)
        try:
            self._driver.wait(timeout=grace_s + _END_S)
        except subprocess.TimeoutExpired:
            self._driver.kill()
            self._driver.wait()
        if self._driver.returncode:
            kill_session(
                self._driver.pid
            )  # processes of Ray write their titles over their environment, and so the mark
            kill_marked(TOKEN, self._token)
        self._reader.join(timeout=5.0)

    def _wait(self) -> Joined:
        if self._nodes is None:
            match self._joined.get():
                case Joined() as joined:
                    self._nodes = joined
                case Refused(message, hint, exit_code):
                    kind = UsageError if exit_code == UsageError.exit_code else RunError
                    raise kind(message, hint=hint)
        return self._nodes

    def _send(self, request: ToDriver) -> None:
        with contextlib.suppress(ChannelClosed):  # the end of the driver is told as an event
            self._channel.send(request)

    def _read(self) -> None:
        while True:
            try:
                message, _ = self._channel.receive()
            except ChannelClosed:
                break
            match message:
                case Happened(line):
                    self._events.put(events.from_line(line))
                case _:
                    self._joined.put(message)
        if not self._stopping:
            self._driver.wait()
            cause = with_reason("the driver of Ray has ended", last_line(self._output))
            self._joined.put(Refused(cause, "", RunError.exit_code))
            failure = Failure(cause=cause, exit_code=self._driver.returncode)
            self._events.put(ProcessExited(name=NURSERY, exit_code=self._driver.returncode, failure=failure))
