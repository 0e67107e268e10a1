"""What `fedsag simulator` shows."""

from __future__ import annotations

import io

import msgspec
import pytest
from rich.console import Console

from fedsag_cli import events
from fedsag_cli.cli import views
from fedsag_cli.events import Failure
from fedsag_cli.report import Report, ReportBuilder, RoundReport

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


@pytest.mark.parametrize(("epsilon", "shown"), [(3.81149, "3.811"), (None, "infinite")])
def test_the_end_tells_what_privacy_was_spent(monkeypatch, epsilon, shown):
    first = events.PrivacySpent(round_num=0, epsilon=1.0, delta=1e-5, mechanism="by noise")
    last = events.PrivacySpent(round_num=1, epsilon=epsilon, delta=1e-5, mechanism="by noise")
    told: list[str] = []
    monkeypatch.setattr(views.display, "line", told.append)

    views.summary(report_of(STARTED, *a_round(0, site_1=1.0), first, *a_round(1, site_1=2.0), last))

    assert [line for line in told if "privacy" in line] == [f"privacy: epsilon {shown} at delta 1e-05, by noise"]


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

    screen.print(live.screen._drawn())

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
        "round 1 finished in 0.6 s: 1 answer of 2 clients, accuracy 70",
        "site-1 answered validate in 0.1 s, accuracy 80",
        "final model is the best so far: accuracy 80",
    ]


def many_clients(count: int) -> events.RunStarted:
    return msgspec.structs.replace(STARTED, sites=[f"site-{number}" for number in range(1, count + 1)])


def failed(site: str, cause: str, *, round_num: int = 0) -> events.ReplyFailed:
    failure = Failure(cause=cause, where="/job/train.py:3", log=f"/w/{site}/log.txt", log_tail=["a", "b"])
    return events.ReplyFailed(site=site, task="train", round_num=round_num, failure=failure)


def started(round_num: int, sites: list[str], num_rounds: int = 4) -> events.RoundStarted:
    return events.RoundStarted(round_num=round_num, first_round=0, num_rounds=num_rounds, sites=sites)


def test_a_round_tells_whose_updates_krum_chose():
    finished = events.RoundFinished(
        round_num=2,
        sites=["site-1", "site-2"],
        metrics={},
        wait_s=0.5,
        aggregate_s=0.5,
        save_s=0.0,
        aggregate={"chosen": ["site-2", "site-1"]},
    )

    assert lines_of(finished) == ["round 2 finished in 1.0 s: 2 answers", "round 2: chosen: site-2, site-1"]


def test_a_metric_called_as_a_column_of_ours_has_a_column_of_its_own():
    names = ["seconds", "round", "answered", "workflow", "site-1"]
    measured = {name: float(number) for number, name in enumerate(names)}
    answer = events.ReplyAccepted(
        site="site-1", task="train", round_num=0, metrics=measured, num_steps=1, size=0, work_s=0.5
    )
    finished = events.RoundFinished(
        round_num=0, sites=["site-1"], metrics=measured, wait_s=0, aggregate_s=0, save_s=0, at=12.5
    )
    begun = msgspec.structs.replace(started(0, ["site-1"]), at=10.0)
    report = report_of(many_clients(1), begun, answer, finished)

    [row], columns = views.table_of(report, width=200)

    assert len(set(columns)) == len(columns)
    assert (row["round"], row["answered"], row["seconds"]) == ("0", "1 of 1", "2.50")
    assert [row[f"{name} (metric)"] for name in names[:4]] == ["0", "1", "2", "3"]
    assert row["site-1"] == "4"


@pytest.mark.parametrize("sites", [1, 2, 6, 40])
@pytest.mark.parametrize("metrics", [1, 3, 20, 5000])
def test_the_table_fits_80_columns_and_says_what_is_not_in_it(sites, metrics):
    names = [f"site-{number}" for number in range(1, sites + 1)]
    measured = {f"class_{number}_accuracy_of_the_validation_set": 0.5 for number in range(metrics)}
    rounds = [
        RoundReport(
            round_num=number,
            asked=names,
            answered=names,
            metrics=measured,
            metrics_by_site=dict.fromkeys(names, measured),
        )
        for number in range(3)
    ]

    table = views.Table(Report(sites=names, rounds=rounds), 80)

    widths = [max(len(heading), *(len(row[heading]) for row in table.rows)) for heading in table.columns]
    assert sum(widths) + 2 * (len(widths) - 1) <= 80
    assert "0.5" in table.rows[0].values()
    shown = sum("class_" in column for column in table.columns)
    assert (f" of {metrics:,} metrics" in table.left_out) is (metrics > 2)
    assert ("each client" in table.left_out) is (sites > 1 and (metrics > 1 or sites > 4)), shown


def test_a_run_that_was_interrupted_has_not_failed():
    over = events.RunFinished(ok=False, exit_code=130, cause="interrupted", report="/w/report.json")

    assert lines_of(over) == ["the run ended early; its report: /w/report.json"]


def test_clients_that_fail_alike_are_told_once_with_one_log():
    sites = [f"site-{number}" for number in range(1, 17)]
    failures = [failed(site, f"ValueError: no data in /data/{site}") for site in sites]
    over = events.RunFinished(ok=False, exit_code=4, cause="too few", report="/w/report.json")

    assert lines_of(many_clients(16), started(0, sites), *failures, over)[3:] == [
        "round 0: site-1 failed in train: ValueError: no data in /data/site-1",
        "    at /job/train.py:3",
        "    the last lines of /w/site-1/log.txt:",
        "    | a",
        "    | b",
        "round 0: 16 of 16 clients failed alike: ValueError: no data in /data/<site>",
        "the run failed; its report: /w/report.json",
    ]


def test_a_client_that_is_out_of_the_run_is_not_told_again_in_every_round():
    gone = [failed("site-2", "out of the run since round 0: boom", round_num=number) for number in (1, 2, 3)]
    told = [started(0, STARTED.sites), failed("site-2", "boom")]
    for each in gone:
        told += [started(each.round_num, STARTED.sites), each]

    assert [line for line in lines_of(STARTED, *told) if "site-2 failed" in line] == [
        "round 0: site-2 failed in train: boom",
        "round 1: site-2 failed in train: out of the run since round 0: boom",
    ]


def test_a_failure_that_was_told_is_not_told_again_at_the_end():
    told = [STARTED, started(0, STARTED.sites), failed("site-1", "boom"), failed("site-2", "boom")]
    lines = views.Lines()
    for event in told:
        lines.of(event)

    assert views.failures(report_of(*told), lines.told) == []
    assert views.failures(report_of(*told))[:2] == [
        "2 of 2 clients failed alike: site-1, site-2; the first:",
        "site-1, round 0, train: boom",
    ]


def test_a_line_names_a_few_of_many_metrics():
    [line] = lines_of(
        events.ReplyAccepted(
            site="site-1", task="train", round_num=0, metrics={f"m{number}": 1.0 for number in range(2000)},
            num_steps=1, size=0, work_s=0.5,
        )
    )  # fmt: skip

    assert line == "site-1 answered train in 0.5 s, m0 1, m1 1, m2 1, m3 1, m4 1, m5 1 and 1,994 more"


def test_the_live_view_shows_an_answer_when_it_arrives_and_says_of_which_round_its_metrics_are():
    live = views.LiveView()
    sent = [events.TaskSent(site=site, task="train", round_num=1, size=1) for site in STARTED.sites]
    arrived = events.ReplyArrived(site="site-2", task="train", round_num=1)  # the workflow waits for site-1

    for event in (STARTED, *a_round(0, site_1=10.0, site_2=20.0), started(1, STARTED.sites), *sent, arrived):
        live._follow(event)

    rows = [[text.strip() for text, _ in row] for row in live._rows()]
    assert rows[1:] == [
        ["site-1", "working on train", "round 0: accuracy 10"],
        ["site-2", "answered", "round 0: accuracy 20"],
    ]


def test_the_time_left_counts_answers_and_does_not_grow_within_a_round():
    """Four clients, one at a time, a second each, but one of ten seconds; four rounds."""
    sites = ["a", "b", "c", "d"]
    pace = views.Pace(started(0, sites), 0.0, at_once=1)
    pace.begin_round(started(0, sites), 0.0)
    assert pace.left_s(0.0) is None

    pace.answered("a", 1.0)
    assert (pace.share, pace.left_s(1.0)) == (1 / 16, 15.0)
    pace.answered("b", 11.0)  # as slow as this, it would take 77 s more
    assert (pace.share, pace.left_s(11.0)) == (2 / 16, 5.0)
    assert pace.left_s(17.5) == 0.0
    assert pace.left_s(20.0) == -4.0  # longer than expected

    pace.begin_round(started(1, sites), 20.0)
    assert (pace.share, pace.left_s(20.0)) == (4 / 16, 60.0)


def test_where_all_work_at_once_the_first_answer_says_nothing_of_the_time_left():
    sites = ["a", "b", "c", "d"]
    pace = views.Pace(started(0, sites), 0.0, at_once=4)
    pace.begin_round(started(0, sites), 0.0)

    pace.answered("a", 10.0)

    assert pace.left_s(10.0) is None
