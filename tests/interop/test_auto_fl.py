"""What NVIDIA's Auto-FL does with a job script: it runs it in a folder of its own, copies the result, reads the score.

Its runners are not part of NVFLARE's package. RUNNER and `Trial` keep what they do: the job script is started with few
variables, the folder of results is named by one of them, the script prints where its result is, and all of that folder
can be copied. The runner itself is started by `fedsag run`.
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

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
RUNNER = """
import os
import subprocess
import sys

kept = ("PATH", "PYTHONPATH", "HOME", "TMPDIR", "LANG", "FEDSAG_HOME")
env = {name: os.environ[name] for name in kept if name in os.environ}
env["NVFLARE_SIMULATOR_WORKSPACE_ROOT"] = sys.argv[1]
raise SystemExit(subprocess.run([sys.executable, "job.py", *sys.argv[2:]], env=env).returncode)
"""
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
JOB = """
import argparse

from nvflare.apis.job_def import JobMetaKey
from nvflare.app_common.np.recipes.fedavg import NumpyFedAvgRecipe
from nvflare.recipe import SimEnv, add_cross_site_evaluation, set_recipe_meta

parser = argparse.ArgumentParser()
parser.add_argument("--name", default="hello")
parser.add_argument("--step", type=float, default=1.0)
args = parser.parse_args()
recipe = NumpyFedAvgRecipe(
    name=args.name, min_clients=2, num_rounds=2, model=[[0.0, 0.0]], train_script="train.py", train_args=str(args.step)
)
add_cross_site_evaluation(recipe)
set_recipe_meta(recipe, JobMetaKey.CUSTOM_PROPS, {"seed": 11})
run = recipe.execute(SimEnv(num_clients=2))
print("Result can be found in :", run.get_result())
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


def tried(folder, place, *words):
    """The job script in `folder`, run once with these words; `place`: for its result, and for a copy."""
    root = place / "simulation"
    root.mkdir(parents=True)
    command = [sys.executable, "-m", "fedsag_cli", "run", "runner.py", str(root), *words]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    ran = subprocess.run(command, cwd=folder, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    artifacts = place / "copy"
    if printed := re.search(r"Result can be found in\s*:\s*(?P<path>\S+)", ran.stdout):
        result = Path(printed["path"])
        assert [each for each in root.iterdir() if not each.name.startswith(".")] == [result]
        shutil.copytree(result, artifacts)
        shutil.rmtree(result)
    return Trial(ran.returncode, ran.stdout, artifacts)


@pytest.fixture(scope="module")
def trials(tmp_path_factory):
    """A baseline five times, with the seed that the job has, and a candidate that trains with larger steps."""
    folder = tmp_path_factory.mktemp("campaign")
    for name, text in {"runner.py": RUNNER, "job.py": JOB, "train.py": TRAIN}.items():
        (folder / name).write_text(text)
    baselines = [tried(folder, folder / f"baseline-{number}", "--name", f"try-{number}") for number in range(5)]
    return baselines, tried(folder, folder / "candidate", "--step", "2.0")


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


def test_the_summary_says_how_its_means_are_made(trials):
    (baseline, *_), _ = trials

    (path,) = baseline.artifacts.glob("**/metrics_summary.json")
    made = json.loads(path.read_text())["aggregation"]
    assert made["metric_policy"] == "finite_numeric_metrics_only_per_key_denominator"
    assert made["weight_formula"] == made["weight_key"] == "NUM_STEPS_CURRENT_ROUND"


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
