"""What a list says of a metric: its best and last value, and its course in a few characters."""

from fedsag_cli.history import curves, differing
from fedsag_cli.report import BestReport, Report, RoundReport


def report(*rounds, final=None, best=None, **settings):
    return Report(
        rounds=[RoundReport(round_num=number, metrics=metrics) for number, metrics in enumerate(rounds)],
        final_metrics=final or {},
        best=best,
        settings=settings,
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


def test_the_metric_that_selects_the_best_model_is_the_first():
    best = BestReport(round_num=0, metric="f1", score=1.0)

    assert curves.metrics_of(report({"loss": 1.0, "f1": 0.5}, best=best)) == ["f1", "loss"]


def test_a_line_of_bars_goes_from_the_lowest_to_the_highest_with_gaps_where_nothing_was_measured():
    assert curves.sparkline([0, 1, None, 7, 3.5], 8) == "▁▂ █▅"
    assert curves.sparkline([5, 5], 8) == "▄▄"
    assert curves.sparkline([0, 2, 10, 12], 2) == "▂▇"  # means 1 and 11, from 0 to 12 in eight steps
    assert curves.sparkline([3], 8, scale=[0, 7]) == "▄"
    assert curves.sparkline([None], 8) == ""
    assert curves.sparkline([-1.7e308, 1.7e308], 8) == "▁█"


def test_only_settings_that_differ_are_told():
    made = [report(**{"s.conf lr": 0.1, "s.conf seed": 1}), report(**{"s.conf lr": 0.2, "s.conf seed": 1}), report()]

    assert differing.settings(made) == {"s.conf lr": [0.1, 0.2, None], "s.conf seed": [1, 1, None]}


def test_a_setting_is_called_by_as_much_of_its_end_as_is_its_own():
    names = [
        "server.conf workflows[0].args.lr", "client.conf executors[0].args.lr", "server.conf num_rounds",
        "server.conf components[3].id", "version of torch", "server.conf x", "client.conf x",
    ]  # fmt: skip

    assert differing.short_names(names) == {
        "server.conf components[3].id": "components[3].id",
        "version of torch": "version of torch",
        "server.conf x": "server.conf x",
        "client.conf x": "client.conf x",
        "server.conf workflows[0].args.lr": "workflows[0].args.lr",
        "client.conf executors[0].args.lr": "executors[0].args.lr",
        "server.conf num_rounds": "num_rounds",
    }
