"""Going on with a run that was ended: whatever ended it, it comes to what it would have come to, or says why not.

FEDSAG_CHAOS=10 draws ten sets of moments to kill at, instead of two.
"""

import contextlib
import json
import os
import random
import re
import shlex
import shutil
import signal
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
from runs import ADDS_ONE, Running, app, deploy, eventually, fedsag, job, run, torch_job

ROUNDS = 12
DRAWS = """
    import os, time
    import numpy as np
    import fedsag_cli.client as flare

    site = int(os.environ["FEDSAG_SITE"][-1])
    flare.init()
    while flare.is_running():
        model = flare.receive()
        mean = float(np.mean([np.abs(array).mean() for array in model.params.values()]))
        if flare.is_evaluate():
            flare.send(flare.FLModel(metrics={"mean": mean}))
            continue
        time.sleep(0.004 * (4 - site))
        params = {k: v + site * np.random.standard_normal(v.shape).astype(v.dtype) for k, v in model.params.items()}
        flare.send(flare.FLModel(params=params, metrics={"mean": mean}, meta={"NUM_STEPS_CURRENT_ROUND": site}))
"""
LEFT = {"server.npy", "best_server.npy"}


def draws(folder, script=DRAWS, **settings):
    """Three sites, whose updates differ by site and round and come in reversed order."""
    return job(folder, script, **{"num_rounds": ROUNDS, "min_clients": 3, "tasks": ["train", "validate"]} | settings)


def models(workspace):
    folder = workspace / "server" / "simulate_job" / "models"
    return {path.name: np.load(path).tobytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    outcome = run(draws(folder / "job"), "-n", 3, "-t", 3, "--seed", 11)
    assert outcome.code == 0, outcome
    assert set(models(outcome.workspace)) == LEFT
    return outcome


def parent_of(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


CODES = {"command": [-signal.SIGKILL], "interrupted": [128 + signal.SIGTERM, -signal.SIGTERM]}


def kill(running, who, after_s):
    """SIGKILL to one process of a run, `after_s` seconds after it is there; SIGTERM to the command, "interrupted"."""
    there = "server" if who == "nursery" else who
    if who not in CODES:
        eventually(lambda: there in running.pids() or running.process.poll() is not None)
    time.sleep(after_s)
    with contextlib.suppress(OSError, KeyError):  # it has ended by now
        pid = running.process.pid if who in CODES else running.pids()[there]
        number = signal.SIGTERM if who == "interrupted" else signal.SIGKILL
        os.kill(parent_of(pid) if who == "nursery" else pid, number)


@pytest.mark.slow
@pytest.mark.parametrize("who", ["command", "interrupted", "nursery", "server", "site-1", "site-3"])
@pytest.mark.parametrize("moments", range(int(os.environ.get("FEDSAG_CHAOS", "2"))), ids="moments {}".format)
def test_whoever_is_killed_whenever_the_run_goes_on_to_the_same_bits(tmp_path, undisturbed, who, moments):
    draw = random.Random(f"{who} {moments}")
    made = draws(tmp_path / "job")
    words = ["-n", 3, "-t", 3, "--seed", 11]
    killed = 0
    for _ in range(3):
        with Running(made, *words) as running:
            kill(running, who, draw.uniform(0.0, 1.2 if who in CODES else 0.4))
            outcome = running.outcome()
        assert outcome.code in (0, *CODES.get(who, [4])), outcome  # SIGTERM may come before or after we hear it
        assert outcome.left_alive == []
        killed += outcome.code != 0
        if (tmp_path / "ws" / ".fedsag").exists():
            words = ["--resume"] if (tmp_path / "ws" / "plan.json").exists() else [*words[:6], "--resume"]

    outcome = run(made, *words)

    assert outcome.code == 0, outcome
    assert outcome.report["digest"] == undisturbed.report["digest"]
    assert models(outcome.workspace) == models(undisturbed.workspace)
    assert outcome.report["best"] == undisturbed.report["best"]
    assert outcome.report["final_metrics"] == undisturbed.report["final_metrics"]
    for mine, theirs in zip(outcome.report["rounds"], undisturbed.report["rounds"], strict=True):
        assert (mine["round_num"], mine["answered"], mine["metrics"]) == (
            theirs["round_num"], theirs["answered"], theirs["metrics"],
        )  # fmt: skip
        assert mine["is_whole"]
    checkpoints = outcome.workspace / "server" / "simulate_job" / "checkpoints"
    assert [path.name for path in checkpoints.glob("*.safetensors")] == [f"round-{ROUNDS - 1:06d}.safetensors"]
    assert not list(outcome.workspace.rglob("*.part"))
    assert len(outcome.told("RunStarted")) <= killed + 2


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["fork", "spawn"])
def test_a_torch_run_goes_on_to_the_same_bits(tmp_path, launcher):
    script = """
        import os, time
        import torch
        import fedsag_cli.client as flare
        from net import Net

        flare.init()
        net = Net()
        while flare.is_running():
            model = flare.receive()
            net.load_state_dict(model.params)
            for _ in range(5):
                net.zero_grad()
                net(torch.randn(8, 4)).square().sum().backward()
                with torch.no_grad():
                    for w in net.parameters():
                        w -= 0.1 * w.grad
            flare.send(flare.FLModel(params=net.state_dict(), metrics={"mean": float(net.bias.mean())}))
    """
    made = torch_job(tmp_path / "job", script, num_rounds=40, persist_every_n_rounds=0)
    whole = run(made, "-n", 2, "-t", 2, "--seed", 3, workspace=tmp_path / "whole")

    with Running(made, "-n", 2, "-t", 1, "--seed", 3, "--launcher", launcher) as running:
        running.wait_until_told("RoundFinished", 5)
        running.process.kill()
        assert running.outcome().left_alive == []
    resumed = run(made, "--resume")

    assert resumed.code == 0, resumed
    assert resumed.report["launcher"] == launcher
    assert resumed.report["resumed_at"][0] >= 5
    assert resumed.report["digest"] == whole.report["digest"]
    assert "resumed: " in resumed.out


@pytest.fixture
def failed(tmp_path):
    """A run that ended in round 1, and its job."""
    fails = ADDS_ONE.replace("        mean =", "        assert model.current_round < 1, 'worn out'\n        mean =")
    made = job(tmp_path / "job", fails, num_rounds=3)
    outcome = run(made, "-n", 2, "-t", 2, "--seed", 4)
    assert outcome.code == 4
    assert "1 round done. Continue with the job unchanged: fedsag simulator " in outcome.err
    return made


def test_what_the_run_was_told_need_not_be_said_again(failed, tmp_path):
    outcome = run(failed, "--resume")

    started = outcome.told("RunStarted")
    assert [(each["sites"], each["slots"], each["seed"]) for each in started] == [(["site-1", "site-2"], 2, 4)] * 2
    assert "resumed: 1 round done" in outcome.out
    assert [each["round_num"] for each in outcome.told("RoundStarted")] == [0, 1, 1]
    assert [each["answered"] for each in outcome.report["rounds"]] == [["site-1", "site-2"], []]
    assert {each["round_num"] for each in outcome.report["failures"].values()} == {1}


def test_the_command_that_a_failed_run_hints_at_continues_it(tmp_path):
    folder = tmp_path / "a folder"
    fails = ADDS_ONE.replace("        mean =", "        assert model.current_round < 2, 'worn out'\n        mean =")
    outcome = run(job(folder / "my job", fails, num_rounds=3), "-n", 2, workspace=folder / "my runs")
    command = re.search(r"2 rounds done\. Continue with the job unchanged: (.*)", outcome.err)[1]

    words = shlex.split(command)
    again = fedsag(*words[1:], cwd=Path("/"))

    assert words[0] == "fedsag"
    assert "resumed: " in again.out
    assert again.code == 4
    assert command in again.err


def test_values_that_were_set_for_the_run_need_not_be_set_again_and_others_are_refused(tmp_path):
    fails = ADDS_ONE.replace("        mean =", "        assert model.current_round < 1, 'worn out'\n        mean =")
    made = job(tmp_path / "other", fails, num_rounds=3)
    run(made, "-n", 2, "-t", 2, "--seed", 4, "--set", "num_rounds=2", workspace=tmp_path / "set")

    resumed = run(made, "--resume", workspace=tmp_path / "set")
    other = run(made, "--resume", "--set", "num_rounds=5", workspace=tmp_path / "set")

    assert "resumed: 1 round done" in resumed.out
    assert resumed.report["num_rounds"] == 2
    assert resumed.report["overrides"] == ["num_rounds=2"]
    assert other.code == 2
    assert "server.workflows[0].args.num_rounds was 2 and is 5" in other.err


def test_how_many_work_at_a_time_may_change(failed):
    assert run(failed, "--resume", "-t", 1).told("RunStarted")[1]["slots"] == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--seed", 5], "--seed: the run to resume has 4, not 5"),
        (["-n", 3], "-n: the run to resume has site-1, site-2, not site-1, site-2, site-3"),
        (["-c", "a,b"], "-c: the run to resume has site-1, site-2, not a, b"),
        (["--torch-threads", 7], "--torch-threads: the run to resume has"),
    ],
)
def test_another_seed_or_other_clients_are_refused(failed, tmp_path, words, said):
    before = sorted(tmp_path.rglob("*"))

    outcome = run(failed, "--resume", *words)

    assert outcome.code == 2
    assert said in outcome.err
    assert sorted(tmp_path.rglob("*")) == before


def _edit_script(made):
    path = made / "app" / "custom" / "train.py"
    path.write_text(path.read_text() + "# other\n")


def _edit_rounds(made):
    path = made / "app" / "config" / "config_fed_server.json"
    config = json.loads(path.read_text())
    config["workflows"][0]["args"]["num_rounds"] = 9
    path.write_text(json.dumps(config))


def _edit_arguments(made):
    path = made / "app" / "config" / "config_fed_client.json"
    path.write_text(path.read_text().replace("train.py ", "train.py --lr 1"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_edit_script, "app/custom/train.py has changed"),
        (lambda made: (made / "app" / "custom" / "data.csv").write_text("1"), "app/custom/data.csv is new"),
        (_edit_rounds, "server.workflows[0].args.num_rounds was 3 and is 9"),
        (_edit_arguments, "sites.site-1.args was [] and is ['--lr', '1']"),
        (lambda made: deploy(made, other=["@ALL"]), "app/custom/train.py was removed"),
    ],
    ids=["script", "new file", "rounds", "arguments", "app"],
)
def test_a_job_that_changed_is_refused_naming_what_changed(failed, tmp_path, change, said):
    app(failed / "other", ADDS_ONE)
    change(failed)

    outcome = run(failed, "--resume")

    assert outcome.code == 2
    assert said in outcome.err
    assert "give --force in place of --resume" in outcome.err


def test_a_comment_in_a_config_changes_nothing(tmp_path):
    made = job(tmp_path / "job", "raise ValueError")
    assert run(made, "-n", 2).code == 4
    path = made / "app" / "config" / "config_fed_server.json"
    path.write_text(json.dumps(json.loads(path.read_text()), indent=4))

    assert "ValueError" in run(made, "--resume").err


def test_a_finished_run_says_so_and_is_left_as_it_is(tmp_path):
    made = job(tmp_path / "job")
    first = run(made, "-n", 2, "-t", 2)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "ws").rglob("*.*") if path.is_file()}

    again = run(made, "--resume")

    assert again.code == 0
    assert "this run is complete: there is nothing left to do" in again.out
    assert first.report["digest"] in again.out
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_finished_run_in_json_says_so_too(tmp_path):
    made = job(tmp_path / "job")
    run(made, "-n", 2, "-t", 2)

    again = run(made, "--resume", "--format", "json")

    assert [json.loads(line)["event"] for line in again.out.splitlines()] == ["Notice"]


def test_where_no_run_is_there_is_none_to_go_on_with(tmp_path):
    outcome = run(job(tmp_path / "job"), "--resume")

    assert outcome.code == 2
    assert f"there is no run in {tmp_path}/ws to continue" in outcome.err
    assert not (tmp_path / "ws").exists()


def test_a_run_that_ended_before_its_plan_was_written_becomes_a_new_run_and_says_so(tmp_path):
    made = job(tmp_path / "job")
    run(made, "-n", 2, "-t", 2)
    (tmp_path / "ws" / "plan.json").unlink()

    outcome = run(made, "--resume", "-n", 2, "-t", 2)

    assert outcome.code == 0
    assert "this is a new run" in outcome.out


def test_a_plan_that_is_none_is_said(tmp_path):
    made = job(tmp_path / "job")
    run(made, "-n", 2, "-t", 2)
    (tmp_path / "ws" / "plan.json").write_text("{}")

    outcome = run(made, "--resume")

    assert outcome.code == 2
    assert "plan.json is not a plan that fedsag wrote" in outcome.err


def test_a_broken_checkpoint_is_named(failed, tmp_path):
    checkpoint = tmp_path / "ws" / "server" / "simulate_job" / "checkpoints" / "round-000000.safetensors"
    checkpoint.write_bytes(checkpoint.read_bytes()[:20])

    outcome = run(failed, "--resume")

    assert outcome.code == 4
    assert f"{checkpoint} is no checkpoint of this run" in outcome.err
    assert "Continue" not in outcome.err
    assert not outcome.report["ok"]


def test_a_run_goes_on_in_a_workspace_that_was_moved(tmp_path):
    made = draws(tmp_path / "job")
    with Running(made, "-n", 3, "-t", 3, "--seed", 11) as running:
        running.wait_until_told("RoundFinished", 2)
        running.process.kill()
        running.outcome()
    shutil.move(tmp_path / "ws", tmp_path / "elsewhere")

    outcome = run(made, "--resume", workspace=tmp_path / "elsewhere")

    assert outcome.code == 0, outcome
    assert outcome.told("RunStarted")[1]["workspace"] == f"{tmp_path}/elsewhere"


def test_other_libraries_than_the_run_began_with_are_said(failed, tmp_path):
    events = tmp_path / "ws" / "events.jsonl"
    events.write_text(events.read_text().replace('"numpy":"', '"numpy":"0.'))

    assert "numpy was 0." in run(failed, "--resume").out


def test_what_the_first_part_of_a_run_told_is_kept(failed, tmp_path):
    size = len((tmp_path / "ws" / "events.jsonl").read_bytes())
    first = (tmp_path / "ws" / "events.jsonl").read_bytes()

    run(failed, "--resume")

    assert (tmp_path / "ws" / "events.jsonl").read_bytes()[:size] == first


@pytest.mark.parametrize("words", [["--seed", 0], ["--torch-threads", 0]])
def test_nought_is_another_value_too(failed, words):
    assert run(failed, "--resume", *words).code == 2


def test_no_slot_is_refused_as_in_a_new_run(failed):
    outcome = run(failed, "--resume", "-t", 0)

    assert outcome.code == 2
    assert "-t 0: it must be at least 1" in outcome.err


ONE_FAILS = ADDS_ONE.replace(
    "        mean =",
    "        assert flare.get_site_name() == 'site-1' or model.current_round != 1, 'worn out'\n"
    "        assert model.current_round < 3, 'the end'\n        mean =",
)


def test_a_run_that_was_strict_stays_so(tmp_path):
    made = job(tmp_path / "job", ONE_FAILS, num_rounds=3, min_clients=1)
    assert run(made, "-n", 2, "-t", 2, "--strict").code == 4

    assert run(made, "--resume").code == 4


def test_strict_comes_too_late_where_a_client_failed_already(tmp_path):
    made = job(tmp_path / "job", ONE_FAILS, num_rounds=5, min_clients=1)
    assert run(made, "-n", 2, "-t", 2).code == 4
    before = (tmp_path / "ws" / "report.json").read_bytes()

    outcome = run(made, "--resume", "--strict")

    assert outcome.code == 2
    assert "--strict: no client may fail, but site-2 failed in round" in outcome.err
    assert (tmp_path / "ws" / "report.json").read_bytes() == before


def test_a_finished_run_in_which_a_client_failed_is_no_strict_one(tmp_path):
    made = job(tmp_path / "job", ONE_FAILS, num_rounds=3, min_clients=1)
    assert run(made, "-n", 2, "-t", 2).code == 0

    assert run(made, "--resume").code == 0
    assert run(made, "--resume", "--strict").code == 4


def test_what_an_earlier_process_printed_is_not_shown_for_a_later_one(tmp_path):
    fails = ADDS_ONE.replace(
        "        mean =",
        "        import os\n        if 'KILLED' in os.environ: os.kill(os.getpid(), 9)\n"
        "        assert model.current_round < 1, 'worn out'\n        mean =",
    )
    made = job(tmp_path / "job", fails, num_rounds=3)
    assert "worn out" in run(made, "-n", 2, "-t", 2).err

    outcome = run(made, "--resume", env={"KILLED": "1"})

    assert "signal 9" in outcome.err
    assert "worn out" not in outcome.err + outcome.out
    assert " at " not in outcome.err


def test_another_file_beside_the_configs_is_part_of_the_job(failed):
    (failed / "app" / "config" / "extra.json").write_text("{}")

    assert "app/config/extra.json is new" in run(failed, "--resume").err


def test_an_app_that_is_gone_from_the_workspace_is_put_there_again(failed, tmp_path):
    shutil.rmtree(tmp_path / "ws" / "site-2")

    assert "worn out" in run(failed, "--resume").err


def test_a_users_copy_of_a_checkpoint_is_none(failed, tmp_path):
    checkpoints = tmp_path / "ws" / "server" / "simulate_job" / "checkpoints"
    (checkpoints / "round-mine.safetensors").write_text("mine")

    assert "worn out" in run(failed, "--resume").err
    assert (checkpoints / "round-mine.safetensors").read_text() == "mine"


def test_notices_are_not_doubled_and_a_moved_runs_models_are_where_it_is(tmp_path):
    made = job(
        tmp_path / "job", "print('note: by the script')\n" + textwrap.dedent(ONE_FAILS), min_clients=9, num_rounds=4
    )
    run(made, "-n", 2, "-t", 2)
    shutil.move(tmp_path / "ws", tmp_path / "moved")

    report = run(made, "--resume", workspace=tmp_path / "moved").report

    assert len(report["notices"]) == len(set(report["notices"]))
    logs = [first["failure"]["log"] for first in report["failures"].values() if first["failure"]["log"]]
    assert logs
    assert all((tmp_path / "moved" / log).is_file() and not log.startswith("/") for log in logs)


def test_a_new_run_does_not_remove_the_rounds_of_an_unfinished_one_unless_it_is_told_to(failed, tmp_path):
    before = (tmp_path / "ws" / "report.json").read_bytes()

    refused = run(failed, "-n", 2, "-t", 2)

    assert refused.code == 2
    assert f"{tmp_path}/ws has 1 complete round of a run that is not finished" in refused.err
    assert "--resume continues it; --force removes it and starts a new run" in refused.err
    assert (tmp_path / "ws" / "report.json").read_bytes() == before
    assert [each["round_num"] for each in run(failed, "-n", 2, "-t", 2, "--force").told("RoundStarted")] == [0, 1]


def test_without_w_the_unfinished_run_is_said_to_be_moved_aside(failed, tmp_path):
    shutil.move(tmp_path / "ws", tmp_path / "simulator_workspace")

    refused = fedsag("simulator", failed, "-n", 2, cwd=tmp_path)

    assert "--force moves it aside and starts a new run" in refused.err


def test_of_a_run_of_another_job_the_command_is_told_that_continues_it(failed, tmp_path):
    refused = run(job(tmp_path / "other"), "--resume")

    assert refused.code == 2
    assert f"the run in {tmp_path}/ws is of the job {failed.name}, not of other" in refused.err
    assert f"to continue it: fedsag simulator {failed} -w {tmp_path}/ws --resume; or give --force" in refused.err


@pytest.mark.parametrize("older", ["", '"format": 1,'], ids=["the first", "the second"])
def test_a_run_of_an_older_version_is_told(older, failed, tmp_path):
    plan = tmp_path / "ws" / "plan.json"
    assert '"format": 3,' in plan.read_text()
    plan.write_text(plan.read_text().replace('"format": 3,', older))

    outcome = run(failed, "--resume")

    assert outcome.code == 2
    assert "was begun by an older version of fedsag, whose files this one cannot continue" in outcome.err


def test_what_only_the_record_knows_is_told_again(tmp_path):
    """The command was killed while it had not read what its server told."""
    fails = ADDS_ONE.replace("        mean =", "        assert model.current_round < 3, 'worn out'\n        mean =")
    made = job(tmp_path / "job", fails, num_rounds=4)
    whole = run(made, "-n", 2, "-t", 2).report["rounds"][:3]
    file = tmp_path / "ws" / "events.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    cut = next(number for number, line in enumerate(lines) if '"ReplyAccepted"' in line and '"round_num":1' in line)
    file.write_text("".join(lines[:cut]))

    outcome = run(made, "--resume")

    assert "resumed: 3 rounds done" in outcome.out
    assert "events.jsonl lacked what happened in complete rounds: it is added" in outcome.out
    assert outcome.report["rounds"][:3] == whole
    assert [each["round_num"] for each in outcome.told("RoundFinished")] == [0, 1, 2]


def test_a_complete_run_whose_model_is_gone_writes_it_again_from_its_checkpoint(tmp_path):
    made = job(tmp_path / "job", num_rounds=2)
    first = run(made, "-n", 2, "-t", 2)
    before = models(tmp_path / "ws")
    (tmp_path / "ws" / "server" / "simulate_job" / "models" / "server.npy").unlink()

    outcome = run(made, "--resume")

    assert "server.npy is gone" in outcome.out
    assert outcome.code == 0, outcome
    assert models(tmp_path / "ws") == before
    assert outcome.report["digest"] == first.report["digest"]
    proven = fedsag("verify", tmp_path / "ws", cwd=tmp_path)
    assert (proven.code, proven.out.splitlines()[0]) == (0, "rounds     2 of 2 proven: 0 to 1")


MOMENTUM = """
    from fedsag_cli.messages import FLModel, ParamsType

    class Momentum:
        def __init__(self):
            self.v, self.got = 0, []

        def accept(self, site, update):
            self.got.append(update.params["numpy_key"].copy())

        def aggregate(self):
            self.v, self.got = 0.5 * self.v + sum(self.got), []
            return FLModel(params_type=ParamsType.DIFF, params={"numpy_key": self.v})
"""


def test_a_component_that_kept_something_is_not_resumed_without_a_word(tmp_path):
    fails = ADDS_ONE.replace("        mean =", "        assert model.current_round < 2, 'worn out'\n        mean =")
    made = job(tmp_path / "job", fails, num_rounds=3, files={"mom.py": textwrap.dedent(MOMENTUM)})
    path = made / "app" / "config" / "config_fed_server.json"
    config = json.loads(path.read_text())
    config["components"] = [
        {"id": "aggregator", "path": "mom.Momentum", "args": {}} if each["id"] == "aggregator" else each
        for each in config["components"]
    ]
    path.write_text(json.dumps(config))
    told = run(made, "-n", 2, "-t", 2)
    assert "note: this run cannot be resumed: no checkpoint has what it keeps between rounds" in told.out

    refused = run(made, "--resume")

    assert refused.code == 2
    assert "aggregator (mom.Momentum): v" in refused.err
    forced = run(made, "--resume", "--force")
    assert "worn out" in forced.err
    assert "note: no checkpoint has what the job's code kept between rounds: aggregator (mom.Momentum): v" in forced.out
