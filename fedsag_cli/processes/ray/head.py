"""The agents of all nodes, and what the command's process wants of them."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import ray
from ray.exceptions import RayActorError, RayError

from fedsag_cli import events
from fedsag_cli.errors import ChannelClosed
from fedsag_cli.events import Event, Failure, ProcessExited, ProcessStarted
from fedsag_cli.plan import is_worker
from fedsag_cli.processes.child import ProcessSpec, as_given
from fedsag_cli.processes.local import NURSERY
from fedsag_cli.processes.nursery import End, Preload, Stop
from fedsag_cli.processes.ray.messages import (
    Closed,
    Files,
    FromClient,
    FromDriver,
    FromNode,
    Happened,
    Launch,
    Logged,
    Opened,
    Stopped,
    ToDriver,
    Told,
    ToNode,
    with_reason,
)
from fedsag_cli.processes.ray.relay import Relay
from fedsag_cli.wire.channel import UnixChannel
from fedsag_cli.workspace import JOB_ID

_KILLED = -9
_STOP_S = 10.0  # beyond the grace, for a node to say that its processes have ended


class RemoteNode:
    """The driver's side of an agent: a thread that tells it what to do, and one that hears what happens there."""

    def __init__(self, name: str, agent: Any, hear: Callable[[RemoteNode, FromNode], None]) -> None:
        """`agent`: the actor. `hear` is called in the thread of this node."""
        self.name, self.agent = name, agent
        self.alive: set[str] = set()  # its processes
        self.sent: set[str] = set()  # the folders of the workspace that it has
        self.cause = ""  # why nothing can run there any more
        self.is_gone = False  # its agent has ended too
        self._hear = hear
        self._outbox: queue.SimpleQueue[ToNode] = queue.SimpleQueue()
        self._ending = threading.Lock()
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._listen, self._send)]
        for thread in self._threads:
            thread.start()

    def tell(self, *requests: ToNode) -> None:
        for request in requests:
            self._outbox.put(request)

    def stopped(self, timeout_s: float) -> None:
        """Wait until the node has told everything."""
        self._threads[0].join(timeout_s)

    def _send(self) -> None:
        while not self.is_gone:
            requests = [self._outbox.get()]
            with contextlib.suppress(queue.Empty):
                while True:
                    requests.append(self._outbox.get_nowait())
            try:
                ray.get(self.agent.do.remote(requests))  # one call at a time: Ray promises no order of several
            except RayError as error:
                self._die(error)

    def _listen(self) -> None:
        while not self.is_gone:
            try:
                for item in ray.get(self.agent.listen.options(concurrency_group="up").remote()):
                    self._hear(self, item)
                    if isinstance(item, Stopped):
                        return
            except RayError as error:
                self._die(error)

    def _die(self, error: RayError) -> None:
        with self._ending:
            if not self.is_gone:
                self.is_gone = True
                self.cause = self.cause or _cause(self.name, error)
                self._hear(self, Stopped())


def _cause(name: str, error: RayError) -> str:
    return f"{name} has died" if isinstance(error, RayActorError) else f"the agent of {name} failed: {reason(error)}"


def reason(error: BaseException) -> str:
    """The one line of an error of Ray that says what was wrong."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    cause = getattr(error, "cause", None) or error
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    named = [line for line in lines if ": " in line and line.split(":")[0].endswith(("Error", "Exception"))]
    return (named or lines or [type(cause).__name__])[-1 if named else 0]


class Head:
    """Carries out what the command's process wants, and tells it what happens."""

    def __init__(
        self, channel: UnixChannel[FromDriver, ToDriver], root: Path, relay: Relay, agents: Sequence[tuple[str, Any]]
    ) -> None:
        """`agents`: the name and the actor of each node, in the order of `ProcessSpec.node`."""
        self._channel, self._root, self._relay = channel, root, relay
        self._telling = threading.Lock()
        self._nodes = [RemoteNode(name, agent, self._hear) for name, agent in agents]

    def run(self) -> None:
        """Until the command's process wants an end, or has ended itself."""
        while True:
            try:
                request, _ = self._channel.receive()
            except ChannelClosed:
                request = Stop(grace_s=0.0)
            match request:
                case Preload():
                    for node in self._nodes:
                        node.tell(request)
                case Launch(spec):
                    self._launch(self._place_for(spec), spec)
                case End(name):
                    for node in self._nodes:
                        if name in node.alive:
                            node.tell(request)
                case Stop(grace_s, show_stack):
                    self._stop(grace_s, show_stack)
                    return

    def _place_for(self, spec: ProcessSpec) -> RemoteNode:
        """The node of a process. A worker whose node has died, and which serves any client, starts on another one."""
        living = [node for node in self._nodes if not node.cause]
        if not living or not self._nodes[spec.node].cause or not is_worker(spec.name):
            return self._nodes[spec.node]
        return min(living, key=lambda node: len(node.alive))

    def _launch(self, node: RemoteNode, spec: ProcessSpec) -> None:
        node.alive.add(spec.name)
        if node.cause:
            self._lost(node)
            return
        for name in self._folders(spec) - node.sent:
            node.sent.add(name)
            node.tell(Files(self._files_in(self._root / name / JOB_ID)))
        node.tell(Launch(msgspec.structs.replace(spec, env=as_given(spec.env))))

    def _folders(self, spec: ProcessSpec) -> set[str]:
        """The folders of the workspace in which the process has its app."""
        places = [Path(word) for word in (spec.cwd, *spec.args, *spec.command)]
        inside = [path.relative_to(self._root).parts for path in places if path.is_relative_to(self._root)]
        return {parts[0] for parts in inside if parts}

    def _files_in(self, folder: Path) -> list[tuple[str, int, bytes]]:
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        return [(str(path.relative_to(self._root)), path.stat().st_mode & 0o777, path.read_bytes()) for path in files]

    def _stop(self, grace_s: float, show_stack: Sequence[str]) -> None:
        living = [node for node in self._nodes if not node.is_gone]
        asked = [node.agent.stop.options(concurrency_group="end").remote(grace_s, list(show_stack)) for node in living]
        with contextlib.suppress(RayError):
            ray.wait(asked, num_returns=len(asked), timeout=grace_s + _STOP_S) if asked else None
        for node in living:
            node.stopped(_STOP_S)
        closed = [node.agent.close.remote() for node in living if not node.is_gone]
        with contextlib.suppress(RayError):
            ray.wait(closed, num_returns=len(closed), timeout=_STOP_S) if closed else None

    # in the threads of the nodes

    def _hear(self, node: RemoteNode, item: FromNode) -> None:
        match item:
            case Opened(link):
                self._relay.open(node, link)
            case FromClient(link, body, files):
                self._relay.send(node, link, body, files)
            case Closed(link):
                self._relay.close(node, link)
            case Logged(path, data):
                with contextlib.suppress(OSError):
                    (self._root / path).parent.mkdir(exist_ok=True)
                    with (self._root / path).open("ab") as log:
                        log.write(data)
            case Told(line):
                self._pass_on(node, events.from_line(line))
            case Stopped():
                self._relay.close_all(node)
                self._lost(node)

    def _pass_on(self, node: RemoteNode, event: Event) -> None:
        if isinstance(event, ProcessExited) and event.name == NURSERY:
            node.cause = with_reason(
                f"the nursery of {node.name} has ended", event.failure.cause if event.failure else ""
            )
            self._lost(node)
        elif isinstance(event, ProcessStarted | ProcessExited):
            if isinstance(event, ProcessExited):
                node.alive.discard(event.name)
            self._tell(msgspec.structs.replace(event, node=node.name, at=events.now()))

    def _lost(self, node: RemoteNode) -> None:
        """What still lived on a node has ended with it."""
        for name in sorted(node.alive) if node.cause else ():
            node.alive.discard(name)
            self._tell(ProcessExited(name=name, exit_code=_KILLED, failure=Failure(cause=node.cause), node=node.name))

    def _tell(self, event: Event) -> None:
        with self._telling, contextlib.suppress(ChannelClosed):  # the next receive sees that
            self._channel.send(Happened(events.to_line(event)))
