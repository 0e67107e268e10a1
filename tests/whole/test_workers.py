"""Workers: a few processes do the tasks of all clients. The result is that of a process a client."""

import re

import pytest
from runs import Running, app, deploy, job, run, torch_job

STATELESS = """
    import random
    import numpy as np
    import fedsag_cli.client as flare

    flare.init()
    np.random.standard_normal(3)  # before the first task: nothing may depend on it
    while flare.is_running():
        model = flare.receive()
        number = int(flare.get_site_name().rpartition("-")[2])
        print(f"{flare.get_site_name()} in round {model.current_round}")
        mean = float(sum(array.mean() for array in model.params.values()))
        if flare.is_evaluate():
            flare.send(flare.FLModel(metrics={"mean": mean}))
            continue
        noise = random.random() + np.random.standard_normal()
        params = {k: v + v.dtype.type(number * noise) for k, v in model.params.items()}
        flare.send(flare.FLModel(params=params, metrics={"mean": mean}, meta={"NUM_STEPS_CURRENT_ROUND": number}))
"""
COUNTS = """
    import fedsag_cli.client as flare

    flare.init()
    while flare.is_running():
        model = flare.receive()
        flare.state["asked"] = flare.state.get("asked", 0) + 1
        flare.send(flare.FLModel(params={k: v + flare.state["asked"] for k, v in model.params.items()}))
"""


def worker_pids(outcome):
    return {e["pid"] for e in outcome.events if e["event"] == "ProcessStarted" and e["name"].startswith("worker:")}


@pytest.fixture(scope="module")
def process_a_client(tmp_path_factory):
    folder = tmp_path_factory.mktemp("process_a_client")
    made = job(folder / "job", STATELESS, tasks=["train", "validate"], num_rounds=3, num_clients=4, min_clients=4)
    outcome = run(made, "-n", 7, "-t", 2, "--seed", 3)
    assert outcome.code == 0, outcome
    return outcome


@pytest.mark.parametrize(
    ("workers", "how"),
    [(1, ["-t", 1]), (3, ["-t", 3]), (2, ["-t", 2, "--launcher", "spawn"])],
    ids=["one worker", "three workers", "two spawned workers"],
)
def test_workers_come_to_the_bits_of_a_process_a_client(workers, how, process_a_client, tmp_path):
    made = job(tmp_path / "job", STATELESS, tasks=["train", "validate"], num_rounds=3, num_clients=4, min_clients=4)

    outcome = run(made, "-n", 7, "--seed", 3, "--workers", *how)

    assert outcome.code == 0, outcome
    assert outcome.report["digest"] == process_a_client.report["digest"]
    assert [each["metrics"] for each in outcome.report["rounds"]] == [
        each["metrics"] for each in process_a_client.report["rounds"]
    ]
    assert 1 <= len(worker_pids(outcome)) <= workers
    assert not outcome.left_alive


def test_each_client_has_its_own_log_and_one_that_is_never_asked_has_nothing(tmp_path):
    made = job(
        tmp_path / "job", STATELESS, num_rounds=2, num_clients=3, min_clients=3, executor={"serves_any_client": True}
    )

    outcome = run(made, "-n", 3000, "-t", 2, "--seed", 1)

    assert outcome.code == 0, outcome
    asked = {site for each in outcome.report["rounds"] for site in each["asked"]}
    assert {path.stem for path in (outcome.workspace / "worker" / "logs").iterdir()} == asked
    assert not list(outcome.workspace.glob("site-*"))
    assert 3 <= len(asked) <= 6
    for each in outcome.report["rounds"]:
        for site in each["asked"]:
            lines = (outcome.workspace / "worker" / "logs" / f"{site}.txt").read_text().splitlines()
            assert f"{site} in round {each['round_num']}" in lines
            assert all(line.startswith(f"{site} ") for line in lines)


def test_a_new_run_removes_the_logs_of_clients_before(tmp_path):
    made = job(tmp_path / "job", STATELESS, num_rounds=1, num_clients=2, min_clients=2)
    before = run(made, "-n", 50, "-t", 1, "--seed", 1, "--workers").report["rounds"][0]["asked"]
    again = run(made, "-n", 50, "-t", 1, "--seed", 2, "--workers")

    assert again.code == 0, again
    assert before != again.report["rounds"][0]["asked"]
    logs = again.workspace / "worker" / "logs"
    assert {path.stem for path in logs.iterdir()} == set(again.report["rounds"][0]["asked"])


def test_a_file_of_the_user_where_a_log_would_be_is_told_before_the_run(tmp_path):
    mine = tmp_path / "ws" / "worker" / "logs" / "site-7.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")

    outcome = run(job(tmp_path / "job", STATELESS), "-n", 9, "--workers")

    assert outcome.code == 2
    assert "worker/logs already exists, and fedsag did not make it" in outcome.err
    assert mine.read_text() == "mine"


def test_flare_state_is_that_of_the_client_whose_task_it_is(tmp_path):
    made = job(tmp_path / "job", COUNTS, num_rounds=6, num_clients=2, min_clients=2)

    workers, processes = (
        run(made, "-n", 5, "-t", 1, "--seed", 4, *flags, workspace=tmp_path / name)
        for name, flags in (("a", ["--workers"]), ("b", []))
    )

    assert workers.code == processes.code == 0, (workers, processes)
    assert workers.report["digest"] == processes.report["digest"]


def test_a_worker_that_dies_fails_its_client_in_this_round_only(tmp_path):
    dies = STATELESS.replace(
        "        noise =", "        assert (number, model.current_round) != (2, 1), 'worn out'\n        noise ="
    )
    outcome = run(job(tmp_path / "job", dies, num_rounds=3, min_clients=2), "-n", 4, "-t", 1, "--seed", 1, "--workers")

    assert outcome.code == 0, outcome
    assert [sorted(each["failed"]) for each in outcome.report["rounds"]] == [[], ["site-2"], []]
    assert len(worker_pids(outcome)) == 2
    told = outcome.report["failures"]["site-2"]["failure"]
    assert told["cause"] == "AssertionError: worn out"
    assert told["where"] == f"{tmp_path}/job/app/custom/train.py:16"
    assert told["log"] == "worker/logs/site-2.txt"
    assert "AssertionError: worn out" in told["log_tail"][-1]


def test_what_a_script_does_after_its_answer_is_done_by_the_client_that_answered(tmp_path):
    after = STATELESS.replace("import random", "import random, time; from fedsag_cli.client.tracking import *")
    after += """\
        time.sleep(0.02)  # the worker has its next task by now
        SummaryWriter().add_scalar("after", number, model.current_round)
        assert (number, model.current_round) != (2, 1), "too late to fail"
    """
    outcome = run(job(tmp_path / "job", after, num_rounds=3, min_clients=3), "-n", 3, "-t", 1, "--seed", 1, "--workers")

    assert outcome.code == 0, outcome
    assert [each["failed"] for each in outcome.report["rounds"]] == [{}, {}, {}]
    assert "site-2 answered, then its worker failed: AssertionError: too late to fail" in outcome.report["notices"]
    logged = [(e["site"], e["values"]) for e in outcome.told("ValuesLogged")]
    assert sorted(map(str, logged)) == sorted(str((f"site-{n}", {"after": float(n)})) for n in (1, 2, 3) * 3)


def test_with_strict_a_worker_that_fails_after_its_last_task_fails_the_run(tmp_path):
    ends_badly = STATELESS + "\n    raise OSError('no goodbye')\n"

    outcome = run(job(tmp_path / "job", ends_badly), "-n", 2, "-t", 1, "--workers", "--strict")

    assert outcome.code == 4
    assert re.search(r"with --strict no client may fail, but site-[12] failed: OSError: no goodbye", outcome.err)


def test_a_script_that_asks_for_its_site_too_early_is_shown_what_to_swap(tmp_path):
    early = STATELESS.replace("    flare.init()\n", "    flare.init()\n    site = flare.get_site_name()\n")

    outcome = run(job(tmp_path / "job", early), "-n", 3, "-t", 1, "--workers")

    assert outcome.code == 4
    assert "swap the two lines: input_model = flare.receive(), then site = flare.get_site_name()" in outcome.err
    assert f"{tmp_path}/job/app/custom/train.py:7" in outcome.err


def test_a_script_that_ends_after_one_task_is_told_to_loop(tmp_path):
    once = """
        import fedsag_cli.client as flare

        flare.init()
        model = flare.receive()
        flare.send(flare.FLModel(params={k: v + 1 for k, v in model.params.items()}))
        flare.receive(timeout=30)  # so that it has the next task when it ends
    """
    outcome = run(job(tmp_path / "job", once, num_rounds=3, min_clients=3), "-n", 3, "-t", 1, "--workers")

    assert outcome.code == 4
    assert "use `while flare.is_running()`" in outcome.err


def test_decorated_functions_work_for_any_client(tmp_path):
    decorated = """
        import fedsag_cli.client as flare
        from fedsag_cli.client.decorators import train

        flare.init()

        @train
        def work(model):
            number = int(flare.get_site_name()[-1])
            return flare.FLModel(params={k: v + number for k, v in model.params.items()})

        while flare.is_running():
            work()
    """
    made = job(tmp_path / "job", decorated.replace("work()", "work(None)"), min_clients=3)

    workers, processes = (
        run(made, "-n", 3, "-t", 2, "--seed", 4, *flags, workspace=tmp_path / name)
        for name, flags in (("a", ["--workers"]), ("b", []))
    )

    assert workers.code == processes.code == 0, (workers, processes)
    assert workers.report["digest"] == processes.report["digest"]


def test_the_random_numbers_of_torch_are_those_of_the_client_though_the_script_seeds_itself(tmp_path):
    seeds = """
        import torch
        import fedsag_cli.client as flare

        torch.manual_seed(0)
        flare.init()
        while flare.is_running():
            model = flare.receive()
            flare.send(flare.FLModel(params={k: v + torch.randn(v.shape) for k, v in model.params.items()}))
    """
    made = torch_job(tmp_path / "job", seeds, min_clients=3, num_rounds=2)

    one, three = (
        run(made, "-n", 3, "-t", t, "--seed", 4, "--workers", workspace=tmp_path / str(t)).report["digest"]
        for t in (1, 3)
    )

    assert one == three


def test_a_run_with_workers_that_was_killed_goes_on_to_the_same_model(process_a_client, tmp_path):
    slow = STATELESS.replace("        noise =", "        import time; time.sleep(0.02)\n        noise =")
    made = job(tmp_path / "job", slow, tasks=["train", "validate"], num_rounds=3, num_clients=4, min_clients=4)
    with Running(made, "-n", 7, "-t", 2, "--seed", 3, "--workers") as running:
        running.wait_until_told("RoundFinished")
        running.process.kill()
        running.outcome()

    refused = run(made, "--resume", "--no-workers")
    outcome = run(made, "--resume", "-t", 1)

    assert refused.code == 2
    assert "--no-workers: the run to resume has workers, not no workers" in refused.err
    assert outcome.code == 0, outcome
    assert outcome.report["digest"] == process_a_client.report["digest"]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"executor": {"launch_once": False}}, "--workers: launch_once is false"),
        (
            {"args": "--site {SITE_NAME}"},
            "--workers: the command, or a setting, of the executor depends on the client",
        ),
    ],
    ids=["a process a task", "the client's name in the command"],
)
def test_a_job_that_workers_cannot_do_is_refused_before_the_run(changes, told, tmp_path):
    outcome = run(job(tmp_path / "job", STATELESS, **changes), "-n", 2, "--workers")

    assert outcome.code == 2
    assert told in outcome.err
    assert not (tmp_path / "ws" / "events.jsonl").exists()


def test_workers_need_one_app_for_all_clients(tmp_path):
    for name in ("one", "two"):
        app(tmp_path / "job" / name, STATELESS, executor={"serves_any_client": True})
    deploy(tmp_path / "job", one=["server", "site-1"], two=["site-2"])

    outcome = run(tmp_path / "job")

    assert outcome.code == 3
    assert (
        "app 'one': serves_any_client: all clients must have one app, and site-1 has one, site-2 has two" in outcome.err
    )


def test_no_workers_gives_each_client_a_process_again(tmp_path):
    made = job(tmp_path / "job", STATELESS, executor={"serves_any_client": True})

    outcome = run(made, "-n", 2, "--no-workers")

    assert outcome.code == 0, outcome
    assert {e["name"] for e in outcome.events if e["event"] == "ProcessStarted"} == {"server", "site-1", "site-2"}


def test_without_t_the_run_says_how_many_work_at_a_time_and_why(tmp_path):
    outcome = run(job(tmp_path / "job", STATELESS), "-n", 1000, "--workers", "--torch-threads", 1)

    assert outcome.code == 0, outcome
    notes = [e["text"] for e in outcome.events if e["event"] == "Notice"]
    assert any(re.fullmatch(r"no -t given: \d+ clients? works? at a time, as .*", note) for note in notes)


def test_a_worker_that_hangs_is_stopped_when_another_client_needs_its_place(tmp_path):
    hangs = STATELESS.replace("        noise =", "        import time; time.sleep(600 * (number < 8))\n        noise =")
    made = job(tmp_path / "job", hangs, num_rounds=1, min_clients=1, train_timeout=0.2)

    outcome = run(made, "-n", 8, "-t", 2, "--workers")

    assert outcome.code == 0, outcome
    assert outcome.report["rounds"][0]["answered"] == ["site-8"]
    at_once, most = 0, 0
    for event in outcome.events:
        at_once += {"ProcessStarted": 1, "ProcessExited": -1}.get(event["event"], 0)
        most = max(most, at_once)
    assert most <= 1 + 2 + 4  # the server, the workers, and those that are just being stopped; all together would be 9
    stopped = {event["site"]: event["failure"] for event in outcome.told("ClientStopped")}
    assert {f"site-{number}" for number in range(1, 6)} <= set(stopped)
    assert stopped["site-1"]["where"] == f"{tmp_path}/job/app/custom/train.py:16"
    assert stopped["site-1"]["log"] == str(outcome.workspace / "worker" / "logs" / "site-1.txt")
