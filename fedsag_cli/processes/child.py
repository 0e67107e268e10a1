"""What a new process does before and after its work: the server, a client, or the user's command.

A forked child and a new interpreter do the same, in the same order. A new interpreter starts at `main`.
"""

from __future__ import annotations

import contextlib
import faulthandler
import fcntl
import importlib
import io
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import NoReturn, TextIO

import msgspec

from fedsag_cli.processes.kill import die_with_parent

STACK_SIGNAL = getattr(signal, "SIGRTMAX", signal.SIGUSR2)  # ends a client's script, which first prints its stack
_BLAS = "interrupted by SIGINT, which OpenBLAS sends if no thread can be started: is there a limit of processes?"
_LARGEST_END_MESSAGE = 2000  # a pipe accepts it at once, even if nobody reads yet


class ProcessSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A process to start: `target`, a `module:function` that is called with `args`, or a `command` with its arguments.

    `env`: the whole environment. `log`: the file for standard output and standard error. `has_link`: the function gets
    a socket, the descriptor `link`, to exchange events with the parent process. `fresh`: never forked, always in a new
    interpreter. `node`: the number of the machine, if the engine has several. `in_foreground`: its standard streams are
    those of the engine's process, and it writes no log.
    """

    name: str
    node: int = 0
    target: str = ""
    args: list[str] = []
    command: list[str] = []
    env: dict[str, str] = {}
    cwd: str
    log: str
    has_link: bool = False
    fresh: bool = False
    in_foreground: bool = False


class EndMessage(msgspec.Struct, frozen=True, kw_only=True):
    """Why a process ends, as the process itself reports it: the error, and file:line in the user's files."""

    error: str
    where: str = ""


class _EndPipe:
    """The pipe for this process's end message; None if nobody reads the message, or it has been sent."""

    fd: int | None = None


_end_pipe = _EndPipe()


def run_spec(
    spec: ProcessSpec, *, parent: int, link: int | None, end_pipe: int | None, streams: Sequence[int] = ()
) -> NoReturn:
    """Run `spec` in this process, and then end the process.

    `parent`: the process id of the parent; this process is killed when the parent ends. `link` and `end_pipe`:
    descriptors that stay open; all others are closed. `streams`: in the foreground, the descriptors for its standard
    streams.
    """
    code = 1
    try:
        with contextlib.suppress(OSError):
            os.setsid()
        die_with_parent(parent)
        _end_pipe.fd = end_pipe
        link, _end_pipe.fd = _keep_descriptors(spec.log, link, end_pipe, streams)
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        os.environ.clear()
        os.environ.update(as_given(spec.env))
        os.chdir(spec.cwd)
        if spec.command:
            os.execvp(spec.command[0], spec.command)
        _renew_streams()
        module, _, function = spec.target.partition(":")
        called = getattr(importlib.import_module(module), function)
        code = called(*spec.args, link=link) if spec.has_link else called(*spec.args)
    except (OSError, MemoryError, KeyboardInterrupt) as error:
        cause = _BLAS if isinstance(error, KeyboardInterrupt) else str(error) or "no memory is left"
        send_end_message(EndMessage(error=f"{spec.command[0] if spec.command else spec.name}: {cause}"))
        os.write(2, f"fedsag: {spec.command[0] if spec.command else spec.name}: {cause}\n".encode())
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        _flush(sys.stdout, sys.stderr)
        os._exit(code)  # without Python's normal exit, which takes 0.3 s with torch and has no use here


def as_sent(env: Mapping[str, str]) -> dict[str, str]:
    """An environment as a message can have it: a character for each byte, since its texts may be in any encoding."""
    return {os.fsencode(name).decode("latin-1"): os.fsencode(value).decode("latin-1") for name, value in env.items()}


def as_given(sent: Mapping[str, str]) -> dict[str, str]:
    """The environment that `as_sent` wrote."""
    return {os.fsdecode(name.encode("latin-1")): os.fsdecode(value.encode("latin-1")) for name, value in sent.items()}


def show_stack_when_stopped() -> None:
    """Print the stacks of all threads to the log before a crash in compiled code or STACK_SIGNAL ends the process."""
    faulthandler.enable(2)
    faulthandler.register(STACK_SIGNAL, 2, all_threads=True, chain=True)


def preload(modules: Sequence[str]) -> None:
    """Import `modules`, and take the names that are given as `module:name`.

    What cannot be imported is skipped: the script that imports it will get the error.
    """
    for word in filter(None, modules):
        module, _, name = word.partition(":")
        with contextlib.suppress(Exception):
            imported = importlib.import_module(module)
            if name:
                getattr(imported, name)


def send_end_message(message: EndMessage) -> None:
    """Send the reason for the end of this process to the nursery. Only the first message is sent."""
    fd, _end_pipe.fd = _end_pipe.fd, None
    if fd is not None:
        error, where = _printable(message.error)[:_LARGEST_END_MESSAGE], _printable(message.where)[:1000]
        short = EndMessage(error=error, where=where)
        with contextlib.suppress(OSError):
            os.write(fd, msgspec.json.encode(short))


def _printable(text: str) -> str:
    """The text with escapes for what UTF-8 cannot encode: an error may name a file whose name is not UTF-8."""
    return text.encode(errors="backslashreplace").decode()


def read_end_message(fd: int) -> EndMessage | None:
    """The message of a process that has ended; None if it sent none. Closes the pipe `fd`."""
    os.set_blocking(fd, False)  # a grandchild may still hold the other end
    try:
        text = os.read(fd, 1 << 16)
        return msgspec.json.decode(text, type=EndMessage) if text else None
    except (OSError, msgspec.DecodeError):
        return None
    finally:
        os.close(fd)


def _keep_descriptors(
    log: str, link: int | None, end_pipe: int | None, streams: Sequence[int]
) -> tuple[int | None, int | None]:
    """Open new standard streams, move `link` and `end_pipe` to the numbers after them, and close all others.

    The new streams are `streams`, if there are any; else nothing, and the file `log`.
    """
    if not streams:
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        streams = [os.open(os.devnull, os.O_RDONLY), out, out]
    kept = [*(fd for fd in (link, end_pipe) if fd is not None), *streams]
    high = [
        fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3 + len(kept)) for fd in kept
    ]  # numbers that the dup2 calls below do not use
    for number, fd in enumerate(high[-3:]):
        os.dup2(fd, number)
    low = [os.dup2(fd, 3 + index, inheritable=False) for index, fd in enumerate(high[:-3])]
    os.closerange(3 + len(low), os.sysconf("SC_OPEN_MAX"))
    numbers = iter(low)
    return (None if link is None else next(numbers)), (None if end_pipe is None else next(numbers))


def _renew_streams() -> None:
    """Create new, unbuffered streams for 0, 1 and 2, as `python -u` does: the old ones may have text of the parent."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        old = getattr(sys, f"__{name}__")  # Python created it with the same environment, so its encoding is right
        encoding, errors = (old.encoding, old.errors) if old else ("utf-8", "backslashreplace")
        raw = io.FileIO(number, mode, closefd=False)
        raw.name = f"<{name}>"
        binary = io.BufferedReader(raw) if mode == "r" else raw
        stream = io.TextIOWrapper(binary, encoding=encoding, errors=errors, write_through=mode == "w")
        setattr(stream, "mode", mode)  # noqa: B010  not declared, but Python's own streams have it
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def _flush(*streams: TextIO | None) -> None:
    for stream in streams:
        with contextlib.suppress(Exception):  # a stream that the user replaced may raise any error
            if stream is not None:
                stream.flush()


def fresh_interpreter(module: str, *args: str) -> list[str]:
    """The command that runs `main` of a fedsag module in a new interpreter, ignoring modules in the current folder."""
    boot = f"import sys; sys.path[:1] = filter(None, sys.path[:1]); from {module} import main; main()"
    return [sys.executable, "-u", "-c", boot, *args]


def main() -> NoReturn:
    """Run a spec in a new interpreter. Arguments: SPEC PARENT LINK END_PIPE [IN OUT ERR]; LINK is -1 if there is none.

    SPEC is the descriptor of a file, because the environment in it may contain keys and passwords, and every user of
    the machine can read the arguments of a process.
    """
    spec_file, parent, link, end_pipe, *streams = map(int, sys.argv[1:])
    with open(spec_file, "rb") as file:
        file.seek(0)
        spec = msgspec.json.decode(file.read(), type=ProcessSpec)
    run_spec(spec, parent=parent, link=link if link >= 0 else None, end_pipe=end_pipe, streams=streams)
