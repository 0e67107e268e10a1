"""`fedsag simulator --baseline`: the runs one after another, and what is printed at the end."""

import pytest
from runs import job, run

MEASURES = """
    import fedsag_cli.client as flare

    flare.init()
    site = flare.site()
    if site.name == "pooled":
        raise SystemExit("no data for pooled")
    while flare.is_running():
        model = flare.receive()
        metrics = {"mean": float(model.params["numpy_key"].mean()) + site.index}
        if flare.is_evaluate():
            flare.send(flare.FLModel(metrics=metrics))
            continue
        params = {"numpy_key": model.params["numpy_key"] + 1}
        flare.send(flare.FLModel(params=params, metrics=metrics, meta={"NUM_STEPS_CURRENT_ROUND": 5}))
"""


@pytest.mark.slow
def test_a_baseline_that_fails_makes_the_exit_code_4_and_the_other_one_is_shown(tmp_path):
    made = job(tmp_path / "job", MEASURES, tasks=["train", "validate"], num_rounds=2)

    ran = run(made, "-n", 2, "-t", 2, "--seed", 1, "--baseline", "centralised", "--baseline", "local")

    assert ran.code == 4, ran
    assert "error: the baseline 'centralised' failed: round 0 needs 1 answer" in ran.err
    assert "no data for pooled" in ran.err
    assert "the same command with --resume goes on with its baselines" in ran.err
    lines = [line.split() for line in ran.out.splitlines()]
    at = lines.index(["training", "mean", "(sites)", "steps", "seconds", "run"])
    assert [line[:2] for line in lines[at + 1 : at + 4]] == [
        ["federated", "7.5"],
        ["centralised", "failed"],
        ["local", "7.5"],
    ]
    assert lines[at + 3][2:4] == ["(7–8)", "20"]
    assert ran.report["ok"] is True
