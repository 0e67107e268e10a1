"""From a job and the words of the command line to a plan: names, slots, GPU groups, threads, commands, preloads."""

import dataclasses
import importlib
import os
import resource
import sys

import pytest

from fedsag_cli import machine
from fedsag_cli.errors import JobError, UsageError
from fedsag_cli.interop import shim
from fedsag_cli.job import Job
from fedsag_cli.job.config import hocon, placeholders
from fedsag_cli.plan import ComponentSpec, ServerPlan
from fedsag_cli.simulator import planning, resume
from fedsag_cli.simulator.options import Options
from fedsag_cli.simulator.planning import make_plan
from fedsag_cli.simulator.preloading import modules_of_server
from fedsag_cli.trackers.tensorboard import TBAnalyticsReceiver
from fedsag_cli.workspace import Workspace

SERVER = """
workflows = [{ id = "w", path = "ScatterAndGather", args { aggregator_id = "a", persistor_id = "p" } }]
components = [{ id = "a", path = "FedAvg", args {} }, { id = "p", path = "%s", args {} }]
"""
CLIENT = """
executors = [{ tasks = [%s], executor { path = "ClientAPIExecutor", args { %s } } }]
"""
COMMAND = 'execution_mode = "external_process", command = "%s"'


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def job(tmp_path):
    """Makes a job folder; one app unless told otherwise."""

    def make(
        command="python3 -u custom/train.py",
        *,
        args=None,
        tasks='"train"',
        persistor="NPModelPersistor",
        deploy_map='app = ["@ALL"]',
        apps=("app",),
        **custom,
    ):
        folder = tmp_path / "job"
        write(folder / "meta.conf", f'name = "j"\ndeploy_map {{ {deploy_map} }}\n')
        for app in apps:
            write(folder / app / "config" / "config_fed_server.conf", SERVER % persistor)
            write(folder / app / "config" / "config_fed_client.conf", CLIENT % (tasks, args or COMMAND % command))
            for name, text in ({"train": "import numpy"} | custom).items():
                if text is not None:
                    write(folder / app / "custom" / f"{name.replace('__', '/')}.py", text)
        return Job.load(folder)

    return make


@pytest.fixture
def plan(tmp_path):
    return lambda job, **options: make_plan(job, Workspace(tmp_path / "w"), Options(**options))


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch):
    monkeypatch.setattr(machine, "cores", lambda: 8)
    monkeypatch.setattr(machine, "num_gpus", lambda: None)


def names(planned):
    return [site.name for site in planned.plan.sites]


# names


def test_n_clients_are_site_1_to_site_n(job, plan):
    assert names(plan(job(), num_clients=3)) == ["site-1", "site-2", "site-3"]


def test_c_names_them_and_wins_over_n(job, plan):
    assert names(plan(job(), clients=["b", "a"], num_clients=5)) == ["b", "a"]


TWO_APPS = 'app_1 = ["server", "berlin"], app_2 = ["paris", "rome"]'


def test_without_either_they_are_those_the_job_names(job, plan):
    planned = plan(job(deploy_map=TWO_APPS, apps=("app_1", "app_2")))

    assert names(planned) == ["berlin", "paris", "rome"]
    assert {site: app.name for site, app in planned.apps.items()} == {
        "server": "app_1",
        "berlin": "app_1",
        "paris": "app_2",
        "rome": "app_2",
    }


def test_where_the_job_names_none_there_are_two_and_that_is_said(job, plan):
    planned = plan(job(), slots=1)

    assert names(planned) == ["site-1", "site-2"]
    assert any("2 clients" in notice for notice in planned.notices)


def test_a_client_without_an_app_is_an_error_naming_it(job, plan):
    with pytest.raises(JobError, match="'site-1'"):
        plan(job(deploy_map=TWO_APPS, apps=("app_1", "app_2")), num_clients=1)


@pytest.mark.parametrize("name", ["server", "worker", "", "a b", "a/b", "..", ".hidden", "-x", "é", "a" * 64, "@ALL"])
def test_a_name_that_cannot_be_one_is_refused(job, plan, name):
    with pytest.raises(UsageError, match="cannot be a client's name"):
        plan(job(), clients=[name])


def test_a_name_given_twice_is_refused(job, plan):
    with pytest.raises(UsageError, match="'a' is given twice"):
        plan(job(), clients=["a", "b", "a"])


@pytest.mark.parametrize(
    "options",
    [
        {"num_clients": 0},
        {"num_clients": -1},
        {"num_clients": 3, "max_clients": 2},
        {"clients": ["a", "b", "c"], "max_clients": 2},
    ],
)
def test_a_number_of_clients_out_of_range_is_refused(job, plan, options):
    with pytest.raises(UsageError):
        plan(job(), **options)


def test_there_is_no_limit_without_m(job, plan):
    assert len(names(plan(job(), num_clients=101))) == 101


# slots and threads


def test_t_is_how_many_work_at_a_time(job, plan):
    assert plan(job(), num_clients=4, slots=3).plan.slots == 3
    assert plan(job(), num_clients=4, slots=3).notices == []


GB = 1_000_000_000


@pytest.mark.parametrize(
    ("options", "free", "slots", "why"),
    [
        ({"num_clients": 3}, 64 * GB, 3, "3 clients work at a time, as there are 3 clients"),
        ({"num_clients": 100}, 64 * GB, 8, "8 clients work at a time, as there are 8 cores"),
        ({"num_clients": 100, "threads": 4}, 64 * GB, 2, "2 clients work at a time, as there are 8 cores"),
        ({"num_clients": 100, "threads": 16}, 64 * GB, 1, "1 client works at a time, as there are 8 cores"),
        ({"num_clients": 20}, GB // 4, 1, "1 client works at a time, as 0.2 GB of memory are free"),
        ({"num_clients": 100}, 0, 8, "8 clients work at a time, as there are 8 cores"),
    ],
    ids=[
        "few clients",
        "many clients",
        "several threads",
        "more threads than cores",
        "little memory",
        "unknown memory",
    ],
)
def test_without_t_cores_and_memory_say_how_many_work_at_a_time(job, plan, monkeypatch, options, free, slots, why):
    monkeypatch.setattr(machine, "free_memory", lambda: free)

    planned = plan(job(), **options)

    assert planned.plan.slots == slots
    assert f"no -t given: {why}" in planned.notices


def test_a_process_for_each_of_too_many_clients_is_refused_before_the_run(job, plan, monkeypatch):
    monkeypatch.setattr(machine, "free_memory", lambda: 4 * GB)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

    with pytest.raises(UsageError) as told:
        plan(job(), num_clients=1000, slots=2)

    assert told.value.message == "1,000 clients, a process each, need at least 8.0 GB of memory, 4.0 GB are free"
    assert told.value.hint == "--workers does their tasks in -t processes; or give fewer with -n"
    assert plan(job(), num_clients=1000, slots=2, workers=True).plan.names[-1] == "site-1000"


@pytest.mark.parametrize("slots", [0, -1])
def test_less_than_one_at_a_time_is_refused(job, plan, slots):
    with pytest.raises(UsageError, match=f"-t {slots}: it must be at least 1"):
        plan(job(), num_clients=2, slots=slots)


@pytest.mark.parametrize(("clients", "said"), [(1, "there is 1 client"), (2, "there are 2 clients")])
def test_more_at_a_time_than_there_are_clients_are_all_of_them_and_that_is_said(job, plan, clients, said):
    planned = plan(job(), num_clients=clients, slots=3)

    assert planned.plan.slots == clients
    assert planned.notices == [f"-t 3: {said}, and all work at the same time"]


@pytest.mark.parametrize(("clients", "threads"), [(1, 8), (2, 4), (3, 2), (5, 1), (8, 1), (20, 1)])
def test_the_threads_are_the_cores_by_the_clients_and_never_from_t(job, plan, clients, threads):
    found = {plan(job(), num_clients=clients, slots=slots).plan.threads for slots in {1, clients}}

    assert found == {threads}


def test_threads_can_be_given_and_reach_the_clients_environment(job, plan):
    planned = plan(job(), num_clients=2, threads=7)

    assert planned.plan.threads == 7
    assert [site.env["OMP_NUM_THREADS"] for site in planned.plan.sites] == ["7", "7"]


def test_less_than_one_thread_is_refused(job, plan):
    with pytest.raises(UsageError, match="--torch-threads 0"):
        plan(job(), num_clients=2, threads=0)


def test_with_a_seed_that_is_given_each_round_waits_for_all(job, plan):
    assert plan(job(), num_clients=1, seed=0).plan.waits_for_all
    assert not plan(job(), num_clients=1).plan.waits_for_all


def test_a_job_may_have_a_seed_which_counts_where_the_run_is_given_none(job, plan):
    made = job()
    meta = made.folder / "meta.conf"
    meta.write_text(f"{meta.read_text()}custom_props {{ seed = 7, team = mine }}\n")

    def seed_and_wait(**options):
        planned = plan(Job.load(made.folder), num_clients=1, **options).plan
        return planned.seed, planned.waits_for_all

    assert seed_and_wait() == (7, True)
    assert seed_and_wait(seed=3) == (3, True)
    assert seed_and_wait(default_seed=0) == (7, True)
    assert plan(job(), num_clients=1, default_seed=0).plan.seed == 0


@pytest.mark.parametrize("seed", ["-1", "1.5", '"x"', str(1 << 63)])
def test_a_seed_of_a_job_that_is_none_is_an_error_with_its_key(seed, job):
    folder = job().folder
    (folder / "meta.conf").write_text(f'deploy_map {{ app = ["@ALL"] }}\ncustom_props {{ seed = {seed} }}\n')

    with pytest.raises(JobError, match=r"meta.conf: custom_props.seed must be"):
        Job.load(folder)


def test_a_resumed_run_waits_for_as_many_as_the_run_did(job, plan):
    for seed in (None, 4):
        before = plan(job(), num_clients=1, seed=seed).plan
        again = plan(job(), **dataclasses.asdict(resume.settings_of(before, Options(resume=True), moves=False))).plan
        assert (again.waits_for_all, again.seed) == (seed is not None, before.seed)


def test_a_seed_is_kept_and_one_is_drawn_where_none_is_given(job, plan):
    assert plan(job(), num_clients=1, seed=0).plan.seed == 0
    assert len({plan(job(), num_clients=1).plan.seed for _ in range(5)}) > 1


# GPU groups


def groups(planned):
    return [(site.group, site.env.get("CUDA_VISIBLE_DEVICES")) for site in planned.plan.sites]


@pytest.mark.parametrize(
    ("gpus", "clients", "found"),
    [
        (None, 2, [(0, None), (0, None)]),
        ("0", 2, [(0, "0"), (0, "0")]),
        ("0,1", 3, [(0, "0"), (1, "1"), (0, "0")]),
        ("[0,1],[2]", 3, [(0, "0,1"), (1, "2"), (0, "0,1")]),
        ("[0,1]", 2, [(0, "0,1"), (0, "0,1")]),
        ("[0], 3", 2, [(0, "0"), (1, "3")]),
        ("0,0", 2, [(0, "0"), (1, "0")]),
        ("GPU-5b1d-ab, MIG-GPU-5b1d/1/0", 2, [(0, "GPU-5b1d-ab"), (1, "MIG-GPU-5b1d/1/0")]),
        ("[GPU-5b1d,0],MIG-7c", 2, [(0, "GPU-5b1d,0"), (1, "MIG-7c")]),
    ],
)
def test_clients_go_round_the_gpu_groups(job, plan, gpus, clients, found):
    assert groups(plan(job(), num_clients=clients, gpus=gpus)) == found


def test_gpus_are_numbered_as_the_machine_has_them_and_only_where_groups_are_given(job, plan):
    assert plan(job(), num_clients=1, gpus="0").plan.sites[0].env["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    assert "CUDA_DEVICE_ORDER" not in plan(job(), num_clients=1).plan.sites[0].env


def test_with_several_groups_one_client_a_group_works_and_another_t_is_said_to_have_no_effect(job, plan):
    planned = plan(job(), num_clients=4, gpus="0,1", slots=4)

    assert planned.plan.slots == 1
    assert any("-t 4 has no effect" in notice for notice in planned.notices)
    assert plan(job(), num_clients=4, gpus="0,1").notices == []


def test_with_one_group_t_counts(job, plan):
    assert plan(job(), num_clients=4, gpus="0", slots=3).plan.slots == 3


@pytest.mark.parametrize(
    "gpus", ["", "a", "0,", ",0", "[0", "0]", "[]", "[0,],1", "0;1", "-1", "[[0]]", "0 1,x", "GPU-", "CPU-1"]
)
def test_nonsense_for_gpus_is_refused(job, plan, gpus):
    with pytest.raises(UsageError, match="-gpu"):
        plan(job(), num_clients=9, gpus=gpus)


def test_more_groups_than_clients_are_refused(job, plan):
    with pytest.raises(UsageError, match="3 groups for 2 clients"):
        plan(job(), num_clients=2, gpus="0,1,2")


def test_a_gpu_that_is_not_there_is_refused_where_that_is_known(job, plan, monkeypatch):
    monkeypatch.setattr(machine, "num_gpus", lambda: 2)

    assert groups(plan(job(), num_clients=2, gpus="0,1")) == [(0, "0"), (1, "1")]
    assert groups(plan(job(), num_clients=2, gpus="GPU-9")) == [(0, "GPU-9"), (0, "GPU-9")]
    with pytest.raises(UsageError, match="there is no GPU 2"):
        plan(job(), num_clients=2, gpus="[0,2],1")


# commands


def started(planned, index=0):
    site = planned.plan.sites[index]
    return site.script, site.args, site.command


def app_path(tmp_path, site="site-1"):
    return tmp_path / "w" / site / "simulate_job" / f"app_{site}"


@pytest.mark.parametrize("python", ["python", "python3", "python3 -u", "python -u", "python3.11 -u"])
def test_a_python_script_is_started_by_us_with_its_arguments(job, plan, tmp_path, python):
    planned = plan(job(f"{python} custom/train.py --x 1 -u 'a b'"), num_clients=1)

    assert started(planned) == (str(app_path(tmp_path) / "custom/train.py"), ["--x", "1", "-u", "a b"], [])


def test_an_argument_that_is_called_like_the_script_stays_one(job, plan, tmp_path):
    planned = plan(job("python3 custom/train.py custom/train.py"), num_clients=1)

    assert started(planned) == (str(app_path(tmp_path) / "custom/train.py"), ["custom/train.py"], [])


def test_in_process_is_started_the_same_way(job, plan, tmp_path):
    planned = plan(
        job(args='execution_mode = "in_process", task_script_path = "train.py", task_script_args = "--x 1"'),
        num_clients=1,
    )

    assert started(planned) == (str(app_path(tmp_path) / "custom/train.py"), ["--x", "1"], [])
    assert planned.plan.sites[0].in_process  # it works in the site's folder
    assert not plan(job(), num_clients=1).plan.sites[0].in_process


IN_PROCESS = 'execution_mode = "in_process", task_script_path = "%s"'


def test_a_script_that_was_installed_beforehand_runs_where_it_is(job, plan, tmp_path):
    write(tmp_path / "installed" / "train.py", "import numpy")
    path = str(tmp_path / "installed" / "train.py")

    assert started(plan(job(args=IN_PROCESS % path, train=None), num_clients=1)) == (path, [], [])
    assert started(plan(job(f"python3 {path} --x", train=None), num_clients=1)) == (path, ["--x"], [])


@pytest.mark.parametrize("args", [IN_PROCESS, 'execution_mode = "external_process", command = "python3 -u %s"'])
def test_a_script_in_the_sites_own_custom_folder_is_the_jobs(job, plan, tmp_path, args):
    """The first run has no such folder yet, the second one has."""
    made = job(args=args % "{JOB_CUSTOM_DIR}/train.py")

    first = started(plan(made, num_clients=1))
    write(app_path(tmp_path) / "custom/train.py", "an older one")

    assert first == started(plan(made, num_clients=1)) == (str(app_path(tmp_path) / "custom/train.py"), [], [])


def test_an_absolute_script_that_is_nowhere_is_refused_naming_what_is(job, plan):
    with pytest.raises(JobError, match=r"the script /nowhere/a\.py of site-1 does not exist") as caught:
        plan(job(args=IN_PROCESS % "/nowhere/a.py"), num_clients=1)

    assert "custom/train.py" in caught.value.hint


@pytest.mark.parametrize(
    ("command", "hint"),
    [
        ("FOLD=2 KEY=a/B_1 python3 -u custom/train.py", "write env FOLD=2 KEY=a/B_1 …"),
        ("FOLD= ./x", "write env FOLD= …"),
        ("source env.sh && python3 custom/train.py", "write bash -c '…'"),
        ("mine x | tee log", "write bash -c '…'"),
        ("mine --a=b", ""),
    ],
)
def test_a_command_for_a_shell_is_told_how_to_be_written(job, plan, command, hint):
    with pytest.raises(JobError, match="does not exist") as caught:
        plan(job(command), num_clients=1)

    assert caught.value.hint.endswith(hint)
    assert bool(caught.value.hint) == bool(hint)


def test_a_variable_of_the_command_that_does_not_exist_is_told(job, plan):
    planned = plan(job("python3 custom/train.py --lr {lr} --home ${HOME} --json {}"), num_clients=1)

    assert planned.notices[-1] == "the command of app keeps its {lr}: there is no variable 'lr'"


def test_a_variable_that_does_not_exist_is_why_there_is_no_script(job, plan):
    with pytest.raises(JobError, match="does not exist") as caught:
        plan(job("python3 custom/{scrpt} {SITE_NAME}"), num_clients=1)

    assert caught.value.hint.startswith("there is no variable 'scrpt' for its command; ")


def test_a_sign_for_a_shell_among_the_arguments_is_told(job, plan):
    planned = plan(job("python3 custom/train.py > log.txt"), num_clients=1)

    assert planned.notices[-1] == "no shell reads the command of app: '>' is an argument of its script"


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("torchrun --nproc 2 custom/train.py", ["torchrun", "--nproc", "2", "custom/train.py"]),
        ("bash custom/run.sh x", ["bash", "custom/run.sh", "x"]),
        ("/usr/bin/env custom/train.py", ["/usr/bin/env", "custom/train.py"]),
        ("python3 -m torch.distributed.run x", [sys.executable, "-m", "torch.distributed.run", "x"]),
        ("python3 -O custom/train.py", [sys.executable, "-O", "custom/train.py"]),
        ("python3 -c pass", [sys.executable, "-c", "pass"]),
    ],
)
def test_any_other_command_is_an_ordinary_subprocess_and_python_is_ours(job, plan, command, words):
    assert started(plan(job(command), num_clients=1)) == ("", [], words)


@pytest.mark.parametrize("command", ["python3 -u custom/nobody.py", "python3 custom"])
def test_a_script_that_is_not_there_is_refused_naming_it_and_what_is(job, plan, command):
    with pytest.raises(JobError, match=rf"the script {command.split()[-1]} of site-1 does not exist") as caught:
        plan(job(command), num_clients=1)

    assert "custom/train.py" in caught.value.hint


def test_where_custom_is_empty_the_hint_says_how_to_fill_it(job, plan):
    with pytest.raises(JobError, match=r"train\.py.*does not exist") as caught:
        plan(job(train=None), num_clients=1)

    assert "-sd" in caught.value.hint


def test_a_site_finds_itself_in_its_command(job, plan, tmp_path):
    planned = plan(job("python3 custom/train.py --site {SITE_NAME} --root {WORKSPACE}"), num_clients=2)

    assert started(planned, 1)[1] == ["--site", "site-2", "--root", str(tmp_path / "w" / "site-2")]


def test_in_a_run_every_name_of_the_systems_is_known(tmp_path):
    assert set(planning._variables("site-1", Workspace(tmp_path))) == set(placeholders.SYSTEM)


def test_a_client_finds_its_own_modules_before_those_of_the_user(job, plan, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/mine")
    custom = str(app_path(tmp_path) / "custom")

    assert plan(job(), num_clients=1).plan.sites[0].env["PYTHONPATH"] == os.pathsep.join(
        [shim.STARTUP, custom, "/mine"]
    )


def test_a_relative_pythonpath_is_where_the_user_stands(job, plan, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "src:")
    monkeypatch.chdir(tmp_path)

    planned = plan(job("bash custom/run.sh"), num_clients=1)

    assert planned.plan.sites[0].env["PYTHONPATH"].split(":")[-2:] == [str(tmp_path / "src"), str(tmp_path)]


def test_the_ranks_of_whoever_started_the_command_are_told(job, plan, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "3")

    assert any("LOCAL_RANK" in notice for notice in plan(job(), num_clients=1).notices)


def test_a_task_nobody_takes_is_an_error_naming_it_and_what_there_is(job, plan):
    with pytest.raises(JobError, match="no client takes the task 'train'") as caught:
        plan(job(tasks='"learn", "validate"'), num_clients=1)

    assert "learn, validate" in caught.value.hint


@pytest.mark.parametrize("pattern", ["train", "tr*", "*"])
def test_a_task_may_be_taken_by_a_pattern(job, plan, pattern):
    assert plan(job(tasks=f'"{pattern}"'), num_clients=1).plan.sites[0].config.tasks == (pattern,)


# what is imported once for all


def test_a_job_without_torch_preloads_nothing(job, plan):
    assert plan(job(), num_clients=1).plan.preload == []


@pytest.mark.parametrize(
    ("custom", "preload"),
    [
        ({"train": "import torch"}, ["torch"]),
        ({"train": "import torch.nn as nn"}, ["torch"]),
        ({"train": "from torch import nn"}, ["torch"]),
        ({"train": "import net", "net": "import torch"}, ["torch"]),
        ({"train": "x = 1", "deep__net": "import torch"}, ["torch"]),
        ({"train": "def main():\n    import torch"}, ["torch"]),
        ({"train": "import torch\ntorch.optim.SGD"}, ["torch", "torch._dynamo"]),
        ({"train": "import torch\nimport torchvision.transforms"}, ["torch", "torchvision"]),
        ({"train": "import torchvision"}, ["torch", "torchvision"]),
        ({"train": "def data():\n    import torchvision"}, []),
        ({"train": "import fedsag_cli.client", "fedsag_cli__client__lightning": "import pytorch_lightning"}, []),
        ({"train": "import lightning"}, ["torch", "lightning.pytorch"]),
        ({"train": "from pytorch_lightning import Trainer"}, ["torch", "pytorch_lightning"]),
        ({"train": "import peft"}, ["torch", "peft", "fedsag_cli.client.hf.peft_tables"]),
        (
            {"train": "from transformers import Trainer, AutoModel", "net": "from transformers import GPT2Config"},
            [
                "torch",
                "transformers.trainer",
                "transformers:AutoModel",
                "transformers:GPT2Config",
                "transformers:Trainer",
            ],
        ),
        ({"train": "def main():\n    from transformers import AutoModel"}, []),
        ({"train": "from . import torch"}, []),
        ({"train": "optim = 'import torch'"}, []),
        ({"train": "import numpy", "broken": "def ("}, []),
        ({"train": "try:\n    import torch\nexcept ImportError: ..."}, ["torch"]),
    ],
)
def test_what_the_scripts_import_is_preloaded(job, plan, custom, preload):
    assert plan(job(**custom), num_clients=1).plan.preload == preload


def test_torch_is_preloaded_where_the_server_needs_it(job, plan):
    assert plan(job(persistor="PTFileModelPersistor"), num_clients=1).plan.preload == ["torch"]


# what a script sets before it imports torch


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ('os.environ["PYTORCH_JIT"] = "0"', "PYTORCH_JIT"),
        ('os.environ.setdefault("TORCH_LOGS", "+dynamo")', "TORCH_LOGS"),
        ('os.environ.update(TORCH_COMPILE_DISABLE="1", X="2")', "TORCH_COMPILE_DISABLE"),
        ('os.environ |= {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}', "PYTORCH_CUDA_ALLOC_CONF"),
        (
            'from os import environ\nfor each in ["KMP_AFFINITY", "MKL_DYNAMIC"]: environ[each] = x',
            "KMP_AFFINITY, MKL_DYNAMIC",
        ),
        ('os.putenv("OMP_PROC_BIND", "true")', "OMP_PROC_BIND"),
        ('def main():\n    os.environ["TORCHINDUCTOR_FREEZING"] = "1"', "TORCHINDUCTOR_FREEZING"),
        ('os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"', None),  # followed at any time
        ('os.environ["CUDA_VISIBLE_DEVICES"] = ""', None),  # read later
        ('os.environ["TORCH_HOME"] = "/cache"', None),
        ('os.environ["WANDB_MODE"] = "offline"', None),
        ('if os.environ.get("TORCH_LOGS") or "PYTORCH_JIT" in os.environ: print(os.environ["TORCH_TRACE"])', None),
        ('print(os.getenv("TORCH_LOGS"), os.environ)', None),
        ('x = "PYTORCH_JIT"', None),
    ],
)
def test_a_script_that_sets_what_torch_reads_at_its_import_imports_it_itself(job, plan, tmp_path, text, names):
    planned = plan(job(train=f"import os\n{text}\nimport torch"), num_clients=2)

    told = [notice for notice in planned.notices if "imports torch itself" in notice]
    assert [site.fresh for site in planned.plan.sites] == [names is not None] * 2
    file = tmp_path / "job/app/custom/train.py"
    assert told == ([f"{file} sets {names}: each client imports torch itself, which takes seconds"] if names else [])


def test_where_torch_is_not_imported_beforehand_a_script_may_set_anything(job, plan):
    planned = plan(job(train='import os\nos.environ["PYTORCH_JIT"] = "0"'), num_clients=1)

    assert [site.fresh for site in planned.plan.sites] == [False]


def test_a_script_outside_the_job_is_looked_at_too(job, plan, tmp_path):
    write(tmp_path / "installed/train.py", 'import os\nos.environ["PYTORCH_JIT"] = "0"\nimport torch')

    planned = plan(job(args=IN_PROCESS % (tmp_path / "installed/train.py"), train=None), num_clients=1)

    assert planned.plan.preload == ["torch"]
    assert planned.plan.sites[0].fresh


# the machine


def test_the_gpus_of_the_machine_are_counted_by_nvidias_tool(tmp_path, monkeypatch):
    monkeypatch.undo()
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'GPU 0: A (UUID: x)'\necho '  MIG 1g'\necho 'GPU 1: B (UUID: y)'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")

    assert machine.num_gpus() == 2

    tool.write_text("#!/bin/sh\nexit 9\n")
    assert machine.num_gpus() is None


def test_the_cores_are_those_this_process_may_use(monkeypatch):
    monkeypatch.undo()

    assert machine.cores() == len(os.sched_getaffinity(0))


def test_free_memory_and_ones_own_are_numbers_of_bytes():
    assert machine.free_memory() > 1 << 20
    assert machine.private_memory() > 1 << 20


def test_a_launch_timeout_that_is_not_given_is_nvflares_300_seconds(job, plan):
    assert plan(job(), num_clients=1).plan.sites[0].config.launch_timeout == 300.0


# what it costs


def test_a_config_is_read_once_however_many_sites_it_is_for(job, plan, monkeypatch):
    made, read = job(), []
    monkeypatch.setattr(hocon, "load", lambda path, load=hocon.load, **how: read.append(path.name) or load(path, **how))

    planned = plan(made, num_clients=50)

    assert read == ["config_fed_server.conf", "config_fed_client.conf"]
    assert len({site.env["PYTHONPATH"] for site in planned.plan.sites}) == 50


def test_what_the_scripts_import_is_told_before_the_configs_are_read(job, tmp_path):
    made, told = job(train="import torch"), []
    (made.folder / "app" / "config" / "config_fed_server.conf").write_text("{")

    with pytest.raises(JobError, match="config_fed_server"):
        make_plan(made, Workspace(tmp_path / "w"), Options(num_clients=2), told.append)

    assert told == [["torch"]]


@pytest.mark.parametrize(
    ("args", "is_told"),
    [
        ('key_metric = "val_loss"', True),
        ('key_metric = "test/RMSE"', True),
        ('key_metric = "val_loss", negate_key_metric = true', False),
        ('key_metric = "neg_loss"', False),
        ('key_metric = "dice"', False),
        ('key_metric = "accuracy"', False),
    ],
)
def test_a_loss_that_would_be_best_at_its_highest_is_told(job, plan, tmp_path, args, is_told):
    job()
    file = tmp_path / "job" / "app" / "config" / "config_fed_server.conf"
    selector = f'{{ id = "s", path = "IntimeModelSelector", args {{ {args} }} }}'
    file.write_text(file.read_text().replace("components = [", f"components = [{selector}, "))

    notices = plan(Job.load(tmp_path / "job"), num_clients=1, slots=1).notices

    assert [text for text in notices if "looks like a loss" in text and "negate_key_metric = true" in text] == notices
    assert len(notices) == is_told


@pytest.mark.parametrize(
    ("path", "workflow", "is_told"),
    [("FedAdam", "", True), ("FedAdam", 'updater_id = "u", ', False), ("NPModelPersistor", "", False)],
)
def test_an_updater_that_no_workflow_names_is_told(job, plan, tmp_path, path, workflow, is_told):
    job()
    file = tmp_path / "job" / "app" / "config" / "config_fed_server.conf"
    text = file.read_text().replace("components = [", f'components = [{{ id = "u", path = "{path}", args {{}} }}, ')
    file.write_text(text.replace("aggregator_id", f"{workflow}aggregator_id"))

    notices = plan(Job.load(tmp_path / "job"), num_clients=1, slots=1).notices

    assert ("no workflow names the component 'u' (FedAdam): it has no effect" in notices) == is_told


def test_the_nursery_imports_what_the_servers_components_import_when_a_run_begins():
    server = ServerPlan(
        workflows=[ComponentSpec(path="ScatterAndGather")],
        components=[ComponentSpec(path="TBAnalyticsReceiver"), ComponentSpec(path="mine.Tracker")],
        task_data_filters=[],
        task_result_filters=[],
    )

    modules = modules_of_server(server)

    assert modules[:3] == [
        "fedsag_cli.server.main",
        "fedsag_cli.workflows.scatter_and_gather",
        "fedsag_cli.trackers.tensorboard",
    ]
    assert set(modules[3:]) == set(TBAnalyticsReceiver.facts.imports)
    for name in modules:
        importlib.import_module(name)
