"""Whatever comes over the socket or in a tensor file: it is ours, or it is refused, and the next one is served."""

import random
import socket
from concurrent.futures import ThreadPoolExecutor

import fuzzing
import msgspec
import numpy as np
import pytest
from fakes import let_in, open_descriptors
from fuzzing import CONFIG, FACTS, TOKEN, attack, hostile_descriptors, hostile_file, hostile_frame, say
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsag_cli.errors import ChannelClosed, TensorError
from fedsag_cli.model import ParamsType
from fedsag_cli.params.tensor_file import TensorFile
from fedsag_cli.wire.channel import Listener, UnixChannel, address_in, connect
from fedsag_cli.wire.messages import Answer, Hello, ModelFacts, Ready, ToServer, Welcome

pytestmark = pytest.mark.timeout(120)

WELCOME = Welcome(job_id="job", seed=1, scratch="/s", config=CONFIG)
ANSWER = Answer(task_id=7, model=FACTS)


@pytest.mark.parametrize("first", range(0, 400, 100))
def test_a_bad_input_is_refused_and_harms_nothing(first):
    outcomes = [attack(seed) for seed in range(first, first + 100)]

    assert {kind for kind, _ in outcomes} == set(fuzzing.ATTACKS)
    assert {outcome for _, outcome in outcomes} == {fuzzing.REFUSED, fuzzing.VALID}


def test_a_seed_gives_the_same_input_again():
    once, again = random.Random(3), random.Random(3)

    assert [hostile_frame(once, ANSWER) for _ in range(50)] == [hostile_frame(again, ANSWER) for _ in range(50)]
    assert [hostile_file(once) for _ in range(50)] == [hostile_file(again) for _ in range(50)]


def test_an_input_that_does_harm_is_told_by_its_seed(monkeypatch):
    monkeypatch.setitem(fuzzing.ATTACKS, "leak", lambda chance: socket.socketpair()[0].detach())
    monkeypatch.setattr(fuzzing, "KINDS", ["leak"])

    with pytest.raises(AssertionError, match=r"seed 5, leak: .*descriptor was left open"):
        attack(5)


# many who come at once


@pytest.fixture
def door(tmp_path_factory):
    """A listener and its address."""
    folder = tmp_path_factory.mktemp("s")
    listener = Listener(address_in(folder), TOKEN)
    yield listener, address_in(folder)
    listener.close()


def serve(listener):
    """Let the next one in and hear it out: its site, what it said, and why it was not heard any longer."""
    met = let_in(listener, lambda hello: WELCOME)
    if met is None:
        return "", []
    site, channel = met
    said = []
    try:
        while True:
            message, fds = channel.receive(10)
            said.append(message)
            for fd in fds:
                with TensorFile(fd) as file:
                    said.append({name: np.asarray(value).tolist() for name, value in file.load().items()})
    except (ChannelClosed, TensorError) as error:
        said.append(type(error))
    finally:
        channel.close()
    return site, said


def is_good(address):
    _, channel = connect(address, Hello(site="good", token=TOKEN))
    channel.send(Ready())
    with TensorFile.write({"w": np.arange(3), "n": 5}) as file:
        channel.send(ANSWER, file.fileno())
    channel.close()


def is_a_stranger(address, seed):
    chance = random.Random(seed)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(address)
        say(chance, sock, hostile_frame(chance, Hello(site="stranger", token="?")), hostile_descriptors(chance))
        sock.settimeout(20)
        try:
            assert sock.recv(1) == b""
        except ConnectionResetError:
            pass


def is_inside_and_bad(address, seed):
    chance = random.Random(seed)
    _, channel = connect(address, Hello(site=f"bad-{seed}", token=TOKEN))
    with socket.socket(fileno=channel._sock.detach()) as sock:
        for _ in range(5):
            say(
                chance,
                sock,
                hostile_frame(chance, ANSWER),
                [fuzzing.carried(chance, hostile_file(chance))[0]],
                stays=True,
            )


@pytest.mark.parametrize("is_bad", [is_a_stranger, is_inside_and_bad])
def test_one_of_ours_is_served_among_many_hostile_ones(door, is_bad):
    listener, address = door
    before = open_descriptors()

    with ThreadPoolExecutor(8) as pool:
        peers = [pool.submit(is_bad, address, seed) for seed in range(20)]
        peers.insert(10, pool.submit(is_good, address))
        heard = [serve(listener) for _ in range(21)]
        peers.append(pool.submit(is_good, address))
        heard.append(serve(listener))
        for peer in peers:
            peer.result()

    good = [Ready(), ANSWER, {"w": [0, 1, 2], "n": 5}, ChannelClosed]
    assert [said for site, said in heard if site == "good"] == [good, good]
    assert heard[-1] == ("good", good)
    assert open_descriptors() == before


# messages of any content


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)
ANSWERS = st.builds(
    Answer,
    task_id=st.integers(-(2**63), 2**63 - 1),
    model=st.builds(
        ModelFacts,
        params_type=st.none() | st.sampled_from(ParamsType),
        metrics=st.none() | st.dictionaries(st.text(), st.floats(allow_nan=False), max_size=4),
        current_round=st.none() | st.integers(0, 2**63 - 1),
        meta=st.dictionaries(st.text(), PLAIN, max_size=4),
    ),
    seeded_itself=st.booleans(),
)


def heard_of(frame):
    ours, theirs = socket.socketpair()
    channel = UnixChannel(ours, ToServer)
    try:
        theirs.sendall(frame)
        theirs.shutdown(socket.SHUT_WR)
        return channel.receive(5)
    finally:
        channel.close()
        theirs.close()


@settings(max_examples=150, deadline=None)
@given(ANSWERS)
def test_an_answer_of_any_content_is_heard_as_it_was_sent(answer):
    body = msgspec.msgpack.encode(answer)

    assert heard_of(len(body).to_bytes(8, "little") + body) == (answer, [])


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200))
def test_any_other_bytes_are_none_of_ours(body):
    with pytest.raises(ChannelClosed):
        heard_of(len(body).to_bytes(8, "little") + b"\xc1" + body)
