"""Baselines of a federated run: what they train on, for how long, and what the report says of them."""

import json

import msgspec
import numpy as np
import pytest
from plans import plan
from runs import app, deploy, job

from fedsag_cli import history
from fedsag_cli.errors import JobError, OutOfTime, RunError, UsageError, WorkspaceError
from fedsag_cli.report import Report
from fedsag_cli.simulator import simulate
from fedsag_cli.simulator.baselines import CENTRALISED, LOCAL, is_begun
from fedsag_cli.simulator.comparing import held, run_baseline
from fedsag_cli.simulator.options import Options
from fedsag_cli.simulator.time_limit import TimeLimit
from fedsag_cli.workspace import Workspace, write_json

BOTH = (CENTRALISED, LOCAL)
HALFWAY = """
    import sys
    from pathlib import Path
    import numpy as np
    import fedsag_cli.client as flare

    VALUES = np.array([0.0, 4.0])  # one of each site, of two

    flare.init()
    site = flare.site()
    mean = VALUES[site.index :: site.count].mean()
    while flare.is_running():
        model = flare.receive()
        w = model.params["w"]
        metrics = {"error": float(abs(w - mean).max())}
        if flare.is_evaluate():
            flare.send(flare.FLModel(metrics=metrics))
            continue
        if site.name == "pooled" and model.current_round == 1 and any(Path(stop).exists() for stop in sys.argv[1:]):
            raise RuntimeError("no data for pooled")
        trained = {"w": (w + 0.5 * (mean - w)).astype(np.float32)}
        flare.send(flare.FLModel(params=trained, metrics=metrics,
                                 meta={"NUM_STEPS_CURRENT_ROUND": len(VALUES[site.index :: site.count])}))
"""
"""Goes half of the way from w to the mean of the site's values: after two rounds, three quarters of it."""

PARTS = {
    "persistor": {"path": "NPModelPersistor", "args": {"model": {"w": [0.0]}}},
    "model_selector": {"path": "IntimeModelSelector", "args": {"key_metric": "error", "negate_key_metric": True}},
}


def halfway(folder, **settings):
    return job(folder, HALFWAY, tasks=["train", "validate"], components=PARTS, **settings)


def federated(made, workspace, **options):
    given = Options(num_clients=2, slots=2, seed=3, baselines=BOTH, **options)
    return simulate(made, workspace, given), given


def run_one(kind, made, report, options):
    with held(report) as workspace:
        return run_baseline(kind, made, report, options, workspace)


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """A federated run and both baselines: the report, and the folder of the run."""
    folder = tmp_path_factory.mktemp("compared")
    report, options = federated(halfway(folder / "job"), folder / "ws")
    with held(report) as workspace:
        for kind in BOTH:
            run_baseline(kind, folder / "job", report, options, workspace)
    return report, folder / "ws"


def test_federated_centralised_and_local_training_come_to_the_models_they_should(compared):
    """The mean of both sites is 2: halfway twice is 1.5. Alone, site-1 stays at 0, and site-2 comes to 3."""
    _, workspace = compared

    def model_of(folder):
        with np.load(folder / "server" / "simulate_job" / "models" / "server.npz") as arrays:
            return {name: arrays[name].tolist() for name in arrays}

    assert model_of(workspace) == {"w": [1.5]}
    assert model_of(workspace.with_name("ws.baselines") / CENTRALISED) == {"w": [1.5]}
    assert model_of(workspace.with_name("ws.baselines") / LOCAL) == {"site-1/w": [0.0], "site-2/w": [3.0]}


def test_the_report_has_what_each_measured_in_as_many_steps(compared):
    report, workspace = compared

    told = msgspec.json.decode((workspace / "report.json").read_bytes(), type=Report)

    assert told.baselines == report.baselines
    assert report.final_metrics == {"error": 2.0}  # |1.5 - 0| and |1.5 - 4|
    centralised, local = report.baselines
    assert (centralised.kind, centralised.metrics, centralised.metrics_by_site) == (
        CENTRALISED, {"error": 0.5}, {"pooled": {"error": 0.5}},
    )  # fmt: skip
    assert (local.kind, local.metrics, local.metrics_by_site) == (
        LOCAL, {"error": 0.5}, {"site-1": {"error": 0.0}, "site-2": {"error": 1.0}},
    )  # fmt: skip
    assert [(each.ok, each.is_final, each.rounds, each.num_steps) for each in report.baselines] == [
        (True, True, 2, 4.0),
        (True, True, 2, 4.0),
    ]


def test_each_baseline_is_a_run_of_its_own_that_is_told_by_its_job(compared):
    report, workspace = compared

    assert [each.run for each in report.baselines] == [history.number_of(workspace) + more for more in (1, 2)]
    jobs = [json.loads((workspace.with_name("ws.baselines") / kind / "report.json").read_text()) for kind in BOTH]
    assert [each["job"] for each in jobs] == ["job (centralised)", "job (local)"]
    assert [each["seed"] for each in jobs] == [3, 3]
    assert "What federation costs and gains" in (workspace / "report.html").read_text()


def test_while_baselines_follow_no_other_run_can_use_the_workspace(compared):
    report, workspace = compared

    with held(report), pytest.raises(WorkspaceError, match="is used by another run"):
        simulate(workspace.parent / "job", workspace, Options(num_clients=2))

    assert json.loads((workspace / "report.json").read_text())["began"] == report.began


def test_a_baseline_does_not_begin_when_the_time_of_its_run_is_over(compared):
    report, workspace = compared
    options = Options(num_clients=2, max_time=TimeLimit("4m", ends=0.0), baselines=BOTH)
    runs = [each.run for each in report.baselines]

    with pytest.raises(OutOfTime, match="longer than --max-time 4m") as over:
        run_one(LOCAL, workspace.parent / "job", report, options)

    assert "the same command with --resume goes on with its baselines" in over.value.hint
    assert [each.run for each in report.baselines] == runs


@pytest.mark.parametrize("place", ["ws.baselines", "ws.baselines/local/report.json"])
def test_a_folder_that_a_baseline_cannot_use_is_an_error_before_anything_starts(tmp_path, place):
    (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / place).write_text("mine")

    with pytest.raises(WorkspaceError, match=f"{tmp_path / place} (is not a folder|already exists)"):
        federated(halfway(tmp_path / "job"), tmp_path / "ws")

    assert not (tmp_path / "ws" / "plan.json").exists()
    assert (tmp_path / place).read_text() == "mine"


def test_a_later_run_replaces_the_report_that_was_written_again(compared):
    _, workspace = compared

    again = simulate(workspace.parent / "job", workspace, Options(num_clients=2, slots=2, seed=3))

    assert again.baselines == []
    assert (workspace.with_name("ws.baselines") / LOCAL / "report.json").exists()


@pytest.mark.slow
def test_a_baseline_that_fails_is_told_and_the_next_command_resumes_it(tmp_path):
    stop = tmp_path / "stop"
    stop.touch()
    made = halfway(tmp_path / "job", args=str(stop))
    report, options = federated(made, tmp_path / "ws")

    with pytest.raises(RunError, match="the baseline 'centralised' failed: round 1 needs 1 answer") as failed:
        run_one(CENTRALISED, made, report, options)

    assert (failed.value.exit_code, "--resume" in failed.value.hint) == (4, True)
    (told,) = json.loads((tmp_path / "ws" / "report.json").read_text())["baselines"]
    assert (told["ok"], told["rounds"], "round 1" in told["cause"]) == (False, 1, True)
    with pytest.raises(WorkspaceError, match=r"ws\.baselines/centralised has 1 complete round"):
        federated(made, tmp_path / "ws")
    stop.unlink()
    report = simulate(made, tmp_path / "ws", again := Options(resume=True, baselines=BOTH))
    resumed = run_one(CENTRALISED, made, report, again)
    assert (resumed.ok, resumed.rounds, resumed.metrics) == (True, 2, {"error": 0.5})
    place = tmp_path / "ws.baselines" / CENTRALISED
    assert json.loads((place / "report.json").read_text())["resumed_at"] == [1]


def test_an_unknown_kind_is_an_error_that_names_the_nearest_one(tmp_path):
    made = halfway(tmp_path / "job")

    with pytest.raises(UsageError, match="--baseline 'centralized': there is none") as error:
        simulate(made, tmp_path / "ws", Options(num_clients=2, baselines=["centralized"]))

    assert "'centralised'" in error.value.hint
    assert not (tmp_path / "ws").exists()


def test_a_job_that_has_no_baseline_is_an_error_before_anything_starts(tmp_path):
    kmeans = {"aggregator": {"path": "KMeansAggregator"}}
    args = {"aggregator_id": "aggregator", "persistor_id": "persistor"}
    fedbuff = {"workflows": [{"id": "flow", "path": "FedBuff", "args": args}]}
    twice = {"workflows": [{"id": name, "path": "ScatterAndGather", "args": args} for name in "ab"]}
    jobs = {
        "clients send the centres of clusters": job(tmp_path / "kmeans", components=kmeans),
        "the first workflow of the job is FedBuff": job(tmp_path / "fedbuff", server=fedbuff),
        "several workflows of the job train": job(tmp_path / "twice", server=twice),
    }
    for problem, made in jobs.items():
        with pytest.raises(JobError, match=problem):
            simulate(made, tmp_path / "ws", Options(num_clients=2, baselines=BOTH))
    assert not (tmp_path / "ws").exists()


def test_a_deploy_map_without_an_app_for_the_pooled_client_is_an_error(tmp_path):
    app(tmp_path / "job" / "app", HALFWAY)
    made = deploy(tmp_path / "job", app=["server", "site-1", "site-2"])

    with pytest.raises(JobError, match="its one client is called 'pooled'") as error:
        simulate(made, tmp_path / "ws", Options(num_clients=2, baselines=[CENTRALISED]))

    assert 'add "pooled"' in error.value.hint


def test_a_baseline_whose_client_has_an_app_of_its_own_can_be_continued_and_one_of_another_job_cannot(tmp_path):
    workspace = Workspace(tmp_path / "ws")
    workspace.plan.parent.mkdir(parents=True)
    own = plan(files={"shared": "1", "only_pooled": "2"}, baseline=CENTRALISED)
    write_json(workspace.plan, own)

    assert is_begun(workspace, plan(files={"shared": "1", "of_a_site": "3"}), CENTRALISED)
    assert not is_begun(workspace, plan(files={"shared": "4"}), CENTRALISED)
    assert not is_begun(workspace, plan(files={"shared": "1"}), LOCAL)
