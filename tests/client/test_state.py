"""`flare.state`: what a site keeps from task to task goes along with its answers, and comes back with a task."""

import copy

import numpy as np
import pytest

import fedsag_cli.client as flare
from fedsag_cli.errors import ClientError, TensorError
from fedsag_cli.params.tensor_file import TensorFile
from fedsag_cli.plan import FilterSpec

pytestmark = pytest.mark.usefixtures("fresh_process")


@pytest.fixture
def server(serving):
    server = serving()
    flare.init()
    return server


def task(server, round_num, state=None):
    """The next task; what came with it."""
    server.give({"w": np.ones(1)}, round_num=round_num, state=state)
    return flare.receive()


def answer(server):
    """Send an answer; what went along as the script's part, None if nothing did."""
    flare.send(flare.FLModel(params={"w": np.ones(1)}))
    server.answer()
    return None if server.state is None else server.state.tree("flare.state")


def file_of(**kept):
    return TensorFile.write({}, trees={"flare.state": kept, "filters": {}})


def test_it_goes_along_with_the_answer_and_is_there_at_the_next_task(server):
    task(server, 0)
    flare.state["momentum"] = {"w": np.array([0.5])}
    flare.state["rounds"] = 1

    sent = answer(server)
    task(server, 1)

    assert (sent["momentum"]["w"].tolist(), sent["rounds"]) == ([0.5], 1)
    assert (flare.state["momentum"]["w"].tolist(), flare.state["rounds"], len(flare.state)) == ([0.5], 1, 2)


def test_it_goes_along_only_if_a_bit_of_it_has_changed(server):
    task(server, 0)
    assert answer(server) is None
    task(server, 1)
    flare.state["w"] = np.array([0.0])
    assert answer(server) is not None
    task(server, 2)
    flare.state["w"] = np.array([0.0])
    assert answer(server) is None
    task(server, 3)
    flare.state["w"][0] = -0.0
    assert answer(server)["w"].tobytes() == np.array([-0.0]).tobytes()
    task(server, 4)
    flare.state.clear()
    assert answer(server) == {}


def test_nobody_who_changes_an_object_after_the_answer_changes_what_is_kept(server):
    """As a model whose state dict was put there does, when it loads the next weights."""
    weights = np.array([1.0])
    task(server, 0)
    flare.state["weights"] = weights
    answer(server)
    flare.state["weights"][0] = 6
    weights += 7

    task(server, 1)

    assert flare.state["weights"].tolist() == [1.0]


def test_what_comes_with_a_task_takes_its_place(server):
    task(server, 0)
    flare.state["n"] = 1
    answer(server)

    task(server, 1, state=file_of(n=0, before=True))

    assert dict(flare.state) == {"n": 0, "before": True}
    assert answer(server) is None


def test_before_the_first_task_it_waits_for_what_comes_with_that(server):
    server.give({"w": np.ones(1)}, state=file_of(n=5))

    assert flare.state.setdefault("n", 0) == 5
    flare.state["n"] += 1
    assert flare.is_running()
    flare.receive()

    assert answer(server) == {"n": 6}


def test_a_change_after_the_answer_is_an_error_and_reading_is_none(server):
    task(server, 0)
    flare.state["n"] = 1
    answer(server)

    with pytest.raises(ClientError, match=r"flare\.state was changed after the answer") as raised:
        flare.state["n"] = 2
    with pytest.raises(ClientError, match=r"flare\.state was changed after the answer"):
        del flare.state["n"]
    assert raised.value.hint == "change it before flare.send(), which sends it along"
    assert dict(flare.state) == {"n": 1}


def test_at_the_end_of_the_run_it_can_be_read(server):
    task(server, 0)
    flare.state["n"] = 1
    answer(server)
    server.end()

    assert not flare.is_running()
    assert flare.state["n"] == 1


def test_what_cannot_be_kept_is_named_by_its_path_and_the_task_stays_in_hand(server):
    task(server, 0)
    flare.state["a"] = [0, {"b": {1}}]

    with pytest.raises(TensorError, match=r"flare\.state\['a'\]\[1\]\['b'\] is a set, which cannot be kept or sent"):
        flare.send(flare.FLModel(params={"w": np.ones(1)}))
    flare.state["a"] = 1

    assert answer(server) == {"a": 1}


def test_after_an_answer_that_could_not_be_sent_it_is_as_the_script_left_it(server):
    task(server, 0)
    flare.state["n"] = 1
    with pytest.raises(TensorError, match="'w' is a set"):
        flare.send(flare.FLModel(params={"w": {1}}))
    flare.state["n"] += 1

    assert answer(server) == {"n": 2}


def test_before_init_and_in_other_ranks_it_says_what_to_do(serving):
    with pytest.raises(ClientError, match=r"flare\.state was used before flare\.init\(\)"):
        flare.state["n"] = 1
    assert repr(flare.state) == "SiteState()"
    serving()
    flare.init(rank=1)
    with pytest.raises(ClientError, match=r"only rank 0 has flare\.state, this is rank 1"):
        flare.state.get("n")


def test_another_object_in_its_place_is_an_error_that_says_how(server, monkeypatch):
    task(server, 0)
    monkeypatch.setattr(flare, "state", {"n": 1})

    with pytest.raises(ClientError, match=r"flare\.state was replaced by another object") as raised:
        flare.send(flare.FLModel(params={"w": np.ones(1)}))
    assert raised.value.hint == 'set its keys: flare.state["name"] = …'


def test_it_is_a_mapping_like_any_other(server):
    task(server, 0)
    flare.state.update(a=1, b=[2])

    assert "a" in flare.state
    assert list(flare.state) == ["a", "b"]
    assert flare.state.pop("a") == 1
    assert copy.deepcopy(dict(flare.state)) == {"b": [2]}
    assert repr(flare.state) == "SiteState({'b': [2]})"
    with pytest.raises(KeyError):
        flare.state["nobody"]


# what filters keep


FILTERS = """
class Counts:
    def process(self, model, exchange):
        exchange.state["times"] = exchange.state.get("times", 0) + 1
        return model


class Looks:
    def process(self, model, exchange):
        exchange.state.get("nothing")
        return model
"""


def test_what_the_sites_filters_keep_goes_along_apart_from_what_the_script_does(serving, tmp_path, monkeypatch):
    (tmp_path / "counting.py").write_text(FILTERS)
    monkeypatch.syspath_prepend(str(tmp_path))
    looks, counts = (FilterSpec(tasks=["train"], path=f"counting.{name}") for name in ("Looks", "Counts"))
    server = serving(task_data_filters=[looks, counts], task_result_filters=[counts])
    flare.init()
    task(server, 0)

    assert answer(server) == {}
    first = server.state.tree("filters")
    task(server, 1)
    flare.state["n"] = 1
    assert answer(server) == {"n": 1}

    assert first == {"task 1": {"times": 1}, "answer 0": {"times": 1}}
    assert server.state.tree("filters") == {"task 1": {"times": 2}, "answer 0": {"times": 2}}


def test_filters_that_keep_nothing_send_nothing_along(serving, tmp_path, monkeypatch):
    (tmp_path / "looking.py").write_text(FILTERS)
    monkeypatch.syspath_prepend(str(tmp_path))
    server = serving(task_result_filters=[FilterSpec(tasks=["train"], path="looking.Looks")])
    flare.init()
    task(server, 0)

    assert answer(server) is None
