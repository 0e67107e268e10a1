"""Channels over Unix sockets: eight bytes of length, then msgpack; descriptors ride along (SCM_RIGHTS).

Nothing listens on the network. The socket lies in a private folder, and a hello must know the run's token.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import hmac
import math
import os
import select
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec

from fedsag_cli.errors import BadMessage, ChannelClosed, RunError, TensorError
from fedsag_cli.wire.messages import Hello, ToClient, ToServer, Welcome

Out = TypeVar("Out")
In = TypeVar("In")

_LARGEST_MESSAGE = 16 << 20  # metrics and meta, no tensors; as Python objects it may take eighty times that
_LARGEST_HELLO = 64 << 10  # nobody knows yet who says it
_MESSAGE_LIMIT_S = 30.0  # a message that has begun is whole within this, or its sender is not one of ours
_HELLO_LIMIT_S = 5.0  # nobody else is heard while one who has come says nothing, or says it slowly
_FOLDER, _SOCKET = "fedsag-run-", "server.sock"
_LONGEST_PATH = 103 if sys.platform == "darwin" else 107
_CLOEXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)  # macOS has none

_encoder = msgspec.msgpack.Encoder()


class UnixChannel(Generic[Out, In]):
    """A connected socket that speaks `Out` and hears `In`."""

    def __init__(self, sock: socket.socket, hears: Any, *, from_stranger: bool = False) -> None:
        """`from_stranger`: who speaks has not said yet who it is; it is heard for less long, and less of it."""
        self._sock = sock
        self._decoder = msgspec.msgpack.Decoder(hears)
        self._from_stranger = from_stranger

    def fileno(self) -> int:
        return self._sock.fileno()

    def send(self, message: Out, file: int | None = None) -> None:
        body = _encoder.encode(message)
        if len(body) > _LARGEST_MESSAGE:
            what = f"meta and metrics, or what is logged, take {len(body)} bytes, {_LARGEST_MESSAGE} can travel"
            raise TensorError(what, hint="large things are params")
        frame = len(body).to_bytes(8, "little") + body
        beside = [] if file is None else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [file]))]
        try:
            sent = self._sock.sendmsg([frame], beside)
            if sent < len(frame):  # sendall asks the socket even for nothing, and the other side may have closed by now
                self._sock.sendall(memoryview(frame)[sent:])
        except OSError as error:
            raise ChannelClosed(f"the other side is gone: {error}") from None

    def receive(self, timeout_s: float | None = None) -> tuple[In, int | None]:
        largest = _LARGEST_HELLO if self._from_stranger else _LARGEST_MESSAGE
        limit_s = _HELLO_LIMIT_S if self._from_stranger else _MESSAGE_LIMIT_S
        files: list[int] = []
        try:
            first = self._read_first(8, files, timeout_s)
            ends = time.monotonic() + limit_s
            length = int.from_bytes(first + self._read(8 - len(first), files, ends), "little")
            if length > largest:
                raise BadMessage(f"a message of {length} bytes is larger than any of ours")
            message: In = self._decoder.decode(self._read(length, files, ends))
        except BaseException as error:
            for fd in files:
                os.close(fd)
            if isinstance(error, msgspec.DecodeError | UnicodeDecodeError | RecursionError):
                raise BadMessage(f"a message that is none of ours: {str(error)[:200]}") from None
            raise
        return message, files[0] if files else None

    def end(self) -> None:
        """Nothing more is said here; the other side may go on. Does nothing where it is gone."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._sock.close()

    def _read_first(self, count: int, files: list[int], timeout_s: float | None) -> bytes:
        if self._sock.fileno() < 0:
            raise ChannelClosed("this channel is closed")
        if timeout_s is not None:
            self._await(timeout_s)
        return self._some(count, files)

    def _read(self, count: int, files: list[int], ends: float) -> bytearray:
        read = bytearray()
        while len(read) < count:
            left_s = ends - time.monotonic()
            if left_s <= 0:  # each piece may come in time, and all of them never
                raise ChannelClosed("the other side stopped in the middle of a message")
            try:
                read += self._some(min(count - len(read), 1 << 20), files, socket.MSG_DONTWAIT)
            except BlockingIOError:
                with contextlib.suppress(TimeoutError):
                    self._await(left_s)
        return read

    def _await(self, timeout_s: float) -> None:
        """Until there is something to hear. Raises TimeoutError.

        Not by the socket's own time-out: a thread that sends meanwhile has the same socket.
        """
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        if not poll.poll(math.ceil(timeout_s * 1000)):
            raise TimeoutError

    def _some(self, count: int, files: list[int], flags: int = 0) -> bytes:
        room = socket.CMSG_SPACE(array.array("i").itemsize)
        try:
            data, beside, flags, _ = self._sock.recvmsg(count, room, _CLOEXEC | flags)
        except BlockingIOError:
            raise
        except OSError as error:
            raise ChannelClosed(f"the other side is gone: {error}") from None
        for level, kind, content in beside:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds = array.array("i")
                fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
                files.extend(fds)
                for fd in fds:
                    os.set_inheritable(fd, False)
        for fd in files[1:]:  # one goes with a message: nobody fills our table with others while it lasts
            os.close(fd)
        del files[1:]
        if flags & socket.MSG_CTRUNC and not files:
            raise RunError("no file descriptor is left to take a model with", hint="`ulimit -n` raises their number")
        if not data:
            raise ChannelClosed("the other side closed the channel")
        return data


class Listener:
    """The server's door: who knows the token and is expected gets a channel."""

    def __init__(self, address: str, token: str) -> None:
        """Raises RunError where the socket cannot be made."""
        self._token = token
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._sock.bind(address)
        except OSError as error:
            raise RunError(f"cannot listen on {address}: {error}") from None
        self._sock.listen(512)

    def fileno(self) -> int:
        return self._sock.fileno()

    def accept(self, welcome: Callable[[Hello], Welcome | None]) -> tuple[str, UnixChannel[ToClient, ToServer]] | None:
        """Settle one hello; None where the caller did not know the token or `welcome` does not want it."""
        sock, _ = self._sock.accept()
        sock.set_inheritable(False)
        door: UnixChannel[Welcome, Hello] = UnixChannel(sock, Hello, from_stranger=True)
        try:
            hello, file = door.receive(timeout_s=_HELLO_LIMIT_S)
            if file is not None:
                os.close(file)
            known = hmac.compare_digest(hello.token.encode(), self._token.encode())
            answer = welcome(hello) if known else None
            if answer is not None:
                door.send(answer)
                return hello.site, UnixChannel(sock, ToServer)
        except (ChannelClosed, TimeoutError):
            pass
        sock.close()
        return None

    def close(self) -> None:
        self._sock.close()


def connect(address: str, hello: Hello) -> tuple[Welcome, UnixChannel[ToServer, ToClient]]:
    """A client's way in. Raises ChannelClosed where nobody listens, or where the server does not want it."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.connect(address)
    except OSError as error:
        sock.close()
        raise ChannelClosed(f"no server listens on {address}: {error}") from None
    door: UnixChannel[Hello, Welcome] = UnixChannel(sock, Welcome)
    try:
        door.send(hello)
        welcome, _ = door.receive()
    except BaseException:
        door.close()
        raise
    return welcome, UnixChannel(sock, ToClient)


@contextmanager
def private_address() -> Iterator[str]:
    """Where a socket may lie: in a folder of its own, into which nobody else may look.

    Should this process be killed, the nursery removes it; should that be killed too, the next run does, for nobody
    holds its lock. Raises RunError where none can be made, or its path is longer than the system takes.
    """
    try:
        for left in Path(tempfile.gettempdir()).glob(f"{_FOLDER}*"):
            _remove_if_left(left)
        folder, lock = _locked_folder()
    except OSError as error:
        raise RunError(f"no folder for the socket can be made: {error.strerror}", hint="set TMPDIR") from None
    try:
        yield address_in(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _locked_folder() -> tuple[Path, int]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_FOLDER))
        lock = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
        fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.exists():  # no other run has taken it for one that was left
            return folder, lock
        os.close(lock)


def _remove_if_left(folder: Path) -> None:
    with contextlib.suppress(OSError):  # somebody else's, in use, or gone by now
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            (folder / _SOCKET).unlink(missing_ok=True)
            folder.rmdir()
        finally:
            os.close(lock)


def address_in(folder: Path) -> str:
    """Where in `folder` the socket lies. Raises RunError where the path is longer than the system takes."""
    address = str(folder / _SOCKET)
    if len(os.fsencode(address)) > _LONGEST_PATH:
        raise RunError(f"{address}: a socket's path may have {_LONGEST_PATH} bytes", hint="set TMPDIR to a short path")
    return address
