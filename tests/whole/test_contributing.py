"""CONTRIBUTING.md's example of a workflow, taken from the page and run."""

import json
import os
import re
import signal
from pathlib import Path

import numpy as np
import pytest
from runs import Running, job, run

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "CONTRIBUTING.md").read_text()
EXAMPLE = next(block for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if "class BestOfAll" in block)

ADDS_ITS_NUMBER = """
    import fedsag_cli.client as flare

    flare.init()
    number = int(flare.get_site_name().removeprefix("site-"))
    while flare.is_running():
        model = flare.receive()
        params = {k: v + number for k, v in model.params.items()}
        flare.send(flare.FLModel(params=params, metrics={"accuracy": number + float(model.params["numpy_key"].mean())}))
"""
SENDS_NONSENSE = """
    import fedsag_cli.client as flare
    import numpy as np

    flare.init()
    while flare.is_running():
        flare.receive()
        flare.send(flare.FLModel(params={"other": np.array([np.nan, 1])}, metrics={"accuracy": 1}))
"""

pytestmark = pytest.mark.slow


def best_of_all(folder, script, **args):
    made = job(folder, script, files={"best_of_all.py": EXAMPLE})
    file = made / "app/config/config_fed_server.json"
    conf = json.loads(file.read_text())
    conf["workflows"] = [
        {"id": "workflow", "path": "best_of_all.BestOfAll", "args": {"persistor_id": "persistor", **args}}
    ]
    conf["components"] = [
        {"id": "persistor", "path": "NPModelPersistor", "args": {"model": [0.0, 0.0]}},
        {"id": "selector", "path": "IntimeModelSelector", "args": {"key_metric": "accuracy"}},
    ]
    file.write_text(json.dumps(conf))
    return made


def test_the_example_is_twenty_lines_of_its_own():
    body = EXAMPLE[EXAMPLE.index("class BestOfAll") :]

    assert len(body.strip().splitlines()) <= 20


def test_it_has_the_table_the_report_the_checkpoint_and_the_best_model(tmp_path):
    made = best_of_all(tmp_path / "job", ADDS_ITS_NUMBER, num_rounds=3, model_selector_id="selector")

    ran = run(made, "-n", "2", "-t", "2")

    assert ran.code == 0, ran.out
    rounds = ran.report["rounds"]
    assert [each["metrics_by_site"]["site-2"]["accuracy"] for each in rounds] == [2.0, 4.0, 6.0]
    assert all(each["answered"] == ["site-1", "site-2"] for each in rounds)
    assert ran.report["best"]["round_num"] == 2
    assert [path.name for path in (ran.workspace / "server/simulate_job/checkpoints").iterdir()]
    assert np.load(ran.workspace / "server/simulate_job/models/server.npy").tolist() == [6.0, 6.0]


def test_it_continues_after_the_last_complete_round_and_ends_with_the_same_model(tmp_path):
    made = best_of_all(tmp_path / "job", ADDS_ITS_NUMBER, num_rounds=40, model_selector_id="selector")
    whole = run(made, "-n", "2", "-t", "2", workspace=tmp_path / "whole")
    with Running(made, "-n", "2", "-t", "2", workspace=tmp_path / "cut") as running:
        running.wait_until_told("RoundFinished", 3)
        os.kill(running.pids()["server"], signal.SIGKILL)
        cut = running.outcome()

    resumed = run(made, "--resume", workspace=tmp_path / "cut")

    assert (cut.code, resumed.code) == (4, 0), resumed
    assert resumed.report["resumed_at"][0] >= 3
    assert resumed.report["digest"] == whole.report["digest"]
    assert resumed.report["best"] == whole.report["best"]


def test_a_bad_argument_of_it_is_refused_before_anything_starts(tmp_path):
    made = best_of_all(tmp_path / "job", ADDS_ITS_NUMBER, num_rounds=0)

    ran = run(made, "-n", "2")

    assert ran.code == 3
    assert "num_rounds" in ran.err


def test_updates_that_do_not_fit_the_model_end_the_run_truthfully(tmp_path):
    made = best_of_all(tmp_path / "job", SENDS_NONSENSE, num_rounds=3)

    ran = run(made, "-n", "2", "-t", "2")

    assert ran.code == 4
    assert "'other'" in ran.err
    assert not ran.report["ok"]
