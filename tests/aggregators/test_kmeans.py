"""Mini-batch k-means over sites by hand-computed numbers, and beside scikit-learn's on the pooled data."""

import numpy as np
import pytest

from fedsag_cli.errors import TensorError
from fedsag_cli.model import Cohort, FLModel, Reply

pytest.importorskip("sklearn", reason="scikit-learn is not installed: pip install 'fedsag[sklearn]'")

from sklearn.cluster import KMeans
from sklearn.metrics import pairwise_distances_argmin

from fedsag_cli.aggregators.kmeans import KMeansAggregator


def cohort(seed=0):
    return Cohort(sites=["a", "b"], num_clients=2, round_num=0, rng=np.random.default_rng(seed))


def merged(sent, *updates, seed=0):
    aggregator = KMeansAggregator()
    aggregator.begin(FLModel(params=sent), cohort(seed))
    for number, params in enumerate(updates):
        aggregator.accept(Reply(site=f"site-{number}", model=FLModel(params=params)))
    return aggregator.aggregate().params


def test_a_centre_is_the_mean_of_all_examples_so_far():
    """2 examples at 0, then 1 at 3 and 3 at 6: (2*0 + 1*3 + 3*6) / 6 = 3.5."""
    sent = {"center": np.array([[0.0]]), "count": np.array([2.0])}

    found = merged(sent, {"center": [[3.0]], "count": [1]}, {"center": [[6.0]], "count": [3]})

    assert (found["center"].tolist(), found["count"].tolist()) == ([[3.5]], [6.0])


def test_a_centre_without_examples_stays():
    sent = {"center": np.array([[0.0], [9.0]]), "count": np.zeros(2)}

    found = merged(sent, {"center": [[1.0], [7.0]], "count": [1, 0]})

    assert (found["center"].tolist(), found["count"].tolist()) == ([[1.0], [9.0]], [1.0, 0.0])


def test_the_first_centres_are_those_of_the_sites_centres_together():
    found = merged({}, {"center": [[0.0], [10.0]]}, {"center": [[2.0], [14.0]]})

    assert (sorted(found["center"].ravel()), found["count"].tolist()) == ([1.0, 12.0], [0.0, 0.0])


def test_the_first_centres_depend_on_the_rounds_random_numbers_only():
    updates = [{"center": np.random.default_rng(site).normal(size=(5, 2))} for site in (1, 2)]

    first, again = merged({}, *updates, seed=1), merged({}, *updates, seed=1)

    assert first["center"].tolist() == again["center"].tolist()


def test_the_centres_are_those_of_a_k_means_of_the_pooled_data():
    """Groups far apart: assigned in one step, the centres are the means of the groups."""
    rng = np.random.default_rng(3)
    groups = [rng.normal(mean, 0.1, size=(30, 2)) for mean in (0.0, 5.0, 10.0)]
    sites = [np.concatenate([group[site::2] for group in groups]) for site in (0, 1)]
    pooled = KMeans(3, n_init=10, random_state=0).fit(np.concatenate(sites)).cluster_centers_

    model = merged({}, *({"center": KMeans(3, n_init=10).fit(x).cluster_centers_} for x in sites))
    for _ in range(3):
        model = merged(model, *(assigned(x, model["center"]) for x in sites))

    assert np.sort(model["center"], axis=0) == pytest.approx(np.sort(pooled, axis=0))


def assigned(x, center):
    nearest = pairwise_distances_argmin(x, center)
    return {
        "center": np.stack([x[nearest == j].mean(axis=0) for j in range(len(center))]),
        "count": np.bincount(nearest),
    }


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"count": [1.0]}, "must have 'center'"),
        ({"center": [[1.0]], "count": [1.0]}, r"shape \(1, 1\), it must be \(2, 1\)"),
        ({"center": [[1.0], [float("nan")]], "count": [1, 1]}, "'center' has numbers that are NaN"),
        ({"center": [[1.0], [2.0]], "count": [1, -1]}, "'count' must have 2 numbers from 0 on"),
        ({"center": "far", "count": [1, 1]}, "'center' is a str"),
    ],
)
def test_an_update_that_does_not_fit_is_refused(params, says):
    with pytest.raises(TensorError, match=says):
        KMeansAggregator().check(FLModel(params=params), {"center": np.zeros((2, 1)), "count": np.zeros(2)})


def test_a_first_answer_without_centres_is_refused():
    with pytest.raises(TensorError, match=r"'center' has shape \(0, 2\): there is no centre"):
        KMeansAggregator().check(FLModel(params={"center": np.zeros((0, 2))}), {})


def test_sites_with_other_features_are_refused():
    with pytest.raises(TensorError, match=r"site-1 sent centres of shape \(1, 2\), others \(1, 1\)"):
        merged({}, {"center": [[1.0]]}, {"center": [[1.0, 2.0]]})
