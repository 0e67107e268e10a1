"""Recipes become job folders that the simulator reads."""

import json
from pathlib import Path

import pytest

from fedsag_cli.errors import UsageError
from fedsag_cli.interop import reading
from fedsag_cli.job import Job
from fedsag_cli.recipe import (
    CyclicRecipe,
    FedAvgRecipe,
    FedEvalRecipe,
    FedOptRecipe,
    FedProxRecipe,
    NumpyFedAvgRecipe,
    ScaffoldRecipe,
    SwarmLearningRecipe,
    add_cross_site_evaluation,
    add_experiment_tracking,
    add_final_global_evaluation,
    secret_file_ref,
    secret_ref,
    set_per_site_config,
    set_recipe_meta,
)

NET = {"class_path": "net.Net", "args": {"hidden": 7}}


@pytest.fixture(autouse=True)
def scripts(tmp_path, monkeypatch):
    (tmp_path / "client.py").write_text("import net\n")
    (tmp_path / "net.py").write_text("class Net:\n    pass\n")
    (tmp_path / "init.pt").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))


def job_of(recipe):
    recipe.export("jobs")
    return Job.load(Path("jobs") / recipe.name, reading.translate)


def server_of(recipe):
    return job_of(recipe).app_for("server").server({"JOB_ID": "j"})


def client_of(recipe, site="site-1"):
    variables = {"SITE_NAME": site, "WORKSPACE": "w", "JOB_ID": "j", "JOB_CUSTOM_DIR": "c"}
    return job_of(recipe).app_for(site).client(variables)


def part(config, path):
    """The arguments of the component of this class."""
    return next(each.args for each in (*config.workflows, *config.components) if each.path == path)


def fedavg(**args):
    return FedAvgRecipe(**{"min_clients": 2, "model": NET, "train_script": "client.py", **args})


def numpys(**args):
    return NumpyFedAvgRecipe(**{"min_clients": 2, "train_script": "client.py", **args})


def test_federated_averaging_asks_min_clients_in_each_round_and_saves_the_model():
    config = server_of(fedavg(num_rounds=3, key_metric="loss", key_metric_mode="min"))

    flow = part(config, "ScatterAndGather")
    assert (flow["num_rounds"], flow["num_clients"], flow["min_clients"]) == (3, 2, 2)
    assert part(config, "PTFileModelPersistor")["model"] == {"path": "net.Net", "args": {"hidden": 7}}
    assert part(config, "IntimeModelSelector") == {"key_metric": "loss", "negate_key_metric": True}


def test_the_script_goes_along_with_the_modules_that_it_imports():
    job_of(fedavg())

    assert sorted(path.name for path in Path("jobs/fedavg/app/custom").iterdir()) == ["client.py", "net.py"]


def test_a_script_in_the_process_gets_its_words_and_one_outside_its_command():
    inside = client_of(fedavg(train_args="--lr 0.1"))
    outside = client_of(
        fedavg(name="outside", train_args=["--lr", "0.1"], launch_external_process=True, command="python3 -u -O")
    )

    assert inside.executors[0].in_process
    assert list(inside.executors[0].command)[-3:] == ["custom/client.py", "--lr", "0.1"]
    assert list(outside.executors[0].command) == ["python3", "-u", "-O", "custom/client.py", "--lr", "0.1"]


def test_each_site_can_have_words_of_its_own():
    recipe = fedavg(train_args="--lr 1")
    set_per_site_config(recipe, {"a": {"train_args": "--lr 2"}, "b": {}})

    assert recipe.configured_sites() == ["a", "b"]
    assert list(client_of(recipe, "a").executors[0].command)[-2:] == ["--lr", "2"]
    assert list(client_of(recipe, "b").executors[0].command)[-2:] == ["--lr", "1"]


def test_a_run_ends_early_and_the_best_is_the_smallest_if_the_condition_says_so():
    config = server_of(fedavg(stop_cond="accuracy <= 0.5", patience=2))

    assert part(config, "ScatterAndGather")["stop_cond"] == "accuracy <= 0.5"
    assert part(config, "IntimeModelSelector")["negate_key_metric"] is True


def test_numpys_model_is_an_array_or_a_list():
    import numpy as np

    config = server_of(NumpyFedAvgRecipe(min_clients=2, model=np.eye(2), train_script="client.py"))

    assert part(config, "NPModelPersistor")["model"] == [[1.0, 0.0], [0.0, 1.0]]


def test_a_model_of_torch_goes_along_with_the_arguments_that_it_keeps(tmp_path):
    torch = pytest.importorskip("torch")
    (tmp_path / "my_net.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Module):\n"
        "    def __init__(self, hidden=4, depth=1):\n"
        "        super().__init__()\n"
        "        self.hidden, self._depth = hidden, depth\n"
    )
    import my_net

    assert issubclass(my_net.Net, torch.nn.Module)
    config = server_of(fedavg(model=my_net.Net(9, depth=2), initial_ckpt="init.pt"))

    persistor = part(config, "PTFileModelPersistor")
    assert persistor["model"] == {"path": "my_net.Net", "args": {"hidden": 9, "depth": 2}}
    assert persistor["source_ckpt_file_full_name"] == str(tmp_path / "init.pt")
    assert Path("jobs/fedavg/app/custom/my_net.py").is_file()


def test_fedprox_sends_mu():
    assert part(server_of(FedProxRecipe(min_clients=2, model=NET, train_script="client.py", fedprox_mu=0.2)),
                "ScatterAndGather")["fedprox_mu"] == 0.2  # fmt: skip


def test_fedopt_has_its_optimizer_and_clients_send_differences():
    recipe = FedOptRecipe(
        min_clients=2,
        num_rounds=7,
        model=NET,
        train_script="client.py",
        optimizer_args={"path": "torch.optim.SGD", "args": {"lr": 0.5}},
        lr_scheduler_args={"path": "torch.optim.lr_scheduler.CosineAnnealingLR", "args": {"T_max": "{num_rounds}"}},
    )

    config = server_of(recipe)
    assert part(config, "ScatterAndGather")["updater_id"] == "shareable_generator"
    updater = part(config, "FedOpt")
    assert updater["optimizer_args"]["args"] == {"lr": 0.5}
    assert updater["lr_scheduler_args"]["args"] == {"T_max": 7}
    executors = json.loads(Path("jobs/fedopt/app/config/config_fed_client.json").read_text())["executors"]
    assert executors[0]["executor"]["args"]["params_transfer_type"] == "DIFF"


@pytest.mark.parametrize(
    ("recipe", "workflow"),
    [
        (lambda: ScaffoldRecipe(min_clients=2, model=NET, train_script="client.py"), "ScatterAndGather"),
        (lambda: CyclicRecipe(min_clients=2, model=NET, train_script="client.py"), "Cyclic"),
        (
            lambda: SwarmLearningRecipe("swarm", NET, 2, "client.py", 2, do_cross_site_eval=True),
            "Swarm",
        ),
        (
            lambda: FedEvalRecipe(min_clients=2, model=NET, eval_ckpt="init.pt", eval_script="client.py"),
            "CrossSiteModelEval",
        ),
    ],
    ids=["scaffold", "cyclic", "swarm", "fedeval"],
)
def test_the_other_recipes_become_the_workflow_of_their_name(recipe, workflow):
    made = recipe()

    config = server_of(made)
    assert config.workflows[0].path == workflow
    assert part(config, "PTFileModelPersistor")["model"]["path"] == "net.Net"
    assert len(client_of(made).executors) == 1


def test_scaffold_averages_controls_too():
    assert part(server_of(ScaffoldRecipe(min_clients=2, model=NET, train_script="client.py")), "Scaffold") == {}


def test_what_is_added_to_a_recipe_is_in_the_job():
    recipe = fedavg()
    add_experiment_tracking(recipe, "tensorboard")
    add_cross_site_evaluation(recipe, participating_clients=["site-1"])
    set_recipe_meta(recipe, "custom_props", {"owner": "me"})

    config = server_of(recipe)
    assert [flow.path for flow in config.workflows] == ["ScatterAndGather", "CrossSiteModelEval"]
    assert config.workflows[1].args["participating_clients"] == ["site-1"]
    assert part(config, "TBAnalyticsReceiver") == {}
    assert json.loads(Path("jobs/fedavg/meta.json").read_text())["custom_props"] == {"owner": "me"}


def test_a_final_evaluation_asks_no_client_for_its_model():
    recipe = fedavg()
    add_final_global_evaluation(recipe)

    assert not part(server_of(recipe), "CrossSiteModelEval")["submit_model_task_name"]


def test_a_reference_to_a_secret_has_no_secret():
    assert secret_ref("KEY") == "${secret:KEY}"
    assert secret_file_ref("/run/key") == "${secret:file:/run/key}"


def twice():
    recipe = fedavg()
    add_cross_site_evaluation(recipe)
    add_cross_site_evaluation(recipe)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: fedavg(num_round=3), "fedsag has no argument 'num_round' of FedAvgRecipe (did you mean 'num_rounds'?"),
        (lambda: fedavg(save_filename="x.pt"), "fedsag has no save_filename of FedAvgRecipe"),
        (lambda: fedavg(framework="tensorflow"), "fedsag has no framework 'tensorflow' of FedAvgRecipe"),
        (lambda: fedavg(model=None), "FedAvgRecipe: there is no model (give model, or initial_ckpt)"),
        (lambda: fedavg(num_rounds=0), "FedAvgRecipe: num_rounds must be a number from 1 on, not 0"),
        (lambda: fedavg(train_script="train.py"), "train.py: there is no such file"),
        (lambda: fedavg(initial_ckpt="no.pt"), "no.pt: there is no such file of weights"),
        (lambda: fedavg(initial_ckpt=5), "a file of weights must be a path, not 5"),
        (lambda: fedavg().export(5), "the folder of the export must be a path, not 5"),
        (lambda: fedavg(name="a/b"), "the job's name 'a/b' cannot be the name of a folder"),
        (lambda: fedavg(num_rounds="3"), "FedAvgRecipe: num_rounds must be a whole number, not '3'"),
        (lambda: fedavg(min_clients=True), "FedAvgRecipe: min_clients must be a whole number, not True"),
        (lambda: fedavg(train_args=5), "FedAvgRecipe: train_args must be a text or a list, not 5"),
        (lambda: fedavg(launch_external_process="no"), "launch_external_process must be true or false, not 'no'"),
        (lambda: fedavg(server_expected_format="numpyy"), "(did you mean 'numpy'?), not 'numpyy'"),
        (lambda: fedavg(per_site_config={"a": {"params_transfer_type": "dif"}}), "params_transfer_type must be 'FULL'"),
        (lambda: fedavg(stop_cond=5), "FedAvgRecipe: stop_cond must be a text, not 5"),
        (lambda: FedAvgRecipe(model=NET, train_script="client.py"), "missing a required argument: 'min_clients'"),
        (lambda: fedavg(job=3), "fedsag has no argument 'job' of FedAvgRecipe"),
        (lambda: fedavg().execute(5), "5 is no environment (give SimEnv(num_clients=2))"),
        (lambda: fedavg(key_metric_mode="least"), "key_metric_mode must be 'min' or 'max', not 'least'"),
        (lambda: fedavg(stop_cond="accuracy > 1", key_metric_mode="min"), "key_metric_mode is 'min', but stop_cond"),
        (lambda: fedavg(per_site_config={"a": {"train_arg": ""}}), "site a: there is no key 'train_arg' (did you"),
        (lambda: fedavg(model={"name": "net.Net"}), "model: a dict must have class_path, and perhaps args"),
        (lambda: fedavg(model="net.Net"), "'net.Net' is no model of torch"),
        (lambda: SwarmLearningRecipe("s", 5, 1, "client.py", 2), "5 is no model of torch"),
        (lambda: numpys(model="abc"), "model: 'abc' is no number"),
        (lambda: numpys(model=[1.0, "a"]), "model: 'a' is no number"),
        (lambda: job_of(numpys(model=[1.0, float("nan")])), "model: nan cannot be in a job"),
        (lambda: add_experiment_tracking(fedavg(), "mlflw"), "there is no tracking_type 'mlflw' (did you"),
        (lambda: add_experiment_tracking(fedavg(), 5), "there is no tracking_type 5"),
        (lambda: fedavg().add_server_config(5), "FedAvgRecipe.add_server_config: config must be an object, not 5"),
        (lambda: add_experiment_tracking(fedavg(), "mlflow", client_side=True), "fedsag has no client_side of"),
        (lambda: set_recipe_meta(fedavg(), "name", "x"), "a script cannot set 'name' of a job's meta file"),
        (twice, "the recipe fedavg has an evaluation already"),
    ],
)  # fmt: skip
def test_what_is_wrong_or_lacking_is_an_error_that_names_it(wrong, said):
    with pytest.raises(UsageError) as caught:
        wrong()

    assert said in str(caught.value)


def test_arguments_that_only_save_memory_in_nvflare_have_no_effect():
    plain, saving = (
        server_of(fedavg()),
        server_of(fedavg(name="saving", server_memory_gc_rounds=3, launch_timeout=None)),
    )

    assert plain.workflows == saving.workflows
