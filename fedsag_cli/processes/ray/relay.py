"""The head's half of the clients' connections: for each of them one to the server's socket, in its name.

Down, a model that several clients get is put into Ray's object store once. Up, what comes from there becomes a sealed
file again, as a client on this machine sends it.
"""

from __future__ import annotations

import os
import selectors
import socket
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import ray

from fedsag_cli.errors import ChannelClosed, TensorError
from fedsag_cli.params.tensor_file import TensorFile, copied
from fedsag_cli.processes.ray.buffers import Buffer, content
from fedsag_cli.processes.ray.links import Link
from fedsag_cli.processes.ray.messages import Blob, CloseLink, EndLink, ToClient, ToNode

_SMALL = 64 << 10  # bytes; a message has them itself
_MODELS = 2  # that are held for further clients


class Remote(Protocol):
    """Where the client of a connection is."""

    def tell(self, *requests: ToNode) -> None:
        """Have these done there, in this order. Returns at once."""


class Relay:
    """All connections. One thread reads from the server; each node has another one that writes to it."""

    def __init__(self, address: str, scratch: Path) -> None:
        """`address`: the server's socket. `scratch`: a folder for files that do not fit into memory."""
        self._address, self._scratch = address, scratch
        self._links: dict[tuple[Remote, int], Link] = {}
        self._store = _Store()
        self._selector = selectors.DefaultSelector()
        self._begun = False

    def open(self, node: Remote, number: int) -> None:
        """A process has connected on a node."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.connect(self._address)
        except OSError:
            sock.close()
            node.tell(CloseLink(number))
            return
        link = self._links[node, number] = Link(sock, trusted=True)
        self._selector.register(link, selectors.EVENT_READ, (node, number))
        if not self._begun:  # a selector that waits for nothing may not see what is added
            self._begun = True
            threading.Thread(target=self._read_all, daemon=True).start()

    def send(self, node: Remote, number: int, body: bytes, files: Sequence[Buffer]) -> None:
        """A message of a client, for the server. Raises OSError if there is no room for a file."""
        fds: list[int] = []
        try:
            fds += (copied(file.data, self._scratch) for file in files)
            if link := self._links.get((node, number)):
                link.send(body, *fds)
        except ChannelClosed:
            node.tell(CloseLink(number))
        finally:
            for fd in fds:
                os.close(fd)

    def close(self, node: Remote, number: int) -> None:
        """A client has closed its connection."""
        if link := self._links.pop((node, number), None):
            link.cut()  # the thread that reads from the server lets go of it

    def close_all(self, node: Remote) -> None:
        """A node has died."""
        for other, number in list(self._links):
            if other is node:
                self.close(other, number)

    def _read_all(self) -> None:
        while True:
            for key, _ in self._selector.select():
                self._read(key)

    def _read(self, key: selectors.SelectorKey) -> None:
        (node, number), link = key.data, key.fileobj
        assert isinstance(link, Link)
        try:
            body, files = link.receive()
        except (ChannelClosed, TensorError):
            self._selector.unregister(link)
            if (node, number) in self._links:
                node.tell(EndLink(number))  # the client may still send
            return
        node.tell(ToClient(number, body, [self._store.blob(file) for file in files]))


class _Store:
    """What was sent last, in Ray's object store."""

    def __init__(self) -> None:
        self._held: OrderedDict[tuple[int, int], tuple[TensorFile, Blob]] = OrderedDict()
        self._num = 0

    def blob(self, file: TensorFile) -> Blob:
        """Takes over `file`."""
        status = os.fstat(file.fileno())
        same = status.st_dev, status.st_ino  # of no other file while this one is open
        if same in self._held:
            file.close()
        else:
            self._num += 1
            data = content(file.fileno())
            small = len(data) <= _SMALL
            blob = Blob(key=self._num, data=bytes(data) if small else b"", ref=None if small else ray.put(data))
            self._held[same] = file, blob
        self._held.move_to_end(same)
        while len(self._held) > _MODELS:
            _, (oldest, _) = self._held.popitem(last=False)
            oldest.close()
        return self._held[same][1]
