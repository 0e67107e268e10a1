"""Filters of the job's own on NVFLARE's base classes, in both directions at both sides, around an aggregator."""

import json

import numpy as np
import pytest
from runs import job, run

pytestmark = pytest.mark.slow

MINE = """
    import numpy as np
    from nvflare.apis.dxo import DataKind, MetaKey
    from nvflare.apis.dxo_filter import DXOFilter
    from nvflare.apis.filter import Filter
    from nvflare.app_common.abstract.fl_model import FLModel
    from nvflare.app_common.aggregators.model_aggregator import ModelAggregator


    class Clips(DXOFilter):
        def __init__(self, limit: float, data_kinds: list[str] | None = None):
            super().__init__([DataKind.WEIGHTS, DataKind.WEIGHT_DIFF], data_kinds)
            self.limit = limit

        def process_dxo(self, dxo, shareable, fl_ctx):
            dxo.data = {name: np.clip(value, None, self.limit) for name, value in dxo.data.items()}
            return dxo


    class Scales(Filter):
        def __init__(self, by: float):
            super().__init__()
            self.by = by

        def process(self, shareable, fl_ctx):
            self.log_info(fl_ctx, f"with {fl_ctx.get_peer_context().get_identity_name()}")
            for value in shareable["DXO"]["data"].values():
                value *= self.by
            return shareable


    class Squares(ModelAggregator):
        def __init__(self, power: int = 2):
            self.power = power

        def reset_stats(self):
            self.total, self.weight = {}, 0.0

        def accept_model(self, model):
            weight = float(model.meta[MetaKey.NUM_STEPS_CURRENT_ROUND]) ** self.power
            for name, value in model.params.items():
                self.total[name] = self.total.get(name, 0.0) + weight * value
            self.weight += weight

        def aggregate_model(self):
            self.info(f"weight {self.weight} in round {self.fl_ctx.get_prop('current_round')}")
            return FLModel(params={name: value / self.weight for name, value in self.total.items()})
"""
SCRIPT = """
    import nvflare.client as flare

    flare.init()
    steps = {"site-1": 1, "site-2": 2}[flare.get_site_name()]
    while flare.is_running():
        model = flare.receive()
        params = {name: value + steps for name, value in model.params.items()}
        flare.send(flare.FLModel(params=params, meta={"NUM_STEPS_CURRENT_ROUND": steps}))
"""


def chain(path, **args):
    return [{"tasks": ["train"], "filters": [{"path": path, "args": args}]}]


def test_models_pass_the_filters_of_both_sides_and_are_merged_by_the_users_aggregator(tmp_path):
    made = job(
        tmp_path / "job",
        SCRIPT,
        files={"mine.py": MINE},
        components={"aggregator": {"path": "mine.Squares"}},
        server={
            "task_data_filters": chain("mine.Scales", by=2.0),
            "task_result_filters": chain("mine.Scales", by=0.5),
        },
        num_rounds=1,
    )
    config = made / "app" / "config" / "config_fed_client.json"
    clips = {"task_result_filters": chain("mine.Clips", limit=9.0, data_kinds=["WEIGHTS"])}
    config.write_text(json.dumps(json.loads(config.read_text()) | clips))

    ran = run(made, "-n", 2)

    assert ran.code == 0, ran
    first = np.arange(1.0, 10.0).reshape(3, 3)
    one, two = (np.minimum(2 * first + steps, 9) / 2 for steps in (1, 2))
    found = np.load(tmp_path / "ws" / "server" / "simulate_job" / "models" / "server.npy")
    assert np.allclose(found, (one + 4 * two) / 5, rtol=1e-6)
    said = ran.log("server").splitlines()
    assert [line for line in said if line.startswith("Squares")] == ["Squares: weight 5.0 in round 0"]
    assert "Scales: with site-2" in said
