"""Which model is the best: means of the key metric, strictly better, and what does not count."""

import pytest

from fedsag_cli.workflows.model_selector import IntimeModelSelector


def score(selector, **measured):
    for site, (metrics, steps) in measured.items():
        selector.accept(site, metrics, steps)
    return selector.score()


def test_the_score_is_the_plain_mean_of_the_key_metric():
    assert score(IntimeModelSelector("acc"), a=({"acc": 1.0, "loss": 9}, 10), b=({"acc": 4.0}, 90)) == 2.5


def test_steps_weigh_where_it_says_so():
    found = score(IntimeModelSelector("acc", weigh_by_local_iter=True), a=({"acc": 1.0}, 1), b=({"acc": 5.0}, 3))

    assert found == 4.0


def test_a_sites_weight_counts():
    """(3*1 + 1*5) / 4."""
    found = score(IntimeModelSelector("acc", aggregation_weights={"a": 3.0}), a=({"acc": 1.0}, 1), b=({"acc": 5.0}, 1))

    assert found == 2.0


@pytest.mark.parametrize("metrics", [{}, {"accuracy": 9.0}, {"acc": float("nan")}, {"acc": float("inf")}])
def test_who_did_not_measure_it_does_not_count(metrics):
    assert score(IntimeModelSelector("acc"), a=(metrics, 1), b=({"acc": 5.0}, 1)) == 5.0


def test_where_nobody_measured_it_there_is_no_score():
    assert score(IntimeModelSelector("acc"), a=({}, 1)) is None
    assert IntimeModelSelector("acc").score() is None


def test_a_score_of_zero_is_a_score():
    assert score(IntimeModelSelector("acc"), a=({"acc": 0.0}, 1)) == 0.0


def test_each_score_starts_anew():
    selector = IntimeModelSelector("acc")
    score(selector, a=({"acc": 100.0}, 1))

    assert score(selector, a=({"acc": 1.0}, 1)) == 1.0


@pytest.mark.parametrize(
    ("negate", "new", "best", "better"),
    [
        (False, 0.5, None, True),
        (False, 0.6, 0.5, True),
        (False, 0.5, 0.5, False),
        (False, 0.4, 0.5, False),
        (False, -1.0, 0.0, False),
        (True, 0.5, None, True),
        (True, 0.4, 0.5, True),
        (True, 0.5, 0.5, False),
        (True, 0.6, 0.5, False),
        (True, -1.0, 0.0, True),
    ],
)
def test_better_is_strictly_more_or_negated_strictly_less(negate, new, best, better):
    assert IntimeModelSelector("acc", negate_key_metric=negate).is_better(new, best) is better


def test_a_metric_that_all_clients_measured_alike_is_no_better_with_other_weights():
    """0.7 * 3 + 0.7 * 4 is a little less than 0.7 * 7, and 0.7 * 1 + 0.7 * 1 is not."""
    selector = IntimeModelSelector("accuracy", weigh_by_local_iter=True)
    scores = []
    for steps in ((3, 4), (1, 1)):
        for site, number in zip("ab", steps, strict=True):
            selector.accept(site, {"accuracy": 0.7}, number)
        scores.append(selector.score())

    assert scores == [0.7, 0.7]
