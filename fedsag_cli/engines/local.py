"""Processes on this machine: forked from a nursery where that is safe, ordinary subprocesses otherwise."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from typing import IO

import msgspec

from fedsag_cli import events
from fedsag_cli.become import LastWord, ProcessSpec, hear_last_word
from fedsag_cli.engines import guard
from fedsag_cli.errors import ChannelClosed
from fedsag_cli.events import Event, Failure, ProcessExited, ProcessStarted
from fedsag_cli.nursery import Exited, Fork, FromNursery, Preload, Started, Stop, ToNursery, kill_group
from fedsag_cli.transport.unix import UnixChannel

NURSERY = "nursery"


def can_fork() -> bool:
    """Whether a process that has imported torch can be forked safely: on Linux."""
    return sys.platform == "linux"


class LocalEngine:
    """Threads here only listen; every process is started, and ended, by whoever calls."""

    def __init__(self, *, fork: bool, env: Mapping[str, str]) -> None:
        """`fork`: start the nursery now. `env` is its environment, from which OpenMP reads how to wait."""
        self._told: queue.Queue[Event] = queue.Queue()
        self._lines: dict[str, socket.socket] = {}
        self._followers: dict[str, threading.Thread] = {}
        self._pids: dict[str, int] = {}
        self._stopping = threading.Event()
        self._guard: _Guard | None = None  # of those that are no children of the nursery
        self._nursery = _NurseryProcess(env) if fork else None
        if self._nursery:
            self._listen(self._hear_nursery, self._nursery)

    def prepare(self, modules: Sequence[str]) -> None:
        if self._nursery:
            self._nursery.send(Preload(list(modules)))

    def start(self, spec: ProcessSpec) -> None:
        theirs = self._open_line(spec.name) if spec.talks else None
        try:
            if self._nursery and not spec.command:
                self._nursery.send(Fork(spec), theirs.fileno() if theirs else None)
            else:
                self._start_subprocess(spec, theirs)
        finally:
            if theirs:
                theirs.close()

    def tell(self, name: str, event: Event) -> None:
        with contextlib.suppress(OSError, KeyError):
            self._lines[name].sendall(events.to_line(event))

    def next_event(self, timeout_s: float | None = None) -> Event:
        try:
            event = self._told.get(timeout=timeout_s)
        except queue.Empty:
            raise TimeoutError from None
        if isinstance(event, ProcessStarted):
            self._pids[event.name] = event.pid
        elif isinstance(event, ProcessExited):
            self._pids.pop(event.name, None)
        return event

    def stop(self, grace_s: float = 5.0) -> None:
        self._stopping.set()
        if self._nursery:
            self._nursery.stop(grace_s, has_children=bool(self._pids))
        for pid in self._pids.values():
            kill_group(pid, signal.SIGTERM)
        for name, follower in self._followers.items():
            if name in self._pids:
                follower.join(grace_s)
        for pid in self._pids.values():
            kill_group(pid)
        for line in self._lines.values():
            line.close()
        if self._guard:
            self._guard.close()

    def _open_line(self, name: str) -> socket.socket:
        ours, theirs = socket.socketpair()
        self._lines[name] = ours
        self._followers[name + " line"] = self._listen(self._follow, ours)
        return theirs

    def _listen(self, ear: object, *args: object) -> threading.Thread:
        thread = threading.Thread(target=ear, args=args, daemon=True)  # type: ignore[arg-type]
        thread.start()
        return thread

    def _follow(self, line: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError), line.makefile("rb") as told:
            for text in told:  # ends when the other side does
                with contextlib.suppress(msgspec.DecodeError):  # cut off in the middle of a line by its end
                    self._told.put(events.from_line(text))

    def _hear_nursery(self, nursery: _NurseryProcess) -> None:
        while True:
            try:
                news, _ = nursery.channel.receive()
            except ChannelClosed:
                break
            match news:
                case Started(name, pid):
                    self._told.put(ProcessStarted(name=name, pid=pid))
                case Exited(name, exit_code, word):
                    self._exited(name, exit_code, word)
        if not self._stopping.is_set():
            self._exited(NURSERY, nursery.process.wait(), LastWord(error=nursery.said() or "the nursery died"))

    def _start_subprocess(self, spec: ProcessSpec, line: socket.socket | None) -> None:
        self._guard = self._guard or _Guard()
        reading, writing = os.pipe()
        fds = [writing] if line is None else [writing, line.fileno()]
        words = [msgspec.json.encode(spec).decode(), os.getpid(), -1 if line is None else line.fileno(), writing]
        try:
            process = subprocess.Popen(
                [sys.executable, "-u", "-m", "fedsag_cli.become", *map(str, words)],
                env=spec.env,
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # a group of its own: stop() reaches its children too
                pass_fds=fds,
            )
        finally:
            os.close(writing)
        self._guard.tell(f"+{process.pid}")
        self._told.put(ProcessStarted(name=spec.name, pid=process.pid))
        self._followers[spec.name] = self._listen(self._await, spec.name, process, reading)

    def _await(self, name: str, process: subprocess.Popen[bytes], reading: int) -> None:
        code = process.wait()
        kill_group(process.pid)  # the DataLoader workers of a script that was killed live on otherwise
        if self._guard:
            self._guard.tell(f"-{process.pid}")
        self._exited(name, code, hear_last_word(reading))

    def _exited(self, name: str, exit_code: int, word: LastWord | None) -> None:
        """What it still told comes first."""
        if follower := self._followers.get(name + " line"):
            follower.join(timeout=5.0)
        failure = Failure(cause=word.error, where=word.where, exit_code=exit_code) if word else None
        self._told.put(ProcessExited(name=name, exit_code=exit_code, failure=failure))


class _Guard:
    """Ends the process groups that are left when we are killed: nobody else would reach a client's own children."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-S", "-E", guard.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def tell(self, line: str) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError, ValueError):
            os.write(self._process.stdin.fileno(), f"{line}\n".encode())

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


class _NurseryProcess:
    """The nursery, and our end of its socket."""

    def __init__(self, env: Mapping[str, str]) -> None:
        ours, theirs = socket.socketpair()
        self._said: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  closed with the process
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "fedsag_cli.nursery", str(theirs.fileno())],
                env=dict(env),
                stdin=subprocess.DEVNULL,
                stdout=self._said,
                stderr=self._said,
                start_new_session=True,  # Ctrl-C is for the parent, which then stops it
                pass_fds=[theirs.fileno()],
            )
        self.channel: UnixChannel[ToNursery, FromNursery] = UnixChannel(ours, FromNursery)

    def send(self, request: ToNursery, file: int | None = None) -> None:
        with contextlib.suppress(ChannelClosed):  # its end is told as an event
            self.channel.send(request, file)

    def said(self) -> str:
        self._said.seek(0)
        return self._said.read().decode(errors="replace").strip()

    def stop(self, grace_s: float, *, has_children: bool) -> None:
        if not has_children:
            self.process.kill()  # it may be in the middle of importing torch, and there is nobody to end first
        self.send(Stop(grace_s))
        try:
            self.process.wait(timeout=grace_s + 5.0)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
