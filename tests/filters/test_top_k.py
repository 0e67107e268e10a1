"""Top-k with error feedback by hand-computed numbers."""

import dataclasses

import numpy as np
import pytest
import torch
from fakes import update
from hypothesis import given
from hypothesis import strategies as st

from fedsag_cli.errors import TensorError
from fedsag_cli.filters.top_k import TopKDensifier, TopKSparsifier
from fedsag_cli.model import FLModel, ParamsType
from fedsag_cli.params.tensor_file import TensorFile
from fedsag_cli.testing import exchange

pytestmark = pytest.mark.usefixtures("one_thread")


class Site:
    """A client and its server: the filters of both, and the state of the site."""

    def __init__(self, fraction):
        self._sparsifier, self.state = TopKSparsifier(fraction), {}

    def sends(self, model, sent=None):
        self.sent = self._sparsifier.process(model, dataclasses.replace(exchange(sent=sent), state=self.state))
        return TopKDensifier().process(self.sent, exchange())


def test_the_largest_numbers_of_all_params_are_sent_and_the_others_are_zero():
    """2 of 5."""
    found = Site(0.4).sends(update(kind="DIFF", w=np.array([1.0, -5.0]), b=torch.tensor([[-2.0, 3.0, 4.0]])))

    assert found.params["w"].tolist() == [0.0, -5.0]
    assert found.params["b"].tolist() == [[0.0, 0.0, 4.0]]


def test_what_was_not_sent_is_added_to_the_next_update():
    """First 3 is sent and 2 is kept; then 1 + 2 is larger than 2.5, which is kept."""
    site = Site(0.5)

    assert site.sends(update(kind="DIFF", w=np.array([2.0, 3.0]))).params["w"].tolist() == [0.0, 3.0]
    assert site.sends(update(kind="DIFF", w=np.array([1.0, 2.5]))).params["w"].tolist() == [3.0, 0.0]
    assert site.state["residual"]["w"].tolist() == [0.0, 2.5]


@given(st.integers(1, 40), st.floats(0.01, 1.0), st.integers(0, 2**32))
def test_nothing_is_lost_whatever_is_sent_and_what_is_kept_is_the_sum_of_the_updates(size, fraction, seed):
    """Whole numbers, so that every sum is exact."""
    draws, site, total, arrived = np.random.default_rng(seed), Site(fraction), np.zeros(size), np.zeros(size)
    for _ in range(5):
        change = draws.integers(-50, 50, size).astype(np.float64)
        total += change
        arrived += site.sends(update(kind="DIFF", w=change)).params["w"]
        assert np.count_nonzero(arrived) <= size

    assert (arrived + site.state["residual"]["w"]).tolist() == total.tolist()


def test_a_whole_model_is_sent_as_its_difference():
    received = FLModel(params={"w": np.array([10.0, 20.0]), "count": np.array([7])})

    found = Site(0.5).sends(update(3, w=np.array([11.0, 25.0]), count=np.array([9])), sent=received)

    assert found.params_type is ParamsType.DIFF
    assert found.params["w"].tolist() == [0.0, 5.0]
    assert found.params["count"].tolist() == [2]
    assert found.meta == {"NUM_STEPS_CURRENT_ROUND": 3}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_params_keep_their_dtype_and_shape(dtype):
    found = Site(0.5).sends(update(kind="DIFF", w=torch.arange(6).reshape(2, 3).to(dtype))).params["w"]

    assert found.equal(torch.tensor([[0, 0, 0], [3, 4, 5]], dtype=dtype))


def test_a_hundredth_of_the_numbers_takes_a_fiftieth_of_the_bytes():
    """8 bytes each instead of 4."""
    site = Site(0.01)
    site.sends(update(kind="DIFF", w=torch.randn(500_000), b=torch.randn(500_000)))

    with TensorFile.write(site.sent.params) as file:
        assert 0 <= file.size - 80_000 < 1000


def test_a_param_of_which_nothing_is_sent_is_all_zero_and_not_missing():
    found = Site(0.5).sends(update(kind="DIFF", large=np.array([9.0]), small=np.array([1.0])))

    assert found.params["small"].tolist() == [0.0]


def test_the_update_of_the_script_is_not_changed():
    change = np.array([1.0, 2.0])

    Site(0.5).sends(update(kind="DIFF", w=change))

    assert change.tolist() == [1.0, 2.0]


def test_an_update_with_nan_sends_it_and_keeps_none():
    site = Site(0.5)

    assert np.isnan(site.sends(update(kind="DIFF", w=np.array([np.nan, 1.0]))).params["w"][0])
    assert site.state["residual"]["w"].tolist() == [0.0, 1.0]


def test_what_is_not_sparse_passes():
    dense, metrics = update(kind="DIFF", w=np.ones(2)), FLModel(metrics={"accuracy": 0.5})

    assert TopKDensifier().process(dense, exchange()) is dense
    assert TopKDensifier().process(metrics, exchange()) is metrics
    assert TopKSparsifier().process(metrics, exchange()) is metrics


@pytest.mark.parametrize("form", [{"dtype": "float32", "shape": [1]}, {"dtype": "object", "shape": [2]}, {"shape": 1}])
def test_a_client_that_lies_about_a_form_gets_an_error(form):
    site = Site(0.5)
    site.sends(update(kind="DIFF", w=np.array([1.0, 2.0], dtype=np.float32)))
    site.sent.meta["sparse"]["w"] = form

    with pytest.raises(TensorError):
        TopKDensifier().process(site.sent, exchange())
