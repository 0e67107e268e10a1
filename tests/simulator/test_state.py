"""What sites and components keep from round to round: in every launch mode and after a kill it is there to the bit."""

import json
import os
import signal

import pytest
from runs import Running, fedsag, job, run

ROUNDS = 5
MOMENTUM = """
    import os, time
    import numpy as np
    import fedsag_cli.client as flare

    flare.init()
    site = int(flare.get_site_name()[-1])
    while flare.is_running():
        model = flare.receive()
        kept = flare.state.setdefault("kept", {"momentum": {}, "counts": [0, float("inf")], "told": b""})
        assert kept["counts"][0] == len(kept["told"]) == model.current_round, kept
        params = {}
        for name, value in model.params.items():
            step = site * np.random.standard_normal(value.shape).astype(value.dtype)
            kept["momentum"][name] = step = 0.9 * kept["momentum"].get(name, np.zeros_like(value)) + step
            params[name] = value + step
        kept["counts"][0] += 1
        kept["told"] += b"."
        time.sleep(float(os.environ.get("SLOW", "0")))
        flare.send(flare.FLModel(params=params))
        kept["counts"][0] = -1  # after the answer, nobody gets it
"""


def digest_of(made, *words, **how):
    outcome = run(made, "-n", 3, "--seed", 7, *words, **how)
    assert outcome.code == 0, outcome
    return outcome.report["digest"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "launch_once", "slots"),
    [("fork", True, 1), ("fork", True, 3), ("fork", False, 2), ("spawn", True, 2), ("spawn", False, 1)],
)
def test_a_script_with_momentum_that_is_killed_and_resumed_comes_to_the_same_bits(
    tmp_path, launcher, launch_once, slots
):
    reference = digest_of(job(tmp_path / "plain", MOMENTUM, num_rounds=ROUNDS), "-t", 3, workspace=tmp_path / "whole")
    made = job(tmp_path / "job", MOMENTUM, num_rounds=ROUNDS, executor={"launch_once": launch_once})
    words = ("-t", slots, "--launcher", launcher)

    whole = digest_of(made, *words, workspace=tmp_path / "same")
    with Running(made, "-n", 3, "--seed", 7, *words, env={"SLOW": "0.1"}) as running:
        running.wait_until_told("RoundFinished", 2)
        os.kill(running.pids()["server"], signal.SIGKILL)
        cut = running.outcome()
    resumed = run(made, "--resume", *words)

    assert (cut.code, resumed.code) == (4, 0), resumed
    assert resumed.report["resumed_at"][0] >= 2
    assert whole == resumed.report["digest"] == reference
    assert fedsag("verify", tmp_path / "ws", cwd=tmp_path).code == 0


# components and workflows of the job's own

MOMENTUM_ON_THE_SERVER = """
    from fedsag_cli.aggregators.fedavg import FedAvg

    class Momentum:
        def __init__(self):
            self._mean, self._velocity, self.rounds = FedAvg(), {}, 0

        def accept(self, reply):
            self._mean.accept(reply)

        def aggregate(self):
            update = self._mean.aggregate()
            for name, value in update.params.items():
                self._velocity[name] = 0.9 * self._velocity.get(name, 0) + value
            update.params.update(self._velocity)
            self.rounds += 1
            return update

        def state(self):
            return {"velocity": self._velocity, "rounds": self.rounds}

        def restore(self, state):
            self._velocity, self.rounds = state["velocity"], state["rounds"]
"""
PATIENT = """
    from fedsag_cli.workflows.rounds import Rounds

    class Patient:
        def __init__(self, persistor, aggregator):
            self._rounds, self._aggregator, self._told = Rounds(persistor, num_rounds=6), aggregator, []

        def run(self, clients, run):
            with self._rounds.begin(clients, run) as rounds:
                for current in rounds:
                    assert self._told == list(range(current.number)), self._told
                    assert self._aggregator.rounds == current.number
                    for reply in current.broadcast("train"):
                        self._aggregator.accept(reply)
                    self._told.append(current.number)
                    current.finish(self._aggregator.aggregate())

        def state(self):
            return self._told

        def restore(self, state):
            self._told = state
"""
CHANGES = """
    import os, time
    import numpy as np
    import fedsag_cli.client as flare

    flare.init()
    while flare.is_running():
        model = flare.receive()
        time.sleep(float(os.environ.get("SLOW", "0")))
        params = {name: np.random.standard_normal(value.shape).astype("f4") for name, value in model.params.items()}
        flare.send(flare.FLModel(params=params, params_type="DIFF"))
"""


def test_components_and_workflows_that_say_what_they_keep_are_resumed_to_the_same_bits(tmp_path):
    made = job(tmp_path / "job", CHANGES, files={"momentum.py": MOMENTUM_ON_THE_SERVER, "patient.py": PATIENT})
    config = json.loads((made / "app" / "config" / "config_fed_server.json").read_text())
    config["workflows"] = [
        {"id": "w", "path": "patient.Patient", "args": {"aggregator_id": "aggregator", "persistor_id": "persistor"}}
    ]
    config["components"] = [
        {"id": "aggregator", "path": "momentum.Momentum"}, {"id": "persistor", "path": "NPModelPersistor"}
    ]  # fmt: skip
    (made / "app" / "config" / "config_fed_server.json").write_text(json.dumps(config))
    whole = run(made, "-n", 2, "-t", 2, "--seed", 7, workspace=tmp_path / "whole")
    with Running(made, "-n", 2, "-t", 2, "--seed", 7, env={"SLOW": "0.1"}) as running:
        running.wait_until_told("RoundFinished", 2)
        os.kill(running.pids()["server"], signal.SIGKILL)
        cut = running.outcome()

    resumed = run(made, "--resume")

    assert (whole.code, cut.code, resumed.code) == (0, 4, 0), resumed
    assert resumed.report["digest"] == whole.report["digest"]
    assert "cannot be resumed" not in whole.out + whole.err + resumed.out + resumed.err


def test_what_a_component_cannot_keep_is_named_and_ends_the_run(tmp_path):
    bad = MOMENTUM_ON_THE_SERVER.replace('{"velocity": self._velocity, "rounds"', '{"sites": [{"a"}], "rounds"')
    made = job(
        tmp_path / "job", CHANGES, files={"momentum.py": bad}, components={"aggregator": {"path": "momentum.Momentum"}}
    )

    ended = run(made, "-n", 2, "-t", 2)

    assert ended.code == 4
    assert "state of aggregator['sites'][0] is a set, which cannot be kept or sent" in ended.err
