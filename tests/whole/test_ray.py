"""Runs on the nodes of a Ray cluster: several raylets on this machine, each of which is a node to Ray."""

import os
import signal
import textwrap
from pathlib import Path

import numpy as np
import pytest
from raylets import Raylets
from runs import ADDS_ONE, Running, eventually, job, run, torch_job

import fedsag_cli

pytest.importorskip("ray", reason="Ray is not installed")

# Each site draws its update and keeps a sum. What it sends is too large for Ray to put it into a message.
DRAWS = """
    import os, time
    from pathlib import Path
    import numpy as np
    import fedsag_cli.client as flare

    flare.init()
    while flare.is_running():
        model = flare.receive()
        print("round", model.current_round)
        trap = Path(os.environ["TRAPS"]) / flare.get_site_name()
        if model.current_round == 1 and trap.exists():
            trap.unlink()
            time.sleep(1000)
        trained = {k: v * 0.5 + np.random.random(v.shape).astype(v.dtype) for k, v in model.params.items()}
        flare.state["sum"] = flare.state.get("sum", np.zeros(1)) + trained["numpy_key"].mean()
        flare.send(flare.FLModel(params=trained, metrics={"mean": float(flare.state["sum"][0])}))
"""
TRAINS = """
    import torch
    import fedsag_cli.client as flare
    from net import Net

    net = Net()
    flare.init()
    while flare.is_running():
        model = flare.receive()
        net.load_state_dict(model.params)
        net(torch.randn(8, 4)).square().mean().backward()
        with torch.no_grad():
            for w in net.parameters():
                w -= 0.1 * w.grad
        flare.send(flare.FLModel(params=net.state_dict(), metrics={"mean": float(net.weight.detach().sum())}))
"""
SEED = ("-n", 4, "-t", 2, "--seed", 7)


@pytest.fixture(scope="module")
def raylets():
    """Three nodes. The third one's HOME has no module `special`."""
    with Raylets() as raylets:
        for number in range(3):
            home = raylets.folder / f"home-{number}"
            home.mkdir()
            if number < 2:
                (home / "special.py").touch()
            raylets.add(HOME=str(home))
        yield raylets


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The digest of the run on this machine, without Ray."""
    return digest(run(*made(tmp_path_factory.mktemp("alone")), **traps_of(tmp_path_factory.mktemp("none"))))


def made(folder, **settings):
    np.save(folder / "first.npy", np.zeros((150, 200), np.float32))
    first = {"path": "NPModelPersistor", "args": {"source_ckpt_file_full_name": str(folder / "first.npy")}}
    return job(folder / "job", DRAWS, components={"persistor": first}, num_rounds=3, **settings), *SEED


def traps_of(folder, *sites):
    for site in sites:
        (folder / site).touch()
    return {"env": {"TRAPS": str(folder)}}


def on(raylets, folder, *sites):
    """Keywords for a run on the cluster, with traps for these sites."""
    how = traps_of(folder, *sites)
    return {"env": how["env"] | raylets.env}


def to(raylets):
    return "--engine", "ray", "--address", raylets.address


def digest(outcome):
    assert outcome.code == 0, outcome
    (finished,) = outcome.told("WorkflowFinished")
    return finished["digest"]


def nodes(outcome):
    return {event["name"]: event["node"] for event in outcome.told("ProcessStarted") if event["node"]}


def test_three_nodes_give_the_same_model_as_this_machine_alone(tmp_path, raylets, alone):
    outcome = run(*made(tmp_path), *to(raylets), **on(raylets, tmp_path))

    assert digest(outcome) == alone
    first, second, third = (f"node-{number} (raylet-{number - 1})" for number in (1, 2, 3))
    assert nodes(outcome) == {"site-1": first, "site-2": second, "site-3": third, "site-4": first}
    assert outcome.log("site-2") == "round 0\nround 1\nround 2\n"


def test_without_an_address_ray_starts_for_the_run_alone(tmp_path):
    made = torch_job(tmp_path / "job", TRAINS), "-n", 2, "-t", 2, "--seed", 3
    here = run(*made)
    outcome = run(*made, "--engine", "ray", env={"RAY_ADDRESS": "192.0.2.1:6379"})  # which has no effect

    assert digest(outcome) == digest(here)
    assert set(nodes(outcome)) == {"site-1", "site-2"}


def test_workers_on_three_nodes_do_the_tasks_of_all_clients(tmp_path, raylets, alone):
    outcome = run(*made(tmp_path), "--workers", *to(raylets), **on(raylets, tmp_path))

    assert digest(outcome) == alone
    assert {name.partition(":")[0] for name in nodes(outcome)} == {"worker"}
    assert len(set(nodes(outcome).values())) == 3
    assert (outcome.workspace / "worker" / "logs" / "site-4.txt").read_text() == "round 0\nround 1\nround 2\n"


def test_after_the_death_of_the_driver_the_run_is_resumed(tmp_path, raylets, alone):
    how = on(raylets, tmp_path, "site-3")
    with Running(*made(tmp_path), *to(raylets), **how) as running:
        eventually(lambda: not (tmp_path / "site-3").exists())
        os.kill(child_with(running.process.pid, "processes.ray.driver"), signal.SIGKILL)
        outcome = running.outcome()

    assert (outcome.code, outcome.left_alive, outcome.left_in_tmp) == (4, [], [])
    assert "--resume" in outcome.err
    resumed = run(tmp_path / "job", "--resume", *to(raylets), **how)
    assert digest(resumed) == alone


def test_a_module_that_a_node_does_not_have_fails_its_clients_who_name_node_and_module(tmp_path, raylets):
    script = "import os, sys\nsys.path.append(os.environ['HOME'])\nimport special\n" + textwrap.dedent(ADDS_ONE)
    outcome = run(job(tmp_path / "job", script, num_rounds=1), "-n", 3, "-t", 1, *to(raylets), env=raylets.env)

    assert outcome.code == 0, outcome
    [(site, failure)] = outcome.failures().items()
    cause = "ModuleNotFoundError: No module named 'special', on node-3 (raylet-2)"
    assert (site, failure["cause"]) == ("site-3", cause)
    assert failure["where"] == f"{tmp_path}/job/app/custom/train.py:3"
    assert failure["log_tail"][-1] == "ModuleNotFoundError: No module named 'special'"


def test_a_node_with_another_version_of_fedsag_is_an_error_that_names_it(tmp_path, raylets):
    other = tmp_path / "other" / "fedsag_cli"
    other.mkdir(parents=True)
    for path in Path(fedsag_cli.__file__).parent.iterdir():
        (other / path.name).symlink_to(path)
    (other / "__init__.py").unlink()
    (other / "__init__.py").write_text(Path(fedsag_cli.__file__).read_text() + "\n__version__ = '0.0.1'\n")
    number = raylets.add(PYTHONPATH=str(other.parent))
    outcome = run(job(tmp_path / "job"), "-n", 4, *to(raylets), env=raylets.env)
    raylets.remove(number)

    assert outcome.code == 4
    assert f"node-4 (raylet-{number}) has fedsag 0.0.1, this machine {fedsag_cli.__version__}" in outcome.err


def test_a_node_that_dies_fails_its_clients_and_the_others_go_on(tmp_path, raylets):
    with Running(*made(tmp_path), *to(raylets), **on(raylets, tmp_path, "site-3")) as running:
        eventually(lambda: not (tmp_path / "site-3").exists())
        raylets.kill(2)
        outcome = running.outcome()

    assert (outcome.code, outcome.left_alive, outcome.left_in_tmp) == (0, [], [])
    failures = outcome.failures()
    assert list(failures) == ["site-3"]
    assert failures["site-3"]["cause"] == "node-3 (raylet-2) has died"


def child_with(parent, words):
    """The child process with these words in its command."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    (found,) = [int(pid) for pid in children if words in Path(f"/proc/{pid}/cmdline").read_text()]
    return found
