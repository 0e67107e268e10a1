"""The agent of a node: an actor of Ray that starts the clients there, by a nursery, and relays their messages.

It never forks, as Ray's own threads would not survive that. To its clients it is the server: they connect to its
socket, which is on their machine, with the run's token; the server itself checks that.
"""

from __future__ import annotations

import contextlib
import os
import queue
import resource
import selectors
import socket
import sys
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec

import fedsag_cli
from fedsag_cli import events, machine
from fedsag_cli.errors import BadMessage, ChannelClosed, TensorError
from fedsag_cli.events import ProcessExited, ProcessStarted
from fedsag_cli.params.tensor_file import TensorFile, copied
from fedsag_cli.processes.local import LocalEngine, can_fork
from fedsag_cli.processes.nursery import End, Preload
from fedsag_cli.processes.ray.buffers import content
from fedsag_cli.processes.ray.left import end_process, private_folder
from fedsag_cli.processes.ray.links import Link
from fedsag_cli.processes.ray.logs import Logs
from fedsag_cli.processes.ray.messages import (
    Blob,
    Closed,
    CloseLink,
    EndLink,
    Files,
    FromClient,
    FromNode,
    Here,
    Launch,
    Opened,
    Stopped,
    ToClient,
    Told,
    ToNode,
)
from fedsag_cli.processes.ray.places import Places
from fedsag_cli.wire.channel import address_in
from fedsag_cli.wire.messages import Assignment, Welcome

_LISTEN_S = 0.5  # a report is due after it, for what the logs have more
_LARGE = 64 << 20  # bytes of models in one report
_LONGEST = 90  # bytes; the path of a socket can have little more
_MODELS = 2  # that a node keeps for the next clients; one message has as many
_UNREADABLE = b"\xc1"  # msgpack never has it
_LAST_MESSAGES_S = 1.0  # after the end of a process, what has arrived is read for at most this long


class _Task(msgspec.Struct, tag=Assignment.__name__):
    """What an agent reads of a task: for which client it is, if a worker does it."""

    site: str = ""


def here(root: str) -> Here:
    """What this machine has, with the files of the run in the folder `root`."""
    return Here(
        root=root,
        package=str(Path(fedsag_cli.__file__).parent),
        python=sys.executable,
        versions=machine.versions(["torch"]),
        host=socket.gethostname(),
        gpus=machine.num_gpus(),
    )


class Agent:
    """One on each node. `listen` and `stop` have threads of their own; the other calls come one after the other."""

    def __init__(self, there: Here, env: dict[str, str], *, fork: bool) -> None:
        """`there`: of the machine of the command; `env`: of the run. Raises OSError, RunError."""
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        threading.excepthook = end_process
        self._open = ExitStack()
        self._root = self._open.enter_context(private_folder("fedsag-node-", longest=_LONGEST))
        self._scratch = self._root / ".fedsag"
        self._scratch.mkdir()
        address = address_in(self._root)
        self.here = here(str(self._root))
        self._places = Places(there, self.here, address)
        self._logs = Logs(self._root, there.root)
        self._out: queue.SimpleQueue[tuple[FromNode, list[TensorFile]]] = queue.SimpleQueue()
        self._models: OrderedDict[int, int] = OrderedDict()  # descriptors, by key
        self._links: dict[int, Link] = {}
        self._num_links = 0
        self._greeted: set[int] = set()
        self._served: dict[int, str] = {}  # by link of a worker: the client of its last task
        self._ended: deque[ProcessExited] = deque()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(address)
        self._listener.listen(512)
        self._woken, self._wake = os.pipe()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._engine = LocalEngine(fork=fork and can_fork(), env=self._places.env(env))
        for work in (self._read_all, self._pass_events):
            threading.Thread(target=work, daemon=True).start()

    def who(self) -> Here:
        """What this node has."""
        return self.here

    def do(self, requests: Sequence[ToNode]) -> None:
        """Perform these, in this order."""
        for request in requests:
            match request:
                case Preload(modules):
                    self._engine.prepare(modules)
                case Files(files):
                    self._write(files)
                case Launch(spec):
                    spec = self._places.spec(spec)
                    self._logs.watch(Path(spec.log))
                    self._engine.start(spec)
                case End(name):
                    self._engine.end(name)
                case ToClient(number, body, blobs):
                    self._send(number, body, blobs)
                case EndLink(number):
                    if link := self._links.get(number):
                        link.end()
                case CloseLink(number):
                    if link := self._links.get(number):
                        link.cut()

    def listen(self) -> list[FromNode]:
        """What has happened since the last call: waits for it, but not for long. First what the logs have more."""
        happened: list[FromNode] = []
        size = 0
        limit_s = _LISTEN_S
        while size < _LARGE:
            try:
                item, files = self._out.get(timeout=limit_s)
            except queue.Empty:
                break
            limit_s = 0.0
            if isinstance(item, FromClient):
                item = msgspec.structs.replace(item, files=[content(file.fileno()) for file in files])
            happened.append(item)
            for file in files:
                size += file.size
                file.close()
        ended = any(isinstance(item, Told | Stopped) for item in happened)
        links = (item.link for item in happened if isinstance(item, FromClient))
        served = dict.fromkeys(site for link in links if (site := self._served.get(link)))
        return [*self._logs.grown(served, all_of_them=ended), *happened]

    def stop(self, grace_s: float, show_stack: Sequence[str]) -> None:
        """End all processes of this node. The last that `listen` returns is Stopped."""
        self._engine.stop(grace_s, show_stack)
        self._out.put((Stopped(), []))

    def close(self) -> None:
        """Remove the run's files from this node."""
        self._open.close()

    def _write(self, files: Sequence[tuple[str, int, bytes]]) -> None:
        for path, mode, data in files:
            file = self._root / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
            file.chmod(mode)

    def _send(self, number: int, body: bytes, blobs: Sequence[Blob]) -> None:
        if number not in self._greeted:
            self._greeted.add(number)
            body = self._welcome(body)
        elif site := msgspec.msgpack.decode(body, type=_Task).site:
            self._served[number] = site
        if link := self._links.get(number):
            with contextlib.suppress(ChannelClosed):  # the thread that reads sees that too
                link.send(body, *map(self._file_of, blobs))

    def _welcome(self, body: bytes) -> bytes:
        """The server's first message, with a folder of this machine for large files."""
        welcome = msgspec.msgpack.decode(body, type=Welcome)
        return msgspec.msgpack.encode(msgspec.structs.replace(welcome, scratch=str(self._scratch)))

    def _file_of(self, blob: Blob) -> int:
        """A descriptor of the file with this content, the same one for all clients of the node."""
        if blob.key in self._models:
            self._models.move_to_end(blob.key)
            return self._models[blob.key]
        data: Any = blob.data
        if blob.ref is not None:
            import ray

            data = ray.get(blob.ref)
        self._models[blob.key] = copied(memoryview(data), self._scratch)
        while len(self._models) > _MODELS:
            _, fd = self._models.popitem(last=False)
            os.close(fd)
        return self._models[blob.key]

    # the thread that reads what clients send

    def _read_all(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.fileobj == self._woken:
                    os.read(self._woken, 4096)
                    self._tell_ended()
                else:
                    self._read(key)

    def _read(self, key: selectors.SelectorKey) -> None:
        if key.fileobj is self._listener:
            self._meet()
            return
        number, link = key.data
        if number not in self._links:
            return  # it has ended meanwhile
        try:
            body, files = link.receive()
            self._out.put((FromClient(number, body, []), files))
        except (ChannelClosed, TensorError) as error:
            if isinstance(error, BadMessage | TensorError):
                self._out.put((FromClient(number, _UNREADABLE, []), []))  # so that the server tells why it ends
            self._selector.unregister(link)
            del self._links[number]
            link.close()
            self._out.put((Closed(number), []))

    def _meet(self) -> None:
        sock, _ = self._listener.accept()
        self._num_links += 1
        link = self._links[self._num_links] = Link(sock, trusted=False)
        self._selector.register(link, selectors.EVENT_READ, (self._num_links, link))
        self._out.put((Opened(self._num_links), []))

    def _tell_ended(self) -> None:
        """Tell of processes that ended, after all that they sent."""
        while self._ended:
            event = self._ended.popleft()
            ends = time.monotonic() + _LAST_MESSAGES_S
            while time.monotonic() < ends:
                ready = [key for key, _ in self._selector.select(0) if key.fileobj != self._woken]
                if not ready:
                    break
                for key in ready:
                    self._read(key)
            self._out.put((self._told(event), []))

    def _told(self, event: ProcessExited) -> Told:
        failure = event.failure
        if failure is not None:
            cause, where = self._places.back(failure.cause), self._places.back(failure.where)
            failure = msgspec.structs.replace(failure, cause=cause, where=where)
        return Told(events.to_line(msgspec.structs.replace(event, failure=failure)))

    # the thread that waits for the engine's events

    def _pass_events(self) -> None:
        while True:
            event = self._engine.next_event()
            if isinstance(event, ProcessExited):
                self._ended.append(event)
                os.write(self._wake, b".")
            elif isinstance(event, ProcessStarted):
                self._out.put((Told(events.to_line(event)), []))
