"""Quantization: how far a number may be from itself after both filters, and what travels between them."""

import numpy as np
import pytest
import torch
from fakes import update
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedsag_cli.errors import JobError, TensorError
from fedsag_cli.filters.quantization import ModelDequantizer, ModelQuantizer
from fedsag_cli.model import FLModel
from fedsag_cli.params.tensor_file import TensorFile
from fedsag_cli.testing import exchange

pytestmark = pytest.mark.usefixtures("one_thread")
KINDS = ["float16", "blockwise8"]


def quantized(kind, **params):
    return ModelQuantizer(kind).process(update(kind="DIFF", **params), exchange())


def both_ways(kind, **params):
    """As it arrives: through a file, as on its way."""
    sent = quantized(kind, **params)
    with TensorFile.write(sent.params) as file:
        arrived = FLModel(params_type="DIFF", params=file.load(), meta=sent.meta)
    return ModelDequantizer().process(arrived, exchange()).params


def arrays(dtype, largest):
    largest = float(np.dtype(dtype).type(largest))
    numbers = st.floats(-largest, largest, width=np.dtype(dtype).itemsize * 8)
    return hnp.arrays(dtype, hnp.array_shapes(max_dims=2, max_side=600), elements=numbers, fill=numbers)


@given(arrays(np.float32, 3e38))
def test_a_number_of_8_bits_is_off_by_at_most_a_254th_of_the_largest_in_its_block(value):
    found = both_ways("blockwise8", w=value)["w"]

    flat, back = value.reshape(-1).astype(np.float64), found.reshape(-1).astype(np.float64)
    for start in range(0, flat.size, 256):
        block = slice(start, start + 256)
        largest = np.abs(flat[block]).max()
        assert np.abs(flat[block] - back[block]).max() <= largest / 254 * (1 + 1e-4) + 1e-45
    assert (found.dtype, found.shape) == (value.dtype, value.shape)


@given(arrays(np.float64, 1e300))
def test_64_bits_have_scales_of_64_bits(value):
    found = both_ways("blockwise8", w=value)["w"]

    assert np.abs(value - found).max() <= np.abs(value).max() / 254 * (1 + 1e-4)
    assert found.dtype == np.float64


@given(arrays(np.float32, 3e38))
def test_a_number_of_16_bits_is_off_by_at_most_a_2048th_of_itself_within_the_range(value):
    found = both_ways("float16", w=value)["w"]

    inside = np.clip(value.astype(np.float64), -65504, 65504)
    assert (np.abs(found - inside) <= np.maximum(np.abs(inside) / 2048, 2.0**-25)).all()
    assert found.dtype == np.float32


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_torch_tensors_come_back_as_they_were_declared(kind, dtype):
    value = torch.linspace(-2, 2, 1000, dtype=torch.float64).reshape(10, 100).to(dtype)

    found = both_ways(kind, w=value)["w"]

    assert (found.dtype, found.shape) == (dtype, value.shape)
    assert (found.double() - value.double()).abs().max() <= 2 / 254 + 2 / 128


@pytest.mark.parametrize(("kind", "most"), [("float16", 2_000_000), ("blockwise8", 1_000_000 + 4 * 3907)])
def test_a_million_numbers_of_4_bytes_travel_in_two_or_in_little_more_than_one(kind, most):
    with TensorFile.write(quantized(kind, w=torch.ones(1_000_000)).params) as file:
        assert 0 <= file.size - most < 1000


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_float_or_would_not_become_smaller_is_sent_as_it_is(kind):
    params = {
        "count": torch.tensor(3),
        "mask": np.array([True, False]),
        "complex": torch.ones(9, dtype=torch.complex64),
        "one": torch.tensor([0.1], dtype=torch.bfloat16),
        "number": 0.1,
        "empty": torch.ones(0, 3),
    }

    sent = quantized(kind, **params).params

    assert all(sent[name] is value for name, value in params.items() if name != "empty")
    assert both_ways(kind, **params)["empty"].shape == (0, 3)


def test_infinity_and_nan_stay_and_only_finite_numbers_are_brought_into_the_range():
    value = torch.tensor([1e30, -1e30, torch.inf, -torch.inf, torch.nan])

    found = both_ways("float16", w=value)["w"]

    assert found[:4].tolist() == [65504.0, -65504.0, torch.inf, -torch.inf]
    assert found[4].isnan()


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_a_param_that_is_not_finite_is_not_coded_in_8_bits(wrong):
    value = np.array([1.0, wrong] * 200)

    assert quantized("blockwise8", w=value).params["w"] is value


@pytest.mark.parametrize("kind", KINDS)
def test_tied_weights_are_sent_once_and_stay_tied(kind):
    value = torch.randn(300, 10)
    tied = {"embedding": value, "head": value.detach()}

    found = both_ways(kind, **tied)

    with TensorFile.write(quantized(kind, **tied).params) as file:
        assert file.size < 300 * 10 * 2 + 1000
    assert found["embedding"].data_ptr() == found["head"].data_ptr()


def test_the_metadata_of_the_quantization_does_not_outlive_it():
    sent = ModelQuantizer().process(update(4, w=torch.ones(3)), exchange())

    assert ModelDequantizer().process(sent, exchange()).meta == {"NUM_STEPS_CURRENT_ROUND": 4}


def test_a_model_is_quantized_once():
    sent = quantized("blockwise8", w=torch.ones(1000))

    assert ModelQuantizer("float16").process(sent, exchange()) is sent


def test_a_model_that_is_not_quantized_is_an_error_that_says_what_is_missing():
    with pytest.raises(TensorError, match="not quantized") as caught:
        ModelDequantizer().process(update(w=torch.ones(3)), exchange())

    assert "needs ModelQuantizer" in caught.value.hint


def test_an_answer_of_metrics_alone_passes():
    metrics = FLModel(metrics={"accuracy": 0.5})

    assert ModelQuantizer().process(metrics, exchange()) is metrics
    assert ModelDequantizer().process(metrics, exchange()) is metrics


@pytest.mark.parametrize("shape", [[10], [1 << 60], [-1], ["x"], 3])
def test_a_client_that_lies_about_a_shape_gets_an_error(shape):
    sent = quantized("blockwise8", w=torch.ones(1000))
    sent.meta["quantized"]["params"]["w"]["shape"] = shape

    with pytest.raises(TensorError):
        ModelDequantizer().process(sent, exchange())


@pytest.mark.parametrize("kind", ["float4", "normfloat4", "adaquant"])
def test_the_types_of_nvflare_that_are_not_supported_are_errors_that_name_those_that_are(kind):
    with pytest.raises(JobError, match=r"must be 'float16' or 'blockwise8'.*, not"):
        ModelQuantizer(kind)
