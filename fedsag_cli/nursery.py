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
import selectors
import signal
import socket
import sys
import time
from collections.abc import Sequence
from typing import NoReturn

import msgspec

from fedsag_cli.become import LastWord, ProcessSpec, become, hear_last_word, preload
from fedsag_cli.errors import ChannelClosed
from fedsag_cli.transport.unix import UnixChannel


class Preload(msgspec.Struct, frozen=True, tag=True):
    """Import these now; what cannot be imported is left to the script that wants it."""

    modules: list[str]


class Fork(msgspec.Struct, frozen=True, tag=True):
    """Fork this; its line, if it talks, comes along."""

    spec: ProcessSpec


class Stop(msgspec.Struct, frozen=True, tag=True):
    """Ask all children to end, insist after `grace_s` seconds, and end."""

    grace_s: float


class Started(msgspec.Struct, frozen=True, tag=True):
    name: str
    pid: int


class Exited(msgspec.Struct, frozen=True, tag=True):
    """`exit_code` is negative for a signal."""

    name: str
    exit_code: int
    last_word: LastWord | None


ToNursery = Preload | Fork | Stop
FromNursery = Started | Exited


class Nursery:
    """The loop: requests in, children out, each one's end told."""

    def __init__(self, channel: UnixChannel[FromNursery, ToNursery]) -> None:
        self._channel = channel
        self._children: dict[int, tuple[str, int]] = {}  # pid -> name, the pipe of its last word
        self._frozen = False

    def run(self) -> None:
        """Until the parent says stop or is gone."""
        woken, wake = os.pipe()
        os.set_blocking(wake, False)
        os.set_blocking(woken, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        with selectors.DefaultSelector() as ears:
            ears.register(self._channel, selectors.EVENT_READ)
            ears.register(woken, selectors.EVENT_READ)
            while True:
                ready = {key.fd for key, _ in ears.select()}
                if woken in ready:
                    os.read(woken, 4096)
                    self._reap()
                if self._channel.fileno() in ready:
                    try:
                        request, line = self._channel.receive()
                    except ChannelClosed:
                        self._end_all(grace_s=0.0)
                        return
                    match request:
                        case Preload(modules):
                            preload(modules)
                        case Fork(spec):
                            self._fork(spec, line)
                        case Stop(grace_s):
                            self._end_all(grace_s)
                            return

    def _fork(self, spec: ProcessSpec, line: int | None) -> None:
        if not self._frozen:
            gc.collect()
            gc.freeze()  # without it a child's first collection touches, and so copies, 60 MB of torch's objects
            self._frozen = True
        nursery = os.getpid()
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reading)
            become(spec, parent=nursery, line=line, last_word=writing)
        os.close(writing)
        if line is not None:
            os.close(line)
        self._children[pid] = (spec.name, reading)
        self._tell(Started(spec.name, pid))

    def _reap(self) -> None:
        while self._children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            name, reading = self._children.pop(pid, ("", -1))
            if not name:
                continue
            kill_group(pid)  # the DataLoader workers of a script that was killed live on otherwise
            self._tell(Exited(name, os.waitstatus_to_exitcode(status), hear_last_word(reading)))

    def _end_all(self, grace_s: float) -> None:
        signal.set_wakeup_fd(-1)
        _end_groups(list(self._children), grace_s)

    def _tell(self, news: FromNursery) -> None:
        with contextlib.suppress(ChannelClosed):  # then the parent is gone, which the next receive tells
            self._channel.send(news)


def kill_group(leader: int, number: int = signal.SIGKILL) -> None:
    """Signal a process and all that share its group. One that is gone already is fine."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, number)


def _end_groups(leaders: Sequence[int], grace_s: float) -> None:
    """SIGTERM to every group, `grace_s` seconds to follow it, then SIGKILL."""
    if grace_s > 0:
        for leader in leaders:
            kill_group(leader, signal.SIGTERM)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
        ends = time.monotonic() + grace_s
        while any(map(_lives, leaders)) and (left := ends - time.monotonic()) > 0:
            signal.sigtimedwait([signal.SIGCHLD], left)
    for leader in leaders:
        kill_group(leader)


def _lives(pid: int) -> bool:
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
    except ChildProcessError:
        return False


def main() -> NoReturn:
    """`python -m fedsag_cli.nursery FD`: serve the parent at the other end of that socket."""
    if not getattr(sys.flags, "safe_path", False):
        del sys.path[0]  # the folder we were started from is not the user's script's
    preload(["numpy", "fedsag_cli.client", "fedsag_cli.client.script"])
    sock = socket.socket(fileno=int(sys.argv[1]))
    Nursery(UnixChannel(sock, ToNursery)).run()
    os._exit(0)


if __name__ == "__main__":
    main()
