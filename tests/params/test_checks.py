"""What counts as an update of a model: keys, shapes, kinds of number, and finite numbers."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from fedsag_cli.errors import TensorError
from fedsag_cli.model import FLModel, ParamsType
from fedsag_cli.params import arithmetic, checks

NAN, INF = float("nan"), float("inf")


def full(**params):
    return FLModel(params=params)


def diff(**params):
    return FLModel(params=params, params_type=ParamsType.DIFF)


SENT = {"w": torch.zeros(2), "n": torch.tensor(3), "mask": torch.tensor([True, False]), "a": np.zeros((2, 2))}


@pytest.mark.parametrize(
    "update",
    [
        full(w=torch.ones(2)),
        full(w=torch.ones(2, dtype=torch.float64)),
        full(w=np.ones(2, dtype=np.float16)),
        full(n=torch.tensor(4, dtype=torch.int32), mask=torch.tensor([False, False])),
        diff(n=torch.tensor(1), mask=torch.tensor([-1, 0])),
        full(a=np.ones((2, 2), dtype=np.float32)),
        full(),
    ],
    ids=["same", "wider", "numpy's", "narrower", "difference", "array", "nothing"],
)
def test_what_fits_is_taken(update):
    checks.check(update, SENT)


@pytest.mark.parametrize(
    ("update", "said"),
    [
        (full(v=torch.ones(2)), "'v' was not in the model that was sent"),
        (full(w=torch.ones(3)), r"'w' has shape \[3\], the model that was sent has \[2\]"),
        (
            full(w=torch.ones(2, dtype=torch.int64)),
            "'w' is int64, the model that was sent has float32: integer numbers",
        ),
        (
            full(n=torch.tensor(0.5)),
            "'n' is float32, the model that was sent has int64: float numbers for integer ones",
        ),
        (full(w=np.ones(2, dtype=np.complex64)), "'w' is complex64"),
        (full(mask=torch.tensor([1, 0])), "'mask' is int64, the model that was sent has bool"),
        (full(w=torch.tensor([1.0, NAN])), "'w' has 1 numbers that are NaN or infinite"),
        (diff(w=torch.tensor([-INF, NAN])), "'w' has 2 numbers that are NaN or infinite"),
        (full(a=np.array([[1, 2], [INF, 4]])), "'a' has 1 numbers"),
    ],
)
def test_what_does_not_fit_is_refused_naming_the_key(update, said):
    with pytest.raises(TensorError, match=said):
        checks.check(update, SENT)


@pytest.mark.parametrize(("value", "said"), [(b"\0tree", "'w' is bytes"), ("text", "'w' is a text")])
@pytest.mark.parametrize("sent", [SENT, {"w": b"before"}, {}], ids=["for a tensor", "for bytes", "for nothing"])
def test_bytes_and_texts_are_refused_naming_the_key_and_who_takes_them(sent, value, said):
    with pytest.raises(TensorError, match=f"{said} .only an aggregator that has its own check.. takes bytes"):
        checks.check(full(w=value), sent)


def test_bytes_that_are_not_used_are_taken():
    rules = checks.Rules(ignores=lambda name: name == "tree")

    update, _ = checks.check(full(w=torch.ones(2), tree=b"new"), {**SENT, "tree": b"old"}, rules)

    assert update.params["tree"] == b"new"


@pytest.mark.parametrize(
    ("update", "said"),
    [
        (full(half=np.float32([70000])), "'half' is float32 and has 1 numbers beyond the range of float16"),
        (full(byte=np.array([256, -1])), "'byte' is int64 and has 2 numbers beyond the range of uint8"),
        (diff(mask=np.float32([0, INF])), "'mask' has 1 numbers that were NaN or infinite in the model .* and changed"),
        (full(mask=np.float32([0, NAN])), "'mask' has 1 numbers that are NaN or infinite"),
    ],
)
def test_what_the_models_dtype_has_no_room_for_is_refused_naming_the_key(update, said):
    sent = {"half": np.float16([1]), "byte": np.uint8([1, 2]), "mask": np.float32([0, -INF])}

    with pytest.raises(TensorError, match=said):
        checks.check(update, sent)


def test_a_difference_that_is_nan_where_an_infinity_did_not_change_is_taken():
    checks.check(diff(mask=np.float32([1, NAN])), {"mask": np.float32([0, -INF])})


def test_what_is_not_finite_can_be_allowed():
    checks.check(full(w=torch.tensor([1.0, NAN])), SENT, checks.Rules(allow_non_finite=True))


def test_a_mask_of_infinities_that_was_sent_may_come_back():
    sent = {"mask": torch.tensor([0.0, -INF])}

    checks.check(full(mask=torch.tensor([1.0, -INF])), sent)
    with pytest.raises(TensorError, match="has 1 numbers"):
        checks.check(full(mask=torch.tensor([-INF, -INF])), sent)


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e5m2, torch.complex64]
)
def test_one_number_in_a_large_tensor_is_found_whatever_its_dtype(dtype):
    tensor = torch.full((600_000,), 200.0).to(dtype)  # a sum of float16 would be beyond its range
    assert arithmetic.count_not_finite(tensor, torch.zeros(600_000)) == 0

    tensor[599_999] = NAN

    assert arithmetic.count_not_finite(tensor, torch.zeros(600_000)) == 1


@given(npst.arrays(st.sampled_from([np.float16, np.float32, np.float64]), npst.array_shapes(min_side=0)))
def test_as_many_are_counted_as_numpy_counts(array):
    expected = int((~np.isfinite(array)).sum())

    assert arithmetic.count_not_finite(array, np.zeros_like(array)) == expected
    assert arithmetic.count_not_finite(torch.from_numpy(array), np.zeros_like(array)) == expected
