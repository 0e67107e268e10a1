"""The paths in a report are true wherever the run is moved."""

import shlex
from pathlib import Path

import msgspec
import pytest

from fedsag_cli.events import Failure
from fedsag_cli.report import Report, RoundReport, SiteFailure
from fedsag_cli.report.places import located, relative


def made(root, quoted):
    """A report as a run has it whose workspace is `root`."""
    gone = Failure(cause="no memory", log=f"{root}/site-1/log.txt", exit_code=1)
    return Report(
        workspace=root,
        hint=f"1 round done. Continue with the job unchanged: fedsag simulator /job -w {quoted()} --resume",
        rounds=[RoundReport(round_num=0, failed={"site-1": gone})],
        failures={"site-1": SiteFailure(round_num=0, task="train", failure=gone)},
        models=[f"{root}/server/model.pt", "/models/mine.pt"],
        curves=[
            f"tensorboard --logdir {quoted('/server/tb')}",
            f"pip install x && X=true mlflow ui --backend-store-uri {quoted('/server/ml')}",
            "http://mlflow:5000",
        ],
    )


@pytest.mark.parametrize(
    ("root", "quoted"),
    [
        ("/w", lambda rest="": f"/w{rest}"),
        ("/a b/w", lambda rest="": f"'/a b/w{rest}'"),
        ("/it's/w", lambda rest="": f"'/it'\"'\"'s/w{rest}'"),
    ],
)
def test_a_report_that_is_moved_with_its_run_has_the_paths_of_the_new_place(root, quoted):
    kept = msgspec.json.decode(msgspec.json.encode(relative(made(root, quoted))), type=Report)

    assert kept.models == ["server/model.pt", "/models/mine.pt"]
    assert kept.failures["site-1"].failure.log == kept.rounds[0].failed["site-1"].log == "site-1/log.txt"
    assert kept.curves[0].replace("'", "") == "tensorboard --logdir ./server/tb"
    assert kept.hint.endswith("-w . --resume")
    assert located(kept, Path(root)) == made(root, quoted)
    moved = located(kept, Path("/w.runs/2"))
    assert moved.models == ["/w.runs/2/server/model.pt", "/models/mine.pt"]
    assert moved.failures["site-1"].failure.log == "/w.runs/2/site-1/log.txt"
    assert [shlex.split(each)[-1] for each in moved.curves[:2]] == ["/w.runs/2/server/tb", "/w.runs/2/server/ml"]
    assert moved.hint.endswith("-w /w.runs/2 --resume")


def test_a_report_of_an_older_version_has_the_paths_of_the_new_place_too():
    old = Report(workspace="/w", models=["/w/server/model.pt", "/models/mine.pt"])

    now = located(old, Path("/w.runs/2"))

    assert (now.workspace, now.models) == ("/w.runs/2", ["/w.runs/2/server/model.pt", "/models/mine.pt"])
