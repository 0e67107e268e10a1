"""Processes that are one client together: rank 0 asks the server, the others go round as often as it does."""

import sys
import threading
import types

import pytest
from runs import run, torch_job

from fedsag_cli.client.ranks import Loop


class FakeStore:
    """A store of texts that its readers wait for; with `is_gone` it has died with the process that had it."""

    def __init__(self):
        self._values, self._news = {}, threading.Condition()
        self.is_gone = False

    def set(self, key, value):
        with self._news:
            self._values[key] = value
            self._news.notify_all()

    def wait(self, keys, timeout):
        with self._news:
            assert self._news.wait_for(lambda: self.is_gone or all(key in self._values for key in keys), 10)
        if self.is_gone:
            raise RuntimeError("connection reset")

    def get(self, key):
        return self._values[key]


@pytest.fixture
def store(monkeypatch):
    """This process as one of two in a group with this store."""
    store = FakeStore()
    module = types.SimpleNamespace(
        is_available=lambda: True,
        is_initialized=lambda: True,
        get_world_size=lambda: 2,
        distributed_c10d=types.SimpleNamespace(_get_default_store=lambda: store),
    )
    monkeypatch.setitem(sys.modules, "torch.distributed", module)
    return store


def nobody():
    raise AssertionError("rank 0 alone asks")


def test_the_others_go_round_as_often_as_rank_0(store):
    answers = iter([True, True, False])
    first, other = Loop("0"), Loop("1")

    assert [first.is_running(lambda: next(answers)) for _ in range(3)] == [True, True, False]
    assert [other.is_running(nobody) for _ in range(3)] == [True, True, False]


def test_the_others_wait_for_what_rank_0_learns(store):
    first, other, heard = Loop("0"), Loop("1"), []
    waiting = threading.Thread(target=lambda: heard.append(other.is_running(nobody)))
    waiting.start()
    waiting.join(0.05)
    assert heard == []

    first.is_running(lambda: True)
    waiting.join(10)
    assert heard == [True]


def test_rank_0_waits_for_nobody(store):
    assert Loop("0").is_running(lambda: True)


def test_where_the_store_is_gone_the_run_is_over(store):
    store.is_gone = True

    assert not Loop("1").is_running(nobody)


def test_a_rank_without_a_group_takes_part_in_nothing(monkeypatch):
    monkeypatch.delitem(sys.modules, "torch.distributed", raising=False)

    assert not Loop("1").is_running(nobody)
    assert Loop("0").is_running(lambda: True)


@pytest.mark.slow
def test_a_script_of_two_ranks_trains_one_model(tmp_path):
    """By NVFLARE's name, behind which are the same functions."""
    script = """
        import torch
        import torch.distributed as dist
        from net import Net
        from torch.nn.parallel import DistributedDataParallel

        import nvflare.client as flare

        dist.init_process_group("gloo")
        rank = dist.get_rank()
        net = Net()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
        flare.init(rank=f"{rank}")
        while flare.is_running():
            input_model = flare.receive()
            assert (input_model is None) == (rank > 0)
            if rank == 0:
                net.load_state_dict(input_model.params)
            both = DistributedDataParallel(net)
            optimizer.zero_grad()
            both(torch.full((1, 1), rank + 1.0)).sum().backward()  # the gradient is 1 in the one, 2 in the other
            optimizer.step()
            if rank == 0:
                flare.send(flare.FLModel(params=net.state_dict()))
        print(f"rank {rank} is through")
        dist.destroy_process_group()
    """
    net = """
        import torch

        class Net(torch.nn.Linear):
            def __init__(self):
                super().__init__(1, 1, bias=False)
                torch.nn.init.ones_(self.weight)
    """
    command = "python3 -m torch.distributed.run --standalone --nproc_per_node=2 custom/train.py"

    ran = run(torch_job(tmp_path / "job", script, net=net, command=command), "-n", 1)

    assert ran.code == 0, f"{ran}\n{ran.log('site-1')}"
    log = ran.log("site-1")
    assert "rank 0 is through" in log
    assert "rank 1 is through" in log
    import torch

    saved = torch.load(ran.workspace / "server/simulate_job/app_server/FL_global_model.pt", weights_only=True)
    assert saved["model"]["weight"].item() == 1 - 2 * 0.5 * 1.5  # two rounds, a rate of a half, the gradients' mean
    assert ran.left_alive == []
