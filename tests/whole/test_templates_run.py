"""Each template, as it is shipped, from `fedsag job create` to a trained model; some of each kind spawned too."""

import json

import numpy as np
import pytest
from runs import fedsag, run

SMALL = "--limit 60 --batch_size 20 --local_epochs 1"
SERVER = ["-f", "config_fed_server.conf", "num_rounds=2"]
CHANGES = {
    "sag_pt": [*SERVER, "-f", "config_fed_client.conf", f"app_config={SMALL}"],
    "sag_pt_in_proc": [*SERVER, "-f", "config_fed_client.conf", f"app_config={SMALL}"],
    "sag_pt_deploy_map": [
        "-f", "app_server/config_fed_server.conf", "num_rounds=2",
        "-f", "app_1/config_fed_client.conf", f"app_config={SMALL}",
        "-f", "app_2/config_fed_client.conf", f"app_config={SMALL} --batch_size 30",
    ],
    "sag_pt_mlflow": [
        "-f", "config_fed_server.conf", "num_rounds=2", "experiment_name=mine", "run_name=first",
        "-f", "config_fed_client.conf", f"app_config={SMALL}",
    ],
    "fedopt_pt": [*SERVER, "-f", "config_fed_client.conf", f"app_config={SMALL}"],
    "sag_np_robust": SERVER,
    "sag_pt_scaffold": [*SERVER, "-f", "config_fed_client.conf", f"app_config={SMALL}"],
    "sag_pt_ditto": [*SERVER, "-f", "config_fed_client.conf", f"app_config={SMALL}"],
    "sag_np_metrics": [*SERVER, "-f", "config_fed_client.conf", "app_config=--delta 0.5"],
    "sag_np": [*SERVER, "-f", "config_fed_client.conf", "app_config=--delta 0.5"],
}  # fmt: skip
SPAWNED = ("sag_np", "sag_pt_in_proc", "sag_pt_deploy_map")  # numpy; torch, in the client's process; several apps


@pytest.mark.slow
@pytest.mark.parametrize(
    ("template", "launcher"), [*((name, "fork") for name in CHANGES), *((name, "spawn") for name in SPAWNED)]
)
def test_a_template_runs_as_it_is(tmp_path, template, launcher):
    made = fedsag("job", "create", "-w", template, "-j", "my_job", *CHANGES[template], cwd=tmp_path)
    assert made.code == 0, made

    ran = run(tmp_path / "my_job", "-n", 2, "-t", 2, "--launcher", launcher)

    assert ran.code == 0, f"{ran}\n{ran.log('site-1')}"
    report = ran.report
    assert [each["answered"] for each in report["rounds"]] == [["site-1", "site-2"]] * 2
    for accuracy in ran.metrics("accuracy"):
        assert set(accuracy) == {"site-1", "site-2"}
        assert all(0 <= value <= 100 for value in accuracy.values())
    assert set(report["final_metrics_by_site"]) == {"site-1", "site-2"}, "the last aggregate is measured"
    server = tmp_path / "ws" / "server" / "simulate_job"
    if template == "sag_np_robust":
        assert set(np.load(server / "models" / "server.npz")) == {"weight", "bias"}
    elif template.startswith("sag_np"):
        assert np.load(server / "models" / "server.npy").round(5).tolist() == [[2, 3, 4], [5, 6, 7], [8, 9, 10]]
        assert ran.metrics("accuracy")[0] == {"site-1": 5.0, "site-2": 5.0}
        assert ran.metrics("accuracy")[1] == pytest.approx({"site-1": 5.5, "site-2": 5.5})
    else:
        import torch

        saved = torch.load(server / "app_server" / "FL_global_model.pt", weights_only=True)
        assert sum(value.numel() for value in saved["model"].values()) == 62_006
        assert saved["train_conf"] == {"train": {"model": "Net"}}
        assert "generated set" in ran.log("site-1")
    if template in ("sag_pt", "sag_pt_in_proc", "sag_np_metrics"):
        assert {path.name for path in server.glob("tb_events/*")} == {"server", "site-1", "site-2"}
    if template == "sag_pt_mlflow":
        names = {path.read_text() for path in server.glob("mlruns/*/*/tags/mlflow.runName")}
        assert names == {"first", "site-1-first", "site-2-first"}
    if template == "sag_pt_deploy_map":
        assert report["rounds"][0]["num_steps"] == {"site-1": 3.0, "site-2": 2.0}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("aggregator", "holds"), [("FedAvg", False), ("CoordinateMedian", True), ("TrimmedMean", True), ("Krum", True)]
)
@pytest.mark.parametrize("attack", ["SignFlipAttack", "labels"])
def test_one_word_decides_whether_an_attacker_of_five_wins(tmp_path, aggregator, holds, attack):
    """Wrong labels move the mean less than ten times the opposite: that attack is no test of FedAvg."""
    by_labels = ["sites=[]", "app_config=--local_steps 20 --flip_labels site-5"]
    client = ["-f", "config_fed_client.conf", *by_labels] if attack == "labels" else []
    server = ["-f", "config_fed_server.conf", f"aggregator={aggregator}", "num_rounds=3"]
    made = fedsag("job", "create", "-w", "sag_np_robust", "-j", "my_job", *server, *client, cwd=tmp_path)

    ran = run(tmp_path / "my_job", "-n", 5, "-t", 5)

    assert (made.code, ran.code) == (0, 0), f"{made}\n{ran}"
    assert (ran.metrics("accuracy")[2]["site-1"] > 90) is (holds or attack == "labels")
    if aggregator == "Krum":
        assert all(each["aggregate"]["chosen"] != ["site-5"] for each in ran.report["rounds"])


def test_krum_with_too_few_clients_says_how_many_it_needs(tmp_path):
    server = ["-f", "config_fed_server.conf", "aggregator=Krum"]
    fedsag("job", "create", "-w", "sag_np_robust", "-j", "my_job", *server, cwd=tmp_path)

    ran = run(tmp_path / "my_job", "-n", 2, "-t", 2)

    assert ran.code == 3
    assert "needs 5 clients in each round, 2 are asked" in ran.err


def test_two_commands_are_enough(tmp_path):
    made = fedsag("job", "create", "-w", "sag_np", cwd=tmp_path)
    ran = fedsag("simulator", "-n", "2", "-t", "2", cwd=tmp_path)

    assert (made.code, ran.code) == (0, 0), f"{made}\n{ran}"
    assert "answered" in ran.out


CSE = ["-f", "config_fed_client.conf", f"app_config={SMALL} --split iid"]
OTHERS = {
    "cyclic_pt": [*SERVER, "order=RANDOM", "-f", "config_fed_client.conf", f"app_config={SMALL}"],
    "cyclic_cc_pt": [*SERVER, "-f", "config_fed_client.conf", f"app_config={SMALL}"],
    "sag_cse_pt": [*SERVER, *CSE],
    "sag_cse_ccwf_pt": [*SERVER, *CSE],
    "swarm_cse_pt": [*SERVER, *CSE],
    "sag_cross_np": SERVER,
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("template", "launcher"),
    [*((name, "fork") for name in OTHERS), ("sag_cross_np", "spawn"), ("swarm_cse_pt", "spawn")],
)
def test_a_template_of_another_workflow_runs_as_it_is(tmp_path, template, launcher):
    made = fedsag("job", "create", "-w", template, "-j", "my_job", *OTHERS[template], cwd=tmp_path)
    assert made.code == 0, made

    ran = run(tmp_path / "my_job", "-n", 2, "-t", 2, "--seed", 3, "--launcher", launcher)

    assert ran.code == 0, f"{ran}\n{ran.log('site-1')}"
    assert [sorted(each["answered"]) for each in ran.report["rounds"]] == [["site-1", "site-2"]] * 2
    assert ran.report["failures"] == {}
    if template.startswith("cyclic"):
        assert ran.report["tables"] == []
        return
    (table,) = ran.report["tables"]
    server = [f"SRV_{name}" for name in (("server", "best_server") if template == "sag_cross_np"
              else ("FL_global_model.pt", "best_FL_global_model.pt"))]  # fmt: skip
    sites = [f"site-{number}{name}" for name in ("", "/final_model") for number in (1, 2)]
    assert [row[0] for row in table["rows"]] == [*server, *sites]
    assert table["columns"] == ["model", "site-1", "site-2"]
    assert all(isinstance(cell, float) for row in table["rows"] for cell in row[1:])
    results = tmp_path / "ws" / "server" / "simulate_job" / "cross_site_val" / "cross_val_results.json"
    assert set(json.loads(results.read_text())) == {"site-1", "site-2"}
    if template == "sag_cross_np":
        losses = {row[0]: row[1:] for row in table["rows"]}
        for number in (0, 1):  # a site's own model is nearer to its number than the other's
            own, other = f"site-{number + 1}/final_model", f"site-{2 - number}/final_model"
            assert losses[own][number] < losses[other][number]
