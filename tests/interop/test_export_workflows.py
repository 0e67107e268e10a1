"""Cross-site evaluation, swarm learning, and users' own executors and controllers, written for NVFLARE."""

import json

import pytest
from runs import app, deploy

from fedsag_cli.errors import JobError
from fedsag_cli.interop import reading
from fedsag_cli.interop.export import export
from fedsag_cli.job import Job

EVALUATION = {"id": "cse", "path": "CrossSiteModelEval", "args": {"persistor_id": "persistor"}}
SWARM = {
    "id": "swarm",
    "path": "Swarm",
    "args": {
        "num_rounds": 3,
        "min_responses_required": 2,
        "train_timeout": 0,
        "wait_time_after_min_received": 0,
        "aggregator_id": "aggregator",
        "persistor_id": "persistor",
        "model_selector_id": "model_selector",
        "train_clients": ["site-1"],
    },
}
TASKS = ("train", "validate", "submit_model")


def written(tmp_path, workflows, **settings):
    """The exported configs of the server and of the clients, and the notes."""
    folder = tmp_path / "job"
    app(folder / "app", "", tasks=TASKS, server={"workflows": workflows}, **settings)
    deploy(folder, app=["@ALL"])
    return exported(folder, tmp_path)


def exported(folder, tmp_path):
    done = export(Job.load(folder, reading.translate), tmp_path / "out")
    sides = [
        json.loads((tmp_path / "out/app/config" / f"config_fed_{side}.json").read_text())
        for side in ("server", "client")
    ]
    return *sides, done.notes


def by_id(values):
    return {part["id"]: part for part in values["components"]}


def test_cross_site_evaluation_finds_the_models_by_a_locator_there_and_writes_the_results(tmp_path):
    server, _, _ = written(tmp_path, [{**EVALUATION, "args": {**EVALUATION["args"], "validation_timeout": 5.5}}])

    (flow,) = server["workflows"]
    assert flow["path"] == "nvflare.app_common.workflows.cross_site_model_eval.CrossSiteModelEval"
    assert flow["args"] == {"submit_model_timeout": 600, "validation_timeout": 6, "model_locator_id": "model_locator"}
    parts = by_id(server)
    assert parts["model_locator"]["path"] == "nvflare.app_common.np.np_model_locator.NPModelLocator"
    assert parts["json_generator"]["path"].endswith(".ValidationJsonGenerator")


def test_the_locator_of_a_torch_model_has_its_persistor(tmp_path):
    torch_model = {"path": "PTFileModelPersistor", "args": {"model": {"path": "net.Net"}}}

    server, _, _ = written(
        tmp_path, [EVALUATION], files={"net.py": "Net = dict"}, components={"persistor": torch_model}
    )

    assert by_id(server)["model_locator"] == {
        "id": "model_locator",
        "path": "nvflare.app_opt.pt.file_model_locator.PTFileModelLocator",
        "args": {"pt_persistor_id": "persistor"},
    }


def test_an_evaluation_of_the_servers_models_alone_is_their_global_model_eval(tmp_path):
    flow = {**EVALUATION, "args": {**EVALUATION["args"], "submit_model_task_name": None}}

    server, _, _ = written(tmp_path, [flow])

    (flow,) = server["workflows"]
    assert flow["path"] == "nvflare.app_common.workflows.global_model_eval.GlobalModelEval"
    assert flow["args"] == {"model_locator_id": "model_locator"}


def test_swarm_learning_is_one_half_at_the_server_and_one_at_the_clients_and_so_is_what_comes_after_it(tmp_path):
    server, client, _ = written(tmp_path, [SWARM, EVALUATION])

    assert [(flow["id"], flow["path"], flow["args"]) for flow in server["workflows"]] == [
        (
            "swarm",
            "nvflare.app_common.ccwf.SwarmServerController",
            {"num_rounds": 3, "train_clients": ["site-1"]},
        ),
        ("cse", "nvflare.app_common.ccwf.CrossSiteEvalServerController", {}),
    ]
    assert list(by_id(server)) == ["json_generator"]
    script, swarm, cse = client["executors"]
    assert script["executor"]["path"].endswith(".ClientAPIExecutor")
    assert swarm == {
        "tasks": ["swarm_*"],
        "executor": {
            "path": "nvflare.app_common.ccwf.SwarmClientController",
            "args": {
                "aggregator_id": "aggregator",
                "persistor_id": "persistor",
                "min_responses_required": 2,
                "wait_time_after_min_resps_received": 0,
                "shareable_generator_id": "shareable_generator",
            },
        },
    }
    assert cse["executor"]["args"] == {"persistor_id": "persistor"}
    assert set(by_id(client)) == {"persistor", "aggregator", "model_selector", "shareable_generator"}


def test_what_was_written_for_swarm_learning_is_read_as_the_same_job(tmp_path):
    written(tmp_path, [SWARM, EVALUATION])

    again = Job.load(tmp_path / "out", reading.translate).app_for("server").server({"SITE_NAME": "server"})

    swarm, cse = again.workflows
    assert (swarm.path, cse.path) == ("Swarm", "CrossSiteModelEval")
    defaults = {"train_timeout": 0}
    assert {**defaults, **swarm.args} == SWARM["args"]
    assert cse.args["persistor_id"] == "persistor"
    assert {part.id: part.path for part in again.components} == {
        "persistor": "NPModelPersistor",
        "aggregator": "FedAvg",
        "model_selector": "IntimeModelSelector",
    }


def test_swarm_learning_before_a_workflow_that_their_server_runs_is_an_error(tmp_path):
    cyclic = {"id": "cyclic", "path": "Cyclic", "args": {"persistor_id": "persistor"}}

    with pytest.raises(JobError, match="NVFLARE runs Swarm on its clients, and Cyclic on its server"):
        written(tmp_path, [SWARM, cyclic])


OWN = """
from nvflare.apis.executor import Executor
from nvflare.app_common.aggregators.model_aggregator import ModelAggregator
from nvflare.app_common.workflows.base_fedavg import BaseFedAvg


class Trains(Executor):
    def __init__(self, helper_id: str): ...


class Helper: ...


class Flow(BaseFedAvg):
    def __init__(self, *args, factor: float = 1.0, **kwargs): ...


class Merges(ModelAggregator): ...
"""


def test_executors_controllers_and_aggregators_that_are_written_for_them_come_out_as_they_were(tmp_path):
    config = tmp_path / "job/app/config"
    config.mkdir(parents=True)
    (tmp_path / "job/app/custom").mkdir()
    (tmp_path / "job/app/custom/own.py").write_text(OWN)
    executor = {"path": "own.Trains", "args": {"helper_id": "helper"}}
    helper = {"id": "helper", "path": "own.Helper", "args": {}}
    client = {"executors": [{"tasks": ["train"], "executor": executor}], "components": [helper]}
    flow = {"id": "flow", "path": "own.Flow", "args": {"num_rounds": 2, "factor": 0.5}}
    merges = {"id": "aggregator", "path": "own.Merges", "args": {}}
    persistor = {"id": "persistor", "path": "nvflare.app_common.np.np_model_persistor.NPModelPersistor"}
    (config / "config_fed_client.json").write_text(json.dumps(client))
    (config / "config_fed_server.json").write_text(json.dumps({"workflows": [flow], "components": [persistor, merges]}))
    deploy(tmp_path / "job", app=["@ALL"])

    server, clients, notes = exported(tmp_path / "job", tmp_path)

    assert clients["executors"] == [{"tasks": ["train"], "executor": executor}]
    assert clients["components"] == [helper]
    assert server["workflows"] == [flow]
    assert by_id(server)["aggregator"] == merges
    assert notes == []
