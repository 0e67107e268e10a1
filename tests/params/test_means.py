"""Means at the ends of what a dtype holds: what nobody changed comes back to the bit, and nothing leaves its range."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from fedsag_cli.errors import TensorError
from fedsag_cli.params import arithmetic, metrics
from fedsag_cli.params.means import WeightedSum
from fedsag_cli.params.values import PIECE, bits, row

pytestmark = pytest.mark.usefixtures("one_thread")

INF, NAN = float("inf"), float("nan")
FLOATS = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e5m2, torch.float8_e4m3fn]
INTEGERS = [np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64]
WEIGHTS = [
    [1.0], [3.0], [500.0] * 8, [500.0, 501.0, 333.0], [0.1, 0.3], [1e-30] * 3, [1e300] * 3, [1e-300, 1e300, 1.0],
]  # fmt: skip


def mean(*pairs):
    total = WeightedSum("w")
    for value, weight in pairs:
        total.add_product(value, weight)
    return total.mean()


def ends(dtype):
    """NaN of two kinds, infinities, both ends, the smallest numbers, and zeros of both signs."""
    facts = torch.finfo(dtype)
    smallest = {torch.float64: 5e-324, torch.float32: 1e-45}.get(dtype, facts.tiny)
    found = [facts.max, facts.min, facts.tiny, smallest, 0.0, -0.0, NAN, -NAN]
    found += [] if dtype == torch.float8_e4m3fn else [INF, -INF]  # it has no infinity
    return torch.tensor(found, dtype=torch.float64).to(dtype)


def same_bits(found, expected):
    return found.dtype == expected.dtype and bits(row(found)).tolist() == bits(row(expected)).tolist()


@pytest.mark.parametrize("weights", WEIGHTS, ids=str)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_floats_that_no_site_changed_come_back_to_the_bit(dtype, weights):
    value = ends(dtype)

    assert same_bits(mean(*[(value.clone(), weight) for weight in weights]), value)


@pytest.mark.parametrize("weights", WEIGHTS, ids=str)
@pytest.mark.parametrize("dtype", INTEGERS, ids=lambda dtype: dtype.__name__)
def test_integers_that_no_site_changed_come_back(dtype, weights):
    facts = np.iinfo(dtype)
    value = np.array([facts.min, facts.max, facts.max - 1, 0, 1, min(facts.max, 2**53 + 1)], dtype=dtype)

    assert same_bits(mean(*[(value.copy(), weight) for weight in weights]), value)
    assert same_bits(mean(*[(torch.from_numpy(value), weight) for weight in weights]), torch.from_numpy(value))


@pytest.mark.parametrize("dtype", [*FLOATS, *INTEGERS, np.bool_], ids=str)
def test_a_difference_of_what_did_not_change_is_zero_and_changes_no_bit(dtype):
    if isinstance(dtype, torch.dtype):
        value = ends(dtype)
    elif dtype is np.bool_:
        value = np.array([True, False])
    else:
        value = np.array([np.iinfo(dtype).min, np.iinfo(dtype).max], dtype=dtype)

    diff = arithmetic.difference({"w": value}, {"w": value})

    assert not row(diff["w"]).any()
    assert same_bits(arithmetic.applied({"w": value}, {"w": mean((diff["w"], 500.0), (diff["w"], 3.0))})["w"], value)


def test_complex_infinities_that_no_site_changed_come_back_to_the_bit():
    for value in (
        torch.tensor([complex(INF, 1), complex(-0.0, NAN)]),
        np.array([complex(1, -INF), complex(NAN, -0.0)]),
    ):
        assert same_bits(mean((value, 3.0), (value, 500.0)), value)
        diff = arithmetic.difference({"w": value}, {"w": value})
        assert same_bits(arithmetic.applied({"w": value}, diff)["w"], value)


@pytest.mark.parametrize("as_kind", [np.asarray, torch.from_numpy], ids=["numpy", "torch"])
@pytest.mark.parametrize("place", [0, PIECE - 1, PIECE, PIECE + 6])
def test_one_infinity_among_ordinary_floats_changes_none_of_their_bits(place, as_kind):
    rng = np.random.default_rng(place)
    plain = [rng.standard_normal(PIECE + 7).astype(np.float32) for _ in range(3)]
    masked = [value.copy() for value in plain]
    for value in masked:
        value[place] = -INF

    expected, found = (
        np.asarray(mean(*[(as_kind(value), 333.0 + k) for k, value in enumerate(values)])) for values in (plain, masked)
    )

    assert found[place] == -INF
    found[place] = expected[place]
    assert found.tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    ("values", "weights", "expected"),
    [
        ([3e38, 1e38], [500, 500], 2e38),
        ([-3e38, 3e38], [3, 1], -1.5e38),
        ([3e38, 0.0], [1, 3], 7.5e37),
        ([1.0, 3e38], [500, 500], 1.5e38),  # the first piece was ordinary
        ([-INF, 1.0], [1, 1], -INF),
        ([1.0, -INF], [1, 1], -INF),
        ([-INF, INF], [1, 1], NAN),
        ([NAN, 1.0], [1, 1], NAN),
        ([1.0, NAN, 2.0], [1, 1, 1], NAN),
        ([1.0, 3.0], [1e-45, 1e-45], 2.0),
        ([1.0, 3.0], [1e308, 1e308], 2.0),
        ([1.0, 3.0], [1e-200, 1e200], 3.0),
        ([3.0, 1.0], [1e200, 1e-200], 3.0),
        ([1e-45, 3e-45], [0.001, 0.001], 2 * 2.0**-149),  # 1.5 times the smallest number: half to even
    ],
)
def test_means_near_the_ends_are_right(values, weights, expected):
    for make in (np.float32, lambda value: torch.tensor(value, dtype=torch.float32)):
        found = mean(*[(make([value]), float(n_k)) for value, n_k in zip(values, weights, strict=True)])

        assert found.tolist() == pytest.approx([expected], rel=1e-6, abs=0, nan_ok=True)


def test_means_near_the_ends_of_float64_are_right():
    found = mean((np.array([1.7e308, 1.7e308, -1.7e308]), 500.0), (np.array([1.7e308, -1.7e308, 1e308]), 500.0))

    assert found.tolist() == pytest.approx([1.7e308, 0.0, -0.35e308])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("clients", [2, 5, 9])
def test_a_mean_of_the_largest_numbers_is_the_largest(dtype, clients):
    largest = torch.tensor([torch.finfo(dtype).max, torch.finfo(dtype).min], dtype=dtype)

    assert mean(*[(largest, 500.0 + k) for k in range(clients)]).tolist() == largest.tolist()


@pytest.mark.parametrize(
    ("values", "weights", "expected"),
    [
        ([2**60 + 1, 2**60 + 3], [1, 1], 2**60 + 2),
        ([2**60 + 1, 2**60 + 4], [1, 1], 2**60 + 2),  # 2.5: half to even
        ([2**60 + 1, 2**60 + 4], [1, 2], 2**60 + 3),
        ([2**63 - 1, -(2**63)], [1, 1], 0),  # -0.5: half to even
        ([2**63 - 1, -(2**63)], [500, 501], -(2**62) // 250 - 2**61 // 62750 - 1),
        ([5, 2**60 + 1], [1, 1], 2**59 + 3),
        ([2**60 + 1, 5], [0.25, 0.75], 2**58 + 4),
    ],
)
def test_means_of_large_integers_are_exact(values, weights, expected):
    exact = sum(Fraction(n_k) * value for value, n_k in zip(values, weights, strict=True)) / sum(map(Fraction, weights))
    found = mean(*[(np.array([value]), float(n_k)) for value, n_k in zip(values, weights, strict=True)])

    assert found.tolist() == [round(exact)]
    if weights != [500, 501]:
        assert found.tolist() == [expected]


def test_the_largest_unsigned_integers_are_averaged_exactly():
    assert mean((np.array([2**64 - 1], np.uint64), 1.0), (np.array([2**64 - 5], np.uint64), 1.0)) == 2**64 - 3


floats = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(st.lists(st.tuples(floats, st.floats(1e-300, 1e300)), min_size=1, max_size=6))
@example([(0.0, 1.0), (1.8446744073709552e19, 7.482888383134223e50)])
def test_no_mean_of_floats_leaves_what_was_averaged(pairs):
    found = mean(*[(np.float32([value]), weight) for value, weight in pairs])[0]

    low, high = min(pairs)[0], max(pairs)[0]
    room = 8 * max(np.spacing(np.float32(max(abs(low), abs(high)))), 1e-44)
    assert np.isfinite(found)
    assert low - room <= float(found) <= high + room


@given(st.lists(st.tuples(st.integers(-(2**63), 2**63 - 1), st.integers(1, 10**6)), min_size=1, max_size=6))
@example([(0, 3883), (5, 3883)])
def test_every_mean_of_integers_is_the_exact_one(pairs):
    exact = Fraction(sum(value * weight for value, weight in pairs), sum(weight for _, weight in pairs))
    found = mean(*[(np.array([value, 7]), float(weight)) for value, weight in pairs])

    assert found.tolist() == [round(exact), 7]


@pytest.mark.parametrize(
    ("first", "second", "expected", "dtype"),
    [
        (np.int8([5]), np.array([1000]), 502, "int64"),
        (np.float16([5]), np.float32([1e6]), 500002.5, "float32"),
        (np.float32([5]), np.array([1e300]), 5e299, "float64"),
        (torch.tensor([5.0], dtype=torch.bfloat16), torch.tensor([5.5], dtype=torch.float16), 5.25, "float32"),
    ],
)
def test_sites_of_two_dtypes_have_a_mean_in_the_wider_one(first, second, expected, dtype):
    found = mean((first, 1.0), (second, 1.0))

    assert found.tolist() == [expected]
    assert str(found.dtype).removeprefix("torch.") == dtype


def test_another_kind_of_number_is_refused_naming_the_key():
    total = WeightedSum("conv.weight")
    total.add_product(np.float32([1]), 1.0)

    with pytest.raises(TensorError, match=r"'conv.weight' is integer, but float in another update"):
        total.add_product(np.array([1]), 1.0)


# differences


def test_halves_whose_difference_overflows_are_subtracted_in_a_wider_dtype():
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        low, high = (torch.tensor([end, 1.0], dtype=dtype) for end in (torch.finfo(dtype).min, torch.finfo(dtype).max))

        diff = arithmetic.difference({"w": high}, {"w": low})["w"]

        assert diff.isfinite().all()
        assert same_bits(arithmetic.applied({"w": low}, {"w": diff})["w"], high)


@pytest.mark.parametrize(
    ("base", "diff", "expected"),
    [
        (np.uint8([250, 5, 7]), np.array([10, -9, 0]), [255, 0, 7]),
        (np.array([2**63 - 2, -(2**63)]), np.array([5, -1]), [2**63 - 1, -(2**63)]),
        (np.array([2**64 - 2, 3], np.uint64), np.array([5, -4]), [2**64 - 1, 0]),
        (np.array([True, False]), np.array([1, -1]), [True, False]),
        (np.float32([3e38, -3e38]), np.float32([3e38, -3e38]), [np.finfo(np.float32).max, np.finfo(np.float32).min]),
        (np.float16([60000]), np.float16([10000]), [65504]),
        (np.array([2**60 + 1, 2]), np.array([0.0, 1.5]), [2**60 + 1, 4]),
        (np.float32([-INF, INF, NAN]), np.float32([NAN, 1.0, 5.0]), [-INF, INF, NAN]),
    ],
)
def test_what_a_difference_would_lead_beyond_a_dtype_stays_at_its_end(base, diff, expected):
    for as_kind in (np.asarray, torch.from_numpy):
        found = arithmetic.applied({"w": as_kind(base)}, {"w": as_kind(diff)})["w"]

        np.testing.assert_array_equal(np.asarray(found), np.array(expected, dtype=base.dtype))


def test_integers_beyond_a_dtype_become_its_end_and_nan_becomes_none():
    base = {"n": np.uint8([1, 1, 1])}

    assert arithmetic.replaced(base, {"n": np.array([300, -5, 7])})["n"].tolist() == [255, 0, 7]
    assert arithmetic.replaced(base, {"n": np.array([300.6, -5.2, 6.5])})["n"].tolist() == [255, 0, 6]
    with pytest.raises(TensorError, match=r"'n'.*NaN"):
        arithmetic.replaced(base, {"n": np.array([NAN, 1, 1])})


def test_a_change_of_an_infinity_is_not_lost_in_its_difference():
    received = {"w": np.float32([-INF, INF, NAN, -INF])}

    found = arithmetic.difference({"w": np.float32([0, 0, 0, -INF])}, received)["w"]

    assert found.tolist() == [INF, -INF, INF, 0]
    assert arithmetic.count_lost(found, received["w"]) == 3


@given(st.lists(st.tuples(floats, st.floats(0, 1e6)), min_size=1, max_size=5))
def test_no_mean_of_metrics_leaves_what_was_measured(pairs):
    found = metrics.weighted_mean(pairs)

    measured = [value for value, weight in pairs if weight]
    assert found is None if not measured else min(measured) <= found <= max(measured)


def test_a_metric_that_all_sites_measured_alike_is_that_metric():
    """0.7 * 3 + 0.7 * 4 is not 0.7 * 7."""
    assert metrics.weighted_means({"a": {"m": 0.7}, "b": {"m": 0.7}}, {"a": 3.0, "b": 4.0}) == {"m": 0.7}
