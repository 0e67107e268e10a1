"""A federated run beside its baselines: what is compared, and why the comparison may be unfair."""

from reports import a_round

from fedsag_cli.report import BaselineReport, Report, baselines


def report(**other):
    by_site = {"site-1": {"acc": 60.0}, "site-2": {"acc": 80.0}}
    return Report(rounds=[a_round(0, by_site, num_steps={"site-1": 50, "site-2": 150})], ok=True, **other)


def baseline(kind="local", **other):
    return BaselineReport(kind=kind, ok=True, **other)


def test_the_final_model_is_compared_if_it_was_measured_else_that_of_the_last_round():
    unmeasured = baselines.outcome(report(), "federated")
    final = {"a": {"acc": 90.0}}
    measured = baselines.outcome(report(final_metrics={"acc": 90.0}, final_metrics_by_site=final), "federated")

    assert (unmeasured.is_final, unmeasured.metrics) == (False, {"acc": 70.0})
    assert (measured.is_final, measured.metrics, measured.metrics_by_site) == (
        True,
        {"acc": 90.0},
        {"a": {"acc": 90.0}},
    )
    assert unmeasured.num_steps == 200


def test_a_run_without_baselines_has_no_rows():
    assert baselines.rows(report()) == []


def test_the_first_row_is_the_federated_run_and_all_have_the_same_metric():
    alone = baseline(metrics={"acc": 55.0, "loss": 1.0}, metrics_by_site={"site-1": {"acc": 50.0}}, num_steps=200)

    first, second = baselines.rows(report(baselines=[alone]), 7)

    assert (first.kind, first.run, first.value, first.values) == ("federated", 7, 70.0, [60.0, 80.0])
    assert (second.kind, second.value, second.values, second.num_steps) == ("local", 55.0, [50.0], 200)


def test_numbers_of_steps_that_differ_by_more_than_a_twentieth_are_doubted():
    def doubts(steps):
        return list(baselines.doubts(report(baselines=[baseline(num_steps=steps)])))

    assert doubts(210) == doubts(190) == []
    assert doubts(211)[0].startswith("local trained 211 steps, federated 200")
    assert len(doubts(100)) == 1


def test_a_fork_that_is_compared_with_runs_that_have_its_settings_from_the_first_round_on_is_doubted():
    (doubt,) = baselines.doubts(report(inherited_rounds=1, baselines=[baseline(num_steps=200)]))

    assert doubt == (
        "federated is a fork, and has 1 round of its parent; its baselines have the settings of the fork in all rounds"
    )


def test_models_that_were_measured_at_other_times_are_doubted():
    (doubt,) = baselines.doubts(report(baselines=[baseline(num_steps=200, is_final=True)]))

    assert doubt == "local has the metrics of the final model, federated not"


def test_of_a_baseline_that_failed_nothing_else_is_said():
    failed = BaselineReport(kind="local", cause="no data")

    assert list(baselines.doubts(report(baselines=[failed]))) == []
    assert baselines.rows(report(baselines=[failed]))[1].cause == "no data"


def test_a_baseline_takes_the_place_of_an_earlier_one_of_its_kind():
    told = report(baselines=[baseline(), baseline("centralised")])

    baselines.replaced(told, baseline(num_steps=3))

    assert [(each.kind, each.num_steps) for each in told.baselines] == [("local", 3), ("centralised", 0)]
