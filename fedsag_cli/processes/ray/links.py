"""One end of a client's connection: messages pass it as they are, without being read."""

from __future__ import annotations

import contextlib
import os
import socket

import msgspec

from fedsag_cli.params.tensor_file import TensorFile
from fedsag_cli.wire.channel import UnixChannel


class Link:
    """A connected socket."""

    def __init__(self, sock: socket.socket, *, trusted: bool) -> None:
        """`trusted`: the other process never changes a file that it has sent."""
        sock.set_inheritable(False)
        self._sock, self._trusted = sock, trusted
        self._channel: UnixChannel[msgspec.Raw, msgspec.Raw] = UnixChannel(sock, msgspec.Raw)

    def fileno(self) -> int:
        return self._sock.fileno()

    def send(self, body: bytes, *files: int) -> None:
        """Send a message with these descriptors. Raises ChannelClosed."""
        self._channel.send(msgspec.Raw(body), *files)

    def receive(self) -> tuple[bytes, list[TensorFile]]:
        """The next message and its files, which the caller closes. Raises ChannelClosed, TensorError."""
        body, fds = self._channel.receive()
        files: list[TensorFile] = []
        try:
            while fds:
                files.append(TensorFile(fds.pop(0), trusted=self._trusted))  # which closes it if it raises
        except BaseException:
            for fd in fds:
                os.close(fd)
            for file in files:
                file.close()
            raise
        return bytes(body), files

    def end(self) -> None:
        """Send no more messages. Does nothing if the other process has closed the connection."""
        self._channel.end()

    def cut(self) -> None:
        """Let both ends see that the connection is closed, also a thread that waits here for a message."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._sock.close()
