"""What a run is held against: the same work with nothing around it. A program: `floors.py WORK ARGUMENTS`.

loop CLIENTS ROUNDS PICTURES FILE        one process trains the clients one after the other and averages
nursery CLIENTS SLOTS ROUNDS PICTURES    one process has torch ready and forks the same trainings; nobody averages
crowd NET WORKERS PICTURES COHORTS FILE  forked workers train their share of each round's clients in place, and sum
copy ROUNDS                              256 MB go out, two processes add 1 and write, one folds; seconds by round
trip                                     one byte there and back between two processes; seconds
"""

from __future__ import annotations

import json
import mmap
import os
import socket
import statistics
import struct
import sys
import time
from pathlib import Path

_CODE = Path(__file__).parent / "code"
_TENSORS, _ELEMENTS = 16, 1 << 22
_BYTES = _TENSORS * _ELEMENTS * 4
_PIECE = 1 << 18


def loop(clients: int, rounds: int, pictures: int, file: str) -> None:
    import torch
    from net import Net
    from training import pictures as drawn
    from training import train

    torch.set_num_threads(1)
    data = [drawn(number, pictures) for number in range(1, clients + 1)]
    net = Net()
    model = {name: value.clone() for name, value in net.state_dict().items()}
    for _ in range(rounds):
        sums = {name: torch.zeros_like(value) for name, value in model.items()}
        weight = 0.0
        for images, labels in data:
            net.load_state_dict(model)
            steps = train(net, images, labels)
            for name, value in net.state_dict().items():
                sums[name] += value * steps
            weight += steps
        model = {name: value * (1.0 / weight) for name, value in sums.items()}
    torch.save({"model": model}, file)


def nursery(clients: int, slots: int, rounds: int, pictures: int) -> None:
    import torch
    import torch._dynamo

    running = 0
    for number in range(1, clients + 1):
        if running == slots:
            os.wait()
            running -= 1
        running += 1
        if os.fork() == 0:
            _train_alone(torch, number, rounds, pictures)
            os._exit(0)
    for _ in range(running):
        os.wait()
    os._exit(0)


def _train_alone(torch, number: int, rounds: int, pictures: int) -> None:
    from net import Net
    from training import pictures as drawn
    from training import train

    torch.set_num_threads(1)
    images, labels = drawn(number, pictures)
    net = Net()
    for _ in range(rounds):
        train(net, images, labels)


def crowd(name: str, workers: int, pictures: int, cohorts_file: str, file: str) -> None:
    """The least that many clients can cost: nothing is sent, for all sums lie in memory that the processes share."""
    import net as nets
    import torch
    import torch._dynamo
    from torch.nn.utils import parameters_to_vector, vector_to_parameters
    from training import round_ended

    torch.set_num_threads(1)
    cohorts = json.loads(Path(cohorts_file).read_text())
    net = getattr(nets, name)()
    model = _shared(torch, sum(parameter.numel() for parameter in net.parameters()))
    model.copy_(parameters_to_vector(net.parameters()).detach())
    sums = [_shared(torch, len(model)) for _ in range(workers)]
    channels = []
    for worker, total in enumerate(sums):
        ours, theirs = socket.socketpair()
        if os.fork() == 0:
            ours.close()
            _train_share(net, model, total, [each[worker::workers] for each in cohorts], pictures, theirs)
            os._exit(0)
        theirs.close()
        channels.append(ours)
    for _ in cohorts:
        for channel in channels:
            channel.send(b"t")
        weight = sum(struct.unpack("d", channel.recv(8))[0] for channel in channels)
        torch.sum(torch.stack(sums), 0, out=model).div_(weight)
        round_ended()
    vector_to_parameters(model, net.parameters())
    torch.save({"model": net.state_dict()}, file)
    for _ in channels:
        os.wait()
    os._exit(0)


def _train_share(net, model, total, shares: list[list[int]], pictures: int, channel: socket.socket) -> None:
    from training import pictures as drawn
    from training import train

    def pieces(vector):
        return vector.split([parameter.numel() for parameter in net.parameters()])

    for share in shares:
        channel.recv(1)
        total.zero_()
        weight = 0.0
        for number in share:
            for parameter, piece in zip(net.parameters(), pieces(model), strict=True):
                parameter.data.copy_(piece.view_as(parameter))
            steps = train(net, *drawn(number, pictures))
            for parameter, piece in zip(net.parameters(), pieces(total), strict=True):
                piece.add_(parameter.data.view(-1), alpha=steps)
            weight += steps
        channel.send(struct.pack("d", weight))


def _shared(torch, count: int):
    """float32 [count] that processes forked from here on share."""
    return torch.frombuffer(mmap.mmap(-1, 4 * count), dtype=torch.float32)


def copy(rounds: int) -> None:
    """The least a round of two clients with 256 MB can be: publish once; each adds and writes; each is folded."""
    import torch

    torch.set_num_threads(1)
    published = torch.zeros(_BYTES // 4)
    channels = [_adder(torch) for _ in range(2)]
    took = []
    for _ in range(rounds):
        began = time.perf_counter()
        file = os.memfd_create("published")
        _write_all(file, published.numpy().view("u1").data)
        for channel in channels:
            socket.send_fds(channel, [b"t"], [file])
        total, scratch = torch.zeros(_BYTES // 4), torch.empty(_PIECE)
        for channel in channels:
            _, (answer, *_), _, _ = socket.recv_fds(channel, 1, 1)
            update = _mapped(torch, answer)
            for start in range(0, len(total), _PIECE):
                torch.mul(update[start : start + _PIECE], 0.5, out=scratch)
                total[start : start + _PIECE] += scratch
            os.close(answer)
        os.close(file)
        published = total
        took.append(time.perf_counter() - began)
    print(*took, flush=True)
    os._exit(0)


def _adder(torch) -> socket.socket:
    """A process that gets a file, adds 1 to all that is in it, and answers with a file."""
    ours, theirs = socket.socketpair()
    if os.fork():
        theirs.close()
        return ours
    ours.close()
    while True:
        word, files, _, _ = socket.recv_fds(theirs, 1, 1)
        if not word:
            os._exit(0)
        changed = [part + 1 for part in _mapped(torch, files[0]).split(_ELEMENTS)]
        answer = os.memfd_create("answer")
        for part in changed:
            _write_all(answer, part.numpy().view("u1").data)
        socket.send_fds(theirs, [b"a"], [answer])
        os.close(answer)
        os.close(files[0])


def _mapped(torch, file: int):
    memory = mmap.mmap(file, _BYTES, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    return torch.frombuffer(memory, dtype=torch.float32)


def _write_all(file: int, data: memoryview) -> None:
    while data:
        data = data[os.write(file, data) :]


def trip() -> None:
    ours, theirs = socket.socketpair()
    if os.fork() == 0:
        ours.close()
        while word := theirs.recv(1):
            theirs.send(word)
        os._exit(0)
    theirs.close()
    took = []
    for _ in range(2000):
        began = time.perf_counter()
        ours.send(b"t")
        ours.recv(1)
        took.append(time.perf_counter() - began)
    print(statistics.median(took), flush=True)
    os._exit(0)


if __name__ == "__main__":
    sys.path.insert(0, str(_CODE))
    works = {"loop": loop, "nursery": nursery, "crowd": crowd, "copy": copy, "trip": trip}
    works[sys.argv[1]](*(int(word) if word.isdigit() else word for word in sys.argv[2:]))
