"""Power-of-choice: whom it draws, and from what it has heard."""

import numpy as np
import pytest

from fedsag_cli.aggregators.fedavg import FedAvg
from fedsag_cli.events import RoundFinished
from fedsag_cli.model import FLModel
from fedsag_cli.samplers.power_of_choice import PowerOfChoice
from fedsag_cli.testing import FakeClients, FakePersistor
from fedsag_cli.workflows.run import Run
from fedsag_cli.workflows.scatter_and_gather import ScatterAndGather

SITES = ["a", "b", "c", "d", "e"]


def finished(round_num, **measured):
    by_site = {site: {"accuracy": value} for site, value in measured.items()}
    return RoundFinished(
        round_num=round_num, sites=list(measured), metrics={}, by_site=by_site, wait_s=0, aggregate_s=0, save_s=0
    )


def drawn(sampler, count, *history, seed=0):
    return sorted(sampler.draw(SITES, count, history, np.random.default_rng(seed)))


def test_of_the_candidates_those_are_taken_for_whom_the_model_is_worst():
    history = [finished(0, a=0.9, b=0.1, c=0.5, d=0.7, e=0.3)]

    assert drawn(PowerOfChoice(num_candidates=5), 2, *history) == ["b", "e"]


def test_a_metric_may_be_better_if_it_is_smaller():
    history = [finished(0, a=0.9, b=0.1, c=0.5, d=0.7, e=0.3)]

    assert drawn(PowerOfChoice(num_candidates=5, negate_key_metric=True), 2, *history) == ["a", "d"]


def test_the_last_value_of_each_client_counts():
    history = [finished(0, a=0.1, b=0.2, c=0.5, d=0.6, e=0.7), finished(1, a=0.8, b=0.9)]

    assert drawn(PowerOfChoice(num_candidates=5), 2, *history) == ["c", "d"]


@pytest.mark.parametrize("value", [{}, {"c": None}])
def test_a_client_that_has_not_measured_anything_comes_first(value):
    history = [finished(0, a=0.1, b=0.2, d=0.3, e=0.4, **value)]

    assert drawn(PowerOfChoice(num_candidates=5), 1, *history) == ["c"]


def test_as_many_candidates_as_are_asked_are_a_random_draw():
    history = [finished(0, a=0.9, b=0.1, c=0.5, d=0.7, e=0.3)]

    draws = {tuple(drawn(PowerOfChoice(num_candidates=2), 2, *history, seed=seed)) for seed in range(200)}

    assert len(draws) == 10


def test_without_a_number_there_are_twice_as_many_candidates_as_are_asked():
    """Of two candidates the worse: the best of five is never taken, the worst with probability 2 / 5."""
    history = [finished(0, a=0.9, b=0.1, c=0.5, d=0.7, e=0.3)]

    draws = [drawn(PowerOfChoice(), 1, *history, seed=seed)[0] for seed in range(300)]

    assert set(draws) == {"b", "c", "d", "e"}
    assert 90 < draws.count("b") < 150


def test_a_workflow_tells_its_sampler_what_each_client_measured():
    """b's model is worst, and gets worse: it is drawn in each round after the first two, in which a and b are new."""

    def script(accuracy):
        return lambda model: FLModel(params=dict(model.params), metrics={"accuracy": accuracy})

    clients = FakeClients(a=script(0.9), b=script(0.1))
    workflow = ScatterAndGather(
        FedAvg(), FakePersistor(w=np.zeros(1)), sampler=PowerOfChoice(2), num_clients=1, num_rounds=5
    )
    workflow.run(clients, Run(emit=lambda event: None, seed=1))

    assert {site for site, round_num in clients.seen if round_num < 2} == {"a", "b"}
    assert [site for site, round_num in clients.seen if round_num >= 2] == ["b", "b", "b"]
