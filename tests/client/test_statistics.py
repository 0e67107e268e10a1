"""What a client answers about its data."""

import math

import pytest

import fedsag_cli.client as flare
from fedsag_cli.client.statistics import DataType, DFStatisticsCore, Feature, Statistics, run
from fedsag_cli.client.statistics.loop import measured
from fedsag_cli.errors import ClientError

pytestmark = pytest.mark.usefixtures("fresh_process")

pandas = pytest.importorskip("pandas", reason="pandas is not installed: pip install 'fedsag[stats]'")


def table(**columns):
    core = DFStatisticsCore()
    core.data = {"train": pandas.DataFrame(columns)}
    return core


def of_x(name, settings=None, overall=None, x=(1.0, 2.0, 6.0)):
    found = measured(table(x=list(x)), {name: settings or {}}, overall or {})
    return found[name]["train"].get("x")


def test_counts_and_sums_leave_out_missing_values():
    values = (1.0, math.nan, 6.0)

    assert (of_x("count", x=values), of_x("sum", x=values)) == (2, 7.0)


def test_the_standard_deviation_is_that_of_a_sample():
    """Mean 3: sqrt((4 + 1 + 9) / 2)."""
    assert of_x("stddev") == pytest.approx(math.sqrt(7))


def test_a_part_of_the_variance_is_about_the_mean_of_all_sites():
    """About 2 of 5 values: (1 + 0 + 16) / 4."""
    overall = {"count": {"train": {"x": 5}}, "mean": {"train": {"x": 2.0}}}

    assert of_x("var", overall=overall) == 4.25


def test_a_histogram_counts_over_the_given_range_with_its_upper_end():
    assert of_x("histogram", {"x": {"bins": 2, "range": [0.0, 6.0]}}) == [[0.0, 3.0, 2], [3.0, 6.0, 1]]


def test_the_ends_are_told_of_features_whose_histogram_has_no_range():
    assert (of_x("min", {"*": {"bins": 2}}), of_x("max", {"*": {"bins": 2}})) == (1.0, 6.0)
    assert of_x("min", {"*": {"bins": 2, "range": [0, 1]}}) is None
    assert of_x("min", {"y": {"bins": 2}}) is None


def test_quantiles_come_with_their_summary():
    """Half of the 3 values are at 1.5, a third of the way between the groups' middles 1 and 2.5."""
    assert of_x("quantile", {"*": [0.5]}) == {"quantile": {"0.5": 3.0}, "centroids": [[1.5, 2.0], [6.0, 1.0]]}


def test_features_that_are_no_numbers_are_left_out():
    found = measured(table(x=[1], word=["a"], flag=[True], when=pandas.to_datetime(["2020-01-01"])), {"count": {}}, {})

    assert found == {"count": {"train": {"x": 1, "flag": 1}}}


def test_a_value_that_is_not_finite_is_left_out():
    assert of_x("stddev", x=[1.0]) is None


def test_a_site_without_data_sets_answers_with_nothing():
    core = DFStatisticsCore()
    core.data = {}

    assert measured(core, {"count": {}, "sum": {}}, {}) == {"count": {}, "sum": {}}


def test_a_task_of_another_workflow_is_named(serving):
    server = serving()
    flare.init()
    server.give(params={"w": 1.0})

    with pytest.raises(ClientError, match="the task 'train' asks for no statistics"):
        run(table(x=[1]))


def test_a_method_that_is_missing_is_named():
    class OnlyCounts(Statistics):
        def features(self):
            return {"train": [Feature("x", DataType.INT)]}

    with pytest.raises(ClientError, match="OnlyCounts cannot measure 'sum'"):
        measured(OnlyCounts(), {"sum": {}}, {})
