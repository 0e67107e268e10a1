"""Newton's method for logistic regression, by hand-computed steps, and beside scikit-learn's on the pooled data."""

import numpy as np
import pytest

from fedsag_cli.aggregators.newton_raphson import NewtonRaphson
from fedsag_cli.errors import RunError, TensorError
from fedsag_cli.model import NUM_STEPS, Cohort, FLModel, Reply


def cohort():
    return Cohort(sites=["a", "b"], num_clients=2, round_num=0, rng=np.random.default_rng(0))


def stepped(theta, *answers, **settings):
    """The weights after one step; an answer is a gradient, a hessian and the number of examples."""
    aggregator = NewtonRaphson(**settings)
    sent = FLModel(params={"numpy_key": np.asarray(theta)})
    aggregator.begin(sent, cohort())
    for number, (gradient, hessian, examples) in enumerate(answers):
        update = FLModel(params={"gradient": gradient, "hessian": hessian}, meta={NUM_STEPS: examples})
        checked = aggregator.check(update, sent.params)
        aggregator.accept(Reply(site=f"site-{number}", model=checked))
    return aggregator.aggregate().params.get("numpy_key")


def test_a_step_divides_the_mean_gradient_by_the_mean_hessian():
    """g = (1*2 + 3*6)/4 = 5 and H = (1*1 + 3*5)/4 = 4, so the step is 0.5 * 5 / (4 + 1) = 0.5."""
    answers = ([[2.0]], [[1.0]], 1), ([[6.0]], [[5.0]], 3)

    theta = stepped([[7.0]], *answers, damping_factor=0.5, epsilon=1.0)

    assert theta.tolist() == [[7.5]]


def test_the_weights_keep_their_dtype_and_shape():
    theta = stepped(np.zeros((2, 1), np.float32), ([[1.0], [0.0]], np.eye(2), 1))

    assert (theta.dtype, theta.shape) == (np.float32, (2, 1))


def test_weights_that_begin_as_whole_numbers_move_by_fractions():
    """0.8 * 1 / (1 + 1) = 0.4."""
    assert stepped([[0]], ([[1.0]], [[1.0]], 1)).tolist() == [[0.4]]


def test_many_steps_over_sites_end_where_scikit_learn_does_on_the_pooled_data():
    linear_model = pytest.importorskip("sklearn.linear_model", reason="scikit-learn is not installed")
    rng = np.random.default_rng(0)
    x = np.column_stack([np.ones(300), rng.normal(size=(300, 3))])
    y = (rng.random((300, 1)) < 1 / (1 + np.exp(-x @ [[0.3], [1.0], [-2.0], [0.5]]))).astype(float)
    sites = [(x[:200], y[:200]), (x[200:], y[200:])]
    theta = np.zeros((4, 1))

    for _ in range(60):
        answers = []
        for own_x, own_y in sites:
            p = 1 / (1 + np.exp(-own_x @ theta))
            n = len(own_x)
            answers.append((own_x.T @ (own_y - p) / n, own_x.T @ (own_x * p * (1 - p)) / n, n))
        theta = stepped(theta, *answers, epsilon=0.01)

    pooled = linear_model.LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-10).fit(x, y.ravel())
    assert theta.ravel() == pytest.approx(pooled.coef_.ravel(), abs=1e-4)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"gradient": [[1.0]]}, "params must have 'gradient' and 'hessian', not only"),
        ({"gradient": [1.0], "hessian": [[1.0]]}, r"'gradient' has shape \(1,\), it must be \(1, 1\)"),
        ({"gradient": [[1.0]], "hessian": [1.0]}, r"'hessian' has shape \(1,\), it must be \(1, 1\)"),
        ({"gradient": [[np.nan]], "hessian": [[1.0]]}, "'gradient' has numbers that are NaN"),
        ({"gradient": "steep", "hessian": [[1.0]]}, "'gradient' is a str, not an array"),
    ],
)
def test_an_answer_that_is_no_gradient_and_hessian_of_the_model_has_failed(answer, said):
    with pytest.raises(TensorError, match=said):
        NewtonRaphson().check(FLModel(params=answer), {"numpy_key": np.zeros((1, 1))})


def test_a_model_of_several_arrays_is_an_error():
    with pytest.raises(TensorError, match="one array"):
        NewtonRaphson().begin(FLModel(params={"a": np.zeros(1), "b": np.zeros(1)}), cohort())


def test_a_hessian_without_an_inverse_is_an_error_that_names_epsilon():
    with pytest.raises(RunError, match="epsilon = 0, has no inverse"):
        stepped([[0.0]], ([[1.0]], [[0.0]], 1), epsilon=0.0)


def test_the_model_does_not_change_if_no_answer_has_a_weight():
    assert stepped([[0.0]], ([[1.0]], [[1.0]], 0)) is None
