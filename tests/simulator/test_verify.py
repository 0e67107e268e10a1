"""What of a run is proven: every bit of its plan, record, checkpoint, model and report."""

import json

import numpy as np
import pytest
from plans import plan

from fedsag_cli import events
from fedsag_cli.errors import WorkspaceError
from fedsag_cli.model import FLModel
from fedsag_cli.plan import FORMAT
from fedsag_cli.report import ReportBuilder
from fedsag_cli.simulator.verify import verify
from fedsag_cli.workflows.run import Run
from fedsag_cli.workspace import Workspace, write_json

PLAN = plan(format=FORMAT)


@pytest.fixture
def lived(tmp_path):
    """A run of three rounds of one site, and its model."""
    workspace = Workspace(tmp_path / "ws")
    workspace.scratch.mkdir(parents=True)
    workspace.checkpoints.mkdir(parents=True)
    write_json(workspace.plan, PLAN)
    report = ReportBuilder()

    def emit(event):
        run.on(event)
        report.on(event)

    run = Run(emit=emit, checkpoints=workspace.checkpoints, identity=PLAN.identity)
    for number in range(3):
        emit(events.RoundStarted(round_num=number, first_round=0, num_rounds=3, sites=["a"]))
        measured = {"site": "a", "task": "train", "round_num": number, "metrics": {"accuracy": 0.5}}
        emit(events.ReplyAccepted(**measured, num_steps=1.0, size=8, work_s=0.1))
        finished = events.RoundFinished(
            round_num=number, sites=["a"], metrics={"accuracy": 0.5}, wait_s=0, aggregate_s=0, save_s=0
        )
        run.finish_round(finished, FLModel(params={"w": np.array([float(number)])}))
    model = workspace.job("server") / "models" / "server.npy"
    model.parent.mkdir()
    model.write_bytes(b"the model")
    run.written([model])
    run.finished("the digest")
    emit(events.WorkflowFinished(digest="the digest", seeded_themselves=[]))
    emit(events.RunFinished(ok=True, exit_code=0, cause=""))
    write_json(workspace.report, report.report)
    return workspace


def files(workspace):
    return sorted(path for path in workspace.root.rglob("*") if path.is_file())


def test_a_run_that_nobody_touched_is_proven_and_stays_as_it_is(lived):
    before = {path: path.read_bytes() for path in files(lived)}

    found = verify(lived.root)

    assert found.all_faults == []
    assert [(each.round_num, each.fault) for each in found.rounds] == [(0, ""), (1, ""), (2, "")]
    assert [each.path for each in found.files] == [
        "server/simulate_job/checkpoints/round-000002.safetensors",
        "server/simulate_job/models/server.npy",
    ]
    assert (found.is_finished, found.digest) == (True, "the digest")
    assert {path: path.read_bytes() for path in files(lived)} == before


@pytest.mark.parametrize("name", ["round-000002.safetensors", "record.jsonl", "server.npy"])
def test_one_bit_anywhere_in_what_the_server_wrote_is_found(lived, name):
    (path,) = lived.root.rglob(name)
    whole = path.read_bytes()
    for at in range(0, len(whole), max(1, len(whole) // 40)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])

        assert verify(lived.root).all_faults, f"byte {at}"


def test_the_rounds_before_a_damaged_line_stay_proven(lived):
    lines = lived.record.read_bytes().splitlines(keepends=True)
    lived.record.write_bytes(b"".join([*lines[:2], b"x" + lines[2][1:], *lines[3:]]))

    found = verify(lived.root)

    assert [bool(each.fault) for each in found.rounds] == [False, True, True]
    assert any("line 3 is not what the run wrote" in fault for fault in found.faults)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda report: report["rounds"][1]["metrics"].update(accuracy=0.9), "round 1: report.json and the record"),
        (lambda report: report["rounds"].pop(), "round 2: report.json and the record"),
        (lambda report: report.update(digest="other"), "report.json: the digest is not that of the run"),
        (lambda report: report.update(ok=False), "report.json says that the run failed"),
    ],
)
def test_a_report_that_says_something_else_is_found(lived, change, said):
    report = json.loads(lived.report.read_text())
    change(report)
    lived.report.write_text(json.dumps(report))

    (fault,) = verify(lived.root).all_faults

    assert said in fault


def test_a_report_that_cannot_be_read_is_one_fault(lived):
    lived.report.write_text("{")

    assert verify(lived.root).all_faults == ["report.json is not what the run wrote: it cannot be read"]


def test_a_run_that_stopped_before_its_first_round_was_done_has_nothing_to_prove_and_no_fault(tmp_path):
    workspace = Workspace(tmp_path)
    workspace.scratch.mkdir()
    write_json(workspace.plan, PLAN)

    found = verify(workspace.root)

    assert (found.rounds, found.all_faults, found.is_finished) == ([], [], False)


def test_another_plan_proves_nothing(lived):
    lived.plan.write_text(lived.plan.read_text().replace('"seed": 5', '"seed": 6'))

    assert not [each for each in verify(lived.root).rounds if not each.fault]


def test_what_is_gone_is_named(lived):
    for path in (*lived.root.rglob("*.npy"), *lived.root.rglob("*.safetensors")):
        path.unlink()

    assert [each.fault for each in verify(lived.root).files] == ["is gone", "is gone"]


def test_without_a_report_the_record_counts(lived):
    lived.report.unlink()

    assert verify(lived.root).all_faults == []


def test_where_no_run_is_nothing_is_proven(tmp_path):
    with pytest.raises(WorkspaceError, match="there is no run in"):
        verify(tmp_path)


def test_a_later_workflow_that_was_killed_may_have_written_the_models_anew(lived):
    *lines, _ = lived.record.read_text().splitlines(keepends=True)
    lived.record.write_text("".join(lines))  # without the end
    lived.report.unlink()
    (lived.job("server") / "models" / "server.npy").write_bytes(b"that of the later workflow")

    found = verify(lived.root)

    assert (found.is_finished, found.all_faults) == (False, [])


def test_a_run_that_was_killed_at_its_very_end_and_resumed_still_proves_its_models(lived):
    run = Run.resumed(lived.checkpoints, lambda event: None, identity=PLAN.identity)
    run.finished("the digest")

    found = verify(lived.root)

    assert found.all_faults == []
    assert "server/simulate_job/models/server.npy" in [each.path for each in found.files]
