"""What scripts log, and each round's metrics, in the files of TensorBoard, MLflow and Weights & Biases."""

import dataclasses
import json
import math
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
from runs import ADDS_ONE, Running, job, run

from fedsag_cli.client.analytics import AnalyticsDataType, log_values
from fedsag_cli.errors import ClientError, JobError
from fedsag_cli.events import (
    ClientReady,
    CurvesKept,
    Failure,
    ModelValidated,
    Notice,
    ReplyAccepted,
    ReplyFailed,
    RoundFinished,
    ValuesLogged,
    from_line,
    to_line,
)
from fedsag_cli.server.tracking import Tracking
from fedsag_cli.trackers import RunEnd, RunFacts, Status, Tracker, is_tracker
from fedsag_cli.trackers.mlflow import MLflowReceiver
from fedsag_cli.trackers.tensorboard import TBAnalyticsReceiver
from fedsag_cli.trackers.wandb import WandBReceiver

WRITES = """
    import fedsag_cli.client as flare
    from fedsag_cli.client.tracking import MLflowWriter, SummaryWriter, WandBWriter

    flare.init()
    summary, mlflow, wandb = SummaryWriter(), MLflowWriter(), WandBWriter()
    mlflow.log_params({"lr": 0.1, "name": "é"})
    mlflow.set_tag("who", "me")
    step = 0
    while flare.is_running():
        model = flare.receive()
        for _ in range(2):
            step += 1
            summary.add_scalar("loss", 1 / step, step)
            summary.add_scalars("both", {"a": step, "b": -step}, step)
            wandb.log({"rate": step}, step)
            mlflow.log_metric("depth", 3, step)
        mlflow.log_text(f"round {model.current_round}", "notes/text.txt")
        flare.send(flare.FLModel(params=model.params, metrics={"mean": 1.5 + model.current_round}))
"""
TRACKERS = {"tb": "TBAnalyticsReceiver", "mlflow": "MLflowReceiver", "wandb": "WandBReceiver"}


class Kept:
    """A tracker that keeps everything in a list."""

    extra = "kept"
    folders = ()
    view = "show kept"

    def __init__(self, fails=None):
        self.values, self.facts, self.end, self.fails = [], None, None, dict(fails or {})

    def begin(self, facts):
        self.facts = facts
        self._perhaps_fail("begin")

    def write(self, values):
        assert values
        self._perhaps_fail("write")
        self.values += values

    def finish(self, end):
        self.end = end
        self._perhaps_fail("finish")

    def _perhaps_fail(self, name):
        if name in self.fails:
            raise self.fails[name]


FACTS = RunFacts(job="my job", sites=["site-1", "site-2"], seed=7)


def recorded(*events, tracker=None, **how):
    """What a tracker keeps of these events, and what was said meanwhile."""
    tracker, said = tracker or Kept(), []
    tracking = Tracking([tracker], FACTS, said.append, **how)
    for event in events:
        tracking.on(event)
    tracking.close(Status.FINISHED, digest="d1")
    return tracker, [event for event in said if isinstance(event, Notice)]


def logged(**values):
    return ValuesLogged(site="site-1", kind="metric", values=values, step=7)


def accepted(site, **metrics):
    return ReplyAccepted(site=site, task="train", round_num=3, metrics=metrics, num_steps=1, size=1, work_s=0.1)


def failed(site):
    return ReplyFailed(site=site, task="train", round_num=3, failure=Failure(cause="no"))


@pytest.mark.parametrize("tracker", [Kept(), TBAnalyticsReceiver(), MLflowReceiver(), WandBReceiver()])
def test_each_tracker_keeps_the_contract(tracker):
    assert isinstance(tracker, Tracker)


def test_a_tracker_gets_what_scripts_log_in_its_order_and_how_it_ended():
    first, second = logged(loss=0.5), ValuesLogged(site="site-2", kind="text", values={"a.txt": "hello"})

    tracker, said = recorded(first, second)

    assert (tracker.facts, tracker.values, said) == (FACTS, [first, second], [])
    assert tracker.end == RunEnd(status=Status.FINISHED, digest="d1")


class ShortKept:
    """The short form."""

    extra, folders, view = "kept", (), ""

    def __init__(self):
        self.called = []

    def open(self, job):
        self.called.append(job)

    def write(self, values):
        self.called += values

    def close(self):
        self.called.append("closed")


def test_a_tracker_that_needs_only_the_jobs_name_has_open_and_close():
    value = logged(a=1)

    tracker, _ = recorded(value, tracker=ShortKept())

    assert is_tracker(tracker)
    assert tracker.called == ["my job", value, "closed"]


def test_a_tracker_is_told_how_the_run_ended_and_each_sites_part_in_it():
    tracker = Kept()
    tracking = Tracking([tracker], FACTS, [].append)
    for event in (failed("a"), failed("b"), accepted("a"), accepted("c")):
        tracking.on(event)
    tracking.close(Status.FAILED, cause="too few")

    assert tracker.end == RunEnd(status=Status.FAILED, cause="too few", failed_sites=frozenset({"b"}))
    assert [tracker.end.of(site) for site in "abc"] == [Status.KILLED, Status.FAILED, Status.KILLED]
    assert RunEnd(status=Status.FINISHED, failed_sites=frozenset({"b"})).of("a") is Status.FINISHED


@pytest.mark.parametrize(
    ("status", "there", "begins"),
    [(Status.KILLED, False, False), (Status.FAILED, False, True), (Status.FAILED, True, False)],
)
def test_where_no_client_has_started_a_tracker_writes_into_no_folder_that_may_be_the_users(
    tmp_path, status, there, begins
):
    """The server knows only from its first client that the command has found the folders to be free."""
    tracker = Kept()
    tracker.folders = [tmp_path if there else tmp_path / "new"]
    tracking = Tracking([tracker], FACTS, [].append)
    tracking.on(failed("site-1"))
    tracking.close(status)

    assert (tracker.facts is not None, tracker.end is not None) == (begins, begins)


def test_a_tracker_begins_when_a_client_has_started():
    tracker = Kept()
    tracker.folders = [Path.cwd()]
    tracking = Tracking([tracker], FACTS, [].append)
    tracking.on(ClientReady(site="site-1"))
    tracking.close(Status.KILLED)

    assert tracker.end == RunEnd(status=Status.KILLED)


def test_the_user_is_told_why_the_run_does_not_end_yet(monkeypatch):
    monkeypatch.setattr("fedsag_cli.server.tracking._TOLD_AFTER_S", 0.01)
    tracker, goes_on = Kept(), threading.Event()
    tracker.finish = lambda end: goes_on.wait()
    told = []

    def emit(event):
        told.append(event)
        goes_on.set()

    tracking = Tracking([tracker], FACTS, emit)
    tracking.on(ClientReady(site="site-1"))
    tracking.close(Status.FINISHED)

    assert "waits until the last values are stored" in told[0].text
    assert len(told) == 1, "it did finish"


def test_a_tracker_gets_each_rounds_metrics_under_names_of_their_own():
    reply = accepted("site-2", accuracy=50.0)
    finished = RoundFinished(
        round_num=3, sites=["site-2"], metrics={"accuracy": 60.0}, wait_s=0, aggregate_s=0, save_s=0
    )
    last = ModelValidated(round_num=4, metrics={"accuracy": 70.0}, by_site={})

    tracker, _ = recorded(reply, finished, last)

    assert [(each.site, dict(each.values), each.step) for each in tracker.values] == [
        ("site-2", {"round/accuracy": 50.0}, 3),
        ("server", {"round/accuracy": 60.0}, 3),
        ("server", {"round/accuracy": 70.0}, 4),
    ]


def test_the_rounds_of_several_workflows_get_names_of_their_own():
    warm_up, main = (
        RoundFinished(
            workflow=name, round_num=0, sites=["a"], metrics={"accuracy": 60.0}, wait_s=0, aggregate_s=0, save_s=0
        )
        for name in ("warm_up", "main")
    )

    tracker, _ = recorded(warm_up, main, several_workflows=True)

    assert [[*each.values] for each in tracker.values] == [["round/warm_up/accuracy"], ["round/main/accuracy"]]


def test_events_without_metrics_are_nothing_to_keep():
    assert recorded(accepted("site-2"), Notice(text="x"))[0].values == []


def test_a_tracker_that_is_not_installed_is_one_line_that_says_what_to_install():
    missing = ModuleNotFoundError("No module named 'kept'")

    tracker, said = recorded(logged(a=1), logged(a=2), tracker=Kept({"begin": missing}))

    text = "Kept: No module named 'kept'; `pip install 'fedsag[kept]'` brings it; the run goes on without"
    assert [each.text for each in said] == [text]
    assert tracker.values == []


@pytest.mark.parametrize(
    ("when", "text"),
    [("begin", "OSError: disk full; the run goes on without"), ("finish", "OSError: disk full"),
     ("write", "it did not keep 'a' of site-1: OSError: disk full")],
)  # fmt: skip
def test_whatever_a_tracker_raises_is_said_once_in_one_line(when, text):
    _, said = recorded(logged(a=1), tracker=Kept({when: OSError("disk\nfull")}))

    assert [each.text for each in said] == [f"Kept: {text}"]


class Picky(Kept):
    """A tracker that takes all of a batch, or none: none with a value called "bad"."""

    def __init__(self):
        super().__init__()
        self.batches = []

    def write(self, values):
        assert len({each.site for each in values}) == 1
        self.batches.append([name for each in values for name in each.values])
        if any("bad" in each.values for each in values):
            raise ValueError("no")
        super().write(values)


def test_what_a_tracker_refuses_is_refused_alone_and_counted():
    def of(site, **values):
        return ValuesLogged(site=site, kind="metric", values=values)

    given = [of("a", x=1), of("b", y=1), of("a", bad=1), of("a", x=2), of("a", bad=2, worse=3), of("b", y=2)]

    tracker, said = recorded(*given, tracker=Picky())

    assert [(each.site, dict(each.values)) for each in sorted(tracker.values, key=lambda each: each.site)] == [
        ("a", {"x": 1}), ("a", {"x": 2}), ("b", {"y": 1}), ("b", {"y": 2}),
    ]  # fmt: skip
    assert [each.text for each in said] == [
        "Picky: it did not keep 'bad' of a: ValueError: no",
        "Picky: 3 values were refused in all",
    ]


def test_a_tracker_is_given_a_hundred_names_at_most():
    many = {f"p{number}": number for number in range(250)}

    tracker, _ = recorded(logged(**many), logged(a=1), tracker=Picky())

    assert max(map(len, tracker.batches)) <= 100
    assert {name: value for each in tracker.values for name, value in each.values.items()} == {**many, "a": 1}


@pytest.fixture
def server_folder(tmp_path, monkeypatch):
    """Where the server works."""
    folder = tmp_path / "app"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    return folder


def mlflow_runs(folder, experiment="mine"):
    """MLflow's runs in this folder, by name; the newest last."""
    client = pytest.importorskip("mlflow.tracking").MlflowClient(folder.as_uri())
    found = client.search_runs([client.get_experiment_by_name(experiment).experiment_id], order_by=["start_time"])
    return {each.info.run_name: each for each in found}


def ended(runs):
    return {name: each.info.status for name, each in runs.items()}


def test_mlflow_keeps_all_of_a_batch_or_none(server_folder):
    pytest.importorskip("mlflow")
    tracker = MLflowReceiver()
    tracker.begin(RunFacts(job="mine"))
    bad = ValuesLogged(site="site-1", kind="metric", values={"no @ such": 1.0})

    with pytest.raises(Exception, match="no @ such"):
        tracker.write([logged(loss=1.0), bad])
    tracker.write([logged(rate=2.0)])
    tracker.finish(RunEnd(status=Status.FINISHED))

    assert mlflow_runs(server_folder / ".." / "mlruns")["site-1"].data.metrics == {"rate": 2.0}


def test_mlflow_has_one_run_with_the_settings_and_the_true_status_and_resume_continues_it(server_folder):
    pytest.importorskip("mlflow")
    store = server_folder / ".." / "mlruns"
    settings = {"server.conf workflows[0].args.num_rounds": 5, "server.conf odd[2].k=ey": ["é"]}
    facts = RunFacts(job="mine", sites=["site-1", "site-2"], seed=7, settings=settings, versions={"torch": "2.0"})
    tracker = MLflowReceiver()
    tracker.begin(facts)
    assert mlflow_runs(store)["mine"].info.status == "RUNNING"
    tracker.write([logged(loss=1.0)])
    tracker.finish(RunEnd(status=Status.FAILED, cause="site-1: no luck", failed_sites=frozenset({"site-1"})))

    first = mlflow_runs(store)
    assert ended(first) == {"mine": "FAILED", "site-1": "FAILED"}
    assert first["site-1"].data.tags["mlflow.parentRunId"] == first["mine"].info.run_id
    assert first["mine"].data.tags["fedsag.cause"] == "site-1: no luck"
    assert first["mine"].data.params == {
        "server.conf workflows.0.args.num_rounds": "5",
        "server.conf odd.2.k_ey": "['é']",
        "seed": "7",
        "clients": "2",
        "versions.torch": "2.0",
    }

    tracker = MLflowReceiver()
    tracker.begin(dataclasses.replace(facts, is_resumed=True, versions={"torch": "2.1"}))
    tracker.write([logged(loss=0.5)])
    tracker.write([ValuesLogged(site="site-2", kind="metric", values={"loss": 3.0})])
    tracker.finish(RunEnd(status=Status.FINISHED, digest="d1"))

    again = mlflow_runs(store)
    assert ended(again) == {"mine": "FINISHED", "site-1": "FINISHED", "site-2": "FINISHED"}
    assert [again[name].info.run_id for name in first] == [each.info.run_id for each in first.values()]
    assert again["mine"].data.params == first["mine"].data.params | {"digest": "d1"}
    assert "fedsag.cause" not in again["mine"].data.tags
    assert {name: each.data.metrics for name, each in again.items()} == {
        "mine": {}, "site-1": {"loss": 0.5}, "site-2": {"loss": 3.0},
    }  # fmt: skip


def test_in_a_store_of_many_a_resumed_run_continues_the_newest_of_its_workspace(server_folder, tmp_path):
    pytest.importorskip("mlflow")

    def ids(name, *, resumed=False):
        tracker = MLflowReceiver((tmp_path / "all").as_uri(), {"run_name": name})
        tracker.begin(RunFacts(job="mine", workspace=tmp_path / name, is_resumed=resumed))
        tracker.finish(RunEnd(status=Status.KILLED))
        return mlflow_runs(tmp_path / "all")[name].info.run_id

    first, other, second = ids("it's"), ids("other"), ids("it's")

    assert len({first, other, second}) == 3
    assert ids("it's", resumed=True) == second


def test_tensorboards_page_hparams_has_the_settings_and_the_status_also_of_a_resumed_run(server_folder):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import api_pb2, metadata

    settings = {"server.conf rounds": 5, "server.conf lr": 0.5, "server.conf name": "é", "x": True, "y": None}
    facts = RunFacts(job="mine", sites=["a", "b"], seed=7, settings=settings)
    for status, shown in ((Status.KILLED, api_pb2.STATUS_FAILURE), (Status.FINISHED, api_pb2.STATUS_SUCCESS)):
        tracker = TBAnalyticsReceiver()
        tracker.begin(facts)
        tracker.write([ValuesLogged(site="server", kind="metric", values={"round/accuracy": 0.5}, step=0)])
        tracker.finish(RunEnd(status=status))

        found = EventAccumulator(str(server_folder / ".." / "tb_events" / "server"))
        found.Reload()
        kept = found.PluginTagToContent("hparams")
        started = metadata.parse_session_start_info_plugin_data(kept[metadata.SESSION_START_INFO_TAG])
        assert {name: getattr(value, value.WhichOneof("kind")) for name, value in started.hparams.items()} == {
            **settings, "y": "None", "seed": 7, "clients": 2,
        }  # fmt: skip
        ended = metadata.parse_session_end_info_plugin_data(kept[metadata.SESSION_END_INFO_TAG])
        assert ended.status == shown
    assert [each.value for each in found.Scalars("round/accuracy")] == [0.5, 0.5]


def test_a_tracker_that_could_not_open_is_told_nothing_more(monkeypatch):
    monkeypatch.setattr("fedsag_cli.server.tracking._MOST_WAITING", 250)
    said = []
    tracking = Tracking([Kept({"begin": ImportError("no kept")})], FACTS, said.append)
    tracking.on(ClientReady(site="site-1"))
    while not said:
        time.sleep(0.001)
    for number in range(100):
        tracking.on(logged(a=number))
    tracking.close(Status.FINISHED)

    assert len(said) == 1, "nothing was dropped by it"


def test_after_a_bad_batch_the_next_is_kept():
    tracker, said = Kept({"write": ValueError("no")}), []
    tracking = Tracking([tracker], FACTS, said.append)
    tracking.on(logged(a=1))
    while not said:
        time.sleep(0.001)
    tracker.fails.clear()
    tracking.on(logged(a=2))
    tracking.close(Status.FINISHED)

    assert [dict(each.values) for each in tracker.values] == [{"a": 2}]


def test_a_tracker_that_does_not_end_holds_the_run_up_for_a_while_only():
    goes_on = threading.Event()
    tracker, said = Kept(), []
    tracker.write = lambda values: goes_on.wait()
    tracking = Tracking([tracker], FACTS, said.append)
    tracking.on(logged(a=1))
    tracking.close(Status.FINISHED, limit_s=0.05)
    goes_on.set()

    assert "did not finish in time" in said[0].text
    assert "show kept" in said[0].text, "which is where it may hang"


def test_values_beyond_what_a_slow_tracker_can_wait_with_are_dropped_and_counted(monkeypatch):
    monkeypatch.setattr("fedsag_cli.server.tracking._MOST_WAITING", 250)  # bytes: room for two
    goes_on, began = threading.Event(), threading.Event()
    tracker = Kept()
    keeps = tracker.write

    def slowly(values):
        began.set()
        goes_on.wait()
        keeps(values)

    tracker.write, said = slowly, []
    tracking = Tracking([tracker], FACTS, said.append)
    tracking.on(logged(a=0))
    began.wait()
    for number in range(1, 5):
        tracking.on(logged(a=number))
    goes_on.set()
    tracking.close(Status.FINISHED)

    assert [dict(each.values) for each in tracker.values] == [{"a": 0}, {"a": 1}, {"a": 2}]
    assert "2 values were dropped" in said[-1].text
    assert said[0].view == "show kept"


def test_what_shows_the_curves_is_told_once_and_not_before_there_are_any():
    told = []
    tracking = Tracking([Kept({"write": ValueError("no")}), Kept()], FACTS, told.append)
    tracking.on(logged(a=1))
    tracking.on(logged(a=2))
    tracking.close(Status.FINISHED)

    assert [event.view for event in told if isinstance(event, CurvesKept)] == ["show kept"]


@pytest.mark.parametrize(
    ("tracker", "view"),
    [
        (TBAnalyticsReceiver("curves"), "tensorboard --logdir '{here}/a b/curves'"),
        (MLflowReceiver(), "MLFLOW_ALLOW_FILE_STORE=true mlflow ui --backend-store-uri '{here}/a b/mlruns'"),
        (MLflowReceiver("/m"), "MLFLOW_ALLOW_FILE_STORE=true mlflow ui --backend-store-uri /m"),
        (MLflowReceiver("mine"), "MLFLOW_ALLOW_FILE_STORE=true mlflow ui --backend-store-uri '{here}/a b/app/mine'"),
        (MLflowReceiver("file:///m"), "MLFLOW_ALLOW_FILE_STORE=true mlflow ui --backend-store-uri file:///m"),
        (MLflowReceiver("sqlite:///m.db"), "mlflow ui --backend-store-uri sqlite:///m.db"),
        (MLflowReceiver("http://localhost:5000"), "http://localhost:5000"),
        (MLflowReceiver("https://me:word@host/x"), "https://host/x"),
        (WandBReceiver(), "wandb sync '{here}/a b/wandb'/offline-run-*"),
        (WandBReceiver(mode="online"), "https://wandb.ai/home"),
        (WandBReceiver(mode="disabled"), ""),
    ],
)
def test_a_view_can_be_typed_as_it_stands(tmp_path, monkeypatch, tracker, view):
    monkeypatch.setattr("fedsag_cli.trackers.mlflow.find_spec", lambda _: True)
    (tmp_path / "a b" / "app").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a b" / "app")

    assert tracker.view == view.format(here=tmp_path)


def test_where_mlflow_has_no_pages_its_view_installs_them_first(monkeypatch):
    """mlflow-skinny stores values, but its `mlflow ui` fails."""
    monkeypatch.setattr("fedsag_cli.trackers.mlflow.find_spec", lambda _: None)

    assert MLflowReceiver("/m").view.startswith("pip install mlflow && MLFLOW_ALLOW_FILE_STORE=true mlflow ui ")


def test_a_job_without_trackers_has_no_thread_for_them():
    before = threading.active_count()
    tracking = Tracking([], FACTS, lambda _: None)
    tracking.on(logged(a=1))

    assert threading.active_count() == before


@pytest.mark.parametrize(
    ("data_type", "value", "kind", "values"),
    [
        ("SCALAR", 2, "metric", {"x": 2.0}),
        ("METRIC", True, "metric", {"x": 1.0}),
        ("SCALARS", {"a": 1, "b": 2}, "metric", {"x/a": 1.0, "x/b": 2.0}),
        ("METRICS", {"a": 1, "b": 2}, "metric", {"a": 1.0, "b": 2.0}),
        ("PARAMETER", 0.1, "param", {"x": "0.1"}),
        ("PARAMETERS", {"lr": None}, "param", {"lr": "None"}),
        ("TAG", "é", "tag", {"x": "é"}),
        ("TAGS", {"a": 1}, "tag", {"a": "1"}),
        ("TEXT", "hello", "text", {"x": "hello"}),
    ],
)
def test_what_is_logged_travels_as_one_of_four_kinds(data_type, value, kind, values):
    said = log_values("x", value, AnalyticsDataType(data_type), step=3)

    assert (said.kind, said.values, said.step) == (kind, values, 3)


def test_a_tensors_number_is_a_number_and_so_is_its_step():
    import torch

    said = log_values("x", torch.tensor(0.5), AnalyticsDataType.SCALAR, step=torch.tensor(4))

    assert (said.values, said.step) == ({"x": 0.5}, 4)


@pytest.mark.parametrize(
    ("data_type", "value", "message"),
    [
        ("SCALAR", "five", "log: 'x' is a str, not a number"),
        ("METRICS", {"a": [1, 2]}, "log: 'a' is a list, not a number"),
        ("METRICS", 0.5, "log: 'x' is a float; METRICS takes a dict"),
        ("IMAGE", 0.5, "log: 'x' is of type IMAGE, which no tracker stores"),
        ("TAG", "\ud800", "UTF-8"),
        ("SCALAR", 10**400, "log: 'x' is a int, not a number"),
        ("METRICS", {"\ud800": 1}, "UTF-8"),
    ],
)
def test_what_no_tracker_can_keep_is_an_error_that_names_it(data_type, value, message):
    with pytest.raises(ClientError, match=message):
        log_values("x", value, AnalyticsDataType(data_type))


@pytest.mark.parametrize("step", [0.5, 2**63, True, "7"])
def test_a_step_is_a_whole_number(step):
    with pytest.raises(TypeError, match="global_step must be a whole number of at most 63 bits"):
        log_values("x", 1, AnalyticsDataType.SCALAR, step=step)


def test_a_type_that_is_none_is_an_error_with_the_nearest():
    with pytest.raises(ClientError, match="'SCALER' is not a type") as caught:
        log_values("x", 1, "SCALER")
    assert caught.value.hint == "did you mean 'SCALAR'?"


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/tmp/x", "../../x", "app_server", "checkpoints", "models"])
def test_tensorboards_folder_is_a_new_one(name):
    with pytest.raises(JobError, match="tb_folder must be a folder name"):
        TBAnalyticsReceiver(name)


def test_a_number_that_is_not_finite_is_none_in_the_file_of_events():
    event = from_line(to_line(logged(loss=math.nan, rate=1.0)))

    assert event.values == {"loss": None, "rate": 1.0}


def folder_of(ran):
    return ran.workspace / "server" / "simulate_job"


def tracked(tmp_path, script=WRITES, **args):
    parts = {name: {"path": path, "args": args.get(name, {})} for name, path in TRACKERS.items() if name in args}
    return job(tmp_path / "job", script, components=parts)


@pytest.mark.slow
def test_tensorboard_has_a_folder_of_scalars_for_each_site(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    ran = run(tracked(tmp_path, tb={}), "-n", 2, "-t", 2)

    assert ran.code == 0, ran
    assert f"curves     tensorboard --logdir {folder_of(ran)}/tb_events\n" in ran.out
    for site in ("site-1", "site-2"):
        found = EventAccumulator(str(folder_of(ran) / "tb_events" / site))
        found.Reload()
        scalars = {tag: [(each.step, each.value) for each in found.Scalars(tag)] for tag in found.Tags()["scalars"]}
        assert scalars["loss"] == [(1, 1.0), (2, 0.5), (3, pytest.approx(1 / 3)), (4, 0.25)]
        assert scalars["both/b"] == [(1, -1.0), (2, -2.0), (3, -3.0), (4, -4.0)]
        assert scalars["rate"] == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 4.0)]
        assert scalars["depth"] == [(1, 3.0), (2, 3.0), (3, 3.0), (4, 3.0)]
        assert scalars["round/mean"] == [(0, 1.5), (1, 2.5)]
        assert found.Tensors("name")[0].tensor_proto.string_val == ["é".encode()]
    found = EventAccumulator(str(folder_of(ran) / "tb_events" / "server"))
    found.Reload()
    assert [each.value for each in found.Scalars("round/mean")] == [1.5, 2.5]


@pytest.mark.slow
def test_mlflow_has_a_run_for_each_site_in_its_files(tmp_path, monkeypatch):
    tracking = pytest.importorskip("mlflow.tracking")
    words = {"experiment_name": "mine", "run_name": "first", "experiment_tags": {"a": "b"}, "run_tags": {"c": "d"}}

    ran = run(tracked(tmp_path, mlflow={"kw_args": words}), "-n", 2, "-t", 2)

    assert ran.code == 0, ran
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    client = tracking.MlflowClient((folder_of(ran) / "mlruns").as_uri())
    experiment = client.get_experiment_by_name("mine")
    assert experiment.tags["a"] == "b"
    runs = {each.info.run_name: each for each in client.search_runs([experiment.experiment_id])}
    assert set(runs) == {"first", "site-1-first", "site-2-first"}
    whole = runs["first"]
    assert {each.data.tags.get("mlflow.parentRunId") for each in runs.values()} == {None, whole.info.run_id}
    mine = runs["site-2-first"]
    assert mine.info.status == "FINISHED"
    assert mine.data.params == {"lr": "0.1", "name": "é"}
    assert {"c": "d", "who": "me", "site": "site-2"}.items() <= mine.data.tags.items()
    history = [(each.step, each.value) for each in client.get_metric_history(mine.info.run_id, "loss")]
    assert history == [(1, 1.0), (2, 0.5), (3, pytest.approx(1 / 3)), (4, 0.25)]
    artifacts = folder_of(ran) / "mlruns" / experiment.experiment_id / mine.info.run_id / "artifacts"
    assert (artifacts / "notes" / "text.txt").read_text() == "round 1"


BOTH_LOG_THEN_DIE = """
    import os, signal, time
    from pathlib import Path
    import fedsag_cli.client as flare
    from fedsag_cli.client.tracking import SummaryWriter

    flare.init()
    writer = SummaryWriter()
    while flare.is_running():
        model = flare.receive()
        for step in range(3):
            writer.add_scalar("loss", step, step)
        logged = Path(MET)
        logged.mkdir(exist_ok=True)
        (logged / flare.get_site_name()).touch()
        while len(list(logged.iterdir())) < 2:
            time.sleep(0.01)
        if flare.get_site_name() == "site-2":
            os.kill(os.getpid(), signal.SIGKILL)
        raise ValueError("no luck")
"""


@pytest.mark.slow
def test_what_clients_logged_before_they_died_is_kept_and_the_run_has_failed(tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")

    script = BOTH_LOG_THEN_DIE.replace("MET", repr(str(tmp_path / "logged")))
    ran = run(tracked(tmp_path, script, tb={}, mlflow={}), "-n", 2, "-t", 2)

    assert ran.code == 4, ran
    runs = mlflow_runs(folder_of(ran) / "mlruns", "job")
    assert {name: each.info.status for name, each in runs.items()} == dict.fromkeys(
        ("job", "site-1", "site-2"), "FAILED"
    )
    assert "needs 2 answers" in runs["job"].data.tags["fedsag.cause"]
    assert runs["job"].data.params["config_fed_server.json workflows.0.args.num_rounds"] == "2"
    assert {"seed", "clients", "versions.fedsag", "versions.python"} <= runs["job"].data.params.keys()
    for site in ("site-1", "site-2"):
        assert runs[site].data.metrics == {"loss": 2.0}
        found = EventAccumulator(str(folder_of(ran) / "tb_events" / site))
        found.Reload()
        assert [each.value for each in found.Scalars("loss")] == [0.0, 1.0, 2.0]


@pytest.mark.slow
def test_what_a_script_logs_while_the_server_fails_is_kept(tmp_path, monkeypatch):
    """The aggregator fails after the script has logged, and before the server has read that."""
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    there = tmp_path / "logged"
    script = f"""
        import pathlib, time
        import fedsag_cli.client as flare
        from fedsag_cli.client.tracking import SummaryWriter

        flare.init()
        model = flare.receive()
        flare.send(model)
        SummaryWriter().add_scalar("after", 1.0)
        pathlib.Path({str(there)!r}).touch()
        time.sleep(600)
    """
    aggregator = f"""
        import pathlib, time

        class Breaks:
            def accept(self, site, update):
                while not pathlib.Path({str(there)!r}).exists():
                    time.sleep(0.01)
                raise RuntimeError("no room")

            def aggregate(self): ...
    """
    parts = {"mlflow": {"path": "MLflowReceiver"}, "aggregator": {"path": "breaks.Breaks"}}
    folder = job(tmp_path / "job", script, components=parts, files={"breaks.py": aggregator}, min_clients=1)

    ran = run(folder, "-n", 1)

    assert ran.code == 4, ran
    runs = mlflow_runs(folder_of(ran) / "mlruns", "job")
    assert ended(runs) == {"job": "FAILED", "site-1": "KILLED"}
    assert runs["site-1"].data.metrics == {"after": 1.0}
    assert [dict(each["values"]) for each in ran.told("ValuesLogged")] == [{"after": 1.0}]


@pytest.mark.slow
def test_a_run_that_ctrl_c_ended_is_killed_in_mlflow_and_has_all_that_was_logged(tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    script = """
        import itertools, time
        import fedsag_cli.client as flare
        from fedsag_cli.client.tracking import SummaryWriter

        flare.init()
        flare.receive()
        for step in itertools.count():
            SummaryWriter().add_scalar("loss", step, step)
            time.sleep(0.01)
    """
    with Running(tracked(tmp_path, script, mlflow={}), "-n", 2, "-t", 2) as running:
        running.wait_until_told("CurvesKept")
        running.process.send_signal(signal.SIGINT)
        ran = running.outcome()

    assert (ran.code, ran.left_alive) == (130, []), ran
    runs = mlflow_runs(folder_of(ran) / "mlruns", "job")
    assert ended(runs) == {"job": "KILLED", "site-1": "KILLED", "site-2": "KILLED"}
    for each in ran.told("ValuesLogged"):
        assert runs[each["site"]].data.metrics["loss"] >= each["values"]["loss"]


@pytest.mark.slow
def test_mlflow_may_be_told_of_a_store_elsewhere(tmp_path, monkeypatch):
    tracking = pytest.importorskip("mlflow.tracking")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    uri = (tmp_path / "elsewhere").as_uri()

    for _ in range(2):
        ran = run(tracked(tmp_path, mlflow={"tracking_uri": uri}), "-n", 1)

    assert ran.code == 0, ran
    assert not (folder_of(ran) / "mlruns").exists()
    client = tracking.MlflowClient(uri)
    experiment = client.get_experiment_by_name("job")
    names = sorted(each.info.run_name for each in client.search_runs([experiment.experiment_id]))
    assert names == ["job", "job", "site-1", "site-1"]


def small_log(data):
    """The records of a file of wandb's that is smaller than a block: checksum, length and kind before each."""
    at = 7
    while at + 7 < len(data):
        length = int.from_bytes(data[at + 4 : at + 6], "little")
        yield data[at + 7 : at + 7 + length]
        at += 7 + length


@pytest.mark.slow
def test_wandb_has_a_run_for_each_site_that_can_be_sent_later(tmp_path):
    pytest.importorskip("wandb")
    from wandb.proto import wandb_internal_pb2

    with tempfile.TemporaryDirectory(dir="/tmp") as tmp:  # short: a socket's path ends at 107 bytes
        folder = tracked(tmp_path, wandb={"wandb_args": {"project": "p", "name": "first"}})
        ran = run(folder, "-n", 2, "-t", 2, env={"TMPDIR": tmp})
        left = list(Path(tmp).iterdir())

    assert ran.code == 0, ran
    found, ends, config, summary = {}, {}, {}, {}
    for path in folder_of(ran).glob("wandb/offline-run-*/*.wandb"):
        name, rows = "", []
        for data in small_log(path.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            name = record.run.display_name or name
            if record.HasField("exit"):
                ends[name] = record.exit.exit_code
            if name == "server-first":
                config |= {each.key: json.loads(each.value_json) for each in record.config.update}
                summary |= {each.key: json.loads(each.value_json) for each in record.summary.update if each.key}
            if record.history.item:
                items = record.history.item
                rows.append({each.key or "/".join(each.nested_key): json.loads(each.value_json) for each in items})
        found[name] = rows
    assert set(found) == {"site-1-first", "site-2-first", "server-first"}
    assert ends == dict.fromkeys(found, 0)
    assert (config["seed"], config["config_fed_server.json workflows[0].args.num_rounds"]) == (ran.report["seed"], 2)
    assert (summary["digest"], summary["status"]) == (ran.report["digest"], "FINISHED")
    losses = [(row["global_step"], row["loss"]) for row in found["site-2-first"] if "loss" in row]
    assert losses == [(1, 1.0), (2, 0.5), (3, pytest.approx(1 / 3)), (4, 0.25)]
    assert (ran.left_alive, left) == ([], [])


@pytest.mark.slow
def test_without_the_library_a_run_goes_on_and_says_what_brings_it(tmp_path):
    """A module that cannot be imported stands for one that is not installed."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "tensorboard.py").write_text("raise ModuleNotFoundError(\"No module named 'tensorboard'\")")

    ran = run(tracked(tmp_path, tb={}), "-n", 1, env={"PYTHONPATH": str(site)})

    assert ran.code == 0, ran
    lines = [line for line in ran.out.splitlines() + ran.err.splitlines() if "tensorboard" in line]
    install = "`pip install 'fedsag[tensorboard]'` brings it"
    assert lines == [f"note: TBAnalyticsReceiver: No module named 'tensorboard'; {install}; the run goes on without"]
    assert len(ran.told("ValuesLogged")) == 2 + 2 * 9


@pytest.mark.slow
def test_what_is_logged_is_in_the_events_also_where_no_tracker_is(tmp_path):
    ran = run(job(tmp_path / "job", WRITES), "-n", 1)

    losses = [(each["step"], each["values"]["loss"]) for each in ran.told("ValuesLogged") if "loss" in each["values"]]
    assert losses == [(1, 1.0), (2, 0.5), (3, 1 / 3), (4, 0.25)]


@pytest.mark.slow
def test_a_second_run_replaces_the_first_ones_curves_and_nothing_else(tmp_path):
    pytest.importorskip("tensorboard")
    folder = tracked(tmp_path, tb={})
    first = run(folder, "-n", 2, "-t", 2)
    mine = folder_of(first) / "mine.txt"
    mine.write_text("keep")

    again = run(folder, "-n", 1)

    assert again.code == 0, again
    assert {path.name for path in folder_of(again).glob("tb_events/*")} == {"site-1", "server"}
    assert len(list(folder_of(again).glob("tb_events/site-1/*"))) == 1
    assert mine.read_text() == "keep"


@pytest.mark.slow
def test_a_folder_of_the_users_is_not_taken(tmp_path):
    theirs = tmp_path / "ws" / "server" / "simulate_job" / "tb_events"
    theirs.mkdir(parents=True)
    (theirs / "mine").write_text("keep")

    ran = run(tracked(tmp_path, tb={}), "-n", 1)

    assert ran.code == 2, ran
    assert "tb_events already exists" in ran.err
    assert (theirs / "mine").read_text() == "keep"


@pytest.mark.slow
def test_the_model_is_the_same_with_trackers_and_without(tmp_path):
    pytest.importorskip("tensorboard")
    script = """
        import numpy as np
        import fedsag_cli.client as flare
        from fedsag_cli.client.tracking import SummaryWriter

        flare.init()
        while flare.is_running():
            model = flare.receive()
            params = {k: v + np.random.randn(*v.shape).astype(v.dtype) for k, v in model.params.items()}
            SummaryWriter().add_scalar("x", 1.0)
            flare.send(flare.FLModel(params=params))
    """
    runs = [run(tracked(tmp_path / name, script, **args), "-n", 2, "-t", 2, "--seed", 1)
            for name, args in (("with", {"tb": {}}), ("without", {}))]  # fmt: skip

    assert runs[0].report["digest"] == runs[1].report["digest"]


@pytest.mark.slow
def test_values_logged_from_many_threads_arrive_whole(tmp_path):
    script = """
        import threading
        import fedsag_cli.client as flare
        from fedsag_cli.client.tracking import SummaryWriter

        flare.init()
        writer = SummaryWriter()

        def write(name):
            for step in range(200):
                writer.add_scalar(name, step, step)

        while flare.is_running():
            model = flare.receive()
            threads = [threading.Thread(target=write, args=(name,)) for name in "abcd"]
            for thread in threads:
                thread.start()
            flare.send(model)
            for thread in threads:
                thread.join()
    """
    ran = run(job(tmp_path / "job", script, num_rounds=1, min_clients=1), "-n", 1)

    assert ran.code == 0, ran
    told = sorted((name, each["step"]) for each in ran.told("ValuesLogged") for name in each["values"])
    assert told == [(name, step) for name in "abcd" for step in range(200)]


@pytest.mark.slow
@pytest.mark.parametrize("launch_once", [True, False])
def test_what_is_logged_after_an_answer_is_kept_too(tmp_path, launch_once):
    script = """
        import fedsag_cli.client as flare
        from fedsag_cli.client.tracking import SummaryWriter

        flare.init()
        writer = SummaryWriter()
        while flare.is_running():
            model = flare.receive()
            flare.send(model)
            writer.add_scalar("after", 1, model.current_round)
        writer.add_scalar("last", 1)
    """
    folder = job(tmp_path / "job", script, executor={"launch_once": launch_once})

    ran = run(folder, "-n", 2, "-t", 2)

    assert ran.code == 0, ran
    names = [(each["site"], name) for each in ran.told("ValuesLogged") for name in each["values"]]
    for site in ("site-1", "site-2"):
        assert names.count((site, "after")) == 2
        assert names.count((site, "last")) == (1 if launch_once else 2)


@pytest.mark.slow
def test_what_is_logged_after_leaving_the_run_is_said_to_be_lost(tmp_path):
    script = (
        ADDS_ONE
        + """
    from fedsag_cli.client.tracking import SummaryWriter
    flare.shutdown()
    for step in range(3):
        SummaryWriter().add_scalar("late", step, step)
"""
    )
    ran = run(job(tmp_path / "job", script), "-n", 1)

    assert ran.code == 0, ran
    assert ran.log("site-1").count("the run is over: logged values are not stored any more") == 1


def test_importing_the_writers_imports_no_tracker():
    import subprocess

    code = (
        "import sys, fedsag_cli.client.tracking; print({'tensorboard', 'mlflow', 'wandb', 'torch'} & set(sys.modules))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert ran.stdout.strip() == "set()"


@pytest.mark.parametrize("given", [None, ""])
def test_without_an_address_mlflows_own_variable_counts(monkeypatch, given):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@mlflow:5000")

    tracker = MLflowReceiver(given)

    assert (tracker.view, tracker.folders) == ("http://mlflow:5000", ())
