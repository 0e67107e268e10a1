"""Recipes for scikit-learn and for statistics, workflows that NVFLARE's clients run, and older names of arguments."""

from pathlib import Path
from types import ModuleType

import pytest

from fedsag_cli.errors import UsageError
from fedsag_cli.interop import reading
from fedsag_cli.job import Job
from fedsag_cli.recipe import ours
from fedsag_cli.recipe.client_controlled import (
    CCWFJob,
    CrossSiteEvalConfig,
    CyclicClientConfig,
    CyclicServerConfig,
    SwarmClientConfig,
    SwarmServerConfig,
)
from fedsag_cli.recipe.fed_job import FedJob, ScriptRunner
from fedsag_cli.recipe.ours import find_spec
from fedsag_cli.recipe.parts import made
from fedsag_cli.recipe.recipes import (
    CyclicRecipe,
    FedAvgRecipe,
    FedOptRecipe,
    ScaffoldRecipe,
    SimpleSwarmLearningRecipe,
)
from fedsag_cli.recipe.settings import FrameworkType
from fedsag_cli.recipe.statistics import FedStatsRecipe
from fedsag_cli.recipe.tables import KMeansFedAvgRecipe, SklearnFedAvgRecipe, SVMFedAvgRecipe
from fedsag_cli.recipe.trees import XGBBaggingRecipe

NET = {"path": "net.Net", "args": {}}


@pytest.fixture(autouse=True)
def scripts(tmp_path, monkeypatch):
    (tmp_path / "client.py").write_text("import net\n")
    (tmp_path / "net.py").write_text("class Net:\n    pass\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))


def read(job):
    job.export_job("jobs")
    return Job.load(Path("jobs") / job.name, reading.translate)


def exported(recipe):
    recipe.export("jobs")
    return Job.load(Path("jobs") / recipe.name, reading.translate)


def server(job):
    return job.app_for("server").server({"JOB_ID": "j"})


def client(job, site="site-1"):
    return job.app_for(site).client({"SITE_NAME": site, "WORKSPACE": "w", "JOB_ID": "j", "JOB_CUSTOM_DIR": "c"})


def parts(config):
    return {each.path: each.args for each in (*config.workflows, *config.components)}


@pytest.mark.parametrize(
    ("module", "name", "ours"),
    [
        ("nvflare.app_opt.sklearn", "SklearnFedAvgRecipe", SklearnFedAvgRecipe),
        ("nvflare.app_opt.sklearn.recipes.kmeans", "KMeansFedAvgRecipe", KMeansFedAvgRecipe),
        ("nvflare.recipe.fedstats", "FedStatsRecipe", FedStatsRecipe),
        ("nvflare.app_common.ccwf.ccwf_job", "SwarmServerConfig", SwarmServerConfig),
        ("nvflare.app_opt.pt.recipes.swarm", "SimpleSwarmLearningRecipe", SimpleSwarmLearningRecipe),
    ],
)
def test_a_job_script_imports_them_where_nvflare_has_them(module, name, ours):
    made = ModuleType(module)
    find_spec(module).loader.exec_module(made)

    assert vars(made)[name] is ours


def test_the_executor_of_a_learner_is_a_part_and_the_event_of_logged_values_has_a_name():
    made = [ModuleType(f"nvflare.{name}") for name in ("app_common.executors.model_learner_executor", "apis.analytix")]
    for each in made:
        ours._Loader().exec_module(each)

    assert "ModelLearnerExecutor" not in vars(made[0])
    assert vars(made[1])["ANALYTIC_EVENT_TYPE"] == "analytix_log_stats"


@pytest.mark.parametrize("recipe", [FedAvgRecipe, FedOptRecipe, ScaffoldRecipe, CyclicRecipe])
def test_a_model_may_have_the_name_that_it_had_in_nvflare_2_7_0(recipe):
    config = server(exported(recipe(min_clients=2, initial_model=NET, train_script="client.py")))

    models = [args.get("model") for args in parts(config).values()]
    assert {"path": "net.Net", "args": {}} in models


def test_two_models_are_an_error():
    with pytest.raises(UsageError, match="argument 'initial_model' of FedAvgRecipe"):
        FedAvgRecipe(min_clients=2, model=NET, initial_model=NET, train_script="client.py")


def test_swarm_learning_has_its_earlier_name_which_needs_no_min_clients():
    recipe = SimpleSwarmLearningRecipe(name="swarm", model=NET, num_rounds=2, train_script="client.py")

    assert parts(server(exported(recipe)))["Swarm"]["num_rounds"] == 2


def test_scripts_of_scikit_learn_get_the_params_of_the_model_as_plain_values():
    recipe = SklearnFedAvgRecipe(
        min_clients=2,
        model_params={"loss": "log_loss"},
        train_script="client.py",
        per_site_config={"a": {"train_args": "--start 1"}, "b": {"train_args": "--start 2"}},
    )

    job = exported(recipe)
    assert parts(server(job))["ModelParamPersistor"]["initial_params"] == {"loss": "log_loss"}
    assert list(client(job, "b").executors[0].command)[-2:] == ["--start", "2"]


@pytest.mark.parametrize(
    ("recipe", "aggregator", "first"),
    [
        (KMeansFedAvgRecipe, "KMeansAggregator", {"n_clusters": 3}),
        (SVMFedAvgRecipe, "SVMAggregator", {"kernel": "rbf"}),
    ],
)
def test_the_assembler_of_k_means_and_of_svm_is_the_aggregator(recipe, aggregator, first):
    config = server(exported(recipe(min_clients=2, train_script="client.py")))

    (flow,) = config.workflows
    named = next(each for each in config.components if each.id == flow.args["aggregator_id"])
    assert named.path == aggregator
    assert parts(config)["ModelParamPersistor"]["initial_params"] == first


def test_each_site_computes_statistics_behind_filters_of_its_own(tmp_path):
    (tmp_path / "own.py").write_text("class Own:\n    def __init__(self, file):\n        self.file = file\n")
    import own

    recipe = FedStatsRecipe("stats", "out/stats.json", ["a", "b"], {"count": {}, "mean": {}}, own.Own("data.csv"))

    job = exported(recipe)
    config = server(job)
    assert config.workflows[0].path == "StatisticsController"
    assert config.workflows[0].args["statistic_configs"] == {"count": {}, "mean": {}}
    assert parts(config)["JsonStatsFileWriter"] == {"output_path": "out/stats.json"}
    for site in ("a", "b"):
        of_site = client(job, site)
        assert "own.Own" in " ".join(of_site.executors[0].command)
        (chain,) = of_site.executors[0].config.task_result_filters
        assert chain.path == "StatisticsPrivacyFilter"


@pytest.mark.parametrize(("mode", "workflow"), [("bagging", "ScatterAndGather"), ("cyclic", "Cyclic")])
def test_each_site_grows_trees_of_xgboost_on_data_of_its_own(tmp_path, mode, workflow):
    (tmp_path / "loads.py").write_text("class Loads:\n    def __init__(self, file):\n        self.file = file\n")
    import loads

    sites = {name: {"data_loader": loads.Loads(f"{name}.csv"), "lr_scale": 0.5} for name in ("a", "b")}
    recipe = XGBBaggingRecipe("trees", 2, mode, 3, max_depth=4, per_site_config=sites)

    job = exported(recipe)
    assert server(job).workflows[0].path == workflow
    assert server(job).workflows[0].args["num_rounds"] == 3
    words = " ".join(client(job, "b").executors[0].command)
    assert "b.csv" in words
    assert "a.csv" not in words


def test_the_data_of_each_site_can_be_given_after_the_recipe(tmp_path):
    (tmp_path / "gives.py").write_text("class Gives:\n    pass\n")
    import gives

    recipe = XGBBaggingRecipe("trees", 2)
    recipe.set_per_site_config({name: {"data_loader": gives.Gives()} for name in ("a", "b")})

    assert "gives.Gives" in " ".join(client(exported(recipe), "b").executors[0].command)


def test_trees_without_data_are_an_error(tmp_path):
    with pytest.raises(UsageError, match="no site has data"):
        XGBBaggingRecipe("trees", 2).export("jobs")


def test_a_site_without_data_for_its_trees_is_an_error():
    with pytest.raises(UsageError, match="site a has no data_loader"):
        XGBBaggingRecipe("trees", 1, per_site_config={"a": {}})


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"max_dept": 4}, "fedsag has no argument 'max_dept' of XGBBaggingRecipe"),
        ({"max_depth": "4"}, "XGBBaggingRecipe: max_depth must be a whole number, not '4'"),
        ({"lr_mode": "scale"}, "lr_mode must be 'uniform' or 'scaled'"),
    ],
)
def test_a_wrong_setting_of_trees_is_an_error_that_names_it(wrong, said):
    with pytest.raises(UsageError, match=said):
        XGBBaggingRecipe("trees", 1, per_site_config={"a": {"data_loader": object()}}, **wrong)


def swarm(**server_args):
    job = CCWFJob(name="swarm")
    averages = "nvflare.app_common.aggregators.intime_accumulate_model_aggregator.InTimeAccumulateWeightedAggregator"
    ccwf = "nvflare.app_common.ccwf.comps"
    clients = SwarmClientConfig(
        executor=ScriptRunner("client.py", framework=FrameworkType.NUMPY),
        aggregator=made(averages, expected_data_kind="WEIGHTS"),
        persistor=made(f"{ccwf}.np_file_model_persistor.NPFileModelPersistor"),
        shareable_generator=made(f"{ccwf}.simple_model_shareable_generator.SimpleModelShareableGenerator"),
    )
    job.add_swarm(SwarmServerConfig(**server_args), clients, CrossSiteEvalConfig(eval_task_timeout=300))
    return job


def test_swarm_learning_of_parts_is_run_by_the_server_and_evaluated():
    job = read(swarm(num_rounds=3))

    assert [each.path for each in server(job).workflows] == ["Swarm", "CrossSiteModelEval"]
    found = parts(server(job))
    assert found["Swarm"]["num_rounds"] == 3
    assert found["NPModelPersistor"] == {"model_name": "last_global_model.npy"}
    assert len(client(job).executors) == 1


def test_cyclic_weight_transfer_of_parts_is_run_by_the_server():
    job = CCWFJob(name="cyclic")
    ccwf = "nvflare.app_common.ccwf.comps"
    clients = CyclicClientConfig(
        ScriptRunner("client.py", framework=FrameworkType.NUMPY),
        made(f"{ccwf}.np_file_model_persistor.NPFileModelPersistor"),
        made(f"{ccwf}.simple_model_shareable_generator.SimpleModelShareableGenerator"),
    )
    job.add_cyclic(CyclicServerConfig(num_rounds=4), clients)

    assert parts(server(read(job)))["Cyclic"]["num_rounds"] == 4


def test_a_config_without_what_it_needs_is_an_error():
    with pytest.raises(UsageError, match="SwarmServerConfig: num_rounds is missing"):
        swarm()


def test_words_of_a_script_that_differ_by_site_are_an_error_that_names_per_site_config():
    with pytest.raises(UsageError) as error:
        FedJob(name="words").to_clients(ScriptRunner("client.py", {"a": "--lr 1"}))

    assert "per_site_config" in (error.value.hint or "")
