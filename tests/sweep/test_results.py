"""What came of a sweep: means over the seeds, the order of the variations, the best run."""

import pytest

from fedsag_cli.history.reading import FAILED, FINISHED
from fedsag_cli.sweep.page import named, write
from fedsag_cli.sweep.results import NOT_RUN, Measured, Result, best_of, summed_up, without_metric


def result(name, lr, seed, *, last=None, highest=None, lowest=None, metric="accuracy", status=FINISHED, **more):
    measured = {metric: Measured(lowest=lowest, highest=highest, last=last)} if last is not None else {}
    return Result(name=name, chosen=[lr], seed=seed, status=status, metrics=measured, **more)


RESULTS = [
    result("001", "0.1", 1, last=1.0, highest=2.0, lowest=0.0, seconds=1.5, run=11),
    result("002", "0.1", 2, last=3.0, highest=4.0, lowest=0.0, seconds=2.5, run=12),
    result("003", "0.2", 1, last=5.0, highest=9.0, lowest=-1.0, seconds=1.0, run=13),
    result("004", "0.2", 2, status=FAILED, cause="it fell", run=14),
    result("005", "0.3", 1, status=NOT_RUN),
    result("006", "0.3", 2, status=NOT_RUN),
]


def test_the_runs_with_the_same_values_are_one_row_with_mean_and_standard_deviation():
    report = summed_up(RESULTS, job="j", keys=["lr"])

    second = report.rows[1]
    assert (second.chosen, second.runs, second.seconds) == (["0.1"], [11, 12], 2.0)
    assert (second.best, second.last) == (3.0, 2.0)
    assert second.best_sd == pytest.approx(2**0.5)  # of 2 and 4: the squares of ±1, over 2 - 1
    assert second.last_sd == pytest.approx(2**0.5)


def test_a_failed_run_does_not_count_in_the_mean_and_one_value_has_no_deviation():
    first = summed_up(RESULTS, job="j", keys=["lr"]).rows[0]

    assert (first.chosen, first.best, first.best_sd, first.last) == (["0.2"], 9.0, None, 5.0)
    assert first.statuses == [FINISHED, FAILED]


def test_the_best_variation_is_first_and_one_without_a_value_last():
    assert [row.chosen for row in summed_up(RESULTS, job="j", keys=["lr"]).rows] == [["0.2"], ["0.1"], ["0.3"]]


def test_where_the_lowest_is_the_best_the_order_and_the_best_values_are_those():
    report = summed_up(RESULTS, job="j", keys=["lr"], lowest=True)

    assert [(row.chosen, row.best) for row in report.rows] == [(["0.2"], -1.0), (["0.1"], 0.0), (["0.3"], None)]


def test_a_metric_that_no_run_has_is_told_with_those_that_there_are():
    runs = [result("001", "0.1", 1, last=1.0, highest=2.0), result("002", "0.2", 1, status=FAILED)]

    assert list(without_metric(summed_up(runs, job="j", keys=["lr"], metric="acuracy"))) == [
        "no run has the metric 'acuracy', so they are in no order; there are: accuracy"
    ]
    assert list(without_metric(summed_up(runs, job="j", keys=["lr"], metric="accuracy"))) == []
    assert list(without_metric(summed_up(runs[1:], job="j", keys=["lr"], metric="accuracy"))) == []


def test_of_a_loss_the_lowest_is_the_best_without_being_told():
    losses = [
        result("001", "0.1", 1, metric="val_loss", last=1.0, highest=9.0, lowest=0.5),
        result("002", "0.2", 1, metric="val_loss", last=1.0, highest=8.0, lowest=0.7),
    ]

    report = summed_up(losses, job="j", keys=["lr"])

    assert (report.metric, report.lowest) == ("val_loss", True)
    assert report.rows[0].chosen == ["0.1"]
    assert best_of(losses, "val_loss") == (losses[0], 0.5)


def test_there_is_no_best_run_where_none_has_the_metric():
    assert best_of(RESULTS, "f1") is None
    assert best_of([], "accuracy") is None


def test_a_run_that_was_not_begun_has_not_failed():
    assert [each.name for each in summed_up(RESULTS, job="j", keys=["lr"]).failed] == ["004"]


def test_a_run_is_named_by_its_values_and_by_its_seed_where_there_are_several():
    several = summed_up(RESULTS, job="j", keys=["lr"])
    one = summed_up(RESULTS[:1], job="j", keys=["lr"])
    no_key = summed_up([Result(name="001", chosen=[], seed=3)], job="j", keys=[])

    assert named(RESULTS[0], several) == "lr=0.1 seed=1"
    assert named(RESULTS[0], one) == "lr=0.1"
    assert named(no_key.results[0], no_key) == "seed=3"


def test_the_page_has_a_row_for_each_variation_even_if_no_run_left_files(tmp_path):
    report = summed_up(RESULTS, job="j", keys=["lr"])

    write(report, tmp_path / "report.html")

    page = (tmp_path / "report.html").read_text()
    assert "Sweep of j" in page
    assert "3 of 6 runs finished" in page
    assert '"best accuracy","± best accuracy"' in page
