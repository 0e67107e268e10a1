"""Commands of fedsag without the start of Python: a process that has imported the command line forks for each of them.

A command is a process of its own, as ever: with its folder, its environment, its pipes and its exit code.
"""

import atexit
import contextlib
import functools
import json
import os
import signal
import socket
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

FEDSAG = str(Path(sysconfig.get_path("scripts")) / "fedsag")
LIMIT_S = 120  # what hangs fails; no command takes a tenth of it
_MODULES = (
    "fedsag_cli.cli.commands", "fedsag_cli.history.recorder", "fedsag_cli.interop.commands", "fedsag_cli.job.templates",
    "fedsag_cli.processes.local", "fedsag_cli.report", "fedsag_cli.simulator.supervisor", "pyhocon",
)  # fmt: skip
_READ_AT_START = ("PYTHON", "LC_", "LANG", "LD_", "MALLOC_")


def start(words: Sequence[str], *, cwd: Path, env: Mapping[str, str]) -> "Command | subprocess.Popen[str]":
    """`fedsag WORDS…`, piped, without input."""
    if _of_start(env) == _server().started_with:
        return Command(_server(), words, cwd, env)
    return subprocess.Popen(  # for an interpreter with other settings than ours
        [FEDSAG, *words],
        cwd=cwd,
        env=dict(env),
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def command(words: Sequence[str], *, cwd: Path, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """`fedsag WORDS…` to its end. Raises TimeoutExpired past LIMIT_S, and it is killed."""
    process = start(words, cwd=cwd, env=env)
    try:
        out, err = process.communicate(timeout=LIMIT_S)
    finally:
        process.kill()
    assert process.returncode is not None
    return subprocess.CompletedProcess(words, process.returncode, out, err)


class Command:
    """A forked command, as a Popen would show it."""

    def __init__(self, server: "_Server", words: Sequence[str], cwd: Path, env: Mapping[str, str]) -> None:
        self.returncode: int | None = None
        (out, its_out), (err, its_err), (self._keeper, theirs) = os.pipe(), os.pipe(), socket.socketpair()
        with theirs:
            server.ask([[FEDSAG, *words], str(cwd), dict(env)], [its_out, its_err, theirs.fileno()])
        os.close(its_out)
        os.close(its_err)
        self._said = ["", ""]
        self._readers = [
            threading.Thread(target=self._follow, args=(number, fd), daemon=True)
            for number, fd in enumerate((out, err))
        ]
        for reader in self._readers:
            reader.start()
        self.pid = _number(self._keeper)

    def _follow(self, number: int, fd: int) -> None:
        with open(fd) as pipe:
            self._said[number] = pipe.read()

    def poll(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(timeout=1e-6)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            self._keeper.settimeout(timeout)
            try:
                self.returncode = _number(self._keeper)
            except TimeoutError:
                raise subprocess.TimeoutExpired(FEDSAG, timeout or 0.0) from None
            self._keeper.close()
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        for reader in self._readers:
            reader.join(timeout)
            if reader.is_alive():
                raise subprocess.TimeoutExpired(FEDSAG, timeout or 0.0)
        self.wait(timeout)
        return self._said[0], self._said[1]

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class _Server:
    """The process that forks, and our end of the socket by which it is asked."""

    def __init__(self) -> None:
        self.started_with = _of_start(os.environ)
        self._socket, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,  # what Python finds out about its ends when it starts is true of a command's
                stderr=subprocess.PIPE,
            )
        atexit.register(self._close)

    def ask(self, given: object, fds: Sequence[int]) -> None:
        text = json.dumps(given).encode()
        socket.send_fds(self._socket, [len(text).to_bytes(4, "big")], fds)
        self._socket.sendall(text)

    def _close(self) -> None:
        self._socket.close()
        self._process.wait()


@functools.cache
def _server() -> _Server:
    return _Server()


def _of_start(env: Mapping[str, str]) -> dict[str, str]:
    """What Python reads of an environment when it starts."""
    return {name: value for name, value in env.items() if name.startswith(_READ_AT_START)}


def _number(end: socket.socket) -> int:
    return int.from_bytes(_read(end, 4), "big", signed=True)


def _read(end: socket.socket, size: int) -> bytes:
    read = b""
    while len(read) < size:
        more = end.recv(size - len(read))
        if not more:
            raise EOFError
        read += more
    return read


def _serve(asked: socket.socket) -> None:
    """Fork for each command that is asked for; returns in the process that is to become it."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the keepers
    while True:
        size, fds, _, _ = socket.recv_fds(asked, 4, 3)
        if not size:
            raise SystemExit(0)
        given = json.loads(_read(asked, int.from_bytes(size, "big")))
        if os.fork() == 0:
            asked.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            if _is_command(fds, *given):
                return
        for fd in fds:
            os.close(fd)


def _is_command(fds: Sequence[int], argv: list[str], cwd: str, env: dict[str, str]) -> bool:
    """Fork into the command, and its keeper, which tells its pid and its exit code and ends here."""
    keeper = socket.socket(fileno=fds[2])
    if pid := os.fork():
        for fd in fds[:2]:
            os.close(fd)
        keeper.sendall(pid.to_bytes(4, "big"))
        _, status = os.waitpid(pid, 0)
        with contextlib.suppress(OSError):  # nobody wants to know
            keeper.sendall(os.waitstatus_to_exitcode(status).to_bytes(4, "big", signed=True))
        os._exit(0)
    keeper.close()
    for number, fd in enumerate(fds[:2], 1):
        os.dup2(fd, number)
        os.close(fd)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    sys.argv, sys.path[0] = argv, str(Path(FEDSAG).parent)
    return True


if __name__ == "__main__":
    import importlib

    for name in _MODULES:
        importlib.import_module(name)
    _serve(socket.socket(fileno=int(sys.argv[1])))
    from fedsag_cli.cli import main

    main()
