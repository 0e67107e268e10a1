"""Workflows other than scatter and gather, and several in a row, as whole runs: the same bits, and exact resume."""

import json

import numpy as np
import pytest
from runs import fedsag, job, run

# Each site draws its update; it keeps its own models in flare.state. At a trap it kills the process of all processes.
DRAWS = """
    import os, signal, time
    from pathlib import Path
    import numpy as np
    import fedsag_cli.client as flare

    flare.init()
    site = flare.get_site_name()
    number = int(site[-1])
    traps = Path(os.environ["TRAPS"])
    while flare.is_running():
        model = flare.receive()
        task = flare.get_task_name()
        about = model.meta.get("model_owner") or model.meta.get("submit_model_name")
        trap = traps / f"{site} {task} {about or f'{model.current_round} of {model.total_rounds}'}".replace("/", " ")
        if trap.exists():
            trap.unlink()
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(60)  # it goes on until it is killed too: no answer may reach another trap
        if task == "get_weights":
            flare.send(flare.FLModel(params={"numpy_key": np.random.standard_normal((2, 2)).astype(np.float32)}))
        elif flare.is_submit_model():
            flare.send(flare.FLModel(params=flare.state[model.meta["submit_model_name"]]))
        elif flare.is_evaluate():
            metrics = {"mean": float(model.params["numpy_key"].mean()) * number + np.random.random()}
            flare.send(flare.FLModel(metrics=metrics))
        else:
            trained = {k: v * 0.5 + number * np.random.random(v.shape).astype(v.dtype) for k, v in model.params.items()}
            flare.state["final_model"] = trained
            flare.state.setdefault("best_model", trained)
            metrics = {"mean": float(model.params["numpy_key"].mean())}
            flare.send(flare.FLModel(params=trained, metrics=metrics, meta={"NUM_STEPS_CURRENT_ROUND": number}))
"""
TASKS = ["get_weights", "train", "validate", "submit_model"]
AVERAGES = {"aggregator_id": "aggregator", "persistor_id": "persistor", "model_selector_id": "model_selector"}
INIT = {"id": "init", "path": "InitializeGlobalWeights", "args": {}}
SAG = {"id": "sag", "path": "ScatterAndGather", "args": {"min_clients": 3, "num_rounds": 2, **AVERAGES}}
AGAIN = {"id": "again", "path": "ScatterAndGather", "args": {"min_clients": 3, "num_rounds": 1, **AVERAGES}}
CSE = {
    "id": "cse",
    "path": "CrossSiteModelEval",
    "args": {"persistor_id": "persistor", "submit_model_names": ["best_model", "final_model"]},
}
SWARM = {"id": "swarm", "path": "Swarm", "args": {"min_responses_required": 3, "num_rounds": 2, **AVERAGES}}
CYCLIC = {
    "id": "cyclic",
    "path": "Cyclic",
    "args": {"num_rounds": 3, "order": "RANDOM_WITHOUT_SAME_IN_A_ROW", "persistor_id": "persistor"},
}
CHAINS = {
    "weights from a client, averaging, evaluation": (
        [INIT, SAG, CSE],
        ["site-2 train 1 of 2", "site-3 validate site-1"],
    ),
    "cyclic, then averaging": ([CYCLIC, SAG], ["site-1 train 1 of 3", "site-2 train 2 of 3", "site-3 train 1 of 2"]),
    "swarm learning, evaluation": ([SWARM, CSE], ["site-3 train 1 of 2", "site-1 submit_model final_model"]),
    "averaging twice, evaluation": (
        [SAG, AGAIN, CSE],
        ["site-1 train 1 of 2", "site-3 train 0 of 1", "site-2 validate site-3"],
    ),
}


def made(folder, workflows):
    return job(folder, DRAWS, tasks=TASKS, server={"workflows": workflows})


def ran(folder, *words, **how):
    """A run of the job, with the folder of its traps."""
    traps = folder.parent / "traps"
    traps.mkdir(exist_ok=True)
    return run(folder, *words, env={"TRAPS": str(traps)}, **how)


def bits(outcome):
    """What a run came to."""
    server = outcome.workspace / "server" / "simulate_job"
    matrix = server / "cross_site_val" / "cross_val_results.json"
    report = outcome.report
    rounds = [(each["workflow"], each["round_num"], each["asked"], each["answered"], each["metrics"], each["aggregate"])
              for each in report["rounds"]]  # fmt: skip
    return {
        "digest": report["digest"],
        "best": report["best"],
        "rounds": rounds,
        "validations": report["validations"],
        "tables": report["tables"],
        "matrix": json.loads(matrix.read_text()) if matrix.exists() else None,
        "models": {path.name: np.load(path).tobytes() for path in sorted((server / "models").iterdir())},
    }


@pytest.mark.slow
@pytest.mark.parametrize("chain", CHAINS)
def test_workflows_in_a_row_give_the_same_bits_however_they_are_run_and_after_a_kill_in_each(tmp_path, chain):
    workflows, traps = CHAINS[chain]
    folder = made(tmp_path / "job", workflows)
    words = ["-n", 3, "--seed", 7]

    whole = ran(folder, *words, "-t", 3)
    one_by_one = ran(folder, *words, "-t", 1, "--launcher", "spawn", workspace=tmp_path / "one_by_one")
    for trap in traps:
        (tmp_path / "traps" / trap).touch()
    killed = ran(folder, *words, "-t", 2, workspace=tmp_path / "killed")
    for _ in traps[1:]:
        assert killed.code == 4, killed
        killed = ran(folder, "--resume", workspace=tmp_path / "killed")
    assert killed.code == 4, killed
    assert list((tmp_path / "traps").iterdir()) == []
    resumed = ran(folder, "--resume", workspace=tmp_path / "killed")

    assert (whole.code, one_by_one.code, resumed.code) == (0, 0, 0), f"{whole}{one_by_one}{resumed}"
    assert bits(one_by_one) == bits(whole)
    assert bits(resumed) == bits(whole)
    assert whole.report["failures"] == {}
    assert fedsag("verify", resumed.workspace, cwd=tmp_path).code == 0


def test_swarm_learning_gives_the_bits_of_averaging_and_tells_who_would_have_averaged(tmp_path):
    swarm = ran(made(tmp_path / "swarm", [{**SWARM, "id": "w"}]), "-n", 3, "-t", 3, "--seed", 7)
    averaging = ran(
        made(tmp_path / "sag", [{**SAG, "id": "w"}]), "-n", 3, "-t", 3, "--seed", 7, workspace=tmp_path / "w2"
    )

    assert (swarm.code, averaging.code) == (0, 0), f"{swarm}{averaging}"
    assert bits(swarm)["models"] == bits(averaging)["models"]
    assert swarm.report["digest"] == averaging.report["digest"]
    assert all(each["aggregate"]["aggregator"] in swarm.report["sites"] for each in swarm.report["rounds"])


def test_a_job_that_only_evaluates_says_what_it_found_and_not_that_it_trained_nothing(tmp_path):
    folder = made(tmp_path / "job", [{**CSE, "args": {"persistor_id": "persistor", "submit_model_task_name": None}}])

    outcome = ran(folder, "-n", 2, "-t", 2, "--seed", 1)

    assert outcome.code == 0, outcome
    assert outcome.report["notices"] == []
    assert "mean of each model (rows) on the data of each site (columns):" in outcome.out
    (table,) = outcome.report["tables"]
    assert [row[0] for row in table["rows"]] == ["SRV_server"]
    assert "round" not in outcome.out.split("mean of each model")[0].split("workspace")[1]


def test_a_site_that_cannot_take_part_in_evaluation_leaves_empty_cells_and_is_told(tmp_path):
    script = DRAWS.replace(
        "elif flare.is_evaluate():",
        'elif flare.is_evaluate() and number == 2 and model.meta["model_owner"] == "site-1":\n'
        '            raise ValueError("no data")\n'
        "        elif flare.is_evaluate():",
    )
    own = {**CSE, "args": {**CSE["args"], "submit_model_names": ["best_model"]}}
    folder = job(tmp_path / "job", script, tasks=TASKS, server={"workflows": [{**SAG, "args": {**SAG["args"],
                 "validate_task_name": "none"}}, own]})  # fmt: skip

    outcome = ran(folder, "-n", 3, "-t", 3, "--seed", 1)

    assert outcome.code == 0, outcome
    (table,) = outcome.report["tables"]
    empty = {(row[0], site) for row in table["rows"] for site, cell in zip(table["columns"], row, strict=True)
             if cell is None}  # fmt: skip
    assert empty == {("site-1", "site-2"), ("site-2", "site-2"), ("site-3", "site-2")}
    assert outcome.report["failures"]["site-2"]["failure"]["cause"].endswith("ValueError: no data")
    assert "site-2 failed in validate (model site-1)" in outcome.out
    assert "ValueError: no data" in outcome.out.split("mean of each model")[1]


def test_a_job_whose_evaluation_found_nothing_has_failed(tmp_path):
    script = DRAWS.replace("elif flare.is_evaluate():", 'elif flare.is_evaluate():\n            raise ValueError("x")')
    only = {"persistor_id": "persistor", "submit_model_task_name": None}

    outcome = ran(job(tmp_path / "job", script, tasks=TASKS, server={"workflows": [{**CSE, "args": only}]}), "-n", 2)

    assert outcome.code == 4, outcome
    assert "no client measured a model" in outcome.err


def test_a_round_of_cyclic_weight_transfer_stops_the_run_where_too_few_can_train(tmp_path):
    script = DRAWS.replace(
        'task == "get_weights":', 'number == 2:\n            raise ValueError("x")\n        elif task == "":'
    )
    two = [{**CYCLIC, "args": {**CYCLIC["args"], "min_clients": 2}}]
    three = [{**CYCLIC, "args": {**CYCLIC["args"], "min_clients": 3}}]

    passed_over = ran(job(tmp_path / "two", script, tasks=TASKS, server={"workflows": two}), "-n", 3, "-t", 3)
    stopped = ran(
        job(tmp_path / "three", script, tasks=TASKS, server={"workflows": three}), "-n", 3, workspace=tmp_path / "w"
    )

    assert passed_over.code == 0, passed_over
    assert [sorted(each["answered"]) for each in passed_over.report["rounds"]] == [["site-1", "site-3"]] * 3
    assert stopped.code == 4, stopped
    assert "ValueError: x" in stopped.err


FORGETS = """
    from fedsag_cli.model import FLModel, Task

    class Forgets:
        def run(self, clients, run):
            for number in (1, 2):
                clients.ask(Task(name="train", model=FLModel(params={"numpy_key": 1.0}, current_round=number)))
"""


def test_tasks_that_the_last_workflow_does_not_end_are_no_failures_of_its_clients(tmp_path):
    workflows = [{"id": "mine", "path": "forgets.Forgets", "args": {}}]
    script = """
        import time
        import fedsag_cli.client as flare

        flare.init()
        while flare.is_running():
            model = flare.receive()
            time.sleep(0.5)
            flare.send(flare.FLModel(params=model.params))
    """

    outcome = run(
        job(tmp_path / "job", script, files={"forgets.py": FORGETS}, server={"workflows": workflows}), "-n", 2
    )

    assert outcome.code == 0
    assert outcome.report["failures"] == {}


@pytest.mark.parametrize(
    ("workflow", "argument", "sites"),
    [
        (CSE, "participating_clients", ["site-1", "site2"]),
        (SWARM, "aggr_clients", ["site2"]),
        (CYCLIC, "order", ["site2", "site-1"]),
    ],
)
def test_a_name_that_no_client_has_is_told_before_the_workflows_before_it_run(tmp_path, workflow, argument, sites):
    wrong = {**workflow, "args": {**workflow["args"], argument: sites}}

    outcome = ran(made(tmp_path / "job", [SAG, wrong]), "-n", 3)

    assert outcome.code == 3
    assert f"{argument} of workflow {workflow['id']!r}: there is no client 'site2'" in outcome.err
    assert "did you mean 'site-2'?" in outcome.err
    assert not outcome.workspace.exists()
