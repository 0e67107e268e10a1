"""Separate training, with clients that answer at once: each has its own model, and measures it."""

import numpy as np
import pytest
from fakes import update

from fedsag_cli import events
from fedsag_cli.errors import JobError, NotEnoughClients
from fedsag_cli.model import FLModel
from fedsag_cli.testing import FakeClients, FakePersistor
from fedsag_cli.workflows.model_selector import IntimeModelSelector
from fedsag_cli.workflows.run import Run
from fedsag_cli.workflows.separate_training import SeparateTraining


def adds(change, kind="FULL"):
    """A client that adds `change` to w; its metric is the w that it received."""

    def train(model):
        w = model.params["w"]
        sent = np.array([change]) if kind == "DIFF" else w + change
        return update(2, {"accuracy": float(w[0])}, kind=kind, w=sent)

    return train


def measures(model):
    return FLModel(metrics={"accuracy": float(model.params["w"][0])})


class Story:
    def __init__(self, clients, run=None, persistor=None, **settings):
        self.told = []
        self.clients = clients
        self.persistor = persistor or FakePersistor(w=np.array([10.0]))
        self.run = run or Run(emit=self.told.append)
        self.run.emit = self.told.append
        SeparateTraining(self.persistor, IntimeModelSelector("accuracy"), **settings).run(clients, self.run)

    @property
    def params(self):
        return {name: float(value[0]) for name, value in self.run.model.params.items()}

    def of(self, kind):
        return [event for event in self.told if isinstance(event, kind)]


def test_each_client_trains_its_own_model_on_from_the_same_first_one():
    story = Story(FakeClients(a=adds(1.0), b=adds(5.0, "DIFF")), num_rounds=3)

    assert story.params == {"a/w": 13.0, "b/w": 25.0}
    assert story.clients.seen == [(site, number) for number in range(3) for site in "ab"]
    assert [each.metrics["accuracy"] for each in story.of(events.RoundFinished)] == [10.0, 13.0, 16.0]
    assert [each.by_site["b"]["accuracy"] for each in story.of(events.RoundFinished)] == [10.0, 15.0, 20.0]


def test_the_model_of_one_client_alone_is_the_jobs_own():
    story = Story(FakeClients(pooled=adds(1.0)), num_rounds=2)

    assert story.params == {"w": 12.0}
    assert [float(model.params["w"][0]) for model in story.persistor.saved] == [11.0, 12.0]


def test_each_client_measures_its_own_final_model():
    clients = FakeClients(a=adds(1.0), b=adds(5.0), validate={"a": measures, "b": measures})

    story = Story(clients, num_rounds=2)

    (validated,) = story.of(events.ModelValidated)
    assert validated.by_site == {"a": {"accuracy": 12.0}, "b": {"accuracy": 20.0}}
    assert validated.metrics == {"accuracy": 16.0}
    (best,) = story.of(events.BestModel)[-1:]
    assert (best.score, best.is_final) == (16.0, True)


def test_a_client_that_fails_keeps_its_model_and_does_not_measure_it():
    def fails_second(model):
        return None if model.current_round == 1 else adds(5.0)(model)

    clients = FakeClients(a=adds(1.0), b=fails_second, validate={"a": measures, "b": measures})

    story = Story(clients, num_rounds=2)

    assert story.params == {"a/w": 12.0, "b/w": 15.0}
    assert story.of(events.ModelValidated)[0].by_site == {"a": {"accuracy": 12.0}}


def test_a_round_in_which_nobody_trains_ends_the_run():
    with pytest.raises(NotEnoughClients, match="round 0 needs 1 answer"):
        Story(FakeClients(a=lambda model: None, b=lambda model: None))


def test_an_update_of_another_shape_counts_as_failed():
    story = Story(FakeClients(a=adds(1.0), b=lambda model: update(1, w=np.zeros(3))), num_rounds=1)

    assert story.params == {"a/w": 11.0, "b/w": 10.0}
    assert "shape" in story.clients.rejected["b"]


def test_of_drawn_clients_the_others_keep_their_models():
    story = Story(FakeClients(a=adds(1.0), b=adds(1.0), c=adds(1.0)), num_clients=1, num_rounds=3)

    assert sum(story.params.values()) == 33.0
    assert [len(each.sites) for each in story.of(events.RoundFinished)] == [1, 1, 1]


def test_a_first_model_without_params_gets_those_of_the_first_updates():
    def makes(model):
        return update(1, w=np.array([float(len(model.params or {}))]))

    story = Story(
        FakeClients(a=makes, b=makes), persistor=FakePersistor(), num_rounds=2, allow_empty_global_weights=True
    )

    assert story.params == {"a/w": 1.0, "b/w": 1.0}


def test_a_resumed_run_goes_on_with_the_model_of_each_client():
    models = FLModel(params={"a/w": np.array([11.0]), "b/w": np.array([15.0])})
    run = Run(emit=print, next_round=1, model=models)

    resumed = Story(FakeClients(a=adds(1.0), b=adds(5.0)), run=run, num_rounds=3)

    assert resumed.clients.seen == [("a", 1), ("b", 1), ("a", 2), ("b", 2)]
    assert resumed.params == {"a/w": 13.0, "b/w": 25.0}


def test_without_a_client_that_trains_there_is_nothing_to_do():
    with pytest.raises(JobError, match="no client takes the task 'other'"):
        Story(FakeClients(a=adds(1.0)), train_task_name="other")
