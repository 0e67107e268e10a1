"""The shapes of NVFLARE's 28 job templates, in our own words: what each becomes, or what it says by name."""

import textwrap

import pytest

from fedsag_cli.errors import JobError
from fedsag_cli.interop import reading
from fedsag_cli.job import ConfigFile

COMMON, OPT = "nvflare.app_common", "nvflare.app_opt"


def part(path, name="x", **args):
    return {"id": name, "path": path, "args": args}


def executor(path, *tasks, **args):
    return {"tasks": list(tasks), "executor": {"path": path, "args": args}}


def script(*tasks, **args):
    path = f"{COMMON}.executors.client_api_executor.ClientAPIExecutor"
    return executor(path, *tasks, execution_mode="external_process", command="python3 custom/train.py", **args)


def launched(*tasks, **args):
    path = f"{OPT}.pt.client_api_launcher_executor.PTClientAPILauncherExecutor"
    return executor(path, *tasks, launcher_id="launcher", pipe_id="pipe", **args)


LAUNCHER = part(
    f"{COMMON}.launchers.subprocess_launcher.SubprocessLauncher", "launcher", script="python3 custom/train.py"
)
PIPE = part("nvflare.fuel.utils.pipe.file_pipe.FilePipe", "pipe", mode="PASSIVE")
GENERATOR = part(
    f"{COMMON}.shareablegenerators.full_model_shareable_generator.FullModelShareableGenerator", "shareable_generator"
)
SIMPLE = part(
    f"{COMMON}.ccwf.comps.simple_model_shareable_generator.SimpleModelShareableGenerator", "shareable_generator"
)
MEAN = part(
    f"{COMMON}.aggregators.intime_accumulate_model_aggregator.InTimeAccumulateWeightedAggregator",
    "aggregator",
    expected_data_kind="WEIGHTS",
)
TORCH = part(f"{OPT}.pt.file_model_persistor.PTFileModelPersistor", "persistor", model={"path": "net.Net"})
NUMPY = part(f"{COMMON}.np.np_model_persistor.NPModelPersistor", "persistor")
SELECTOR = part(f"{COMMON}.widgets.intime_model_selector.IntimeModelSelector", "model_selector", key_metric="accuracy")
LOCATOR = part(f"{OPT}.pt.file_model_locator.PTFileModelLocator", "model_locator", pt_persistor_id="persistor")
JSON = part(f"{COMMON}.widgets.validation_json_generator.ValidationJsonGenerator", "json_generator")
PRINTER = part(f"{COMMON}.ccwf.comps.cwe_result_printer.CWEResultPrinter", "result_printer")
BOARD = part(f"{OPT}.tracking.tb.tb_receiver.TBAnalyticsReceiver", "receiver", events=["fed.analytix_log_stats"])
MLFLOW = part(f"{OPT}.tracking.mlflow.mlflow_receiver.MLflowReceiver", "receiver", kw_args={}, artifact_location="a")
RELAY = part(f"{COMMON}.widgets.metric_relay.MetricRelay", "relay", pipe_id="pipe")
SAG = part(
    f"{COMMON}.workflows.scatter_and_gather.ScatterAndGather",
    "sag",
    min_clients=2,
    num_rounds=2,
    aggregator_id="aggregator",
    persistor_id="persistor",
    shareable_generator_id="shareable_generator",
)
EVALUATION = part(
    f"{COMMON}.workflows.cross_site_model_eval.CrossSiteModelEval",
    "cse",
    model_locator_id="model_locator",
    submit_model_timeout=600,
    cleanup_models=False,
)
AVERAGING = [TORCH, GENERATOR, MEAN, SELECTOR]
PARTS = ["PTFileModelPersistor", "FedAvg", "IntimeModelSelector"]
SWARM_HALF = executor(
    f"{COMMON}.ccwf.SwarmClientController",
    "swarm_*",
    learn_task_name="train",
    learn_task_timeout=600,
    persistor_id="persistor",
    aggregator_id="aggregator",
    shareable_generator_id="shareable_generator",
    min_responses_required=2,
    wait_time_after_min_resps_received=30,
)
EVALUATION_HALF = executor(
    f"{COMMON}.ccwf.CrossSiteEvalClientController", "cse_*", submit_model_task_name="submit_model",
    validation_task_name="validate", persistor_id="persistor", get_model_timeout=60,
)  # fmt: skip
SWARM = [
    part(f"{COMMON}.ccwf.SwarmServerController", "swarm_controller", num_rounds=3),
    part(f"{COMMON}.ccwf.CrossSiteEvalServerController", "cross_site_eval", eval_task_timeout=300),
]
CYCLIC_HALF = executor(
    f"{COMMON}.ccwf.CyclicClientController", "cyclic_*", learn_task_name="train", persistor_id="persistor",
    shareable_generator_id="shareable_generator",
)  # fmt: skip
RUNS_THERE = executor(
    f"{COMMON}.ccwf.client_controller_executor.ClientControllerExecutor", "wf_*",
    controller_id_list=["sag", "cse"], task_name_prefix="wf", persistor_id="persistor",
)  # fmt: skip
SETTINGS = part(
    f"{OPT}.sklearn.joblib_model_param_persistor.JoblibModelParamPersistor", "persistor", initial_params={"n": 2}
)
FEDOPT = part(
    f"{OPT}.pt.fedopt_ctl.FedOpt",
    "fedopt_ctl",
    num_clients=2,
    num_rounds=3,
    device="cpu",
    source_model={"path": "net.Net"},
    optimizer_args={"path": "torch.optim.SGD", "args": {"lr": 1.0, "momentum": 0.6}, "config_type": "dict"},
    persistor_id="persistor",
)
STATISTICS = part(
    f"{COMMON}.workflows.statistics_controller.StatisticsController",
    "stats",
    statistic_configs={"count": {}},
    writer_id="writer",
    enable_pre_run_task=False,
)
WRITER = part(f"{COMMON}.statistics.json_stats_file_persistor.JsonStatsFileWriter", "writer", output_path="s.json")
COUNTS = executor(
    f"{COMMON}.executors.statistics.statistics_executor.StatisticsExecutor", "fed_stats", generator_id="counts"
)
COUNTER = {"id": "counts", "path": "own.Counter", "args": {}}


def collected(assembler):
    collects = f"{COMMON}.aggregators.collect_and_assemble_aggregator.CollectAndAssembleAggregator"
    return [SETTINGS, GENERATOR, part(collects, "aggregator", assembler_id="own"), part(assembler, "own")]


XGB = f"{OPT}.xgboost"
TREES = [
    part(f"{XGB}.tree_based.model_persistor.XGBModelPersistor", "persistor", save_name="model.json"),
    part(f"{XGB}.tree_based.shareable_generator.XGBModelShareableGenerator", "shareable_generator"),
    part(f"{XGB}.tree_based.bagging_aggregator.XGBBaggingAggregator", "aggregator"),
]
HISTOGRAMS = [part(f"{XGB}.histogram_based_v2.fed_controller.XGBFedController", "xgb", num_rounds=3)]
HE = part(f"{OPT}.he.intime_accumulate_model_aggregator.HEInTimeAccumulateWeightedAggregator", "aggregator")
EXECUTOR = executor("own.Trains", "get_weights", "train", "submit_model", "validate", lr=0.1)
LEARNER = executor(
    f"{COMMON}.executors.model_learner_executor.ModelLearnerExecutor", "train", "submit_model", "validate",
    learner_id="learner",
)  # fmt: skip
OWN = part("own.Learner", "learner", lr=0.1)
NUMPY_CLIENT = [
    executor(f"{COMMON}.np.np_trainer.NPTrainer", "train", "submit_model"),
    executor(f"{COMMON}.np.np_validator.NPValidator", "validate"),
]
INITIAL = part(f"{COMMON}.workflows.initialize_global_weights.InitializeGlobalWeights", "pre", task_name="get_weights")
IN_PROCESS = executor(
    f"{COMMON}.executors.client_api_executor.ClientAPIExecutor",
    "train",
    execution_mode="in_process",
    task_script_path="train.py",
)
KERAS = script("train", params_exchange_format="keras_layer_weights")

# by template: workflows and components of the server, executors and components of a client; what they become
RUNS = {
    "cyclic_cc_pt": ([part(f"{COMMON}.ccwf.CyclicServerController", "c", num_rounds=3)], [],
                     [launched("train"), CYCLIC_HALF], [LAUNCHER, PIPE, TORCH, GENERATOR],
                     ["Cyclic"], ["PTFileModelPersistor"], [["train"]]),
    "cyclic_pt": ([part(f"{COMMON}.workflows.cyclic_ctl.CyclicController", "c", num_rounds=3, task_name="train",
                        persistor_id="persistor", shareable_generator_id="shareable_generator")],
                  [TORCH, GENERATOR], [launched("train")], [LAUNCHER, PIPE],
                  ["Cyclic"], ["PTFileModelPersistor"], [["train"]]),
    "fedopt_pt": ([FEDOPT], [TORCH], [IN_PROCESS], [],
                  ["ScatterAndGather"], ["PTFileModelPersistor", "FedAvg", "FedOpt"], [["train"]]),
    "sag_cross_np": ([SAG, EVALUATION], [NUMPY, GENERATOR, MEAN, part(f"{COMMON}.np.np_model_locator.NPModelLocator",
                      "model_locator"), part(f"{COMMON}.np.np_formatter.NPFormatter", "formatter"), JSON],
                     NUMPY_CLIENT, [], ["ScatterAndGather", "CrossSiteModelEval"], ["NPModelPersistor", "FedAvg"],
                     [["train", "submit_model", "validate"]]),
    "sag_cse_ccwf_pt": ([part(f"{COMMON}.ccwf.server_ctl.ServerSideController", "svr", task_name_prefix="wf")], [],
                        [launched("train", "validate", "submit_model"), RUNS_THERE],
                        [SAG, EVALUATION, LAUNCHER, PIPE, *AVERAGING, LOCATOR, JSON],
                        ["ScatterAndGather", "CrossSiteModelEval"], PARTS, [["train", "validate", "submit_model"]]),
    "sag_cse_pt": ([SAG, EVALUATION], [*AVERAGING, LOCATOR, JSON], [script("train", "validate", "submit_model")], [],
                   ["ScatterAndGather", "CrossSiteModelEval"], PARTS, [["train", "validate", "submit_model"]]),
    "sag_gnn": ([SAG], AVERAGING, [script("train")], [], ["ScatterAndGather"], PARTS, [["train"]]),
    "sag_nemo": ([SAG], AVERAGING, [launched("train")], [LAUNCHER, PIPE], ["ScatterAndGather"], PARTS, [["train"]]),
    "sag_np": ([SAG], [NUMPY, GENERATOR, MEAN], [script("train")], [],
               ["ScatterAndGather"], ["NPModelPersistor", "FedAvg"], [["train"]]),
    "sag_np_metrics": ([SAG], [NUMPY, GENERATOR, MEAN, BOARD], [launched("train")], [LAUNCHER, PIPE, RELAY],
                       ["ScatterAndGather"], ["NPModelPersistor", "FedAvg", "TBAnalyticsReceiver"], [["train"]]),
    "sag_pt": ([SAG], [*AVERAGING, BOARD], [script("train")], [],
               ["ScatterAndGather"], [*PARTS, "TBAnalyticsReceiver"], [["train"]]),
    "sag_pt_deploy_map": ([SAG], AVERAGING, [script("train")], [], ["ScatterAndGather"], PARTS, [["train"]]),
    "sag_pt_executor": ([INITIAL, SAG, EVALUATION], [*AVERAGING, LOCATOR, JSON], [EXECUTOR], [],
                        ["InitializeGlobalWeights", "ScatterAndGather", "CrossSiteModelEval"], PARTS,
                        [["get_weights", "train", "submit_model", "validate"]]),
    "sag_pt_in_proc": ([SAG], AVERAGING, [IN_PROCESS], [], ["ScatterAndGather"], PARTS, [["train"]]),
    "sag_pt_mlflow": ([SAG], [*AVERAGING, MLFLOW], [script("train")], [],
                      ["ScatterAndGather"], [*PARTS, "MLflowReceiver"], [["train"]]),
    "sklearn_kmeans": ([SAG], collected("kmeans_assembler.KMeansAssembler"), [script("train")], [],
                       ["ScatterAndGather"], ["ModelParamPersistor", "KMeansAggregator"], [["train"]]),
    "sklearn_linear": ([SAG], [SETTINGS, GENERATOR, MEAN], [script("train")], [],
                       ["ScatterAndGather"], ["ModelParamPersistor", "FedAvg"], [["train"]]),
    "sklearn_svm": ([SAG], collected("svm_assembler.SVMAssembler"), [script("train")], [],
                    ["ScatterAndGather"], ["ModelParamPersistor", "SVMAggregator"], [["train"]]),
    "stats_df": ([STATISTICS], [WRITER], [COUNTS], [COUNTER],
                 ["StatisticsController"], ["JsonStatsFileWriter"], [["fed_stats"]]),
    "stats_image": ([STATISTICS], [WRITER], [COUNTS], [COUNTER],
                    ["StatisticsController"], ["JsonStatsFileWriter"], [["fed_stats"]]),
    "swarm_cse_pt": (SWARM, [JSON], [launched("train", "validate", "submit_model"), SWARM_HALF, EVALUATION_HALF],
                     [LAUNCHER, PIPE, TORCH, SIMPLE, MEAN, SELECTOR, PRINTER],
                     ["Swarm", "CrossSiteModelEval"], PARTS, [["train", "validate", "submit_model"]]),
    "swarm_cse_pt_model_learner": (SWARM, [part("own.Splits", "splits"), JSON], [LEARNER, SWARM_HALF, EVALUATION_HALF],
                                   [OWN, TORCH, SIMPLE, MEAN, SELECTOR, PRINTER],
                                   ["Swarm", "CrossSiteModelEval"], ["own.Splits", *PARTS],
                                   [["train", "submit_model", "validate"]]),
    "xgboost_tree": ([{**SAG, "args": {**SAG["args"], "allow_empty_global_weights": True}}], TREES,
                     [script("train")], [],
                     ["ScatterAndGather"], ["XGBModelPersistor", "XGBBaggingAggregator"], [["train"]]),
}  # fmt: skip
REFUSED = {
    "psi_csv": ([part(f"{COMMON}.psi.dh_psi.dh_psi_controller.DhPSIController")], [], [],
                r"workflow \S+\.DhPSIController is"),
    "sag_pt_he": ([SAG], [TORCH, GENERATOR, HE], [], r"component \S+\.HEInTimeAccumulateWeightedAggregator is"),
    "sag_tf": ([SAG], [part(f"{OPT}.tf.model_persistor.TFModelPersistor", "persistor"), GENERATOR, MEAN], [KERAS],
               r"component \S+\.TFModelPersistor is"),
    "vertical_xgb": (HISTOGRAMS, [BOARD], [], r"workflow \S+\.XGBFedController is"),
    "xgboost": (HISTOGRAMS, [], [], r"workflow \S+\.XGBFedController is"),
}  # fmt: skip


@pytest.fixture
def translated(tmp_path):
    """Both sides of a job, whose own classes are in a folder."""
    source = """
        from nvflare.apis.executor import Executor
        from nvflare.apis.fl_component import FLComponent
        from nvflare.app_common.abstract.model_learner import ModelLearner

        class Trains(Executor): ...
        class Learner(ModelLearner): ...
        class Splits(FLComponent): ...
    """
    (tmp_path / "own.py").write_text(textwrap.dedent(source))

    def sides(workflows, components, executors, parts):
        values = {"workflows": workflows, "components": components}
        server = ConfigFile(stem="config_fed_server", name="server", values=values, search=[tmp_path])
        values = {"executors": executors, "components": parts}
        client = ConfigFile(stem="config_fed_client", name="client", values=values, search=[tmp_path])
        return reading.translate(server, [client]).values, reading.translate(client, []).values

    return sides


def test_all_28_are_here():
    assert (len(RUNS), len(REFUSED)) == (23, 5)


@pytest.mark.parametrize("name", RUNS)
def test_a_template_becomes_workflows_components_and_executors_of_ours(name, translated):
    *given, workflows, components, tasks = RUNS[name]

    server, client = translated(*given)

    assert [flow["path"] for flow in server["workflows"]] == workflows
    assert [each["path"] for each in server["components"]] == components
    assert [entry["tasks"] for entry in client["executors"]] == tasks
    assert {entry["executor"]["path"] for entry in client["executors"]} == {"ClientAPIExecutor"}
    assert client["components"] == []


@pytest.mark.parametrize("name", REFUSED)
def test_a_template_that_cannot_run_says_what_is_missing(name, translated):
    workflows, components, executors, says = REFUSED[name]

    with pytest.raises(JobError, match=says):
        translated(workflows, components, executors, [])


@pytest.mark.parametrize(("name", "number"), [("sag_cross_np", 1), ("sag_cse_pt", 1), ("sag_cse_ccwf_pt", 1)])
def test_an_evaluation_that_finds_models_by_a_locator_has_the_persistor_of_these_models(name, number, translated):
    server, _ = translated(*RUNS[name][:4])

    assert server["workflows"][number]["args"] == {"persistor_id": "persistor", "submit_model_timeout": 600}


def test_fedopts_optimizer_is_a_component_of_its_own(translated):
    server, _ = translated(*RUNS["fedopt_pt"][:4])

    (flow,), optimizer = server["workflows"], server["components"][-1]
    assert flow["args"]["updater_id"] == optimizer["id"] == "updater"
    assert optimizer["args"] == {"optimizer_args": FEDOPT["args"]["optimizer_args"]}


def test_swarm_learning_has_the_clients_arguments(translated):
    server, _ = translated(*RUNS["swarm_cse_pt"][:4])

    swarm, cse = server["workflows"]
    assert swarm["args"] == {
        "num_rounds": 3,
        "train_task_name": "train",
        "train_timeout": 600,
        "min_responses_required": 2,
        "wait_time_after_min_received": 30,
        "aggregator_id": "aggregator",
        "persistor_id": "persistor",
        "model_selector_id": "model_selector",
    }
    assert (cse["args"]["validation_timeout"], cse["args"]["persistor_id"]) == (300, "persistor")
