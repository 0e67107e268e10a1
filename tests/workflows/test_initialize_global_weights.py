"""Whose weights become the first global model."""

import numpy as np
import pytest
from fakes import update

from fedsag_cli.aggregators.fedavg import FedAvg
from fedsag_cli.errors import JobError, NotEnoughClients, RunError
from fedsag_cli.model import FLModel
from fedsag_cli.testing import FakeClients, FakePersistor
from fedsag_cli.workflows.initialize_global_weights import InitializeGlobalWeights
from fedsag_cli.workflows.run import Run
from fedsag_cli.workflows.scatter_and_gather import ScatterAndGather


def has(value):
    return lambda model: FLModel(params={"w": np.array([value], np.float32)})


def fails(model):
    return None


def first_model(clients, **settings):
    run = Run(emit=lambda event: None)
    InitializeGlobalWeights(**settings).run(clients, run)
    return run.model.params["w"].tolist()


def clients(**scripts):
    return FakeClients(tasks={"get_weights": scripts})


def test_the_weights_are_those_of_the_first_site_whoever_is_fastest():
    assert first_model(clients(a=has(4.0), b=has(5.0))) == [4.0]


def test_the_weights_are_those_of_the_client_that_is_named():
    three = clients(a=has(4.0), b=has(5.0), c=has(6.0))

    assert first_model(three, weight_method="client", weights_client_name="b") == [5.0]


def test_of_named_clients_only_they_are_asked():
    assert first_model(clients(a=has(4.0), b=has(5.0), c=has(6.0)), weights_client_name=["c", "b"]) == [5.0]


def test_all_must_answer_unless_fewer_are_enough():
    with pytest.raises(NotEnoughClients):
        first_model(clients(a=fails, b=has(5.0)))

    assert first_model(clients(a=fails, b=has(5.0)), min_responses_required=1) == [5.0]


@pytest.mark.parametrize("answer", [FLModel(metrics={"x": 1.0}), FLModel(params={}), update(w=1.0, kind="DIFF")])
def test_an_answer_without_weights_is_a_failure(answer):
    assert first_model(clients(a=lambda model: answer, b=has(5.0)), min_responses_required=1) == [5.0]


def test_the_workflow_after_it_starts_from_these_weights_and_not_from_its_persistors():
    """4 + 1 + 1: the persistor's 100 is not used."""
    two = FakeClients(
        tasks={"get_weights": {"a": has(4.0)}}, a=lambda model: update(1, w=model.params["w"] + np.float32(1))
    )
    run = Run(emit=lambda event: None, workflows=["init", "train"])

    InitializeGlobalWeights().run(two, run)
    run.enter(1)
    ScatterAndGather(FedAvg(), FakePersistor(w=np.array([100.0], np.float32)), num_rounds=2).run(two, run)

    assert run.model.params["w"].tolist() == [6.0]


def test_errors_name_what_is_wrong_and_what_there_is():
    with pytest.raises(JobError, match="weight_method 'client' needs weights_client_name"):
        InitializeGlobalWeights(weight_method="client")
    with pytest.raises(JobError, match="weight_method must be 'first' or 'client', not 'mean'"):
        InitializeGlobalWeights(weight_method="mean")
    with pytest.raises(JobError, match="'site-2' is no client that takes the task 'get_weights'") as wrong:
        first_model(clients(**{"site-1": has(1.0)}), weights_client_name="site-2")
    assert wrong.value.hint == "known: site-1"
    with pytest.raises(RunError, match="no client sent weights"):
        first_model(clients())


def test_without_a_round_after_it_the_trained_model_is_that_of_the_workflow_before():
    run = Run(emit=lambda event: None)
    nine = update(1, w=np.array([9.0], np.float32))
    site = FakeClients(tasks={"get_weights": {"a": has(4.0)}}, a=lambda model: nine)
    ScatterAndGather(FedAvg(), FakePersistor(w=np.zeros(1, np.float32)), num_rounds=1).run(site, run)

    run.enter(1)
    InitializeGlobalWeights().run(site, run)

    assert run.model.params["w"].tolist() == [4.0]
    assert run.trained.params["w"].tolist() == [9.0]
