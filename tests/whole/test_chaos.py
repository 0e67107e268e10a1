"""Faults drawn by a seed: who fails, how, in which round. What comes of the run can be foretold, to the last number.

FEDSAG_CHAOS=100 draws a hundred runs instead of the few that are run with the other tests.
"""

import json
import os
import random
from dataclasses import dataclass, field

import numpy as np
import pytest
from runs import job, run

RUNS = int(os.environ.get("FEDSAG_CHAOS", "8"))
SCRIPT = """
    import json, os, sys, time
    import numpy as np
    import fedsag_cli.client as flare

    SITE = os.environ["FEDSAG_SITE"]
    FAULTS = json.load(open("custom/faults.json")).get(SITE, {})
    STEP = int(SITE[-1])

    def commit(fault, params):
        if fault == "raises":
            raise ValueError("as foretold")
        if fault == "exits":
            sys.exit(3)
        if fault == "ends":
            sys.exit(0)
        if fault == "is killed":
            os.kill(os.getpid(), 9)
        if fault == "vanishes":
            os._exit(0)
        if fault == "crashes":
            os.abort()
        if fault == "hangs":
            time.sleep(1000)
        if fault == "babbles":
            flare._last[0]._session._channel._sock.sendall(b"\\xff" * 64)
        if fault == "NaN":
            params["numpy_key"][1, 1] = np.nan
        if fault == "infinity":
            params["numpy_key"] /= 0
        if fault == "wrong shape":
            params["numpy_key"] = np.ones(4, np.float32)
        if fault == "wrong kind":
            params["numpy_key"] = np.ones((3, 3), np.int64)
        if fault == "wrong key":
            params["other"] = params["numpy_key"]
        if fault == "nothing":
            params = {}
        return params

    if "start" in FAULTS:
        commit(FAULTS["start"], {})
    flare.init()
    while flare.is_running():
        model = flare.receive()
        params = {k: v + STEP for k, v in model.params.items()}
        params = commit(FAULTS.get(str(model.current_round)), params)
        flare.send(flare.FLModel(params=params, meta={"NUM_STEPS_CURRENT_ROUND": STEP}))
"""
ENDS = {
    "raises": "ValueError: as foretold",
    "exits": "the script called sys.exit(3)",
    "ends": "its script ended w",
    "is killed": "killed by signal 9 (SIGKILL): perhaps out of memory",
    "vanishes": "its script ended w",
    "crashes": "killed by signal 6 (SIGABRT)",
}
BREAKS = {**ENDS, "hangs": "no answer", "babbles": "it sent a message"}
SENDS = {
    "NaN": "has 1 numbers that are NaN or infinite",
    "infinity": "has 9 numbers that are NaN or infinite",
    "wrong shape": "has shape [4], the model that was sent has [3, 3]",
    "wrong kind": "is int64, the model that was sent has float32",
    "wrong key": "'other' was not in the model that was sent",
    "nothing": "has no params",
}


@dataclass
class Story:
    """A run that is to be: `faults` by site and round ("start" is before the first)."""

    clients: int
    slots: int
    rounds: int
    min_clients: int
    launcher: str
    faults: dict[str, dict[str, str]] = field(default_factory=dict)

    @classmethod
    def drawn(cls, seed):
        draw = random.Random(seed)
        clients = draw.randint(2, 4)
        story = cls(
            clients=clients,
            slots=draw.randint(1, clients),
            rounds=draw.randint(1, 4),
            min_clients=draw.randint(1, clients),
            launcher=draw.choice(["fork", "fork", "spawn"]),
        )
        for number in draw.sample(range(1, clients + 1), draw.randint(1, clients)):
            faults = {str(draw.randrange(story.rounds)): draw.choice([*BREAKS, *SENDS, *SENDS])}
            if draw.random() < 0.2:
                faults = {"start": draw.choice(list(ENDS))}
            story.faults[f"site-{number}"] = faults
        return story

    def foretold(self):
        """Who answers in each round, the first cause of each failure, and the model, as a whole run would have it."""
        model, out, answered, causes = 1.0, set(), [], {}
        for round_num in range(self.rounds):
            here = []
            for site in (f"site-{number}" for number in range(1, self.clients + 1)):
                faults = self.faults.get(site, {})
                fault = faults.get("start") or faults.get(str(round_num))
                if fault and site not in out:
                    causes.setdefault(site, (round_num, (BREAKS | SENDS)[fault]))
                if fault in BREAKS:
                    out.add(site)
                if site not in out and not fault:
                    here.append(site)
            answered.append(here)
            if len(here) < self.min_clients:
                return answered, causes, None
            steps = [int(site[-1]) for site in here]
            if steps:
                model += sum(step * step for step in steps) / sum(steps)
        return answered, causes, model


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(RUNS))
def test_what_comes_of_a_run_is_what_its_faults_make_of_it(tmp_path, seed):
    story = Story.drawn(seed)
    answered, causes, model = story.foretold()
    made = job(
        tmp_path / "job", SCRIPT, files={"faults.json": json.dumps(story.faults)}, num_rounds=story.rounds,
        min_clients=story.min_clients, train_timeout=1.5 if "hangs" in str(story.faults) else 0,
        wait_time_after_min_received=60,
    )  # fmt: skip

    outcome = run(made, "-n", story.clients, "-t", story.slots, "--launcher", story.launcher)

    assert outcome.code == (4 if model is None else 0), (story, outcome)
    rounds = outcome.report["rounds"]
    whole = answered if model is not None else answered[:-1]
    assert [each["answered"] for each in rounds if each["is_whole"]] == whole, story
    told = {site: (first["round_num"], first["failure"]["cause"]) for site, first in outcome.report["failures"].items()}
    if model is not None:
        assert set(told) == set(causes), story
        final = np.load(tmp_path / "ws" / "server" / "simulate_job" / "models" / "server.npy")
        assert final[0, 0] == pytest.approx(model, rel=1e-5)
        assert np.isfinite(final).all()
    for site, (round_num, cause) in told.items():
        assert causes[site][1] in cause, story
        assert causes[site][0] == round_num, story
        assert f", round {round_num}, train: " in outcome.err or model is not None
