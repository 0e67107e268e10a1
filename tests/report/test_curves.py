"""The best and the last value of a metric."""

from fedsag_cli.report import BestReport, Report, RoundReport, curves


def report(*rounds, final=None, best=None):
    return Report(
        rounds=[RoundReport(round_num=number, metrics=metrics) for number, metrics in enumerate(rounds)],
        final_metrics=final or {},
        best=best,
    )


def test_the_lowest_loss_and_the_highest_accuracy_are_the_best():
    made = report({"loss": 0.5, "accuracy": 0.2}, {"loss": 0.25, "accuracy": 0.4}, {"loss": None, "accuracy": 0.3})

    assert curves.best(made, "loss") == (0.25, 1)
    assert curves.best(made, "accuracy") == (0.4, 1)
    assert curves.best(made, "accuracy", lowest=True) == (0.2, 0)
    assert curves.best(made, "recall") is None


def test_the_final_model_counts_too():
    made = report({"accuracy": 0.2}, final={"accuracy": 0.9})

    assert curves.best(made, "accuracy") == (0.9, None)
    assert curves.final(made, "accuracy") == 0.9
    assert curves.to_the_end(made, "accuracy") == [0.2, 0.9]
    assert curves.to_the_end(made, "loss") == [None]


def test_the_metric_that_selects_the_best_model_is_the_first():
    best = BestReport(round_num=0, metric="f1", score=1.0)

    assert curves.metrics_of(report({"loss": 1.0, "f1": 0.5}, best=best)) == ["f1", "loss"]
