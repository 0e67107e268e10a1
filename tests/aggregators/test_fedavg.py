"""Federated averaging by hand-computed numbers. Every site sends something else: equal updates hide an order."""

import numpy as np
import pytest
import torch
from fakes import update

from fedsag_cli.aggregators.fedavg import FedAvg
from fedsag_cli.errors import JobError, TensorError
from fedsag_cli.model import ParamsType, Reply

pytestmark = pytest.mark.usefixtures("one_thread")


def averaged(aggregator, **updates):
    for site, sent in updates.items():
        aggregator.accept(Reply(site=site, model=sent))
    return {name: value.tolist() for name, value in aggregator.aggregate().params.items()}


def test_each_update_weighs_as_much_as_its_steps():
    found = averaged(FedAvg(), a=update(1, w=torch.tensor([1.0])), b=update(3, w=torch.tensor([9.0])))

    assert found == {"w": [7.0]}


def test_an_update_without_steps_weighs_one():
    assert averaged(FedAvg(), a=update(w=torch.tensor([1.0])), b=update(3, w=torch.tensor([9.0]))) == {"w": [7.0]}


def test_a_sites_weight_multiplies_its_steps():
    """(2*10*1 + 1*4*7) / (2*10 + 1*4) = 48 / 24."""
    found = averaged(
        FedAvg(aggregation_weights={"a": 2.0}), a=update(10, w=torch.tensor([1.0])), b=update(4, w=torch.tensor([7.0]))
    )

    assert found == {"w": [2.0]}


def test_without_weighing_by_steps_only_the_sites_weights_count():
    """(3*1 + 1*9) / 4, whatever the steps."""
    found = averaged(
        FedAvg(aggregation_weights={"a": 3.0}, weigh_by_local_iter=False),
        a=update(1000, w=torch.tensor([1.0])),
        b=update(5, w=torch.tensor([9.0])),
    )

    assert found == {"w": [3.0]}


def test_each_key_is_averaged_over_the_sites_that_sent_it():
    found = averaged(
        FedAvg(),
        a=update(1, w=torch.tensor([1.0]), alone=torch.tensor([5.0])),
        b=update(3, w=torch.tensor([9.0]), pair=torch.tensor([2.0])),
        c=update(5, pair=torch.tensor([10.0])),
    )

    assert found == {"w": [7.0], "alone": [5.0], "pair": [7.0]}


@pytest.mark.parametrize("kind", list(ParamsType))
def test_the_result_is_of_the_updates_kind(kind):
    aggregator = FedAvg()
    aggregator.accept(Reply(site="a", model=update(w=torch.tensor([1.0]), kind=kind)))

    assert aggregator.aggregate().params_type is kind


@pytest.mark.parametrize("first", ["FULL", "DIFF"])
def test_full_and_diff_cannot_be_mixed_and_the_first_stands(first):
    second = "DIFF" if first == "FULL" else "FULL"
    aggregator = FedAvg()
    aggregator.accept(Reply(site="a", model=update(w=torch.tensor([1.0]), kind=first)))

    with pytest.raises(TensorError, match="b sent"):
        aggregator.accept(Reply(site="b", model=update(w=torch.tensor([9.0]), kind=second)))

    assert aggregator.aggregate().params["w"].tolist() == [1.0]


def test_an_update_of_another_shape_is_refused_whole():
    """Its first key fits, and must not count either."""
    aggregator = FedAvg()
    aggregator.accept(Reply(site="a", model=update(1, v=torch.tensor([1.0]), w=torch.tensor([1.0]))))

    with pytest.raises(TensorError, match="'w'"):
        aggregator.accept(Reply(site="b", model=update(3, v=torch.tensor([9.0]), w=torch.tensor([9.0, 9.0]))))

    assert {name: value.tolist() for name, value in aggregator.aggregate().params.items()} == {"v": [1.0], "w": [1.0]}


def test_bytes_are_refused_unless_they_are_excluded():
    with pytest.raises(TensorError, match=r"'tree' is bytes .only an aggregator that has its own check"):
        averaged(FedAvg(), a=update(1, tree=b"x"))
    assert averaged(FedAvg(exclude_vars="tree"), a=update(1, w=torch.tensor([1.0]), tree=b"x")) == {"w": [1.0]}


def test_a_round_starts_from_nothing():
    aggregator = FedAvg()
    averaged(aggregator, a=update(5, w=torch.tensor([100.0]), old=torch.tensor([1.0])))

    assert averaged(aggregator, a=update(1, w=torch.tensor([3.0]), kind="DIFF")) == {"w": [3.0]}


def test_nothing_accepted_is_an_empty_aggregate():
    assert FedAvg().aggregate().params == {}


def test_an_update_of_no_steps_counts_nothing():
    found = averaged(FedAvg(), a=update(0, w=torch.tensor([100.0])), b=update(2, w=torch.tensor([3.0])))

    assert found == {"w": [3.0]}


def test_where_nobody_has_any_weight_nothing_comes_out():
    assert averaged(FedAvg({"b": 0.0}), a=update(0, w=torch.tensor([1.0])), b=update(9, w=torch.tensor([1.0]))) == {}


@pytest.mark.parametrize(
    ("excluded", "left"),
    [
        ("bias", ["fc.weight", "bn.weight"]),
        (r"^bn\.", ["fc.weight", "fc.bias"]),
        (["bias$", "bn"], ["fc.weight"]),
        ("weight|bias", []),
        ("", ["fc.weight", "fc.bias", "bn.weight", "bn.bias"]),
        (None, ["fc.weight", "fc.bias", "bn.weight", "bn.bias"]),
        ([], ["fc.weight", "fc.bias", "bn.weight", "bn.bias"]),
    ],
)
def test_excluded_keys_are_left_out(excluded, left):
    keys = ["fc.weight", "fc.bias", "bn.weight", "bn.bias"]
    sent = update(**{key: torch.tensor([float(place)]) for place, key in enumerate(keys)})

    assert list(averaged(FedAvg(exclude_vars=excluded), a=sent)) == left


def test_a_broken_expression_is_an_error_in_the_job():
    with pytest.raises(JobError, match="exclude_vars"):
        FedAvg(exclude_vars="(")


@pytest.mark.parametrize("steps", [-1, float("nan"), float("inf"), "many", [1], {}])
def test_steps_that_are_no_number_from_zero_on_are_refused_and_nothing_is_counted(steps):
    aggregator = FedAvg()
    aggregator.accept(Reply(site="a", model=update(2, w=torch.tensor([3.0]))))

    with pytest.raises(TensorError, match="NUM_STEPS_CURRENT_ROUND"):
        aggregator.accept(Reply(site="b", model=update(steps, w=torch.tensor([100.0]))))

    assert aggregator.aggregate().params["w"].tolist() == [3.0]


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf"), "heavy"])
def test_a_sites_weight_that_is_no_number_from_zero_on_is_an_error_in_the_job(weight):
    with pytest.raises(JobError, match=r"aggregation_weights.*site-1"):
        FedAvg(aggregation_weights={"site-1": weight})


def test_numpys_and_torchs_sites_may_be_mixed():
    found = averaged(
        FedAvg(),
        a=update(1, w=np.float32([1.0, 2.0])),
        b=update(3, w=torch.tensor([9.0, 2.0])),
        c=update(4, w=np.float32([3.0, 4.0])),
    )

    assert found == {"w": [5.0, 3.0]}


def test_three_sites_of_unequal_steps_have_the_bits_of_numpys_plain_sum():
    rng = np.random.default_rng(7)
    steps = {"a": 16668, "b": 333, "c": 7919}
    shapes = {"fc.weight": (300_001,), "fc.bias": (513, 513), "conv": (3, 5, 7)}
    sent = {site: {n: rng.standard_normal(shape).astype(np.float32) for n, shape in shapes.items()} for site in steps}
    expected = {}
    for name in shapes:
        total = sent["a"][name] * np.float32(steps["a"])
        total = total + sent["b"][name] * np.float32(steps["b"])
        total = total + sent["c"][name] * np.float32(steps["c"])
        expected[name] = total * np.float32(1 / sum(steps.values()))
    aggregator = FedAvg()

    for site, params in sent.items():
        aggregator.accept(
            Reply(site=site, model=update(steps[site], **{name: torch.from_numpy(v) for name, v in params.items()}))
        )
    found = aggregator.aggregate().params

    assert {name: value.numpy().tobytes() for name, value in found.items()} == {
        name: value.tobytes() for name, value in expected.items()
    }


def test_the_order_of_the_sites_is_part_of_the_bits():
    """Why replies are folded in site order: float addition does not care for the sum's algebra."""
    values = {"a": 1e8, "b": -1e8, "c": 1.0}
    updates = {site: update(1, w=torch.tensor([value])) for site, value in values.items()}

    assert averaged(FedAvg(), **updates) != averaged(FedAvg(), b=updates["b"], c=updates["c"], a=updates["a"])


def test_a_buffer_of_integers_keeps_its_dtype():
    aggregator = FedAvg()
    aggregator.accept(Reply(site="a", model=update(1, num_batches_tracked=torch.tensor(1))))
    aggregator.accept(Reply(site="b", model=update(1, num_batches_tracked=torch.tensor(2))))

    found = aggregator.aggregate().params["num_batches_tracked"]

    assert (found.item(), found.dtype, found.shape) == (2, torch.int64, ())
