"""The nursery: a process that imports torch once and forks the server and the clients, each within 10 ms.

It runs no code of the user's and no tensor operation (after one parallel region, every forked child would hang in its
first), has one thread, does not touch CUDA, and knows what it forks only as `module:function`. Why it is not the
forkserver of `multiprocessing`: a child of that inherits the start method, and a DataLoader in it would import the
user's script again.
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
    EndMessage,
    ProcessSpec,
    fresh_interpreter,
    preload,
    read_end_message,
    run_spec,
)
from fedsag_cli.processes.kill import adopt_orphans, group_lives, kill_descendants, kill_group
from fedsag_cli.wire.channel import UnixChannel
from fedsag_cli.wire.messages import ADDRESS

_LOOK_AGAIN_S = 0.02  # at a group whose leader ended: only on Linux are we woken when the rest of it does


class Preload(msgspec.Struct, frozen=True, tag=True):
    """Import these modules now; see `child.preload`."""

    modules: list[str]


class Start(msgspec.Struct, frozen=True, tag=True):
    """Start this process; its link, where it has one, comes with the message. `fresh`: in a new interpreter."""

    spec: ProcessSpec
    fresh: bool


class Stop(msgspec.Struct, frozen=True, tag=True):
    """End all children as `Engine.stop` says, then the nursery itself."""

    grace_s: float
    show_stack: list[str] = []


class Started(msgspec.Struct, frozen=True, tag=True):
    name: str
    pid: int


class Exited(msgspec.Struct, frozen=True, tag=True):
    """`exit_code` is negative for a signal."""

    name: str
    exit_code: int
    message: EndMessage | None


ToNursery = Preload | Start | Stop
FromNursery = Started | Exited


class _Child(NamedTuple):
    name: str
    end_pipe: int  # for its end message
    has_link: bool
    is_command: bool


class Nursery:
    """The loop: it starts what is asked for and reports each end. Every process of a run is its child."""

    def __init__(self, channel: UnixChannel[FromNursery, ToNursery]) -> None:
        self._channel = channel
        self._children: dict[int, _Child] = {}
        self._printing: set[int] = set()  # process groups that print their stacks; the leader may end before the rest
        self._frozen = False
        adopt_orphans()
        self._woken, wake = os.pipe()  # gets a byte for every child that ended
        for end in (self._woken, wake):
            os.set_blocking(end, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)

    def run(self) -> None:
        """Serve requests until the parent sends Stop or has ended."""
        while True:
            ready, _, _ = select.select([self._channel.fileno(), self._woken], [], [])
            if self._woken in ready:
                self._reap()
            if self._channel.fileno() in ready:
                try:
                    request, link = self._channel.receive()
                except ChannelClosed:
                    request = Stop(grace_s=0.0)
                match request:
                    case Preload(modules):
                        preload(modules)
                    case Start(spec, fresh):
                        self._start(spec, link, fresh)
                    case Stop(grace_s, show_stack):
                        self._end_all(grace_s, show_stack)
                        return

    def _start(self, spec: ProcessSpec, link: int | None, fresh: bool) -> None:
        if not self._frozen:
            gc.freeze()  # without it a child's first collection touches, and so copies, 60 MB of torch's objects
            gc.enable()
            _skip_finalizers_at_exit()
            self._frozen = True
        nursery = os.getpid()
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reading)
            if fresh:
                _exec_fresh(spec, nursery, link, writing)
            run_spec(spec, parent=nursery, link=link, end_pipe=writing)
        os.close(writing)
        if link is not None:
            os.close(link)
        self._children[pid] = _Child(spec.name, reading, spec.has_link, bool(spec.command))
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
            if child is not None:  # else a grandchild whose own parent has ended
                if pid not in self._printing:
                    kill_group(pid)  # else the DataLoader workers of a killed script would go on
                ended.append((child, status))
        # the server first, whose end may be the cause of the others'
        for child, status in sorted(ended, key=lambda each: not each[0].has_link):
            self._tell(Exited(child.name, os.waitstatus_to_exitcode(status), read_end_message(child.end_pipe)))

    def _end_all(self, grace_s: float, show_stack: Collection[str]) -> None:
        """SIGTERM to every child and its children and, after at most `grace_s` seconds, SIGKILL."""
        for pid, child in self._children.items() if grace_s > 0 else ():
            if child.name in show_stack and child.is_command:
                self._printing.add(pid)
                kill_group(pid, STACK_SIGNAL)  # a process that uses the Client API prints its stack, others just end
            elif child.name in show_stack and not child.has_link:
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
        kill_descendants()  # also those that left their group: `setsid`, a daemon

    def _tell(self, news: FromNursery) -> None:
        with contextlib.suppress(ChannelClosed):  # the parent has ended, as the next receive will say
            self._channel.send(news)


def _skip_finalizers_at_exit() -> None:
    """Finalizers that imports have registered so far do not run at a child's exit: torch's would take 60 ms a client.

    Those that a child registers later, such as for its temporary folders, do run.
    """
    for finalizer in list(weakref.finalize._registry):  # type: ignore[attr-defined]  # there is no public list of them
        finalizer.atexit = False


def _exec_fresh(spec: ProcessSpec, nursery: int, link: int | None, end_pipe: int) -> None:
    try:
        about = tempfile.TemporaryFile()  # noqa: SIM115  not in arguments: every user of the machine can read those
        about.write(msgspec.json.encode(spec))
        about.flush()
        words = [about.fileno(), nursery, -1 if link is None else link, end_pipe]
        for fd in (about.fileno(), link, end_pipe):
            if fd is not None:
                os.set_inheritable(fd, True)
        command = fresh_interpreter("fedsag_cli.processes.child", *map(str, words))
        os.execv(command[0], command)  # `run_spec` sets the environment: PYTHONPATH must not replace modules of ours
    except OSError as error:
        os.write(end_pipe, msgspec.json.encode(EndMessage(error=f"{spec.name} cannot be started: {error}")))
        os._exit(1)


def main() -> NoReturn:
    """Run the nursery in a fresh interpreter. Arguments: FD HOW; FD is a socket to the parent, HOW is fork or spawn."""
    if sys.argv[2] == "fork":
        gc.disable()  # until the first fork: garbage collection takes a fifth of the time of large imports
        preload(["numpy", "fedsag_cli.client", "fedsag_cli.client.script"])
    sock = socket.socket(fileno=int(sys.argv[1]))
    Nursery(UnixChannel(sock, ToNursery)).run()
    if socket_folder := os.environ.get(ADDRESS):
        shutil.rmtree(Path(socket_folder).parent, ignore_errors=True)  # a parent that was killed could not
    os._exit(0)
