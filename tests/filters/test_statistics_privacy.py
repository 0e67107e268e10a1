"""What a site's privacy filter keeps back of its statistics."""

import pytest

from fedsag_cli.errors import JobError
from fedsag_cli.filters.statistics_privacy import (
    AddNoiseToMinMax,
    HistogramBinsCleanser,
    MinCountCleanser,
    StatisticsPrivacyFilter,
)
from fedsag_cli.model import STATISTICS, FLModel
from fedsag_cli.testing import exchange


def of_x(**values):
    """Statistics of one feature of one data set."""
    return {name: {"train": {"x": value}} for name, value in values.items()}


def sent(values, *cleansers, seed=0):
    model = FLModel(params={}, meta={STATISTICS: values, "other": 1})
    return StatisticsPrivacyFilter(cleansers).process(model, exchange(seed=seed)).meta[STATISTICS]


def test_of_a_feature_with_too_few_values_only_the_count_is_sent():
    found = sent(of_x(count=9, failure_count=0, sum=3.0), MinCountCleanser(10))

    assert found == {"count": {"train": {"x": 9}}, "failure_count": {"train": {}}, "sum": {"train": {}}}


def test_values_that_could_not_be_read_do_not_count():
    assert sent(of_x(count=11, failure_count=2, sum=3.0), MinCountCleanser(10))["sum"] == {"train": {}}
    assert sent(of_x(count=11, failure_count=1, sum=3.0), MinCountCleanser(10))["sum"] == {"train": {"x": 3.0}}


@pytest.mark.parametrize(("bins", "is_sent"), [(9, True), (10, False)])
def test_a_histogram_needs_fewer_bins_than_the_share_of_values(bins, is_sent):
    """10 % of 98 values are 9.8, rounded 10."""
    values = of_x(count=100, failure_count=2, histogram=[[0.0, 1.0, 1]] * bins)

    assert ("x" in sent(values, HistogramBinsCleanser(10))["histogram"]["train"]) is is_sent


def test_noise_moves_the_ends_of_the_range_outwards_by_a_share_of_themselves():
    """A share from 0.1 to 0.3 of 10 and of -10: 7 to 9 below, -13 to -11; 11 to 13, -9 to -7 above."""
    values = {end: {"train": {"high": 10.0, "low": -10.0, "zero": 0.0}} for end in ("min", "max")}

    found = sent(values, AddNoiseToMinMax(0.1, 0.3))

    assert 7 <= found["min"]["train"]["high"] <= 9
    assert -13 <= found["min"]["train"]["low"] <= -11
    assert 11 <= found["max"]["train"]["high"] <= 13
    assert -9 <= found["max"]["train"]["low"] <= -7
    assert -3e-6 <= found["min"]["train"]["zero"] <= -1e-6
    assert 1e-6 <= found["max"]["train"]["zero"] <= 3e-6


def test_the_noise_is_the_sites_and_the_tasks_own():
    values = of_x(min=10.0)

    assert sent(values, AddNoiseToMinMax(0.1, 0.3), seed=1) == sent(values, AddNoiseToMinMax(0.1, 0.3), seed=1)
    assert sent(values, AddNoiseToMinMax(0.1, 0.3), seed=1) != sent(values, AddNoiseToMinMax(0.1, 0.3), seed=2)


def test_the_statistics_of_the_script_are_not_changed():
    values = of_x(count=1, sum=3.0)

    sent(values, MinCountCleanser(10))

    assert values == of_x(count=1, sum=3.0)


def test_an_answer_without_statistics_passes():
    model = FLModel(params={"w": 1.0})

    assert StatisticsPrivacyFilter([MinCountCleanser(10)]).process(model, exchange()) is model


@pytest.mark.parametrize(
    "made",
    [
        lambda: StatisticsPrivacyFilter(["min_count_cleanser"]),
        lambda: HistogramBinsCleanser(101),
        lambda: AddNoiseToMinMax(0.3, 0.1),
        lambda: AddNoiseToMinMax(0.3, 1.1),
        lambda: MinCountCleanser(-1),
    ],
)
def test_wrong_arguments_are_refused(made):
    with pytest.raises(JobError):
        made()
