"""The sockets of the server: one that listens, a channel for each client, and the line from the parent.

Everything is waited for at once, in one thread. A client's messages are heard before what the parent says of its end.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from fedsag_cli import events
from fedsag_cli.errors import BadMessage, ChannelClosed, RunError, TensorError
from fedsag_cli.events import ProcessExited
from fedsag_cli.params.tensor_file import TensorFile
from fedsag_cli.server.decisions import Connected, Disconnected, Exited
from fedsag_cli.wire.channel import Guest, Listener, UnixChannel
from fedsag_cli.wire.messages import Answer, Hello, ToClient, ToServer, Welcome, parted

_MOST_GUESTS = 256  # that have connected and not said who they are; of more, the first has to go
_LAST_MESSAGES_S = 1.0  # at a client's deadline, its messages that have arrived are read for at most this long


@dataclass(frozen=True, slots=True)
class Heard:
    """A message of a client. Whoever gets it closes the files: that of a model, and what the site keeps."""

    site: str
    message: ToServer
    file: TensorFile | None
    state: TensorFile | None = None


News: TypeAlias = Heard | Connected | Disconnected | Exited


class Channels:
    """They yield what they hear; whoever asks handles each piece before the next one."""

    def __init__(self, listener: Listener, line: socket.socket, admit: Callable[[str], Welcome | None]) -> None:
        """`line` is the connection from the parent. `admit`: the welcome for a site; None: it is not expected."""
        self._listener, self._line, self._admit = listener, line, admit
        self._channels: dict[str, UnixChannel[ToClient, ToServer]] = {}
        self._guests: dict[Guest, None] = {}
        self._unread = b""  # the start of an incomplete line from the parent
        self._lines: deque[bytes] = deque()  # complete ones that were not handled yet
        self._is_ending = False
        self._selector = selectors.DefaultSelector()
        self._selector.register(listener, selectors.EVENT_READ)
        self._selector.register(line, selectors.EVENT_READ)

    @property
    def processes(self) -> list[str]:
        """The processes whose channels are open."""
        return list(self._channels)

    def send(self, site: str, message: ToClient, *files: TensorFile | None) -> None:
        """Raises ChannelClosed; TensorError if the message is too large."""
        self._channels[site].send(message, *(file.fileno() for file in files if file is not None))

    def end(self, site: str) -> None:
        """Send a client no more messages. It may still send."""
        if site in self._channels:
            self._channels[site].end()

    def end_all(self) -> None:
        """Send nobody any more messages, not even those who will connect."""
        self._is_ending = True
        for channel in self._channels.values():
            channel.end()

    def close(self, site: str) -> None:
        if (channel := self._channels.pop(site, None)) is not None:
            self._selector.unregister(channel)
            channel.close()

    def close_all(self) -> None:
        for site in list(self._channels):
            self.close(site)
        for guest in list(self._guests):
            self._dismiss(guest).close()
        self._selector.close()
        self._listener.close()

    def listen(self, timeout_s: float | None) -> Iterator[News]:
        """Wait until there is something to hear, at most `timeout_s` seconds. Raises RunError if the parent ended."""
        ready = [key for key, _ in self._selector.select(0 if self._lines else timeout_s)]
        for key in ready:
            if isinstance(key.data, str):
                yield from self._receive(key.data)
        for key in ready:
            if key.fileobj is self._listener:
                self._meet()
            elif isinstance(key.fileobj, Guest):
                yield from self._greet(key.fileobj)
            elif key.fileobj is self._line:
                self._read_line()
        while self._lines:
            event = events.from_line(self._lines.popleft())
            if isinstance(event, ProcessExited):
                yield from self.receive_all(event.name)  # its last messages, if it sent any
                self.close(event.name)
                yield Exited(event.name, event.exit_code, event.failure)

    def receive_all(self, site: str) -> Iterator[News]:
        """All messages that a client has sent so far."""
        ends = time.monotonic() + _LAST_MESSAGES_S
        while time.monotonic() < ends:
            news = list(self._receive(site, timeout_s=0.0))
            yield from news
            if not any(isinstance(each, Heard) for each in news):
                break

    def _receive(self, site: str, timeout_s: float | None = None) -> Iterator[News]:
        """One message of a client, if there is one."""
        if site not in self._channels:
            return
        try:
            message, fds = self._channels[site].receive(timeout_s)
            file, state = _files(message, fds)
        except TimeoutError:
            return
        except ChannelClosed as error:
            self.close(site)
            yield Disconnected(site, f"it sent {error.message}" if isinstance(error, BadMessage) else "")
        except TensorError as error:
            self.close(site)
            yield Disconnected(site, error.message)
        else:
            yield Heard(site, message, file, state)

    def _meet(self) -> None:
        """Meet a process that connected. It may need time until its hello, or be a stranger: nothing waits for it."""
        if len(self._guests) == _MOST_GUESTS:
            self._dismiss(next(iter(self._guests))).close()
        guest = self._listener.meet()
        self._guests[guest] = None
        self._selector.register(guest, selectors.EVENT_READ)

    def _dismiss(self, guest: Guest) -> Guest:
        self._selector.unregister(guest)
        del self._guests[guest]
        return guest

    def _greet(self, guest: Guest) -> Iterator[News]:
        if guest not in self._guests:
            return
        self._dismiss(guest)
        with contextlib.suppress(ChannelClosed):
            if (met := self._listener.greet(guest, self._welcome)) is None:
                self._guests[guest] = None
                self._selector.register(guest, selectors.EVENT_READ)
                return
            site, channel = met
            self._channels[site] = channel
            if self._is_ending:
                channel.end()
            self._selector.register(channel, selectors.EVENT_READ, site)
            yield Connected(site)

    def _welcome(self, hello: Hello) -> Welcome | None:
        return self._admit(hello.site)

    def _read_line(self) -> None:
        """Read the parent's messages about processes that ended."""
        chunk = self._line.recv(1 << 16)
        if not chunk:
            raise RunError("the command that started this run has ended")
        *lines, self._unread = (self._unread + chunk).split(b"\n")
        self._lines.extend(lines)


def _files(message: ToServer, fds: list[int]) -> tuple[TensorFile | None, TensorFile | None]:
    """The files that came with a message. Raises BadMessage, TensorError; then all are closed."""
    opened: list[TensorFile] = []
    try:
        while fds:
            opened.append(TensorFile(fds.pop(0)))  # which closes it if it raises
        return parted(opened, has_state=isinstance(message, Answer) and message.has_state)
    except (BadMessage, TensorError):
        for fd in fds:
            os.close(fd)
        for file in opened:
            file.close()
        raise
