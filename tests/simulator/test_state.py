"""What sites and components keep from round to round: in every launch mode and after a kill it is there to the bit."""

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
