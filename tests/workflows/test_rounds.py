"""The rounds that any workflow stands in, seen through workflows of a few lines."""

from dataclasses import replace

import numpy as np
import pytest
from fakes import update

from fedsag_cli import events
from fedsag_cli.errors import JobError, NotEnoughClients, TensorError
from fedsag_cli.model import FLModel
from fedsag_cli.params import seeds
from fedsag_cli.testing import FakeClients, FakePersistor
from fedsag_cli.workflows.model_selector import IntimeModelSelector
from fedsag_cli.workflows.rounds import Rounds
from fedsag_cli.workflows.run import Run


def adds(change, **metrics):
    return lambda model: update(1, metrics, w=model.params["w"] + np.float32(change))


def model_of(value):
    return FakePersistor(w=np.array([value], np.float32))


class Told(list):
    def of(self, kind):
        return [event for event in self if isinstance(event, kind)]


def live(clients, one_round, *, persistor=None, run=None, **settings):
    """A workflow that does `one_round(current)` in each round; what was told, and the run."""
    told = Told()
    run = run or Run(emit=told.append)
    run.emit = told.append
    rounds = Rounds(persistor or model_of(0.0), **settings)
    with rounds.begin(clients, run) as loop:
        for current in loop:
            one_round(current)
    return told, run


def takes_the_last(current):
    *_, last = current.broadcast("train")
    current.finish(last.model)


def relays(current):
    """Each client trains what the one before it sent."""
    model = current.model
    for site in ("a", "b"):
        for reply in current.broadcast("train", to=[site], model=model):
            model = replace(model, params=reply.model.params)
    current.finish(model)


def test_every_round_is_told_measured_and_kept():
    clients = FakeClients(a=adds(1, accuracy=0.5), b=adds(2, accuracy=0.7))

    told, run = live(clients, takes_the_last, num_rounds=3)

    assert [event.round_num for event in told.of(events.RoundStarted)] == [0, 1, 2]
    assert [event.sites for event in told.of(events.RoundStarted)] == [["a", "b"]] * 3
    assert [event.metrics for event in told.of(events.RoundFinished)] == [{"accuracy": 0.6}] * 3
    assert run.model.params["w"].tolist() == [6.0]


def test_a_round_with_several_broadcasts_is_told_once_and_counts_every_answer():
    told, run = live(FakeClients(a=adds(1), b=adds(2)), relays, num_rounds=2)

    assert len(told.of(events.RoundStarted)) == len(told.of(events.RoundFinished)) == 2
    assert [event.sites for event in told.of(events.RoundFinished)] == [["a", "b"]] * 2
    assert run.model.params["w"].tolist() == [6.0]


def test_an_update_that_is_a_difference_is_added_and_a_key_without_one_keeps_its_value():
    persistor = FakePersistor(w=np.array([1.0], np.float32), b=np.array([5.0], np.float32))

    _, run = live(
        FakeClients(a=lambda model: update(kind="DIFF", w=np.array([2.0], np.float32))),
        takes_the_last,
        persistor=persistor,
        num_rounds=2,
    )

    assert {name: value.tolist() for name, value in run.model.params.items()} == {"w": [5.0], "b": [5.0]}


@pytest.mark.parametrize("kind", ["FULL", "DIFF"])
@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"other": np.zeros(1)}, "'other', which is not in the model"),
        ({"w": np.zeros(2)}, r"'w' has .*\[2\].*\[1\]"),
        ({"w": np.zeros(())}, r"'w' has .*\[\].*\[1\]"),
        ({"w": np.array([1j])}, "'w'.* complex"),
    ],
    ids=["another key", "another shape", "no axes", "complex"],
)
def test_a_round_cannot_be_finished_with_what_the_model_has_no_place_for(kind, params, said):
    with pytest.raises(TensorError, match=said):
        live(FakeClients(a=adds(1)), lambda current: current.finish(update(kind=kind, **params)))


def test_a_model_without_params_gets_those_of_the_first_update():
    _, run = live(
        FakeClients(a=lambda model: update(1, w=np.ones(1))),
        takes_the_last,
        persistor=FakePersistor(),
        allow_empty_model=True,
        num_rounds=2,
    )

    assert run.model.params["w"].tolist() == [1.0]


def test_what_a_workflow_rejects_is_not_measured():
    def rejects_a(current):
        for reply in current.broadcast("train"):
            if reply.site == "a":
                current.reject(reply, "not this one")
        current.finish(update(w=current.model.params["w"]))

    told, _ = live(FakeClients(a=adds(1, accuracy=1.0), b=adds(1, accuracy=0.0)), rejects_a, num_rounds=1)

    (finished,) = told.of(events.RoundFinished)
    assert finished.sites == ["b"]
    assert finished.metrics == {"accuracy": 0.0}


def test_a_task_inside_another_counts_for_the_round_too_and_each_rejects_its_own_replies():
    def nests(current):
        with current.ask("train", to=["a"]) as outer:
            for reply in outer:
                with current.ask("train", to=["b"], model=reply.model) as inner:
                    for other in inner:
                        inner.reject(other, "not this one")
        current.finish(reply.model)

    told, run = live(FakeClients(a=adds(1, accuracy=1.0), b=adds(1, accuracy=0.0)), nests, num_rounds=1)

    (finished,) = told.of(events.RoundFinished)
    assert (finished.sites, finished.metrics) == (["a"], {"accuracy": 1.0})
    assert run.model.params["w"].tolist() == [1.0]


def test_an_answer_without_params_is_rejected_and_the_quorum_counts_it_so():
    clients = FakeClients(a=lambda model: FLModel(metrics={"accuracy": 1.0}))

    with pytest.raises(NotEnoughClients):
        live(clients, lambda current: list(current.broadcast("train", min_responses=1)))

    assert "no params" in clients.rejected["a"]


def test_the_best_model_is_the_one_that_was_sent_and_that_of_round_0_does_not_count():
    scores = iter([0.9, 0.5, 0.7, 0.6])
    persistor = model_of(0.0)
    clients = FakeClients(a=lambda model: update(1, {"accuracy": next(scores)}, w=model.params["w"] + 1))

    _, run = live(
        clients,
        takes_the_last,
        persistor=persistor,
        model_selector=IntimeModelSelector("accuracy"),
        num_rounds=4,
    )

    assert (run.best.round_num, run.best.score) == (2, 0.7)
    assert [model.params["w"].tolist() for model in persistor.best] == [[1.0], [2.0]]


def test_a_second_workflow_begins_with_a_trained_model_which_counts():
    persistor = model_of(0.0)
    scores = iter([0.9, 0.5, 0.8, 0.6])
    clients = FakeClients(a=lambda model: update(1, {"accuracy": next(scores)}, w=model.params["w"] + 1))
    how = {"persistor": persistor, "model_selector": IntimeModelSelector("accuracy"), "num_rounds": 2}

    _, run = live(clients, takes_the_last, **how)
    assert run.enter(1)
    live(clients, takes_the_last, run=run, **how)

    assert (run.best.workflow, run.best.round_num, run.best.score) == (1, 0, 0.8)
    assert [model.params["w"].tolist() for model in persistor.best] == [[1.0], [2.0]]


def test_a_score_of_another_metric_is_no_measure_for_a_second_workflow():
    clients = FakeClients(a=adds(1, accuracy=90.0, loss=0.5))
    _, run = live(clients, takes_the_last, model_selector=IntimeModelSelector("accuracy"), num_rounds=2)
    assert run.enter(1)

    live(clients, takes_the_last, run=run, model_selector=IntimeModelSelector("loss"), num_rounds=1)

    assert (run.best.metric, run.best.score) == ("loss", 0.5)


def test_a_second_workflow_draws_other_numbers_on_the_server_and_the_first_those_it_always_drew():
    drawn = []

    def draws(current):
        drawn.append(np.random.rand())
        current.finish(update())

    _, run = live(FakeClients(), draws, run=Run(emit=print, seed=5), num_rounds=2)
    assert run.enter(1)
    live(FakeClients(), draws, run=run, num_rounds=2)

    np.random.seed(seeds.derived(5, "server", 0) % 2**32)
    assert drawn[0] == np.random.rand()
    assert len(set(drawn)) == 4


def test_a_workflow_that_finishes_a_round_twice_is_told_so():
    def twice(current):
        current.finish(FLModel(params={}))
        current.finish(FLModel(params={}))

    with pytest.raises(RuntimeError, match="round 0 was finished before"):
        live(FakeClients(a=adds(1)), twice)


def test_a_workflow_that_does_not_finish_a_round_is_told_so():
    with pytest.raises(RuntimeError, match="round 0 was not finished"):
        live(FakeClients(a=adds(1)), lambda current: list(current.broadcast("train")))


def test_a_round_in_which_nobody_was_asked_is_told_all_the_same():
    told, _ = live(FakeClients(a=adds(1)), lambda current: current.finish(update()), num_rounds=1)

    assert [event.sites for event in told.of(events.RoundStarted)] == [[]]
    assert len(told.of(events.RoundFinished)) == 1


def test_a_run_goes_on_with_the_round_after_the_last_complete_one():
    clients = FakeClients(a=adds(1))
    run = Run(emit=print, next_round=3, model=FLModel(params={"w": np.array([7.0], np.float32)}))

    _, run = live(clients, takes_the_last, run=run, num_rounds=5)

    assert clients.seen == [("a", 3), ("a", 4)]
    assert run.model.params["w"].tolist() == [9.0]


def test_a_persistor_without_params_is_an_error_unless_the_clients_may_bring_the_first_model():
    clients = FakeClients(a=lambda model: update(w=np.ones(1)))
    with pytest.raises(JobError, match="without params"):
        live(clients, takes_the_last, persistor=FakePersistor())

    _, run = live(clients, takes_the_last, persistor=FakePersistor(), num_rounds=1, allow_empty_model=True)

    assert run.model.params["w"].tolist() == [1.0]


@pytest.mark.parametrize(("every", "written"), [(1, [1, 2, 3, 4, 5]), (2, [2, 4, 5]), (0, [5])])
def test_the_model_is_written_every_so_many_rounds_and_after_the_last(every, written):
    persistor = model_of(0.0)

    live(FakeClients(a=adds(1)), takes_the_last, persistor=persistor, num_rounds=5, persist_every_n_rounds=every)

    assert [model.params["w"].item() for model in persistor.saved] == written


def test_a_model_that_cannot_be_written_ends_the_run_with_that_error():
    class Full(FakePersistor):
        def save(self, model):
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        live(FakeClients(a=adds(1)), takes_the_last, persistor=Full(w=np.zeros(1, np.float32)), num_rounds=1)


def test_those_drawn_depend_on_the_seed_and_the_round_and_keep_their_order():
    sites = [f"site-{number}" for number in range(1, 21)]
    drawn = {}
    for seed in (1, 1, 2):
        found = []

        def draws(current, found=found):
            found.append(current.draw(sites, 5))
            current.finish(update())

        live(FakeClients(), draws, run=Run(emit=print, seed=seed), num_rounds=2)
        drawn.setdefault(seed, []).append(found)

    assert drawn[1][0] == drawn[1][1] != drawn[2][0]
    assert drawn[1][0][0] != drawn[1][0][1]
    assert all(cohort == sorted(cohort, key=sites.index) and len(set(cohort)) == 5 for cohort in drawn[1][0])


def test_a_model_that_becomes_nan_is_told_once_with_its_round_and_key():
    """Infinity in round 1 comes from the workflow, not from an update; in round 2 it was there before."""

    def overflows(current):
        list(current.broadcast("train", allow_non_finite=True))
        params = {"w": np.full(3, np.inf if current.number else 1.0, np.float32), "name": "x"}
        current.finish(FLModel(params=params))

    told, _ = live(FakeClients(a=adds(1)), overflows, num_rounds=3, persistor=FakePersistor(w=np.ones(3), name="x"))

    notes = [note.text for note in told.of(events.Notice)]
    assert notes == ["round 1: the new model has 3 numbers in 'w' that are NaN or infinite"]
