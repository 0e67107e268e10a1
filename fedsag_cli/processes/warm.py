"""A warm nursery: it imports torch once for many runs, and forks a nursery for each of them."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import threading
from collections.abc import Mapping, Sequence

from fedsag_cli.errors import ChannelClosed
from fedsag_cli.processes.child import as_sent
from fedsag_cli.processes.kill import kill_marked
from fedsag_cli.processes.local import start_helper
from fedsag_cli.processes.nursery import EXIT_CODE, Belong, Branch, FromNursery, Preload, ToNursery
from fedsag_cli.wire.channel import UnixChannel
from fedsag_cli.wire.messages import RUN, TOKEN


class WarmNursery:
    """The user's end of a warm nursery, which ends with its user. A run's processes are all below its own nursery."""

    def __init__(self, env: Mapping[str, str]) -> None:
        """`env`: what the processes of all runs have in common."""
        self._env, self._token = dict(env), secrets.token_hex(16)
        self._modules: dict[str, None] = {}
        self._start()

    def prepare(self, modules: Sequence[str]) -> None:
        """Announce modules that the processes will import. Returns at once."""
        new = [name for name in modules if name not in self._modules]
        self._modules |= dict.fromkeys(new)
        if new:
            with contextlib.suppress(ChannelClosed):  # that it has ended is seen at the next branch
                self._channel.send(Preload(new))

    def branch(self) -> ForkedNursery:
        """A nursery for one run, which may be used in a process that is forked later. Returns at once.

        If the warm nursery was killed, so were the nurseries that it forked; then a new one is started.
        """
        try:
            return self._branch()
        except ChannelClosed:
            self.end()
            self._start()
            self._channel.send(Preload(list(self._modules)))
            return self._branch()

    def close(self) -> None:
        """Close this process's end. In the process that made it, the nursery ends, with all below it."""
        self._channel.close()

    def end(self) -> None:
        """End it, and all that is below it."""
        if not self._has_branched:
            self._process.kill()  # it may still import torch
        self.close()
        self._process.wait()
        kill_marked(TOKEN, self._token)

    def _start(self) -> None:
        own = {TOKEN: self._token, RUN: "0" * 16}  # as long as those of runs: see `kill.carry_marks`
        sock, self._process, _ = start_helper("fedsag_cli.processes.nursery", "fork", env=self._env | own)
        self._channel: UnixChannel[ToNursery, FromNursery] = UnixChannel(sock, FromNursery)
        self._has_branched = False

    def _branch(self) -> ForkedNursery:
        self._has_branched = True
        sock, its_sock = socket.socketpair()
        life, its_life = socket.socketpair()
        with its_sock, its_life:
            try:
                self._channel.send(Branch(), its_sock.fileno(), its_life.fileno())
            except BaseException:
                sock.close()
                life.close()
                raise
        return ForkedNursery(sock, life)


class ForkedNursery:
    """Implements `NurseryProcess`: a nursery that a warm one forks. It ends when the last user of `sock` ends."""

    def __init__(self, sock: socket.socket, life: socket.socket) -> None:
        """`life`: what `Branch` tells of it."""
        self.sock = sock
        self._life = life
        self._told = b""
        self._has_ended = False
        self._reading = threading.Lock()  # the thread that reads its messages waits for its end too

    def __call__(self, fork: bool, env: Mapping[str, str]) -> ForkedNursery:  # noqa: ARG002  it can do nothing else
        """The same, in the environment of the run that it is for."""
        channel: UnixChannel[ToNursery, FromNursery] = UnixChannel(self.sock, FromNursery)
        with contextlib.suppress(ChannelClosed):  # whoever reads from it sees that too
            channel.send(Belong(as_sent(env)))
        return self

    def kill(self) -> None:
        with contextlib.suppress(TimeoutError):
            self.wait(0.0)
        pid, has_begun, _ = self._told.partition(b"\n")
        if not has_begun:  # the warm nursery still imports: the one that it forks will find nobody at the other end
            self.close()
            self._has_ended = True
        elif not self._has_ended and int(pid):  # 0: it could not be forked
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)

    def wait(self, timeout_s: float | None = None) -> int:
        """As `NurseryProcess` says. If the warm nursery was killed, so was this one."""
        with self._reading:
            while not self._has_ended:
                self._life.settimeout(timeout_s)
                try:
                    told = self._life.recv(1 << 12)
                except BlockingIOError:
                    raise TimeoutError from None
                self._told += told
                self._has_ended = not told
        last = self._lines()[-1]
        return int(last.removeprefix(EXIT_CODE)) if last.startswith(EXIT_CODE) else -signal.SIGKILL

    def last_words(self) -> str:
        _, *lines = self._lines()
        return next((line for line in reversed(lines) if not line.startswith(EXIT_CODE)), "")

    def close(self) -> None:
        """Close this process's end of it."""
        self.sock.close()
        self._life.close()

    def _lines(self) -> list[str]:
        lines = self._told.decode(errors="replace").splitlines()
        return [line for line in map(str.strip, lines) if line] or [""]
