"""FedBuff, with trainings whose lengths are given, and with those that it draws."""

import copy
import math

import numpy as np
import pytest
from fakes import update

from fedsag_cli.aggregators.fedavg import FedAvg
from fedsag_cli.errors import JobError, NotEnoughClients
from fedsag_cli.events import RoundFinished, RoundStarted
from fedsag_cli.testing import FakeClients, FakePersistor
from fedsag_cli.workflows.fedbuff import FedBuff
from fedsag_cli.workflows.run import Run


class Lengths:
    """Random numbers that are known: who is free is asked in site order, and trains for the next of these lengths."""

    def __init__(self, *lengths):
        self._left = list(lengths)

    def permutation(self, sites):
        return np.array(sites)

    def normal(self):
        return self._left.pop(0)


def adds(change, kind="FULL", **metrics):
    return lambda model: update(
        metrics=metrics, kind=kind, w=(model.params["w"] if kind == "FULL" else 0) + np.array([float(change)])
    )


def live(clients, *lengths, **how):
    """The last w, and what was told. With lengths, trainings take these."""
    told = []
    run = Run(emit=told.append, seed=7)
    if lengths:
        known = Lengths(*lengths)
        run.rng = lambda *_: known
    FedBuff(FedAvg(), FakePersistor(w=np.zeros(1)), **how).run(clients, run)
    return run.model.params["w"].item(), told


@pytest.mark.parametrize("kind", ["FULL", "DIFF"])
def test_an_update_of_an_older_model_counts_less(kind):
    """a is ready at 1, 2 and 3, b at 2.5: b's update is of the model of two rounds before."""
    clients = FakeClients(a=adds(1, kind), b=adds(10, kind))

    w, _ = live(clients, 1.0, 2.5, 1.0, -1.0, 9.0, buffer_size=1, num_rounds=3)

    assert clients.seen == [("a", 0), ("a", 1), ("b", 0)]
    assert w == pytest.approx(1 + 1 + 10 / math.sqrt(3))


def test_the_buffer_has_the_mean_of_its_updates():
    """a and b are ready at 1 and 2. c, asked at 1 to train the first model, and a, asked again at 2, are both at 3."""
    clients = FakeClients(a=adds(1), b=adds(5), c=adds(9))

    w, told = live(clients, 1.0, 2.0, 2.0, 1.0, 9.0, buffer_size=2, concurrency=2, num_rounds=2)

    first = (1 + 5) / 2
    assert clients.seen == [("a", 0), ("b", 0), ("c", 0), ("a", 1)]
    assert w == pytest.approx(first + (9 / math.sqrt(2) + 1) / 2)
    assert [event.sites for event in told if isinstance(event, RoundStarted)] == [["a", "b"], ["c", "a"]]
    assert [event.sites for event in told if isinstance(event, RoundFinished)] == [["a", "b"], ["c", "a"]]


def test_the_time_that_clients_train_is_time_that_the_server_waits(monkeypatch):
    """Each training takes 8 seconds of a clock that nothing else moves."""
    now = [0.0]
    monkeypatch.setattr("fedsag_cli.workflows.rounds.time.monotonic", lambda: now[0])

    def trains(model):
        now[0] += 8
        return adds(1)(model)

    _, told = live(FakeClients(a=trains, b=trains), buffer_size=2, num_rounds=2)

    times = [(event.wait_s, event.aggregate_s) for event in told if isinstance(event, RoundFinished)]
    assert times == [(16.0, 0.0), (16.0, 0.0)]


def test_a_client_that_fails_is_replaced_and_one_whose_update_does_not_fit_too():
    clients = FakeClients(a=lambda model: None, b=lambda model: update(), c=adds(4))

    w, _ = live(clients, 1.0, 1.0, 1.0, concurrency=1, buffer_size=1, num_rounds=1)

    assert w == 4.0
    assert clients.rejected == {"b": "its update has no params"}


def test_a_buffer_that_cannot_be_filled_ends_the_run():
    with pytest.raises(NotEnoughClients, match=r"round . needs 2 answers, but only 1 client"):
        live(FakeClients(a=lambda model: None, b=adds(1)), buffer_size=2)
    with pytest.raises(JobError, match="buffer_size is 3, and 1 clients"):
        live(FakeClients(a=adds(1)), buffer_size=3)


def test_an_aggregator_that_accounts_for_privacy_is_refused():
    """DPFedAvg divides by all clients at work, and counts each of them as asked once in a round."""
    pytest.importorskip("dp_accounting", reason="dp-accounting is not installed")
    from fedsag_cli.aggregators.dp_fedavg import DPFedAvg

    private = DPFedAvg(clip_norm=1.0, noise_multiplier=1.0)

    with pytest.raises(JobError, match="FedBuff cannot work with DPFedAvg"):
        FedBuff(private, FakePersistor(w=np.zeros(1)))


def test_a_run_that_is_resumed_ends_with_the_same_model_after_the_same_trainings():
    def clients():
        return FakeClients(**{site: adds(number) for number, site in enumerate("abcdef", start=1)})

    def workflow():
        return FedBuff(FedAvg(), FakePersistor(w=np.zeros(1)), buffer_size=2, concurrency=4, num_rounds=6)

    whole, saved = workflow(), []

    def save(event):
        if isinstance(event, RoundFinished) and event.round_num == 2:
            saved.append(copy.deepcopy((whole.state(), run.model, clients_of_all.seen)))

    run, clients_of_all = Run(emit=save, seed=3), clients()
    whole.run(clients_of_all, run)
    [(state, model, seen)] = saved
    resumed, clients_then, rest = workflow(), clients(), Run(emit=lambda event: None, seed=3, next_round=3, model=model)
    resumed.restore(state)
    resumed.run(clients_then, rest)

    assert rest.model.params["w"].item() == run.model.params["w"].item()
    assert clients_then.seen == clients_of_all.seen[len(seen) :]
    assert any(number < 3 for _, number in clients_then.seen), "some were at work when it was stopped"
