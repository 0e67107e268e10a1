"""Jobs and scripts as NVFLARE's users have them, of 2.4 to 2.9, run as they are."""

import json
import sys
import textwrap

import numpy as np
import pytest
import yaml
from runs import deploy, fedsag, job, run

from fedsag_cli.errors import JobError
from fedsag_cli.interop.nvflare import translate

SCRIPT = """
    import nvflare.client as flare
    from nvflare.app_common.abstract.fl_model import ParamsType
    from nvflare.app_common.app_constant import ModelName
    from nvflare.client import FLModel

    flare.init()
    while flare.is_running():
        model = flare.receive()
        assert model.params_type == ParamsType.FULL, ModelName.BEST_MODEL
        flare.send(FLModel(params={k: v + 1 for k, v in model.params.items()}, metrics={"accuracy": 0.5}))
"""
AGGREGATOR = "nvflare.app_common.aggregators.intime_accumulate_model_aggregator.InTimeAccumulateWeightedAggregator"
SERVER = {
    "format_version": 2,
    "server": {"heart_beat_timeout": 600},
    "task_data_filters": [],
    "task_result_filters": [],
    "workflows": [
        {
            "id": "scatter_and_gather",
            "path": "nvflare.app_common.workflows.scatter_and_gather.ScatterAndGather",
            "args": {
                "min_clients": 2,
                "num_rounds": 3,
                "start_round": 0,
                "wait_time_after_min_received": 0,
                "aggregator_id": "aggregator",
                "persistor_id": "persistor",
                "shareable_generator_id": "shareable_generator",
                "train_task_name": "train",
                "train_timeout": 0,
            },
        }
    ],
    "components": [
        {"id": "persistor", "path": "nvflare.app_common.np.np_model_persistor.NPModelPersistor"},
        {
            "id": "shareable_generator",
            "path": "nvflare.app_common.shareablegenerators.full_model_shareable_generator.FullModelShareableGenerator",
            "args": {},
        },
        {
            "id": "aggregator",
            "path": AGGREGATOR,
            "args": {"expected_data_kind": "WEIGHTS", "aggregation_weights": {"site-1": 3.0}},
        },
        {
            "id": "model_selector",
            "path": "nvflare.app_common.widgets.intime_model_selector.IntimeModelSelector",
            "args": {"key_metric": "accuracy"},
        },
        {
            "id": "receiver",
            "path": "nvflare.app_opt.tracking.tb.tb_receiver.TBAnalyticsReceiver",
            "args": {"events": ["fed.analytix_log_stats"]},
        },
    ],
}
NEW_CLIENT = {
    "format_version": 2,
    "app_script": "train.py",
    "app_config": "",
    "executors": [
        {
            "tasks": ["train"],
            "executor": {
                "path": "nvflare.app_common.executors.client_api_executor.ClientAPIExecutor",
                "args": {
                    "execution_mode": "external_process",
                    "command": "python3 -u custom/{app_script}  {app_config} ",
                    "launch_once": True,
                    "stop_grace_period": 30,
                    "server_expected_format": "numpy",
                    "allow_reconnect": False,
                },
            },
        }
    ],
    "task_data_filters": [],
    "task_result_filters": [],
    "components": [],
}
OLD_CLIENT = {
    "format_version": 2,
    "app_script": "train.py",
    "app_config": "",
    "executors": [
        {
            "tasks": ["train"],
            "executor": {
                "path": "nvflare.app_common.executors.client_api_launcher_executor.ClientAPILauncherExecutor",
                "args": {
                    "launcher_id": "launcher",
                    "pipe_id": "pipe",
                    "heartbeat_timeout": 60,
                    "params_exchange_format": "numpy",
                    "params_transfer_type": "FULL",
                    "train_with_evaluation": True,
                },
            },
        }
    ],
    "task_data_filters": [],
    "task_result_filters": [],
    "components": [
        {
            "id": "launcher",
            "path": "nvflare.app_common.launchers.subprocess_launcher.SubprocessLauncher",
            "args": {"script": "python3 custom/{app_script}  {app_config} ", "launch_once": True},
        },
        {
            "id": "pipe",
            "path": "nvflare.fuel.utils.pipe.cell_pipe.CellPipe",
            "args": {"mode": "PASSIVE", "site_name": "{SITE_NAME}", "token": "{JOB_ID}"},
        },
        {
            "id": "metric_relay",
            "path": "nvflare.app_common.widgets.metric_relay.MetricRelay",
            "args": {"pipe_id": "pipe", "event_type": "fed.analytix_log_stats"},
        },
        {"id": "config_preparer", "path": "nvflare.app_common.widgets.external_configurator.ExternalConfigurator"},
    ],
}
IN_PROCESS = {
    "format_version": 2,
    "executors": [
        {
            "tasks": ["train"],
            "executor": {
                "path": "nvflare.app_common.executors.in_process_client_api_executor.InProcessClientAPIExecutor",
                "args": {"task_script_path": "train.py", "result_pull_interval": 0.5},
            },
        }
    ],
}
CLIENTS = pytest.mark.parametrize("client", [NEW_CLIENT, OLD_CLIENT, IN_PROCESS], ids=["2.9", "2.4", "in process"])


def app(folder, client=NEW_CLIENT, server=SERVER, script=SCRIPT):
    (folder / "custom").mkdir(parents=True)
    (folder / "config").mkdir()
    (folder / "custom" / "train.py").write_text(textwrap.dedent(script))
    (folder / "config" / "config_fed_client.json").write_text(json.dumps(client))
    (folder / "config" / "config_fed_server.json").write_text(json.dumps(server))
    return folder


def final(tmp_path):
    return np.load(tmp_path / "ws" / "server" / "simulate_job" / "models" / "server.npy")


def part(path, **args):
    return {"id": "x", "path": path, "args": args}


def server_of(*components, workflows=()):
    values, notes = translate(
        {"components": list(components), "workflows": list(workflows)}, stem="config_fed_server", file="server"
    )
    return values, notes


@CLIENTS
def test_a_job_of_theirs_runs_as_it_is(tmp_path, client):
    app(tmp_path / "job" / "app", client)
    deploy(tmp_path / "job", app=["@ALL"])

    ran = run(tmp_path / "job", "-n", 2, "-t", 2)

    assert ran.code == 0, ran
    assert final(tmp_path).tolist() == (np.arange(1.0, 10.0).reshape(3, 3) + 3).tolist()
    assert ran.report["best"]["metric"] == "accuracy"
    assert "note: TBAnalyticsReceiver is left out: metrics are in report.json" in ran.out
    assert ran.out.count("CellPipe is left out") == (client is OLD_CLIENT)


def test_a_bare_app_folder_is_a_job_too(tmp_path):
    ran = run(app(tmp_path / "app"), "-n", 2, "-t", 2)

    assert ran.code == 0, ran
    assert ran.report["job"] == "app"


def test_components_named_without_their_modules_are_theirs_as_until_2_5(tmp_path):
    server = json.loads(json.dumps(SERVER))
    for each in (*server["components"], *server["workflows"]):
        each["name"] = each.pop("path").rpartition(".")[2]
    app(tmp_path / "job" / "app", server=server)
    deploy(tmp_path / "job", app=["@ALL"])

    assert run(tmp_path / "job", "-n", 2, "-t", 2).code == 0


def test_a_job_of_ours_stays_as_it_is():
    values = {"components": [part("FedAvg", exclude_vars="x")], "workflows": [part("my.Flow", a=1)], "lr": 0.1}

    assert translate(values, stem="config_fed_server", file="f") == (values, [])


def test_their_aggregators_arguments_arrive():
    values, notes = server_of(
        part(AGGREGATOR, exclude_vars="bn", weigh_by_local_iter=False, expected_data_kind="WEIGHTS")
    )

    assert values["components"] == [part("FedAvg", exclude_vars="bn", weigh_by_local_iter=False)]
    assert notes == []


def test_an_argument_that_has_no_counterpart_is_told_once():
    persistor = "nvflare.app_opt.pt.file_model_persistor.PTFileModelPersistor"

    values, notes = server_of(part(persistor, load_weights_only=False, colour="red"), part(persistor, colour="blue"))

    assert [each["args"] for each in values["components"]] == [{}, {}]
    assert notes == [
        "PTFileModelPersistor: load_weights_only = False has no effect here",
        "PTFileModelPersistor: there is no colour here: it is left out",
    ]


def test_a_class_that_is_not_there_yet_is_an_error_naming_it_and_the_nearest():
    with pytest.raises(JobError, match=r"nvflare\.x\.NPModelPersist is not there yet") as raised:
        server_of(part("nvflare.x.NPModelPersist"))
    assert raised.value.hint == "did you mean 'NPModelPersistor'?"
    with pytest.raises(JobError, match="CrossSiteModelEval"):
        server_of(workflows=[part("nvflare.app_common.workflows.cross_site_model_eval.CrossSiteModelEval")])


def test_a_model_that_is_a_component_of_its_own_goes_into_its_persistor():
    persistor = part("nvflare.app_opt.pt.file_model_persistor.PTFileModelPersistor", model="net")

    values, _ = server_of({"id": "net", "path": "net.Net", "args": {"width": 3}}, persistor)

    assert [each["args"] for each in values["components"]] == [{"model": {"path": "net.Net", "args": {"width": 3}}}]


def test_their_workflow_that_averages_by_itself_is_scatter_and_gather(tmp_path):
    server = json.loads(json.dumps(SERVER))
    server["workflows"] = [part("nvflare.app_common.workflows.fedavg.FedAvg", num_clients=2, num_rounds=2, patience=3)]
    server["components"] = server["components"][:1]
    app(tmp_path / "job" / "app", server=server)
    deploy(tmp_path / "job", app=["@ALL"])

    ran = run(tmp_path / "job", "-n", 2, "-t", 2)

    assert ran.code == 0, ran
    assert final(tmp_path)[0, 0] == 3
    assert "FedAvg: there is no patience here: it is left out" in ran.out


def test_without_min_clients_all_have_to_answer_as_with_theirs():
    values, _ = server_of(workflows=[part("nvflare.app_common.workflows.scatter_and_gather.ScatterAndGather")])

    assert values["workflows"][0]["args"] == {"min_clients": 1000, "aggregator_id": "aggregator"}


def test_an_executor_without_its_launcher_is_an_error(tmp_path):
    client = json.loads(json.dumps(OLD_CLIENT))
    del client["components"][0]
    app(tmp_path / "job" / "app", client)
    deploy(tmp_path / "job", app=["@ALL"])

    ran = run(tmp_path / "job", "-n", 2)

    assert ran.code == 3
    assert "names no SubprocessLauncher" in ran.err


@pytest.mark.parametrize("launcher", ["fork", "spawn"])
def test_a_module_of_theirs_that_we_do_not_serve_is_missing_as_any_other(tmp_path, launcher):
    made = job(tmp_path / "job", "import nvflare.client as flare\nimport nvflare.nowhere\n")

    ran = run(made, "-n", 2, "-t", 2, "--launcher", launcher)

    assert ran.code == 4
    assert "No module named 'nvflare.nowhere'" in ran.err


def test_where_it_is_installed_its_other_modules_are_its_own(tmp_path):
    """And the Client API is ours: theirs could not speak with our server."""
    script = """
        import nvflare.apis
        import nvflare.client as flare
        from nvflare.app_common.app_constant import ModelName

        assert nvflare.apis.THEIRS and ModelName == "theirs"
        flare.init()
        while flare.is_running():
            flare.send(flare.receive())
    """
    theirs = tmp_path / "site" / "nvflare"
    for name, text in {"__init__": "", "client": "1 / 0", "apis": "THEIRS = True", "app_common/__init__": "",
                       "app_common/app_constant": "ModelName = 'theirs'"}.items():  # fmt: skip
        (theirs / f"{name}.py").parent.mkdir(parents=True, exist_ok=True)
        (theirs / f"{name}.py").write_text(text)

    ran = run(job(tmp_path / "job", script), "-n", 2, "-t", 2, env={"PYTHONPATH": str(tmp_path / "site")})

    assert ran.code == 0, ran


def test_only_a_clients_process_serves_their_names():
    assert not any(type(finder).__module__ == "fedsag_cli.interop.shim" for finder in sys.meta_path)


def test_a_template_folder_of_theirs_makes_a_job_that_runs(tmp_path):
    template = tmp_path / "theirs"
    template.mkdir()
    (template / "info.conf").write_text('description = "theirs"\n')
    (template / "config_fed_client.conf").write_text(json.dumps(NEW_CLIENT))
    (template / "config_fed_server.conf").write_text(json.dumps(SERVER))
    (template / "meta.conf").write_text('{ name = "theirs", resource_spec {}, deploy_map { app = ["@ALL"] } }')
    code = tmp_path / "code"
    code.mkdir()
    (code / "other.py").write_text(textwrap.dedent(SCRIPT))

    made = fedsag("job", "create", "-j", "job", "-w", template, "-sd", code, "-f", "config_fed_client.conf",
                  "app_script=other.py", "-f", "config_fed_server.conf", "num_rounds=1", cwd=tmp_path)  # fmt: skip

    assert made.code == 0, made
    assert "refuse" not in made.out + made.err
    assert run(tmp_path / "job", "-n", 2, "-t", 2).code == 0
    assert final(tmp_path)[0, 0] == 2


def test_configs_in_yaml_are_read(tmp_path):
    app(tmp_path / "job" / "app")
    meta = {"name": "job", "deploy_map": {"app": ["@ALL"]}, "min_clients": 1}
    (tmp_path / "job" / "meta.yml").write_text(yaml.safe_dump(meta))
    for path in list((tmp_path / "job" / "app" / "config").iterdir()):
        path.with_suffix(".yml").write_text(yaml.safe_dump(json.loads(path.read_text())))
        path.unlink()

    ran = run(tmp_path / "job", "-n", 2, "-t", 2)

    assert ran.code == 0, ran
    assert final(tmp_path)[0, 0] == 4
