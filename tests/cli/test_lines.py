"""The lines that a run prints, and how its failures are told."""

from __future__ import annotations

from pathlib import Path

import msgspec

from fedsag_cli import events, history
from fedsag_cli.cli import failures, summary
from fedsag_cli.cli.lines import Lines
from fedsag_cli.cli.views import QuietView
from fedsag_cli.events import Failure
from fedsag_cli.report import ReportBuilder

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
    lines = Lines()
    return [line for event in told for line in lines.of(event)]


def test_a_run_is_told_in_plain_lines():
    started, first, second, finished = a_round(1, site_1=10.0, site_2=20.0)
    arrivals = [
        events.TaskSent(site="site-2", task="train", round_num=1, size=1, at=100.0),
        events.ReplyArrived(site="site-2", task="train", round_num=1, at=100.5),  # site-1 is not there yet
        events.TaskSent(site="site-1", task="train", round_num=1, size=1, at=100.0),
        events.ReplyArrived(site="site-1", task="train", round_num=1, at=102.0),
    ]
    by_site = msgspec.structs.replace(finished, by_site={"site-1": {"accuracy": 10.0}, "site-2": {"accuracy": 20.0}})
    told = [STARTED, events.ServerReady(whole_rounds=1), started, *arrivals, first, second, by_site]
    late = events.ReplyLate(site="site-2", task="train")
    stopped = events.ClientStopped(site="site-2", failure=Failure(cause="it did not answer"))
    failed = events.RunFinished(ok=False, exit_code=4, cause="too few", report="/w/report.json")

    assert lines_of(*told, late, stopped, events.Notice(text="no pictures"), failed) == [
        "job j: 2 clients, 2 at a time, 1 thread each, seed 7, fork",
        "workspace /w",
        "resumed: 1 round done",
        "round 1 started with 2 clients",
        "round 1: site-2 answered train in 0.5 s",
        "round 1: site-1 answered train in 2.0 s",
        "round 1 finished in 0.6 s: 2 answers, accuracy 15 (10–20)",
        "note: site-2 answered train too late: its answer is not used",
        "note: site-2: it did not answer",
        "note: no pictures",
        "the run failed",
        "page       /w/report.html",
        "report     /w/report.json",
    ]


def test_those_that_were_not_waited_for_are_told_apart_from_those_that_failed(capsys):
    not_awaited = events.NotAwaited(site="site-2", task="train", round_num=0)
    started, answer, finished = a_round(0, site_1=10.0)
    again = events.NotAwaited(site="site-2", task="train", round_num=1)
    report = report_of(STARTED, started, answer, not_awaited, finished, *a_round(1, site_1=10.0)[:1], again)

    summary.summary(report)

    said = capsys.readouterr().out
    assert "not waited for: site-2 in 2 rounds" in said
    assert "failed" not in said
    late = events.ReplyLate(site="site-2", task="train", round_num=0)
    assert lines_of(STARTED, started, not_awaited, late, finished)[3:] == [
        "round 0: site-2 is not waited for: enough answered",
        "round 0 finished in 0.6 s: 1 answer of 2 clients, accuracy 10",
    ]


def test_a_failure_is_told_with_its_place_and_the_end_of_its_log():
    failure = Failure(cause="ValueError: boom", where="/job/train.py:3", log="/w/site-1/log.txt", log_tail=["a", "b"])

    started = events.RoundStarted(round_num=4, first_round=0, num_rounds=5, sites=STARTED.sites)
    lines = lines_of(started, events.ReplyFailed(site="site-1", task="train", round_num=4, failure=failure))[1:]

    assert lines[0] == "round 4: site-1 failed in train: ValueError: boom"
    assert "/job/train.py:3" in lines[1]
    assert "/w/site-1/log.txt" in lines[2]
    assert [line.strip() for line in lines[3:]] == ["| a", "| b"]


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


def test_a_run_that_was_interrupted_has_not_failed():
    over = events.RunFinished(ok=False, exit_code=130, cause="interrupted", report="/w/report.json")

    assert lines_of(over) == [
        "the run ended early",
        "page       /w/report.html",
        "report     /w/report.json",
    ]


def test_a_run_that_failed_names_its_page_and_its_number_also_if_only_notes_are_shown(monkeypatch, capsys):
    monkeypatch.setattr(history, "number_of", lambda workspace: 12 if workspace == Path("/w") else 0)
    over = events.RunFinished(ok=False, exit_code=4, cause="too few", report="/w/report.json")
    places = ["page       /w/report.html", "run        12: fedsag runs show 12", "report     /w/report.json"]

    QuietView().on(over)

    assert capsys.readouterr().out.splitlines() == places
    assert lines_of(over) == ["the run failed", *places]


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
        "round 0: 16 of 16 clients failed for the same reason: ValueError: no data in /data/<site>",
        "the run failed",
        "page       /w/report.html",
        "report     /w/report.json",
    ]


def test_of_different_failures_at_one_place_in_the_job_only_the_first_is_told_with_its_log():
    different = [failed("site-1", "KeyError: 'a'"), failed("site-2", "KeyError: 'b'")]
    told = [STARTED, started(0, STARTED.sites), *different]

    assert lines_of(*told)[3:] == [
        "round 0: site-1 failed in train: KeyError: 'a'",
        "    at /job/train.py:3",
        "    the last lines of /w/site-1/log.txt:",
        "    | a",
        "    | b",
        "round 0: site-2 failed in train: KeyError: 'b'",
    ]
    assert failures.failures(report_of(*told))[-2:] == ["    | b", "site-2, round 0, train: KeyError: 'b'"]


def test_of_the_many_rounds_in_which_a_site_failed_the_first_and_the_last_are_named():
    told = [STARTED]
    for number in range(7):
        begun, *others = a_round(number, site_2=1.0)
        told += [begun, failed("site-1", "boom", round_num=number), *others]

    assert failures.failed_sites(report_of(*told)) == ["failed: site-1 in round 0, 1, 2, … 6: boom"]


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
    lines = Lines()
    for event in told:
        lines.of(event)

    assert failures.failures(report_of(*told), lines.told) == []
    assert failures.failures(report_of(*told))[:2] == [
        "2 of 2 clients failed for the same reason: site-1, site-2; the first to fail:",
        "site-1, round 0, train: boom",
    ]


def test_sites_are_named_in_the_order_of_the_run_whoever_failed_or_was_left_first():
    sites = [f"site-{number}" for number in range(1, 13)]
    others = [site for site in sites if site not in ("site-2", "site-10")]
    skipped = [events.NotAwaited(site=site, task="train", round_num=0) for site in reversed(others)]
    told = [many_clients(12), started(0, sites), failed("site-10", "boom"), failed("site-2", "boom"), *skipped]

    assert failures.failed_sites(report_of(*told)) == [
        "2 of 12 clients failed for the same reason: site-2, site-10 in round 0: boom"
    ]
    assert "(site-1, site-3, site-4, … site-12)" in lines_of(*told, a_round(0, site_1=1.0)[-1])[-2]


def test_a_line_names_a_few_of_many_metrics():
    [line] = lines_of(
        events.ReplyAccepted(
            site="site-1", task="train", round_num=0, metrics={f"m{number}": 1.0 for number in range(2000)},
            num_steps=1, size=0, work_s=0.5,
        )
    )  # fmt: skip

    assert line == "site-1 answered train in 0.5 s, m0 1, m1 1, m2 1, m3 1, m4 1, m5 1 and 1,994 more"


def test_many_clients_that_are_not_waited_for_are_one_line():
    sites = [f"site-{number}" for number in range(1, 201)]
    skipped = [events.NotAwaited(site=site, task="train", round_num=0) for site in sites[1:]]
    finished = a_round(0, site_1=10.0)[-1]

    assert lines_of(many_clients(200), started(0, sites), *skipped, finished)[3] == (
        "round 0: 199 clients are not waited for (site-2, site-3, site-4, … site-200): enough answered"
    )


def test_a_round_of_many_clients_is_told_in_few_lines():
    """A hundred of ten thousand clients answer in 25 seconds."""
    started = msgspec.structs.replace(STARTED, sites=[f"site-{number}" for number in range(10_000)])
    sites = started.sites[200:300]
    named = {"task": "train", "round_num": 3}
    told = [events.RoundStarted(round_num=3, first_round=0, num_rounds=9, sites=sites, at=100.0)]
    told += [events.TaskSent(site=site, size=1, at=100.0, **named) for site in sites]
    told += [events.ReplyArrived(site=site, at=100.25 + number / 4, **named) for number, site in enumerate(sites)]
    by_site = {site: {"accuracy": number / 99} for number, site in enumerate(sites)}
    finished = events.RoundFinished(
        round_num=3, sites=sites, metrics={"accuracy": 0.5}, by_site=by_site, wait_s=25.0, aggregate_s=0.0, save_s=0.0
    )

    assert lines_of(started, *told, finished)[2:] == [
        "round 3 started with 100 of 10,000 clients",
        "round 3: 40 of 100 clients answered",
        "round 3: 80 of 100 clients answered",
        "round 3 finished in 25.0 s: 100 answers, accuracy 0.5 (10–90 %: 0.101–0.899)",
    ]


def test_of_many_answers_after_the_last_round_the_first_are_told():
    answers = [
        events.ReplyAccepted(
            site=f"site-{number}", task="validate", round_num=2, metrics={}, num_steps=1, size=1, work_s=0.5
        )
        for number in range(1000)
    ]

    told = lines_of(*answers)

    assert told[29:] == ["site-29 answered validate in 0.5 s", "more answers to validate are not told one by one"]


def test_a_fork_says_how_many_rounds_are_those_of_its_parent_and_later_that_it_was_resumed():
    fork = msgspec.structs.replace(STARTED, parent="p", parent_round=3, inherited_rounds=4)

    first, resumed = ([*map(Lines().of, (fork, events.ServerReady(whole_rounds=count)))][1] for count in (4, 5))

    assert (first, resumed) == (["fork: 4 rounds of its parent done"], ["resumed: 5 rounds done"])
