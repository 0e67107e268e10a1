"""Signals that end a run, and the standard streams a run needs."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from fedsag_cli.errors import Interrupted

_ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def have_standard_streams() -> None:
    """Nothing we open may get the number of a standard stream that was closed: a child's would be laid over it."""
    while (fd := os.open(os.devnull, os.O_RDWR)) < 3:
        os.set_inheritable(fd, True)
    os.close(fd)


def ignore_signals() -> None:
    """What follows is the ending, of which the cause is known; `signals_interrupt` sets them back."""
    if threading.current_thread() is threading.main_thread():
        for number in _ENDINGS:
            signal.signal(number, signal.SIG_IGN)


@contextmanager
def signals_interrupt() -> Iterator[None]:
    """SIGINT, SIGTERM and a terminal that closes become Interrupted, in the main thread, where Python hears them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, _: FrameType | None) -> None:
        ignore_signals()  # one is enough
        raise Interrupted(number)

    heard = [number for number in _ENDINGS if signal.getsignal(number) is not signal.SIG_IGN]  # nohup says not to
    before = {number: signal.signal(number, interrupt) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
