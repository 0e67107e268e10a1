"""Executors and learners that users have written for NVFLARE run as they are, whether or not it is installed."""

import json
import textwrap

import numpy as np
import pytest
from runs import deploy, run

pytestmark = pytest.mark.slow

EXECUTOR = """
    from nvflare.apis.dxo import DXO, DataKind, MetaKey, from_shareable
    from nvflare.apis.event_type import EventType
    from nvflare.apis.executor import Executor
    from nvflare.apis.fl_constant import ReservedKey, ReturnCode
    from nvflare.apis.fl_context import FLContext
    from nvflare.apis.shareable import Shareable, make_reply
    from nvflare.apis.signal import Signal
    from nvflare.app_common.app_constant import AppConstants


    class Helper:
        def __init__(self, by: float = 1.0):
            self.by = by


    class Adds(Executor):
        def __init__(self, helper_id: str, fails_in: int = -1):
            super().__init__()
            self.helper_id, self.fails_in = helper_id, fails_in
            self.helper = None

        def handle_event(self, event_type: str, fl_ctx: FLContext):
            if event_type == EventType.START_RUN:
                self.helper = fl_ctx.get_engine().get_component(self.helper_id)

        def execute(self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> Shareable:
            dxo = from_shareable(shareable)
            round_num = shareable.get_header(AppConstants.CURRENT_ROUND)
            self.log_info(fl_ctx, f"{fl_ctx.get_identity_name()}: {task_name} {round_num} {abort_signal.triggered}")
            if round_num == self.fails_in:
                return make_reply(ReturnCode.BAD_TASK_DATA)
            if task_name == AppConstants.TASK_VALIDATION:
                mean = float(dxo.data["numpy_key"].mean())
                return DXO(data_kind=DataKind.METRICS, data={"mean": mean}).to_shareable()
            changes = {name: 0 * value + self.helper.by for name, value in dxo.data.items()}
            meta = {MetaKey.NUM_STEPS_CURRENT_ROUND: 2, MetaKey.INITIAL_METRICS: {"mean": 1.0}}
            return DXO(data_kind=DataKind.WEIGHT_DIFF, data=changes, meta=meta).to_shareable()
"""
LEARNERS = """
    import os

    from nvflare.apis.dxo import DXO, DataKind, from_shareable
    from nvflare.apis.shareable import Shareable
    from nvflare.app_common.abstract.fl_model import FLModel, ParamsType
    from nvflare.app_common.abstract.learner_spec import Learner
    from nvflare.app_common.abstract.model_learner import ModelLearner


    class Adds(ModelLearner):
        def __init__(self, by: float):
            super().__init__()
            self.by = by

        def initialize(self):
            self.info(f"{self.site_name} begins in {os.path.basename(os.getcwd())}")

        def validate(self, model: FLModel) -> FLModel:
            return FLModel(metrics={"mean": float(model.params["numpy_key"].mean())})

        def train(self, model: FLModel) -> FLModel:
            assert (self.current_round, self.total_rounds) == (model.current_round, 2)
            params = {name: value + self.by for name, value in model.params.items()}
            return FLModel(params_type=ParamsType.FULL, params=params)

        def finalize(self):
            self.info("ends")


    class AddsOld(Learner):
        def initialize(self, parts, fl_ctx):
            self.by = parts["by"].by

        def validate(self, data, fl_ctx, abort_signal) -> Shareable:
            mean = float(from_shareable(data).data["numpy_key"].mean())
            return DXO(DataKind.METRICS, {"initial_metrics": mean}).to_shareable()

        def train(self, data, fl_ctx, abort_signal) -> Shareable:
            dxo = from_shareable(data)
            return DXO(DataKind.WEIGHTS, {k: v + self.by for k, v in dxo.data.items()}).to_shareable()


    class By:
        def __init__(self, by: float):
            self.by = by
"""
SERVER = {
    "workflows": [
        {
            "id": "sag",
            "path": "nvflare.app_common.workflows.scatter_and_gather.ScatterAndGather",
            "args": {"min_clients": 2, "num_rounds": 2, "persistor_id": "p", "wait_time_after_min_received": 0},
        }
    ],
    "components": [
        {"id": "p", "name": "NPModelPersistor"},
        {"id": "aggregator", "name": "InTimeAccumulateWeightedAggregator"},
        {"id": "s", "name": "IntimeModelSelector", "args": {"key_metric": "mean"}},
    ],
}


def a_job(folder, text, executor, components=(), tasks=("train", "validate")):
    app = folder / "app"
    (app / "config").mkdir(parents=True)
    (app / "custom").mkdir()
    client = {"executors": [{"tasks": list(tasks), "executor": executor}], "components": list(components)}
    (app / "config" / "config_fed_client.json").write_text(json.dumps(client))
    (app / "config" / "config_fed_server.json").write_text(json.dumps(SERVER))
    (app / "custom" / "mine.py").write_text(textwrap.dedent(text))
    return deploy(folder, app=["@ALL"])


def means(ran):
    """Of each round: what the sites measured, from the least."""
    return [sorted(round_of.values()) for round_of in ran.metrics("mean")]


def final(tmp_path):
    return np.load(tmp_path / "ws" / "server" / "simulate_job" / "models" / "server.npy")


def test_a_class_derived_from_their_executor_does_its_tasks_and_finds_its_components(tmp_path):
    helper = {"id": "h", "path": "mine.Helper", "args": {"by": 3.0}}

    ran = run(a_job(tmp_path / "job", EXECUTOR, {"path": "mine.Adds", "args": {"helper_id": "h"}}, [helper]), "-n", 2)

    assert ran.code == 0, ran
    assert final(tmp_path).tolist() == (np.arange(1.0, 10.0).reshape(3, 3) + 6).tolist()
    assert means(ran) == [[1.0, 1.0], [1.0, 1.0]]
    assert ran.report["final_metrics_by_site"] == {"site-1": {"mean": 11.0}, "site-2": {"mean": 11.0}}
    assert ran.report["rounds"][0]["num_steps"] == {"site-1": 2.0, "site-2": 2.0}
    assert "Adds: site-2: train 1 False" in ran.log("site-2")


def test_a_return_code_that_is_not_ok_is_the_cause_of_the_failure(tmp_path):
    helper = {"id": "h", "path": "mine.Helper"}
    executor = {"path": "mine.Adds", "args": {"helper_id": "h", "fails_in": 1}}

    ran = run(a_job(tmp_path / "job", EXECUTOR, executor, [helper]), "-n", 2)

    assert ran.code == 4, ran
    cause = ran.failures()["site-1"]["cause"]
    assert "the executor answered BAD_TASK_DATA to the task 'train'" in cause


def test_a_model_learner_is_told_where_it_is_and_measures_the_model_before_it_trains(tmp_path):
    executor = {
        "path": "nvflare.app_common.executors.model_learner_executor.ModelLearnerExecutor",
        "args": {"learner_id": "learner"},
    }
    learner = {"id": "learner", "path": "mine.Adds", "args": {"by": 2.0}}

    ran = run(a_job(tmp_path / "job", LEARNERS, executor, [learner]), "-n", 2, "-t", 2)

    assert ran.code == 0, ran
    assert final(tmp_path).tolist() == (np.arange(1.0, 10.0).reshape(3, 3) + 4).tolist()
    assert means(ran) == [[5.0, 5.0], [7.0, 7.0]]
    assert ran.report["best"]["score"] == 9.0
    assert ran.log("site-1").splitlines() == ["Adds: site-1 begins in site-1", "Adds: ends"]


def test_a_learner_that_works_with_shareables_runs_too_and_its_metric_without_a_name_is_val_accuracy(tmp_path):
    executor = {"name": "LearnerExecutor", "args": {"learner_id": "learner"}}
    learner = {"id": "learner", "path": "mine.AddsOld"}
    by = {"id": "by", "path": "mine.By", "args": {"by": 1.0}}

    ran = run(a_job(tmp_path / "job", LEARNERS, executor, [learner, by], tasks=["train"]), "-n", 2, "-t", 2)

    assert ran.code == 0, ran
    assert final(tmp_path)[0, 0] == 3.0
    assert ran.metrics("val_accuracy") == [{"site-1": 5.0, "site-2": 5.0}, {"site-1": 6.0, "site-2": 6.0}]
