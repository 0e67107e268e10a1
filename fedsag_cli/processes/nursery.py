"""Imports once, forks on request: a process in which torch is ready, from which server and clients come in 10 ms.

It runs no user code and no tensor operation (one parallel region before a fork would hang every child at its first),
has one thread, leaves CUDA alone and knows what it forks only as `module:function`. It is no `multiprocessing`
forkserver: a forkserver's child inherits that start method, and a DataLoader in it would import the user's script once
more.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import shutil
import signal
import socket
import sys
import tempfile
import time
import weakref
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple, NoReturn

import msgspec

from fedsag_cli.errors import ChannelClosed
from fedsag_cli.processes.child import (
    STACK_SIGNAL,
    LastWord,
    ProcessSpec,
    become,
    fresh_interpreter,
    hear_last_word,
    preload,
)
from fedsag_cli.processes.kill import adopt_orphans, group_lives, kill_descendants, kill_group
from fedsag_cli.wire.channel import UnixChannel
from fedsag_cli.wire.messages import ADDRESS

_LOOK_AGAIN_S = 0.02  # at a group whose leader ended: only on Linux are we woken when the rest of it does


class Preload(msgspec.Struct, frozen=True, tag=True):
    """Import these now; what cannot be imported is left to the script that wants it."""

    modules: list[str]


class Start(msgspec.Struct, frozen=True, tag=True):
    """Start this; its line, if it talks, comes along. `fresh`: in an interpreter of its own, which shares nothing."""

    spec: ProcessSpec
    fresh: bool


class Stop(msgspec.Struct, frozen=True, tag=True):
    """Ask all children to end, those that hang for their stacks too, insist after `grace_s` seconds, and end."""

    grace_s: float
    hung: list[str] = []


class Started(msgspec.Struct, frozen=True, tag=True):
    name: str
    pid: int


class Exited(msgspec.Struct, frozen=True, tag=True):
    """`exit_code` is negative for a signal."""

    name: str
    exit_code: int
    last_word: LastWord | None


ToNursery = Preload | Start | Stop
FromNursery = Started | Exited


class _Child(NamedTuple):
    name: str
    last_word: int  # the pipe in which it says that
    talks: bool
    is_command: bool


class Nursery:
    """The loop: requests in, children out, each one's end told. Every process of a run is a child of it."""

    def __init__(self, channel: UnixChannel[FromNursery, ToNursery]) -> None:
        self._channel = channel
        self._children: dict[int, _Child] = {}
        self._printing: set[int] = set()  # groups that were asked for their stacks, and may outlive who leads them
        self._frozen = False
        adopt_orphans()
        self._woken, wake = os.pipe()  # a byte for every child that ended
        for end in (self._woken, wake):
            os.set_blocking(end, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)

    def run(self) -> None:
        """Until the parent says stop or is gone."""
        while True:
            ready, _, _ = select.select([self._channel.fileno(), self._woken], [], [])
            if self._woken in ready:
                self._reap()
            if self._channel.fileno() in ready:
                try:
                    request, line = self._channel.receive()
                except ChannelClosed:
                    request = Stop(grace_s=0.0)
                match request:
                    case Preload(modules):
                        preload(modules)
                    case Start(spec, fresh):
                        self._start(spec, line, fresh)
                    case Stop(grace_s, hung):
                        self._end_all(grace_s, hung)
                        return

    def _start(self, spec: ProcessSpec, line: int | None, fresh: bool) -> None:
        if not self._frozen:
            gc.freeze()  # without it a child's first collection touches, and so copies, 60 MB of torch's objects
            gc.enable()
            _leave_tidying_to_the_end()
            self._frozen = True
        nursery = os.getpid()
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reading)
            if fresh:
                _exec_fresh(spec, nursery, line, writing)
            become(spec, parent=nursery, line=line, last_word=writing)
        os.close(writing)
        if line is not None:
            os.close(line)
        self._children[pid] = _Child(spec.name, reading, spec.talks, bool(spec.command))
        self._tell(Started(spec.name, pid))

    def _reap(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._woken, 4096)
        ended: list[tuple[_Child, int]] = []
        while self._children or self._printing:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            child = self._children.pop(pid, None)
            if child is not None:  # no orphan that became ours
                if pid not in self._printing:
                    kill_group(pid)  # the DataLoader workers of a script that was killed live on otherwise
                ended.append((child, status))
        for child, status in sorted(ended, key=lambda each: not each[0].talks):  # whose end may be that of the others
            self._tell(Exited(child.name, os.waitstatus_to_exitcode(status), hear_last_word(child.last_word)))

    def _end_all(self, grace_s: float, hung: Collection[str]) -> None:
        """SIGTERM to every child and its children, `grace_s` seconds to follow it, then SIGKILL."""
        for pid, child in self._children.items() if grace_s > 0 else ():
            if child.name in hung and child.is_command:
                self._printing.add(pid)
                kill_group(pid, STACK_SIGNAL)  # whoever in it has joined the run prints its stack, the others end
            elif child.name in hung and not child.talks:
                os.kill(pid, STACK_SIGNAL)
            else:
                kill_group(pid, signal.SIGTERM)
        ends = time.monotonic() + grace_s
        while (self._children or self._printing) and (left := ends - time.monotonic()) > 0:
            select.select([self._woken], [], [], min(left, _LOOK_AGAIN_S) if self._printing else left)
            self._reap()
            self._printing = {pid for pid in self._printing if group_lives(pid)}
        for pid in self._children.keys() | self._printing:
            kill_group(pid)
        kill_descendants()  # also who left their group: `setsid`, a daemon

    def _tell(self, news: FromNursery) -> None:
        with contextlib.suppress(ChannelClosed):  # then the parent is gone, which the next receive tells
            self._channel.send(news)


def _leave_tidying_to_the_end() -> None:
    """What imports have registered to take down at exit goes with the process: 60 ms a client, for torch's operators.

    A child's own finalizers, such as those of its temporary folders, are not among these.
    """
    for finalizer in list(weakref.finalize._registry):  # type: ignore[attr-defined]  # there is no public list of them
        finalizer.atexit = False


def _exec_fresh(spec: ProcessSpec, nursery: int, line: int | None, last_word: int) -> None:
    try:
        about = tempfile.TemporaryFile()  # noqa: SIM115  arguments are for every user of the machine to read
        about.write(msgspec.json.encode(spec))
        about.flush()
        words = [about.fileno(), nursery, -1 if line is None else line, last_word]
        for fd in (about.fileno(), line, last_word):
            if fd is not None:
                os.set_inheritable(fd, True)
        command = fresh_interpreter("fedsag_cli.processes.child", *map(str, words))
        os.execv(command[0], command)  # `become` sets the environment: what PYTHONPATH holds must not stand in for ours
    except OSError as error:
        os.write(last_word, msgspec.json.encode(LastWord(error=f"{spec.name} cannot be started: {error}")))
        os._exit(1)


def main() -> NoReturn:
    """A fresh interpreter's door: FD HOW. Serves the parent at the other end of that socket; HOW is fork or spawn."""
    if sys.argv[2] == "fork":
        gc.disable()  # until the first fork: to look for garbage in what imports make takes a fifth of their time
        preload(["numpy", "fedsag_cli.client", "fedsag_cli.client.script"])
    sock = socket.socket(fileno=int(sys.argv[1]))
    Nursery(UnixChannel(sock, ToNursery)).run()
    if socket_folder := os.environ.get(ADDRESS):
        shutil.rmtree(Path(socket_folder).parent, ignore_errors=True)  # a parent that was killed could not
    os._exit(0)
