"""Forks: a new run begins after a round of another one, with all that the other one had then and with nothing later."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from runs import job

from fedsag_cli import history
from fedsag_cli.errors import RunError, UsageError, WorkspaceError
from fedsag_cli.history import rows
from fedsag_cli.history.database import open_to_read
from fedsag_cli.history.reading import identity_of
from fedsag_cli.plan import ALL, read_plan
from fedsag_cli.simulator import fork, simulate
from fedsag_cli.simulator.options import Options
from fedsag_cli.simulator.verify import verify
from fedsag_cli.workspace import Workspace

ROUNDS = 6
KEEPS = """
    import sys
    from pathlib import Path
    import numpy as np
    import fedsag_cli.client as flare

    best_round, trap = int(sys.argv[1]), Path(sys.argv[2])
    flare.init()
    site = int(flare.get_site_name()[-1])
    while flare.is_running():
        model = flare.receive()
        if trap.exists() and model.current_round >= int(trap.read_text()):
            raise SystemExit("the trap")
        momentum = flare.state.get("momentum", np.zeros((3, 3), np.float32))
        flare.state["momentum"] = 0.9 * momentum + site * np.random.standard_normal((3, 3)).astype(np.float32)
        params = {name: value + flare.state["momentum"] for name, value in model.params.items()}
        metrics = {"mean": -abs(model.current_round - best_round)}
        flare.send(flare.FLModel(params=params, metrics=metrics, meta={"NUM_STEPS_CURRENT_ROUND": site}))
"""
PARTS = {"aggregator_id": "aggregator", "persistor_id": "persistor", "model_selector_id": "model_selector"}
SAG = {"min_clients": 2, "num_rounds": ROUNDS, **PARTS}
MOMENTUM = {"updater": {"path": "FedAvgM", "args": {"beta": 0.5}}}
CYCLIC = {"id": "cyclic", "path": "Cyclic", "args": {"num_rounds": 3, "order": "RANDOM", "persistor_id": "persistor"}}
WORKFLOWS = {
    "averaging with a sampled client": [
        {"id": "sag", "path": "ScatterAndGather", "args": SAG | {"min_clients": 1, "num_clients": 1}}
    ],
    "buffered": [
        {
            "id": "buffer",
            "path": "FedBuff",
            "args": {
                "num_rounds": ROUNDS,
                "buffer_size": 1,
                "aggregator_id": "aggregator",
                "persistor_id": "persistor",
            },
        }
    ],
    "cyclic, then averaging": [CYCLIC, {"id": "sag", "path": "ScatterAndGather", "args": SAG | {"num_rounds": 3}}],
}


def made(folder, best=3, **how):
    """A job whose best model is that of round `best`."""
    how = {"components": MOMENTUM, "updater_id": "updater", **SAG} | how
    return job(folder, KEEPS, args=f"{best} {folder.parent / 'trap'}", **how)


def run(folder, workspace, **options):
    given = {} if options.get("resume") else {"num_clients": 2, "seed": 7}
    return simulate(folder, workspace, Options(slots=2, **given | options))


def forked(folder, workspace, at, *sets, **options):
    return run(folder, workspace, resume=True, at=str(at), sets=sets, **options)


@pytest.fixture(scope="module")
def lived(tmp_path_factory):
    """A job, and the workspace of a run of it with all its checkpoints. Nobody changes them."""
    folder = tmp_path_factory.mktemp("lived")
    run(made(folder / "job"), folder / "ws", keep_checkpoints=ALL)
    return folder / "job", folder / "ws"


@pytest.fixture
def parent(lived, tmp_path):
    """A copy of both."""
    shutil.copytree(lived[0], tmp_path / "job")
    shutil.copytree(lived[1], tmp_path / "ws")
    return tmp_path / "job", tmp_path / "ws"


def digest_of(workspace):
    return json.loads((workspace / "report.json").read_text())["digest"]


def contents(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def checkpoints(workspace):
    return sorted(path.name for path in Workspace(workspace).checkpoints.glob("*.safetensors"))


def model(workspace, name):
    return np.load(workspace / "server" / "simulate_job" / "models" / f"{name}.npy")


def refused(kind, folder, workspace, at, *sets, **options):
    """What an error says; nothing was made, and nothing has changed."""
    before = contents(workspace.parent)
    with pytest.raises(kind) as caught:
        forked(folder, workspace, at, *sets, **options)
    assert contents(workspace.parent) == before
    assert not workspace.with_name(f"{workspace.name}.forks").exists()
    return f"{caught.value.message} ({caught.value.hint})"


def test_a_fork_has_what_its_parent_had_after_the_round_and_nothing_later(lived):
    folder, workspace = lived
    before = contents(workspace)

    report = forked(folder, workspace, 1, "num_rounds=3")

    child = Path(report.workspace)
    assert child.parent == workspace.with_name("ws.forks")
    assert [each.metrics["mean"] for each in report.rounds] == [-3, -2, -1]
    assert (report.best.round_num, report.best.score) == (2, -1)
    assert (report.parent, report.parent_round, report.inherited_rounds) == (identity_of(workspace), 1, 2)
    assert report.resumed_at == []
    assert report.seconds < 60  # not since the parent began
    assert any("after round 1" in text and "num_rounds was 6 and is 3" in text for text in report.notices)
    assert verify(child).all_faults == []
    assert contents(workspace) == before
    whole = run(folder, workspace.with_name("whole"), sets=["num_rounds=3"])
    assert (report.digest, whole.best.round_num) == (whole.digest, 2)
    assert np.array_equal(model(child, "best_server"), model(Path(whole.workspace), "best_server"))
    with open_to_read() as database:
        row = rows.row(database, "id = ?", identity_of(child))
    assert (row.parent, row.parent_round) == (report.parent, 1)
    assert history.number_called(row.parent) == history.number_of(workspace)


@pytest.mark.slow
@pytest.mark.parametrize("kind", WORKFLOWS)
def test_a_fork_in_which_nothing_is_changed_ends_with_the_bits_of_its_parent(tmp_path, kind):
    folder = made(tmp_path / "job", server={"workflows": WORKFLOWS[kind]})
    whole = run(folder, tmp_path / "ws", keep_checkpoints=ALL)
    last = WORKFLOWS[kind][-1]["id"]

    for at in ("cyclic:1", f"{last}:1") if len(WORKFLOWS[kind]) > 1 else ("2",):
        report = forked(folder, tmp_path / "ws", at)

        assert report.digest == whole.digest, at
        assert [each.metrics for each in report.rounds] == [each.metrics for each in whole.rounds]
        assert model(Path(report.workspace), "server").tobytes() == model(tmp_path / "ws", "server").tobytes()
        assert verify(Path(report.workspace)).all_faults == []


def test_checkpoints_of_a_finished_run_are_linked_and_those_of_another_one_are_copied(parent):
    folder, workspace = parent
    there = Workspace(workspace).checkpoints

    linked = forked(folder, workspace, 4)
    (workspace / "report.json").unlink()  # as if it were running, or had been killed
    copied = forked(folder, workspace, 5)

    for report, name, is_same in ((linked, "round-000004", True), (copied, "round-000005", False)):
        here = Workspace(Path(report.workspace)).checkpoints
        assert (here / f"{name}.safetensors").samefile(there / f"{name}.safetensors") is is_same
        assert report.digest == linked.digest
        assert verify(Path(report.workspace)).all_faults == []
        assert report.plan == read_plan(Path(report.workspace) / "plan.json").identity  # no run from the start has it
        assert report.plan != read_plan(workspace / "plan.json").identity


def test_a_finished_run_that_kept_one_checkpoint_is_extended_with_its_best_model(tmp_path):
    folder = made(tmp_path / "job")
    run(folder, tmp_path / "ws", sets=["num_rounds=5"])
    assert checkpoints(tmp_path / "ws") == ["round-000004.safetensors", "states-000004.safetensors"]
    whole = run(folder, tmp_path / "whole")

    report = forked(folder, tmp_path / "ws", 4, "num_rounds=6")

    child = Path(report.workspace)
    assert report.digest == whole.digest
    assert report.best == whole.best
    assert model(child, "best_server").tobytes() == model(tmp_path / "whole", "best_server").tobytes()
    assert {Path(path).name for path in report.models} == {"server.npy", "best_server.npy"}
    assert verify(child).all_faults == []
    assert refused(UsageError, folder, tmp_path / "whole", 2).endswith(
        "(the checkpoints of these rounds are there: 5; --keep-checkpoints N|all keeps those of more rounds)"
    )


def test_a_fork_of_a_run_that_failed_and_a_fork_of_this_fork_go_on_to_the_same_bits(lived, tmp_path):
    folder = made(tmp_path / "job")
    (tmp_path / "trap").write_text("4")
    with pytest.raises(RunError):
        run(folder, tmp_path / "ws", keep_checkpoints=2)
    assert [name for name in checkpoints(tmp_path / "ws") if "round" in name] == [
        "round-000002.safetensors", "round-000003.safetensors",
    ]  # fmt: skip
    with pytest.raises(RunError, match=r"--resume"):
        forked(folder, tmp_path / "ws", 2)
    child = tmp_path / "ws.forks" / "1"
    shutil.copytree(child, tmp_path / "broken")
    for file in Workspace(tmp_path / "broken").checkpoints.iterdir():
        file.unlink()
    with pytest.raises(RunError, match="with which this fork began, are gone"):
        run(folder, tmp_path / "broken", resume=True)
    (tmp_path / "trap").unlink()

    resumed = run(folder, child, resume=True)
    second = forked(folder, child, 4)

    assert [resumed.digest, second.digest] == [digest_of(lived[1])] * 2
    assert (resumed.parent_round, resumed.resumed_at) == (2, [4])
    assert (second.parent, second.parent_round) == (identity_of(child), 4)
    assert Path(second.workspace) == child.with_name("1.forks") / "1"
    assert verify(Path(second.workspace)).all_faults == []


def test_a_fork_has_the_values_that_were_set_for_its_parent_and_may_have_another_seed_and_other_code(parent):
    folder, workspace = parent
    first = forked(folder, workspace, 3, "num_rounds=5")
    script = folder / "app" / "custom" / "train.py"
    script.write_text(script.read_text().replace("value + ", "value - "))

    report = forked(folder, Path(first.workspace), 3, seed=8)

    assert len(report.rounds) == 5
    assert report.overrides == ["num_rounds=5"]
    assert report.seed == 8
    assert report.digest != first.digest
    assert any("train.py has changed; the seed was 7 and is 8" in text for text in report.notices)


def test_an_updater_of_another_class_begins_anew(parent):
    folder, workspace = parent
    report = forked(folder, workspace, 4, "components[3].path=FedAdam", "components[3].args.beta-")

    assert any("without what it kept: state of updater" in text for text in report.notices)
    assert report.ok


@pytest.mark.parametrize(
    ("at", "said"),
    [
        ("-1", "--at -1: it must be the number of a round, from 0 on"),
        ("two", "--at two: it must be the number of a round"),
        ("6", "--at 6: the run in .* has no such round .*these rounds are there: 0 to 5; --keep"),
        ("sga:2", "--at sga:2: the run in .* has no such round"),
    ],
)
def test_a_round_that_is_none_is_refused_and_nothing_is_made(parent, at, said):
    import re

    assert re.match(said, refused(UsageError, *parent, at))


def test_without_resume_there_is_nothing_to_fork(parent):
    with pytest.raises(UsageError, match=r"--at begins a fork .*give --resume too: --resume --at 3"):
        simulate(*parent, Options(at="3"))


def test_a_checkpoint_that_is_gone_or_was_changed_is_told_and_nothing_is_made(parent):
    folder, workspace = parent
    file = Workspace(workspace).checkpoints / "round-000002.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    assert "round-000002.safetensors is no checkpoint of this run" in refused(WorkspaceError, folder, workspace, 2)
    file.unlink()

    assert "these rounds are there: 0 to 1, 3 to 5;" in refused(UsageError, folder, workspace, 2)


def test_where_no_run_is_or_one_of_an_older_version_there_is_none_to_fork(parent, tmp_path):
    folder, workspace = parent
    with pytest.raises(WorkspaceError, match="there is no run in"):
        forked(folder, tmp_path / "nothing", 1)
    assert not (tmp_path / "nothing").exists()
    plan = workspace / "plan.json"
    plan.write_text(plan.read_text().replace('"format": 3', '"format": 2'))

    assert "by an older version of fedsag" in refused(WorkspaceError, folder, workspace, 1)


@pytest.mark.parametrize(
    ("options", "sets", "said"),
    [
        ({"num_clients": 3}, [], "-n: the run to resume has site-1, site-2, not site-1, site-2, site-3"),
        ({}, ["workflows[0].id=other"], "a fork goes on in the workflow that its parent was in"),
        (
            {},
            ["num_rounds=2"],
            "num_rounds is 2, but the fork begins after round 2, and so with 3 rounds of its parent",
        ),
        ({}, ["num_round=7"], "--set num_round=7: the job has no key"),
    ],
)
def test_what_a_fork_cannot_have_is_refused_and_nothing_is_made(parent, options, sets, said):
    from fedsag_cli.errors import FedsagError

    assert said in refused(FedsagError, *parent, 2, *sets, **options)


def test_a_change_after_the_last_round_is_told_to_have_no_effect(parent):
    folder, workspace = parent

    fork = forked(folder, workspace, 5, seed=8)

    assert [note for note in fork.notices if note.startswith("no round is left, so the changes have no effect")]
    assert fork.digest == digest_of(workspace)


def test_an_account_of_privacy_is_not_begun_in_a_fork(parent):
    folder, workspace = parent
    config = folder / "app" / "config" / "config_fed_server.json"
    given = json.loads(config.read_text())
    given["components"] += [{"id": "account", "path": "GaussianAccountant", "args": {"delta": 1e-5}}]
    config.write_text(json.dumps(given))

    assert "what both spend together is not known" in refused(WorkspaceError, folder, workspace, 2)


def test_a_strict_fork_is_not_made_of_rounds_in_which_a_client_failed(tmp_path):
    (tmp_path / "trap").write_text("0")
    folder = made(tmp_path / "job")
    script = folder / "app" / "custom" / "train.py"
    script.write_text(script.read_text().replace("trap.exists()", "site == 2"))
    run(folder, tmp_path / "ws", sets=["min_clients=1", "num_rounds=2"])

    said = refused(WorkspaceError, folder, tmp_path / "ws", 1, strict=True)

    assert "--strict: no client may fail, but site-2 failed in round 0 of the parent" in said


def test_a_checkpoint_that_goes_while_its_run_goes_on_ends_the_fork_before_it_begins(parent, monkeypatch):
    folder, workspace = parent
    found_at = fork.found_at

    def found_and_gone(place, *about):
        found = found_at(place, *about)
        (place.checkpoints / "round-000002.safetensors").unlink()
        return found

    monkeypatch.setattr(fork, "found_at", found_and_gone)
    with pytest.raises(WorkspaceError, match=r"round-000002.safetensors has just gone"):
        forked(folder, workspace, 2)

    assert not workspace.with_name("ws.forks").exists()
