"""What a run says is true, whatever is measured, whoever is late, whatever lies in the way."""

import contextlib
import os
import signal
import subprocess
import textwrap

import pytest
from runs import ADDS_ONE, Running, eventually, job, run

HEAD = """\
import os, time
import fedsag_cli.client as flare
from fedsag_cli.client import FLModel
SITE = os.environ["FEDSAG_SITE"]
"""


def looping(body, *, answer="flare.send(FLModel(params=params, metrics={'mean': 1.0}))"):
    """A script that adds one each round; `body` sees `model` and `params` before it answers."""
    text = HEAD + "flare.init()\nwhile flare.is_running():\n    model = flare.receive()\n"
    text += "    params = {k: v + 1 for k, v in (model.params or {}).items()}\n"
    return text + textwrap.indent(textwrap.dedent(body) + "\n" + answer + "\n", "    ")


def test_a_metric_that_is_no_number_any_more_leaves_a_whole_report(tmp_path):
    bad = "flare.send(FLModel(params=params, metrics={'mean': float('nan'), 'loss': 2.0}))"
    script = looping("", answer=f"if SITE == 'site-2': {bad}\nelse: flare.send(FLModel(params=params))")

    outcome = run(job(tmp_path / "job", script), "-n", 2, "-t", 2)

    assert outcome.code == 0
    first = outcome.report["rounds"][0]
    assert first["answered"] == ["site-1", "site-2"]
    assert first["metrics_by_site"]["site-2"] == {"mean": None, "loss": 2.0}
    assert first["total_s"] > 0
    assert "not finite" in outcome.out


def test_nobody_waits_for_a_late_client_to_validate(tmp_path):
    script = looping("if SITE == 'site-2' and flare.is_train(): time.sleep(1000)")
    made = job(tmp_path / "job", script, tasks=["train", "validate"], min_clients=1, wait_time_after_min_received=1)

    outcome = run(made, "-n", 2, "-t", 2)

    assert outcome.code == 0
    assert list(outcome.told("ModelValidated")[0]["by_site"]) == ["site-1"]
    assert "site-2: it was still working on a task that the server no longer waited for, and was stopped" in outcome.out


def test_the_final_model_is_validated_without_a_model_selector_too(tmp_path):
    made = job(tmp_path / "job", looping(""), tasks=["train", "validate"], model_selector_id="")

    outcome = run(made, "-n", 2, "-t", 2)

    assert outcome.code == 0
    assert outcome.report["final_metrics"] == {"mean": 1.0}
    assert outcome.report["best"] is None


def test_a_key_metric_that_nobody_sends_is_said_once_with_what_was_sent(tmp_path):
    selector = {"model_selector": {"path": "IntimeModelSelector", "args": {"key_metric": "accurracy"}}}

    outcome = run(job(tmp_path / "job", looping(""), components=selector), "-n", 2, "-t", 2)

    notices = [event["text"] for event in outcome.told("Notice") if "accurracy" in event["text"]]
    assert len(notices) == 1
    assert "mean" in notices[0]


def test_who_died_is_missing_in_every_later_round_and_named_at_the_end(tmp_path):
    script = looping("if SITE == 'site-2' and model.current_round == 1: raise ValueError('worn out')")

    outcome = run(job(tmp_path / "job", script, min_clients=1, num_rounds=4), "-n", 2, "-t", 2)

    assert outcome.code == 0
    assert [list(each["failed"]) for each in outcome.report["rounds"]] == [[], ["site-2"], ["site-2"], ["site-2"]]
    assert "failed: site-2 in round 1, 2, 3: ValueError: worn out" in outcome.out


def test_a_failure_while_validating_is_none_of_the_last_round(tmp_path):
    script = looping("if SITE == 'site-2' and flare.is_evaluate(): raise ValueError('cannot judge')")

    outcome = run(job(tmp_path / "job", script, tasks=["train", "validate"]), "-n", 2, "-t", 2)

    assert outcome.code == 0
    assert outcome.report["rounds"][-1]["failed"] == {}
    assert outcome.report["final_failed"]["site-2"]["cause"] == "ValueError: cannot judge"


def test_an_error_with_an_odd_file_name_in_it_is_told(tmp_path):
    script = looping(r"if SITE == 'site-2': raise ValueError('bad name: \udcff')")

    outcome = run(job(tmp_path / "job", script), "-n", 2, "-t", 2)

    assert outcome.code == 4
    assert r"bad name: \udcff" in outcome.err


def test_an_update_without_a_single_key_is_no_answer(tmp_path):
    outcome = run(job(tmp_path / "job", looping("if SITE == 'site-2': params = {}")), "-n", 2, "-t", 2)

    assert outcome.code == 4
    assert "its answer to the task 'train' has no params" in outcome.err


def test_a_script_that_sends_twice_is_told_so(tmp_path):
    outcome = run(job(tmp_path / "job", looping("", answer="flare.send(model)\nflare.send(model)")), "-n", 2, "-t", 2)

    assert outcome.code == 4
    assert "flare.send() was called a second time for one task" in outcome.err


def test_a_terminal_that_speaks_escapes_in_an_error_is_not_obeyed(tmp_path):
    script = looping(r"raise ValueError('red \x1b[31m\nsecond line')")

    outcome = run(job(tmp_path / "job", script), "-n", 2, "-t", 2)

    assert "\x1b" not in outcome.out + outcome.err
    assert r"red \x1b[31m\nsecond line" in outcome.out


def test_a_failure_is_printed_once_for_each_reader(tmp_path):
    made = job(tmp_path / "job", looping("raise ValueError('no data')"), min_clients=1)

    together = run(made, "-n", 3, "-t", 3, stderr=subprocess.STDOUT).out
    apart = run(made, "-n", 3, "-t", 3)

    assert together.count("    | ValueError: no data") == 1
    assert together.count("3 of 3 clients failed for the same reason") == 1
    assert [text.count("    | ValueError: no data") for text in (apart.out, apart.err)] == [1, 1]


def test_what_a_script_calls_its_metrics_is_text_on_a_terminal_too(tmp_path):
    """Before, a closing tag ended a good run with a traceback."""
    name = r"'[/red]\x1b]0;owned\x07'"
    script = looping("", answer=f"flare.send(FLModel(params=params, metrics={{{name}: 1.0, 'seconds': 7.0}}))")
    ours, theirs = os.openpty()

    with Running(job(tmp_path / "job", script), "-n", 2, "-t", 2, stdout=theirs, env={"TERM": "xterm"}) as running:
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # EIO: the other end is closed
            while piece := os.read(ours, 1 << 16):
                shown += piece
        outcome = running.outcome()
    os.close(ours)

    assert outcome.code == 0, outcome
    assert rb"[/red]\x1b]0;owned\x07" in shown
    assert b"\x1b]0" not in shown
    assert b"seconds (metric)" in shown


def test_a_secret_stands_in_nothing_that_fedsag_writes_or_shows(tmp_path):
    body = """
        import sys
        secret = sys.argv[1]
        if model.current_round == 0:
            print("note: connecting with", repr(secret))
            flare.send(FLModel(params=params, metrics={secret: 1.0}))
            continue
        raise ValueError({"password": secret}, secret[:5] + chr(10) + secret[5:])
    """
    made = job(tmp_path / "job", looping(body), args="${secret:PW} --port {$MY_TOKEN}")
    env = {"PW": "hunter2'zzz", "MY_TOKEN": "qwerty12345"}

    outcome = run(made, "-n", 2, "-t", 2, env=env)

    assert outcome.code == 4
    names = (
        "report.json",
        "report.html",
        "events.jsonl",
        "server/log.txt",
        "server/simulate_job/checkpoints/record.jsonl",
    )
    written = [(outcome.workspace / name).read_text() for name in names]
    for text in (*written, outcome.out, outcome.err):
        assert "hunte" not in text
        assert "zzz" not in text
    assert "${secret:PW}" in written[-1]
    assert "{'password': \"${secret:PW}\"}" in outcome.err


def test_what_a_script_notes_before_its_first_task_is_told_once(tmp_path):
    script = looping("").replace("flare.init()", "print('note: no pictures here')\nflare.init()")

    outcome = run(job(tmp_path / "job", script), "-n", 2, "-t", 2)

    assert [e["text"] for e in outcome.told("Notice") if "pictures" in e["text"]] == ["no pictures here"]


def test_a_full_disk_behind_standard_output_ends_nothing(tmp_path):
    with open("/dev/full", "w") as full:
        outcome = run(job(tmp_path / "job"), "-n", 2, "-t", 2, stdout=full)

    assert outcome.code == 0
    assert outcome.report["ok"] is True


def test_a_users_file_where_the_model_goes_is_refused_before_anybody_trains(tmp_path):
    model = tmp_path / "ws" / "server" / "simulate_job" / "models" / "server.npy"
    model.parent.mkdir(parents=True)
    model.write_text("mine")

    outcome = run(job(tmp_path / "job"), "-n", 2, "-t", 2)

    assert outcome.code == 2
    assert "server.npy already exists" in outcome.err
    assert model.read_text() == "mine"
    assert outcome.told("ClientWanted") == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_a_workspace_can_be_used_again_whatever_ended_the_run(tmp_path, number):
    made = job(tmp_path / "job", looping("time.sleep(0.02)"), num_rounds=500)
    with Running(made, "-n", 2, "-t", 2, "--seed", 1) as running:
        running.wait_until_told("ModelSaved")
        running.process.send_signal(signal.SIGSTOP)
        os.kill(running.process.pid, number)
        running.process.send_signal(signal.SIGCONT)
        outcome = running.outcome()
    assert outcome.code == (-9 if number is signal.SIGKILL else 128 + number)
    assert outcome.left_alive == []
    eventually(lambda: not list(running.tmp.glob("fedsag*")))
    if number is not signal.SIGKILL:
        assert outcome.report["ok"] is False
        assert outcome.report["cause"] == "interrupted"

    again = run(job(tmp_path / "again", ADDS_ONE), "-n", 2, "-t", 2, "--force")

    assert again.code == 0


@pytest.mark.parametrize("launcher", ["fork", "spawn"])
def test_the_start_of_a_process_does_not_count_as_training(tmp_path, launcher):
    script = looping("").replace("flare.init()", "time.sleep(1.5)\nflare.init()")

    outcome = run(job(tmp_path / "job", script, train_timeout=1), "-n", 2, "-t", 2, "--launcher", launcher)

    assert outcome.code == 0, outcome


@pytest.mark.parametrize(
    ("words", "said"),
    [(["--seed", "9" * 30], "--seed"), (["--seed", "-1"], "--seed"), (["-w", "job/ws"], "inside the job")],
    ids=["seed too large", "seed below zero", "workspace in the job"],
)
def test_a_flag_that_cannot_be_is_2_before_anything_starts(tmp_path, words, said):
    outcome = run(job(tmp_path / "job"), "-n", 2, *words)

    assert outcome.code == 2
    assert said in outcome.err
    assert not (tmp_path / "ws").exists()
