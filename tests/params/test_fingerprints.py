"""Fingerprints of params: equal for equal bits, and each tensor has its own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xxhash

from fedsag_cli.params import fingerprints as under_test
from fedsag_cli.params.fingerprints import NONE
from fedsag_cli.params.tensor_file import TensorFile

PARAMS = {"w": np.arange(4, dtype=np.float32), "b": np.zeros(2, np.float32)}


def fingerprints(params):
    with TensorFile.write(params) as file:
        return under_test.fingerprints(file)


def test_the_same_bits_have_the_same_fingerprints():
    assert fingerprints(PARAMS) == fingerprints({name: value.copy() for name, value in PARAMS.items()})


@pytest.mark.parametrize(
    "other",
    [
        np.array([0, 1, 2, 4], np.float32),
        np.arange(4, dtype=np.float32).reshape(2, 2),
        np.arange(4, dtype=np.float32).view(np.int32),
        torch.arange(4, dtype=torch.float32),
        np.array([-0.0, 1, 2, 3], np.float32),
    ],
    ids=["a value", "a shape", "a dtype", "a library", "a sign of zero"],
)
def test_a_difference_is_in_the_digest_and_in_the_part_of_its_tensor_alone(other):
    one, two = fingerprints(PARAMS), fingerprints({**PARAMS, "w": other})

    assert one.digest != two.digest
    assert one.names == two.names == ("w", "b")
    assert one.tensors[:8] != two.tensors[:8]
    assert one.tensors[8:] == two.tensors[8:]


def test_other_names_or_another_order_are_a_difference():
    swapped = fingerprints(dict(reversed(PARAMS.items())))

    assert swapped.digest != fingerprints(PARAMS).digest
    assert fingerprints({"v": PARAMS["w"], "b": PARAMS["b"]}).digest != fingerprints(PARAMS).digest


def test_a_fingerprint_is_xxh3_of_bytes_kind_dtype_and_shape():
    expected = xxhash.xxh3_128(np.zeros(2, np.float32).tobytes() + b"numpy F32 (2,)").hexdigest()

    assert fingerprints({"b": PARAMS["b"]}).tensors == expected[:8]


def test_tied_tensors_have_the_same_fingerprint_and_a_tree_has_none():
    tied = torch.ones(3)
    with TensorFile.write({"a": tied, "b": tied}, trees={"meta": {"x": torch.ones(2)}}) as file:
        found = under_test.fingerprints(file)

    assert found.names == ("a", "b")
    assert found.tensors[:8] == found.tensors[8:]


def test_no_params_have_no_fingerprints():
    assert under_test.fingerprints(None) == fingerprints({}) == NONE
