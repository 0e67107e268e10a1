"""Jobs and scripts as NVFLARE's users have them, of 2.4 to 2.9, run as they are."""

import json
import textwrap

import numpy as np
import pytest
import yaml
from runs import deploy, fedsag, job, run

from fedsag_cli.errors import JobError
from fedsag_cli.interop import reading
from fedsag_cli.job import ConfigFile
from fedsag_cli.job.config import hocon

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


def translate(values, stem, name):
    done = reading.translate(ConfigFile(stem=stem, name=name, values=values), [])
    return done.values, done.notes


def server_of(*components, workflows=()):
    values, notes = translate(
        {"components": list(components), "workflows": list(workflows)}, "config_fed_server", "server"
    )
    return values, notes


HELLO_NUMPY = {
    "format_version": 2,
    "executors": [
        {
            "tasks": ["train", "submit_model"],
            "executor": {"path": "nvflare.app_common.np.np_trainer.NPTrainer", "args": {"delta": 0.5}},
        },
        {"tasks": ["validate"], "executor": {"path": "nvflare.app_common.np.np_validator.NPValidator"}},
    ],
    "components": [],
}


def client_of(*entries, components=()):
    """What the executors of a client's config, and the notes, come to."""
    executors = [{"tasks": tasks, "executor": {"path": path, "args": args}} for tasks, path, args in entries]
    values, notes = translate({"executors": executors, "components": list(components)}, "config_fed_client", "client")
    return values, notes


@CLIENTS
def test_a_job_of_theirs_runs_as_it_is(tmp_path, client):
    app(tmp_path / "job" / "app", client)
    deploy(tmp_path / "job", app=["@ALL"])

    ran = run(tmp_path / "job", "-n", 2, "-t", 2)

    assert ran.code == 0, ran
    assert final(tmp_path).tolist() == (np.arange(1.0, 10.0).reshape(3, 3) + 3).tolist()
    assert ran.report["best"]["metric"] == "accuracy"
    assert "TBAnalyticsReceiver" not in ran.out + ran.err
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

    assert translate(values, "config_fed_server", "f") == (values, [])


def test_their_aggregators_arguments_arrive():
    values, notes = server_of(
        part(AGGREGATOR, exclude_vars="bn", weigh_by_local_iter=False, expected_data_kind="WEIGHTS")
    )

    assert values["components"] == [part("FedAvg", exclude_vars="bn", weigh_by_local_iter=False)]
    assert notes == []


@pytest.mark.parametrize("module", ["app_opt.pt.file_model_persistor", "app_common.pt.pt_file_model_persistor"])
def test_a_class_is_theirs_wherever_its_module_lay(module):
    args = {
        "source_ckpt_file_full_name": "a.pt",
        "exclude_vars": "bn",
        "filter_id": "",
        "allow_numpy_conversion": False,
    }

    values, notes = server_of(part(f"nvflare.{module}.PTFileModelPersistor", **args))

    (persistor,) = values["components"]
    assert persistor == part("PTFileModelPersistor", source_ckpt_file_full_name="a.pt", exclude_vars="bn")
    assert notes == []


def test_an_argument_that_has_no_counterpart_is_told_once():
    persistor = "nvflare.app_opt.pt.file_model_persistor.PTFileModelPersistor"

    values, notes = server_of(part(persistor, load_weights_only=False, colour="red"), part(persistor, colour="blue"))

    assert [each["args"] for each in values["components"]] == [{}, {}]
    assert notes == [
        "PTFileModelPersistor: load_weights_only = False has no effect in fedsag",
        "PTFileModelPersistor: fedsag has no colour: it is left out",
    ]


def test_a_class_that_is_not_there_yet_is_an_error_naming_it_and_the_nearest():
    with pytest.raises(JobError, match=r"nvflare\.x\.NPModelPersist is not supported yet") as raised:
        server_of(part("nvflare.x.NPModelPersist"))
    assert raised.value.hint == "did you mean 'NPModelPersistor'?"


def test_a_workflow_that_is_not_there_yet_is_named_before_any_part_of_it():
    flows = [part("nvflare.a.Psi"), part("nvflare.app_common.workflows.scatter_and_gather.ScatterAndGather")]

    with pytest.raises(JobError) as raised:
        server_of(part("nvflare.x.Thing"), workflows=[*flows, part("nvflare.b.ScatterAndGatherHe")])

    both = "nvflare.a.Psi and nvflare.b.ScatterAndGatherHe"
    assert raised.value.message == f"server: NVFLARE's workflows {both} are not supported yet"
    assert raised.value.hint == "did you mean 'ScatterAndGather'?"


def test_all_components_that_are_not_there_yet_are_named_at_once():
    filters = [{"tasks": ["train"], "filters": [{"path": "nvflare.c.Third"}]}]

    with pytest.raises(JobError, match=r"components nvflare\.a\.First, nvflare\.b\.Second and nvflare\.c\.Third are"):
        translate(
            {"components": [part("nvflare.a.First"), part("nvflare.b.Second")], "task_data_filters": filters},
            "config_fed_server",
            "server",
        )


def test_a_bare_name_that_is_neither_theirs_nor_ours_counts_as_theirs():
    with pytest.raises(JobError, match=r"NVFLARE's workflow Psi is not supported yet"):
        server_of(workflows=[{"id": "cse", "name": "Psi"}])
    assert server_of({"id": "a", "name": "FedAvg"})[0]["components"] == [{"id": "a", "name": "FedAvg"}]


def test_fedavg_in_the_list_of_workflows_is_their_workflow_as_until_2_6():
    by_path, _ = server_of(workflows=[part("nvflare.app_common.workflows.fedavg.FedAvg", num_clients=2)])

    by_name, notes = server_of(workflows=[{"id": "x", "name": "FedAvg", "args": {"num_clients": 2}}])

    assert by_name == by_path
    assert by_name["workflows"][0]["path"] == "ScatterAndGather"
    assert notes == []


@pytest.mark.parametrize("given", [{}, {"persistor_id": ""}])
def test_scatter_and_gather_without_a_persistor_begins_with_what_the_clients_send(given):
    flow = part("nvflare.app_common.workflows.scatter_and_gather.ScatterAndGather", **given)

    values, notes = server_of({"id": "persistor", "path": "my.Thing"}, part(AGGREGATOR), workflows=[flow])

    added, (workflow,) = values["components"][-1], values["workflows"]
    assert added == {"id": "persistor_2", "path": "NPModelPersistor", "args": {"model": {}}}
    assert workflow["args"] | {"persistor_id": "persistor_2", "allow_empty_global_weights": True} == workflow["args"]
    assert notes == ["ScatterAndGather has no persistor_id: the answers of its first round bring the model"]


def test_what_only_listens_is_left_out_with_a_line_at_the_server_and_at_a_client():
    listeners = [
        part("nvflare.app_common.logging.job_log_receiver.JobLogReceiver"),
        part("nvflare.app_common.widgets.decomposer_reg.DecomposerRegister", decomposers=[]),
        part("nvflare.fuel_opt.statsd.statsd_reporter.StatsDReporter", site="server"),
        part("nvflare.app_common.widgets.event_recorder.ServerEventRecorder"),
        part("nvflare.metrics.job_metrics_collector.JobMetricsCollector", tags={}),
    ]

    values, notes = server_of(*listeners)
    _, of_client = translate({"components": listeners}, "config_fed_client", "client")

    assert values["components"] == []
    assert notes == of_client == [
        "JobLogReceiver is left out: the logs of all processes are in the workspace",
        "DecomposerRegister is left out: fedsag sends its messages itself",
        "StatsDReporter is left out: times and sizes are in report.json",
        "ServerEventRecorder is left out: all events are in events.jsonl",
        "JobMetricsCollector is left out: times and sizes are in report.json",
    ]  # fmt: skip


def test_their_trackers_are_ours_and_events_are_no_news():
    tracking = "nvflare.app_opt.tracking"

    values, notes = server_of(
        part(f"{tracking}.tb.tb_receiver.TBAnalyticsReceiver", tb_folder="tb", events=["fed.analytix_log_stats"]),
        part(f"{tracking}.mlflow.mlflow_receiver.MLflowReceiver", tracking_uri="", kw_args={"run_name": "x"},
             artifact_location="a", events=[], buffer_flush_time=2),
        part(f"{tracking}.mlflow.mlflow_receiver.MLflowReceiver", kwargs={"run_name": "2.4"}),
        part(f"{tracking}.wandb.wandb_receiver.WandBReceiver", wandb_args={"name": "x"}, mode="online",
             process_timeout=3),
        part(f"{tracking}.wandb.wandb_receiver.WandBReceiver", kwargs={"name": "2.4"}),
    )  # fmt: skip

    assert values["components"] == [
        part("TBAnalyticsReceiver", tb_folder="tb"),
        part("MLflowReceiver", tracking_uri="", kw_args={"run_name": "x"}, artifact_location="a"),
        part("MLflowReceiver", kw_args={"run_name": "2.4"}),
        part("WandBReceiver", wandb_args={"name": "x"}, mode="online"),
        part("WandBReceiver", wandb_args={"name": "2.4"}),
    ]
    assert notes == []


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
    assert "FedAvg: patience has no effect without stop_cond" in ran.out


def test_what_their_averaging_workflow_has_inside_are_components_of_ours():
    averaging = part(
        "nvflare.app_common.workflows.fedavg.FedAvg",
        num_clients=2, num_rounds=3, task_name="fit", exclude_vars="bn", aggregation_weights={"site-1": 2.0},
        stop_cond=None, save_filename="x.pt", memory_gc_rounds=1, persistor_id="", model={"w": [1.0]},
        ignore_result_error=None, task_check_period=0.5,
    )  # fmt: skip

    values, notes = server_of(part("my.Widget"), workflows=[averaging])

    assert notes == ["FedAvg: save_filename = 'x.pt' has no effect in fedsag"]
    assert values["components"] == [
        part("my.Widget"),
        {"id": "persistor", "path": "NPModelPersistor", "args": {"model": {"w": [1.0]}}},
        {"id": "aggregator", "path": "FedAvg", "args": {"exclude_vars": "bn", "aggregation_weights": {"site-1": 2.0}}},
    ]
    assert values["workflows"][0]["args"] == {
        "num_clients": 2, "min_clients": 2, "num_rounds": 3, "train_task_name": "fit", "persistor_id": "persistor",
        "aggregator_id": "aggregator",
    }  # fmt: skip


def test_their_averaging_workflow_draws_its_clients_and_stops_early_as_with_them():
    name = "nvflare.app_common.workflows.fedavg.FedAvg"

    as_usual, _ = server_of(workflows=[part(name)])
    stops, notes = server_of(workflows=[part(name, num_clients=4, stop_cond="accuracy >= 80", patience=2)])
    never, said = server_of(workflows=[part(name, stop_cond="", patience=2)])

    before, _ = server_of(workflows=[part(name, min_clients=4)])
    everybody = [server_of(workflows=[part(name, num_clients=none)]) for none in (None, 0)]

    for values, said_of_all in everybody:
        assert values["workflows"][0]["args"]["min_clients"] == 1000
        assert "num_clients" not in values["workflows"][0]["args"]
        assert said_of_all == []
    assert before["workflows"][0]["args"] | {"num_clients": 4, "min_clients": 4} == before["workflows"][0]["args"]
    assert as_usual["workflows"][0]["args"] | {"num_clients": 3, "min_clients": 3} == as_usual["workflows"][0]["args"]
    wanted = {"num_clients": 4, "min_clients": 4, "stop_cond": "accuracy >= 80", "patience": 2}
    assert stops["workflows"][0]["args"] | wanted == stops["workflows"][0]["args"]
    assert notes == []
    assert not {"stop_cond", "patience"} & set(never["workflows"][0]["args"])
    assert said == ["FedAvg: patience has no effect without stop_cond"]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ({"num_clients": 4, "min_clients": 3}, "min_clients = 3 has no effect: each round waits for its num_clients"),
        ({"num_clients": 4, "min_clients": 4}, ""),
        ({"model": [1.0], "initial_model": {"path": "n.Net"}}, "model is left out: initial_model is the model"),
        (
            {"aggregator": {"path": "my.Mean"}, "exclude_vars": "bn"},
            "exclude_vars have no effect: the job has an aggregator of its own",
        ),
        ({"save_filename": "best.pt"}, "save_filename = 'best.pt' has no effect in fedsag"),
        ({"task_name": "fit", "train_task_name": "train"}, "task_name is left out: train_task_name is given too"),
    ],
)
def test_no_argument_of_their_averaging_workflow_vanishes_without_a_word(args, said):
    _, notes = server_of(workflows=[part("nvflare.app_common.workflows.fedavg.FedAvg", **args)])

    assert notes == ([f"FedAvg: {said}"] if said else [])


def test_an_aggregator_that_their_averaging_workflow_names_by_its_id_averages():
    """Before, it was replaced by fedsag's."""
    name = "nvflare.app_common.workflows.fedavg.FedAvg"
    mine = {"id": "mine", "path": "my.Mean"}

    values, _ = server_of(mine, workflows=[part(name, aggregator="mine")])

    assert values["workflows"][0]["args"]["aggregator_id"] == "mine"
    assert [each["id"] for each in values["components"]] == ["mine", "persistor"]
    with pytest.raises(JobError, match="FedAvg: aggregator must be a component, not 5"):
        server_of(mine, workflows=[part(name, aggregator=5)])
    with pytest.raises(JobError, match="aggregator is 'yours': there is no component with that id"):
        server_of(mine, workflows=[part(name, aggregator="yours")])


def test_their_scaffold_is_scatter_and_gather_with_our_aggregator():
    persistor = {"id": "persistor", "path": "nvflare.app_opt.pt.file_model_persistor.PTFileModelPersistor"}

    values, notes = server_of(
        persistor, workflows=[part("nvflare.app_common.workflows.scaffold.Scaffold", num_clients=4, num_rounds=7)]
    )

    assert notes == []
    [flow] = values["workflows"]
    assert flow["path"] == "ScatterAndGather"
    assert (flow["args"]["num_clients"], flow["args"]["min_clients"], flow["args"]["num_rounds"]) == (4, 4, 7)
    assert values["components"][-1] == {"id": flow["args"]["aggregator_id"], "path": "Scaffold", "args": {}}


def test_their_older_workflow_of_scaffold_has_the_weights_of_its_models():
    kinds = {"_model_weights_": "WEIGHT_DIFF", "scaffold_c_diff": "WEIGHT_DIFF"}
    weights = {key: {"site-1": 2.0} for key in kinds}
    path = "nvflare.app_common.aggregators.intime_accumulate_model_aggregator.InTimeAccumulateWeightedAggregator"
    aggregator = part(path, expected_data_kind=kinds, aggregation_weights=weights)

    values, notes = server_of(
        aggregator,
        workflows=[
            part(
                "nvflare.app_common.workflows.scatter_and_gather_scaffold.ScatterAndGatherScaffold",
                aggregator_id="x",
                persistor_id="persistor",
            )
        ],
    )

    assert notes == []
    assert values["components"][0] == {"id": "x", "path": "Scaffold", "args": {"aggregation_weights": {"site-1": 2.0}}}
    assert values["workflows"][0]["path"] == "ScatterAndGather"
    assert values["workflows"][0]["args"]["min_clients"] == 1000


def test_a_second_model_selector_that_has_no_effect_is_told():
    path = "nvflare.app_common.widgets.intime_model_selector.IntimeModelSelector"
    two = [{**part(path), "id": name} for name in ("one", "two")]

    values, notes = server_of(*two, workflows=[part("nvflare.app_common.workflows.fedavg.FedAvg")])

    assert values["workflows"][0]["args"]["model_selector_id"] == "one"
    assert notes == ["the model selector is 'one': a workflow of fedsag has one, so 'two' has no effect"]


def test_a_module_inside_their_averaging_workflow_is_what_training_starts_from():
    name = "nvflare.app_opt.pt.fedavg_early_stopping.PTFedAvgEarlyStopping"
    net = {"path": "net.Net", "args": {}}

    by_class, _ = server_of(workflows=[part(name, initial_model=net)])
    by_id, _ = server_of({"id": "model", **net}, workflows=[part(name, initial_model="model", persistor_id="")])

    for values in (by_class, by_id):
        persistor, _ = values["components"]
        assert persistor == {"id": "persistor", "path": "PTFileModelPersistor", "args": {"model": net}}
        assert "allow_empty_global_weights" not in values["workflows"][0]["args"]


def test_their_averaging_workflow_without_a_model_begins_with_what_the_clients_send(tmp_path):
    """As their first example of it has it: the script makes the first model."""
    script = """
        import numpy as np
        import nvflare.client as flare

        flare.init()
        while flare.is_running():
            model = flare.receive()
            assert (model.params == {}) == (model.current_round == 0)
            first = np.full((2, 2), 5, dtype=np.float32)
            flare.send(flare.FLModel(params={"numpy_key": model.params.get("numpy_key", first) + 1}))
    """
    workflows = [part("nvflare.app_common.workflows.fedavg.FedAvg", num_clients=2, num_rounds=3, fedprox_mu=0.5)]
    app(tmp_path / "job" / "app", script=script, server={"workflows": workflows, "components": []})
    deploy(tmp_path / "job", app=["@ALL"])

    ran = run(tmp_path / "job", "-n", 2, "-t", 2)

    assert ran.code == 0, ran
    assert final(tmp_path).tolist() == [[8, 8], [8, 8]]


def test_what_only_serves_cross_site_evaluation_is_no_news_where_nobody_asks_for_it():
    parts = [
        part("nvflare.app_common.widgets.validation_json_generator.ValidationJsonGenerator"),
        part("nvflare.app_opt.pt.file_model_locator.PTFileModelLocator", pt_persistor_id="persistor"),
    ]

    values, notes = server_of(*parts, workflows=[part("nvflare.app_common.workflows.fedavg.FedAvg", model=[1.0])])

    assert notes == []
    assert [each["id"] for each in values["components"]] == ["persistor", "aggregator"]


def test_a_tracker_at_a_client_is_left_out_with_its_place():
    tracker = {"id": "t", "path": "nvflare.app_opt.tracking.mlflow.mlflow_receiver.MLflowReceiver", "args": {}}

    _, notes = translate({"components": [tracker]}, "config_fed_client", "x")

    assert notes == [
        "MLflowReceiver is left out: trackers run in the server, for all clients: put it into config_fed_server"
    ]


def test_their_averaging_workflow_may_stand_without_any_components():
    flow = {"path": "nvflare.app_common.workflows.fedavg.FedAvg", "args": {"model": [[1.0]], "num_clients": 2}}

    values, _ = translate({"workflows": [flow]}, "config_fed_server", "x")

    assert [part["path"] for part in values["components"]] == ["NPModelPersistor", "FedAvg"]


def test_an_aggregator_inside_their_averaging_workflow_is_the_users_own():
    own = {"path": "my.Median", "args": {"a": 1}}
    averaging = part("nvflare.app_opt.pt.fedavg.PTFedAvg", aggregator=own, persistor_id="persistor")

    values, _ = server_of({"id": "aggregator", "path": "my.Other"}, workflows=[averaging])

    assert values["components"][1] == {"id": "aggregator_2", "path": "my.Median", "args": {"a": 1}}
    assert values["workflows"][0]["args"]["aggregator_id"] == "aggregator_2"


def test_components_of_the_users_own_that_keep_our_contracts_work_in_a_job_of_theirs(tmp_path):
    server = json.loads(json.dumps(SERVER))
    server["components"][0] = {"id": "persistor", "path": "parts.Persistor", "args": {"start": 2}}
    server["components"][2] = {"id": "aggregator", "path": "parts.Largest"}
    server["task_result_filters"] = [{"tasks": ["train"], "filters": [{"path": "parts.Doubles", "args": {"by": 2}}]}]
    made = app(tmp_path / "job" / "app", server=server)
    (made / "custom" / "parts.py").write_text(textwrap.dedent(OWN_PARTS))
    deploy(tmp_path / "job", app=["@ALL"])

    ran = run(tmp_path / "job", "-n", 2, "-t", 2)

    assert ran.code == 0, ran
    # w + 1, doubled, three times: 2 -> 6 -> 14 -> 30
    assert (tmp_path / "ws" / "server" / "simulate_job" / "app_server" / "own.txt").read_text() == "30.0"


OWN_PARTS = """
    from dataclasses import replace
    from pathlib import Path

    import numpy as np

    from fedsag_cli.messages import FLModel


    class Persistor:
        files = (Path("own.txt"), Path("best.txt"))

        def __init__(self, start: float):
            self._start = start

        def load(self):
            return FLModel(params={"w": np.float32(self._start)})

        def save(self, model):
            self.files[0].write_text(str(float(model.params["w"])))
            return self.files[0].resolve()

        def save_best(self, model):
            self.files[1].write_text(str(float(model.params["w"])))
            return self.files[1].resolve()


    class Largest:
        def __init__(self):
            self._largest = None

        def accept(self, site, update):
            if self._largest is None or update.params["w"] > self._largest:
                self._largest = update.params["w"]

        def aggregate(self):
            largest, self._largest = self._largest, None
            return FLModel(params={"w": largest})


    class Doubles:
        def __init__(self, by: int):
            self._by = by

        def process(self, model):
            return replace(model, params={name: value * self._by for name, value in model.params.items()})
"""


def test_a_client_runs_no_parts_and_says_which():
    parts = [
        {"id": "own", "path": "my.Widget"},
        {"id": "tb", "path": "nvflare.app_opt.tracking.tb.tb_receiver.TBAnalyticsReceiver"},
        {"id": "off", "path": "my.Other", "disabled": True},
        {"id": "fed", "path": "nvflare.app_common.widgets.convert_to_fed_event.ConvertToFedEvent", "args": {}},
        {"id": "w", "path": "nvflare.app_opt.tracking.mlflow.mlflow_writer.MLflowWriter"},
        {"id": "t", "path": "nvflare.somewhere.Thing"},
    ]

    values, notes = client_of((["train"], "ClientAPIExecutor", {"command": "python3 custom/a.py"}), components=parts)

    assert values["components"] == []
    in_the_server = "trackers run in the server, for all clients: put it into config_fed_server"
    script_alone = "is left out: a client of fedsag runs its script and its filters, and no components"
    assert notes == [
        f"my.Widget {script_alone}",
        f"TBAnalyticsReceiver is left out: {in_the_server}",
        "ConvertToFedEvent is left out: fedsag sends its messages itself",
        "MLflowWriter is left out: fedsag sends its messages itself",
        f"Thing {script_alone}",
    ]


def test_their_numpy_trainer_and_validator_are_one_program_and_give_their_numbers(tmp_path):
    app(tmp_path / "job" / "app", HELLO_NUMPY)
    deploy(tmp_path / "job", app=["@ALL"])

    ran = run(tmp_path / "job", "-n", 2, "-t", 2)

    assert ran.code == 0, ran
    assert final(tmp_path).dtype == np.float32
    assert final(tmp_path).tolist() == (np.arange(1.0, 10.0).reshape(3, 3) + 3 * 0.5).tolist()
    kept = np.load(tmp_path / "ws" / "site-2" / "simulate_job" / "model" / "best_numpy.npy")
    assert kept.tolist() == final(tmp_path).tolist()
    # sum(x / max(x)) of 2.5 to 10.5 is 58.5 / 10.5, and something from 0 to 1 is added
    assert 58.5 / 10.5 <= ran.report["final_metrics"]["accuracy"] < 58.5 / 10.5 + 1


@pytest.mark.parametrize(
    ("client_args", "model", "says"),
    [
        ({"model_dir": "../../elsewhere"}, None, "is outside the run's folder"),
        ({}, {"w": [1.0]}, "the model has no 'numpy_key', but ['w']"),
    ],
)
def test_their_numpy_trainer_refuses_what_it_cannot_do(tmp_path, client_args, model, says):
    client, server = json.loads(json.dumps(HELLO_NUMPY)), json.loads(json.dumps(SERVER))
    client["executors"][0]["executor"]["args"] = client_args
    server["components"][0]["args"] = {"model": model}
    app(tmp_path / "job" / "app", client, server)
    deploy(tmp_path / "job", app=["@ALL"])

    ran = run(tmp_path / "job", "-n", 1)

    assert ran.code == 4, ran
    assert says in ran.log("site-1")
    assert not (tmp_path / "ws" / "elsewhere").exists()


def test_the_arguments_of_their_numpy_executors_arrive():
    values, notes = client_of(
        (["my_train"], "nvflare.app_common.np.np_trainer.NPTrainer",
         {"delta": 2, "sleep_time": 1, "train_task_name": "my_train", "model_dir": "m", "model_name": "x.npy",
          "colour": 1}),
        (["check"], "nvflare.app_common.np.np_validator.NPValidator",
         {"epsilon": 2, "sleep_time": 3, "validate_task_name": "check"}),
    )  # fmt: skip

    (entry,) = values["executors"]
    flags = ["--delta", "2", "--sleep_time", "1", "--model_dir", "m", "--model_name", "x.npy"]
    assert entry["tasks"] == ["my_train", "check"]
    assert entry["executor"]["args"] == {
        "execution_mode": "external_process",
        "params_exchange_format": "numpy",
        "command": ["python3", "-m", "fedsag_cli.client.np_trainer", *flags, "--validate_sleep_time", "3"],
        "train_task_name": "my_train",
        "evaluate_task_name": "check",
    }
    assert notes == ["NPTrainer: fedsag has no colour: it is left out"]


@pytest.mark.parametrize(
    "path",
    ["executor.CIFAR10Executor", "nvflare.app_common.executors.splitnn_learner_executor.SplitNNLearnerExecutor",
     "nvflare.app_opt.tf.in_process_client_api_executor.TFInProcessClientAPIExecutor"],
)  # fmt: skip
def test_an_executor_that_starts_no_script_is_an_error_that_names_it(path):
    with pytest.raises(JobError) as raised:
        client_of((["train"], path, {}))

    assert raised.value.message == f"client: executors[0]: fedsag has no executor {path}"
    assert raised.value.hint == "a client of fedsag runs a script with the Client API: use ClientAPIExecutor"


def test_of_an_executors_arguments_only_those_that_carry_messages_go_without_a_word():
    path = "nvflare.app_opt.pt.in_process_client_api_executor.PTInProcessClientAPIExecutor"
    usual = {"result_pull_interval": 0.5, "log_pull_interval": None, "task_wait_time": None,
             "from_nvflare_converter_id": None, "server_expected_format": "pytorch"}  # fmt: skip

    values, notes = client_of((["*"], path, {"task_script_path": "a.py", "to_nvflare_converter_id": "mine", **usual}))

    assert values["executors"][0]["executor"]["args"] == {
        "execution_mode": "in_process", "params_exchange_format": "pytorch", "task_script_path": "a.py",
    }  # fmt: skip
    assert notes == [
        "PTInProcessClientAPIExecutor: to_nvflare_converter_id = 'mine' has no effect in fedsag",
    ]


def test_the_names_of_a_recipes_exported_job_run_as_they_are(tmp_path):
    """Their job API leaves out what is usual, and names each part itself."""
    widgets = "nvflare.app_common.widgets"
    server = {
        "format_version": 2,
        "workflows": [
            {
                "id": "controller",
                "path": "nvflare.app_common.workflows.fedavg.FedAvg",
                "args": {"aggregation_weights": {"site-1": 3.0}, "num_clients": 2, "num_rounds": 2},
            }
        ],
        "components": [
            {"id": "json_generator", "path": f"{widgets}.validation_json_generator.ValidationJsonGenerator"},
            {"id": "model_selector", "path": f"{widgets}.intime_model_selector.IntimeModelSelector",
             "args": {"aggregation_weights": {}, "key_metric": "accuracy"}},
            {"id": "metrics_artifact_writer", "path": f"{widgets}.metrics_artifact_writer.MetricsArtifactWriter"},
            {"id": "persistor", "path": "nvflare.app_common.np.np_model_persistor.NPModelPersistor",
             "args": {"model": [[1.0, 2.0]]}},
        ],
    }  # fmt: skip
    client = {
        "format_version": 2,
        "executors": [
            {
                "tasks": ["*"],
                "executor": {
                    "path": "nvflare.app_common.executors.client_api_executor.ClientAPIExecutor",
                    "args": {
                        "execution_mode": "external_process",
                        "command": ["python3", "-u", "custom/train.py"],
                        "shutdown_timeout": 0.0,
                        "params_exchange_format": "numpy",
                    },
                },
            }
        ],
        "components": [
            {"id": "event_to_fed", "path": f"{widgets}.convert_to_fed_event.ConvertToFedEvent",
             "args": {"events_to_convert": ["analytix_log_stats"]}},
        ],
    }  # fmt: skip
    script = """
        import nvflare.client as flare

        flare.init()
        while flare.is_running():
            model = flare.receive()
            add = 1.0 if flare.get_site_name() == "site-1" else 2.0
            flare.send(flare.FLModel(params={k: v + add for k, v in model.params.items()}, metrics={"accuracy": 0.5}))
    """
    app(tmp_path / "job" / "app", client, server, script)
    deploy(tmp_path / "job", app=["@ALL"])

    ran = run(tmp_path / "job", "-n", 2, "-t", 2)

    assert ran.code == 0, ran
    # each round adds (3 * 1 + 1 * 2) / 4 = 1.25
    assert final(tmp_path).tolist() == [[3.5, 4.5]]
    assert ran.report["best"]["metric"] == "accuracy"


def test_without_min_clients_all_have_to_answer_as_with_theirs():
    workflow = part("nvflare.app_common.workflows.scatter_and_gather.ScatterAndGather", persistor_id="p")

    values, _ = server_of(workflows=[workflow])

    expected = {"min_clients": 1000, "aggregator_id": "aggregator", "persistor_id": "p"}
    assert values["workflows"][0]["args"] == expected


def test_an_executor_without_its_launcher_is_an_error(tmp_path):
    client = json.loads(json.dumps(OLD_CLIENT))
    del client["components"][0]
    app(tmp_path / "job" / "app", client)
    deploy(tmp_path / "job", app=["@ALL"])

    ran = run(tmp_path / "job", "-n", 2)

    assert ran.code == 3
    assert "must name a SubprocessLauncher" in ran.err


@pytest.mark.parametrize("launcher", ["fork", "spawn"])
def test_a_module_of_theirs_that_we_do_not_serve_is_missing_and_that_says_what_would_bring_it(tmp_path, launcher):
    made = job(tmp_path / "job", "import nvflare.client as flare\nimport nvflare.nowhere\n")

    ran = run(made, "-n", 2, "-t", 2, "--launcher", launcher)

    assert ran.code == 4
    assert "ModuleNotFoundError: fedsag has no nvflare.nowhere, and nvflare is not installed" in ran.err


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


def test_an_argument_only_our_constructor_knows_can_be_set_in_a_template_of_theirs(tmp_path):
    template = tmp_path / "theirs"
    template.mkdir()
    (template / "config_fed_client.conf").write_text(json.dumps(NEW_CLIENT))
    (template / "config_fed_server.conf").write_text(json.dumps(SERVER))

    made = fedsag("job", "create", "-j", "job", "-w", template, "-f", "config_fed_server.conf",
                  "negate_key_metric=true", "workflows[0].args.snapshot_every_n_rounds=2", cwd=tmp_path)  # fmt: skip

    assert made.code == 0, made
    server = hocon.load(tmp_path / "job/app/config/config_fed_server.conf")
    assert server["components"][3]["args"] == {"key_metric": "accuracy", "negate_key_metric": True}
    assert server["workflows"][0]["args"]["snapshot_every_n_rounds"] == 2


def test_a_config_that_lies_deeper_in_the_config_folder_is_found(tmp_path):
    made = app(tmp_path / "job" / "app")
    (made / "config" / "deep" / "er").mkdir(parents=True)
    (made / "config" / "config_fed_server.json").rename(made / "config" / "deep" / "er" / "config_fed_server.json")
    deploy(tmp_path / "job", app=["@ALL"])

    assert run(tmp_path / "job", "-n", 2, "-t", 2).code == 0


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
