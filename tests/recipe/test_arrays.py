"""Recipes for models of one array: logistic regression by Newton's method, and evaluation of trained models."""

import json
from pathlib import Path
from textwrap import dedent
from types import ModuleType

import numpy as np
import pytest

from fedsag_cli.errors import RunError, UsageError
from fedsag_cli.interop import reading
from fedsag_cli.interop.export import export
from fedsag_cli.job import Job
from fedsag_cli.recipe.arrays import FedAvgLrRecipe, NumpyCrossSiteEvalRecipe
from fedsag_cli.recipe.environments import SimEnv
from fedsag_cli.recipe.fed_job import FedJob
from fedsag_cli.recipe.ours import find_spec
from fedsag_cli.recipe.parts import made
from fedsag_cli.recipe.recipes import NumpyFedAvgRecipe

NEWTON = """
    import numpy as np
    import nvflare.client as flare

    flare.init()
    rng = np.random.default_rng(len(flare.get_site_name()))
    x = np.column_stack([np.ones(40), rng.normal(size=(40, 2))])
    y = (x @ [[0.0], [1.0], [-1.0]] > 0).astype(float)
    while flare.is_running():
        theta = flare.receive().params["numpy_key"]
        p = 1 / (1 + np.exp(-x @ theta))
        params = {"gradient": x.T @ (y - p), "hessian": x.T @ (x * p * (1 - p))}
        flare.send(flare.FLModel(params=params, meta={"NUM_STEPS_CURRENT_ROUND": 40}))
"""
MEASURE = """
    import numpy as np
    import nvflare.client as flare

    flare.init()
    while flare.is_running():
        model = flare.receive()
        if flare.is_submit_model():
            flare.send(flare.FLModel(params={"numpy_key": np.array([10.0])}))
        else:
            flare.send(flare.FLModel(metrics={"sum": float(model.params["numpy_key"].sum())}))
"""


@pytest.fixture(autouse=True)
def scripts(tmp_path, monkeypatch):
    (tmp_path / "newton.py").write_text(dedent(NEWTON))
    (tmp_path / "measure.py").write_text(dedent(MEASURE))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.fixture
def trained(tmp_path):
    """A folder with two trained models."""
    folder = tmp_path / "trained"
    folder.mkdir()
    np.save(folder / "one.npy", np.array([1.0, 2.0], np.float32))
    np.save(folder / "two.npy", np.array([3.0, 4.0], np.float32))
    return folder


def server_of(recipe):
    recipe.export("jobs")
    job = Job.load(Path("jobs") / recipe.name, reading.translate)
    return job.app_for("server").server({"JOB_ID": "j"})


def executors_of(recipe):
    recipe.export("jobs")
    config = json.loads((Path("jobs") / recipe.name / "app/config/config_fed_client.json").read_text())
    return config["executors"]


def simulated(recipe):
    return Path(recipe.execute(SimEnv(num_clients=2, workspace_root="runs")).get_result())


@pytest.mark.parametrize(
    ("module", "name", "ours"),
    [
        ("nvflare.app_common.np.recipes", "NumpyCrossSiteEvalRecipe", NumpyCrossSiteEvalRecipe),
        ("nvflare.app_common.np.recipes.cross_site_eval", "NumpyCrossSiteEvalRecipe", NumpyCrossSiteEvalRecipe),
        ("nvflare.app_common.np.recipes.lr.fedavg", "FedAvgLrRecipe", FedAvgLrRecipe),
        ("nvflare.app_opt.np.recipes", "NumpyFedAvgRecipe", NumpyFedAvgRecipe),
        ("nvflare.app_opt.np.recipes.fedavg", "FedAvgRecipe", NumpyFedAvgRecipe),
    ],
)
def test_a_job_script_imports_them_where_nvflare_has_or_had_them(module, name, ours):
    made = ModuleType(module)
    find_spec(module).loader.exec_module(made)

    assert getattr(made, name) is ours


def test_logistic_regression_learns_from_gradients_and_hessians():
    recipe = FedAvgLrRecipe(min_clients=2, num_rounds=4, num_features=2, damping_factor=1.0, train_script="newton.py")

    theta = np.load(simulated(recipe) / "server/simulate_job/models/weights.npy")

    assert (theta.shape, theta.dtype) == ((3, 1), np.float32)
    assert theta[1] > 1 > abs(theta[0])
    assert theta[2] < -1


def test_logistic_regression_begins_with_weights_of_a_file():
    np.save("first.npy", np.ones((3, 1), np.float32))

    config = server_of(
        FedAvgLrRecipe(min_clients=2, num_features=2, initial_ckpt="first.npy", train_script="newton.py")
    )

    (persistor,) = (part for part in config.components if part.path == "LRModelPersistor")
    assert persistor.args["source_ckpt_file_full_name"].endswith("first.npy")


def test_newtons_method_goes_back_to_nvflare_as_the_workflow_that_has_it(tmp_path):
    recipe = FedAvgLrRecipe(min_clients=2, num_rounds=3, num_features=2, damping_factor=0.5, train_script="newton.py")
    recipe.export("jobs")

    export(Job.load(Path("jobs/lr_fedavg"), reading.translate), tmp_path / "out")

    server = json.loads((tmp_path / "out/app/config/config_fed_server.json").read_text())
    (flow,) = server["workflows"]
    assert flow["path"] == "nvflare.app_common.workflows.lr.fedavg.FedAvgLR"
    assert flow["args"] == {"num_clients": 2, "num_rounds": 3, "persistor_id": "lr_persistor", "damping_factor": 0.5}
    assert "nvflare.app_common.workflows.lr.np_persistor.LRModelPersistor" in [
        part["path"] for part in server["components"]
    ]


def test_trained_models_are_measured_by_their_names_and_nothing_is_trained(trained):
    names = {"first": "one.npy", "second": "two.npy"}
    recipe = NumpyCrossSiteEvalRecipe(eval_script="measure.py", model_dir=str(trained), model_name=names)

    results = simulated(recipe) / "server/simulate_job/cross_site_val/cross_val_results.json"

    assert json.loads(results.read_text())["site-2"] == {
        "SRV_first": {"sum": 3.0},
        "SRV_second": {"sum": 7.0},
        "site-1": {"sum": 10.0},
        "site-2": {"sum": 10.0},
    }


def test_one_trained_model_is_called_server(trained):
    recipe = NumpyCrossSiteEvalRecipe(eval_script="measure.py", initial_ckpt=trained / "one.npy")

    results = simulated(recipe) / "server/simulate_job/cross_site_val/cross_val_results.json"

    assert json.loads(results.read_text())["site-1"]["SRV_server"] == {"sum": 3.0}


def test_without_a_script_the_example_of_nvflare_measures_and_no_client_submits_a_model(trained):
    recipe = NumpyCrossSiteEvalRecipe(model_dir=str(trained), model_name={"first": "one.npy"})

    (executor,) = executors_of(recipe)
    results = json.loads((simulated(recipe) / "server/simulate_job/cross_site_val/cross_val_results.json").read_text())

    assert executor["tasks"] == ["validate"]
    assert list(results["site-1"]) == ["SRV_first"]


def test_a_trained_model_that_is_not_there_is_an_error_that_names_its_file(trained):
    with pytest.raises(UsageError, match=r"missing\.npy: there is no such file of weights"):
        NumpyCrossSiteEvalRecipe(initial_ckpt="missing.npy")

    recipe = NumpyCrossSiteEvalRecipe(eval_script="measure.py", model_dir=str(trained), model_name={"a": "no.npy"})
    with pytest.raises(RunError, match=r"NPModelLocator: a: .*no\.npy"):
        simulated(recipe)


@pytest.mark.parametrize(
    "workflows", [["cross_site_model_eval.CrossSiteModelEval"] * 2, ["cross_site_eval.CrossSiteEval"]]
)
def test_a_job_whose_clients_have_no_model_to_submit_measures_those_of_the_server_alone(trained, workflows):
    """NVFLARE's own recipe lets NPValidator take the task to submit a model: it answers that it has none."""
    common = "nvflare.app_common"
    job = FedJob(name="measures")
    names = {"first": "one.npy"}
    locator = job.to_server(
        made(f"{common}.np.np_model_locator.NPModelLocator", model_dir=str(trained), model_name=names)
    )
    for workflow, folder in zip(workflows, [None, "second"], strict=False):
        job.to_server(made(f"{common}.workflows.{workflow}", model_locator_id=locator, cross_val_dir=folder))
    job.to_clients(made(f"{common}.np.np_validator.NPValidator"), tasks=["validate", "submit_model"])

    job.simulator_run("workspace", n_clients=2)

    results = json.loads(Path("workspace/server/simulate_job/cross_site_val/cross_val_results.json").read_text())
    assert [list(of_site) for of_site in results.values()] == [["SRV_first"], ["SRV_first"]]
