"""scripts/bench: what it runs, measures and prints. That a target is met is no test: machines differ."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
sys.path.insert(0, str(SCRIPTS))

from benchmark import faults, measure, sections  # noqa: E402
from benchmark.__main__ import main  # noqa: E402
from benchmark.measure import Failed  # noqa: E402
from benchmark.results import Results, Row, Target, ratio_of  # noqa: E402
from benchmark.sections import SECTIONS, Settings  # noqa: E402
from benchmark.systems import System, Work  # noqa: E402


def python(text):
    return [sys.executable, "-c", text]


def test_memory_without_a_name_counts_once_however_many_processes_hold_it(tmp_path):
    text = "import os, time; f = os.memfd_create('m'); os.write(f, bytes(64 << 20)); os.fork(); time.sleep(0.5)"

    took = measure.run(python(text), folder=tmp_path, sample=True)

    assert 64 << 20 <= took.memory.peak < 100 << 20
    assert len(took.memory.history) == 2
    assert all(held[-1].files for held in took.memory.history.values())


def test_a_command_that_fails_says_how(tmp_path):
    with pytest.raises(Failed, match=r"(?s)exit code 3.*the reason"):
        measure.run(python("import sys; print('the reason'); sys.exit(3)"), folder=tmp_path)


def test_a_command_past_its_limit_is_ended(tmp_path):
    with pytest.raises(Failed, match="exit code -9"):
        measure.run(python("import time; time.sleep(1000)"), folder=tmp_path, limit_s=0.2)


def test_a_command_that_should_fail_must_fail_like_that(tmp_path):
    assert measure.run(python("print('as it should'); raise SystemExit(4)"), folder=tmp_path, code=4).out

    with pytest.raises(Failed, match="exit code 0, not 4"):
        measure.run(python(""), folder=tmp_path, code=4)


def test_a_command_is_ended_when_nobody_waits_for_it_any_longer(tmp_path):
    begun = []

    def interrupt(command):
        begun.append(command)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure.run(python("import time; time.sleep(1000)"), folder=tmp_path, meanwhile=interrupt)

    assert begun[0].wait(timeout=60) == -9


def test_ratios_are_taken_run_by_run():
    assert ratio_of([2.0, 20.0, 4.0], [1.0, 10.0, 4.0]) == 2.0


@pytest.mark.slow
def test_a_sweep_is_compared_by_what_one_run_takes_though_the_loop_has_fewer(tmp_path):
    work = Work(name="S", clients=2, slots=2, rounds=1, pictures=6)
    found = sections.sweep(work, 2, Settings(folder=tmp_path, runs=1), in_loop=1)

    of_one = {row.system: row.median for row in found.rows if row.work == "S, a run"}
    assert of_one.keys() == {"fedsag", "bare nursery", "bash loop of 1"}
    assert [target.value for target in found.targets] == [
        of_one["fedsag"] / of_one["bare nursery"],
        of_one["bash loop of 1"] / of_one["fedsag"],
    ]


def test_the_tables_say_what_was_missed():
    found = Results(
        rows=[
            Row(work="W", system="fedsag", seconds=[1.0, 2.0, 3.0], peak=5_000_000),
            Row(work="W", system="other", seconds=[4.0, 8.0, 12.0]),
        ],
        targets=[
            Target(work="W", says="other / fedsag", value=4.0, limit=3.0, least=True),
            Target(work="W", says="fedsag / other", value=0.25, limit=0.2),
        ],
    )

    lines = [" ".join(line.split()) for line in found.lines()]

    assert "W fedsag 2.000 1.000 3.000 s 5" in lines
    assert "W other 8.000 4.000 12.000 s 4.00 ×" in lines
    assert "W other / fedsag 4 ≥ 3" in lines
    assert "W fedsag / other 0.25 ≤ 0.2 missed" in lines
    assert [target["met"] for target in found.document()["targets"]] == [True, False]


@pytest.mark.parametrize("fault", [*faults.ENDS, faults.HANGS, *faults.KILLED], ids=lambda fault: fault.says)
def test_a_run_that_fails_of_something_else_gives_no_figures(tmp_path, fault):
    system = System(name=fault.says, command=python("print('of its own'); raise SystemExit(4)"), folder=tmp_path)

    with pytest.raises(Failed, match=f"(?s)^{re.escape(fault.says)}: .*of its own"):
        faults.commit(fault, system)


@pytest.mark.slow
def test_every_fault_ends_its_run_and_is_told_before_the_prompt(tmp_path):
    found = SECTIONS["faults"](Settings(folder=tmp_path, runs=1, slow_runs=1))

    took = {row.system: row.seconds[0] for row in found.rows}
    assert all(row.unit == "ms" for row in found.rows)
    for fault in (*faults.ENDS, faults.HANGS):
        assert 0 <= took[f"{fault.says}, told"] < took[f"{fault.says}, to the prompt"]
    for fault in faults.KILLED:
        assert took[f"{fault.says}, to the prompt"] > 0


@pytest.mark.slow
def test_the_same_training_gives_the_same_model_and_its_stages_add_up(tmp_path, monkeypatch, capsys):
    words = ["scripts/bench", "--only", "W0,W1", "--runs", "1", "--json", str(tmp_path / "b.json")]
    monkeypatch.setattr(sys, "argv", words)
    monkeypatch.setattr(sections, "Work", lambda **of: Work(**of | {"rounds": 2, "pictures": min(of["pictures"], 60)}))

    assert main() == 0

    said = json.loads((tmp_path / "b.json").read_text())
    assert {row["system"] for row in said["rows"] if row["work"] == "W1 seed"} == {
        "fedsag", "plain loop", "bare nursery",
    }  # fmt: skip
    *stages, whole = said["stages"].values()
    assert all(seconds >= 0 for seconds in stages)
    assert sum(stages) == pytest.approx(whole, rel=0.1)
    assert "where the time of W1 goes" in capsys.readouterr().out


def test_a_work_nobody_knows_is_refused_with_those_there_are(tmp_path):
    env = os.environ | {"PYTHONPATH": str(SCRIPTS)}
    done = subprocess.run(
        [sys.executable, "-m", "benchmark", "--only", "W9"], cwd=tmp_path, env=env, capture_output=True, text=True
    )

    assert done.returncode == 2
    assert "W9" in done.stderr
    assert "W0, W1" in done.stderr
