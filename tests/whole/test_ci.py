"""A run in CI, as its pipeline sees it: exit codes, lines of JSON, the summary; and what it writes is as documented."""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from runs import FEDSAG, LIMIT_S, fedsag, job, run
from written import faults, faults_of_line

PAGE = Path(__file__).resolve().parents[2] / "docs" / "ci.md"

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


def test_the_pipelines_of_the_page_run_and_leave_the_files_that_they_keep(tmp_path):
    made = fedsag("job", "create", "-w", "sag_np", "-j", "jobs/mine", cwd=tmp_path)
    assert made.code == 0, made
    pipelines = re.findall(r"^```yaml\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    texts = [strings(yaml.safe_load(each)) for each in pipelines]
    (of_github,), (of_gitlab,) = ([step for step in each if step.startswith("fedsag ")] for each in texts)
    assert of_github == of_gitlab.replace("summary.md", '"$GITHUB_STEP_SUMMARY"')

    ran = subprocess.run(
        ["bash", "-c", of_github],
        cwd=tmp_path,
        env=os.environ | {"GITHUB_STEP_SUMMARY": "summary.md", "PATH": f"{Path(FEDSAG).parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )

    assert ran.returncode == 0, ran.stderr
    assert (tmp_path / "summary.md").read_text().startswith("### fedsag: mine finished")
    for each in texts:
        kept = [line for text in each for line in text.splitlines() if line.startswith("workspaces/")]
        assert len(kept) == 3
        assert all(list(tmp_path.glob(pattern)) for pattern in kept)


def test_the_lines_of_the_page_hold_a_run_against_the_schemas(resumed, monkeypatch):
    (lines,) = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    (resumed.workspace.parent / "workspaces").mkdir(exist_ok=True)
    (resumed.workspace.parent / "workspaces" / "ci").symlink_to(resumed.workspace)
    monkeypatch.chdir(resumed.workspace.parent)

    exec(lines, {})


def strings(value):
    """Every text in what YAML holds."""
    if isinstance(value, str):
        return [value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for each in inner for text in strings(each)]
