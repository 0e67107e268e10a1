"""The files that are pages: what is in them, and what is not."""

import base64
import hashlib
import json
import re
from array import array

import pytest
from reports import EVIL, a_round, logged, started, task

from fedsag_cli import events, pages
from fedsag_cli.events import Failure
from fedsag_cli.pages import activity, curves, document, numbers, run, timeline
from fedsag_cli.report import (
    BaselineReport,
    BestReport,
    Report,
    ReportBuilder,
    SiteFailure,
    TableReport,
    ValidationReport,
)


def data_of(path):
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', path.read_text(), re.DOTALL)
    return json.loads(found[1])


def unpacked(text, kind="f"):
    return list(array(kind, base64.b64decode(text)))


@pytest.fixture
def told(tmp_path):
    """What is read of a file with these events, or raw lines."""

    def tell(*history):
        lines = [each if isinstance(each, bytes) else events.to_line(each) for each in history]
        (tmp_path / "events.jsonl").write_bytes(b"".join(lines))
        return activity.read(tmp_path / "events.jsonl")

    return tell


# the file


def test_a_page_is_one_file_that_loads_nothing_and_runs_only_its_own_scripts(tmp_path):
    pages.write(Report(job="mine", ok=True), tmp_path / "none.jsonl", tmp_path / "report.html")

    text = (tmp_path / "report.html").read_text()
    assert re.findall(r'(?:src|href)="([^"]*)"', text) == ["data:,"]
    assert "default-src 'none'" in text
    scripts = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    allowed = [base64.b64encode(hashlib.sha256(each.encode()).digest()).decode() for each in scripts]
    assert re.findall(r"'sha256-([^']*)'", text) == allowed


def test_text_of_others_cannot_end_the_block_it_stands_in(tmp_path):
    report = Report(
        job=EVIL,
        sites=[EVIL],
        rounds=[a_round(0, {EVIL: {EVIL: 1.0}})],
        failures={EVIL: SiteFailure(round_num=0, task=EVIL, failure=Failure(cause=EVIL, log_tail=[EVIL]))},
        tables=[TableReport(title=EVIL, columns=[EVIL], rows=[[EVIL]])],
        settings={EVIL: EVIL},
    )
    pages.write(report, tmp_path / "none.jsonl", tmp_path / "report.html")

    assert "<img" not in (tmp_path / "report.html").read_text()
    assert data_of(tmp_path / "report.html")["head"]["job"] == EVIL


def test_without_the_library_a_page_has_its_numbers_and_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(document.importlib.util, "find_spec", lambda name: None)
    pages.write(Report(job="mine"), tmp_path / "none.jsonl", tmp_path / "report.html")

    assert not pages.has_charts()
    assert "uPlot.js" not in (tmp_path / "report.html").read_text()
    assert pages.INSTALL in (tmp_path / "report.html").read_text()


def test_a_package_of_another_with_the_librarys_name_is_not_taken_for_it(tmp_path, monkeypatch):
    (tmp_path / "uplot").mkdir()
    (tmp_path / "uplot" / "__init__.py").write_text("raise SystemExit('imported')")
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    document.importlib.util.find_spec.__globals__["sys"].modules.pop("uplot", None)

    assert not pages.has_charts()


@pytest.mark.parametrize(("sites", "rounds"), [(200, 500), (2, 5000), (3000, 4)])
def test_a_page_of_many_sites_or_rounds_has_at_most_2_mb(tmp_path, sites, rounds):
    names = [f"site-{number}" for number in range(sites)]
    by_site = {name: {"accuracy": 0.123456 * number, "loss": 1 / (1 + number)} for number, name in enumerate(names)}
    done = activity.Activity()
    done.names, done.total = {name: number for number, name in enumerate(names)}, float(rounds)
    for at in range(rounds):
        done.spans += [activity.Span(row, activity.WORKED, at, at + 0.9, at, "train") for row in range(0, sites, 4)]
        done.spans.append(activity.Span(activity.SERVER, activity.SAVED, at + 0.9, at + 1.0, at, ""))
    report = Report(sites=names, rounds=[a_round(at, by_site) for at in range(rounds)])

    document.write(tmp_path / "report.html", "many", run.page_of(report, done))

    assert 100_000 < (tmp_path / "report.html").stat().st_size <= 2_000_000


def thousands():
    """Three rounds of 10,000 sites: in each, 2,000 others measured 0 to 1; one failed, and one took long."""
    sites = [f"site-{number}" for number in range(10_000)]
    rounds = []
    for at in range(3):
        drawn = sites[at * 2000 : (at + 1) * 2000]
        by_site = {site: {"accuracy": number / 1999} for number, site in enumerate(drawn)}
        work = {site: 9.0 if site == "site-3333" else 1.0 for site in drawn}
        failed = {"site-9999": Failure(cause="boom")} if at == 1 else {}
        rounds.append(a_round(at, by_site, work_s=work, num_steps=dict.fromkeys(drawn, 1.0), failed=failed))
    failures = {"site-9999": SiteFailure(round_num=1, task="train", failure=Failure(cause="boom"))}
    return Report(job="many", sites=sites, rounds=rounds, failures=failures)


def test_of_thousands_of_sites_a_page_names_the_worst_the_slowest_and_the_failed():
    page = run.page_of(thousands(), activity.Activity())

    rows = {row[0]: row[1:] for row in page["sites"]["rows"]}
    assert page["sites"]["took_part"] == 6001
    assert 80 < len(rows) < 300
    assert {"site-0", "site-2000", "site-3333", "site-9999"} <= rows.keys()
    assert rows["site-3333"] == [pytest.approx(1333 / 1999), 1, 0, 9.0, 9.0]
    assert rows["site-9999"] == [None, 0, 1, 0.0, 0.0]
    accuracy, answers, *_ = page["sites"]["quantiles"]
    assert accuracy == pytest.approx([0.0, 0.1, 0.5, 0.9, 1.0], abs=1e-3)
    assert answers == [0, 1, 1, 1, 1]
    assert len(json.dumps(page)) < 100_000


def test_a_band_is_that_of_all_sites_also_of_those_that_have_no_curve_on_the_page():
    (flow,) = run.page_of(thousands(), activity.Activity())["workflows"]

    (metric,) = flow["metrics"]
    assert (flow["measured"], len(flow["sites"]) < 300) == (6000, True)
    for part, values in zip([0.0, 0.1, 0.5, 0.9, 1.0], metric["quantiles"], strict=True):
        assert unpacked(values) == pytest.approx([part] * 3, abs=1e-3)
    assert [flow["ends"][at] for at in unpacked(metric["lowest"], "i")] == ["site-0", "site-2000", "site-4000"]
    places, values = metric["by_site"][flow["sites"].index("site-3333")]
    assert (unpacked(places, "i"), unpacked(values)) == ([1], pytest.approx([1333 / 1999]))


def test_failures_of_thousands_of_sites_are_one_with_their_number():
    names = [f"site-{number}" for number in range(5000)]
    failures = {site: SiteFailure(round_num=0, task="train", failure=Failure(cause="boom")) for site in names}

    (one,) = run.page_of(Report(sites=names, failures=failures), activity.Activity())["failures"]

    assert (one["count"], one["sites"][:2], len(one["sites"])) == (5000, ["site-0", "site-1"], 20)


# the curves


def test_every_site_has_its_own_values_and_the_final_model_is_the_last_point():
    report = Report(
        sites=["a", "b"],
        rounds=[a_round(0, {"a": {"x": 1.0}, "b": {"x": 3.0}}), a_round(1, {"b": {"x": 4.0}})],
        validations=[
            ValidationReport(workflow="sag", round_num=1, metrics={"x": 5.0}, metrics_by_site={"a": {"x": 5.0}})
        ],
    )

    (flow,) = curves.by_workflow(report, report.sites)

    (metric,) = flow["metrics"]
    assert (flow["rounds"], flow["has_final"], flow["places"]) == ([0, 1], True, [0, 1, 2])
    assert unpacked(metric["mean"]) == [2.0, 4.0, 5.0]
    assert [str(unpacked(own)) for own in metric["by_site"]] == ["[1.0, nan, 5.0]", "[3.0, 4.0, nan]"]


def test_of_many_rounds_some_are_shown_and_always_the_first_and_the_last():
    assert list(numbers.some(4, 10)) == [0, 1, 2, 3]
    assert list(numbers.some(10, 4)) == [0, 3, 6, 9]
    assert list(numbers.some(100, 4)) == [0, 33, 66, 99]
    assert list(numbers.some(11, 3)) == [0, 5, 10]


def test_a_curve_with_many_values_keeps_its_form_and_its_end(told):
    found = told(*(logged(1.0, {"loss": 2.0 * step}, step) for step in range(5000)))
    (curve,) = curves.logged(found, ["a"])["curves"]

    steps, values = unpacked(curve["sites"][0]["steps"]), unpacked(curve["sites"][0]["values"])
    assert (steps[0], steps[-1]) == (0, 4999)
    assert 200 < len(steps) <= 1100
    assert values == [2 * step for step in steps]


def test_values_without_steps_are_counted_and_texts_are_kept_apart(told):
    found = told(
        logged(1.0, {"lr": 0.5}),
        logged(2.0, {"lr": None}),
        logged(3.0, {"lr": 0.25, "note": "warm"}),
        logged(4.0, {"optimizer": "SGD"}, kind="param", site="b"),
    )

    page = curves.logged(found, ["a", "b"])

    assert unpacked(page["curves"][0]["sites"][0]["steps"]) == [0.0, 1.0, 2.0]
    assert str(unpacked(page["curves"][0]["sites"][0]["values"])) == "[0.5, nan, 0.25]"
    assert page["texts"] == [["a", "note", "warm"], ["b", "optimizer", "SGD"]]


# who worked when


def test_a_task_is_work_until_its_answer_and_the_time_before_it_is_a_wait(told):
    found = told(
        started(100.0),
        events.RoundStarted(at=101.0, round_num=0, first_round=0, num_rounds=1, sites=["a", "b"]),
        task(events.TaskSent, 101.0, "a", size=1),
        task(events.ReplyArrived, 103.0, "a"),
        task(events.TaskSent, 103.0, "b", size=1),
        task(events.ReplyFailed, 104.0, "b", failure=Failure(cause="gone")),
        events.RoundFinished(at=106.0, round_num=0, sites=["a"], metrics={}, wait_s=3.0, aggregate_s=1.0, save_s=0.5),
    )

    assert [(each.row, each.kind, each.start, each.end) for each in found.spans] == [
        (0, activity.WAITED, 1.0, 1.0),
        (0, activity.WORKED, 1.0, 3.0),
        (1, activity.WAITED, 1.0, 3.0),
        (1, activity.FAILED, 3.0, 4.0),
        (activity.SERVER, activity.AGGREGATED, 4.5, 5.5),
        (activity.SERVER, activity.SAVED, 5.5, 6.0),
    ]


def test_the_time_between_an_end_and_a_resume_is_left_out(told):
    found = told(
        started(100.0),
        task(events.TaskSent, 101.0, "a", size=1),
        task(events.ReplyArrived, 102.0, "a"),
        task(events.TaskSent, 102.0, "a", size=1),  # and the run is killed
        started(9000.0),
        task(events.TaskSent, 9001.0, "b", size=1),
        task(events.ReplyArrived, 9003.0, "b"),
    )

    assert (found.total, found.resumed) == (5.0, [2.0])
    assert [(each.row, each.start, each.end) for each in found.spans] == [(0, 1.0, 2.0), (0, 2.0, 2.0), (1, 3.0, 5.0)]


def test_a_resumed_run_has_one_time_in_all_of_its_page(tmp_path):
    """Parts of 10 s and 20 s, which start in 3 s and 4 s, and a round of 2 s in each."""
    history = [
        started(100.0),
        events.ServerReady(at=103.0),
        task(events.TaskSent, 104.0, "a", size=1),
        task(events.ReplyArrived, 105.0, "a"),
        events.ProcessExited(at=110.0, name="server", exit_code=1),
        started(9000.0),
        events.ServerReady(at=9004.0),
        task(events.TaskSent, 9005.0, "a", 1, size=1),
        events.RunFinished(at=9020.0, ok=True, exit_code=0, cause=""),
    ]
    builder = ReportBuilder()
    for event in history:
        builder.on(event)
    builder.report.rounds = [a_round(at, {"a": {"x": 1.0}}, wait_s=2.0, total_s=2.0) for at in range(2)]
    (tmp_path / "events.jsonl").write_bytes(b"".join(map(events.to_line, history)))
    pages.write(builder.report, tmp_path / "events.jsonl", tmp_path / "report.html")

    page = data_of(tmp_path / "report.html")

    assert page["head"]["seconds"] == page["timeline"]["total"] == sum(page["stages"]["total"].values()) == 30.0
    assert page["stages"]["total"]["starting"] == 7.0
    assert page["timeline"]["resumed"] == [10.0]


def test_a_task_without_an_answer_lasts_until_the_run_ended(told, tmp_path):
    begun = (started(100.0), task(events.TaskSent, 101.0, "a", size=1))
    told(*begun)

    (one,) = activity.read(tmp_path / "events.jsonl", 30.0).spans
    (other,) = told(*begun, events.RunFinished(at=120.0, ok=False, exit_code=130, cause="interrupted")).spans

    assert [(each.start, each.end) for each in (one, other)] == [(1.0, 30.0), (1.0, 20.0)]


def test_a_damaged_line_is_skipped_and_a_missing_file_is_empty(told, tmp_path):
    sent, answered = task(events.TaskSent, 2.0, "a", size=1), task(events.ReplyArrived, 3.0, "a")

    found = told(
        started(1.0), b"\xff\xfe garbage\n", b'{"event":"TaskSent","at":"x"}\n', sent, answered, b'{"event":"Re'
    )

    assert [(each.start, each.end) for each in found.spans] == [(1.0, 2.0)]
    assert timeline.of(["a"], activity.read(tmp_path / "none.jsonl")) == {}


def test_of_a_file_that_is_too_long_the_end_is_read(told, monkeypatch):
    monkeypatch.setattr(activity, "_MOST_BYTES", 2000)

    found = told(started(1.0), *(task(events.TaskSent, 2.0 + at, "a", at, size=1) for at in range(100)))

    assert found.skipped > 5000
    assert 5 < len(found.spans) < 50
    assert found.spans[-1].round_num == 99


def test_of_many_tasks_the_timeline_has_shares_and_the_last_rounds_one_by_one():
    done = activity.Activity()
    done.names, done.total = {"b": 0, "a": 1}, 10_000.0
    for second in range(10_000):
        done.spans.append(activity.Span(0, activity.WORKED, second, second + 0.5, second, "train"))
        done.spans.append(activity.Span(activity.SERVER, activity.SAVED, second + 0.75, second + 1.0, second, ""))

    page = timeline.of(["a", "b"], done)

    assert page["sites"] == ["a", "b"]
    moments = page["shares"]["moments"]
    worked = unpacked(page["shares"]["worked"], "B")
    assert set(worked[:moments]) == {0}  # a
    assert set(worked[moments : 2 * moments]) == {127}  # b: half of 255
    assert set(worked[2 * moments :]) == {63}  # the server: a quarter
    assert set(unpacked(page["spans"]["rows"], "h")) == {1, -1}
    assert min(unpacked(page["spans"]["starts"])) > 9000


def test_of_a_long_round_the_end_is_shown():
    done = activity.Activity()
    done.names, done.total = {"a": 0}, 10_000.0
    done.spans = [activity.Span(0, activity.WORKED, at, at + 0.5, 0, "train") for at in range(9_999)]
    done.spans.append(activity.Span(activity.SERVER, activity.SAVED, 9_999.5, 10_000.0, 0, ""))

    page = timeline.of(["a"], done)

    assert page["is_part"]
    assert len(unpacked(page["spans"]["starts"])) == 1600


def test_a_further_executor_of_a_site_is_in_the_row_of_the_site(told):
    found = told(
        started(100.0),
        task(events.TaskSent, 101.0, "a", size=1, process="a:2"),
        task(events.ReplyArrived, 103.0, "a"),
    )

    page = timeline.of(["a", "b"], found)

    assert (page["whose"], page["sites"], page["spans"]["sites"]) == ("site", ["a", "b"], [])


def test_with_workers_the_timeline_has_a_row_for_each_worker(told):
    found = told(
        started(100.0),
        events.RoundStarted(at=100.0, round_num=0, first_round=0, num_rounds=1, sites=["a", "b"]),
        task(events.TaskSent, 101.0, "a", size=1, process="worker:10"),
        task(events.TaskSent, 102.0, "b", size=1, process="worker:9"),
        task(events.ReplyArrived, 103.0, "b"),
        task(events.ReplyArrived, 104.0, "a"),
    )

    page = timeline.of(["a", "b"], found)

    assert (page["whose"], page["sites"]) == ("worker", ["worker:9", "worker:10"])
    assert unpacked(page["spans"]["rows"], "h") == [1, 0]
    assert unpacked(page["spans"]["kinds"], "b") == [activity.WORKED] * 2
    assert unpacked(page["spans"]["ends"]) == [4.0, 3.0]
    assert [page["spans"]["sites"][at] for at in unpacked(page["spans"]["of"], "i")] == ["a", "b"]


# the rest


def test_settings_that_differ_from_the_template_come_first_with_its_value():
    report = Report(
        template="sag_np",
        settings={"meta.conf name": "x", "server num_rounds": 7, "server new": True},
        changed={"server num_rounds": 5, "server new": None, "server gone": 1},
    )

    assert run.page_of(report, activity.Activity())["settings"] == [
        {"key": "server num_rounds", "value": "7", "template": "5"},
        {"key": "server new", "value": "true", "template": None},
        {"key": "server gone", "value": None, "template": "1"},
        {"key": "meta.conf name", "value": "x"},
    ]


def test_failures_that_are_alike_are_told_once_with_their_sites():
    def failed(site, cause):
        return SiteFailure(round_num=2, task="train", failure=Failure(cause=cause, log_tail=[f"log of {site}"]))

    causes = {"site-1": "site-1: shard 7 is gone", "site-2": "site-2: shard 8 is gone", "site-3": "no memory"}
    report = Report(failures={site: failed(site, cause) for site, cause in causes.items()})

    first, second = run.page_of(report, activity.Activity())["failures"]

    assert (first["sites"], first["tail"]) == (["site-1", "site-2"], ["log of site-1"])
    assert (second["sites"], second["cause"]) == (["site-3"], "no memory")


def test_a_server_that_died_is_among_the_failures(told):
    found = told(started(1.0), events.ProcessExited(name="server", exit_code=1, failure=Failure(cause="a bug")))

    (only,) = run.page_of(Report(ok=False), found)["failures"]

    assert (only["sites"], only["cause"]) == (["server"], "a bug")


def test_a_comparison_has_only_the_settings_that_differ_and_the_curves_of_all(tmp_path):
    one = Report(job="j", seed=1, settings={"lr": 0.1, "rounds": 2}, rounds=[a_round(0, {"a": {"x": 1.0}})])
    two = Report(job="j", seed=1, settings={"lr": 0.2, "rounds": 2}, rounds=[a_round(0, {"a": {"x": 2.0}})])
    old = Report(job="j", seed=1, rounds=[a_round(0, {"a": {"x": 3.0}})])

    pages.comparison([one, two, old], tmp_path / "compared.html", ["11", "12", "13"])

    page = data_of(tmp_path / "compared.html")
    assert [run["name"] for run in page["runs"]] == ["11", "12", "13"]
    assert page["settings"] == [{"key": "lr", "values": ["0.1", "0.2", None]}]
    assert [unpacked(run["values"]) for run in page["metrics"][0]["runs"]] == [[1.0], [2.0], [3.0]]


def test_a_comparison_says_in_what_each_run_differs_and_which_is_the_best(tmp_path):
    def run(lr, loss):
        return Report(settings={"lr": lr}, changed={"lr": 1}, rounds=[a_round(0, {"a": {"loss": loss}})])

    pages.comparison([run(0.1, 2.0), run(0.2, 1.0), run(0.3, 1.0)], tmp_path / "compared.html")

    page = data_of(tmp_path / "compared.html")
    assert [each["differs"] for each in page["runs"]] == ["lr 0.1", "lr 0.2", "lr 0.3"]
    assert page["metrics"][0]["best"] == {"values": [2.0, 1.0, 1.0], "of": [1, 2]}


def test_runs_of_one_job_are_told_apart_without_names(tmp_path):
    pages.comparison([Report(job="j"), Report(job="j"), Report(job="k")], tmp_path / "compared.html")

    assert [run["name"] for run in data_of(tmp_path / "compared.html")["runs"]] == ["j (1)", "j (2)", "k"]


def test_of_more_metrics_than_a_page_has_room_for_that_of_the_best_model_is_the_first(tmp_path):
    own = {f"m{number}": 1.0 for number in range(30)}
    best = BestReport(metric="m29", score=1.0, round_num=0, workflow="sag")
    report = Report(sites=["a"], rounds=[a_round(0, {"a": own})], best=best)
    pages.write(report, tmp_path / "none.jsonl", tmp_path / "report.html")

    page = data_of(tmp_path / "report.html")
    shown = [each["name"] for each in page["workflows"][0]["metrics"]]
    assert (shown[0], len(shown), page["workflows"][0]["left_out"]) == ("m29", 24, 6)
    assert page["rounds"]["metrics"][0] == page["sites"]["metrics"][0] == "m29"


def test_the_time_of_a_round_does_not_have_the_start_of_the_run_in_it(tmp_path):
    rounds = [a_round(0, {"a": {"x": 1.0}}, total_s=2.0), a_round(1, {"a": {"x": 1.0}}, total_s=3.0)]
    report = Report(sites=["a"], rounds=rounds, times={"run_finished_s": 20.0, "server_ready_s": 15.0})
    pages.write(report, tmp_path / "none.jsonl", tmp_path / "report.html")

    assert data_of(tmp_path / "report.html")["head"]["seconds_a_round"] == 2.5


def test_the_baselines_of_a_run_are_its_first_table():
    by_site = {"a": {"acc": 0.5}, "b": {"acc": 0.7}}
    alone = BaselineReport(kind="local", run=8, ok=True, metrics={"acc": 0.4}, metrics_by_site=by_site, num_steps=12)
    failed = BaselineReport(kind="centralised", cause=EVIL)
    found = TableReport(title="values", columns=["site"], rows=[["a"]])

    tables = run.page_of(
        Report(rounds=[a_round(0, by_site)], tables=[found], baselines=[alone, failed]), activity.Activity(), 7
    )["tables"]

    assert [each["title"] for each in tables] == ["What federation costs and gains", "values"]
    assert tables[0]["columns"][:4] == ["training", "acc", "lowest site", "highest site"]
    assert tables[0]["rows"][0] == ["federated", pytest.approx(0.6), 0.5, 0.7, 0.0, None, 7]
    assert tables[0]["rows"][1] == ["local", 0.4, 0.5, 0.7, 12, None, 8]
    assert tables[0]["rows"][2][0] == f"centralised: {EVIL}"


# a fork


def test_the_page_of_a_fork_shows_its_own_time_and_names_its_parent(told, tmp_path):
    first = events.RunStarted(
        at=100.0, job="j", workspace="/w", sites=["a"], slots=1, threads=1, seed=1, launcher="fork", versions={},
        parent="p", parent_round=0, inherited_rounds=1,
    )  # fmt: skip
    task = {"site": "a", "task": "train"}
    found = told(
        first,
        events.RoundStarted(at=10.0, round_num=0, first_round=0, num_rounds=2, sites=["a"]),
        events.TaskSent(at=11.0, round_num=0, size=1, **task),
        events.ReplyArrived(at=12.0, round_num=0, **task),
        events.TaskSent(at=103.0, round_num=1, size=1, **task),
        events.ReplyArrived(at=105.0, round_num=1, **task),
    )
    rounds = [a_round(0, {"a": {"m": 1.0}}), a_round(1, {"a": {"m": 2.0}})]
    report = Report(job="j", parent="p", parent_round=0, inherited_rounds=1, rounds=rounds, sites=["a"])

    page = run.page_of(report, found, 4, 3)

    assert [(span.start, span.end, span.round_num) for span in found.spans] == [(3.0, 5.0, 1)]
    assert (found.total, found.resumed) == (5.0, [])
    assert page["head"]["fork"] == "fork of run 3 after round 0"
    assert page["stages"]["labels"] == ["1"]
    assert run.page_of(report, found)["head"]["fork"] == "fork of another run after round 0"
    assert run.page_of(Report(), found)["head"]["fork"] == ""
