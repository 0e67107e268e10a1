"""What the processes of a run get of the environment of the command, and where they work."""

import pwd
import sys
from pathlib import Path

import pytest
from runs import job, run

from fedsag_cli.simulator import environment

BIN = str(Path(sys.executable).parent)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("src", "{cwd}/src"),
        ("./src:.", "{cwd}/src:{cwd}"),
        ("../src", "{above}/src"),
        ("src:", "{cwd}/src:{cwd}"),
        (":src:", "{cwd}:{cwd}/src:{cwd}"),
        ("/lib::src", "/lib:{cwd}:{cwd}/src"),
        ("/lib", "/lib"),
        ("", ""),
    ],
)
def test_a_relative_folder_is_one_where_the_user_stands(tmp_path, monkeypatch, given, meant):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    meant = meant.format(cwd=tmp_path / "here", above=tmp_path)

    env = environment.for_processes(dict.fromkeys(("PYTHONPATH", "LD_LIBRARY_PATH", "PATH"), given))

    assert env["PYTHONPATH"] == env["LD_LIBRARY_PATH"] == meant
    assert env["PATH"].removeprefix(f"{BIN}:") == meant


def test_where_the_current_folder_was_removed_there_is_no_such_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tmp_path.rmdir()

    assert environment.for_processes({"PYTHONPATH": "src:/lib"})["PYTHONPATH"] == "src:/lib"


def test_the_programs_of_fedsags_virtual_environment_come_first(monkeypatch):
    monkeypatch.setattr(sys, "prefix", "/venv")
    assert environment.for_processes({"PATH": "/usr/bin"})["PATH"] == f"{BIN}:/usr/bin"
    assert environment.for_processes({})["PATH"].endswith("/bin")

    monkeypatch.setattr(sys, "prefix", sys.base_prefix)
    assert environment.for_processes({"PATH": "/usr/bin"})["PATH"] == "/usr/bin"
    assert "PATH" not in environment.for_processes({})


OF_LAUNCHERS = [
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "GROUP_RANK",
    "NODE_RANK",
    "ROLE_NAME",
    "MASTER_ADDR",
    "MASTER_PORT",
    "TORCHELASTIC_RUN_ID",
    "TORCHELASTIC_ERROR_FILE",
    "SLURM_PROCID",
    "SLURM_LOCALID",
    "SLURM_NODEID",
    "SLURM_NTASKS",
    "SLURM_NTASKS_PER_NODE",
    "SLURM_STEP_NUM_TASKS",
    "OMPI_COMM_WORLD_RANK",
    "OMPI_COMM_WORLD_LOCAL_SIZE",
    "PMI_RANK",
    "PMIX_RANK",
    "MV2_COMM_WORLD_SIZE",
    "HOROVOD_LOCAL_RANK",
]
OTHERS = [
    "SLURM_JOB_ID",
    "SLURM_CPUS_PER_TASK",
    "SLURM_TMPDIR",
    "CUDA_VISIBLE_DEVICES",
    "OMP_NUM_THREADS",
    "MY_RANK",
    "RANKS",
    "PYTORCH_JIT",
]


def test_a_client_is_no_rank_of_whoever_started_fedsag():
    given = dict.fromkeys([*OF_LAUNCHERS, *OTHERS], "3")

    env = environment.for_processes(given)

    assert {name for name in given if name in env} == set(OTHERS)
    (note,) = environment.notes(given)
    assert note.endswith(f"get RANK, LOCAL_RANK, WORLD_SIZE, LOCAL_WORLD_SIZE and {len(OF_LAUNCHERS) - 4} more")
    assert environment.notes(dict.fromkeys(OTHERS, "3")) == []


def test_without_a_home_folder_it_is_the_root_folder_as_in_containers(monkeypatch):
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", {}.__getitem__)

    assert environment.for_processes({})["HOME"] == "/"
    assert environment.for_processes({"HOME": "/home/me"})["HOME"] == "/home/me"


def test_what_the_user_sets_wins_over_the_defaults():
    assert environment.for_processes({})["PYTHONHASHSEED"] == "0"
    assert environment.for_processes({"PYTHONHASHSEED": "7"})["PYTHONHASHSEED"] == "7"


IN_PROCESS = {"execution_mode": "in_process", "command": "", "task_script_path": "train.py"}
LOOKS_AROUND = """
    import os, sys
    import fedsag_cli.client as flare
    import mine

    flare.init()
    where = os.path.join(".", flare.get_job_id(), "app_" + flare.get_site_name())
    assert os.getcwd() == sys.argv[1], os.getcwd()
    assert os.path.samefile(os.path.join(where, "custom", "train.py"), __file__)
    assert flare.system_info()["job_id"] == flare.get_config()["job_id"] == sys.argv[2]
    while flare.is_running():
        model = flare.receive()
        flare.send(flare.FLModel(params=model.params, metrics={"mean": 1}))
"""


def test_in_process_scripts_work_in_the_sites_folder_and_are_no_ranks(tmp_path):
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "mine.py").touch()
    executor = IN_PROCESS | {"task_script_args": "'{WORKSPACE}' {JOB_ID}"}
    made = job(tmp_path / "my job 7", LOOKS_AROUND, executor=executor, num_rounds=1)

    ran = run(made, "-n", 2, "-t", 2, env={"RANK": "1", "WORLD_SIZE": "4", "PYTHONPATH": "src"})

    assert ran.code == 0, f"{ran}{ran.log('site-1')}"
    assert "do not get RANK, WORLD_SIZE" in ran.out


def test_a_command_finds_the_folders_and_the_python_of_the_user(tmp_path):
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "mine.py").touch()
    script = LOOKS_AROUND.replace("assert os", "# assert os")
    made = job(tmp_path / "job", script, command="env A=b python3 custom/train.py . simulate_job", num_rounds=1)

    ran = run(made, "-n", 2, "-t", 2, env={"PYTHONPATH": "src", "PATH": "/usr/bin:/bin", "LOCAL_RANK": "3"})

    assert ran.code == 0, f"{ran}{ran.log('site-1')}"
