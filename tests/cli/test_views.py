"""What `fedsag simulator` shows."""

from __future__ import annotations

import io

import msgspec
import pytest
from rich.console import Console

from fedsag_cli import events
from fedsag_cli.cli import views
from fedsag_cli.events import Failure
from fedsag_cli.simulator.report import ReportBuilder

STARTED = events.RunStarted(
    job="j", workspace="/w", sites=["site-1", "site-2"], slots=2, threads=1, seed=7, launcher="fork", versions={}
)


def a_round(number: int, **accuracy: float) -> list[events.Event]:
    """Everything that is told of a round in which each site measured its accuracy."""
    sites = [site.replace("_", "-") for site in accuracy]
    answers = [
        events.ReplyAccepted(
            site=site, task="train", round_num=number, metrics={"accuracy": value}, num_steps=1, size=10, work_s=0.5
        )
        for site, value in zip(sites, accuracy.values(), strict=True)
    ]
    mean = sum(accuracy.values()) / len(accuracy)
    finished = events.RoundFinished(
        round_num=number, sites=sites, metrics={"accuracy": mean}, wait_s=0.5, aggregate_s=0.1, save_s=0.0
    )
    asked = STARTED.sites
    return [events.RoundStarted(round_num=number, first_round=0, num_rounds=2, sites=asked), *answers, finished]


def report_of(*told: events.Event):
    reporter = ReportBuilder()
    for event in told:
        reporter.on(event)
    return reporter.report


def lines_of(*told: events.Event) -> list[str]:
    lines = views.Lines()
    return [line for event in told for line in lines.of(event)]


def test_a_run_is_told_in_plain_lines():
    told = [STARTED, events.ServerReady(whole_rounds=1), *a_round(1, site_1=10.0, site_2=20.0)]
    late = events.ReplyLate(site="site-2", task="train")
    stopped = events.ClientStopped(site="site-2", failure=Failure(cause="it did not answer"))
    failed = events.RunFinished(ok=False, exit_code=4, cause="too few", report="/w/report.json")

    assert lines_of(*told, late, stopped, events.Notice(text="no pictures"), failed) == [
        "job j: 2 clients, 2 at a time, 1 thread each, seed 7, fork",
        "workspace /w",
        "resumed: 1 round done",
        "round 1 started with 2 clients",
        "round 1: site-1 answered train in 0.5 s, accuracy 10",
        "round 1: site-2 answered train in 0.5 s, accuracy 20",
        "round 1 finished in 0.6 s: 2 answers, accuracy 15",
        "note: site-2 answered train too late: its answer is not used",
        "note: site-2: it did not answer",
        "note: no pictures",
        "the run failed; its report: /w/report.json",
    ]


def test_the_table_shows_each_sites_measurement_of_the_model_sent_in_the_round():
    report = report_of(STARTED, *a_round(0, site_1=10.0, site_2=20.0), *a_round(1, site_1=50.0, site_2=70.0))

    rows, columns = views.table_of(report)

    assert columns == ["round", "accuracy", "site-1", "site-2", "answered", "seconds"]
    assert [[row[name] for name in columns[:5]] for row in rows] == [
        ["0", "15", "10", "20", "2 of 2"],
        ["1", "60", "50", "70", "2 of 2"],
    ]


def test_the_final_model_has_a_row_of_its_own_where_it_was_validated():
    validated = events.ModelValidated(round_num=2, metrics={"accuracy": 80.0}, by_site={"site-1": {"accuracy": 80.0}})
    report = report_of(STARTED, *a_round(0, site_1=10.0, site_2=20.0), validated)

    rows, _ = views.table_of(report)

    assert (rows[-1]["round"], rows[-1]["accuracy"], rows[-1]["answered"]) == ("final", "80", "1 of 1")
    assert rows[-1]["site-2"] == ""


def test_the_table_of_several_workflows_says_which_a_round_is_of():
    def named(workflow, *told):
        return [msgspec.structs.replace(event, workflow=workflow) for event in told]

    validated = events.ModelValidated(round_num=1, metrics={"accuracy": 15.0}, by_site={"site-1": {"accuracy": 15.0}})
    first, second = a_round(0, site_1=10.0, site_2=20.0), a_round(0, site_1=50.0)
    report = report_of(STARTED, *named("warm_up", *first, validated), *named("main", *second))

    rows, columns = views.table_of(report)

    assert [[row[name] for name in columns[:5]] for row in rows] == [
        ["warm_up", "0", "15", "10", "20"],
        ["warm_up", "final", "15", "15", ""],
        ["main", "0", "50", "50", ""],
    ]


def test_a_round_in_which_a_site_failed_says_who_is_missing():
    failed = events.ReplyFailed(site="site-2", task="train", round_num=0, failure=Failure(cause="boom"))
    started, answer, finished = a_round(0, site_1=10.0)
    report = report_of(STARTED, started, answer, failed, finished)

    rows, _ = views.table_of(report)

    assert (rows[0]["answered"], rows[0]["site-1"], rows[0]["site-2"]) == ("1 of 2", "10", "")
    assert report.rounds[0].failed["site-2"].cause == "boom"


def test_those_that_were_not_waited_for_are_told_apart_from_those_that_failed(capsys):
    not_awaited = events.NotAwaited(site="site-2", task="train", round_num=0)
    started, answer, finished = a_round(0, site_1=10.0)
    again = events.NotAwaited(site="site-2", task="train", round_num=1)
    report = report_of(STARTED, started, answer, not_awaited, finished, *a_round(1, site_1=10.0)[:1], again)

    views.summary(report)

    said = capsys.readouterr().out
    assert "not waited for: site-2 in 2 rounds" in said
    assert "failed" not in said
    late = events.ReplyLate(site="site-2", task="train", round_num=0)
    assert lines_of(started, not_awaited, late)[1:] == ["round 0: site-2 is not waited for in train: enough answered"]


def test_many_sites_get_no_columns_of_their_own():
    many = events.RunStarted(
        job="j", workspace="/w", sites=[f"site-{n}" for n in range(200)], slots=2, threads=1, seed=7, launcher="fork",
        versions={},
    )  # fmt: skip
    report = report_of(many, *a_round(0, site_1=10.0))

    _, columns = views.table_of(report)

    assert columns == ["round", "accuracy", "answered", "seconds"]


def test_a_failure_is_told_with_its_place_and_the_end_of_its_log():
    failure = Failure(cause="ValueError: boom", where="/job/train.py:3", log="/w/site-1/log.txt", log_tail=["a", "b"])

    started = events.RoundStarted(round_num=4, first_round=0, num_rounds=5, sites=STARTED.sites)
    lines = lines_of(started, events.ReplyFailed(site="site-1", task="train", round_num=4, failure=failure))[1:]

    assert lines[0] == "round 4: site-1 failed in train: ValueError: boom"
    assert "/job/train.py:3" in lines[1]
    assert "/w/site-1/log.txt" in lines[2]
    assert [line.strip() for line in lines[3:]] == ["| a", "| b"]


@pytest.mark.parametrize("sites", [3, 50])
def test_the_live_view_shows_round_state_metrics_and_time_left(sites):
    live = views.LiveView()
    names = [f"site-{number}" for number in range(1, sites + 1)]
    told = [
        events.RunStarted(
            job="j", workspace="/w", sites=names, slots=2, threads=1, seed=7, launcher="fork", versions={}
        ),
        *a_round(0, site_1=10.0, site_2=20.0),
        events.RoundStarted(round_num=1, first_round=0, num_rounds=2, sites=names),
        events.TaskSent(site="site-1", task="train", round_num=1, size=1),
        events.ProcessExited(name="site-3", exit_code=1),
    ]
    for event in told:
        live._follow(event)
    screen = Console(file=io.StringIO(), width=100, force_terminal=False)

    screen.print(live._drawn())

    shown = screen.file.getvalue()
    assert "round 1 of 0–1" in shown
    assert "left" in shown
    if sites == 3:
        lines = {line.split()[0]: line for line in shown.splitlines() if line.split()[:1]}
        assert "working on train" in lines["site-1"]
        assert "accuracy 10" in lines["site-1"]
        assert "failed" in lines["site-3"]
    else:
        assert "1 working on train" in shown
        assert "1 failed" in shown


def test_what_happens_after_the_last_round_is_not_called_a_round():
    validated = events.ReplyAccepted(
        site="site-1", task="validate", round_num=2, metrics={"accuracy": 80.0}, num_steps=1, size=0, work_s=0.1
    )
    best = events.BestModel(round_num=2, metric="accuracy", score=80.0, is_final=True)

    assert lines_of(*a_round(1, site_1=70.0), validated, best)[-3:] == [
        "round 1 finished in 0.6 s: 1 answer, accuracy 70",
        "site-1 answered validate in 0.1 s, accuracy 80",
        "final model is the best so far: accuracy 80",
    ]
