"""The table at the end of a run."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsag_cli.cli import display, summary, table
from fedsag_cli.cli.display import Columns
from fedsag_cli.events import Failure
from fedsag_cli.report import (
    BaselineReport,
    BestReport,
    PrivacyReport,
    Report,
    RoundReport,
    TableReport,
    ValidationReport,
    over_sites,
)


def a_round(number: int, by_site: dict[str, dict[str, float | None]], **fields) -> RoundReport:
    """A whole round; the mean is plain."""
    sites = list(by_site)
    names = dict.fromkeys(name for own in by_site.values() for name in own)
    values = {name: [own[name] for own in by_site.values() if own.get(name) is not None] for name in names}
    means = {name: sum(each) / len(each) if each else None for name, each in values.items()}
    plain = {"asked": sites, "answered": sites, "metrics": means, "metrics_by_site": by_site, "total_s": 2.5}
    return RoundReport(round_num=number, is_whole=True, **(plain | fields))


def cells(made: table.Table) -> list[list[str]]:
    return [list(made.columns), *([row[name] for name in made.columns] for row in made.rows)]


def width_of(made: table.Table) -> int:
    columns = zip(*cells(made), strict=True)
    return sum(max(map(display.len_of, column)) + 2 for column in columns) - 2


def test_each_metric_is_one_column_with_the_range_over_the_sites_where_they_differ():
    report = Report(
        sites=["site-1", "site-2"],
        rounds=[
            a_round(0, {"site-1": {"accuracy": 10.0, "loss": 2.0}, "site-2": {"accuracy": 10.0, "loss": 2.0}}),
            a_round(1, {"site-1": {"accuracy": 50.0, "loss": -1.0}, "site-2": {"accuracy": 70.0, "loss": 1.0}}),
        ],
    )

    assert cells(table.brief(report, 80)) == [
        ["round", "accuracy (sites)", "loss (sites)", "answered", "seconds"],
        ["0", "10", "2", "2 of 2", "2.50"],
        ["1", "60 (50–70)", "0 (-1 to 1)", "2 of 2", "2.50"],
    ]


def test_the_final_model_and_the_best_one_are_rows():
    sites = {"site-1": {"accuracy": 60.0}}
    best = BestReport(round_num=1, metric="accuracy", score=61.0)
    final = ValidationReport(
        round_num=2,
        metrics={"accuracy": 55.0},
        metrics_by_site={"site-1": {"accuracy": 55.0}},
        failed={"site-2": Failure(cause="boom")},
    )
    report = Report(sites=["site-1", "site-2"], rounds=[a_round(1, sites)], validations=[final], best=best)

    assert cells(table.brief(report, 80))[2:] == [["final", "55", "1 of 2", ""], ["best: 1", "61", "1 of 1", ""]]

    report.best = msgspec.structs.replace(best, is_final=True)
    assert cells(table.brief(report, 80))[2:] == [["final", "55", "1 of 2", ""], ["best: final", "61", "1 of 2", ""]]


def test_the_rounds_of_several_workflows_stand_apart():
    rounds = [
        a_round(0, {"site-1": {"accuracy": 1.0}}, workflow="warm_up"),
        a_round(0, {"site-1": {"accuracy": 5.0}}, workflow="main"),
    ]
    final = ValidationReport(workflow="warm_up", round_num=1, metrics={"accuracy": 2.0})

    report = Report(sites=["site-1"], rounds=rounds, validations=[final])

    assert [row[:3] for row in cells(table.brief(report, 80))] == [
        ["workflow", "round", "accuracy"],
        ["warm_up", "0", "1"],
        ["warm_up", "final", "2"],
        ["main", "0", "5"],
    ]


def test_a_metric_called_as_a_column_of_ours_has_a_column_of_its_own():
    names = ["seconds", "round", "answered", "workflow", "site-1"]
    measured = {name: float(number) for number, name in enumerate(names)}

    heads, row = cells(table.brief(Report(sites=["site-1"], rounds=[a_round(0, {"site-1": measured})]), 200))

    assert heads == ["round", *(f"{name} (metric)" for name in names[:4]), "site-1", "answered", "seconds"]
    assert row == ["0", "0", "1", "2", "3", "4", "1 of 1", "2.50"]


def test_a_round_that_was_not_finished_has_no_seconds():
    report = Report(sites=["site-1"], rounds=[RoundReport(round_num=0, asked=["site-1"])])

    assert cells(table.brief(report, 80))[1] == ["0", "0 of 1", ""]


_numbers = st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False))
_names = st.text(min_size=1, max_size=60)


@settings(deadline=None, max_examples=150)
@given(
    metrics=st.lists(_names, min_size=1, max_size=30, unique=True),
    sites=st.integers(1, 40),
    workflows=st.lists(_names, min_size=1, max_size=2),
    width=st.sampled_from([40, 80, 200]),
    data=st.data(),
)
def test_the_table_fits_whatever_the_metrics_and_sites_are(metrics, sites, workflows, width, data):
    values = data.draw(st.lists(_numbers, min_size=3, max_size=3))
    by_site = {
        f"site-{number}": {name: values[(number + at) % 3] for at, name in enumerate(metrics)}
        for number in range(sites)
    }
    rounds = [a_round(number, by_site, workflow=each) for number, each in enumerate(workflows)]
    best = BestReport(workflow=workflows[0], round_num=0, metric=metrics[-1], score=1e-300)

    made = table.brief(Report(sites=list(by_site), rounds=rounds, best=best), width)

    if width >= 80 or len(set(workflows)) == 1:
        assert width_of(made) <= width
    assert len(set(made.columns)) == len(made.columns)
    missing = len(metrics) - (len(made.columns) - 1 - ("workflow" in made.columns[:1]))
    ours = ("answered", "seconds", *(over_sites.NAMES if sites > over_sites.MANY else ()))
    assert ("metric" in made.left_out) is (missing + sum(name in made.columns for name in ours) > 0)


@pytest.mark.parametrize(("metrics", "sites"), [(1, 200), (5000, 2)])
def test_what_is_left_out_is_said_with_the_command_that_shows_it(capsys, metrics, sites):
    names = [f"site-{number}" for number in range(sites)]
    by_site = {site: {f"class_{at}": number + 0.5 for at in range(metrics)} for number, site in enumerate(names)}

    summary.summary(Report(sites=names, workspace="/my runs/w", rounds=[a_round(0, by_site)]))

    said = capsys.readouterr().out
    assert ("of 5,000 metrics" in said) is (metrics == 5000)
    assert ("`fedsag watch '/my runs/w' --table full` shows all" in said) is (metrics == 5000)
    assert max(len(line) for line in said.splitlines()[:3]) <= 80


def of_many(**fields) -> Report:
    """Two rounds in which 101 of 10,000 sites measured 0.00 to 1.00, and one that failed."""
    sites = [f"site-{number}" for number in range(10_000)]
    by_site = {site: {"accuracy": number / 100, "loss": 2.5} for number, site in enumerate(sites[5000:5101])}
    rounds = [
        a_round(
            number,
            by_site,
            asked=[*by_site, "site-9000"],
            failed={"site-9000": Failure(cause="boom")},
            num_steps=dict.fromkeys(by_site, 1.0),
            work_s={site: 0.5 + (site == "site-5007") * number for site in by_site},
        )
        for number in range(2)
    ]
    return Report(sites=sites, workspace="/w", rounds=rounds, **fields)


def test_of_many_sites_the_table_has_the_quantiles_of_the_first_metric():
    assert cells(table.brief(of_many(), 80)) == [
        ["round", "accuracy", "min", "10 %", "median", "90 %", "max", "loss", "answered", "seconds"],
        *([number, "0.5", "0", "0.1", "0.5", "0.9", "1", "2.5", "101 of 102", "2.50"] for number in "01"),
    ]


@pytest.mark.parametrize(
    ("width", "left"), [(66, ["10 %", "median", "90 %", "loss"]), (58, ["10 %", "median", "90 %"])]
)
def test_where_there_is_less_room_the_ends_of_the_quantiles_give_way_first(width, left):
    made = table.brief(of_many(), width)

    assert list(made.columns) == ["round", "accuracy", *left, "answered", "seconds"]


def test_where_many_sites_measured_the_same_there_are_no_quantiles():
    by_site = {f"site-{number}": {"accuracy": 5.0} for number in range(40)}
    report = Report(sites=list(by_site), rounds=[a_round(0, by_site)])

    assert table.brief(report, 80).columns == ["round", "accuracy", "answered", "seconds"]
    assert summary.farthest(report) == []


def test_a_metric_that_is_called_as_a_quantile_keeps_its_column():
    by_site = {f"site-{number}": {"median": float(number)} for number in range(31)}

    head = cells(table.brief(Report(sites=list(by_site), rounds=[a_round(0, by_site)]), 80))[0]

    assert head[:3] == ["round", "median (metric)", "min"]
    assert len(set(head)) == len(head)


def test_the_full_table_of_many_sites_has_a_row_for_each_that_took_part_and_none_for_others():
    rounds, each = table.full(of_many(), None)

    assert cells(rounds) == [
        ["round", "accuracy", "loss", "answered", "seconds"],
        *([number, "0.5", "2.5", "101 of 102", "2.50"] for number in "01"),
    ]
    head, *rows = cells(each)
    assert head == ["round", "site", "accuracy", "loss", "answer", "seconds"]
    assert len(rows) == 2 * 102
    assert rows[7 + 102] == ["1", "site-5007", "0.07", "2.5", "answered", "1.50"]
    assert rows[101] == ["0", "site-9000", "", "", "failed", ""]


def test_sites_that_are_many_only_in_all_rounds_together_have_no_column_each():
    sites = [f"site-{number}" for number in range(100)]
    rounds = [
        a_round(number, {site: {"accuracy": 1.0} for site in sites[number * 10 : number * 10 + 10]})
        for number in range(10)
    ]

    means, each = table.full(Report(sites=sites, rounds=rounds), None)

    assert list(means.columns) == ["round", "accuracy", "answered", "seconds"]
    assert [row["site"] for row in each.rows] == sites


def test_of_many_sites_the_worst_and_the_slowest_are_named():
    assert summary.farthest(of_many()) == [
        "lowest accuracy in round 1: site-5000 0, site-5001 0.01, site-5002 0.02",
        "longest tasks: site-5007 1.5 s, site-5000 0.5 s, site-5001 0.5 s; of 101 clients the median is 0.5 s",
    ]
    of_loss = of_many(best=BestReport(round_num=0, metric="loss", score=2.5))
    assert summary.farthest(of_loss)[0].startswith("longest tasks: ")  # the loss is that of all
    of_loss.rounds[1].metrics_by_site = {f"site-{number}": {"loss": number / 10} for number in range(40)}
    assert summary.farthest(of_loss)[0] == "highest loss in round 1: site-39 3.9, site-38 3.8, site-37 3.7"
    assert summary.farthest(Report(sites=["a"], rounds=[a_round(0, {"a": {"accuracy": 1.0}})])) == []


def test_the_full_table_has_every_value_and_no_part_of_it_is_wider_than_the_terminal():
    by_site = {f"site-{number}": {"accuracy": number + 0.25, "loss": number + 0.75} for number in range(20)}
    report = Report(sites=list(by_site), rounds=[a_round(3, by_site)])

    parts = list(table.full(report, 60))
    [whole] = table.full(report, None)

    assert all(width_of(part) <= 60 and part.columns[0] == "round" for part in parts)
    assert [name for part in parts for name in part.columns[1:]] == list(whole.columns[1:])
    assert cells(whole)[1][:4] == ["3", "9.75", "0.25", "1.25"]
    assert len(whole.columns) == 1 + 2 * 21 + 2
    assert whole.rows[0]["site-19 loss"] == "19.75"


def test_a_quiet_end_has_the_table_the_failures_and_where_the_run_is_found(capsys):
    report = Report(sites=["site-1"], workspace="/w", rounds=[a_round(0, {"site-1": {"accuracy": 10.0}})])
    report.models, report.digest = ["/w/model.pt"], "d1d1"
    report.tables = [TableReport(title="cross", columns=["a"], rows=[[1.0]])]

    summary.summary(report, Columns.BRIEF, quiet=True)

    assert capsys.readouterr().out.splitlines() == [
        "",
        "round  accuracy  answered  seconds",
        "0      10        1 of 1    2.50",
        "",
        "page       /w/report.html",
        "report     /w/report.json",
    ]


def test_the_end_names_the_page_before_all_other_files_and_the_best_model_once(capsys):
    best = BestReport(round_num=0, metric="accuracy", score=10.0)
    rounds = [a_round(0, {"site-1": {"accuracy": 10.0}})]

    summary.summary(Report(sites=["site-1"], workspace="/w", rounds=rounds, best=best, models=["/w/m.pt"], digest="d1"))

    table_, _, places = capsys.readouterr().out.partition("was not measured\n")
    assert [line.split()[0] for line in places.splitlines()] == ["page", "report", "model", "logs", "digest", "seconds"]
    assert (table_ + places).count("best") == 1


@pytest.mark.parametrize(("epsilon", "shown"), [(3.81149, "3.811"), (None, "infinite")])
def test_the_end_tells_what_privacy_was_spent(capsys, epsilon, shown):
    spent = [PrivacyReport(epsilon=each, delta=1e-5, mechanism="by noise") for each in (1.0, epsilon)]
    rounds = [a_round(number, {"site-1": {}}, privacy=each) for number, each in enumerate(spent)]

    summary.summary(Report(sites=["site-1"], rounds=rounds))

    told = capsys.readouterr().out.splitlines()
    assert [line for line in told if "privacy" in line] == [f"privacy: epsilon {shown} at delta 1e-05, by noise"]


@pytest.mark.parametrize(("earlier_s", "shown"), [(12.0, "29.5, 17.5 of them since the resume"), (0.0, "17.5")])
def test_the_seconds_of_a_run_are_those_of_all_its_parts(capsys, earlier_s, shown):
    summary.summary(Report(earlier_s=earlier_s, times={"run_finished_s": 17.5}))

    assert f"seconds    {shown}" in capsys.readouterr().out.splitlines()


def test_of_a_result_table_with_many_rows_the_first_are_printed(capsys):
    found = TableReport(title="values", columns=["site", "value"], rows=[[f"s{at}", float(at)] for at in range(2000)])

    summary.summary(Report(workspace="/w", tables=[found]))

    said = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("s") and line[1].isdigit() for line in said) == 100
    assert "not in the table: 1,900 of 2,000 rows; report.json has all" in said


def test_baselines_stand_in_a_block_beside_the_federated_run(capsys):
    by_site = {"site-1": {"acc": 0.5}, "site-2": {"acc": 0.7}}
    one = RoundReport(round_num=0, metrics={"acc": 0.6}, metrics_by_site=by_site, num_steps={"site-1": 1000.0})
    alone = BaselineReport(
        kind="local", run=8, ok=True, metrics={"acc": 0.4}, metrics_by_site=by_site, num_steps=1000, seconds=2.25
    )
    pooled = BaselineReport(kind="centralised", cause="no data for pooled", num_steps=10)

    summary.summary(Report(workspace="/w", rounds=[one], baselines=[alone, pooled]), quiet=True)

    said = [line.split() for line in capsys.readouterr().out.splitlines()]
    at = said.index(["training", "acc", "(sites)", "steps", "seconds", "run"])
    assert said[at + 1] == ["federated", "0.6", "(0.5–0.7)", "1,000", "-", "-"]
    assert said[at + 2] == ["local", "0.4", "(0.5–0.7)", "1,000", "2.2", "8"]
    assert said[at + 3] == ["centralised", "failed", "10", "-", "-"]
