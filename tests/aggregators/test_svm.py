"""An SVM of the sites' support vectors, beside scikit-learn's on the pooled data."""

import numpy as np
import pytest

from fedsag_cli.errors import JobError, TensorError
from fedsag_cli.model import Cohort, FLModel, Reply

pytest.importorskip("sklearn", reason="scikit-learn is not installed: pip install 'fedsag[sklearn]'")

from sklearn.svm import SVC

from fedsag_cli.aggregators.svm import SVMAggregator


def merged(sent, *updates, kernel="linear"):
    aggregator = SVMAggregator(kernel)
    aggregator.begin(
        FLModel(params=sent), Cohort(sites=["a"], num_clients=1, round_num=0, rng=np.random.default_rng(0))
    )
    for number, (x, y) in enumerate(updates):
        params = {"support_x": np.array(x), "support_y": np.array(y)}
        aggregator.accept(Reply(site=f"site-{number}", model=FLModel(params=params)))
    return aggregator.aggregate()


def test_the_support_vectors_of_all_are_kept():
    """On a line, the border of all lies between 1 and 2: the vectors further away are no support vectors any more."""
    found = merged({}, ([[0.0], [2.0]], [0, 1]), ([[1.0], [9.0]], [0, 1]), kernel="linear")

    assert sorted(found.params["support_x"].ravel()) == [1.0, 2.0]
    assert found.metrics == {"support_vectors_sent": 4.0, "support_vectors": 2.0}


def test_after_the_first_round_the_model_stays():
    sent = {"support_x": np.array([[1.0]]), "support_y": np.array([0])}

    assert merged(sent, ([[5.0]], [1])).params["support_x"].tolist() == [[1.0]]


def test_it_decides_as_an_svm_of_the_pooled_data_nearly_everywhere():
    rng = np.random.default_rng(1)
    y = rng.integers(2, size=400)
    x = rng.normal(size=(400, 2)) + 2 * y[:, None]
    x_test = rng.normal(size=(1000, 2)) + 1
    pooled = SVC().fit(x, y)
    sites = [(x[site::2], y[site::2]) for site in (0, 1)]

    found = merged(
        {}, *((a[own.support_], b[own.support_]) for a, b in sites if (own := SVC().fit(a, b))), kernel="rbf"
    )

    model = SVC().fit(found.params["support_x"], found.params["support_y"])
    assert (model.predict(x_test) == pooled.predict(x_test)).mean() > 0.97


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"support_x": [[1.0]]}, "must have 'support_x' and 'support_y'"),
        ({"support_x": [[1.0], [2.0]], "support_y": [1]}, "a label for each row"),
        ({"support_x": [[float("inf")]], "support_y": [1]}, "NaN or infinite"),
        ({"support_x": np.zeros((0, 1)), "support_y": []}, "there is no support vector"),
        ({"support_x": [["far"]], "support_y": [1]}, "no numbers"),
        ({"support_x": [[1.0]], "support_y": [0.5]}, "labels that are not whole numbers"),
        ({"support_x": [[1.0, 2.0]], "support_y": [1]}, "has 2 features, it must have 1"),
    ],
)
def test_an_update_that_does_not_fit_is_refused(params, says):
    with pytest.raises(TensorError, match=says):
        SVMAggregator().check(FLModel(params=params), {"support_x": np.zeros((3, 1))})


def test_sites_with_other_features_are_refused():
    with pytest.raises(TensorError, match="site-1 sent vectors of 2 features, others 1"):
        merged({}, ([[1.0]], [0]), ([[1.0, 2.0]], [1]))


def test_sites_that_all_have_the_same_class_end_the_run():
    with pytest.raises(JobError, match="have the same label, 1: an SVM needs two classes"):
        merged({}, ([[1.0], [2.0]], [1, 1]), ([[3.0]], [1]))


def test_a_kernel_that_is_not_there_is_named():
    with pytest.raises(JobError, match="kernel must be 'linear'"):
        SVMAggregator("round")
