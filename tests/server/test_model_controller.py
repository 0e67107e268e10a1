"""Workflows that users have written for NVFLARE, on ModelController, BaseFedAvg and FedAvg, run as they are."""

import json
import textwrap

import numpy as np
import pytest
from runs import deploy, run

pytestmark = pytest.mark.slow

ADDS = """
    import os
    import time

    import nvflare.client as flare

    flare.init()
    while flare.is_running():
        model = flare.receive()
        by = {"site-1": 1.0, "site-2": 3.0}.get(flare.get_site_name(), 5.0)
        if flare.is_evaluate():
            flare.send(flare.FLModel(metrics={"mean": float(model.params["numpy_key"].mean())}))
            continue
        if os.path.exists("../../../kill") and model.current_round == 2:
            os.kill(os.getppid(), 9)
            time.sleep(60)
        print("round", model.current_round, "of", model.total_rounds, flush=True)
        metrics = {"mean": float(model.params["numpy_key"].mean())}
        params = {k: v + by for k, v in model.params.items()}
        flare.send(flare.FLModel(params=params, metrics=metrics, meta={"NUM_STEPS_CURRENT_ROUND": by}))
"""
OWN = """
    from nvflare.app_common.abstract.fl_model import FLModel, ParamsType
    from nvflare.app_common.aggregators.weighted_aggregation_helper import WeightedAggregationHelper
    from nvflare.app_common.utils.fl_model_utils import FLModelUtils
    from nvflare.app_common.workflows.base_fedavg import BaseFedAvg
    from nvflare.app_common.workflows.fedavg import FedAvg
    from nvflare.app_common.workflows.model_controller import ModelController


    class Largest(FedAvg):
        def aggregate(self, results, aggregate_fn=None):
            best = max(results, key=lambda result: float(result.params["numpy_key"].mean()))
            self.info(f"{best.meta['client_name']} is the largest in round {self.current_round}")
            return best


    class Mine(BaseFedAvg):
        def __init__(self, *args, factor: float = 1.0, **kwargs):
            super().__init__(*args, **kwargs)
            self.factor = factor

        def run(self):
            model = self.load_model()
            model.start_round = self.start_round
            model.total_rounds = self.num_rounds
            for self.current_round in range(self.start_round, self.start_round + self.num_rounds):
                model.current_round = self.current_round
                results = self.send_model_and_wait(targets=self.sample_clients(self.num_clients), data=model)
                update = self.aggregate(results, aggregate_fn=self.mean)
                model = self.update_model(model, update)
                self.save_model(model)

        def mean(self, results):
            helper = WeightedAggregationHelper()
            for result in results:
                helper.add(result.params, self.factor, result.meta["client_name"], result.current_round)
            return FLModel(params=helper.get_result(), params_type=results[0].params_type)


    class Momentum(Mine):
        velocity = 0.0

        def update_model(self, model, update):
            change = update.params["numpy_key"] - model.params["numpy_key"]
            self.velocity = 0.5 * self.velocity + change
            return super().update_model(model, FLModel(params={"numpy_key": model.params["numpy_key"] + self.velocity}))

        def state(self):
            return {"velocity": self.velocity}

        def restore(self, state):
            self.velocity = state["velocity"]


    class ByCallback(ModelController):
        num_rounds, start_round = 2, 0

        def run(self):
            model = self.load_model()
            for round_num in range(2):
                self._sum, self._seen = None, []
                model.current_round, model.total_rounds = round_num, 2
                for client in self.sample_clients():
                    self.send_model(task_name="train", targets=[client], data=model, callback=self._take)
                while self.get_num_standing_tasks():
                    raise AssertionError("all answers are there")
                assert self._seen == self.sample_clients()
                model.params = {"numpy_key": self._sum}
                measured = self.send_model_and_wait("validate", model)
                self.info(f"measured {[result.metrics['mean'] for result in measured]}")
                self.save_model(model)

        def _take(self, result):
            self._seen.append(result.meta["client_name"])
            value = result.params["numpy_key"]
            self._sum = value if self._sum is None else self._sum + value


    class KeepsBest(BaseFedAvg):
        def run(self):
            model = self.load_model()
            for self.current_round in range(self.num_rounds):
                model.current_round = self.current_round
                update = self.aggregate(self.send_model_and_wait(data=model))
                model = self.update_model(model, update)
                if self.current_round == 0:
                    self.save_model(model)
"""
PERSISTOR = {"id": "persistor", "name": "NPModelPersistor"}
SELECTOR = {"id": "selector", "name": "IntimeModelSelector", "args": {"key_metric": "mean"}}


def a_job(folder, path, components=(PERSISTOR,), script=ADDS, text=OWN, tasks=("train", "validate"), **args):
    app = folder / "app"
    (app / "config").mkdir(parents=True)
    (app / "custom").mkdir()
    client = {"path": "ClientAPIExecutor", "args": {"execution_mode": "external_process",
              "command": "python3 -u custom/train.py", "params_exchange_format": "numpy"}}  # fmt: skip
    server = {"workflows": [{"id": "own", "path": path, "args": args}], "components": list(components)}
    (app / "config" / "config_fed_client.json").write_text(
        json.dumps({"executors": [{"tasks": list(tasks), "executor": client}]})
    )
    (app / "config" / "config_fed_server.json").write_text(json.dumps(server))
    (app / "custom" / "train.py").write_text(textwrap.dedent(script))
    (app / "custom" / "mine.py").write_text(textwrap.dedent(text))
    return deploy(folder, app=["@ALL"])


def final(tmp_path, workspace="ws"):
    return np.load(tmp_path / workspace / "server" / "simulate_job" / "models" / "server.npy")


FIRST = np.arange(1.0, 10.0, dtype=np.float32).reshape(3, 3)


def test_a_class_derived_from_fedavg_replaces_its_aggregation_and_all_else_is_told_as_usual(tmp_path):
    ran = run(a_job(tmp_path / "job", "mine.Largest", [PERSISTOR, SELECTOR], num_clients=2, num_rounds=3), "-n", 2)

    assert ran.code == 0, ran
    assert final(tmp_path).tolist() == (FIRST + 9).tolist()
    assert ran.metrics("mean") == [{"site-1": mean, "site-2": mean} for mean in (5.0, 8.0, 11.0)]
    assert (ran.report["best"]["round_num"], ran.report["best"]["score"]) == (2, 11.0)
    assert ran.log("server").count("site-2 is the largest in round") == 3
    assert ran.log("site-1").splitlines()[-1] == "round 2 of 3"


def test_a_controller_of_its_own_gets_its_arguments_and_draws_its_clients_by_the_seed(tmp_path):
    made = a_job(tmp_path / "job", "mine.Mine", num_clients=2, num_rounds=4, factor=2.0)

    runs = [run(made, "-n", 4, "-t", slots, "--seed", 5, workspace=tmp_path / f"w{slots}") for slots in (1, 4)]

    assert [ran.code for ran in runs] == [0, 0], runs
    assert [len(each["asked"]) for each in runs[0].report["rounds"]] == [2, 2, 2, 2]
    assert [each["asked"] for each in runs[0].report["rounds"]] == [each["asked"] for each in runs[1].report["rounds"]]
    assert len({tuple(each["asked"]) for each in runs[0].report["rounds"]}) > 1
    assert runs[0].report["digest"] == runs[1].report["digest"]


def test_answers_go_to_callbacks_in_the_order_of_the_sites_and_other_tasks_may_be_asked_in_between(tmp_path):
    ran = run(a_job(tmp_path / "job", "mine.ByCallback"), "-n", 2, "-t", 2)

    assert ran.code == 0, ran
    # (w + 1) + (w + 3), twice: 2 * (2 * w + 4) + 4
    assert final(tmp_path).tolist() == (4 * FIRST + 12).tolist()
    assert "measured [14.0, 14.0]" in ran.log("server")
    assert ran.metrics("mean")[0] == {"site-1": 5.0, "site-2": 5.0}


def test_only_a_model_that_the_controller_saves_is_written_and_every_round_is_told(tmp_path):
    ran = run(a_job(tmp_path / "job", "mine.KeepsBest", num_rounds=3), "-n", 1)

    assert ran.code == 0, ran
    assert final(tmp_path).tolist() == (FIRST + 1).tolist()
    assert [each["round_num"] for each in ran.report["rounds"]] == [0, 1, 2]


@pytest.mark.parametrize("name", ["Mine", "Momentum"])
def test_a_run_that_was_killed_continues_at_the_round_that_was_not_complete(tmp_path, name):
    made = a_job(tmp_path / "job", f"mine.{name}", num_clients=2, num_rounds=4)
    whole = run(made, "-n", 2, "--seed", 3, workspace=tmp_path / "whole")
    (tmp_path / "ws").mkdir()
    (tmp_path / "ws" / "kill").touch()
    killed = run(made, "-n", 2, "--seed", 3)
    (tmp_path / "ws" / "kill").unlink()

    resumed = run(made, "--resume")

    assert (whole.code, resumed.code) == (0, 0), resumed
    assert killed.code != 0
    assert resumed.report["resumed_at"] == [2]
    assert resumed.report["digest"] == whole.report["digest"]
    assert [each["round_num"] for each in resumed.report["rounds"]] == [0, 1, 2, 3]
    assert resumed.log("site-1").splitlines()[-1] == "round 3 of 4"
    assert ("continues at its start_round 2" in resumed.out) == (name == "Mine")  # the other one says what it keeps


def test_a_controller_that_begins_anew_whatever_its_start_round_is_cannot_be_resumed(tmp_path):
    made = a_job(tmp_path / "job", "mine.KeepsBest", num_rounds=4)
    (tmp_path / "ws").mkdir()
    (tmp_path / "ws" / "kill").touch()
    killed = run(made, "-n", 1, "--seed", 3)
    (tmp_path / "ws" / "kill").unlink()

    resumed = run(made, "--resume")

    assert (killed.code, resumed.code) == (4, 4), resumed
    assert "the controller began again with round 0, although its start_round is 2" in resumed.err


def test_without_a_persistor_the_answers_bring_the_model(tmp_path):
    text = """
        from nvflare.app_common.abstract.fl_model import FLModel
        from nvflare.app_common.workflows.model_controller import ModelController

        class Asks(ModelController):
            def run(self):
                model = self.load_model()
                assert model.params == {}
                model.current_round = 0
                (first,) = self.send_model_and_wait(data=model, targets=["site-1"], min_responses=1, timeout=60)
                self.save_model(FLModel(params=first.params))
    """
    script = """
        import numpy as np
        import nvflare.client as flare

        flare.init()
        while flare.is_running():
            model = flare.receive()
            flare.send(flare.FLModel(params={"numpy_key": np.full(2, 7.0)}))
    """

    ran = run(a_job(tmp_path / "job", "mine.Asks", [], script, text), "-n", 2)

    assert ran.code == 0, ran
    assert final(tmp_path).tolist() == [7.0, 7.0]


def test_an_aggregator_derived_from_their_model_aggregator_merges_in_scatter_and_gather(tmp_path):
    text = """
        from nvflare.app_common.abstract.fl_model import FLModel
        from nvflare.app_common.aggregators.model_aggregator import ModelAggregator

        class Sum(ModelAggregator):
            def __init__(self):
                super().__init__()
                self.total, self.names = None, []

            def accept_model(self, model: FLModel):
                value = model.params["numpy_key"]
                self.total = value if self.total is None else self.total + value
                self.names.append(model.meta["client_name"])

            def aggregate_model(self) -> FLModel:
                self.info(" ".join(self.names))
                return FLModel(params={"numpy_key": self.total})

            def reset_stats(self):
                self.total, self.names = None, []
    """
    aggregator = {"id": "aggregator", "path": "mine.Sum"}
    path = "nvflare.app_common.workflows.scatter_and_gather.ScatterAndGather"

    made = a_job(tmp_path / "job", path, [PERSISTOR, aggregator], text=text, tasks=["train"], min_clients=2,
                 num_rounds=2, persistor_id="persistor", wait_time_after_min_received=0)  # fmt: skip
    ran = run(made, "-n", 2)

    assert ran.code == 0, ran
    assert final(tmp_path).tolist() == (4 * FIRST + 12).tolist()
