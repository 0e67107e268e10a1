"""Cyclic weight transfer: who trains what, in which order, and what a failure does. Sums are computed by hand."""

import itertools

import numpy as np
import pytest
from fakes import update

from fedsag_cli import events
from fedsag_cli.errors import JobError, NotEnoughClients
from fedsag_cli.testing import FakeClients, FakePersistor
from fedsag_cli.workflows.cyclic import Cyclic
from fedsag_cli.workflows.run import Run

ABC = ("a", "b", "c")


def doubles_and_adds(number):
    """Not commutative: the result shows the order."""
    return lambda model: update(
        1, {"accuracy": float(model.params["w"][0])}, w=model.params["w"] * 2 + np.float32(number)
    )


def live(clients, *, start=1.0, run=None, **settings):
    told = []
    run = run or Run(emit=told.append)
    run.emit = told.append
    persistor = FakePersistor(w=np.array([start], np.float32))
    Cyclic(persistor, **settings).run(clients, run)
    return run, told


def orders(clients):
    """Who trained in each round, in order."""
    rounds = sorted({round_num for _, round_num in clients.seen})
    return ["".join(site for site, number in clients.seen if number == round_num) for round_num in rounds]


def test_each_client_trains_what_the_one_before_it_sent():
    """1 -> a: 2*1+1 = 3 -> b: 2*3+2 = 8 -> c: 2*8+3 = 19; then a: 39 -> b: 80 -> c: 163."""
    clients = FakeClients(a=doubles_and_adds(1), b=doubles_and_adds(2), c=doubles_and_adds(3))

    run, told = live(clients, num_rounds=2)

    assert run.model.params["w"].tolist() == [163.0]
    assert orders(clients) == ["abc", "abc"]
    finished = [event for event in told if isinstance(event, events.RoundFinished)]
    assert [event.sites for event in finished] == [["a", "b", "c"]] * 2
    assert [event.metrics for event in finished] == [{"accuracy": (1 + 3 + 8) / 3}, {"accuracy": (19 + 39 + 80) / 3}]


def test_a_change_is_added_to_the_model_that_the_client_got():
    """1 -> a: 1+10 = 11 -> b: 11-4 = 7."""
    clients = FakeClients(
        a=lambda model: update(1, kind="DIFF", w=np.array([10.0], np.float32)),
        b=lambda model: update(1, kind="DIFF", w=np.array([-4.0], np.float32)),
    )

    run, _ = live(clients, num_rounds=1)

    assert run.model.params["w"].tolist() == [7.0]


def test_the_start_of_a_round_tells_the_order():
    clients = FakeClients(a=doubles_and_adds(1), b=doubles_and_adds(2))

    _, told = live(clients, num_rounds=1, order=["b", "a"])

    assert [event.sites for event in told if isinstance(event, events.RoundStarted)] == [["b", "a"]]


def test_a_list_of_names_is_the_order_and_leaves_the_others_out():
    """1 -> c: 2*1+3 = 5 -> a: 2*5+1 = 11 -> c: 2*11+3 = 25."""
    clients = FakeClients(a=doubles_and_adds(1), b=doubles_and_adds(2), c=doubles_and_adds(3))

    run, told = live(clients, num_rounds=1, order=["c", "a", "c"])

    assert run.model.params["w"].tolist() == [25.0]
    assert orders(clients) == ["cac"]
    [started] = [event for event in told if isinstance(event, events.RoundStarted)]
    assert started.sites == ["c", "a"]


def test_a_random_order_is_of_the_seed_and_the_round_alone():
    def of(seed, num_rounds=8):
        clients = FakeClients(**dict.fromkeys(ABC, doubles_and_adds(0)))
        live(clients, num_rounds=num_rounds, order="RANDOM", run=Run(emit=print, seed=seed))
        return orders(clients)

    assert of(5) == of(5)
    assert of(5)[:3] == of(5, num_rounds=3)
    assert of(5) != of(6)
    assert len(set(of(5))) > 1
    assert all(sorted(order) == ["a", "b", "c"] for order in of(5))


def test_nobody_trains_twice_in_a_row_where_that_is_asked_for():
    def of(order, seed):
        clients = FakeClients(**dict.fromkeys(ABC, doubles_and_adds(0)))
        live(clients, num_rounds=20, order=order, run=Run(emit=print, seed=seed))
        return "".join(orders(clients))

    def repeats(visits):
        return sum(one == other for one, other in itertools.pairwise(visits))

    assert repeats(of("RANDOM", 1)) > 0
    assert [repeats(of("RANDOM_WITHOUT_SAME_IN_A_ROW", seed)) for seed in range(5)] == [0] * 5


def test_a_resumed_run_remembers_who_trained_last():
    def of(run):
        clients = FakeClients(**dict.fromkeys(ABC, doubles_and_adds(0)))
        live(clients, num_rounds=20, order="RANDOM_WITHOUT_SAME_IN_A_ROW", run=run)
        return orders(clients)

    whole = Run(emit=print, seed=1)
    of_all = of(whole)
    for done in range(1, 20):
        resumed = Run(emit=print, seed=1, next_round=done, history=whole.history[:done], model=whole.model)
        assert of(resumed) == of_all[done:]


def test_a_client_that_fails_is_passed_over():
    """1 -> a: 3 -> b fails -> c gets 3: 2*3+3 = 9."""
    clients = FakeClients(a=doubles_and_adds(1), b=lambda model: None, c=doubles_and_adds(3))

    run, told = live(clients, num_rounds=1)

    assert run.model.params["w"].tolist() == [9.0]
    assert [event.sites for event in told if isinstance(event, events.RoundFinished)] == [["a", "c"]]


def test_an_update_that_does_not_fit_is_a_failure():
    clients = FakeClients(a=doubles_and_adds(1), b=lambda model: update(1, w=np.zeros(7, np.float32)))

    run, _ = live(clients, num_rounds=1)

    assert run.model.params["w"].tolist() == [3.0]
    assert "shape" in clients.rejected["b"]


@pytest.mark.parametrize(("needed", "seen"), [(3, "ab"), (2, "abc"), (1000, "ab")])
def test_the_run_stops_as_soon_as_too_few_clients_of_a_round_can_train(needed, seen):
    clients = FakeClients(a=doubles_and_adds(1), b=lambda model: None, c=lambda model: None)

    with pytest.raises(NotEnoughClients):
        live(clients, num_rounds=1, min_clients=needed)

    assert orders(clients) == [seen]


def test_where_all_may_fail_but_one_one_is_enough():
    clients = FakeClients(a=lambda model: None, b=lambda model: None, c=doubles_and_adds(3))

    run, _ = live(clients, num_rounds=1, min_clients=1)

    assert run.model.params["w"].tolist() == [5.0]


def test_so_many_clients_are_drawn_in_each_round():
    clients = FakeClients(**dict.fromkeys("abcde", doubles_and_adds(0)))

    live(clients, num_rounds=10, num_clients=2, run=Run(emit=print, seed=2))

    assert {len(order) for order in orders(clients)} == {2}
    assert len(set(orders(clients))) > 1


def test_all_clients_of_the_last_round_measure_the_final_model():
    measures = lambda model: update(metrics={"accuracy": float(model.params["w"][0])})  # noqa: E731
    clients = FakeClients({"a": measures, "b": measures}, a=doubles_and_adds(1), b=doubles_and_adds(2))

    _, told = live(clients, num_rounds=1)

    (final,) = (event for event in told if isinstance(event, events.ModelValidated))
    assert final.by_site == {"a": {"accuracy": 8.0}, "b": {"accuracy": 8.0}}


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"order": "BACKWARDS"}, "order must be 'FIXED' or 'RANDOM' or .*, not 'BACKWARDS'"),
        ({"num_rounds": 0}, "num_rounds"),
    ],
)
def test_a_wrong_argument_is_named(settings, says):
    with pytest.raises(JobError, match=says):
        Cyclic(FakePersistor(), **settings)


def test_a_name_in_the_order_that_is_no_client_is_named_and_so_are_the_clients():
    with pytest.raises(JobError, match="order: 'site-3' is no client that takes the task 'train'") as wrong:
        live(FakeClients(**{"site-1": doubles_and_adds(1)}), order=["site-1", "site-3"])

    assert wrong.value.hint == "known: site-1"


def test_bytes_are_passed_on_from_client_to_client():
    """A model without params, to which each client adds a byte."""
    clients = FakeClients(
        **{site: lambda model, site=site: update(trees=model.params.get("trees", b"") + site.encode()) for site in "ab"}
    )
    run = Run(emit=[].append)

    Cyclic(FakePersistor(), num_rounds=2, allow_empty_global_weights=True).run(clients, run)

    assert run.model.params == {"trees": b"abab"}


@pytest.mark.parametrize("wrong", [{"trees": np.zeros(1)}, {"leaves": b"b"}])
def test_a_number_or_another_name_in_the_place_of_bytes_has_failed(wrong):
    clients = FakeClients(a=lambda model: update(trees=b"a"), b=lambda model: update(**wrong))
    run = Run(emit=[].append)

    Cyclic(FakePersistor(), num_rounds=1, allow_empty_global_weights=True).run(clients, run)

    assert list(clients.rejected) == ["b"]
    assert run.model.params == {"trees": b"a"}
