"""Channels over Unix sockets: typed messages and descriptors, and how an end, a stranger or a babbler shows."""

import contextlib
import fcntl
import os
import socket
import struct
import tempfile
import threading
import time
from pathlib import Path

import msgspec
import pytest
from fakes import let_in, open_descriptors

from fedsag_cli.errors import ChannelClosed, RunError
from fedsag_cli.model import ParamsType
from fedsag_cli.plan import ClientConfig
from fedsag_cli.wire import channel
from fedsag_cli.wire.channel import Listener, UnixChannel, address_in, connect, private_address
from fedsag_cli.wire.messages import Answer, Assignment, Hello, ModelFacts, Ready, ToClient, ToServer, Welcome

pytestmark = pytest.mark.timeout(60)

TASK = Assignment(task_id=7, task_name="train", model=ModelFacts(metrics={"a": 0.1}, meta={"x": [1, "é", None]}))
ANSWER = Answer(task_id=7, model=ModelFacts(params_type=ParamsType.DIFF, current_round=3), seeded_itself=True)
WELCOME = Welcome(job_id="job", seed=5, scratch="/s", config=ClientConfig(tasks=("train", "validate")))


def socketpair(folder):
    """(the server's end, a client's end)"""
    server, client = socket.socketpair()
    return UnixChannel(server, ToServer), UnixChannel(client, ToClient)


def through_the_door(folder):
    listener = Listener(address_in(folder), "secret")
    met = []
    thread = threading.Thread(target=lambda: met.append(let_in(listener, lambda hello: WELCOME)))
    thread.start()
    _, client = connect(address_in(folder), Hello(site="a", token="secret"))
    thread.join()
    listener.close()
    return met[0][1], client


@pytest.fixture(params=[socketpair, through_the_door])
def channels(request, short_path):
    server, client = request.param(short_path)
    yield server, client
    server.close()
    client.close()


@pytest.fixture
def short_path(tmp_path_factory):
    """pytest's own folders have long names, sockets' paths end at 107 bytes."""
    return tmp_path_factory.mktemp("s")


# every channel


def test_messages_arrive_as_they_were_sent_and_in_order(channels):
    server, client = channels
    for message in (Ready(), ANSWER, Ready()):
        client.send(message)
    server.send(TASK)

    assert [server.receive(5)[0] for _ in range(3)] == [Ready(), ANSWER, Ready()]
    assert client.receive(5) == (TASK, [])


def test_a_descriptor_travels_beside_its_own_message_alone(channels, tmp_path):
    server, client = channels
    with (tmp_path / "one").open("w+b") as one, (tmp_path / "two").open("w+b") as two:
        one.write(b"first")
        two.write(b"second")
        one.flush()
        two.flush()
        client.send(Ready())
        client.send(ANSWER, one.fileno())
        client.send(Ready())
        client.send(ANSWER, two.fileno())
        client.send(ANSWER, two.fileno(), one.fileno())

    received = [server.receive(5) for _ in range(5)]
    contents = [[os.pread(fd, 100, 0) for fd in fds] for _, fds in received]

    assert [message for message, _ in received] == [Ready(), ANSWER, Ready(), ANSWER, ANSWER]
    assert contents == [[], [b"first"], [], [b"second"], [b"second", b"first"]]
    for fd in [fd for _, fds in received for fd in fds]:
        assert fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
        os.close(fd)


def test_the_sender_keeps_its_own_descriptor(channels):
    server, client = channels
    reading, writing = os.pipe()
    client.send(ANSWER, reading)
    _, (fd,) = server.receive(5)
    os.close(fd)

    os.write(writing, b"x")
    assert os.read(reading, 1) == b"x"
    os.close(reading)
    os.close(writing)


def test_a_large_message_arrives_whole_while_the_other_end_reads(channels):
    server, client = channels
    large = Answer(task_id=1, model=ModelFacts(meta={"text": "x" * 5_000_000}))
    thread = threading.Thread(target=client.send, args=(large,))
    thread.start()

    received, _ = server.receive(20)
    thread.join()

    assert received == large


def test_closing_one_end_shows_at_the_other(channels):
    here, there = channels
    here.close()

    with pytest.raises(ChannelClosed):
        there.receive(5)
    with pytest.raises(ChannelClosed):
        there.send(Ready())


def test_what_was_said_before_the_end_is_still_heard(channels):
    server, client = channels
    client.send(ANSWER)
    client.close()

    assert server.receive(5)[0] == ANSWER
    with pytest.raises(ChannelClosed):
        server.receive(5)


def test_a_closed_channel_says_so_and_closing_twice_is_fine(channels):
    here, _ = channels
    here.close()
    here.close()

    with pytest.raises(ChannelClosed):
        here.receive(5)
    with pytest.raises(ChannelClosed):
        here.send(TASK)


def test_waiting_ends_after_its_time_and_the_channel_goes_on(channels):
    server, client = channels
    with pytest.raises(TimeoutError):
        server.receive(timeout_s=0.05)
    client.send(ANSWER)

    assert server.receive(5)[0] == ANSWER


# what is none of ours


def test_one_thread_may_wait_for_a_while_and_another_send_large_things(channels):
    """The one's time-out is none of the other's: no wait becomes an error, and no message is cut off."""
    server, client = channels
    large = Answer(task_id=1, model=ModelFacts(meta={"x": "y" * 1_000_000}))
    stopped, heard = threading.Event(), []

    def send():
        for _ in range(20):
            client.send(large)
        stopped.set()

    def hear():
        while len(heard) < 20:
            heard.append(server.receive(timeout_s=30)[0])
            time.sleep(0.002)  # the sender has to wait for room

    threads = [threading.Thread(target=send), threading.Thread(target=hear)]
    for thread in threads:
        thread.start()
    while not stopped.is_set():
        with pytest.raises(TimeoutError):
            client.receive(timeout_s=0.001)
    for thread in threads:
        thread.join()

    assert heard == [large] * 20


def test_who_has_ended_its_side_is_still_spoken_to(channels):
    server, client = channels
    server.end()
    with pytest.raises(ChannelClosed):
        client.receive(timeout_s=5)

    client.send(ANSWER)

    assert server.receive(timeout_s=5)[0] == ANSWER


@pytest.fixture
def babbler():
    """A channel, and the bare socket at its other end."""
    ours, theirs = socket.socketpair()
    channel = UnixChannel(ours, ToServer)
    yield channel, theirs
    channel.close()
    theirs.close()


def frame(body):
    return struct.pack("<Q", len(body)) + body


GOOD = frame(msgspec.msgpack.encode(ANSWER))


@pytest.mark.parametrize("length", [1, 7, 8, 9, len(GOOD) - 1])
def test_half_a_message_and_then_the_end_is_an_end(babbler, length):
    channel, other = babbler
    other.sendall(GOOD[:length])
    other.close()

    with pytest.raises(ChannelClosed):
        channel.receive(5)


def test_half_a_message_and_then_silence_is_an_end_too(babbler, monkeypatch):
    monkeypatch.setattr("fedsag_cli.wire.channel._MESSAGE_LIMIT_S", 0.05)
    channel, other = babbler
    other.sendall(GOOD[:-1])

    with pytest.raises(ChannelClosed, match="middle of a message"):
        channel.receive(5)


@pytest.fixture
def dribbling():
    """A function that sends bytes one by one to a socket, until the test ends or the other end does: its thread."""
    over = threading.Event()
    threads = []

    def dribble(sock, data, every_s):
        def run():
            with contextlib.suppress(OSError):
                for byte in data:
                    sock.sendall(bytes([byte]))
                    if over.wait(every_s):
                        return

        threads.append(threading.Thread(target=run))
        threads[-1].start()
        return threads[-1]

    yield dribble
    over.set()
    for thread in threads:
        thread.join()


def test_a_message_that_comes_byte_by_byte_has_no_longer_time_than_another(babbler, dribbling, monkeypatch):
    monkeypatch.setattr("fedsag_cli.wire.channel._MESSAGE_LIMIT_S", 0.2)
    channel, other = babbler
    thread = dribbling(other, struct.pack("<Q", 1_000_000) + bytes(1_000_000), 0.001)

    with pytest.raises(ChannelClosed, match="middle of a message"):
        channel.receive(60)

    assert thread.is_alive(), "it has much more to send"
    channel.close()


def test_a_message_in_two_pieces_is_one(babbler):
    channel, other = babbler
    other.sendall(GOOD[:9])
    threading.Timer(0.05, other.sendall, [GOOD[9:]]).start()

    assert channel.receive(5)[0] == ANSWER


@pytest.mark.parametrize("length", [channel._LARGEST_MESSAGE + 1, 1 << 40, (1 << 64) - 1])
def test_a_length_beyond_any_of_ours_is_refused_before_it_is_read(babbler, length):
    channel, other = babbler
    other.sendall(struct.pack("<Q", length))

    with pytest.raises(ChannelClosed, match="more than the limit of"):
        channel.receive(5)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"garbage",
        b"\xc1",
        msgspec.msgpack.encode({"type": "Nobody"}),
        msgspec.msgpack.encode({"type": "Ready", "more": 1}),
        msgspec.msgpack.encode({"type": "Answer", "task_id": "7", "model": {}}),
        msgspec.msgpack.encode(TASK),
        msgspec.msgpack.encode(ANSWER).replace(b"Answer", b"Ans\xffer"),
        b"\x91" * 100_000,
        msgspec.msgpack.encode(Answer(task_id=7, model=ModelFacts(meta={"x": 1}))).replace(
            b"\xa1x\x01", b"\xa1x" + b"\x91" * 100_000 + b"\x01"
        ),
    ],
    ids=[
        "nothing",
        "garbage",
        "no msgpack",
        "unknown",
        "a field more",
        "a wrong type",
        "the other way's",
        "no UTF-8",
        "a nest",
        "a nest in meta",
    ],
)
def test_a_message_that_is_none_of_ours_is_an_end_and_its_file_is_closed(babbler, body):
    channel, other = babbler
    with open(os.devnull) as file:
        before = open_descriptors()
        socket.send_fds(other, [frame(body)], [file.fileno()])

        with pytest.raises(ChannelClosed):
            channel.receive(5)

        assert open_descriptors() == before


@pytest.mark.parametrize("count", [2, 3, 100])
def test_of_several_files_with_one_message_no_more_than_three_are_given(babbler, count):
    channel, other = babbler
    with open(os.devnull) as file:
        before = open_descriptors()
        socket.send_fds(other, [GOOD], [file.fileno()] * count)
        _, fds = channel.receive(5)
        for fd in fds:
            os.close(fd)

        assert len(fds) == min(count, 3)
        assert open_descriptors() == before


def test_of_many_files_that_come_with_a_message_no_more_than_a_few_are_open_at_a_time(babbler, monkeypatch):
    channel, other = babbler
    most, close = [], os.close
    monkeypatch.setattr(os, "close", lambda fd: most.append(len(open_descriptors())) or close(fd))
    with open(os.devnull) as file:
        before = open_descriptors()
        for piece in (GOOD[place : place + 1] for place in range(len(GOOD))):
            socket.send_fds(other, [piece], [file.fileno()] * 2)
        _, fds = channel.receive(5)

    assert max(most) <= len(before) + 5  # two that stay, two that have come, and that by which they are counted
    for fd in fds:
        close(fd)


def test_what_is_said_of_a_message_that_is_none_of_ours_is_short(babbler):
    channel, other = babbler
    other.sendall(frame(msgspec.msgpack.encode({"type": "x" * 50_000})))

    with pytest.raises(ChannelClosed) as caught:
        channel.receive(5)

    assert len(caught.value.message) < 1000


# the door


@pytest.fixture
def door(short_path):
    """A listener, and a function that lets one in and says what became of it."""
    listener = Listener(address_in(short_path), "secret")
    yield listener, address_in(short_path)
    listener.close()


def knock(door, hello, welcome=lambda hello: WELCOME):
    """What the server got, and what the client got."""
    listener, address = door
    got = []
    thread = threading.Thread(target=lambda: got.append(let_in(listener, welcome)))
    thread.start()
    try:
        told = connect(address, hello)
    except ChannelClosed as error:
        told = error
    thread.join()
    return got[0], told


def test_who_knows_the_token_is_welcome(door):
    server, (welcome, channel) = knock(door, Hello(site="site-1", token="secret"))

    assert server[0] == "site-1"
    assert welcome == WELCOME
    channel.send(Ready())
    assert server[1].receive(5)[0] == Ready()
    server[1].close()
    channel.close()


@pytest.mark.parametrize("token", ["", "secre", "secrett", "Secret", "gehéim"])
def test_who_does_not_know_the_token_is_not_and_nothing_is_asked_about_it(door, token):
    asked = []
    server, told = knock(door, Hello(site="site-1", token=token), lambda hello: asked.append(hello) or WELCOME)

    assert server is None
    assert isinstance(told, ChannelClosed)
    assert asked == []


def test_who_is_not_expected_is_not_welcome(door):
    server, told = knock(door, Hello(site="stranger", token="secret"), lambda hello: None)

    assert server is None
    assert isinstance(told, ChannelClosed)


@pytest.mark.parametrize("words", [b"", b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 64, frame(b"\xc0")])
def test_a_babbler_at_the_door_gets_no_channel_and_the_next_one_does(door, words):
    listener, address = door
    with socket.socket(socket.AF_UNIX) as babbler:
        babbler.connect(address)
        babbler.sendall(words)
        babbler.shutdown(socket.SHUT_WR)

        assert let_in(listener, lambda hello: WELCOME) is None

    server, (_, channel) = knock(door, Hello(site="a", token="secret"))
    assert server[0] == "a"
    server[1].close()
    channel.close()


def test_a_hello_is_short(door):
    _, (_, channel) = knock(door, Hello(site="a" * 60_000, token="secret"))
    channel.close()

    listener, address = door
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.connect(address)
        stranger.sendall(frame(msgspec.msgpack.encode(Hello(site="a" * (64 << 10), token="secret"))))
        assert let_in(listener, lambda hello: WELCOME) is None


def test_who_says_a_hello_piece_by_piece_is_welcome_and_nobody_waits_for_it(door):
    """Before, the server waited for each hello, and a client that paused before it was turned away."""
    listener, address = door
    said = frame(msgspec.msgpack.encode(Hello(site="slow", token="secret")))
    with socket.socket(socket.AF_UNIX) as slow, socket.socket(socket.AF_UNIX) as silent:
        slow.connect(address)
        silent.connect(address)
        guests = [listener.meet(), listener.meet()]
        for piece in (b"", said[:3], said[3:20]):
            slow.sendall(piece)
            assert [listener.greet(guest, lambda hello: WELCOME) for guest in guests] == [None, None]
        server, (_, client) = knock(door, Hello(site="quick", token="secret"))

        slow.sendall(said[20:])
        site, channel = listener.greet(guests[0], lambda hello: WELCOME)

        assert (server[0], site) == ("quick", "slow")
        for each in (server[1], client, channel, guests[1]):
            each.close()


def test_where_nobody_listens_is_an_error_naming_the_address(short_path):
    with pytest.raises(ChannelClosed, match=r"no server listens on .*nobody"):
        connect(str(short_path / "nobody"), Hello(site="a", token="x"))


def test_a_path_that_is_too_long_for_a_socket_is_an_error_with_the_way_out(tmp_path):
    with pytest.raises(RunError, match="at most") as caught:
        address_in(tmp_path / ("x" * 100))

    assert "TMPDIR" in caught.value.hint


def test_an_address_that_is_taken_is_an_error(door):
    with pytest.raises(RunError, match="cannot listen"):
        Listener(door[1], "secret")


def test_what_was_sent_whole_was_sent_though_the_other_end_closes_at_once(babbler):
    """The last answer of a run: the server closes when it has it, and the client must not take that for a failure."""

    class ClosesAtOnce:
        """A socket whose other end goes away while `sendmsg` returns."""

        def __init__(self, sock, other):
            self._sock, self._other = sock, other

        def __getattr__(self, name):
            return getattr(self._sock, name)

        def sendmsg(self, *args):
            sent = self._sock.sendmsg(*args)
            self._other.close()
            return sent

    channel, other = babbler
    sock = channel._sock
    channel._sock = ClosesAtOnce(sock, other)

    channel.send(TASK)
    with pytest.raises(ChannelClosed):
        channel.send(TASK)


def test_the_address_holds_in_every_folder(short_path, monkeypatch):
    monkeypatch.chdir(short_path)
    monkeypatch.setattr(tempfile, "tempdir", ".")

    with private_address() as address:
        assert Path(address).is_relative_to(short_path)
