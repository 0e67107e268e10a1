"""Swarm learning: who trains, who is drawn to aggregate, and that the model is that of averaging."""

import numpy as np
import pytest
from fakes import update

from fedsag_cli import events
from fedsag_cli.aggregators.fedavg import FedAvg
from fedsag_cli.errors import JobError, NotEnoughClients
from fedsag_cli.testing import FakeClients, FakePersistor
from fedsag_cli.workflows.run import Run
from fedsag_cli.workflows.scatter_and_gather import ScatterAndGather
from fedsag_cli.workflows.swarm import Swarm


def adds(number, steps):
    return lambda model: update(steps, w=model.params["w"] + np.float32(number))


def clients(**more):
    return FakeClients(**{"a": adds(1, 1), "b": adds(5, 3), "c": adds(0.1, 2)} | more)


def live(workflow, found=None, seed=3):
    run, told = Run(emit=lambda event: told.append(event), seed=seed), []
    workflow.run(found or clients(), run)
    return run.model.params["w"], [event for event in told if isinstance(event, events.RoundFinished)]


def swarm(**settings):
    return Swarm(FedAvg(), FakePersistor(w=np.array([1.0], np.float32)), **settings)


def drawn(rounds):
    return [each.aggregate["aggregator"] for each in rounds]


def test_the_model_has_the_bits_of_scatter_and_gather():
    averaged = ScatterAndGather(FedAvg(), FakePersistor(w=np.array([1.0], np.float32)), num_rounds=4)

    assert live(swarm(num_rounds=4))[0].tobytes() == live(averaged)[0].tobytes()


def test_only_train_clients_train():
    """1 + (1*1 + 5*3) / 4."""
    model, (only,) = live(swarm(num_rounds=1, train_clients=["b", "a"], aggr_clients=["c"]))

    assert (model.tolist(), only.sites, drawn([only])) == ([5.0], ["a", "b"], ["c"])


def test_who_is_drawn_is_of_the_seed_and_changes_from_round_to_round():
    def of(seed):
        return drawn(live(swarm(num_rounds=12, aggr_clients=["a", "c"]), seed=seed)[1])

    assert of(1) == of(1)
    assert of(1) != of(2)
    assert set(of(1)) == {"a", "c"}


def test_too_few_answers_end_the_run():
    fails = lambda model: None  # noqa: E731
    model, _ = live(swarm(num_rounds=1, min_responses_required=2), clients(a=fails))

    assert model.tolist() == pytest.approx([1 + (5 * 3 + 0.1 * 2) / 5])
    with pytest.raises(NotEnoughClients):
        live(swarm(num_rounds=1, min_responses_required=3), clients(a=fails))


@pytest.mark.parametrize("argument", ["train_clients", "aggr_clients"])
def test_a_name_that_no_client_has_is_named(argument):
    with pytest.raises(JobError, match=f"{argument}: there is no client 'd'"):
        live(swarm(**{argument: ["a", "d"]}))
