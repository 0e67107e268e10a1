"""Jobs of NVFLARE with other models and with statistics: their configs in our words, scripts as their users write."""

import json

import numpy as np
import pytest
from nvflare_scripts import SCRIPTS
from runs import app, deploy, fedsag, run

pytestmark = pytest.mark.slow

PERSISTOR = "nvflare.app_opt.sklearn.joblib_model_param_persistor.JoblibModelParamPersistor"
COLLECTS = "nvflare.app_common.aggregators.collect_and_assemble_aggregator.CollectAndAssembleAggregator"
SAG = {
    "id": "scatter_and_gather",
    "path": "nvflare.app_common.workflows.scatter_and_gather.ScatterAndGather",
    "args": {
        "min_clients": 3,
        "num_rounds": 3,
        "aggregator_id": "aggregator",
        "persistor_id": "persistor",
        "shareable_generator_id": "shareable_generator",
    },
}
GENERATOR = {
    "id": "shareable_generator",
    "path": "nvflare.app_common.shareablegenerators.full_model_shareable_generator.FullModelShareableGenerator",
}
RAW = {"execution_mode": "external_process", "params_exchange_format": "raw", "params_transfer_type": "FULL"}


def job(folder, script, *components, workflow=SAG, client=None):
    server = {"workflows": [workflow], "components": list(components)}
    app(folder / "app", SCRIPTS[script], script_name=script, executor=RAW, server=server)
    if client:
        (folder / "app" / "config" / "config_fed_client.json").write_text(json.dumps(client))
    return deploy(folder, app=["@ALL"])


def params_of(outcome):
    return np.load(outcome.workspace / "server" / "simulate_job" / "app_server" / "model_param.npz")


def settings(**initial_params):
    return {"id": "persistor", "path": PERSISTOR, "args": {"initial_params": initial_params}}


def test_a_linear_model_begins_with_the_settings_as_params(tmp_path):
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    average = "nvflare.app_common.aggregators.intime_accumulate_model_aggregator.InTimeAccumulateWeightedAggregator"
    begin = settings(n_classes=2, learning_rate="constant", eta0=0.01, loss="log_loss", penalty="l2")
    made = job(tmp_path / "job", "sgd_fl.py", begin, GENERATOR, {"id": "aggregator", "path": average})

    outcome = run(made, "-n", 2, "-t", 2)

    assert outcome.code == 0, outcome
    assert outcome.metrics("accuracy")[0]["site-1"] == 0.5  # zeros: one class for all
    assert outcome.metrics("accuracy")[-1]["site-1"] > 0.7
    assert {name: value.shape for name, value in params_of(outcome).items()} == {"coef": (1, 2), "intercept": (1,)}


@pytest.mark.parametrize(
    "path", ["nvflare.app_opt.sklearn.kmeans_assembler.KMeansAssembler", "kmeans_assembler.KMeansAssembler"]
)
def test_an_assembler_of_centres_is_the_aggregator(tmp_path, path):
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    assembler = {"id": "kmeans_assembler", "path": path, "args": {}}
    aggregator = {"id": "aggregator", "path": COLLECTS, "args": {"assembler_id": "kmeans_assembler"}}
    made = job(tmp_path / "job", "kmeans_fl.py", settings(n_clusters=2), GENERATOR, aggregator, assembler)

    outcome = run(made, "-n", 2, "-t", 2)

    assert outcome.code == 0, outcome
    assert sorted(params_of(outcome)["center"][:, 0].round()) == [0.0, 3.0]


def test_an_assembler_of_support_vectors_is_the_aggregator(tmp_path):
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    assembler = {"id": "svm_assembler", "path": "svm_assembler.SVMAssembler", "args": {"kernel": "rbf"}}
    aggregator = {"id": "aggregator", "path": COLLECTS, "args": {"assembler_id": "svm_assembler"}}
    made = job(tmp_path / "job", "svm_fl.py", settings(kernel="rbf"), GENERATOR, aggregator, assembler)

    outcome = run(made, "-n", 2, "-t", 2)

    assert outcome.code == 0, outcome
    assert outcome.metrics("accuracy")[-1]["site-1"] > 0.9
    assert "svm_assembler.SVMAssembler is fedsag's SVMAggregator" in outcome.out


def test_trees_of_all_sites_are_one_model(tmp_path):
    xgb = pytest.importorskip("xgboost", reason="XGBoost is not installed")
    trees = "nvflare.app_opt.xgboost.tree_based."
    made = job(
        tmp_path / "job",
        "xgboost_fl.py",
        {"id": "persistor", "path": f"{trees}model_persistor.XGBModelPersistor", "args": {"save_name": "model.json"}},
        {"id": "shareable_generator", "path": f"{trees}shareable_generator.XGBModelShareableGenerator"},
        {"id": "aggregator", "path": f"{trees}bagging_aggregator.XGBBaggingAggregator"},
        workflow={**SAG, "args": {**SAG["args"], "allow_empty_global_weights": True}},
    )

    outcome = run(made, "-n", 2, "-t", 2)

    assert outcome.code == 0, outcome
    file = outcome.workspace / "server" / "simulate_job" / "app_server" / "model.json"
    assert xgb.Booster(model_file=file).num_boosted_rounds() == 2 * 3
    assert outcome.metrics("accuracy")[-1]["site-1"] > 0.9


CYCLIC = {
    "id": "cyclic",
    "path": "nvflare.app_common.workflows.cyclic_ctl.CyclicController",
    "args": {"num_rounds": 3, "persistor_id": "persistor", "shareable_generator_id": "shareable_generator"},
}


@pytest.mark.parametrize("mode", ["bagging", "cyclic"])
def test_an_executor_of_trees_runs_with_the_users_loader(tmp_path, mode):
    xgb = pytest.importorskip("xgboost", reason="XGBoost is not installed")
    trees = "nvflare.app_opt.xgboost.tree_based."
    bagging = {**SAG, "args": {**SAG["args"], "allow_empty_global_weights": True}}
    settings = {"training_mode": mode, "num_client_bagging": 2, "lr_scale": 1, "nthread": 1, "max_depth": 2}
    client = {
        "executors": [
            {
                "tasks": ["train"],
                "executor": {
                    "path": f"{trees}executor.FedXGBTreeExecutor",
                    "args": {"data_loader_id": "dataloader", **settings},
                },
            }
        ],
        "components": [{"id": "dataloader", "path": "loader.Loader", "args": {"rows": 60}}],
    }
    made = job(
        tmp_path / "job",
        "loader.py",
        {"id": "persistor", "path": f"{trees}model_persistor.XGBModelPersistor"},
        {"id": "shareable_generator", "path": f"{trees}shareable_generator.XGBModelShareableGenerator"},
        {"id": "aggregator", "path": f"{trees}bagging_aggregator.XGBBaggingAggregator"},
        workflow=bagging if mode == "bagging" else CYCLIC,
        client=client,
    )

    outcome = run(made, "-n", 2, "-t", 2)

    assert outcome.code == 0, f"{outcome}\n{outcome.log('site-1')}"
    file = outcome.workspace / "server" / "simulate_job" / "app_server" / "xgboost_model.json"
    assert xgb.Booster(model_file=file).num_boosted_rounds() == 2 * 3
    assert outcome.report["rounds"][-1]["metrics"]["auc"] > 0.9
    saved = json.loads(file.read_text())["learner"]["gradient_booster"]["model"]["trees"]
    assert {number for tree in saved for number in tree["sum_hessian"]} == {1.0}
    assert "left out" not in outcome.out


def statistics(folder, script, generator, cleanser_ids, **settings):
    common = "nvflare.app_common."
    flow = {
        "id": "fed_stats_controller",
        "path": f"{common}workflows.statistics_controller.StatisticsController",
        "args": {"statistic_configs": settings, "writer_id": "stats_writer", "enable_pre_run_task": False},
    }
    writer = {
        "id": "stats_writer",
        "path": f"{common}statistics.json_stats_file_persistor.JsonStatsFileWriter",
        "args": {"output_path": "statistics/stats.json"},
    }
    client = {
        "executors": [
            {
                "tasks": ["fed_stats"],
                "executor": {
                    "id": "Executor",
                    "path": f"{common}executors.statistics.statistics_executor.StatisticsExecutor",
                    "args": {"generator_id": "generator"},
                },
            }
        ],
        "task_result_filters": [
            {
                "tasks": ["fed_stats"],
                "filters": [
                    {
                        "path": f"{common}filters.statistics_privacy_filter.StatisticsPrivacyFilter",
                        "args": {"result_cleanser_ids": cleanser_ids},
                    }
                ],
            }
        ],
        "components": [
            {"id": "generator", **generator},
            {
                "id": "min_count_cleanser",
                "path": f"{common}statistics.min_count_cleanser.MinCountCleanser",
                "args": {"min_count": 10},
            },
        ],
    }
    return job(folder, script, writer, workflow=flow, client=client)


def test_statistics_of_tables_run_with_the_users_class(tmp_path):
    """Site 1 has 1 to 200, site 2 has 2 to 201: together the mean is 101."""
    pytest.importorskip("pandas", reason="pandas is not installed")
    generator = {"path": "df_statistics.DFStatistics", "args": {"data_path": "data.csv"}}
    made = statistics(
        tmp_path / "job", "df_statistics.py", generator, ["min_count_cleanser", "not_there"], count={}, mean={}
    )

    outcome = run(made, "-n", 2, "-t", 2)

    assert outcome.code == 0, outcome
    assert "data.csv of site 1" in outcome.log("site-1")
    assert "there is no component 'not_there'" in outcome.out
    assert "left out" not in outcome.out
    found = json.loads((outcome.workspace / "server" / "simulate_job" / "statistics" / "stats.json").read_text())
    assert found["Age"]["mean"] == {"site-1": {"train": 100.5}, "site-2": {"train": 101.5}, "Global": {"train": 101.0}}


def test_statistics_of_images_run_with_the_users_class(tmp_path):
    generator = {"path": "image_statistics.ImageStatistics", "args": {"data_root": "/data"}}
    bins = {"*": {"bins": 2, "range": [0, 256]}}
    made = statistics(
        tmp_path / "job", "image_statistics.py", generator, ["min_count_cleanser"], count={}, histogram=bins
    )

    outcome = run(made, "-n", 2, "-t", 2)

    assert outcome.code == 0, outcome
    found = json.loads((outcome.workspace / "server" / "simulate_job" / "statistics" / "stats.json").read_text())
    assert found["intensity"]["histogram"]["Global"]["train"] == [[0.0, 128.0, 256], [128.0, 256.0, 144]]


def test_a_generator_that_is_not_there_is_named(tmp_path):
    made = statistics(tmp_path / "job", "image_statistics.py", {"path": "a.B", "disabled": True}, [], count={})
    config = made / "app" / "config" / "config_fed_client.json"
    config.write_text(config.read_text().replace('"id": "generator"', '"id": "other"'))

    outcome = run(made, "-n", 2)

    assert outcome.code == 3, outcome
    assert "generator_id is 'generator': there is no component with that id" in outcome.err


@pytest.mark.parametrize(
    ("template", "assembler"), [("sklearn_kmeans", "KMeansAssembler"), ("sklearn_svm", "SVMAssembler")]
)
def test_an_exported_job_collects_for_an_assembler(tmp_path, template, assembler):
    fedsag("job", "create", "-w", template, "-j", "mine", cwd=tmp_path)

    exported = fedsag("job", "export", "mine", "theirs", "--to", "nvflare", cwd=tmp_path)

    assert exported.code == 0, exported
    server = json.loads((tmp_path / "theirs" / "app" / "config" / "config_fed_server.json").read_text())
    parts = {part["id"]: part for part in server["components"]}
    assert (parts["aggregator"]["path"], parts["aggregator"]["args"]) == (
        COLLECTS,
        {"assembler_id": "aggregator_assembler"},
    )
    assert parts["aggregator_assembler"]["path"].endswith(f".{assembler}")
    assert parts["persistor"]["path"] == PERSISTOR


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("xgboost_tree", "XGBBaggingAggregator cannot be exported: NVFLARE sends clients a list"),
        ("stats_df", "StatisticsController cannot be exported: in NVFLARE an executor answers it"),
    ],
)
def test_what_nvflare_does_in_another_way_is_not_exported(tmp_path, template, says):
    fedsag("job", "create", "-w", template, "-j", "mine", cwd=tmp_path)

    exported = fedsag("job", "export", "mine", "theirs", "--to", "nvflare", cwd=tmp_path)

    assert exported.code == 3, exported
    assert says in exported.err
