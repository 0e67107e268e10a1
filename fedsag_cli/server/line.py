"""The server's line to the parent: it tells what happens."""

from __future__ import annotations

import socket
import threading
import time

from fedsag_cli import events
from fedsag_cli.events import Event, ReplyAccepted, ReplyArrived, TaskSent

_OFTEN = (TaskSent, ReplyArrived, ReplyAccepted)
_MOST = 32
_LONGEST_S = 0.05


class Line:
    """Sends events. Those that come often go together, at the latest before the server waits: each message wakes the
    parent, which takes a core from a client for a moment. Several threads may send.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._lock = threading.Lock()
        self._held: list[bytes] = []
        self._since = 0.0

    def send(self, event: Event) -> None:
        """Raises OSError if the parent has ended."""
        line = events.to_line(event)
        with self._lock:
            if not self._held:
                self._since = time.monotonic()
            self._held.append(line)
            is_urgent = not isinstance(event, _OFTEN) or len(self._held) >= _MOST
            if is_urgent or time.monotonic() > self._since + _LONGEST_S:
                self._send_held()

    def flush(self) -> None:
        """Send what was held back. Raises OSError."""
        with self._lock:
            self._send_held()

    def _send_held(self) -> None:
        if self._held:
            held, self._held = b"".join(self._held), []
            self._sock.sendall(held)
