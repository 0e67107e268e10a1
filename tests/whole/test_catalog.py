"""Every component of the catalog keeps what a run promises: the same bits for any -t, launcher, kill and resume.

Each case is a small job. It is run undisturbed, two clients at a time, each a process. Then it is run with workers; its
server is killed when it has done a part; and it is resumed with one worker. Both must come to the same results. What
workers cannot do, and one case more, has a process for each client again, spawned, one at a time.
"""

import contextlib
import json
import os
import re
import shutil
import signal
from pathlib import Path

import pytest
from runs import Running, fedsag, job, run, torch_job
from written import faults

from fedsag_cli import catalog

ROUNDS = 5
SCRIPT = """
    import time
    import numpy as np
    import fedsag_cli.client as flare

    def changed(name, value):
        array = np.asarray(value)
        drift = flare.state.get(name, np.zeros(array.shape)) / 2 + np.random.standard_normal(array.shape)
        flare.state[name] = drift
        new = np.asarray(array + drift * site, array.dtype)
        return new if isinstance(value, np.ndarray) else value.new_tensor(new)

    flare.init()
    while flare.is_running():
        model = flare.receive()
        site = int(flare.get_site_name()[-1])
        mean = float(sum(np.asarray(value).mean() for value in (model.params or {}).values()))
        task = flare.get_task_name()
        if task == "validate":
            flare.send(flare.FLModel(metrics={"mean": mean + site}))
        elif task == "submit_model":
            flare.send(flare.FLModel(params={"numpy_key": np.full((3, 3), site, np.float32)}))
        elif task == "get_weights":
            flare.send(flare.FLModel(params={"numpy_key": np.random.standard_normal((3, 3)).astype(np.float32)}))
        else:
            time.sleep(0.03)
            tasks = flare.state["tasks"] = flare.state.get("tasks", 0) + 1
            params = {name: changed(name, value) for name, value in model.params.items()}
            meta = {"NUM_STEPS_CURRENT_ROUND": site * tasks, "fednova_steps": float(tasks)}
            if control := model.meta.get("scaffold_c_global"):
                meta["scaffold_c_diff"] = {name: value - np.float32(site) for name, value in control.items()}
            flare.send(flare.FLModel(params=params, metrics={"mean": mean}, meta=meta))
"""
NEWTON = """
    import numpy as np
    import fedsag_cli.client as flare

    flare.init()
    while flare.is_running():
        model = flare.receive()
        theta = model.params["numpy_key"]
        x = np.random.standard_normal((20, theta.size))
        p = 1 / (1 + np.exp(-x @ theta))
        params = {"gradient": x.T @ ((x[:, :1] > 0) - p), "hessian": x.T @ (x * p * (1 - p))}
        flare.send(flare.FLModel(params=params, metrics={"mean": float(theta.mean())}))
"""
NET = """
    import torch

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = torch.nn.Linear(2, 2)
            self.norm = torch.nn.BatchNorm1d(2)
"""

CONTROLLER = """
    from nvflare.app_common.workflows.base_fedavg import BaseFedAvg

    class Mine(BaseFedAvg):
        def run(self):
            model = self.load_model()
            for self.current_round in range(self.start_round, self.start_round + self.num_rounds):
                model.current_round = self.current_round
                results = self.send_model_and_wait(targets=self.sample_clients(2), data=model)
                model = self.update_model(model, self.aggregate(results))
                self.save_model(model)
"""


def part(path, **args):
    return {"path": path, "args": args}


def aggregator(path, **args):
    return {"components": {"aggregator": part(path, **args)}}


def updater(path, **args):
    return {"components": {"updater": part(path, **args)}, "updater_id": "updater"}


def filters(*sent, received=(), **settings):
    """`sent`: the filters of the client's answers; `received`: those of the server for them."""
    chains = {"task_result_filters": [{"tasks": ["train"], "filters": list(sent)}]}
    server = {"task_result_filters": [{"tasks": ["train"], "filters": list(received)}]} if received else {}
    return {"client": chains, "server": server, **settings}


def flows(*given):
    return {"server": {"workflows": [{"id": f"flow-{number}", **each} for number, each in enumerate(given, 1)]}}


PARTS = {"aggregator_id": "aggregator", "persistor_id": "persistor"}
TRAINS = part("ScatterAndGather", num_rounds=ROUNDS, model_selector_id="model_selector", **PARTS)
DIFF = {"executor": {"params_transfer_type": "DIFF"}}

SPAWNED = "federated averaging"
CASES = {
    "federated averaging": {},
    "coordinate median": aggregator("CoordinateMedian"),
    "trimmed mean": aggregator("TrimmedMean", beta=0.4),
    "Krum": aggregator("Krum", num_byzantine=0),
    "FedNova": aggregator("FedNova"),
    "SCAFFOLD": aggregator("Scaffold"),
    "Newton's method": {
        "script": NEWTON,
        "tasks": ["train"],
        "components": {"aggregator": part("NewtonRaphson"), "persistor": part("LRModelPersistor", n_features=2)},
    },
    "DP-FedAvg": aggregator("DPFedAvg", clip_norm=2.0, noise_multiplier=1.0),
    "FedAvgM": updater("FedAvgM"),
    "FedAdagrad": updater("FedAdagrad"),
    "FedYogi": updater("FedYogi"),
    "FedAdam": updater("FedAdam"),
    "FedOpt": {
        "torch": True,
        **updater(
            "FedOpt",
            optimizer_args={"config_type": "dict", **part("torch.optim.Adam", lr=0.1)},
            lr_scheduler_args={
                "config_type": "dict",
                **part("torch.optim.lr_scheduler.StepLR", step_size=2, gamma=0.5),
            },
        ),
    },
    "power of choice": {
        "components": {"sampler": part("PowerOfChoice", num_candidates=3, key_metric="mean")},
        "sampler_id": "sampler",
        "num_clients": 2,
    },
    "excluded params": {"torch": True, **filters(part("ExcludeVars", exclude_vars="norm"))},
    "sign flip": filters(part("SignFlipAttack", sites=["site-2"])),
    "noise": filters(part("NoiseAttack", sites=["site-2"])),
    "scaling": filters(part("ScalingAttack", sites=["site-2"])),
    "Gaussian mechanism": filters(
        part("GaussianPrivacy", clip_norm=1.0, noise_multiplier=1.0),
        components={"accountant": part("GaussianAccountant", delta=1e-5)},
        tasks=["train", "validate"],
    ),
    "percentile privacy": filters(part("PercentilePrivacy", percentile=50, gamma=1.0), **DIFF),
    "sparse vectors": filters(part("SVTPrivacy", fraction=0.5), **DIFF),
    "quantization": filters(part("ModelQuantizer"), received=[part("ModelDequantizer")]),
    "top-k": filters(part("TopKSparsifier", fraction=0.3), received=[part("TopKDensifier")]),
    "asynchronous": flows(part("FedBuff", num_rounds=ROUNDS, buffer_size=2, **PARTS)),
    "cyclic": flows(part("Cyclic", num_rounds=ROUNDS, order="RANDOM_WITHOUT_SAME_IN_A_ROW", persistor_id="persistor")),
    "swarm": flows(part("Swarm", num_rounds=ROUNDS, **PARTS)),
    "a controller written for NVFLARE": {
        "files": {"mine.py": CONTROLLER},
        **flows(part("RunsModelController", controller=part("mine.Mine", num_rounds=ROUNDS), persistor_id="persistor")),
    },
    "several workflows": flows(
        part("InitializeGlobalWeights"), TRAINS, part("CrossSiteModelEval", persistor_id="persistor")
    ),
    "models in files": {
        "components": {"locator": part("NPModelLocator")},  # of the workflow before
        **flows(TRAINS, part("CrossSiteModelEval", persistor_id="locator")),
    },
    "scikit-learn k-means": "sklearn_kmeans",
    "scikit-learn linear": "sklearn_linear",
    "scikit-learn SVM": "sklearn_svm",
    "bagging of trees": "xgboost_tree",
    "statistics of tables": "stats_df",
    "statistics of images": "stats_image",
}
TASKS = ["train", "validate", "submit_model", "get_weights"]
WORDS = ["-n", 3, "--seed", 7]


def make(folder, case):
    """The job of a case: a template as it is, or a job of one script, SCRIPT if it has no other."""
    if isinstance(case, str):
        made = fedsag("job", "create", "-w", case, "-j", "job", cwd=folder)
        assert made.code == 0, made
        return folder / "job"
    settings = {"num_rounds": ROUNDS, "tasks": TASKS, **case}
    client, script = settings.pop("client", {}), settings.pop("script", SCRIPT)
    if settings.pop("torch", False):
        made = torch_job(folder / "job", script, net=NET, **settings)
    else:
        made = job(folder / "job", script, **settings)
    config = made / "app" / "config" / "config_fed_client.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | client))
    return made


def results(outcome):
    """What must be the same."""
    report = outcome.report
    names = ("workflow", "round_num", "answered", "metrics", "num_steps", "aggregate", "privacy")
    rounds = [[each[name] for name in names] for each in report["rounds"]]
    return report["digest"], rounds, report["tables"], report["final_metrics"], report["best"]


def components_of(made):
    texts = [path.read_text() for path in made.rglob("config_fed_*")]
    return {name for text in texts for name in re.findall(r'"?path"?\s*[=:]\s*"(\w+)"', text)}


def killed_after(made, how, kind, count):
    """A run whose server is killed after so many events of this kind."""
    with Running(made, *WORDS, *how) as running:
        running.wait_until_told(kind, count)
        with contextlib.suppress(ProcessLookupError):  # it has ended
            os.kill(running.pids()["server"], signal.SIGKILL)
        return running.outcome()


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_component_has_the_same_bits_with_workers_and_spawned_and_after_a_kill(tmp_path, name):
    made = make(tmp_path, CASES[name])
    whole = run(made, *WORDS, "-t", 2, workspace=tmp_path / "whole")
    assert whole.code == 0, whole
    assert faults(whole.workspace) == []
    kind, half = ("RoundFinished", len(whole.report["rounds"]) // 2) if whole.report["rounds"] else ("TaskSent", 1)

    has_workers = name != SPAWNED and not isinstance(CASES[name], str)
    how = ["-t", 2, "--workers"] if has_workers else ["-t", 1, "--launcher", "spawn"]

    killed = killed_after(made, how, kind, half)
    for _ in range(2):  # on a busy machine the run may end before the signal comes
        if killed.code == 0:
            shutil.rmtree(killed.workspace)
            killed = killed_after(made, how, kind, half)
    assert killed.code == 4, killed
    assert faults(killed.workspace) == []
    resumed = run(made, "--resume", "-t", 1)

    assert resumed.code == 0, resumed.err
    assert results(resumed) == results(whole)
    assert faults(resumed.workspace) == []
    assert resumed.report["resumed_at"] or not whole.report["rounds"]


def test_every_component_of_the_catalog_is_tried(tmp_path):
    tried = set()
    for number, case in enumerate(CASES.values()):
        if isinstance(case, str):
            made = Path(__file__).parents[2] / "job_templates" / case
        else:
            (tmp_path / str(number)).mkdir()
            made = make(tmp_path / str(number), case)
        tried |= components_of(made)

    assert {name for name in catalog.KNOWN if not name.endswith("Receiver")} <= tried
