"""The percentile filter by hand-computed numbers."""

import numpy as np
import pytest
import torch
from fakes import update

from fedsag_cli.errors import JobError
from fedsag_cli.filters.percentile_privacy import PercentilePrivacy
from fedsag_cli.model import FLModel, ParamsType
from fedsag_cli.testing import exchange

pytestmark = pytest.mark.usefixtures("one_thread")


def test_changes_below_the_percentile_are_zero_and_large_ones_are_truncated():
    """|δ| = 1, 2, 3, 4, 5: the 50th percentile is 3, gamma 4.5."""
    sent = update(kind="DIFF", w=np.array([1.0, -5.0]), b=torch.tensor([[-2.0, 3.0, 4.0]]))

    found = PercentilePrivacy(percentile=50, gamma=4.5).process(sent, exchange()).params

    assert found["w"].tolist() == [0.0, -4.5]
    assert found["b"].tolist() == [[0.0, 3.0, 4.0]]
    assert sent.params["w"].tolist() == [1.0, -5.0]


def test_gamma_is_for_a_step():
    """A change of 20 in 4 steps is 5 a step, so 2 a step and 8 in all are left."""
    found = PercentilePrivacy(percentile=0, gamma=2).process(
        update(4, kind="DIFF", w=np.array([20.0, -4.0])), exchange()
    )

    assert found.params["w"].tolist() == [8.0, -4.0]


def test_a_whole_model_is_filtered_by_its_difference_to_the_one_that_was_received():
    """w changed by 1, 2 and 9: 9 is truncated to 5, and 1 is below the median."""
    received = FLModel(params={"w": np.array([10.0, 20.0, 30.0])})

    found = PercentilePrivacy(percentile=50, gamma=5).process(
        update(w=np.array([11.0, 22.0, 39.0])), exchange(sent=received)
    )

    assert found.params_type is ParamsType.FULL
    assert found.params["w"].tolist() == [10.0, 22.0, 35.0]


def test_single_numbers_and_integers_are_sent_as_they_are_and_the_numbers_count_for_the_percentile():
    """|δ| = 1, 2, 100: the median is 2. Without the single number it would be 1.5."""
    sent = update(kind="DIFF", w=torch.tensor([1.0, 2.0]), scale=torch.tensor(100.0), count=torch.tensor([3]))

    found = PercentilePrivacy(percentile=50, gamma=50).process(sent, exchange()).params

    assert found["w"].tolist() == [0.0, 2.0]
    assert found["scale"].item() == 100.0
    assert found["count"].tolist() == [3]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_params_keep_their_dtype(dtype):
    found = PercentilePrivacy().process(update(kind="DIFF", w=torch.ones(3, dtype=dtype)), exchange()).params

    assert found["w"].dtype is dtype


def test_an_answer_of_metrics_alone_and_one_of_integers_alone_pass():
    metrics, integers = FLModel(metrics={"accuracy": 0.5}), update(kind="DIFF", n=np.array([1]))

    assert PercentilePrivacy().process(metrics, exchange()) is metrics
    assert PercentilePrivacy().process(integers, exchange()) is integers


@pytest.mark.parametrize(
    ("args", "said"),
    [({"percentile": 101}, "percentile must be a number up to 100"), ({"gamma": 0}, "gamma must be a number above 0")],
)
def test_settings_with_which_nvflares_filter_does_nothing_are_errors(args, said):
    with pytest.raises(JobError, match=said):
        PercentilePrivacy(**args)
