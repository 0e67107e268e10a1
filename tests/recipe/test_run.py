"""`fedsag run` with whole runs; NVFLARE's own recipes where `scripts/interop` has installed NVFLARE."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
PEER = ROOT / ".venv-peers/nvflare"

CLIENT = """
import argparse
import nvflare.client as flare

parser = argparse.ArgumentParser()
parser.add_argument("--step", type=float)
parser.add_argument("--fails", action="store_true")
args = parser.parse_args()
flare.init()
while flare.is_running():
    model = flare.receive()
    if args.fails:
        raise ValueError("no data")
    params = {name: value + args.step for name, value in model.params.items()}
    flare.send(flare.FLModel(params=params, metrics={"accuracy": float(model.params["numpy_key"].mean())}))
"""

JOB = """
import argparse
from nvflare.app_common.np.recipes.fedavg import NumpyFedAvgRecipe
from nvflare.recipe import SimEnv

parser = argparse.ArgumentParser()
parser.add_argument("--clients", type=int, default=2)
parser.add_argument("--more", default="")
args = parser.parse_args()
recipe = NumpyFedAvgRecipe(
    name="mine", min_clients=args.clients, num_rounds=2, model=[[1.0, 2.0]], train_script="client.py",
    train_args=f"--step 2 {args.more}",
)
run = recipe.execute(SimEnv(num_clients=args.clients, workspace_root="ws"))
print("status", run.get_status(), "result", run.get_result())
"""

OF_PARTS = """
from nvflare import FedJob
from nvflare.app_common.np.np_model_persistor import NPModelPersistor
from nvflare.app_common.workflows.fedavg import FedAvg
from nvflare.fuel.utils.constants import FrameworkType
from nvflare.job_config.script_runner import ScriptRunner

if __name__ == "__main__":
    job = FedJob(name="parts", min_clients=2)
    persistor = job.to_server(NPModelPersistor(model=[1.0, 2.0]), id="persistor")
    job.to_server(FedAvg(num_clients=2, num_rounds=2, persistor_id=persistor))
    for site in ("a", "b"):
        job.to(ScriptRunner("client.py", "--step 1", framework=FrameworkType.NUMPY), site)
    job.simulator_run("ws/parts")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("scripts")
    (made / "client.py").write_text(CLIENT)
    (made / "job.py").write_text(JOB)
    (made / "parts.py").write_text(OF_PARTS)
    return made


def fedsag(folder, *words, path="", python_words=("-m", "fedsag_cli", "run")):
    env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), path])), "COLUMNS": "200"}
    command = [sys.executable, *python_words, *words]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)


def final_model(folder, name):
    return np.load(folder / "ws" / name / "server/simulate_job/models/server.npy").tolist()


@pytest.mark.slow
def test_a_script_with_a_recipe_runs_as_it_is(folder):
    ran = fedsag(folder, "--with", "fedsag", "--seed", "5", "job.py", "--clients", "2")

    assert ran.returncode == 0, ran.stderr
    assert "job mine: 2 clients, 2 at a time, 1 thread each, seed 5" in ran.stdout
    assert ran.stdout.endswith("status FINISHED:COMPLETED result ws/mine\n")
    assert final_model(folder, "mine") == [[5.0, 6.0]]


@pytest.mark.slow
def test_a_script_of_a_shell_runs_its_job_scripts_in_fedsag_also_if_it_passes_few_variables_on(folder, monkeypatch):
    kept = " ".join(f'{name}="${name}"' for name in ("PATH", "HOME", "PYTHONPATH", "FEDSAG_HOME"))
    (folder / "campaign.sh").write_text(f'#!/usr/bin/env bash\nenv -i {kept} python3 job.py "$@"\necho score $?\n')
    monkeypatch.setenv("PATH", "/usr/bin:/bin")  # the python3 is that of fedsag all the same

    ran = fedsag(folder, "campaign.sh", "--clients", "2")

    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.endswith("status FINISHED:COMPLETED result ws/mine\nscore 0\n")


@pytest.mark.slow
def test_a_job_of_parts_runs_with_the_clients_that_it_names(folder):
    ran = fedsag(folder, "--with", "fedsag", "parts.py")

    assert ran.returncode == 0, ran.stderr
    assert final_model(folder, "parts") == [3.0, 4.0]
    assert (folder / "ws/parts/a/log.txt").exists()


@pytest.mark.slow
def test_a_script_gets_a_secret_that_the_job_only_names(folder, monkeypatch):
    text = JOB.replace('f"--step 2 {args.more}"', "f\"--step {secret_ref('S')}\"")
    text = text.replace("import SimEnv", "import SimEnv, secret_ref")
    (folder / "secret.py").write_text(text.replace('name="mine"', 'name="secret"'))
    monkeypatch.setenv("S", "3")

    ran = fedsag(folder, "--with", "fedsag", "secret.py")

    assert ran.returncode == 0, ran.stderr
    assert final_model(folder, "secret") == [[7.0, 8.0]]
    assert "${secret:S}" in (folder / "ws/.secret.job/secret/app/config/config_fed_client.json").read_text()


@pytest.mark.slow
def test_a_run_that_fails_ends_the_script_with_the_message_and_the_exit_code_of_the_simulator(folder):
    ran = fedsag(folder, "--with", "fedsag", "job.py", "--more=--fails")

    assert ran.returncode == 4
    assert "error: round 0 needs 2 answers" in ran.stderr
    assert "ValueError: no data" in ran.stderr
    assert "status" not in ran.stdout
    assert 'Traceback (most recent call last):\n  File "' + str(folder / "job.py") not in ran.stderr


def test_export_writes_the_job_and_the_script_does_not_see_the_word(folder):
    ran = fedsag(folder, "--with", "fedsag", "job.py", "--export", "--export-dir", "out", "--clients", "3")

    assert (ran.returncode, ran.stdout) == (0, "job mine is in out\n"), ran.stderr
    assert json.loads((folder / "out/mine/meta.json").read_text())["min_clients"] == 3


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("from nvflare.app_opt.psi import DhPSIController", "error: fedsag has no nvflare.app_opt.psi.DhPSIController"),
        ("from nvflare.recipe import FedStatsRecipe", "error: fedsag has no nvflare.recipe.FedStatsRecipe"),
        ("from nvflare.recipe import PocEnv\nPocEnv(num_clients=2)", "error: PocEnv is a deployment of NVFLARE"),
        ("import nvflare\nnvflare.psi", "error: fedsag has no nvflare.psi"),
        ("import nvflare.apis.foo as foo\nfoo.Bar()", "error: fedsag has no nvflare.apis.foo.Bar"),
        ("import nvflare.apis.foo as foo\nfoo.bar(1)", "error: fedsag has no nvflare.apis.foo.bar"),
        ("from nvflare.apis.foo import bar\nbar()", "error: fedsag has no nvflare.apis.foo.bar"),
        ("from nvflare.apis.foo import bar\nclass X(bar):\n    pass", "error: fedsag has no nvflare.apis.foo.bar"),
        ("from nvflare.app_common.workflows import fedavg\nfedavg.Nix", "error: fedsag has no nvflare.app_common.work"),
    ],
)
def test_a_name_that_fedsag_lacks_is_an_error_without_a_traceback(folder, text, said):
    (folder / "lacking.py").write_text(text)

    ran = fedsag(folder, "--with", "fedsag", "lacking.py")

    assert ran.returncode == 2
    assert said in ran.stderr
    assert "Traceback" not in ran.stderr


def test_a_script_can_try_to_import_what_fedsag_lacks(folder):
    tries = "try:\n    from nvflare.app_opt.psi import DhPSIController\nexcept ImportError as error:\n    print(error)"
    (folder / "tries.py").write_text(tries)

    ran = fedsag(folder, "--with", "fedsag", "tries.py")

    assert ran.returncode == 0
    assert ran.stdout.startswith("fedsag has no nvflare.app_opt.psi.DhPSIController")


def test_a_program_can_ask_for_the_variable_that_names_the_folder_of_results(folder):
    (folder / "asks.py").write_text(
        "from nvflare.recipe import sim_env\nprint(sim_env.SIMULATOR_WORKSPACE_ROOT_ENV_VAR)"
    )

    assert fedsag(folder, "--with", "fedsag", "asks.py").stdout == "NVFLARE_SIMULATOR_WORKSPACE_ROOT\n"


def test_a_script_can_split_gpus_that_this_machine_does_not_have(folder):
    (folder / "gpus.py").write_text(
        "from nvflare.private.fed.utils.fed_utils import split_gpus\nprint(split_gpus('[0, 1],[90,91]'))"
    )

    assert fedsag(folder, "--with", "fedsag", "gpus.py").stdout == "['0,1', '90,91']\n"


@pytest.mark.parametrize("first", ["", "#!sh\n", "#!/bin/sh -e\n"])
def test_a_script_for_a_shell_needs_no_path_of_the_shell(folder, first):
    (folder / "plain.sh").write_text(f"{first}echo $0 $1\n")

    assert fedsag(folder, "plain.sh", "word").stdout == "plain.sh word\n"


def test_a_script_that_makes_a_job_and_runs_none_is_told_so(folder):
    (folder / "nothing.py").write_text("from nvflare import FedJob\nFedJob('mine')")

    ran = fedsag(folder, "--with", "fedsag", "nothing.py")

    assert ran.returncode == 0
    assert ran.stderr.startswith("note: the script has made the job mine, but neither run nor written it")


def test_another_error_of_the_script_is_pythons(folder):
    (folder / "wrong.py").write_text("1 / 0")

    ran = fedsag(folder, "wrong.py")

    assert ran.returncode == 1
    assert ran.stderr.endswith("ZeroDivisionError: division by zero\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["no.py"], "no.py: there is no such script"),
        (["no_program.sh"], "no_program.sh: its first line names '/no/such/shell', and there is no such program"),
        (["--with", "nvflar", "job.py"], "--with nvflar: it must be fedsag or nvflare"),
    ],
)
def test_a_wrong_command_line_is_an_error(folder, words, said):
    (folder / "no_program.sh").write_text("#!/no/such/shell -e\n")

    ran = fedsag(folder, *words)

    assert ran.returncode == 2
    assert said in ran.stderr


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """A folder for PYTHONPATH with which NVFLARE is importable, after our own packages."""
    if not (PEER / "ready").exists():
        pytest.skip("NVFLARE is not installed: scripts/interop does it")
    place = subprocess.run(
        [PEER / "bin/python", "-c", "import nvflare; print(nvflare.__path__[0])"], capture_output=True, text=True
    ).stdout.split()[-1]
    made = tmp_path_factory.mktemp("path")
    (made / "sitecustomize.py").write_text(f"import sys; sys.path.append({str(Path(place).parent)!r})\n")
    return str(made)


@pytest.mark.slow
def test_recipes_of_nvflare_run_in_fedsag(folder, theirs):
    ran = fedsag(folder, "--with", "nvflare", "job.py", path=theirs)

    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.endswith("status FINISHED:COMPLETED result ws/mine\n")
    assert final_model(folder, "mine") == [[5.0, 6.0]]


@pytest.mark.slow
def test_simenv_of_fedsag_is_an_environment_for_recipes_of_nvflare(folder, theirs):
    (folder / "by_hand.py").write_text(JOB.replace("from nvflare.recipe import", "from fedsag_cli.recipe import"))

    ran = fedsag(folder, "by_hand.py", path=theirs, python_words=())

    assert ran.returncode == 0, ran.stderr
    assert "job mine: 2 clients" in ran.stdout
    assert final_model(folder, "mine") == [[5.0, 6.0]]


@pytest.mark.slow
def test_a_script_that_needs_what_fedsag_lacks_begins_again_with_nvflares(folder, theirs):
    (folder / "other.py").write_text("from nvflare.recipe import FedTaskRecipe\nprint(FedTaskRecipe.__module__)")

    ran = fedsag(folder, "other.py", path=theirs)

    assert ran.stdout.endswith("nvflare.recipe.fed_task\n"), ran.stderr
    assert "fedsag has no nvflare.recipe.FedTaskRecipe: the script begins again" in ran.stdout + ran.stderr
