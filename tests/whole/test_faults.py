"""What breaks, and what the user then reads: which site, why, where in the job folder, the end of its log."""

import os
import re
import resource
import signal
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from runs import Running, app, deploy, eventually, job, run, torch_job

from fedsag_cli.simulator import simulate
from fedsag_cli.simulator.options import Options

HEAD = """\
import os, sys
import numpy as np
import fedsag_cli.client as flare
from fedsag_cli.client import FLModel
BAD = os.environ["FEDSAG_SITE"] == "site-2"
print("the log of", os.environ["FEDSAG_SITE"])
"""
LOOP = (
    HEAD
    + """\
flare.init()
while flare.is_running():
    model = flare.receive()
    params = {k: v + 1 for k, v in model.params.items()}
    {fault}
    flare.send(FLModel(params=params, metrics={"mean": 1.0}))
"""
)
BEFORE = HEAD + "{fault}\n" + LOOP.removeprefix(HEAD).replace("    {fault}\n", "")

NEVER_STARTS = [
    pytest.param(BEFORE, "if BAD: raise ValueError('no data')", "ValueError: no data", 7, id="raises before init"),
    pytest.param(BEFORE, "if BAD: import nowhere", "ModuleNotFoundError: No module named 'nowhere'", 7, id="imports"),
    pytest.param(BEFORE, "if BAD: sys.exit(0)", "its script ended without asking for a task", None, id="no init"),
]
FAILS_AT_WORK = [
    pytest.param(LOOP, "if BAD: params['nowhere']", "KeyError: 'nowhere'", 11, id="raises after receive"),
    pytest.param(LOOP, "if BAD: sys.exit(3)", "sys.exit(3)", 11, id="exits 3"),
    pytest.param(LOOP, "if BAD: sys.exit('no memory')", "no memory", 11, id="exits with a text"),
    pytest.param(LOOP, "if BAD: os._exit(5)", "its process ended with exit code 5", None, id="ends at once"),
    pytest.param(LOOP, "if BAD: os.kill(os.getpid(), 9)", "signal 9 (SIGKILL): perhaps out", None, id="killed"),
    pytest.param(LOOP, "if BAD: os.abort()", "signal 6 (SIGABRT)", None, id="aborts"),
    pytest.param(LOOP, "if BAD: sys.exit(0)", "its script ended without answering its task", None, id="sends nothing"),
    pytest.param(LOOP, "if BAD: params['numpy_key'] = object()", "'numpy_key'", 12, id="an object as a param"),
    pytest.param(LOOP, "if BAD: params = {'numpy_key': np.ones((2, 2))}",
                 "'numpy_key' has shape [2, 2], the model that was sent has [3, 3]", None, id="a wrong shape"),
    pytest.param(LOOP, "if BAD: params['other'] = np.ones(1)", "'other' was not in the model that was sent", None,
                 id="a foreign key"),
    pytest.param(LOOP, "if BAD: params['numpy_key'] = np.ones((3, 3), int)",
                 "'numpy_key' is int64, the model that was sent has float32", None, id="another kind of number"),
    pytest.param(LOOP, "if BAD: params['numpy_key'][0, 0] = np.nan",
                 "'numpy_key' has 1 numbers that are NaN or infinite", None, id="NaN"),
    pytest.param(LOOP, "if BAD: params['numpy_key'] /= 0", "'numpy_key' has 9 numbers that are NaN or infinite", None,
                 id="infinity"),
    pytest.param(LOOP, "if BAD: flare.send(FLModel(metrics={'mean': 1})); continue", "has no params", None,
                 id="metrics only"),
    pytest.param(LOOP, "if BAD: flare.send(FLModel(params=params))",
                 "flare.send() was called a second time for one task", 12, id="sends twice"),
    pytest.param(LOOP, "if BAD: continue", "the loop started again without an answer", 9,
                 id="loops without an answer"),
    pytest.param(LOOP, "if BAD: import ctypes; ctypes.string_at(0)", "signal 11 (SIGSEGV)", 11, id="segfault"),
]  # fmt: skip
REJECTED = [
    each.values[2]
    for each in FAILS_AT_WORK
    if each.id in ("a wrong shape", "a foreign key", "another kind of number", "NaN", "infinity", "metrics only")
]  # its process is well: what it sent was not
ONCE = pytest.param(
    HEAD + "flare.init()\nmodel = flare.receive()\n{fault}\nflare.send(FLModel(params=model.params))\n"
    "while not BAD and flare.is_running():\n    flare.send(FLModel(params=flare.receive().params))\n",
    "", "its script ended before the last task", None, id="ends after one round",
)  # fmt: skip


EVERY = [(*each.values, "fork") for each in (*NEVER_STARTS, *FAILS_AT_WORK, ONCE)]
SPAWNED = [
    (*each.values, "spawn") for each in FAILS_AT_WORK if each.id in ("raises after receive", "exits 3", "killed")
]


@pytest.mark.parametrize(
    ("script", "fault", "cause", "line", "launcher"),
    [*EVERY, *SPAWNED],
    ids=[f"{launcher}-{fault or 'ends after one round'}" for _, fault, _, _, launcher in (*EVERY, *SPAWNED)],
)
def test_a_site_that_fails_is_named_with_its_cause_its_line_and_its_log(tmp_path, script, fault, cause, line, launcher):
    made = job(tmp_path / "job", script.replace("{fault}", fault), min_clients=2)

    ran = run(made, "-n", 2, "-t", 2, "--launcher", launcher)

    assert ran.code == 4, ran
    failure = ran.failures()["site-2"]
    assert list(ran.failures()) == ["site-2"]
    assert cause in failure["cause"]
    assert f"site-2: {failure['cause']}" in ran.report["cause"]
    assert f"first failure: site-2: {failure['cause']}".split("\n")[0] in ran.err.replace("\\n", "\n")
    assert "site-2 failed" in ran.out
    if line is not None:
        where = f"{made}/app/custom/train.py:{line}"
        assert failure["where"] == where
        assert where in ran.err
        assert where in ran.out
    assert failure["log"] == f"{tmp_path}/ws/site-2/log.txt"
    assert failure["log"] in ran.out
    round_num = ran.told("ReplyFailed")[0]["round_num"]
    for text in (f"site-2, round {round_num}, train: {failure['cause']}", failure["log"]):
        assert text.split("\n")[0] in ran.err.replace("\\n", "\n")
    told = [event["event"] for event in ran.events if "site-2" in (event.get("site"), event.get("name"))]
    if cause not in REJECTED:
        assert told.index("ProcessExited") < told.index("ReplyFailed")
    if failure["exit_code"]:
        assert failure["log_tail"][0] == "the log of site-2"
        assert "| the log of site-2" in ran.out


@pytest.mark.parametrize(
    ("script", "fault", "cause", "line"), [*NEVER_STARTS[:1], *FAILS_AT_WORK[:3], *FAILS_AT_WORK[-3:], ONCE]
)
def test_the_others_go_on_where_the_quorum_is_met_without_it(tmp_path, script, fault, cause, line):
    made = job(tmp_path / "job", script.replace("{fault}", fault), min_clients=2)

    ran = run(made, "-n", 3, "-t", 3)

    assert ran.code == 0, ran
    assert cause in ran.failures()["site-2"]["cause"]
    assert "site-2 failed" in ran.out
    rounds = ran.report["rounds"]
    assert rounds[-1]["answered"] == ["site-1", "site-3"]
    assert "site-2" in rounds[-1]["failed"] or "site-2" in rounds[0]["failed"]
    model = np.load(tmp_path / "ws" / "server" / "simulate_job" / "models" / "server.npy")
    grown = 0 if "while not BAD" in script else 2
    assert model.tolist() == (np.arange(1.0, 10.0).reshape(3, 3) + grown).tolist()


def test_a_script_that_ends_well_after_an_error_shows_what_it_printed(tmp_path):
    script = HEAD + "import traceback\nflare.init()\nflare.receive()\ntry: raise ValueError('no data')\n"

    ran = run(job(tmp_path / "job", script + "except ValueError: traceback.print_exc()\n"), "-n", 2, "-t", 2)

    assert "| ValueError: no data" in ran.err


def test_a_line_that_was_printed_is_not_where_a_process_was_killed(tmp_path):
    script = (
        HEAD + "import traceback\ntry: int('x')\nexcept ValueError: traceback.print_exc()\nos.kill(os.getpid(), 9)\n"
    )

    ran = run(job(tmp_path / "job", script), "-n", 2, "-t", 2)

    assert {each["where"] for each in ran.failures().values()} == {""}


@pytest.mark.parametrize("command", ["python3 -m train", "bash custom/run.sh"])
def test_an_error_in_a_command_that_is_no_script_is_named_with_its_line(tmp_path, command):
    script = LOOP.replace("{fault}", "if BAD: raise ValueError('no data')")
    made = job(tmp_path / "job", script, command=command, files={"run.sh": "exec python custom/train.py\n"})

    ran = run(made, "-n", 2, "-t", 2, env={"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"})

    assert ran.code == 4
    assert "site-2, round 0, train: ValueError: no data" in ran.err
    assert ran.failures()["site-2"]["where"] == f"{made}/app/custom/train.py:11"


def test_a_command_that_hangs_shows_its_stack_too(tmp_path):
    script = HANGS.replace("{waits}", "__import__('time').sleep(99)")
    files = {"run.sh": f"{sys.executable} custom/train.py\n"}
    made = job(tmp_path / "job", script, command="bash custom/run.sh", train_timeout=1.0, files=files)

    ran = run(made, "-n", 2, "-t", 2)

    assert f"    at {made}/app/custom/train.py:9" in ran.err


def test_who_fails_because_the_server_was_killed_is_not_named_beside(tmp_path):
    script = LOOP.replace("    {fault}", "    __import__('time').sleep(0.3)").replace("flare.is_running()", "True")
    with Running(job(tmp_path / "job", script, num_rounds=500), "-n", 2, "-t", 2) as running:
        running.wait_until_told("RoundFinished", 2)
        pids = running.pids()
        nursery = int(Path(f"/proc/{pids['server']}/stat").read_text().rpartition(")")[2].split()[1])
        os.kill(nursery, signal.SIGSTOP)  # it will find all of them ended at once
        os.kill(pids["server"], signal.SIGKILL)
        eventually(lambda: all("\nState:\tZ" in Path(f"/proc/{pid}/status").read_text() for pid in pids.values()))
        os.kill(nursery, signal.SIGCONT)
        ran = running.outcome()

    assert ran.code == 4
    assert ran.report["failures"] == {}
    assert "the server: it was killed by signal 9" in ran.err


def test_strict_a_script_that_fails_after_its_answer_ends_the_run_at_once(tmp_path):
    script = (
        HEAD + "flare.init()\nmodel = flare.receive()\nflare.send(FLModel(params=model.params))\nif BAD: sys.exit(3)\n"
    )
    made = job(tmp_path / "job", script, executor={"launch_once": False}, num_rounds=3)

    ran = run(made, "-n", 2, "-t", 2, "--strict")

    assert ran.code == 4
    assert len(ran.told("RoundFinished")) < 3
    assert "site-2 answered, then failed: the script called sys.exit(3)" in ran.err


@pytest.mark.parametrize(
    ("files", "code"),
    [
        ({"data.py/table.csv": "1"}, 0),
        ({"long.py": "x = " + "-" * 200_000 + "1"}, 0),
        ({"train.py": "x = " + "-" * 200_000 + "1"}, 3),
        (
            {
                "train.py": LOOP.replace("{fault}", "").replace(
                    "flare.init()", "os.unlink('../../log.txt'); flare.init()"
                )
            },
            0,
        ),
    ],
    ids=["a folder called like a module", "a module too deep", "a script too deep", "a log that is removed"],
)
def test_odd_files_in_custom_are_no_bug_of_ours(tmp_path, files, code):
    ran = run(job(tmp_path / "job", LOOP.replace("{fault}", ""), files=files), "-n", 2, "-t", 2)

    assert ran.code == code, ran


def test_a_file_whose_name_is_no_text_is_an_error_before_anything_starts(tmp_path):
    made = job(tmp_path / "job")
    open(os.fsencode(made / "app" / "custom") + b"/d\xff.txt", "w").close()

    ran = run(made, "-n", 2, "-t", 2)

    assert ran.code == 3, ran
    assert "must be UTF-8" in ran.err


def test_more_clients_than_there_are_descriptors_for_are_refused(tmp_path):
    limit = lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))  # noqa: E731

    ran = run(job(tmp_path / "job"), "-n", 40, preexec_fn=limit)

    assert ran.code == 2, ran
    assert "40 clients need 160 file descriptors" in ran.err


def test_a_refused_run_leaves_what_the_one_before_has_made(tmp_path):
    made = job(tmp_path / "job")
    assert run(made, "-n", 2, "-t", 2).code == 0
    mine = tmp_path / "ws" / "site-1" / "simulate_job" / "app_site-1" / "custom" / "mine.py"
    mine.write_text("mine")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "ws").rglob("*.*") if path.is_file()}
    (made / "app" / "custom" / "mine.py").write_text("theirs")

    ran = run(made, "-n", 2, "-t", 2)

    assert ran.code == 2
    assert f"{mine} already exists" in ran.err
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_failure_in_a_module_of_the_users_names_that_line(tmp_path):
    made = job(
        tmp_path / "job",
        "import fedsag_cli.client as flare\nimport steps\nflare.init()\nflare.receive()\nsteps.train()\n",
        files={"steps.py": "import json\n\ndef train():\n    return json.loads('{')\n"},
    )

    ran = run(made, "-n", 2, "-t", 2)

    assert ran.code == 4
    assert {each["where"] for each in ran.failures().values()} == {f"{made}/app/custom/steps.py:4"}


def test_a_script_that_breaks_in_a_later_round_leaves_the_rounds_before(tmp_path):
    script = LOOP.replace("{fault}", "assert model.current_round < 2, 'enough'")
    ran = run(job(tmp_path / "job", script, num_rounds=4), "-n", 2, "-t", 2)

    assert ran.code == 4
    assert [each["answered"] for each in ran.report["rounds"]] == [["site-1", "site-2"]] * 2 + [[]]
    model = np.load(tmp_path / "ws" / "server" / "simulate_job" / "models" / "server.npy")
    assert model[0, 0] == 3


def test_a_client_that_is_too_slow_is_given_up_and_its_late_reply_is_dropped(tmp_path):
    fault = "if BAD and model.current_round == 0: __import__('time').sleep(3); params = {}"
    made = job(tmp_path / "job", LOOP.replace("{fault}", fault), min_clients=1, train_timeout=1.0, num_rounds=2)

    ran = run(made, "-n", 2, "-t", 2)

    assert ran.code == 0, ran
    assert ran.report["rounds"][0]["answered"] == ["site-1"]
    assert "no answer" in ran.failures()["site-2"]["cause"]


HANGS = (
    HEAD
    + """\
def deep():
    while True:
        {waits}

flare.init()
while flare.is_running():
    model = flare.receive()
    if BAD:
        deep()
    flare.send(FLModel(params=model.params))
"""
)


@pytest.mark.parametrize("launcher", ["fork", "spawn"])
@pytest.mark.parametrize("waits", ["pass", "__import__('time').sleep(1000)", "__import__('ctypes').CDLL(None).pause()"])
@pytest.mark.parametrize("min_clients", [1, 2])
def test_a_client_that_hangs_leaves_its_stack_in_its_log(tmp_path, launcher, waits, min_clients):
    made = job(tmp_path / "job", HANGS.replace("{waits}", waits), min_clients=min_clients, train_timeout=1.0)

    ran = run(made, "-n", 2, "-t", 2, "--launcher", launcher)

    assert ran.code == (0 if min_clients == 1 else 4), ran
    assert ran.told("ClientStopped")[0]["site"] == "site-2"
    first = ran.report["failures"]["site-2"]
    where = first["failure"]["where"]
    assert first["round_num"] == 0
    assert where in (f"{made}/app/custom/train.py:8", f"{made}/app/custom/train.py:9")
    cause = first["failure"]["cause"]
    assert re.fullmatch(r"no answer within \d+\.\d s of receiving the task", cause)
    assert "in deep" in ran.log("site-2")
    assert "(most recent call first)" in ran.log("site-2")
    assert where in (ran.out if min_clients == 1 else ran.err)
    assert f"{cause}\n    at {where}" in ran.err or min_clients == 1


def test_a_client_that_hangs_before_it_asks_for_a_task_is_given_up_and_shown(tmp_path):
    script = HANGS.replace("flare.init()", "if BAD: deep()\nflare.init()").replace(
        "{waits}", "os.read(os.pipe()[0], 1)"
    )
    made = job(tmp_path / "job", script, executor={"launch_timeout": 1.0})

    ran = run(made, "-n", 2, "-t", 2)

    assert ran.code == 4
    assert "flare.receive() was not reached" in ran.err
    assert f"    at {made}/app/custom/train.py:9" in ran.err


def test_a_script_that_goes_on_after_its_last_task_is_stopped_and_shown(tmp_path, monkeypatch):
    endless = LOOP.replace("{fault}", "") + "if BAD:\n    while True: pass\n"
    monkeypatch.setattr("fedsag_cli.simulator.supervisor._END_LIMIT_S", 1.0)

    report = simulate(job(tmp_path / "job", endless), tmp_path / "ws", Options(num_clients=2, slots=2))

    stopped = report.failures["site-2"].failure
    assert "still running 1 s after the last task" in stopped.cause
    assert stopped.where == f"{tmp_path}/job/app/custom/train.py:14"
    assert report.ok


def test_all_who_fail_of_one_cause_are_named_the_first_one_first(tmp_path):
    ran = run(
        job(tmp_path / "job", LOOP.replace("{fault}", "if model.current_round: raise ValueError('no data')")),
        "-n",
        2,
        "-t",
        2,
    )

    assert ran.code == 4
    first, second = [event["site"] for event in ran.told("ReplyFailed")]
    assert f"the first failure: {first}: ValueError: no data" in ran.err
    assert "\n2 of 2 clients failed for the same reason: site-1, site-2; the first to fail:\n" in ran.err
    assert f"to fail:\n{first}, round 1, train: Value" in ran.err
    assert list(ran.report["failures"]) == [first, second]


def test_nobody_who_fails_because_the_run_has_is_named_beside(tmp_path):
    script = LOOP.replace("    {fault}", "    if BAD: raise ValueError('no data')\n    __import__('time').sleep(1)")

    ran = run(job(tmp_path / "job", script), "-n", 3, "-t", 3)

    assert list(ran.report["failures"]) == ["site-2"]


def test_strict_a_failure_ends_the_run_though_the_quorum_is_met(tmp_path):
    made = job(tmp_path / "job", LOOP.replace("{fault}", "if BAD: raise ValueError('no data')"), min_clients=1)

    ran = run(made, "-n", 3, "-t", 3, "--strict")

    assert ran.code == 4
    assert "site-2, round 0, train: ValueError: no data" in ran.err
    assert run(made, "-n", 3, "-t", 3).code == 0


def test_strict_a_script_that_fails_after_its_last_task_is_a_failure(tmp_path):
    made = job(tmp_path / "job", LOOP.replace("{fault}", "") + "if BAD: sys.exit(3)\n")

    ran = run(made, "-n", 2, "-t", 2, "--strict")

    assert ran.code == 4
    assert "site-2 failed: the script called sys.exit(3)" in ran.err
    assert f"    at {made}/app/custom/train.py:13" in ran.err
    assert ran.report["digest"]
    assert run(made, "-n", 2, "-t", 2).code == 0


def test_strict_a_run_in_which_nobody_fails_is_well(tmp_path):
    assert run(job(tmp_path / "job", LOOP.replace("{fault}", "")), "-n", 2, "-t", 2, "--strict").code == 0


def test_numbers_that_are_not_finite_can_be_accepted(tmp_path):
    made = job(tmp_path / "job", LOOP.replace("{fault}", "params['numpy_key'] *= np.inf"), allow_non_finite=True)

    ran = run(made, "-n", 2, "-t", 2)

    assert ran.code == 0
    assert np.isinf(np.load(tmp_path / "ws" / "server" / "simulate_job" / "models" / "server.npy")).all()


def test_garbage_on_the_socket_is_that_clients_failure(tmp_path):
    babble = "if BAD: flare._last[0]._session._channel._sock.sendall(b'\\xff' * 100)"

    ran = run(job(tmp_path / "job", LOOP.replace("{fault}", babble), min_clients=1), "-n", 2, "-t", 2)

    assert ran.code == 0, ran
    assert "it sent a message of" in ran.failures()["site-2"]["cause"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import os\ndef broken(:\n", "train.py:2: SyntaxError: invalid syntax"),
        ("if True:\nprint()\n", "train.py:2: IndentationError: expected an indented block"),
        ("x = 1\0\n", "train.py"),
    ],
)
def test_a_script_that_does_not_compile_is_3_before_anything_starts(tmp_path, text, said):
    made = job(tmp_path / "job")
    (made / "app" / "custom" / "train.py").write_text(text)

    ran = run(made, "-n", 2, "-t", 2)

    assert ran.code == 3, ran
    assert said in ran.err
    assert not (tmp_path / "ws").exists()


def test_a_command_that_does_not_exist_is_said(tmp_path):
    ran = run(job(tmp_path / "job", "", command="no-such-command --now"), "-n", 2, "-t", 2)

    assert ran.code == 3, ran
    assert "the command of site-1, 'no-such-command', does not exist" in ran.err


def test_a_command_that_fails_is_shown_with_its_log(tmp_path):
    made = job(tmp_path / "job", "", command="bash custom/run.sh", files={"run.sh": "echo no luck >&2; exit 6"})

    ran = run(made, "-n", 2, "-t", 2)

    assert ran.code == 4
    assert "its process ended with exit code 6" in ran.err
    assert "| no luck" in ran.out


BROKEN_AGGREGATOR = """
    class Mean:
        def __init__(self, fails_at):
            self.fails_at = fails_at

        def accept(self, site, update):
            if self.fails_at == "accept":
                raise ZeroDivisionError("accepting " + site)

        def aggregate(self):
            raise LookupError("aggregating")
"""


@pytest.mark.parametrize(
    ("fails_at", "said"), [("accept", "ZeroDivisionError: accepting site-1"), ("aggregate", "LookupError: aggregating")]
)
def test_an_aggregator_of_the_users_that_raises_ends_the_run_with_its_cause(tmp_path, fails_at, said):
    parts = {"aggregator": {"path": "mean.Mean", "args": {"fails_at": fails_at}}}
    made = job(tmp_path / "job", LOOP.replace("{fault}", ""), files={"mean.py": BROKEN_AGGREGATOR}, components=parts)

    ran = run(made, "-n", 2, "-t", 2)

    assert ran.code == 4, ran
    assert said in ran.err
    assert "mean.py:" in ran.err
    assert said in ran.log("server")
    assert said in ran.report["cause"]


def test_a_server_that_crashes_in_compiled_code_shows_where(tmp_path):
    crashes = """
        import ctypes

        class Mean:
            def accept(self, site, update):
                ctypes.string_at(0)
    """
    parts = {"aggregator": {"path": "mean.Mean"}}
    made = job(tmp_path / "job", LOOP.replace("{fault}", ""), files={"mean.py": crashes}, components=parts)

    ran = run(made, "-n", 2, "-t", 2)

    assert ran.code == 4, ran
    assert "the server: it was killed by signal 11 (SIGSEGV)" in ran.err
    assert re.search(r'\| .*mean\.py", line 6 in accept', ran.err)


def test_an_aggregator_of_the_users_that_works_is_used(tmp_path):
    last = """
        class Last:
            def accept(self, site, update):
                self.update = update

            def aggregate(self):
                return self.update
    """
    parts = {"aggregator": {"path": "last.Last"}}
    made = job(tmp_path / "job", LOOP.replace("{fault}", ""), files={"last.py": last}, components=parts)

    assert run(made, "-n", 2, "-t", 2).code == 0


def test_a_component_that_cannot_be_made_is_3(tmp_path):
    parts = {"aggregator": {"path": "mean.Mean"}}
    files = {"mean.py": "class Mean:\n    def __init__(self):\n        1 / 0\n"}
    made = job(tmp_path / "job", "", files=files, components=parts)

    ran = run(made, "-n", 2, "-t", 2)

    assert ran.code == 3, ran
    assert "component 'aggregator' (mean.Mean) cannot be built: ZeroDivisionError" in ran.err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("net", "said"),
    [
        ("import nowhere\n\nclass Net: pass\n", "cannot be imported: No module named 'nowhere'"),
        ("raise RuntimeError('broken')\n\nclass Net: pass\n", "RuntimeError: broken"),
        ("class Net:\n    pass\n", "must be a torch module"),
    ],
)
def test_a_net_that_cannot_be_used_is_3(tmp_path, net, said):
    ran = run(torch_job(tmp_path / "job", "", net=net), "-n", 2, "-t", 2)

    assert ran.code == 3, ran
    assert said in ran.err


def test_a_net_that_is_not_there_is_3_before_anything_starts(tmp_path):
    ran = run(torch_job(tmp_path / "job", "", net="class Nett: pass"), "-n", 2, "-t", 2)

    assert ran.code == 3, ran
    assert "net.py has no class 'Net'" in ran.err
    assert "did you mean 'Nett'?" in ran.err
    assert not (tmp_path / "ws" / "report.json").exists()


def test_each_sites_failure_names_its_own_app(tmp_path):
    good = textwrap.dedent(LOOP.replace("{fault}", ""))
    folder = tmp_path / "job"
    app(folder / "app_1", good)
    app(folder / "app_2", good.replace("flare.init()", "flare.init(); 1 / 0"))
    deploy(folder, app_1=["server", "site-1"], app_2=["site-2"])

    ran = run(folder, "-t", 2)

    assert ran.code == 4
    assert ran.failures()["site-2"]["where"] == f"{folder}/app_2/custom/train.py:7"
