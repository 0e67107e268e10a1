"""What a fresh process does to become the server, a client, or somebody's command.

A forked child and a fresh interpreter go the same way, in the same order; `main` is the latter's door.
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
from collections.abc import Sequence
from typing import NoReturn, TextIO

import msgspec

from fedsag_cli.processes.kill import die_with_parent

STACK_SIGNAL = getattr(signal, "SIGRTMAX", signal.SIGUSR2)  # ends a script of ours, which first prints its stack
_LARGEST_LAST_WORD = 2000  # a pipe takes it whole, even where nobody reads yet


class ProcessSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A process to be: a `module:function` called with texts, or, where `command` is given, that.

    `env` is the whole environment. `log` gets what goes to standard output and standard error.
    `talks`: it gets a line to its starter, on which both sides send events: the argument `line`, a descriptor.
    """

    name: str
    target: str = ""
    args: list[str] = []
    command: list[str] = []
    env: dict[str, str] = {}
    cwd: str
    log: str
    talks: bool = False


class LastWord(msgspec.Struct, frozen=True, kw_only=True):
    """What a process says before an exception ends it, and where in the user's files that was."""

    error: str
    where: str = ""


class _Ending:
    """Where this process says its last word."""

    fd: int | None = None


_ending = _Ending()


def become(spec: ProcessSpec, *, parent: int, line: int | None, last_word: int | None) -> NoReturn:
    """Turn this process into what `spec` says and end with it.

    `parent` is the process whose end is ours too; `line` and `last_word` are descriptors, kept, every other is closed.
    """
    code = 1
    try:
        with contextlib.suppress(OSError):
            os.setsid()
        die_with_parent(parent)
        line, _ending.fd = _keep_descriptors(spec.log, line, last_word)
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        os.environ.clear()
        os.environ.update(spec.env)
        os.chdir(spec.cwd)
        if spec.command:
            os.execvp(spec.command[0], spec.command)
        _speak_unbuffered()
        module, _, function = spec.target.partition(":")
        called = getattr(importlib.import_module(module), function)
        code = called(*spec.args, line=line) if spec.talks else called(*spec.args)
    except OSError as error:
        say_last_word(LastWord(error=f"{spec.command[0] if spec.command else spec.name}: {error}"))
        os.write(2, f"fedsag: {spec.command[0] if spec.command else spec.name}: {error}\n".encode())
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        _flush(sys.stdout, sys.stderr)
        os._exit(code)  # tearing an interpreter with torch down takes 0.3 s that nobody has to wait for


def show_stack_when_stopped() -> None:
    """A crash in compiled code and STACK_SIGNAL, which ends this process, leave its threads' stacks in its log."""
    faulthandler.enable(2)
    faulthandler.register(STACK_SIGNAL, 2, all_threads=True, chain=True)


def preload(modules: Sequence[str]) -> None:
    """Import what will be needed. What is broken or absent is left to whoever needs it, who then says so."""
    for module in filter(None, modules):
        with contextlib.suppress(Exception):
            importlib.import_module(module)


def say_last_word(word: LastWord) -> None:
    """Tell whoever reaps this process why it ends. Once; says nothing where nobody asked."""
    fd, _ending.fd = _ending.fd, None
    if fd is not None:
        short = LastWord(error=_printable(word.error)[:_LARGEST_LAST_WORD], where=_printable(word.where)[:1000])
        with contextlib.suppress(OSError):
            os.write(fd, msgspec.json.encode(short))


def _printable(text: str) -> str:
    """With what UTF-8 cannot hold written as escapes: a file's odd name may stand in an error."""
    return text.encode(errors="backslashreplace").decode()


def hear_last_word(fd: int) -> LastWord | None:
    """What the process at the other end of the pipe said, which has ended. Closes `fd`."""
    os.set_blocking(fd, False)  # a grandchild may still hold the other end
    try:
        text = os.read(fd, 1 << 16)
        return msgspec.json.decode(text, type=LastWord) if text else None
    except (OSError, msgspec.DecodeError):
        return None
    finally:
        os.close(fd)


def _keep_descriptors(log: str, line: int | None, last_word: int | None) -> tuple[int | None, int | None]:
    """Standard streams anew, then `line` and `last_word` on the numbers after them, then nothing."""
    kept = [fd for fd in (line, last_word) if fd is not None]
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3 + len(kept)) for fd in kept]  # out of the way of what follows
    nothing = os.open(os.devnull, os.O_RDONLY)
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(nothing, 0)
    os.dup2(out, 1)
    os.dup2(out, 2)
    low = [os.dup2(fd, 3 + index, inheritable=False) for index, fd in enumerate(high)]
    os.closerange(3 + len(low), os.sysconf("SC_OPEN_MAX"))
    numbers = iter(low)
    return (None if line is None else next(numbers)), (None if last_word is None else next(numbers))


def _speak_unbuffered() -> None:
    """Fresh streams over 0, 1 and 2, as `python -u` has them: the old ones hold what others may have left in them."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        old = getattr(sys, f"__{name}__")  # made by Python under the same environment: it knows the encoding
        encoding, errors = (old.encoding, old.errors) if old else ("utf-8", "backslashreplace")
        raw = io.FileIO(number, mode, closefd=False)
        raw.name = f"<{name}>"
        binary = io.BufferedReader(raw) if mode == "r" else raw
        stream = io.TextIOWrapper(binary, encoding=encoding, errors=errors, write_through=mode == "w")
        setattr(stream, "mode", mode)  # noqa: B010  no declared attribute, but Python's own streams have it
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def _flush(*streams: TextIO | None) -> None:
    for stream in streams:
        with contextlib.suppress(Exception):  # a stream the user replaced may raise anything
            if stream is not None:
                stream.flush()


def fresh_interpreter(module: str, *args: str) -> list[str]:
    """The command that runs `main` of a module of ours, and finds nothing in the current folder in its place."""
    boot = f"import sys; sys.path[:1] = filter(None, sys.path[:1]); from {module} import main; main()"
    return [sys.executable, "-u", "-c", boot, *args]


def main() -> NoReturn:
    """A fresh interpreter's door: SPEC PARENT LINE LAST_WORD; -1 where there is no such descriptor.

    SPEC is a file's descriptor: an environment holds keys and passwords, and arguments are for all to see.
    """
    about, parent, line, last_word = map(int, sys.argv[1:])
    with open(about, "rb") as file:
        file.seek(0)
        spec = msgspec.json.decode(file.read(), type=ProcessSpec)
    become(spec, parent=parent, line=line if line >= 0 else None, last_word=last_word)
