"""Sums, differences and casts, with numbers computed by hand, in every kind a value may have."""

import weakref

import numpy as np
import pytest
import torch

from fedsag_cli.errors import TensorError
from fedsag_cli.params import arithmetic, metrics, values
from fedsag_cli.params.means import WeightedSum

pytestmark = pytest.mark.usefixtures("one_thread")

PIECE = values.PIECE


def mean(*pairs):
    total = WeightedSum("w")
    for value, weight in pairs:
        total.add_product(value, weight)
    return total.mean()


@pytest.mark.parametrize("make", [torch.tensor, np.array], ids=["torch", "numpy"])
def test_the_mean_is_weighted(make):
    found = mean((make([1.0, 2.0]), 1.0), (make([4.0, 8.0]), 3.0))

    assert found.tolist() == [3.25, 6.5]


@pytest.mark.parametrize("size", [1, 7, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE + 3])
@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_the_mean_has_the_bits_of_multiply_then_add_then_times_the_reciprocal(size, kind):
    rng = np.random.default_rng(size)
    values = [(rng.standard_normal(size) * 10.0**k).astype(np.float32) for k in range(3)]
    steps = [16668.0, 333.0, 7919.0]
    expected = values[0] * np.float32(steps[0])
    for value, n_k in zip(values[1:], steps[1:], strict=True):
        expected = expected + value * np.float32(n_k)
    expected = expected * np.float32(1.0 / sum(steps))

    given = values if kind == "numpy" else [torch.from_numpy(value.copy()) for value in values]
    found = np.asarray(mean(*zip(given, steps, strict=True)))

    assert found.dtype == np.float32
    assert found.tobytes() == expected.tobytes()


def test_fusing_the_product_with_the_addition_would_give_other_bits():
    rng = np.random.default_rng(0)
    values = [torch.from_numpy(rng.standard_normal(10_000).astype(np.float32)) for _ in range(3)]
    steps = [16668.0, 333.0, 7919.0]
    fused = torch.zeros(10_000)
    for value, n_k in zip(values, steps, strict=True):
        fused.add_(value, alpha=n_k)
    fused *= 1.0 / sum(steps)
    divided = sum(value * n_k for value, n_k in zip(values, steps, strict=True)) / sum(steps)

    found = mean(*zip(values, steps, strict=True))

    assert (found != fused).float().mean() > 0.05
    assert (found != divided).float().mean() > 0.05


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_halves_are_summed_in_float32(dtype):
    """256 * 256 is beyond float16, and 1 beside 1000 is below bfloat16's eight bits."""
    big, one = torch.tensor([256.0, 1000.0], dtype=dtype), torch.tensor([1.0, 1.0], dtype=dtype)
    pairs = [(big, 256.0), *[(one, 1.0)] * 8]

    found = mean(*pairs)

    exact = (big.double() * 256 + 8) / 264
    assert found.dtype == dtype
    assert found.tolist() == exact.to(dtype).tolist()


def test_numpys_halves_are_summed_in_float32():
    found = mean((np.float16([60000]), 1000.0), (np.float16([50000]), 1000.0))

    assert found.dtype == np.float16
    assert found.tolist() == [np.float16(55000)]


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_floats_of_eight_bits_are_summed_in_float32(dtype):
    found = mean((torch.tensor([1.0, 4.0]).to(dtype), 3.0), (torch.tensor([2.0, 8.0]).to(dtype), 1.0))

    assert found.dtype == dtype
    assert found.float().tolist() == torch.tensor([1.25, 5.0]).to(dtype).float().tolist()


@pytest.mark.parametrize("make", [torch.tensor, np.array], ids=["torch", "numpy"])
def test_doubles_are_summed_in_double(make):
    one = make([1.0 + 2**-50]) if make is np.array else make([1.0 + 2**-50], dtype=torch.float64)

    assert mean((one, 1.0), (one, 3.0)).tolist() == [1.0 + 2**-50]


DTYPES = [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, np.uint8, np.int16, np.int32, np.int64]


def integers(values, dtype):
    return torch.tensor(values, dtype=dtype) if isinstance(dtype, torch.dtype) else np.array(values, dtype=dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_integers_are_rounded_half_to_even(dtype):
    found = mean((integers([1, 2, 3, 0, 120], dtype), 1.0), (integers([2, 3, 4, 1, 121], dtype), 1.0))

    assert found.dtype == dtype
    assert found.tolist() == [2, 2, 4, 0, 120]


def test_integers_above_what_float32_holds_are_summed_exactly():
    found = mean((torch.tensor([2**25 + 1]), 3.0), (torch.tensor([2**25 + 5]), 1.0))

    assert found.tolist() == [2**25 + 2]


@pytest.mark.parametrize("make", [torch.tensor, np.array], ids=["torch", "numpy"])
def test_bools_are_rounded_half_to_false(make):
    first, second = make([True, True, False, True]), make([True, False, False, False])

    assert mean((first, 1.0), (second, 1.0)).tolist() == [True, False, False, False]
    assert mean((first, 2.0), (second, 1.0)).tolist() == [True, True, False, True]


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (1.0, 4.0, 3.25),
        (1, 4, 3),
        (np.float32(1), np.float32(4), np.float32(3.25)),
        (np.int8(1), np.int8(4), np.int8(3)),
    ],
    ids=["float", "int", "numpy's float32", "numpy's int8"],
)
def test_numbers_come_back_as_numbers_of_their_kind(first, second, expected):
    found = mean((first, 1.0), (second, 3.0))

    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.bool_])
def test_an_array_without_axes_stays_an_array(dtype):
    found = mean((np.array(1, dtype=dtype), 1.0), (np.array(1, dtype=dtype), 3.0))

    assert type(found) is np.ndarray
    assert found.shape == ()
    assert found.dtype == dtype


def test_complex_numbers_are_averaged_as_they_are():
    assert mean((torch.tensor([1 + 2j]), 1.0), (torch.tensor([5 - 2j]), 3.0)).tolist() == [4 - 1j]
    assert mean((np.array([1 + 2j]), 1.0), (np.array([5 - 2j]), 3.0)).tolist() == [4 - 1j]


def test_empty_tensors_have_an_empty_mean():
    assert mean((torch.zeros(0, 3), 1.0), (torch.zeros(0, 3), 2.0)).shape == (0, 3)


@pytest.mark.parametrize("first", [torch.tensor([1.0, 2.0]), np.float32([1.0, 2.0])], ids=["torch", "numpy"])
@pytest.mark.parametrize(
    "second",
    [torch.tensor([4.0, 8.0]), np.float32([4.0, 8.0]), torch.tensor([4.0, 8.0], dtype=torch.bfloat16)],
    ids=["torch", "numpy", "bfloat16"],
)
def test_torch_and_numpy_may_meet_and_the_first_ones_kind_stays(first, second):
    found = mean((first, 1.0), (second, 3.0))

    assert type(found) is type(first)
    assert found.dtype == first.dtype
    assert found.tolist() == [3.25, 6.5]


def test_a_sum_leaves_what_it_adds_alone_and_keeps_none_of_it():
    first, second = torch.tensor([1.0, 2.0]), torch.tensor([4.0, 8.0])
    total = WeightedSum("w")
    total.add_product(first, 1.0)
    first.fill_(100)
    total.add_product(second, 3.0)

    assert total.mean().tolist() == [3.25, 6.5]
    assert second.tolist() == [4, 8]


@pytest.mark.parametrize("shape", [(3,), ()], ids=["a row", "a scalar"])
@pytest.mark.parametrize("wrap", [lambda array: array[...], torch.from_numpy], ids=["numpy", "torch"])
def test_the_memory_of_what_was_added_can_go_at_once(wrap, shape):
    """It is the mapping of a client's file: held to the end of the round, it would be one model more in memory."""
    array = np.ones(shape)
    memory, total = weakref.ref(array), WeightedSum("w")
    total.add_product(wrap(array), 1.0)
    del array

    assert memory() is None
    assert total.mean().tolist() == np.ones(shape).tolist()


def test_another_shape_is_refused_naming_the_key_and_the_sum_stands():
    total = WeightedSum("conv.weight")
    total.add_product(torch.ones(2), 1.0)

    with pytest.raises(TensorError, match=r"'conv.weight' has shape \[3\], others sent \[2\]"):
        total.add_product(torch.ones(3), 1.0)

    assert total.mean().tolist() == [1, 1]


def test_an_infinity_stays_in_its_place():
    found = mean((torch.tensor([float("inf"), 1.0]), 1.0), (torch.tensor([1.0, 3.0]), 1.0))

    assert found.tolist() == [float("inf"), 2.0]


# differences


def test_a_difference_is_taken_for_the_keys_of_both_in_the_order_received():
    received = {"b": torch.tensor([1.0]), "a": torch.tensor([5.0]), "gone": torch.zeros(1)}
    new = {"extra": torch.zeros(1), "a": torch.tensor([7.0]), "b": torch.tensor([0.5])}

    found = arithmetic.difference(new, received)

    assert [(name, value.tolist()) for name, value in found.items()] == [("b", [-0.5]), ("a", [2.0])]


@pytest.mark.parametrize("dtype", [*DTYPES, torch.bool, np.bool_], ids=str)
def test_a_difference_of_integers_is_int64_and_may_be_negative(dtype):
    found = arithmetic.difference({"n": integers([0, 1], dtype)}, {"n": integers([1, 0], dtype)})["n"]

    assert str(found.dtype).endswith("int64")
    assert found.tolist() == [-1, 1]


def test_a_difference_beyond_the_integers_own_range_does_not_wrap():
    found = arithmetic.difference({"n": np.int32([-(2**31)])}, {"n": np.int32([2**31 - 1])})["n"]

    assert found.tolist() == [-(2**32) + 1]


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.bfloat16, torch.float16, torch.float64])
def test_a_difference_put_onto_what_it_was_taken_from_gives_the_new_value(dtype):
    new, base = torch.tensor([3.0, 0.5]).to(dtype), torch.tensor([1.0, 2.0]).to(dtype)

    back = arithmetic.applied({"w": base}, arithmetic.difference({"w": new}, {"w": base}))["w"]

    assert back.dtype == dtype
    assert back.double().tolist() == [3.0, 0.5]


def test_a_difference_of_a_parameter_has_no_gradient():
    found = arithmetic.difference({"w": torch.nn.Parameter(torch.ones(1))}, {"w": torch.zeros(1)})

    assert not found["w"].requires_grad


def test_a_difference_across_shapes_is_refused_naming_the_key():
    with pytest.raises(TensorError, match=r"'w' was received with shape \[1\] and is sent with \[2\]"):
        arithmetic.difference({"w": torch.zeros(2)}, {"w": torch.zeros(1)})


def test_applying_keeps_dtypes_and_the_keys_that_did_not_change():
    base = {"w": torch.tensor([1.0]), "n": torch.tensor(200, dtype=torch.uint8), "kept": np.array([3])}
    diff = {"n": torch.tensor(-190), "w": torch.tensor([0.5], dtype=torch.float64)}

    found = arithmetic.applied(base, diff)

    assert {name: (value.tolist(), str(value.dtype)) for name, value in found.items()} == {
        "w": ([1.5], "torch.float32"),
        "n": (10, "torch.uint8"),
        "kept": ([3], "int64"),
    }
    assert base["n"] == 200


def test_applying_a_key_the_model_has_not_is_refused_naming_it():
    with pytest.raises(TensorError, match="'v'"):
        arithmetic.applied({"w": torch.zeros(1)}, {"v": torch.zeros(1)})


def test_bytes_and_texts_have_no_difference_and_the_new_ones_take_the_place_of_the_old():
    base = {"tree": b"old", "about": "old", "w": torch.zeros(1)}
    new = {"tree": b"new", "about": "new", "w": torch.ones(1)}

    diff = arithmetic.difference(new, base)

    assert (diff["tree"], diff["about"]) == (b"new", "new")
    assert arithmetic.applied(base, diff) == new
    assert arithmetic.replaced(base, {"tree": b"new"}) == base | {"tree": b"new"}


@pytest.mark.parametrize("change", [arithmetic.applied, arithmetic.replaced])
@pytest.mark.parametrize(("old", "new"), [(b"old", "new"), (b"old", torch.ones(1)), (torch.ones(1), b"new")])
def test_bytes_take_the_place_of_bytes_alone(change, old, new):
    with pytest.raises(TensorError, match=f"'w' is {type(new).__name__}, the model has {type(old).__name__}"):
        change({"w": old}, {"w": new})


def test_applying_another_shape_is_refused():
    with pytest.raises(TensorError, match=r"\[2\].*\[1\]"):
        arithmetic.applied({"w": torch.zeros(1)}, {"w": torch.zeros(2)})


def test_replacing_keeps_kinds_dtypes_and_what_was_not_sent():
    base = {"w": torch.zeros(2, dtype=torch.float16), "n": np.array(7, dtype=np.int16), "kept": 5}
    new = {"n": torch.tensor(2.5), "w": np.array([1.0, 2.0])}

    found = arithmetic.replaced(base, new)

    assert list(found) == ["w", "n", "kept"]
    assert (found["w"].dtype, found["w"].tolist()) == (torch.float16, [1, 2])
    assert (type(found["n"]), found["n"].dtype, found["n"].tolist()) == (np.ndarray, np.int16, 2)
    assert found["kept"] == 5


def test_metrics_are_averaged_over_the_sites_that_measured_them():
    measured = {"a": {"accuracy": 0.5, "loss": 2.0}, "b": {"accuracy": 0.9}, "c": {}}

    found = metrics.weighted_means(measured, {"a": 1.0, "b": 3.0, "c": 100.0})

    assert found == pytest.approx({"accuracy": 0.8, "loss": 2.0})


def test_a_metric_of_sites_without_weight_has_no_mean():
    assert metrics.weighted_means({"a": {"loss": 1.0}}, {"a": 0.0}) == {}


def test_bfloat16_as_numpy_is_refused_naming_the_key_and_the_way_out():
    with pytest.raises(TensorError, match=r"'w'.*bfloat16") as caught:
        arithmetic.as_numpy("w", torch.zeros(1, dtype=torch.bfloat16))

    assert "params_exchange_format" in caught.value.hint
