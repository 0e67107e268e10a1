"""The nursery: a process that imports torch once and forks the server and the clients, each within 10 ms.

It has one thread and does not use CUDA. It runs no user code, and no tensor operation: after a parallel region in the
nursery, every forked child would hang in its first one. It knows the code to run only as `module:function`.

It is not the forkserver of `multiprocessing`, because a child of a forkserver inherits that start method. A DataLoader
with workers in such a child would import the user's script again.
"""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import os
import select
import signal
import socket
import sys
import tempfile
import time
import weakref
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

import msgspec

from fedsag_cli import machine
from fedsag_cli.errors import ChannelClosed, of_system
from fedsag_cli.plan import Plan
from fedsag_cli.processes.child import (
    STACK_SIGNAL,
    EndMessage,
    ProcessSpec,
    as_given,
    fresh_interpreter,
    preload,
    read_end_message,
    run_spec,
)
from fedsag_cli.processes.kill import (
    adopt_orphans,
    carry_marks,
    die_with_parent,
    group_lives,
    kill_descendants,
    kill_group,
)
from fedsag_cli.wire.channel import UnixChannel, remove_address
from fedsag_cli.wire.messages import ADDRESS, RUN, TOKEN, ToClient, ToServer, Welcome

EXIT_CODE = "exit code "
_BRANCH_ENDS_S = 2.0  # a forked nursery ends with its run, and then removes the folder of the run's socket
_CHECK_AGAIN_S = 0.02  # for a group whose leader has ended: only Linux signals when the other processes end


class Preload(msgspec.Struct, frozen=True, tag=True):
    """Import these modules now; see `child.preload`."""

    modules: list[str]


class Start(msgspec.Struct, frozen=True, tag=True):
    """Start a process. `fresh`: in a new interpreter.

    Sent with the message: the descriptor of its link, if it has one; in the foreground, those of its standard streams.
    """

    spec: ProcessSpec
    fresh: bool


class End(msgspec.Struct, frozen=True, tag=True):
    """End one child, as `Engine.end` describes."""

    name: str


class Stop(msgspec.Struct, frozen=True, tag=True):
    """End all children, as `Engine.stop` describes, and then the nursery."""

    grace_s: float
    show_stack: list[str] = []


class Branch(msgspec.Struct, frozen=True, tag=True):
    """Fork a nursery for one run, with all that this one has imported.

    Two descriptors are sent with it: its socket, and one that gets a line with its process id, then what it prints, and
    when it has ended a line with EXIT_CODE and its exit code.
    """


class Belong(msgspec.Struct, frozen=True, tag=True):
    """To a forked nursery: take the environment of this run."""

    env: dict[str, str]


class Started(msgspec.Struct, frozen=True, tag=True):
    name: str
    pid: int


class Exited(msgspec.Struct, frozen=True, tag=True):
    """`exit_code`: negative for a signal."""

    name: str
    exit_code: int
    message: EndMessage | None


ToNursery = Preload | Start | End | Stop | Branch | Belong
FromNursery = Started | Exited


class _Child(NamedTuple):
    name: str
    end_pipe: int  # for its end message
    has_link: bool
    is_command: bool


class Nursery:
    """The main loop: it starts processes on request and reports their exits. They are all children of the nursery."""

    def __init__(self, channel: UnixChannel[FromNursery, ToNursery]) -> None:
        self._channel = channel
        self._children: dict[int, _Child] = {}
        self._branches: dict[int, int] = {}  # by process id: the socket that is told of its life
        self._printing: set[int] = set()  # process groups that print their stacks; the leader may end before the others
        self._frozen = False
        adopt_orphans()
        self._woken, self._wake = os.pipe()  # gets a byte for every child that ended
        for end in (self._woken, self._wake):
            os.set_blocking(end, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)

    def run(self) -> None:
        """Handle requests until the parent sends Stop or ends."""
        while True:
            ready, _, _ = select.select([self._channel.fileno(), self._woken], [], [])
            if self._woken in ready:
                self._reap()
            if self._channel.fileno() in ready:
                try:
                    request, files = self._channel.receive()
                except ChannelClosed:
                    request = Stop(grace_s=0.0)
                match request:
                    case Preload(modules):
                        preload(modules)
                    case Start(spec, fresh):
                        self._start(spec, files, fresh)
                    case End(name):
                        self._end(name)
                    case Branch():
                        self._branch(*files)
                    case Belong(env):
                        _belong_to(as_given(env))
                    case Stop(grace_s, show_stack):
                        self._end_all(grace_s, show_stack)
                        return

    def _start(self, spec: ProcessSpec, files: Sequence[int], fresh: bool) -> None:
        link, streams = (files[0], files[1:]) if spec.has_link else (None, files)
        self._freeze()
        nursery = os.getpid()
        try:
            reading, writing = os.pipe()
        except OSError as error:
            self._cannot_start(spec, error, *files)
            return
        try:
            pid = os.fork()
        except OSError as error:
            self._cannot_start(spec, error, *files, reading, writing)
            return
        if pid == 0:
            os.close(reading)
            if fresh:
                _exec_fresh(spec, nursery, link, writing, streams)
            run_spec(spec, parent=nursery, link=link, end_pipe=writing, streams=streams)
        for fd in (writing, *files):
            os.close(fd)
        self._children[pid] = _Child(spec.name, reading, spec.has_link, bool(spec.command))
        self._tell(Started(spec.name, pid))

    def _freeze(self) -> None:
        """Before the first fork."""
        if not self._frozen:
            gc.freeze()  # otherwise a child's first garbage collection would copy 60 MB of torch's objects
            gc.enable()
            _skip_finalizers_at_exit()
            self._frozen = True

    def _branch(self, sock: int, life: int) -> None:
        self._freeze()
        nursery = os.getpid()
        try:
            pid = os.fork()
        except OSError as error:
            _say(life, f"0\n{of_system(error, 'it cannot be forked')}\n{EXIT_CODE}1\n")
            os.close(sock)
            os.close(life)
            return
        if pid == 0:
            signal.set_wakeup_fd(-1)
            ends = (child.end_pipe for child in self._children.values())
            for fd in (*self._branches.values(), *ends, self._woken, self._wake, self._channel.fileno()):
                os.close(fd)
            os.setsid()
            die_with_parent(nursery)
            _say(life, f"{os.getpid()}\n")
            for stream in (1, 2):
                os.dup2(life, stream)
            os.close(life)
            _serve(sock)
        os.close(sock)
        self._branches[pid] = life

    def _branch_ended(self, pid: int, exit_code: int) -> None:
        life = self._branches.pop(pid)
        _say(life, f"\n{EXIT_CODE}{exit_code}\n")
        os.close(life)

    def _cannot_start(self, spec: ProcessSpec, error: OSError, *descriptors: int) -> None:
        for fd in descriptors:
            os.close(fd)
        refused = of_system(error, "it cannot be started")
        self._tell(Exited(spec.name, 1, EndMessage(error=str(refused))))

    def _reap(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._woken, 4096)
        ended: list[tuple[_Child, int]] = []
        while self._children or self._printing or self._branches:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            if pid in self._branches:
                self._branch_ended(pid, os.waitstatus_to_exitcode(status))
                continue
            child = self._children.pop(pid, None)
            if child is not None:  # None: a grandchild whose own parent has ended
                if pid not in self._printing:
                    kill_group(pid)  # otherwise DataLoader workers of a killed script would continue
                ended.append((child, status))
        # the server first, because its end may be the cause of the others
        for child, status in sorted(ended, key=lambda each: not each[0].has_link):
            self._tell(Exited(child.name, os.waitstatus_to_exitcode(status), read_end_message(child.end_pipe)))

    def _end(self, name: str) -> None:
        for pid in [pid for pid, child in self._children.items() if child.name == name]:
            if self._children[pid].is_command:
                kill_group(pid)
            else:
                os.kill(pid, STACK_SIGNAL)  # its group is killed when it has ended

    def _end_all(self, grace_s: float, show_stack: Collection[str]) -> None:
        """Send SIGTERM to every child and its children and, after at most `grace_s` seconds, SIGKILL."""
        for pid, child in self._children.items() if grace_s > 0 else ():
            if child.name in show_stack and child.is_command:
                self._printing.add(pid)
                kill_group(pid, STACK_SIGNAL)  # a process with the Client API prints its stack, others only end
            elif child.name in show_stack and not child.has_link:
                os.kill(pid, STACK_SIGNAL)
            else:
                kill_group(pid, signal.SIGTERM)
        ends = time.monotonic() + grace_s
        while (self._children or self._printing) and (left := ends - time.monotonic()) > 0:
            select.select([self._woken], [], [], min(left, _CHECK_AGAIN_S) if self._printing else left)
            self._reap()
            self._printing = {pid for pid in self._printing if group_lives(pid)}
        for pid in self._children.keys() | self._printing:
            kill_group(pid)
        ends = time.monotonic() + _BRANCH_ENDS_S
        while self._branches and (left := ends - time.monotonic()) > 0:
            select.select([self._woken], [], [], left)
            self._reap()
        kill_descendants()  # including those that left their group, such as daemons

    def _tell(self, message: FromNursery) -> None:
        with contextlib.suppress(ChannelClosed):  # the parent has ended: the next receive raises
            self._channel.send(message)


def _belong_to(env: Mapping[str, str]) -> None:
    os.environ.clear()
    os.environ.update(env)
    carry_marks({name: env[name] for name in (TOKEN, RUN) if name in env})


def _say(life: int, text: str) -> None:
    with contextlib.suppress(OSError):  # the process of the run has ended
        os.write(life, text.encode())


def _skip_finalizers_at_exit() -> None:
    """Skip the finalizers that imports have registered so far at a child's exit: torch's take 60 ms in each client.

    Finalizers that a child registers later, such as for its temporary folders, are run.
    """
    for finalizer in list(weakref.finalize._registry):  # type: ignore[attr-defined]  # there is no public list of them
        finalizer.atexit = False


def _exec_fresh(spec: ProcessSpec, nursery: int, link: int | None, end_pipe: int, streams: Sequence[int]) -> None:
    try:
        spec_file = tempfile.TemporaryFile()  # noqa: SIM115  not arguments, which every user of the machine can read
        spec_file.write(msgspec.json.encode(spec))
        spec_file.flush()
        words = [spec_file.fileno(), nursery, -1 if link is None else link, end_pipe, *streams]
        for fd in (spec_file.fileno(), link, end_pipe, *streams):
            if fd is not None:
                os.set_inheritable(fd, True)
        command = fresh_interpreter("fedsag_cli.processes.child", *map(str, words))
        os.execv(
            command[0], command
        )  # `run_spec` sets the environment later, so that PYTHONPATH cannot replace modules of fedsag
    except OSError as error:
        os.write(end_pipe, msgspec.json.encode(EndMessage(error=f"{spec.name} cannot be started: {error}")))
        os._exit(1)


def main() -> NoReturn:
    """Run the nursery in a new interpreter. Arguments: FD HOW; FD is a socket to the parent, HOW is fork or spawn."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C; OpenBLAS sends it if it has no threads
    if sys.argv[2] == "fork":
        gc.disable()  # until the first fork: garbage collection takes a fifth of the time of imports
        numpy = importlib.util.find_spec("numpy")
        if numpy and numpy.origin and machine.openblas_of(Path(numpy.origin).parent):
            # a fork that uses its threads starts them anew, and each spins for 30 ms; `client.threads` sets how many
            os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
        preload(["numpy", "fedsag_cli.client", "fedsag_cli.client.script"])
        for received in (Plan, Welcome, ToServer, ToClient):
            msgspec.msgpack.Decoder(received)  # the first for a type takes some milliseconds
    _serve(int(sys.argv[1]))


def _serve(sock: int) -> NoReturn:
    """Be a nursery at this socket until the other end sends Stop or ends."""
    try:
        Nursery(UnixChannel(socket.socket(fileno=sock), ToNursery)).run()
    except (OSError, MemoryError) as error:
        os.write(2, str(of_system(error, "it failed")).encode())
        os._exit(1)  # the engine kills its children
    if address := os.environ.get(ADDRESS):
        remove_address(address)  # in case the parent was killed
    os._exit(0)
