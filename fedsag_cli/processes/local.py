"""The engine for processes on this machine. The nursery forks them if that is safe, or starts new interpreters."""

from __future__ import annotations

import contextlib
import errno
import queue
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import IO, Any, Protocol, TypeAlias

import msgspec

from fedsag_cli import events
from fedsag_cli.errors import ChannelClosed
from fedsag_cli.events import Event, Failure, Notice, ProcessExited, ProcessStarted, RunFailed
from fedsag_cli.processes.child import EndMessage, ProcessSpec, as_sent, fresh_interpreter
from fedsag_cli.processes.kill import kill_group, kill_marked
from fedsag_cli.processes.nursery import End, Exited, FromNursery, Preload, Start, Started, Stop, ToNursery
from fedsag_cli.wire.channel import UnixChannel
from fedsag_cli.wire.messages import TOKEN

NURSERY = "nursery"


def can_fork() -> bool:
    """Whether a process that has imported torch can be forked safely: on Linux."""
    return sys.platform == "linux"


class NurseryProcess(Protocol):
    """A nursery, as its user sees it. `sock`: our end of its socket."""

    sock: socket.socket

    def kill(self) -> None:
        """Send SIGKILL."""

    def wait(self, timeout_s: float | None = None) -> int:
        """The exit code, which is negative for a signal. Raises TimeoutError after `timeout_s` seconds."""

    def last_words(self) -> str:
        """Why it failed; empty if it did not say."""


StartNursery: TypeAlias = "Callable[[bool, Mapping[str, str]], NurseryProcess]"
"""Gives a nursery: whether it forks, and the environment of the run."""


class OwnNursery:
    """A nursery in a new interpreter, for one run."""

    def __init__(self, fork: bool, env: Mapping[str, str]) -> None:
        how = "fork" if fork else "spawn"
        self.sock, self._process, self._output = start_helper("fedsag_cli.processes.nursery", how, env=env)

    def kill(self) -> None:
        self._process.kill()

    def wait(self, timeout_s: float | None = None) -> int:
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise TimeoutError from None

    def last_words(self) -> str:
        return last_line(self._output)


class LocalEngine:
    """Implements `Engine`. One thread reads from the nursery, and one from each process that has a link."""

    def __init__(
        self,
        *,
        fork: bool,
        env: Mapping[str, str],
        events_to: queue.SimpleQueue[Event] | None = None,
        nursery: StartNursery = OwnNursery,
    ) -> None:
        """Starts the nursery with the environment `env`, in which OpenMP finds its wait policy.

        `events_to`: where its events go, if those of others go there too.
        """
        self._fork, self._token = fork, env.get(TOKEN, "")
        self._events: queue.SimpleQueue[Event] = events_to or queue.SimpleQueue()
        self._links: dict[str, socket.socket] = {}
        self._readers: dict[str, threading.Thread] = {}
        self._pids: dict[str, int] = {}
        self._has_started = False
        self._stopping = threading.Event()
        self._nursery = nursery(fork, env)
        self._channel: UnixChannel[ToNursery, FromNursery] = UnixChannel(self._nursery.sock, FromNursery)
        try:
            _start_thread(self._read_nursery)
        except BaseException:
            self._nursery.kill()
            self._nursery.wait()
            raise

    def prepare(self, modules: Sequence[str]) -> None:
        if self._fork:
            self._send(Preload(list(modules)))

    def start(self, spec: ProcessSpec) -> None:
        self._has_started = True
        spec = msgspec.structs.replace(spec, env=as_sent(spec.env))
        if not spec.has_link:
            self._send(Start(spec, fresh=spec.fresh or not self._fork), *((0, 1, 2) if spec.in_foreground else ()))
            return
        parent_end, child_end = socket.socketpair()
        with child_end:
            self._links[spec.name] = parent_end
            self._readers[spec.name] = _start_thread(self._read_link, parent_end)
            self._send(Start(spec, fresh=spec.fresh or not self._fork), child_end.fileno())

    def tell(self, name: str, event: Event) -> None:
        with contextlib.suppress(OSError, KeyError):
            self._links[name].sendall(events.to_line(event))

    def next_event(self, timeout_s: float | None = None) -> Event:
        try:
            return self._events.get(timeout=timeout_s)
        except queue.Empty:
            raise TimeoutError from None

    def end(self, name: str) -> None:
        self._send(End(name))

    def stop(self, grace_s: float = 5.0, show_stack: Collection[str] = ()) -> None:
        self._stopping.set()
        if not self._has_started:
            self._nursery.kill()  # it may still import torch, and there is no other process to end
        self._send(Stop(grace_s, list(show_stack)))
        try:
            code = self._nursery.wait(grace_s + 5.0)
        except TimeoutError:
            self._nursery.kill()
            code = self._nursery.wait()
        if code:  # it was killed before it could end the others
            for pid in list(self._pids.values()):
                kill_group(pid)
            kill_marked(TOKEN, self._token)
        for reader in self._readers.values():
            reader.join(timeout=1.0)  # they read to the end, unless a stranger holds the other end
        for link in self._links.values():
            link.close()

    def _send(self, request: ToNursery, *files: int) -> None:
        with contextlib.suppress(ChannelClosed):  # the end of the nursery is reported as an event
            self._channel.send(request, *files)

    def _read_link(self, link: socket.socket) -> None:
        try:
            with contextlib.suppress(ValueError), link.makefile("rb") as lines:
                for line in lines:  # until the process closes the link
                    if not line.endswith(b"\n"):
                        return  # the process ended in the middle of a line
                    try:
                        self._events.put(events.from_line(line))
                    except msgspec.DecodeError as error:
                        self._events.put(Notice(text=f"a bug in fedsag: an event cannot be read: {error}: {line!r}"))
        except OSError as error:
            if error.errno != errno.ECONNRESET and not self._stopping.is_set():  # that: it has ended
                cause = f"the connection to the server broke: {error.strerror}"
                self._events.put(RunFailed(cause=cause, hint="", exit_code=4))
        finally:
            with contextlib.suppress(OSError):
                link.shutdown(socket.SHUT_RDWR)  # if it could not be read, the process must not wait for ever

    def _read_nursery(self) -> None:
        while True:
            try:
                message, _ = self._channel.receive()
            except ChannelClosed:
                break
            match message:
                case Started(name, pid):
                    self._pids[name] = pid
                    self._events.put(ProcessStarted(name=name, pid=pid))
                case Exited(name, exit_code, end_message):
                    self._pids.pop(name, None)
                    self._put_exit(name, exit_code, end_message)
        if not self._stopping.is_set():
            self._put_exit(NURSERY, self._nursery.wait(), EndMessage(error=self._nursery.last_words()))

    def _put_exit(self, name: str, exit_code: int, message: EndMessage | None) -> None:
        """Put the exit of a process after the process's own events."""
        if reader := self._readers.get(name):
            reader.join(timeout=5.0)
        failure = Failure(cause=message.error, where=message.where, exit_code=exit_code) if message else None
        self._events.put(ProcessExited(name=name, exit_code=exit_code, failure=failure))


def start_helper(
    module: str, *args: str, env: Mapping[str, str]
) -> tuple[socket.socket, subprocess.Popen[bytes], IO[bytes]]:
    """Start a process that helps this one: our end of its socket, its process, and the file with its output.

    Its arguments are the descriptor of its socket and `args`. The file is empty unless it fails.
    """
    parent_end, helpers_end = socket.socketpair()
    output: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  open as long as the process runs
    with helpers_end:
        process = subprocess.Popen(
            fresh_interpreter(module, str(helpers_end.fileno()), *args),
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # Ctrl-C is for the parent, which then stops it
            pass_fds=[helpers_end.fileno()],
        )
    return parent_end, process, output


def last_line(file: IO[bytes]) -> str:
    """The last line, which names the error."""
    file.seek(0)
    lines = file.read().decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def _start_thread(function: Callable[..., None], *args: Any) -> threading.Thread:
    thread = threading.Thread(target=function, args=args, daemon=True)
    thread.start()
    return thread
