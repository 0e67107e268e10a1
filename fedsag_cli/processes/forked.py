"""A function in a forked process, which ends with this one and tells it lines through a pipe."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import NamedTuple

from fedsag_cli.processes.kill import die_with_parent

_ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Forked(NamedTuple):
    """A forked process, and the end of the pipe from which this process reads what it tells."""

    pid: int
    told: int

    def send_signal(self, number: int) -> None:
        """It must not have been waited for."""
        os.kill(self.pid, number)

    def wait(self) -> int:
        """The exit code, which is negative for a signal. Closes the pipe."""
        os.close(self.told)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def forked(work: Callable[[int], int]) -> Forked:
    """Run `work` in a process of its own, with a pipe to write into; what it returns is the exit code.

    The caller has one thread: a lock that another one holds would stay locked in the new process for ever. Its standard
    streams are empty, and signals that end a process end it. `work` closes what it has of the caller's and does not
    need. Raises OSError if the process cannot be started.
    """
    told, telling = os.pipe()
    parent = os.getpid()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDINGS)
    try:
        pid = os.fork()
        if pid == 0:
            _run(work, parent, told, telling)
    except OSError:
        os.close(told)
        os.close(telling)
        raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    os.close(telling)
    return Forked(pid, told)


def _run(work: Callable[[int], int], parent: int, told: int, telling: int) -> None:
    code = 1
    try:
        os.setsid()  # Ctrl-C is for the parent, which then tells this process
        die_with_parent(parent)
        signal.set_wakeup_fd(-1)
        for number in _ENDINGS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDINGS)
        os.close(told)
        nothing = os.open(os.devnull, os.O_RDWR)
        for stream in range(3):
            os.dup2(nothing, stream)
        os.close(nothing)
        code = work(telling)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(code)
