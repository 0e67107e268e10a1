"""Bad input for the socket and for tensor files, made from a seed: each is refused as one of ours, and harms nothing.

What a mutation left good is accepted, and must then be as sane as what our own processes send.
"""

import argparse
import contextlib
import fcntl
import functools
import gc
import json
import os
import random
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import msgspec
import numpy as np
import torch
from fakes import let_in, open_descriptors

from fedsag_cli.errors import ChannelClosed, FedsagError, TensorError
from fedsag_cli.model import ParamsType
from fedsag_cli.params import tensor_file
from fedsag_cli.params.layout import SIZES
from fedsag_cli.params.tensor_file import TensorFile
from fedsag_cli.plan import ClientConfig, FilterSpec
from fedsag_cli.wire import channel as wire_channel
from fedsag_cli.wire.channel import Listener, UnixChannel, address_in, connect
from fedsag_cli.wire.messages import (
    Answer,
    Assignment,
    Hello,
    LogValues,
    ModelFacts,
    Ready,
    ToClient,
    ToServer,
    Usage,
    Welcome,
)

REFUSED, VALID = "refused", "valid"

MOST_MEMORY = 256 << 20  # bytes that one input may take while it is looked at
MOST_TIME_S = 10.0
TOKEN = "secret"
FACTS = ModelFacts(
    params_type=ParamsType.DIFF,
    metrics={"accuracy": 0.5, "loss": float("inf")},
    current_round=2,
    total_rounds=3,
    meta={"x": [1, "é", None, {"y": 0.5}], "raw": b"\0\1"},
)
LOGGED = LogValues(kind="text", values={"loss": "0.5", "name": "é"}, step=3)
CONFIG = ClientConfig(task_data_filters=[FilterSpec(tasks=["train"], path="X", args={"a": [1]})])
SPOKEN = {
    "to the server": (ToServer, [Ready(), Answer(task_id=7, model=FACTS, usage=Usage(), has_state=True), LOGGED]),
    "to a client": (ToClient, [Assignment(task_id=7, task_name="train", model=FACTS, tell_usage=True)]),
    "a hello": (Hello, [Hello(site="site-1", token=TOKEN)]),
    "a welcome": (Welcome, [Welcome(job_id="job", seed=1 << 60, scratch="/s", config=CONFIG)]),
}  # fmt: skip


def attack(seed: int) -> tuple[str, str]:
    """Run the input of one seed. What kind it was, and what became of it. Raises AssertionError naming the seed."""
    chance = random.Random(seed)
    kind = chance.choice(KINDS)
    before, began = open_descriptors(), time.monotonic()
    try:
        with _little_memory(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # casts of whatever the bytes happen to be
            outcome = ATTACKS[kind](chance)
        gc.collect(0)
        assert open_descriptors() == before, "a descriptor was left open, or closed"
        assert time.monotonic() - began < MOST_TIME_S, "it took too long"
    except Exception as error:
        raise AssertionError(f"seed {seed}, {kind}: {type(error).__name__}: {error}") from error
    return kind, outcome


@contextlib.contextmanager
def _little_memory() -> Iterator[None]:
    """Linux alone tells what a process held at its peak, and forgets it on demand."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        yield
        return
    held = _peak()
    yield
    assert _peak() - held < MOST_MEMORY, f"it took {(_peak() - held) >> 20} MiB"


def _peak() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) << 10


# messages


def attack_channel(chance: random.Random) -> str:
    """One frame, and what goes beside it, to a channel that hears it; then its sender is gone, or says nothing more."""
    hears, messages = SPOKEN[chance.choice(list(SPOKEN))]
    ours, theirs = socket.socketpair()
    channel: UnixChannel = UnixChannel(ours, hears)
    stays = chance.random() < 0.02
    said = hostile_frame(chance, chance.choice(messages))
    beside = hostile_descriptors(chance)
    with mock.patch.object(wire_channel, "_MESSAGE_LIMIT_S", 0.05 if stays else 5.0):
        talk = threading.Thread(target=say, args=(random.Random(chance.random()), theirs, said, beside, stays))
        talk.start()
        try:
            message, fds = channel.receive(0.05 if stays else 5.0)
        except TimeoutError:
            assert stays
            outcome = REFUSED
        except ChannelClosed as error:
            outcome = _is_short(error)
        else:
            outcome = VALID
            _is_sane(message, hears)
            looked_into = [_look_into(chance, fd) for fd in fds]
            outcome = REFUSED if REFUSED in looked_into else VALID
        channel.close()
        talk.join()
        theirs.close()
    return outcome


def attack_door(chance: random.Random) -> str:
    """Some who come to the door with a bad hello; then one of ours, who is served as if nobody had been there."""
    folder = tempfile.mkdtemp(prefix="fz")
    welcome = SPOKEN["a welcome"][1][0]
    listener = Listener(address_in(Path(folder)), TOKEN)
    outcome = REFUSED
    try:
        for _ in range(chance.randint(1, 3)):
            hello = chance.choice([Hello(site="a", token=TOKEN), Hello(site="b", token="?"), Ready(), welcome])
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(address_in(Path(folder)))
            stays = chance.random() < 0.02
            said, beside = hostile_frame(chance, hello), hostile_descriptors(chance)
            talk = threading.Thread(target=say, args=(random.Random(chance.random()), sock, said, beside, stays))
            talk.start()
            met = let_in(listener, lambda hello: welcome if hello.site == "a" else None, 0.05)
            if met is not None:
                assert met[0] == "a"
                outcome = VALID
                met[1].close()
            talk.join()
            sock.close()
        _is_served(listener, address_in(Path(folder)), welcome)
    finally:
        listener.close()
        shutil.rmtree(folder)
    return outcome


def _is_served(listener: Listener, address: str, welcome: Welcome) -> None:
    met: list = []
    knock = threading.Thread(target=lambda: met.append(connect(address, Hello(site="good", token=TOKEN))))
    knock.start()
    inside = let_in(listener, lambda hello: welcome)
    knock.join()
    assert inside is not None
    assert inside[0] == "good"
    told, client = met[0]
    assert told == welcome
    client.send(SPOKEN["to the server"][1][1])
    assert inside[1].receive(5.0)[0] == SPOKEN["to the server"][1][1]
    inside[1].close()
    client.close()


def say(chance: random.Random, sock: socket.socket, said: bytes, beside: list[int], stays: bool = False) -> None:
    """In one piece or in several; the descriptors go with the first, or with each of the first ones, and are closed."""
    pieces = [said]
    if chance.random() < 0.3 and said:
        cuts = sorted(chance.randrange(len(said)) for _ in range(chance.randint(1, 4)))
        pieces = [said[first:last] for first, last in zip([0, *cuts], [*cuts, len(said)], strict=True)]
    with contextlib.suppress(OSError):  # who refuses hangs up
        for piece in filter(None, pieces):
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack(f"{len(beside)}i", *beside))] if beside else []
            sent = sock.sendmsg([piece], rights)
            sock.sendall(piece[sent:])
            if chance.random() < 0.5:
                rights, beside = [], _closed(beside)
    _closed(beside)
    if not stays:
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_WR)


def _closed(fds: list[int]) -> list[int]:
    for fd in fds:
        os.close(fd)
    return []


def _is_sane(message: object, hears: object) -> None:
    encoded = msgspec.msgpack.encode(message)
    again = msgspec.msgpack.decode(encoded, type=hears)
    assert msgspec.msgpack.encode(again) == encoded  # not equal(): a NaN is not


def hostile_frame(chance: random.Random, message: object) -> bytes:
    tree = msgspec.to_builtins(message, builtin_types=(bytes,))
    for _ in range(chance.choice([0, 1, 1, 2])):
        tree = _changed_tree(chance, tree)
    body = msgspec.msgpack.encode(tree)
    if chance.random() < 0.1:
        body = body.replace(b"\xa1x", b"\xa1x" + odd_msgpack(chance), 1)
    if chance.random() < 0.5:
        body = _changed_bytes(chance, body)
    length = len(body)
    if chance.random() < 0.3:
        length = chance.choice(
            [0, 1, length - 1, length + 1, length + 1000, 64 << 10, (64 << 10) + 1, 1 << 20, 16 << 20, (16 << 20) + 1,
             1 << 31, 1 << 32, 1 << 40, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, chance.randrange(1 << 64)]
        )  # fmt: skip
    frame = struct.pack("<Q", max(length, 0)) + body
    match chance.randrange(12):
        case 0:
            return frame[: chance.randrange(len(frame))]
        case 1:
            return frame + chance.randbytes(chance.randint(1, 100))
        case 2:
            return chance.randbytes(chance.randint(0, 64))
    return frame


def odd_msgpack(chance: random.Random) -> bytes:
    """What no encoder of ours makes: nests, lengths that lie, odd keys, extensions, times."""
    huge = struct.pack(">I", chance.choice([0xFFFFFFFF, 1 << 24, 1 << 31]))
    depth = chance.choice([100, 900, 1100, 20_000, 200_000])
    return chance.choice([
        b"\x91" * depth, b"\x91" * depth + b"\xc0", b"\x81\xa1y" * depth + b"\xc0",
        b"\x81" + b"\x91" * depth + b"\x90\xc0",
        b"\xdd" + huge, b"\xdf" + huge, b"\xdb" + huge, b"\xc6" + huge, b"\xc9" + huge + b"\x05", b"\xdc\xff\xff",
        b"\x81\x80\xc0", b"\x81\x90\xc0", b"\x81\x91\x80\xc0", b"\x81\xd4\x05\x00\xc0", b"\x82\x01\xc0\x01\xc0",
        b"\x81\xc0\xc0",
        b"\xd4\x05\x00", b"\xd6\xff\xff\xff\xff\xff", b"\xd7\xff" + b"\xff" * 8, b"\xc7\x0c\xff" + b"\xff" * 12,
        b"\xc7\x00\xff",
        b"\xc1", b"\xa1\xff", b"\xa3\xed\xa0\x80", b"\xcb\x7f\xf8" + b"\0" * 6, b"\xcf" + b"\xff" * 8,
        b"\xd3\x80" + b"\0" * 7,
        b"\xdd\x00\x04\x00\x00" + b"\x90" * (1 << 18), b"\xdd\x00\x04\x00\x00" + b"\x80" * (1 << 18),
    ])  # fmt: skip


def odd_value(chance: random.Random) -> object:
    """A value of any type, most of them not the one that stands there."""
    return chance.choice([
        None, True, False, 0, 1, -1, 64, 1 << 31, (1 << 63) - 1, -(1 << 63), (1 << 64) - 1, 0.0, -0.5, 1e308, "", "x",
        "train",
        "Ready", "Answer", "FULL", "F32", "\0", "é" * 100, "x" * 70_000, b"", b"\xff", [], [[]], [0], [1, 2], ["x"],
        [None], {},
        {"x": 1}, {"": {}}, {"type": "Ready"}, {"x": {"x": {"x": []}}}, list(range(100)),
        {str(n): n for n in range(100)},
    ])  # fmt: skip


def _changed_tree(chance: random.Random, tree: object) -> object:
    """One place of it another: a value, a key less or more, a nest. The places near the root come first."""
    if isinstance(tree, dict) and tree and chance.random() < 0.85:
        key = chance.choice(list(tree))
        match chance.randrange(6):
            case 0:
                return {name: value for name, value in tree.items() if name != key}
            case 1:
                return tree | {chance.choice(["more", "", "type", "x" * 300, key + " "]): odd_value(chance)}
            case 2:
                return {(chance.choice(["other", "Model", ""]) if name == key else name): tree[name] for name in tree}
        return tree | {key: _changed_tree(chance, tree[key])}
    if isinstance(tree, list) and tree and chance.random() < 0.7:
        place = chance.randrange(len(tree))
        match chance.randrange(4):
            case 0:
                return tree[:place] + tree[place + 1 :]
            case 1:
                return [*tree[:place], odd_value(chance), *tree[place:]]
        return [*tree[:place], _changed_tree(chance, tree[place]), *tree[place + 1 :]]
    return odd_value(chance)


def _changed_bytes(chance: random.Random, data: bytes, within: int | None = None) -> bytes:
    """Bits flipped, bytes set, put in, taken out or told twice, in the first `within` bytes."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        end = min(len(changed), len(changed) if within is None else within)
        if end == 0:
            break
        place = chance.randrange(end)
        match chance.randrange(6):
            case 0 | 1:
                changed[place] ^= 1 << chance.randrange(8)
            case 2:
                changed[place] = chance.choice(
                    [0, 0xFF, 0xC1, 0xDD, 0xDF, chance.randrange(256), *b'0123456789[]{}",:-eE.']
                )
            case 3:
                changed[place:place] = chance.randbytes(chance.randint(1, 9))
            case 4:
                del changed[place : place + chance.randint(1, 9)]
            case 5:
                changed[place:place] = changed[place : place + chance.randint(1, 40)]
    return bytes(changed)


# descriptors


def hostile_descriptors(chance: random.Random) -> list[int]:
    count = chance.choice([0, 0, 0, 1, 1, 1, 1, 2, 3, 20, 253])
    return [_descriptor(chance, chance.choice(DESCRIPTORS)) for _ in range(count)]


def _descriptor(chance: random.Random, kind: str) -> int:
    match kind:
        case "pipe" | "pipe's other end" | "closed pipe":
            reading, writing = os.pipe()
            kept, other = (reading, writing) if kind != "pipe's other end" else (writing, reading)
            os.close(other)
            return kept
        case "socket":
            one, other = socket.socketpair()
            other.close()
            return one.detach()
        case "listening socket":
            sock = socket.socket(socket.AF_UNIX)
            sock.bind("")
            sock.listen()
            return sock.detach()
        case "epoll":
            epoll = select.epoll()
            fd = os.dup(epoll.fileno())
            epoll.close()
            return fd
        case "folder":
            return os.open("/tmp", os.O_RDONLY)
        case "folder that is gone":
            folder = tempfile.mkdtemp()
            fd = os.open(folder, os.O_RDONLY)
            Path(folder).rmdir()
            return fd
        case "fifo without a name":
            folder = tempfile.mkdtemp()
            os.mkfifo(f"{folder}/fifo")
            fd = os.open(f"{folder}/fifo", os.O_RDWR)
            shutil.rmtree(folder)
            return fd
        case "tensor file":
            with TensorFile.write({"w": np.arange(3)}) as file:
                return os.dup(file.fileno())
        case "hostile tensor file":
            return carried(chance, hostile_file(chance))[0]
        case "path alone":
            return os.open("/tmp", os.O_PATH)
    return os.open(kind, os.O_RDWR)


DESCRIPTORS = [
    "pipe", "pipe's other end", "closed pipe", "socket", "listening socket", "epoll", "folder", "folder that is gone",
    "fifo without a name", "tensor file", "tensor file", "tensor file", "hostile tensor file", "path alone",
    "/dev/zero", "/dev/null", "/dev/full",
]  # fmt: skip


# tensor files


def attack_file(chance: random.Random) -> str:
    fd, late = carried(chance, hostile_file(chance))
    return _look_into(chance, fd, late)


def _look_into(chance: random.Random, fd: int, late: Callable[[], object] = lambda: None) -> str:
    """What the server does with a file it gets; `late` happens to it when it has been taken."""
    try:
        file = TensorFile(fd)
    except TensorError:
        return REFUSED
    with file:
        late()
        try:
            entries = file.entries
            loaded = file.load()
            trees = {name: file.tree(name) for name in file.trees}
            with file.twin() as twin:
                assert _digest(twin.load()) == _digest(loaded)
            if chance.random() < 0.2:
                _is_moved(file, loaded)
        except TensorError as error:
            return _is_short(error)
    assert list(loaded) == list(entries)
    for name, value in loaded.items():
        if isinstance(value, torch.Tensor | np.ndarray | np.generic):
            assert tuple(value.shape) == entries[name].shape
            assert value.nbytes == np.prod(value.shape, dtype=int) * SIZES[entries[name].dtype]
        if isinstance(value, torch.Tensor) and value.numel():
            value.clone().copy_(value)
            _ = value.double() if not value.is_complex() else value + value
    with TensorFile.write(loaded, trees=trees) as again:
        assert _digest(again.load()) == _digest(loaded)
        assert again.trees == list(trees)
        for name in trees:
            again.tree(name)
    return VALID


def _is_short(error: FedsagError) -> str:
    """What is said of it goes into events and the report."""
    assert len(str(error)) < 2000
    return REFUSED


def _is_moved(file: TensorFile, loaded: dict) -> None:
    moved = file.on_disk(tempfile.gettempdir())
    if moved is not None:
        with moved:
            assert _digest(moved.load()) == _digest(loaded)


def _digest(params: dict) -> str:
    try:
        return tensor_file.digest(params)
    except TensorError as error:
        raise AssertionError(f"what was read cannot travel: {error}") from None


@functools.cache
def _good_files() -> list[tuple[dict, dict, bytes]]:
    """(header, what safetensors cannot say, data) of files as we write them."""
    tied = torch.arange(6.0)
    models: list[dict] = [
        {"w": torch.arange(6.0).reshape(2, 3), "b": torch.zeros(2), "steps": 3, "rate": 0.5, "flag": True},
        {"first": tied, "other": np.arange(4, dtype=np.int16), "again": tied, "s": np.float32(2),
        "none": torch.zeros(0, 3)},
        {"z": torch.ones(3, dtype=torch.complex128), "h": torch.ones(5, dtype=torch.bfloat16),
        "f": torch.ones(3).bool()},
        {"a": np.arange(6.0).reshape(2, 3), "b": np.arange(3, dtype=np.complex64), "i": np.int64(5),
        "0d": torch.tensor(1.0)},
        {f"layer.{n}": torch.full((n,), 1.0) for n in range(30)},
        {"tree": b"\0\xff", "about": "né", "w": np.arange(3)},
        {},
    ]  # fmt: skip
    state = {
        "n": 3,
        "c": {"w": torch.ones(3), 0: np.float32(1)},
        "l": [None, True, 0.5, "é", b"\0", 1 << 70, "x" * 2000],
    }
    good = []
    for model, trees in [
        *((model, {}) for model in models),
        ({"w": tied}, {"meta": state}),
        ({}, {"s": state, "t": []}),
    ]:
        with TensorFile.write(model, trees=trees) as file:
            whole = os.pread(file.fileno(), file.size, 0)
        length = int.from_bytes(whole[:8], "little")
        header = json.loads(whole[8 : 8 + length])
        good.append((header, json.loads(header.pop("__metadata__")["fedsag"]), whole[8 + length :]))
    return good


def hostile_file(chance: random.Random) -> bytes:
    header, extra, data = chance.choice(_good_files())
    if chance.random() < 0.7:
        header, data = _changed_skeleton(chance, header, data)
    for _ in range(chance.choice([0, 1, 1, 1, 2, 3])):
        if chance.random() < 0.6:
            header = _changed_entries(chance, header)
        else:
            extra = _changed_extra(chance, extra)
    metadata = {"fedsag": json.dumps(extra, default=repr)} if chance.random() < 0.95 else odd_value(chance)
    if chance.random() < 0.95:
        header = {"__metadata__": metadata, **header}
    text = json.dumps(header, default=repr).encode()
    if chance.random() < 0.8:
        text += b" " * chance.choice([-(len(text) + 8) % 64, -(len(text) + 8) % 64, chance.randrange(20)])
    if chance.random() < 0.05:
        text = odd_json(chance)
    length = len(text)
    if chance.random() < 0.08:
        length = max(
            0, chance.choice([0, 1, 2, length - 1, length + 1, length + 8, 1 << 20, 16 << 20, 1 << 40, 1 << 63])
        )
    whole = struct.pack("<Q", length) + text + data
    if chance.random() < 0.3:
        whole = _changed_bytes(chance, whole, within=8 + len(text))
    if chance.random() < 0.1:
        whole = whole[: chance.randrange(len(whole) + 1)]
    return whole


def _changed_skeleton(chance: random.Random, header: dict, data: bytes) -> tuple[dict, bytes]:
    """The skeleton of a tree, if there is one, is another."""
    skeletons = [name for name in header if name[:1] == "\0" and "\0" not in name[1:]]
    if not skeletons:
        return header, data
    name = chance.choice(skeletons)
    whole = data[slice(*header[name]["data_offsets"])]
    place = chance.randrange(len(whole) + 1)
    changed = chance.choice([
        _changed_bytes(chance, whole), _changed_bytes(chance, whole), odd_msgpack(chance),
        whole[:place] + odd_msgpack(chance) + whole[place + 1 :], whole[:place], whole * 2,
        whole.replace(b"\xd6\x01\0\0\0\0", b"\xd6\x01" + chance.choice([b"\1\0\0\0", b"\xff" * 4, b"\2\0\0\0"])),
    ])  # fmt: skip
    entry = {"dtype": "U8", "shape": [len(changed)], "data_offsets": [len(data), len(data) + len(changed)]}
    return header | {name: entry}, data + changed


def odd_json(chance: random.Random) -> bytes:
    entry = b'{"w":{"dtype":"F32","shape":[%b],"data_offsets":[0,4]}}'
    depth = chance.choice([100, 900, 1100, 20_000, 200_000])
    return chance.choice([
        b"[" * depth, b'{"a":' * depth, b'{"w":' + b"[" * depth + b"]" * depth + b"}", b"null", b"[]", b'"',
        b"\xff\xfe{}",
        entry % b",".join([b"99"] * depth), entry % b",".join([b"1"] * depth), entry % (b"9" * min(depth, 4300)),
        entry % (b"9" * depth), entry % b"1e308", entry % b"1.0", entry % b'"1"', entry % b"true", entry % b"0,-1",
        entry.replace(b'"w"', b'"\\ud800"') % b"1", entry.replace(b"w", b"w" * 100_000) % b"2",
        entry.replace(b"F32", b"F" * 100_000) % b"2", b'{"w":1,"w":2}', b"{" + b'"a":1,' * depth + b'"b":2}',
    ])  # fmt: skip


def _changed_entries(chance: random.Random, header: dict) -> dict:
    if not header:
        return {"w": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}
    name, other = chance.choice(list(header)), chance.choice(list(header))
    entry = dict(header[name]) if isinstance(header[name], dict) else {}
    offsets = entry.get("data_offsets", [0, 0])
    match chance.randrange(9):
        case 0:
            entry["dtype"] = chance.choice([*SIZES, *SIZES, "F4", "f32", "", "O", 5, None])
        case 1 | 2:
            entry["shape"] = odd_shape(chance, entry.get("shape", []))
        case 3:
            place, far = chance.randrange(2), chance.choice([-8, -1, 1, 8, 1000, 1 << 31, 1 << 63, 1 << 70, 0.5, None])
            if isinstance(offsets, list) and len(offsets) == 2 and isinstance(offsets[place], int):
                moved = None if far is None else offsets[place] + far
                entry["data_offsets"] = [moved, offsets[1]] if place == 0 else [offsets[0], moved]
        case 4:
            if isinstance(header[other], dict):
                return header | {name: dict(header[other])}
        case 5:
            entry.pop(chance.choice(["dtype", "shape", "data_offsets"]), None)
        case 6:
            return {key: value for key, value in header.items() if key != name}
        case 7:
            return header | {chance.choice(["more", "", "w" * 3000, "é\0"]): entry}
        case 8:
            return header | {name: _changed_tree(chance, entry)}
    return header | {name: entry}


def odd_shape(chance: random.Random, shape: object) -> object:
    count = int(np.prod(shape, dtype=object)) if isinstance(shape, list) and all(type(n) is int for n in shape) else 1
    return chance.choice([
        [], [0], [-1], [-1, -1], [count], [count, 1], [1, count], [-count, -1], [count, 0], [0, 1 << 62], [0,
        1 << 80], [1 << 31],
        [1 << 32, 1 << 32], [1 << 62, 4], [1 << 64, count], [count + 1], [1.0], [0.5], [True] * 2, [True], ["1"],
        [None], None, count, "3", {}, [[count]], [count] + [1] * 31, [count] + [1] * 63, [count] + [1] * 64,
        [1] * 1000 + [count],
        [10**400, 0], [0] * 70, [9**999],
    ])  # fmt: skip


def _changed_extra(chance: random.Random, extra: dict) -> dict:
    order = extra.get("order")
    names = [name for name in order if isinstance(name, str)] if isinstance(order, list) else []
    some = (chance.choice([*names, "nobody"]), chance.choice([*names, "nobody"]), chance.choice([*names, "nobody"]))
    match chance.randrange(8):
        case 0 if names:
            return extra | {"order": [*names, some[0]]}
        case 1 if names:
            return extra | {"order": chance.sample(names, chance.randrange(len(names) + 1))}
        case 2:
            return extra | {"ties": {some[0]: some[1], some[1]: some[2], some[2]: some[0]}}
        case 3:
            return extra | {"ties": {some[0]: some[1]}}
        case 4 | 5:
            kind = chance.choice(["torch", "numpy", "scalar", "number", "pickle", "", 5])
            kinds = extra.get("kinds")
            return extra | {"kinds": {**(kinds if isinstance(kinds, dict) else {}), some[0]: kind}}
        case 6:
            return extra | {"about": odd_value(chance)}
    changed = _changed_tree(chance, extra)
    return changed if isinstance(changed, dict) else {"order": changed}


def carried(chance: random.Random, whole: bytes) -> tuple[int, Callable[[], object]]:
    """(a descriptor of a file with these bytes, what happens to it once it was taken)"""
    match chance.randrange(14):
        case 0:
            return _on_disk(whole), lambda: None
        case 1:
            return _shrinking(chance, _on_disk(whole), whole)
        case 2:
            fd = _on_disk(whole)
            return fd, lambda: os.ftruncate(fd, len(whole) + chance.randrange(1 << 16))
        case 3:
            with tempfile.NamedTemporaryFile() as named:
                named.write(whole)
                named.flush()
                return os.open(named.name, chance.choice([os.O_RDONLY, os.O_RDWR])), lambda: None
        case 4:
            return _memfd(whole, 0), lambda: None
        case 5:
            fd = _memfd(whole, chance.randrange(16))
            return fd, lambda: _shrunk(fd, chance.randrange(len(whole) + 1))
        case 6:
            fd = os.memfd_create("fuzz", 0)  # it cannot be sealed
            os.write(fd, whole)
            return _shrinking(chance, fd, whole) if chance.random() < 0.5 else (fd, lambda: None)
        case 7:
            large = chance.choice([1 << 20, 1 << 30, 1 << 36, 1 << 40, (1 << 63) - 1])
            fd = _memfd(whole, 0) if chance.random() < 0.5 else _on_disk(whole)
            with contextlib.suppress(OSError):
                os.ftruncate(fd, large if os.fstat(fd).st_nlink or large > 1 << 34 else 1 << 20)
            _seal(fd, 15)
            return fd, lambda: None
        case 8:
            return _reopened(_memfd(whole, 0), chance.choice([os.O_RDONLY, os.O_WRONLY, os.O_PATH])), lambda: None
    return _memfd(whole, 15), lambda: None


def _memfd(whole: bytes, seals: int) -> int:
    fd = os.memfd_create("fuzz", os.MFD_ALLOW_SEALING)
    os.write(fd, whole)
    _seal(fd, seals)
    return fd


def _seal(fd: int, seals: int) -> None:
    with contextlib.suppress(OSError):  # a file on disk
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)


def _reopened(fd: int, how: int) -> int:
    other = os.open(f"/proc/self/fd/{fd}", how)
    _seal(fd, 15)
    os.close(fd)
    return other


def _on_disk(whole: bytes) -> int:
    with tempfile.TemporaryFile() as file:
        file.write(whole)
        file.flush()
        return os.dup(file.fileno())


def _shrinking(chance: random.Random, fd: int, whole: bytes) -> tuple[int, Callable[[], object]]:
    return fd, lambda: _shrunk(fd, chance.randrange(len(whole) + 1))


def _shrunk(fd: int, size: int) -> None:
    with contextlib.suppress(PermissionError):  # sealed against it
        os.ftruncate(fd, size)


ATTACKS: dict[str, Callable[[random.Random], str]] = {
    "message": attack_channel,
    "hello": attack_door,
    "tensor file": attack_file,
}
KINDS = ["message", "hello", "tensor file", "tensor file"]


# scripts/fuzz


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=20_000, help="how many (20000)")
    parser.add_argument("--seed", type=int, default=0, help="of the first one; the others follow it (0)")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    seeds = range(args.seed, args.seed + args.inputs)
    if args.worker:
        _work(seeds)
    else:
        raise SystemExit(_supervise(seeds))


def _work(seeds: range) -> None:
    torch.set_num_threads(1)
    for seed in seeds:
        signal.alarm(60)
        began = time.monotonic()
        kind, outcome = attack(seed)
        print(json.dumps([seed, kind, outcome, time.monotonic() - began]), flush=True)


def _supervise(seeds: range) -> int:
    """Processes that do the work, since a bad one may take its process along."""
    began = time.monotonic()
    share = -(-len(seeds) // (os.cpu_count() or 1))
    parts = [seeds[first : first + share] for first in range(0, len(seeds), share)]
    tried: Counter[tuple[str, str]] = Counter()
    spent: Counter[str] = Counter()
    failed: list[str] = []
    workers: list[subprocess.Popen[str]] = []

    def follow(part: range) -> None:
        words = [sys.executable, __file__, "--worker", "--inputs", str(len(part)), "--seed", str(part[0])]
        seed = part[0]
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as worker:
            workers.append(worker)
            assert worker.stdout is not None
            for line in worker.stdout:
                done, kind, outcome, took_s = json.loads(line)
                tried[kind, outcome] += 1
                spent[kind] += took_s
                seed = done + 1
        if worker.returncode and not failed:
            failed.append(f"seed {seed}: {_ending(worker.returncode)}; again: scripts/fuzz --seed {seed} --inputs 1")
            for other in workers:
                other.terminate()

    threads = [threading.Thread(target=follow, args=(part,)) for part in parts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(f"{'kind':<14}{'tried':>8}{'refused':>9}{'valid':>7}{'seconds':>9}")
    for kind in ATTACKS:
        refused, valid = tried[kind, REFUSED], tried[kind, VALID]
        print(f"{kind:<14}{refused + valid:>8}{refused:>9}{valid:>7}{spent[kind]:>9.1f}")
    print(f"{sum(tried.values())} inputs in {time.monotonic() - began:.0f} s")
    for failure in failed:
        print(failure)
    return 1 if failed else 0


def _ending(code: int) -> str:
    if code == -signal.SIGALRM:
        return "it hung"
    return f"it killed its process, {signal.Signals(-code).name}" if code < 0 else "it failed, see above"


if __name__ == "__main__":
    main()
