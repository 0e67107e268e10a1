"""A run in CI, as its pipeline sees it: exit codes, lines of JSON, the summary; and what it writes is as documented."""

import json
import re

import pytest
from runs import job, run
from written import faults, faults_of_line

pytestmark = pytest.mark.slow

HANGS = """
    import pathlib
    import time
    import fedsag_cli.client as flare

    flare.init()
    while flare.is_running():
        model = flare.receive()
        is_second = model.current_round == 1
        if is_second and flare.get_site_name() == "site-2" and not pathlib.Path("{here}/goes_on").exists():
            time.sleep(600)  # it hangs
        metrics = {"mean": 2.0, "loss": 0.5 if is_second else float("nan")}
        flare.send(flare.FLModel(params={k: v + 1 for k, v in model.params.items()}, metrics=metrics))
"""


@pytest.fixture(scope="module")
def out_of_time(tmp_path_factory):
    """A run of two rounds whose second client hangs in the second; the summary is written, and JSON is printed."""
    here = tmp_path_factory.mktemp("ci")
    made = job(here / "job", HANGS.replace("{here}", str(here)))
    words = ["--max-time", "8s", "--summary", here / "summary.md", "--format", "json"]
    return run(made, "-n", 2, "-t", 2, "--seed", 1, *words)


@pytest.fixture(scope="module")
def resumed(out_of_time):
    """The same, continued: the client does not hang any more. What it measures is not enough for one of the limits."""
    here = out_of_time.workspace.parent
    (here / "goes_on").touch()
    limits = ["--fail-under", "mean=1.5", "--fail-under", "mean=2.5", "--fail-over", "loss=0.5"]
    return run(here / "job", "--resume", "--max-time", "5m", "--summary", here / "summary.md", *limits)


def test_a_run_out_of_time_has_failed_and_tells_a_program_where_each_client_was(out_of_time):
    assert (out_of_time.code, out_of_time.err) == (4, "")
    assert out_of_time.report["exit_code"] == 4
    assert out_of_time.report["cause"] == "the run took longer than --max-time 8s"
    (failed,) = out_of_time.report["failures"].items()
    assert failed[0] == "site-2"
    line = next(n for n, text in enumerate(HANGS.splitlines(), 1) if "it hangs" in text)
    assert failed[1]["failure"]["where"].endswith(f"job/app/custom/train.py:{line}")

    told = [json.loads(line) for line in out_of_time.out.splitlines()]
    assert told[:-1] == out_of_time.events
    assert (told[-2]["event"], told[-1]["event"]) == ("RunFinished", "CommandFailed")
    assert told[-1]["message"] == "the run took longer than --max-time 8s"
    assert "--resume" in told[-1]["hint"]
    assert any("train.py" in text for text in told[-1]["details"])


def test_the_summary_has_the_table_and_the_end_of_the_log(out_of_time):
    written = (out_of_time.workspace.parent / "summary.md").read_text().split("### ")[1]

    assert written.startswith("fedsag: job failed\n\nError: the run took longer than --max-time 8s")
    assert "| 0 | 2 | not finite | 2 of 2 |" in written
    assert "**site-2** failed in round 1: it was still working" in written
    assert "most recent call first" in written


def test_it_continues_in_time_and_a_metric_under_its_limit_fails_the_command_but_not_the_run(resumed):
    assert resumed.code == 4
    assert "error: mean of the model sent in round 1 is 2, under 2.5 (--fail-under)\n" in resumed.err
    assert "loss" not in resumed.err
    assert (resumed.report["ok"], resumed.report["exit_code"], resumed.report["resumed_at"]) == (True, 0, [1])
    assert re.search(r"^round +mean", resumed.out, re.MULTILINE)
    (second,) = (resumed.workspace.parent / "summary.md").read_text().split("### ")[2:]
    assert second.startswith("fedsag: job finished, but the command failed\n\nError: mean of the model sent in round 1")


def test_what_runs_write_and_print_is_as_the_schemas_say(out_of_time, resumed):
    assert [fault for line in out_of_time.out.splitlines() for fault in faults_of_line(line)] == []
    assert faults(resumed.workspace) == []
    assert resumed.events[0]["format"] == resumed.report["format"] == 1


def test_a_run_that_is_refused_writes_no_summary(tmp_path):
    refused = run(job(tmp_path / "job"), "-n", 0, "--summary", tmp_path / "s.md")

    assert refused.code == 2
    assert not (tmp_path / "s.md").exists()
