"""The signals that end a run, and the standard streams that every process needs."""

from __future__ import annotations

import contextlib
import os
import signal
import termios
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from fedsag_cli.errors import Interrupted

_ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_received: list[int] = []  # the signal that has interrupted the run, if one has


def have_standard_streams() -> None:
    """Open standard streams that are closed: otherwise other files get their numbers, and a child overwrites them."""
    while (fd := os.open(os.devnull, os.O_RDWR)) < 3:
        os.set_inheritable(fd, True)
    os.close(fd)


@contextmanager
def terminal_as_before() -> Iterator[None]:
    """Set the terminal at the end as it was: a process that is ended while it reads a line leaves it without echo."""
    before = None
    with contextlib.suppress(termios.error):  # standard input is no terminal
        before = termios.tcgetattr(0)
    try:
        yield
    finally:
        if before is not None and _is_in_foreground():
            with contextlib.suppress(termios.error):  # it is closed
                termios.tcsetattr(0, termios.TCSADRAIN, before)


def _is_in_foreground() -> bool:
    """Whether this process may set its terminal. In the background it would be stopped for that."""
    try:
        return os.tcgetpgrp(0) == os.getpgrp()
    except OSError:  # it is not the terminal that controls this process
        return True


def ignore_signals() -> None:
    """Ignore further signals while the run ends. `signals_interrupt` restores the handlers."""
    if threading.current_thread() is threading.main_thread():
        for number in _ENDINGS:
            signal.signal(number, signal.SIG_IGN)


def as_interruption(error: Exception) -> Exception:
    """The error; but Interrupted if a signal came, whatever has become of it on its way.

    A signal may come within code that cannot stand an exception there, such as that of a lock, and raises another one.
    """
    return Interrupted(_received[0]) if _received and not isinstance(error, Interrupted) else error


@contextmanager
def signals_interrupt() -> Iterator[None]:
    """SIGINT, SIGTERM and SIGHUP raise Interrupted. Only in the main thread, where Python handles signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, _: FrameType | None) -> None:
        ignore_signals()  # the run is interrupted only once
        _received.append(number)
        raise Interrupted(number)

    handled = [number for number in _ENDINGS if signal.getsignal(number) is not signal.SIG_IGN]  # nohup ignores some
    before = {number: signal.signal(number, interrupt) for number in handled}
    try:
        yield
    except Exception as error:
        ended = as_interruption(error)
        if ended is error:
            raise
        raise ended from error
    finally:
        _received.clear()
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def signals_told() -> Iterator[SignalsTold]:
    """SIGINT, SIGTERM and SIGHUP do not interrupt this block: it looks for them. Only in the main thread."""
    signals = SignalsTold()

    def tell(number: int, _: FrameType | None) -> None:
        signals.tell(number)

    handled = [number for number in _ENDINGS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, tell) for number in handled}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signals.close()


class SignalsTold:
    """`received`: the first signal, if one has come. `select` finds that one has."""

    def __init__(self) -> None:
        self.received: list[int] = []
        self._told, self._telling = os.pipe()

    def fileno(self) -> int:
        return self._told

    def tell(self, number: int) -> None:
        if not self.received:
            self.received.append(number)
            os.write(self._telling, b"!")

    def close(self) -> None:
        os.close(self._told)
        os.close(self._telling)
