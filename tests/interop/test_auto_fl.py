"""What NVIDIA's Auto-FL does with a job script: it runs it in a folder of its own, copies the result, reads the score.

Its runner is not part of NVFLARE's package. `Caller` keeps what it does: the environment has few variables, the folder
of results is named by one of them, the script prints where its result is, and all of that folder can be copied.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from runs import job

pytestmark = pytest.mark.slow

KEPT = ("PATH", "HOME", "TMPDIR", "LANG", "FEDSAG_HOME")
ROOT = "NVFLARE_SIMULATOR_WORKSPACE_ROOT"
TRAIN = """
    import sys

    import numpy as np
    import nvflare.client as flare

    flare.init()
    while flare.is_running():
        model = flare.receive()
        values = model.params["numpy_key"]
        if flare.is_evaluate():
            flare.send(flare.FLModel(metrics={"accuracy": float(values.mean())}))
            continue
        step = float(sys.argv[1]) * np.random.rand(*values.shape)
        flare.send(flare.FLModel(params={"numpy_key": values + step}, metrics={"accuracy": float(values.mean())}))
"""
SCRIPT = """
import os
import sys
from pathlib import Path

import fedsag_cli

if __name__ == "__main__":
    result = Path(os.environ["NVFLARE_SIMULATOR_WORKSPACE_ROOT"]) / "hello"
    fedsag_cli.simulate("job", workspace=result, clients=2, threads=2)
    print("Result can be found in :", result)
"""


@dataclass
class Trial:
    """`artifacts`: the copy of the result."""

    code: int
    output: str
    artifacts: Path

    def score(self, metric):
        """The number that Auto-FL compares: of the summary of metrics, or else of the server's model at all sites."""
        for path in self.artifacts.glob("**/metrics_summary.json"):
            for each in json.loads(path.read_text())["final_aggregated_metrics"]:
                if each["name"] == metric:
                    return each["value"]
        return self.score_across_sites(metric)

    def score_across_sites(self, metric):
        path = self.artifacts / "server" / "simulate_job" / "cross_site_val" / "cross_val_results.json"
        by_site = json.loads(path.read_text())
        found = [cells[owner][metric] for cells in by_site.values() for owner in cells if owner == "SRV_server"]
        return sum(found) / len(found)

    @property
    def digest(self):
        return json.loads((self.artifacts / "report.json").read_text())["digest"]


@dataclass
class Caller:
    script: Path

    def run(self, place, *words):
        """Run the script; `place`: for its result, and for a copy."""
        root = place / "simulation"
        root.mkdir(parents=True)
        env = {name: os.environ[name] for name in KEPT if name in os.environ} | {ROOT: str(root)}
        command = [sys.executable, str(self.script), *words]
        ran = subprocess.run(
            command, cwd=self.script.parent, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        printed = re.search(r"Result can be found in\s*:\s*(?P<path>\S+)", ran.stdout)
        artifacts = place / "copy"
        if printed:
            result = Path(printed["path"])
            assert [each for each in root.iterdir() if not each.name.startswith(".")] == [result]
            shutil.copytree(result, artifacts)
            shutil.rmtree(result)
        return Trial(ran.returncode, ran.stdout, artifacts)


@pytest.fixture(scope="module")
def trials(tmp_path_factory):
    """A baseline five times, with the seed that the job has, and a candidate that trains with larger steps."""
    place = tmp_path_factory.mktemp("campaign")
    cross = {
        "id": "cross",
        "path": "CrossSiteModelEval",
        "args": {"persistor_id": "persistor", "submit_model_task_name": None},
    }
    made = job(place / "job", TRAIN, args="1.0", tasks=["train", "validate"])
    config = made / "app" / "config" / "config_fed_server.json"
    server = json.loads(config.read_text())
    config.write_text(json.dumps({**server, "workflows": [*server["workflows"], cross]}))
    meta = json.loads((made / "meta.json").read_text())
    (made / "meta.json").write_text(json.dumps({**meta, "custom_props": {"seed": 11}}))
    (place / "job.py").write_text(SCRIPT)
    caller = Caller(place / "job.py")
    baselines = [caller.run(place / f"baseline-{number}") for number in range(5)]
    client = made / "app" / "config" / "config_fed_client.json"
    client.write_text(client.read_text().replace("train.py 1.0", "train.py 2.0"))
    return baselines, caller.run(place / "candidate")


def test_a_baseline_that_is_repeated_has_one_digest_and_one_score(trials):
    baselines, _ = trials

    assert [trial.code for trial in baselines] == [0] * 5, baselines[0].output
    assert len({trial.digest for trial in baselines}) == 1
    assert len({trial.score("accuracy") for trial in baselines}) == 1


def test_a_candidate_is_scored_by_the_same_files(trials):
    (baseline, *_), candidate = trials

    assert candidate.code == 0
    assert candidate.score("accuracy") > baseline.score("accuracy")
    assert candidate.score_across_sites("accuracy") > baseline.score_across_sites("accuracy")
    assert candidate.digest != baseline.digest


def test_the_copy_has_the_lines_by_which_progress_is_seen(trials):
    (baseline, *_), _ = trials

    lines = (baseline.artifacts / "server" / "log_fl.txt").read_text().splitlines()
    assert [line.partition(" - INFO - ")[2] for line in lines if "Round " in line] == [
        "Round 0 started.",
        "Round 0 finished.",
        "Round 1 started.",
        "Round 1 finished.",
    ]
    assert (baseline.artifacts / "site-1" / "log_fl.txt").is_file()
