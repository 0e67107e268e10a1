"""The sparse vector technique: what it chooses where its noise is small, and how large its noise is."""

import numpy as np
import pytest
import torch
from fakes import update

from fedsag_cli.errors import JobError, TensorError
from fedsag_cli.filters.svt_privacy import SVTPrivacy
from fedsag_cli.model import FLModel
from fedsag_cli.testing import exchange

pytestmark = pytest.mark.usefixtures("one_thread")
QUIET = {"epsilon": 1e12, "epsilon_release": 1e12}  # so large that the noise is far below one


def test_with_little_noise_the_numbers_above_the_threshold_are_sent_and_clipped():
    """Two of four numbers are sent; only -3 and 9 are above 2, and gamma is 5."""
    found = SVTPrivacy(fraction=0.5, gamma=5, tau=2, replace=False, **QUIET).process(
        update(kind="DIFF", w=np.array([1.0, -3.0]), b=torch.tensor([[9.0, 0.5]])), exchange()
    )

    assert found.params["w"].round(6).tolist() == [0.0, -3.0]
    assert found.params["b"][0].tolist() == pytest.approx([5.0, 0.0], abs=1e-5)


def test_of_the_accepted_numbers_the_share_is_drawn():
    """All 1000 are above the threshold, 100 of them are sent. With replacement some are drawn twice."""
    ones = update(kind="DIFF", w=np.ones(1000))

    def count(replace):
        filtered = SVTPrivacy(fraction=0.1, gamma=5, tau=0.5, replace=replace, **QUIET).process(ones, exchange())
        return np.count_nonzero(filtered.params["w"])

    assert count(replace=False) == 100
    assert 80 <= count(replace=True) < 100


def test_the_noise_of_what_is_sent_is_laplace_of_2_c_gamma_by_the_budget():
    """c = 100,000, gamma 1, budget c * noise_var = 200,000: a scale of 1, so a deviation of sqrt(2)."""
    found = SVTPrivacy(fraction=1.0, epsilon=1e12, gamma=1, tau=-1e6, noise_var=2.0, replace=False).process(
        update(kind="DIFF", w=np.zeros(100_000)), exchange()
    )

    noise = found.params["w"]
    assert np.abs(noise).mean() == pytest.approx(1.0, rel=0.016)  # five deviations of the mean
    assert noise.std() == pytest.approx(np.sqrt(2), rel=0.025)


def test_the_step_is_the_unit_and_a_whole_model_is_filtered_by_its_difference():
    """w changed by 40 in 4 steps: 10 a step, clipped to 2, so 8 in all."""
    received = FLModel(params={"w": np.array([100.0])})

    found = SVTPrivacy(fraction=1.0, gamma=2, tau=1, **QUIET).process(
        update(4, w=np.array([140.0])), exchange(sent=received)
    )

    assert found.params["w"].tolist() == pytest.approx([108.0])


def test_single_numbers_and_integers_are_sent_as_they_are():
    sent = update(kind="DIFF", w=torch.zeros(3), scale=torch.tensor(100.0), count=torch.tensor([3]))

    found = SVTPrivacy(fraction=1.0).process(sent, exchange()).params

    assert (found["scale"].item(), found["count"].tolist()) == (100.0, [3])
    assert found["w"].dtype is torch.float32


def test_the_same_stream_gives_the_same_update():
    def filtered(seed):
        sent = update(kind="DIFF", w=np.linspace(-1, 1, 50))
        return SVTPrivacy(gamma=1.0).process(sent, exchange(seed=seed)).params["w"].tolist()

    assert filtered(1) == filtered(1) != filtered(2)


@pytest.mark.parametrize(
    ("given", "c", "parts"),
    [
        ({"epsilon": 1.0}, 4, (0.2, 0.8, 0.4)),  # 1 : (2 * 4)^(2/3) = 1 : 4; 4 * noise_var
        ({"epsilon": 1.0, "epsilon_threshold": 0.3}, 4, (0.3, 0.7, 0.4)),
        ({"epsilon": 1.0, "epsilon_query": 0.9, "epsilon_release": 5.0}, 4, (0.1, 0.9, 5.0)),
    ],
)
def test_the_budget_is_divided_as_nvflare_does(given, c, parts):
    assert SVTPrivacy(**given)._parts(c) == pytest.approx(parts)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"epsilon": 0.1, "epsilon_threshold": 0.2}, "must be parts of epsilon, which is 0.1"),
        ({"epsilon": 0.1, "epsilon_threshold": 0.01, "epsilon_query": 0.02}, "must be parts of epsilon"),
        ({"noise_var": 0}, "noise_var must be above 0"),
        ({"fraction": 0}, "fraction must be a number above 0"),
    ],
)
def test_budgets_that_do_not_fit_are_errors(given, said):
    with pytest.raises(JobError, match=said):
        SVTPrivacy(**given)


def test_a_threshold_that_nothing_reaches_is_an_error_and_no_endless_loop():
    with pytest.raises(TensorError, match="only 0 of 1 numbers were above the threshold"):
        SVTPrivacy(tau=1e9).process(update(kind="DIFF", w=np.zeros(3)), exchange())


def test_an_update_with_nan_becomes_nan():
    found = SVTPrivacy().process(update(kind="DIFF", w=np.array([0.0, np.nan])), exchange())

    assert np.isnan(found.params["w"]).all()
