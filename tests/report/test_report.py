"""The report: a run's events, folded."""

import msgspec
import pytest

from fedsag_cli import events
from fedsag_cli.events import Failure
from fedsag_cli.report import ReportBuilder


def folded(*history):
    reporter = ReportBuilder()
    for event in history:
        reporter.on(event)
    return reporter.report


STARTED = events.RunStarted(
    at=100.0,
    job="j",
    workspace="/w",
    sites=["a", "b"],
    slots=2,
    threads=3,
    seed=5,
    launcher="fork",
    versions={"torch": "2"},
)
LOST = Failure(cause="it was killed by signal 9", exit_code=-9)


def sent(site, round_num=0, at=101.0, size=1000):
    return events.TaskSent(at=at, site=site, task="train", round_num=round_num, size=size)


def accepted(site, round_num=0, accuracy=0.5, steps=10.0, size=400, work_s=2.0, task="train"):
    return events.ReplyAccepted(
        at=102.0,
        site=site,
        task=task,
        round_num=round_num,
        metrics={"accuracy": accuracy},
        num_steps=steps,
        size=size,
        work_s=work_s,
    )


def began(round_num, at, num_rounds=2):
    return events.RoundStarted(at=at, round_num=round_num, first_round=0, num_rounds=num_rounds, sites=["a", "b"])


def ended(round_num, at, sites=("a", "b"), **metrics):
    return events.RoundFinished(
        at=at, round_num=round_num, sites=list(sites), metrics=metrics, wait_s=3.0, aggregate_s=0.2, save_s=0.1
    )


def test_an_empty_history_is_a_run_that_did_not_go_well():
    report = folded()

    assert (report.ok, report.exit_code, report.rounds) == (False, 1, [])


def test_the_settings_are_those_the_run_started_with():
    report = folded(STARTED)

    assert (report.job, report.workspace, report.sites) == ("j", "/w", ["a", "b"])
    assert (report.slots, report.threads, report.seed, report.launcher) == (2, 3, 5, "fork")
    assert report.versions == {"torch": "2"}


def test_a_round_has_who_answered_what_they_measured_bytes_and_times():
    report = folded(
        STARTED,
        began(0, at=110.0),
        sent("a"),
        sent("b", size=1001),
        accepted("b", accuracy=0.9, steps=30.0, size=500, work_s=4.0),
        accepted("a"),
        ended(0, at=117.5, accuracy=0.8),
    )

    (first,) = report.rounds
    assert report.num_rounds == 2
    assert (first.round_num, first.answered, first.metrics) == (0, ["a", "b"], {"accuracy": 0.8})
    assert first.metrics_by_site == {"a": {"accuracy": 0.5}, "b": {"accuracy": 0.9}}
    assert first.num_steps == {"a": 10.0, "b": 30.0}
    assert first.work_s == {"a": 2.0, "b": 4.0}
    assert (first.bytes_sent, first.bytes_received) == (2001, 900)
    assert (first.total_s, first.wait_s, first.aggregate_s, first.save_s) == (7.5, 3.0, 0.2, 0.1)
    assert first.failed == {}


def test_rounds_are_kept_apart():
    report = folded(
        STARTED,
        began(0, at=110.0),
        sent("a", size=1),
        accepted("a", accuracy=0.1),
        ended(0, at=111.0, accuracy=0.1),
        began(1, at=111.0),
        sent("a", 1, size=2),
        events.ReplyFailed(site="b", task="train", round_num=1, failure=LOST),
        accepted("a", 1, accuracy=0.2),
        ended(1, at=114.0, sites=["a"], accuracy=0.2),
    )

    assert [each.metrics_by_site for each in report.rounds] == [{"a": {"accuracy": 0.1}}, {"a": {"accuracy": 0.2}}]
    assert [each.bytes_sent for each in report.rounds] == [1, 2]
    assert [each.total_s for each in report.rounds] == [1.0, 3.0]
    assert [each.failed for each in report.rounds] == [{}, {"b": LOST}]
    assert [each.answered for each in report.rounds] == [["a", "b"], ["a"]]


def test_an_answer_that_counts_in_a_later_round_does_not_change_the_values_of_the_round_in_which_it_was_asked():
    """As in FedBuff: b is asked in round 0, and its answer is in the buffer of round 1."""
    values = [{"a": {"accuracy": 0.5}}, {"b": {"accuracy": 0.9}}]
    over = [msgspec.structs.replace(ended(at, 110.0 + at, [site]), by_site=values[at]) for at, site in enumerate("ab")]
    report = folded(
        STARTED,
        began(0, 101.0),
        accepted("a", accuracy=0.5),
        over[0],
        began(1, 110.0),
        accepted("b", round_num=0, accuracy=0.9),
        over[1],
    )

    assert [each.metrics_by_site for each in report.rounds] == [{"a": {"accuracy": 0.5}}, {"b": {"accuracy": 0.9}}]


def test_validating_the_last_model_is_no_part_of_the_last_round():
    report = folded(
        STARTED,
        began(0, at=110.0, num_rounds=1),
        accepted("a", 0, accuracy=0.1),
        ended(0, at=111.0, accuracy=0.1),
        events.TaskSent(site="a", task="validate", round_num=1, size=10**6),
        accepted("a", 1, accuracy=0.9, task="validate"),
        events.ReplyFailed(site="b", task="validate", round_num=1, failure=LOST),
        events.ModelValidated(round_num=1, metrics={"accuracy": 0.9}, by_site={"a": {"accuracy": 0.9}}),
    )

    assert report.rounds[0].metrics_by_site == {"a": {"accuracy": 0.1}}
    assert report.rounds[0].failed == {}
    assert report.rounds[0].bytes_sent < 10**6
    assert report.final_failed == {"b": LOST}
    assert report.final_metrics == {"accuracy": 0.9}
    assert report.final_metrics_by_site == {"a": {"accuracy": 0.9}}


def test_a_round_that_did_not_end_is_there_with_what_is_known():
    report = folded(
        STARTED,
        began(0, at=110.0),
        events.ReplyFailed(site="a", task="train", round_num=0, failure=LOST),
        events.RunFailed(cause="too few", hint="", exit_code=4),
        events.RunFinished(at=120.0, ok=False, exit_code=4, cause="too few", hint="read the logs"),
    )

    assert report.rounds[0].answered == []
    assert report.rounds[0].failed == {"a": LOST}
    assert (report.ok, report.exit_code, report.cause, report.hint) == (False, 4, "too few", "read the logs")


def test_the_best_is_the_last_that_was_told():
    report = folded(
        events.BestModel(round_num=1, metric="accuracy", score=0.5),
        events.BestModel(round_num=3, metric="accuracy", score=0.7),
    )

    assert (report.best.round_num, report.best.metric, report.best.score) == (3, "accuracy", 0.7)


def test_models_and_curves_are_named_once_and_notices_as_often_as_they_were_said():
    report = folded(
        events.ModelSaved(path="/w/a.pt"),
        events.ModelSaved(path="/w/best.pt"),
        events.ModelSaved(path="/w/a.pt"),
        events.CurvesKept(view="tensorboard --logdir /w"),
        events.CurvesKept(view="tensorboard --logdir /w"),
        events.Notice(text="x"),
        events.Notice(text="x"),
    )

    assert report.curves == ["tensorboard --logdir /w"]
    assert report.models == ["/w/a.pt", "/w/best.pt"]
    assert report.notices == ["x", "x"]


def test_a_run_that_went_well_has_its_digest_exit_codes_and_times_by_stage():
    report = folded(
        STARTED,
        events.ServerReady(at=101.5),
        events.ClientReady(at=103.0, site="b"),
        events.ClientReady(at=104.0, site="a"),
        events.WorkflowFinished(at=120.0, digest="abc", seeded_themselves=["b"]),
        events.ProcessExited(name="a", exit_code=0),
        events.ProcessExited(name="server", exit_code=0),
        events.RunFinished(at=121.0, ok=True, exit_code=0, cause=""),
    )

    assert (report.ok, report.exit_code) == (True, 0)
    assert (report.digest, report.seeded_themselves) == ("abc", ["b"])
    assert report.exit_codes == {"a": 0, "server": 0}
    assert report.times == pytest.approx(
        {"server_ready_s": 1.5, "first_client_ready_s": 3.0, "workflow_finished_s": 20.0, "run_finished_s": 21.0}
    )


def test_one_that_was_not_waited_for_is_counted_apart_from_those_that_failed():
    report = folded(
        STARTED,
        began(0, at=110.0),
        accepted("a"),
        events.NotAwaited(site="b", task="train", round_num=0),
        ended(0, at=111.0, sites=["a"]),
        events.ClientStopped(site="b", failure=Failure(cause="still at work"), has_failed=False),
    )

    assert (report.rounds[0].not_waited_for, report.rounds[0].failed, report.failures) == (["b"], {}, {})


def in_workflow(name, *history):
    return [msgspec.structs.replace(event, workflow=name) for event in history]


def test_a_second_workflow_whose_rounds_have_the_same_numbers_leaves_the_first_ones_alone():
    report = folded(
        STARTED,
        *in_workflow(
            "warm_up",
            began(0, at=110.0, num_rounds=1),
            sent("a", size=1),
            accepted("a", accuracy=0.1),
            ended(0, at=111.0, sites=["a"], accuracy=0.1),
            accepted("a", 1, accuracy=0.2, task="validate"),
            events.ReplyFailed(site="b", task="validate", round_num=1, failure=LOST),
            events.ModelValidated(task="validate", round_num=1, metrics={"accuracy": 0.2}, by_site={}),
        ),
        *in_workflow(
            "main",
            began(0, at=112.0, num_rounds=2),
            sent("a", size=2),
            accepted("a", accuracy=0.3),
            ended(0, at=113.0, sites=["a"], accuracy=0.3),
            began(1, at=113.0),
            accepted("a", 1, accuracy=0.4),
            ended(1, at=114.0, sites=["a"], accuracy=0.4),
            events.BestModel(round_num=1, metric="accuracy", score=0.4),
        ),
    )

    assert [(each.workflow, each.round_num, each.metrics, each.bytes_sent) for each in report.rounds] == [
        ("warm_up", 0, {"accuracy": 0.1}, 1),
        ("main", 0, {"accuracy": 0.3}, 2),
        ("main", 1, {"accuracy": 0.4}, 0),
    ]
    assert [each.metrics_by_site["a"]["accuracy"] for each in report.rounds] == [0.1, 0.3, 0.4]
    assert [each.failed for each in report.rounds] == [{}, {}, {}]
    (first,) = report.validations
    assert (first.workflow, first.task, first.round_num, first.metrics) == ("warm_up", "validate", 1, {"accuracy": 0.2})
    assert first.failed == {"b": LOST}
    assert (report.final_metrics, report.final_failed) == ({}, {}), "it was not the final model"
    assert (report.best.workflow, report.best.round_num) == ("main", 1)
    assert report.failures["b"].workflow == "warm_up"


def test_a_resumed_run_keeps_the_validation_of_a_workflow_that_was_done():
    done = [
        *in_workflow("warm_up", began(0, at=110.0), ended(0, at=111.0)),
        *in_workflow("warm_up", events.ModelValidated(round_num=1, metrics={"accuracy": 0.2}, by_site={})),
    ]
    last = in_workflow("main", ended(0, at=113.0))[0]
    again = events.ServerReady(next_round=1, whole_rounds=2, last=last)

    report = folded(STARTED, *done, *in_workflow("main", began(0, at=112.0)), last, again)
    stopped_in_it = folded(STARTED, *done, events.ServerReady(next_round=1, whole_rounds=1, last=done[1]))

    assert [each.workflow for each in report.validations] == ["warm_up"]
    assert [(each.workflow, each.is_whole) for each in report.rounds] == [("warm_up", True), ("main", True)]
    assert stopped_in_it.validations == [], "it is measured again"


def test_two_reports_share_nothing():
    first, second = ReportBuilder(), ReportBuilder()
    first.on(events.Notice(text="mine"))
    first.on(events.ProcessExited(name="a", exit_code=1))

    assert second.report.notices == []
    assert second.report.exit_codes == {}


def test_of_many_failures_that_are_alike_the_first_have_the_ends_of_their_logs():
    names = [f"site-{number}" for number in range(40)]
    failed = [
        events.ReplyFailed(
            site=site, task="train", round_num=0, failure=Failure(cause=f"{site}: boom", log="l", log_tail=["end"])
        )
        for site in names
    ]
    other = events.ReplyFailed(
        site="site-40", task="train", round_num=0, failure=Failure(cause="bang", log="l", log_tail=["end"])
    )

    report = folded(msgspec.structs.replace(STARTED, sites=[*names, "site-40"]), began(0, at=1.0), *failed, other)

    with_ends = [site for site, first in report.failures.items() if first.failure.log_tail]
    assert with_ends == [*names[:30], "site-40"]
    assert {each.log for each in report.rounds[0].failed.values()} == {"l"}
    assert len(report.rounds[0].failed) == 41


def test_a_fork_has_the_rounds_of_its_parent_and_only_its_own_time_and_is_not_resumed():
    fork = msgspec.structs.replace(STARTED, at=500.0, parent="p", parent_round=0, inherited_rounds=1)
    reporter = ReportBuilder()
    reporter.on(fork)
    reporter.complete([[began(0, 100.0), ended(0, 104.0, accuracy=0.25)]])
    for event in (
        events.ServerReady(at=501.0, next_round=1, whole_rounds=1, last=ended(0, 104.0, accuracy=0.25)),
        began(1, 502.0),
        ended(1, 503.0, accuracy=0.5),
        events.RunFinished(at=504.0, ok=True, exit_code=0, cause=""),
    ):
        reporter.on(event)

    report = reporter.report

    assert [(each.metrics["accuracy"], each.total_s, each.is_whole) for each in report.rounds] == [
        (0.25, 4.0, True),
        (0.5, 1.0, True),
    ]
    assert (report.parent, report.parent_round, report.inherited_rounds) == ("p", 0, 1)
    assert (report.began, report.seconds, report.resumed_at) == (500.0, 4.0, [])


def test_rounds_that_are_told_before_the_run_itself_are_no_earlier_part_of_it():
    reporter = ReportBuilder()
    reporter.complete([[began(0, 20.0), ended(0, 24.0)]])
    reporter.on(STARTED)
    reporter.on(events.RunFinished(at=103.0, ok=True, exit_code=0, cause=""))

    assert reporter.report.seconds == 3.0
