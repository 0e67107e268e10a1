"""Channels over Unix sockets. A message is its length (eight bytes), then msgpack. Descriptors may be sent with it.

No process listens on the network. The socket is in a private folder, and a client must first send the run's token.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import hashlib
import hmac
import math
import os
import secrets
import select
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

_LARGEST_MESSAGE = (
    16 << 20
)  # bytes, for metrics and meta without tensors; as Python objects they may take eighty times as much
_LARGEST_HELLO = 64 << 10  # bytes; small, because the sender is not verified yet
_MOST_FILES = 3  # with one message: a model, and what a site keeps; or the standard streams of a client
_MESSAGE_LIMIT_S = 30.0  # from the first byte of a message to its last
_FOLDER, _SOCKET, _SHARED = "fedsag-run-", "server.sock", "shared-"
_LONGEST_PATH = 103 if sys.platform == "darwin" else 107
_CLOEXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)  # macOS has none

_encoder = msgspec.msgpack.Encoder()
_hello_decoder = msgspec.msgpack.Decoder(Hello)


class UnixChannel(Generic[Out, In]):
    """A connected socket that sends messages of type `Out` and receives those of type `In`."""

    def __init__(self, sock: socket.socket, receives: Any) -> None:
        """`receives`: the type `In`."""
        self._sock = sock
        self._decoder = msgspec.msgpack.Decoder(receives)

    def fileno(self) -> int:
        return self._sock.fileno()

    def send(self, message: Out, *files: int) -> None:
        """Send `message` with these descriptors, at most 3. Raises ChannelClosed; TensorError if it is too large."""
        body = _encoder.encode(message)
        if len(body) > _LARGEST_MESSAGE:
            raise TensorError(
                f"meta and metrics, or logged values, take {len(body)} bytes; at most {_LARGEST_MESSAGE} can be sent",
                hint="send large values in params",
            )
        frame = len(body).to_bytes(8, "little") + body
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", files))] if files else []
        try:
            sent = self._sock.sendmsg([frame], ancillary)
            if sent < len(frame):  # not for an empty rest: sendall would fail if the other side has closed now
                self._sock.sendall(memoryview(frame)[sent:])
        except OSError as error:
            self._break()
            raise ChannelClosed(f"the other process has closed the channel: {error}") from None

    def receive(self, timeout_s: float | None = None) -> tuple[In, list[int]]:
        """The next message, and the descriptors that were sent with it, which the caller closes.

        Raises TimeoutError if no message begins within `timeout_s` seconds; ChannelClosed if the other process has
        closed; BadMessage, a ChannelClosed, if the bytes are not a message of type `In`.
        """
        files: list[int] = []
        try:
            first = self._read_first(8, files, timeout_s)
            ends = time.monotonic() + _MESSAGE_LIMIT_S
            length = int.from_bytes(first + self._read(8 - len(first), files, ends), "little")
            if length > _LARGEST_MESSAGE:
                raise BadMessage(f"a message of {length} bytes, more than the limit of {_LARGEST_MESSAGE}")
            message: In = self._decoder.decode(self._read(length, files, ends))
        except BaseException as error:
            for fd in files:
                os.close(fd)
            if isinstance(error, msgspec.DecodeError | UnicodeDecodeError | RecursionError):
                raise BadMessage(f"a message that fedsag cannot read: {str(error)[:200]}") from None
            raise
        return message, files

    def end(self) -> None:
        """Send no more messages. The other process may still send. Does nothing if it has closed the channel."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._sock.close()

    def _break(self) -> None:
        """After an error: let the other process see that the channel is closed, instead of waiting for ever."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

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
            if left_s <= 0:  # a limit for the whole message, against a sender of one byte per second
                raise ChannelClosed("the other process stopped in the middle of a message")
            try:
                read += self._some(min(count - len(read), 1 << 20), files, socket.MSG_DONTWAIT)
            except BlockingIOError:
                with contextlib.suppress(TimeoutError):
                    self._await(left_s)
        return read

    def _await(self, timeout_s: float) -> None:
        """Wait until there is data to read. Raises TimeoutError.

        The socket's own timeout is not used: it would also apply to a thread that sends at the same time.
        """
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        if not poll.poll(math.ceil(timeout_s * 1000)):
            raise TimeoutError

    def _some(self, count: int, files: list[int], flags: int = 0) -> bytes:
        size = socket.CMSG_SPACE(_MOST_FILES * array.array("i").itemsize)
        try:
            data, ancillary, flags, _ = self._sock.recvmsg(count, size, _CLOEXEC | flags)
        except BlockingIOError:
            raise
        except OSError as error:
            self._break()
            raise ChannelClosed(f"the other process has closed the channel: {error}") from None
        for level, kind, content in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds = array.array("i")
                fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
                files.extend(fds)
                for fd in fds:
                    os.set_inheritable(fd, False)
        for fd in files[_MOST_FILES:]:  # more than a message may have must not fill the table of open files
            os.close(fd)
        del files[_MOST_FILES:]
        if flags & socket.MSG_CTRUNC and len(files) < _MOST_FILES:
            raise RunError(
                "there is no free file descriptor to receive a model", hint="raise the limit with `ulimit -n`"
            )
        if not data:
            raise ChannelClosed("the other process closed the channel")
        return data


class Guest:
    """A process that has connected and has not said its whole hello. Nothing waits for it."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._said = bytearray()

    def fileno(self) -> int:
        return self._sock.fileno()

    def hello(self) -> Hello | None:
        """Its hello, or None while not all of it has arrived. Raises ChannelClosed if it is none."""
        try:
            said = self._sock.recv(8 + _LARGEST_HELLO, socket.MSG_DONTWAIT)  # descriptors that it sent are closed
        except BlockingIOError:
            return None
        except OSError as error:
            raise ChannelClosed(f"the other process has closed the channel: {error}") from None
        if not said:
            raise ChannelClosed("the other process closed the channel")
        self._said += said
        length = int.from_bytes(self._said[:8], "little")
        if len(self._said) < 8:
            return None
        if length > _LARGEST_HELLO or len(self._said) > 8 + length:
            raise BadMessage(f"a hello of {max(length, len(self._said) - 8)} bytes")
        if len(self._said) < 8 + length:
            return None
        try:
            return _hello_decoder.decode(self._said[8:])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise BadMessage(f"a message that fedsag cannot read: {str(error)[:200]}") from None

    def welcomed(self, welcome: Welcome) -> UnixChannel[ToClient, ToServer]:
        """The channel of a guest that may come in. Raises ChannelClosed."""
        greeting: UnixChannel[Welcome, Hello] = UnixChannel(self._sock, Hello)
        greeting.send(welcome)
        return UnixChannel(self._sock, ToServer)

    def close(self) -> None:
        self._sock.close()


class Listener:
    """The server's socket. An expected process that sends the token gets a channel."""

    def __init__(self, address: str, token: str) -> None:
        """Listens on the path `address`. Raises RunError if that is not possible."""
        self._token = token
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._sock.bind(address)
        except OSError as error:
            raise RunError(f"cannot listen on {address}: {error}") from None
        self._sock.listen(512)

    def fileno(self) -> int:
        return self._sock.fileno()

    def meet(self) -> Guest:
        """The next process that connected."""
        sock, _ = self._sock.accept()
        sock.set_inheritable(False)
        return Guest(sock)

    def greet(
        self, guest: Guest, welcome: Callable[[Hello], Welcome | None]
    ) -> tuple[str, UnixChannel[ToClient, ToServer]] | None:
        """The site of a guest, and its channel; None while not all of its hello has arrived.

        Raises ChannelClosed, and closes the guest, if its token is wrong or `welcome` returns None.
        """
        try:
            hello = guest.hello()
            if hello is None:
                return None
            known = hmac.compare_digest(hello.token.encode(), self._token.encode())
            answer = welcome(hello) if known else None
            if answer is None:
                raise ChannelClosed("a process that is not expected")
            return hello.site, guest.welcomed(answer)
        except BaseException:
            guest.close()
            raise

    def close(self) -> None:
        self._sock.close()


def connect(address: str, hello: Hello) -> tuple[Welcome, UnixChannel[ToServer, ToClient]]:
    """Connect a client to the server. Raises ChannelClosed if nobody listens, or the server refuses `hello`."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.connect(address)
    except OSError as error:
        sock.close()
        raise ChannelClosed(f"no server listens on {address}: {error}") from None
    greeting: UnixChannel[Hello, Welcome] = UnixChannel(sock, Welcome)
    try:
        greeting.send(hello)
        welcome, _ = greeting.receive()
    except BaseException:
        greeting.close()
        raise
    return welcome, UnixChannel(sock, ToClient)


@contextmanager
def private_address() -> Iterator[str]:
    """The path for the socket of a run, in a new folder that only this user can read. The folder is removed at the end.

    If this process is killed, the nursery removes the folder. If the nursery is killed too, the next run removes it,
    as nobody has its lock. Raises RunError if no folder for temporary files can be written and has a short path.
    """
    folder, lock = _locked_folder()
    try:
        yield address_in(folder)
    finally:
        remove_address(str(folder / _SOCKET))
        os.close(lock)


def remove_address(address: str) -> None:
    """Remove the socket of a run, what its clients share, and their folder, which nothing else is in."""
    folder = Path(address).parent
    if _is_name_of_ours(folder.name):
        for remove in (*(shared.unlink for shared in _shared_in(folder)), Path(address).unlink, folder.rmdir):
            with contextlib.suppress(OSError):
                remove()


def place_of_shared(address: str, name: str) -> Path:
    """Where the clients of a run on this machine share a file: beside the socket of the run, and as long as that."""
    return Path(address).parent / f"{_SHARED}{name}"


def _shared_in(folder: Path) -> list[Path]:
    return list(folder.glob(f"{_SHARED}*"))


def _locked_folder() -> tuple[Path, int]:
    error: OSError | RunError | None = None
    for place in _places():
        try:
            for left in place.glob(f"{_FOLDER}*"):
                _remove_if_left(left)
            address_in(place / _new_name())
            return _locked_folder_in(place)
        except (OSError, RunError) as failed:
            error = error or failed
    if isinstance(error, RunError):
        raise error
    reason = f": {error.strerror}: {error.filename}" if error else ""
    raise RunError(f"cannot create a folder for the socket{reason}", hint="set TMPDIR to a folder that can be written")


def _places() -> list[Path]:
    """Folders for temporary files: the user's, then those of the system."""
    with contextlib.suppress(OSError):  # it writes a file to find one
        places = (tempfile.gettempdir(), "/tmp", "/var/tmp")
        return list(dict.fromkeys(Path(place).absolute() for place in places))  # processes have folders of their own
    return []


def _locked_folder_in(place: Path) -> tuple[Path, int]:
    while True:
        folder = place / _new_name()
        folder.mkdir(mode=0o700)
        try:
            lock = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            folder.rmdir()
            raise
        fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.exists():  # no other run has removed it in the meantime
            return folder, lock
        os.close(lock)


def _new_name() -> str:
    return _name(secrets.token_hex(4))


def _name(random: str) -> str:
    return f"{_FOLDER}{random}{hashlib.sha256(random.encode()).hexdigest()[:8]}"


def _is_name_of_ours(name: str) -> bool:
    """Whether a run made this name: nobody else's ends with the digest of its beginning."""
    return name == _name(name.removeprefix(_FOLDER)[:8])


def _remove_if_left(folder: Path) -> None:
    if not _is_name_of_ours(folder.name):
        return
    with contextlib.suppress(OSError):  # another user's, in use, or already removed
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for path in (*_shared_in(folder), folder / _SOCKET):
                path.unlink(missing_ok=True)
            folder.rmdir()
        finally:
            os.close(lock)


def address_in(folder: Path) -> str:
    """The path of the socket in `folder`. Raises RunError if it is too long for a socket."""
    address = str(folder / _SOCKET)
    if len(os.fsencode(address)) > _LONGEST_PATH:
        raise RunError(
            f"{address}: the path of a socket can have at most {_LONGEST_PATH} bytes", hint="set TMPDIR to a short path"
        )
    return address
