"""The Gaussian mechanism in a client: what it clips, what it noises, and what it does not send."""

import numpy as np
import pytest
import torch
from fakes import update

from fedsag_cli.errors import JobError, TensorError
from fedsag_cli.filters.gaussian_privacy import GaussianPrivacy
from fedsag_cli.model import FLModel, ParamsType
from fedsag_cli.testing import exchange

pytestmark = pytest.mark.usefixtures("one_thread")
SENT = FLModel(params={"w": torch.tensor([1.0, 2.0]), "b": np.array([4.0]), "count": torch.tensor(7)})


def clipped(model, clip_norm, sent=SENT):
    return GaussianPrivacy(clip_norm=clip_norm, noise_multiplier=0).process(model, exchange(sent=sent))


def test_a_long_difference_is_scaled_to_the_clip_norm_as_one_vector_over_all_params():
    """|(3, 0, 4)| = 5, so each number is divided by 5."""
    found = clipped(update(kind="DIFF", w=torch.tensor([3.0, 0.0]), b=np.array([4.0])), clip_norm=1.0).params

    assert found["w"].tolist() == pytest.approx([0.6, 0.0])
    assert found["b"].tolist() == pytest.approx([0.8])


def test_a_short_difference_stays_as_it_is():
    found = clipped(update(kind="DIFF", w=torch.tensor([0.3, 0.4])), clip_norm=1.0)

    assert found.params["w"].equal(torch.tensor([0.3, 0.4]))


def test_a_whole_model_is_clipped_by_its_difference_to_the_one_that_was_received():
    """w changed by (3, 0), b by 4: after clipping by (0.6, 0) and 0.8."""
    found = clipped(update(w=torch.tensor([4.0, 2.0]), b=np.array([8.0])), clip_norm=1.0)

    assert found.params_type is ParamsType.FULL
    assert found.params["w"].tolist() == pytest.approx([1.6, 2.0])
    assert found.params["b"].tolist() == pytest.approx([4.8])


@pytest.mark.parametrize(("kind", "left"), [("DIFF", {"w"}), ("FULL", {"w", "count"})])
def test_integers_do_not_leave_the_client(kind, left):
    sent = update(kind=kind, w=torch.tensor([1.0, 2.0]), count=torch.tensor(99))

    found = clipped(sent, clip_norm=1.0).params

    assert set(found) == left
    assert found.get("count", torch.tensor(7)).item() == 7


def test_noise_has_the_deviation_that_the_settings_say_and_is_drawn_for_each_number():
    """A sample deviation of 200,000 numbers is off by more than 0.8 % once in a million."""
    zeros = update(kind="DIFF", w=torch.zeros(100_000), b=np.zeros(100_000))

    found = GaussianPrivacy(clip_norm=0.5, noise_multiplier=3.0).process(zeros, exchange(sent=SENT)).params

    noise = np.concatenate([found["w"].numpy(), found["b"]])
    assert noise.std() == pytest.approx(1.5, rel=0.008)
    assert abs(noise.mean()) < 5 * 1.5 / np.sqrt(200_000)
    assert abs(np.corrcoef(found["w"].numpy(), found["b"])[0, 1]) < 0.02


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.complex64])
def test_params_keep_their_dtype_and_shape(dtype):
    found = GaussianPrivacy(clip_norm=1.0, noise_multiplier=1.0).process(
        update(kind="DIFF", w=torch.ones(2, 3, dtype=dtype), b=np.float32(2)), exchange(sent=SENT)
    )

    assert (found.params["w"].dtype, found.params["w"].shape) == (dtype, (2, 3))
    assert isinstance(found.params["b"], np.float32)


def test_the_noise_is_that_of_the_exchange_and_of_nothing_else():
    def noised(seed):
        torch.manual_seed(0)
        np.random.seed(0)
        model = update(kind="DIFF", w=torch.zeros(4))
        return GaussianPrivacy(1.0, 1.0).process(model, exchange(sent=SENT, seed=seed)).params["w"].tolist()

    assert noised(1) == noised(1)
    assert not set(noised(1)) & set(noised(2))


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf])
def test_an_update_without_a_norm_becomes_nan_as_a_whole(wrong):
    found = clipped(update(kind="DIFF", w=torch.tensor([1.0, wrong]), b=np.array([1.0])), clip_norm=1.0).params

    assert found["w"].isnan().all()
    assert np.isnan(found["b"]).all()


def test_an_answer_of_metrics_alone_passes():
    metrics = FLModel(metrics={"accuracy": 0.5})

    assert clipped(metrics, clip_norm=1.0) is metrics


def test_a_key_that_was_not_received_is_an_error_that_names_the_nearest():
    with pytest.raises(TensorError, match="'W'"):
        clipped(update(W=torch.ones(2)), clip_norm=1.0)


def test_a_whole_model_without_one_to_compare_it_with_is_an_error():
    with pytest.raises(TensorError, match="this task brought none"):
        clipped(update(w=torch.ones(2)), clip_norm=1.0, sent=FLModel())


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ({"clip_norm": 0, "noise_multiplier": 1}, "clip_norm must be a number above 0"),
        ({"clip_norm": 1, "noise_multiplier": -1}, "noise_multiplier must be a number from 0 on"),
    ],
)
def test_settings_that_protect_nothing_are_errors(args, said):
    with pytest.raises(JobError, match=said):
        GaussianPrivacy(**args)
