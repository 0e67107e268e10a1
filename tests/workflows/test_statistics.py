"""Statistics over sites that answer at once, by hand-computed numbers."""

from pathlib import Path

import pytest

from fedsag_cli import events
from fedsag_cli.client.statistics import DFStatisticsCore
from fedsag_cli.client.statistics.loop import measured
from fedsag_cli.errors import JobError, NotEnoughClients
from fedsag_cli.filters.statistics_privacy import MinCountCleanser, StatisticsPrivacyFilter
from fedsag_cli.model import GLOBAL_STATISTICS, STATISTICS, FLModel
from fedsag_cli.testing import FakeClients, exchange
from fedsag_cli.workflows.run import Run
from fedsag_cli.workflows.statistics import StatisticsController

pandas = pytest.importorskip("pandas", reason="pandas is not installed: pip install 'fedsag[stats]'")

ALL = {"count": {}, "sum": {}, "mean": {}, "var": {}, "stddev": {}}


class Sites(FakeClients):
    """Clients that take the tasks of statistics."""

    def __init__(self, **scripts):
        super().__init__(**scripts)
        self._scripts["fed_stats"] = scripts


class Kept:
    """A writer that keeps what it is given."""

    files = ()

    def save(self, statistics):
        self.statistics = statistics
        return Path("/fake/stats.json")


def site(*filters, **columns):
    core = DFStatisticsCore()
    core.data = {"train": pandas.DataFrame(columns)}

    def answers(model):
        found = measured(core, model.meta[STATISTICS], model.meta[GLOBAL_STATISTICS])
        answer = FLModel(params={}, meta={STATISTICS: found})
        for each in filters:
            answer = each.process(answer, exchange())
        return answer

    return answers


def replaced(answers, statistic, value):
    """A site that sends this value of a statistic of x where it is asked for it."""

    def answers_otherwise(model):
        answer = answers(model)
        if statistic in answer.meta[STATISTICS]:
            answer.meta[STATISTICS][statistic] = {"train": {"x": value}}
        return answer

    return answers_otherwise


def statistics(settings, told=None, *, min_clients=None, **sites):
    writer = Kept()
    workflow = StatisticsController(writer, settings, min_clients=min_clients, precision=3)
    workflow.run(Sites(**sites), Run(emit=[].append if told is None else told.append))
    return writer.statistics


def of_x(found, name, where="Global"):
    return found["x"][name][where]["train"]


def test_numbers_over_all_sites_are_those_of_all_their_values():
    """1 2 3 and 5 7: sum 18, mean 3.6, squares about it 6.76 + 2.56 + 0.36 + 1.96 + 11.56 = 23.2, over 4 is 5.8."""
    found = statistics(ALL, a=site(x=[1, 2, 3]), b=site(x=[5, 7]))

    assert {name: of_x(found, name) for name in ALL} == {
        "count": 5,
        "sum": 18.0,
        "mean": 3.6,
        "var": 5.8,
        "stddev": 2.408,
    }


def test_each_site_has_its_own_numbers():
    found = statistics(ALL, a=site(x=[1, 2, 3]), b=site(x=[5, 7]))

    assert [of_x(found, name, "b") for name in ALL] == [2, 12.0, 6.0, 2.0, 1.414]


def test_the_bins_of_all_sites_have_the_range_of_all_sites():
    found = statistics({"histogram": {"*": {"bins": 2}}}, a=site(x=[1, 2, 3]), b=site(x=[5, 7]))

    assert of_x(found, "histogram") == [[1.0, 4.0, 3], [4.0, 7.0, 2]]
    assert of_x(found, "histogram", "a") == [[1.0, 4.0, 3], [4.0, 7.0, 0]]


def test_a_feature_can_have_bins_and_a_range_of_its_own():
    settings = {"histogram": {"x": {"bins": 1, "range": [0, 3]}, "*": {"bins": 1}}}

    found = statistics(settings, a=site(x=[1, 2, 9], y=[4, 5, 6]))

    assert of_x(found, "histogram") == [[0.0, 3.0, 2]]
    assert found["y"]["histogram"]["Global"]["train"] == [[4.0, 6.0, 3]]


def test_a_feature_without_bins_has_no_histogram():
    found = statistics({"count": {}, "histogram": {"x": {"bins": 1}}}, a=site(x=[1, 2], y=[4, 5]))

    assert (list(found["x"]), list(found["y"])) == (["count", "histogram"], ["count"])


def test_quantiles_are_those_of_the_summaries_of_all_sites():
    """Each site has the groups (1.5, 2) (3.5, 2): half of the 8 values are at 4, between the middles 2 and 6."""
    found = statistics({"quantile": {"*": [0.5]}}, a=site(x=[1, 2, 3, 4]), b=site(x=[1, 2, 3, 4]))

    assert of_x(found, "quantile") == {"0.5": 2.5}


def test_a_site_that_keeps_its_sum_back_is_not_in_the_mean():
    keeps_back = StatisticsPrivacyFilter([MinCountCleanser(3)])

    found = statistics(ALL, a=site(keeps_back, x=[1, 2, 3]), b=site(keeps_back, x=[50, 70]))

    assert of_x(found, "count") == 5
    assert [of_x(found, name) for name in ("sum", "mean", "var")] == [6.0, 2.0, 1.0]
    assert "b" not in found["x"]["mean"]


def test_the_numbers_over_all_sites_are_a_table():
    told = []

    statistics({"mean": {}, "quantile": {"*": [0.5]}}, told, a=site(x=[1.0, 2.0]), b=site(x=[3.0]))

    [table] = [event for event in told if isinstance(event, events.ResultTable)]
    assert table.columns == ["data set", "feature", "mean", "quantile 0.5"]
    assert table.rows == [["train", "x", 2.0, 2.0]]


def test_a_site_that_fails_is_left_out_if_enough_others_answer():
    found = statistics({"sum": {}}, min_clients=1, a=site(x=[1, 2]), b=lambda model: None)

    assert of_x(found, "sum") == 3.0


def test_a_site_that_fails_ends_it_if_all_are_needed():
    with pytest.raises(NotEnoughClients):
        statistics({"sum": {}}, a=site(x=[1, 2]), b=lambda model: None)


def count_of_x(**others):
    return lambda model: FLModel(
        params={}, meta={STATISTICS: {"count": {"train": {"x": 2}}, "failure_count": {}, **others}}
    )


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (lambda model: FLModel(params={}), "its answer has no statistics count, failure_count, sum"),
        (count_of_x(), "its answer has no statistics count, failure_count, sum"),
        (count_of_x(sum={"train": {"y": 1.0}}), "sum of 'y' in 'train' is 1.0, or has no count"),
        (count_of_x(sum={"train": {"x": float("nan")}}), "sum of 'x' in 'train' is nan, or has no count"),
        (count_of_x(sum={"train": {"x": 1e308}}), "sum of 'x' in 'train' is 1e+308, or has no count"),
        (count_of_x(sum={"train": {"x": "many"}}), "sum of 'x' in 'train' is many, or has no count"),
        (count_of_x(sum={"train": {"x": True}}), "sum of 'x' in 'train' is True, or has no count"),
        (
            count_of_x(sum={"train": {"x": 10**400}}),
            "sum has another form: OverflowError: int too large to convert to float",
        ),
        (
            count_of_x(sum={}, failure_count={"train": {"x": -1}}),
            "failure_count of 'x' in 'train' is -1, or has no count",
        ),
        (count_of_x(sum=7), "sum has another form: AttributeError: 'int' object has no attribute 'items'"),
    ],
)
def test_an_answer_that_is_no_statistics_has_failed(answer, says):
    sites = Sites(a=site(x=[1, 2]), b=answer)

    StatisticsController(Kept(), {"sum": {}}, min_clients=1).run(sites, Run(emit=[].append))

    assert sites.rejected == {"b": says}


@pytest.mark.parametrize(
    ("statistic", "setting", "wrong", "says"),
    [
        ("stddev", {}, -5.0, "var of 'x' in 'train' is -5.0"),
        ("histogram", {"*": {"bins": 1, "range": [0, 9]}}, [[0.0, 9.0, -2]], "histogram of 'x' in 'train' is [[0.0,"),
        (
            "histogram",
            {"*": {"bins": 1, "range": [0, 9]}},
            [[0.0, 8.0, 2]],
            "histogram of 'x' in 'train' is [[0.0, 8.0,",
        ),
        (
            "histogram",
            {"*": {"bins": 2, "range": [0, 9]}},
            [[0, 3, 1], [3, 9, 1]],
            "histogram of 'x' in 'train' is [[0, 3,",
        ),
        ("quantile", {"*": [0.5]}, {"quantile": {"0.5": 1.0}, "centroids": [[1.0, 0]]}, "quantile of 'x' in 'train'"),
    ],
)
def test_a_number_that_cannot_be_is_a_failure_of_that_site_alone(statistic, setting, wrong, says):
    sites = Sites(a=site(x=[1, 2]), b=replaced(site(x=[3, 4]), "var" if statistic == "stddev" else statistic, wrong))

    with pytest.raises(NotEnoughClients):
        StatisticsController(Kept(), {statistic: setting}).run(sites, Run(emit=[].append))

    assert sites.rejected["b"].startswith(says)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({}, "is empty"),
        ({"mode": {}}, "no statistic 'mode'"),
        ({"histogram": {"*": {"range": [0, 1]}}}, "must have bins"),
        ({"histogram": {"*": {"bins": 5, "range": [1, 1]}}}, "must have bins"),
        ({"quantile": {"*": [25, 50]}}, "from 0 to 1"),
    ],
)
def test_wrong_settings_are_named(settings, says):
    with pytest.raises(JobError, match=says):
        StatisticsController(Kept(), settings)


def test_without_a_client_for_the_task_it_says_so():
    with pytest.raises(JobError, match="no client takes the task 'fed_stats'"):
        StatisticsController(Kept(), {"count": {}}).run(FakeClients(a=site(x=[1])), Run(emit=[].append))
