"""Sweeps as a whole: every variation is run, a failed one stops no other, and the same command goes on."""

import json
import os
import signal
from contextlib import nullcontext

import pytest
import runs
from runs import Running, eventually, fedsag

from fedsag_cli.errors import FedsagError, WorkspaceError
from fedsag_cli.history.reading import has_run, read_workspace
from fedsag_cli.simulator import simulate
from fedsag_cli.simulator.options import Options
from fedsag_cli.simulator.verify import verify
from fedsag_cli.sweep import Settings, sweep
from fedsag_cli.sweep.checks import planned
from fedsag_cli.sweep.folder import Asked, SweepFolder
from fedsag_cli.sweep.variations import product, read_setting
from fedsag_cli.workspace import Workspace, write_json

ADDS = """
    import os, sys, time
    from pathlib import Path

    import fedsag_cli.client as flare

    step = float(sys.argv[1])
    if step == 2 and "STEP_BREAKS" in os.environ:
        raise ValueError("two is too much")
    flare.init()
    while flare.is_running():
        model = flare.receive()
        gate = Path(sys.argv[2]) if len(sys.argv) > 2 else None
        while gate and model.current_round == 1 and not gate.exists():
            time.sleep(0.01)
        mean = float(sum(array.mean() for array in model.params.values()))
        flare.send(flare.FLModel(params={k: v + step for k, v in model.params.items()}, metrics={"mean": mean}))
"""
STEPS = "command=python3 custom/train.py 1,python3 custom/train.py 2,python3 custom/train.py 3"


def sweeping(job, *words, env=None, workspace=None):
    return Running(job, "-n", 2, "-t", 2, *words, command="sweep", env=env, workspace=workspace)


def ended(job, *words, env=None, workspace=None):
    """`fedsag sweep` to its end; nothing may outlive it."""
    with sweeping(job, *words, env=env, workspace=workspace) as running:
        outcome = running.outcome()
    assert outcome.left_alive == []
    assert outcome.left_in_tmp == []
    return outcome


def is_in_round_1(events):
    told = [json.loads(line) for line in events.read_text().splitlines(keepends=True) if line.endswith("\n")]
    return any(each["event"] == "RoundStarted" and each["round_num"] == 1 for each in told)


def results_of(folder):
    return {each["name"]: each for each in json.loads((folder / "report.json").read_text())["results"]}


class Swept:
    """A sweep in which the runs with one value failed, and the same command where they do not."""

    def __init__(self, folder):
        self.home = {"FEDSAG_HOME": str(folder / "home")}
        self.job = runs.job(folder / "job", ADDS)
        self.folder = folder / "ws"
        words = ["--set", STEPS, "--seeds", "1..2", "--jobs", 2]
        self.first = ended(self.job, *words, env=self.home | {"STEP_BREAKS": "1"})
        self.failed = results_of(self.folder)
        self.events = {each: (self.folder / each / "events.jsonl").stat().st_mtime_ns for each in self.failed}
        self.second = ended(self.job, *words, env=self.home)
        self.mended = results_of(self.folder)


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    return Swept(tmp_path_factory.mktemp("sweep"))


@pytest.mark.slow
def test_a_run_that_fails_stops_no_other_and_the_exit_code_says_so(swept):
    assert swept.first.code == 4, str(swept.first)
    assert [each["status"] for each in swept.failed.values()] == ["finished"] * 2 + ["failed"] * 2 + ["finished"] * 2
    assert "2 of 6 runs failed" in swept.first.err
    assert swept.first.err.count("two is too much") == 1  # alike failures are told once
    assert "003-" in swept.first.err
    assert "004-" in swept.first.err


@pytest.mark.slow
def test_the_same_command_runs_again_what_failed_and_keeps_what_is_done(swept):
    assert swept.second.code == 0, str(swept.second)
    for name, each in swept.mended.items():
        assert each["status"] == "finished"
        assert each["is_earlier"] == (swept.failed[name]["status"] == "finished")
        is_same = (swept.folder / name / "events.jsonl").stat().st_mtime_ns == swept.events[name]
        assert is_same == each["is_earlier"]


@pytest.mark.slow
def test_the_table_has_the_best_variation_first_with_the_mean_over_the_seeds(swept):
    lines = [" ".join(line.split()) for line in swept.second.out.splitlines()]

    heads = next(number for number, line in enumerate(lines) if line.startswith("command best mean last"))
    assert [line.split("train.py ")[1][:1] for line in lines[heads + 1 : heads + 4]] == ["3", "2", "1"]
    assert "mean ± standard deviation over 2 seeds" in lines
    assert f"page {swept.folder}/report.html" in lines
    assert "Sweep of job" in (swept.folder / "report.html").read_text()


@pytest.mark.slow
def test_every_run_is_one_of_its_own_in_the_list_of_runs(swept):
    numbers = [each["run"] for each in swept.mended.values()]

    query = ["runs", "query", "select number, status from runs", "--format", "json"]
    listed = fedsag(*query, cwd=swept.folder, env=swept.home)

    known = {row["number"]: row["status"] for row in json.loads(listed.out)}
    assert len(set(numbers)) == 6
    assert {known[number] for number in numbers} == {"finished"}


@pytest.mark.slow
def test_a_run_of_a_sweep_ends_with_the_model_that_it_has_alone(swept, tmp_path):
    words = ["-n", 2, "-t", 2, "--seed", 2, "--set", "command=python3 custom/train.py 3"]

    alone = runs.run(swept.job, *words, workspace=tmp_path / "alone")

    of_sweep = list(swept.mended.values())[-1]
    assert (of_sweep["chosen"], of_sweep["seed"]) == (["python3 custom/train.py 3"], 2)
    assert of_sweep["digest"] == alone.report["digest"]


@pytest.mark.slow
def test_what_the_database_has_with_the_same_plan_is_not_run_again_if_that_is_wanted(swept, tmp_path):
    words = ["--set", "command=python3 custom/train.py 3,python3 custom/train.py 4", "--seeds", "2", "--needed"]

    outcome = ended(swept.job, *words, env=swept.home, workspace=tmp_path / "needed")

    known, new = results_of(tmp_path / "needed").values()
    assert outcome.code == 0, str(outcome)
    assert (known["is_earlier"], new["is_earlier"]) == (True, False)
    assert known["workspace"].startswith(str(swept.folder))
    assert not (tmp_path / "needed" / known["name"]).exists()
    assert f"run {known['run']}, made before" in outcome.out


@pytest.mark.slow
def test_another_sweep_does_not_take_the_place_of_one_that_is_there(swept):
    for words, what in (
        (["--set", STEPS, "--seeds", "1..3"], "--seeds"),
        (["--set", STEPS.replace("py 3", "py 4"), "--seeds", "1..2"], "--set"),
        (["--set", STEPS, "--seeds", "1..2", "--torch-threads", 1], "--torch-threads"),
    ):
        refused = ended(swept.job, *words, env=swept.home)

        assert refused.code == 2
        assert what in refused.err
        assert "--force" in refused.err
    assert results_of(swept.folder) == swept.mended


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_sweep_that_is_stopped_leaves_no_process_and_the_same_command_goes_on(tmp_path, number):
    gate = tmp_path / "gate"
    job = runs.job(tmp_path / "job", ADDS, num_rounds=3)
    words = ["--set", f"command=python3 custom/train.py 1 {gate},python3 custom/train.py 3 {gate}", "--jobs", 2]
    folder = tmp_path / "ws"

    with sweeping(job, *words) as running:
        eventually(lambda: sum(is_in_round_1(events) for events in folder.glob("*/events.jsonl")) == 2)
        os.kill(running.process.pid, number)
        stopped = running.outcome()
    gate.touch()
    went_on = ended(job, *words)

    assert stopped.code == (130 if number == signal.SIGINT else -9), str(stopped)
    assert stopped.left_alive == []
    assert went_on.code == 0, str(went_on)
    for name in results_of(folder):
        report = json.loads((folder / name / "report.json").read_text())
        assert report["resumed_at"] == [1]
        assert [each["round_num"] for each in report["rounds"]] == [0, 1, 2]
    if number == signal.SIGINT:
        assert "the same command again goes on" in stopped.err
        assert stopped.left_in_tmp == []


@pytest.mark.slow
def test_without_fork_each_run_has_interpreters_of_its_own_and_force_begins_anew(tmp_path):
    job = runs.job(tmp_path / "job", ADDS)
    mine = tmp_path / "ws" / "notes.txt"
    mine.parent.mkdir()
    mine.write_text("of the user")
    words = ["--set", "command=python3 custom/train.py 1", "--set", "num_rounds=1,2"]
    env = {"FEDSAG_HOME": str(tmp_path / "home")}

    spawned = ended(job, *words, "--launcher", "spawn", "--format", "json", env=env)
    before = results_of(tmp_path / "ws")
    anew = ended(job, "--set", "command=python3 custom/train.py 1", "--seeds", "5,6", "--force", "-q", env=env)

    told = [json.loads(line) for line in spawned.out.splitlines()]
    assert spawned.code == 0, str(spawned)
    assert [each["event"] for each in told] == ["SweepRunEnded", "SweepRunEnded", "SweepEnded"]
    assert [each["digest"] for each in told[2]["report"]["results"]] == [each["digest"] for each in before.values()]
    assert [each["workspace"] for each in before.values()] == ["001-num_rounds=1", "002-num_rounds=2"]
    assert anew.code == 0, str(anew)
    assert sorted(path.name for path in (tmp_path / "ws").iterdir() if path.name[0] != ".") == [
        "001-seed=5", "002-seed=6", "notes.txt", "report.html", "report.json", "sweep.json",
    ]  # fmt: skip
    assert mine.read_text() == "of the user"


class Nobody:
    """Watches a sweep that never begins."""

    def ended(self, *_):
        raise AssertionError("a run ended")

    look = ended


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"sets": ["num_round=2,3"]}, "num_round"),
        ({"sets": ["num_rounds=2,"]}, "empty"),
        ({"sets": ["num_rounds=2,few"]}, "num_rounds=few"),
        ({"sets": ["num_rounds=2,-1"]}, "--set num_rounds=-1"),
        ({"sets": ["command=python3 custom/train.py 1,python3 custom/none.py"]}, "none.py"),
        ({"sets": [f"min_clients={','.join(map(str, range(1, 102)))}"], "seeds": range(100)}, "10,100 runs"),
        ({"sets": ["num_rounds=2,3,02"]}, "--set num_rounds=2 and --set num_rounds=02 are the same"),
        ({"seeds": [1, 2], "jobs": 0}, "--jobs 0"),
        ({"seeds": [1, 2], "options": Options(num_clients=0)}, "-n 0"),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_what_is_wrong_is_one_error_before_anything_begins(tmp_path, settings, says):
    job = runs.job(tmp_path / "job", ADDS, args="1")

    with pytest.raises(FedsagError) as refused:
        sweep(job, tmp_path / "ws", Settings(**{"options": Options(num_clients=2, slots=2), **settings}), Nobody())

    assert says in refused.value.message
    assert not (tmp_path / "ws").exists()


@pytest.mark.parametrize(("name", "why"), [("mine", "Not a directory"), ("x" * 300, "File name too long")])
def test_a_folder_that_is_none_is_named(tmp_path, name, why):
    job = runs.job(tmp_path / "job", ADDS, args="1")
    (tmp_path / "mine").write_text("of the user")

    with pytest.raises(WorkspaceError, match=f"{name} cannot be read: {why}"):
        sweep(job, tmp_path / name, Settings(seeds=[1, 2], options=Options(num_clients=2)), Nobody())


def test_a_folder_with_something_else_in_it_is_left_as_it_is(tmp_path):
    job = runs.job(tmp_path / "job", ADDS, args="1")
    for name, text in (("sweep.json", "{}"), ("plan.json", "{}")):
        (tmp_path / name[:4]).mkdir()
        (tmp_path / name[:4] / name).write_text(text)

        with pytest.raises(FedsagError, match="another folder"):
            sweep(job, tmp_path / name[:4], Settings(seeds=[1, 2], options=Options(num_clients=2)), Nobody())

        assert [path.name for path in (tmp_path / name[:4]).iterdir()] == [name]


def a_sweep(root, *words):
    """What a sweep over these values of num_rounds, with seed 0, has left before its first run."""
    place = SweepFolder(root)
    place.take()
    place.begin(Asked(job="job", sets=[f"num_rounds={','.join(words)}"], seeds=[0], options={}, plan="", runs=[]))
    place.release()
    return place


@pytest.mark.parametrize("options", [{"force": True}, {"resume": True}, {"resume": True, "at": "1"}], ids=str)
def test_a_run_does_not_take_the_place_of_a_sweep(tmp_path, options):
    job = runs.job(tmp_path / "job", ADDS, args="1")
    a_sweep(tmp_path / "ws", "1", "2")
    before = sorted(tmp_path.rglob("*"))

    with pytest.raises(WorkspaceError, match="has a sweep"):
        simulate(job, tmp_path / "ws", Options(num_clients=2, **options))

    assert sorted(tmp_path.rglob("*")) == before


def test_a_path_that_cannot_be_a_folder_has_no_sweep(tmp_path):
    assert not Workspace(tmp_path / ("x" * 300)).has_sweep


def test_the_folder_of_a_sweep_is_no_run(tmp_path):
    (a_sweep(tmp_path / "ws", "1", "2").root / "report.json").write_text('{"format": 1, "job": "np"}')

    assert not has_run(tmp_path / "ws")
    for look in (read_workspace, verify):
        with pytest.raises(WorkspaceError, match="has a sweep, whose runs are in folders of their own"):
            look(tmp_path / "ws")


@pytest.mark.parametrize(
    ("words", "seed", "clients", "says"),
    [
        (["num_rounds=1"], 0, 2, None),
        (["num_rounds=2"], 0, 2, "its --set is num_rounds=2, and not num_rounds=1"),
        (["num_rounds=1"], 7, 2, "its --seed is 7, and not 0"),
        (["num_rounds=1"], 0, 1, "its -c is site-1, and not site-1, site-2"),
    ],
)
def test_a_run_that_is_not_of_the_sweep_is_not_taken_for_one_of_it(tmp_path, words, seed, clients, says):
    job = runs.job(tmp_path / "job", ADDS, args="1", min_clients=1)
    place = a_sweep(tmp_path / "ws", "1", "2")
    variations = product([read_setting("num_rounds=1,2")], [0])
    root = place.run(variations[0].name)
    root.mkdir()
    write_json(root / "plan.json", planned(job, Options(sets=words, seed=seed, num_clients=clients), root))

    with pytest.raises(WorkspaceError, match=says) if says else nullcontext():
        place.check_runs(variations, ["site-1", "site-2"])


def test_two_sweeps_do_not_use_one_folder_at_once(tmp_path):
    job = runs.job(tmp_path / "job", ADDS, args="1")

    with Workspace(tmp_path / "ws") as other:
        other.take()
        with pytest.raises(FedsagError, match="is used by another run"):
            sweep(job, tmp_path / "ws", Settings(seeds=[1, 2], options=Options(num_clients=2)), Nobody())
