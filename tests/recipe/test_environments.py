"""SimEnv and the Run that it gives."""

import pytest

from fedsag_cli.errors import UsageError
from fedsag_cli.recipe import PocEnv, ProdEnv, Run, SimEnv


class FakeJob:
    """A job that keeps how it was run."""

    name = "mine"

    def __init__(self):
        self.job = type("Config", (), {})()

    def simulator_run(self, **how):
        self.how = how
        return 0


def test_all_clients_work_at_the_same_time_unless_it_says_otherwise():
    assert SimEnv(num_clients=3).num_threads == 3
    assert SimEnv(clients=["a", "b"]).num_threads == 2
    assert SimEnv(num_clients=3, num_threads=2).num_threads == 2


def test_a_job_runs_in_the_folder_of_its_name_and_the_run_tells_it(tmp_path):
    job, env = FakeJob(), SimEnv(num_clients=2, workspace_root=str(tmp_path), gpu_config="0")

    run = Run(env, env.deploy(job))

    assert job.how["workspace"] == str(tmp_path / "mine")
    assert (job.how["n_clients"], job.how["clients"], job.how["threads"], job.how["gpu"]) == (2, None, 2, "0")
    assert (run.get_job_id(), run.get_status()) == ("mine", "FINISHED:COMPLETED")
    assert run.get_result() == str(tmp_path / "mine")
    assert run.abort() is None


def test_the_variable_takes_the_place_of_the_folder_and_a_warning_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("NVFLARE_SIMULATOR_WORKSPACE_ROOT", str(tmp_path))

    with pytest.warns(RuntimeWarning, match="takes the place of workspace_root='elsewhere'"):
        env = SimEnv(num_clients=1, workspace_root="elsewhere")

    assert env.get_job_result("j") == str(tmp_path / "j")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ({}, "there are no clients"),
        ({"num_clients": 3, "clients": ["a"]}, "num_clients is 3, but clients has 1 names"),
        ({"num_clients": 2, "num_threads": 0}, "num_threads must be a number from 1 on, not 0"),
        ({"num_clients": "2"}, "num_clients must be a whole number, not '2'"),
        ({"clients": "a,b"}, "clients must be a list, not 'a,b'"),
        ({"clients": ["a", 2]}, "clients must be a list of names"),
        ({"num_clients": 2, "workspace_root": None}, "workspace_root must be a path, not None"),
        ({"num_client": 2}, "fedsag has no argument 'num_client' of SimEnv .did you mean 'num_clients'"),
        ({"num_clients": 2, "gpu_config": 0}, "gpu_config must be a text, not 0"),
    ],
)
def test_what_cannot_be_simulated_is_an_error(args, said):
    with pytest.raises(UsageError, match=said):
        SimEnv(**args)


@pytest.mark.parametrize("env", [PocEnv, ProdEnv])
def test_a_deployment_is_an_error_that_names_the_export(env):
    with pytest.raises(UsageError, match=r"fedsag simulates: use SimEnv .*fedsag job export"):
        env(num_clients=2)
