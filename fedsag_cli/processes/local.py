"""Processes on this machine: children of a nursery, forked from it where that is safe, else fresh interpreters."""

from __future__ import annotations

import contextlib
import queue
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import IO, Any

import msgspec

from fedsag_cli import events
from fedsag_cli.errors import ChannelClosed
from fedsag_cli.events import Event, Failure, Notice, ProcessExited, ProcessStarted
from fedsag_cli.processes.child import LastWord, ProcessSpec, fresh_interpreter
from fedsag_cli.processes.kill import kill_group, kill_marked
from fedsag_cli.processes.nursery import Exited, FromNursery, Preload, Start, Started, Stop, ToNursery
from fedsag_cli.wire.channel import UnixChannel
from fedsag_cli.wire.messages import TOKEN

NURSERY = "nursery"


def can_fork() -> bool:
    """Whether a process that has imported torch can be forked safely: on Linux."""
    return sys.platform == "linux"


class LocalEngine:
    """Threads here only listen."""

    def __init__(self, *, fork: bool, env: Mapping[str, str]) -> None:
        """Starts the nursery. `env` is its environment, from which OpenMP reads how to wait."""
        self._fork, self._token = fork, env.get(TOKEN, "")
        self._told: queue.Queue[Event] = queue.Queue()
        self._lines: dict[str, socket.socket] = {}
        self._followers: dict[str, threading.Thread] = {}
        self._pids: dict[str, int] = {}
        self._has_started = False
        self._stopping = threading.Event()
        self._channel, self._nursery, self._said = _start_nursery(fork=fork, env=env)
        _listen(self._hear_nursery)

    def prepare(self, modules: Sequence[str]) -> None:
        if self._fork:
            self._send(Preload(list(modules)))

    def start(self, spec: ProcessSpec) -> None:
        self._has_started = True
        if not spec.talks:
            self._send(Start(spec, fresh=not self._fork))
            return
        ours, theirs = socket.socketpair()
        with theirs:
            self._lines[spec.name] = ours
            self._followers[spec.name] = _listen(self._follow, ours)
            self._send(Start(spec, fresh=not self._fork), theirs.fileno())

    def tell(self, name: str, event: Event) -> None:
        with contextlib.suppress(OSError, KeyError):
            self._lines[name].sendall(events.to_line(event))

    def next_event(self, timeout_s: float | None = None) -> Event:
        try:
            event = self._told.get(timeout=timeout_s)
        except queue.Empty:
            raise TimeoutError from None
        return event

    def stop(self, grace_s: float = 5.0, hung: Collection[str] = ()) -> None:
        self._stopping.set()
        if not self._has_started:
            self._nursery.kill()  # it may be in the middle of importing torch, and there is nobody to end first
        self._send(Stop(grace_s, list(hung)))
        try:
            self._nursery.wait(timeout=grace_s + 5.0)
        except subprocess.TimeoutExpired:
            self._nursery.kill()
            self._nursery.wait()
        if self._nursery.returncode:  # it was killed, and could not end the others
            for pid in list(self._pids.values()):
                kill_group(pid)
            kill_marked(TOKEN, self._token)
        for line in self._lines.values():
            line.close()

    def _send(self, request: ToNursery, file: int | None = None) -> None:
        with contextlib.suppress(ChannelClosed):  # its end is told as an event
            self._channel.send(request, file)

    def _follow(self, line: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError), line.makefile("rb") as told:
            for text in told:  # ends when the other side does
                if not text.endswith(b"\n"):
                    return  # cut off in the middle of a line by its end
                try:
                    self._told.put(events.from_line(text))
                except msgspec.DecodeError as error:
                    self._told.put(Notice(text=f"a bug of fedsag's own, an event nobody can read: {error}: {text!r}"))

    def _hear_nursery(self) -> None:
        while True:
            try:
                news, _ = self._channel.receive()
            except ChannelClosed:
                break
            match news:
                case Started(name, pid):
                    self._pids[name] = pid
                    self._told.put(ProcessStarted(name=name, pid=pid))
                case Exited(name, exit_code, word):
                    self._pids.pop(name, None)
                    self._exited(name, exit_code, word)
        if not self._stopping.is_set():
            self._exited(NURSERY, self._nursery.wait(), LastWord(error=_text(self._said)))

    def _exited(self, name: str, exit_code: int, word: LastWord | None) -> None:
        """What it still told comes first."""
        if follower := self._followers.get(name):
            follower.join(timeout=5.0)
        failure = Failure(cause=word.error, where=word.where, exit_code=exit_code) if word else None
        self._told.put(ProcessExited(name=name, exit_code=exit_code, failure=failure))


def _start_nursery(
    *, fork: bool, env: Mapping[str, str]
) -> tuple[UnixChannel[ToNursery, FromNursery], subprocess.Popen[bytes], IO[bytes]]:
    """Our end of its socket, its process, and what it prints, which is nothing unless it dies."""
    ours, theirs = socket.socketpair()
    said: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  as long as the nursery
    with theirs:
        process = subprocess.Popen(
            fresh_interpreter("fedsag_cli.processes.nursery", str(theirs.fileno()), "fork" if fork else "spawn"),
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            start_new_session=True,  # Ctrl-C is for the parent, which then stops it
            pass_fds=[theirs.fileno()],
        )
    return UnixChannel(ours, FromNursery), process, said


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace").strip()


def _listen(ear: Callable[..., None], *args: Any) -> threading.Thread:
    thread = threading.Thread(target=ear, args=args, daemon=True)
    thread.start()
    return thread
