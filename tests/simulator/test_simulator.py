"""`fedsag simulator` as a user has it: real processes, from the command line to the files it leaves."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from runs import ADDS_ONE, FEDSAG, LIMIT_S, Running, app, deploy, eventually, job, marked, run, torch_job

LAUNCHERS = pytest.mark.parametrize("launcher", ["fork", "spawn"])

DRAWS = """
    import random, time
    import numpy as np
    import fedsag_cli.client as flare

    flare.init()
    number = int(flare.get_site_name()[-1])
    while flare.is_running():
        model = flare.receive()
        time.sleep(0.15 if number == 1 else 0.0)  # replies arrive in reverse
        params = {k: v * 0.9 + number * np.random.rand(*v.shape).astype(v.dtype) for k, v in model.params.items()}
        flare.send(flare.FLModel(params=params, metrics={"mean": random.random()},
                                 meta={"NUM_STEPS_CURRENT_ROUND": number * 7}))
"""

WAITS = """
    import subprocess, sys, time
    import fedsag_cli.client as flare

    flare.init()
    flare.receive()
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    time.sleep(600)
"""

COUNTS = """
    import fedsag_cli.client as flare

    flare.init()
    rounds = 0
    while flare.is_running():
        model = flare.receive()
        rounds += 1
        flare.send(flare.FLModel(params=model.params, metrics={"rounds": rounds}))
"""


@LAUNCHERS
def test_a_run_leaves_a_model_a_report_and_logs(tmp_path, launcher):
    made = job(tmp_path / "job", "print('hello from', __file__)\n" + text(ADDS_ONE), num_rounds=3)

    ran = run(made, "-n", 2, "-t", 2, "--launcher", launcher, "--seed", 4)

    assert ran.code == 0, ran
    report = ran.report
    assert (report["ok"], report["exit_code"], report["seed"], report["launcher"]) == (True, 0, 4, launcher)
    assert [each["answered"] for each in report["rounds"]] == [["site-1", "site-2"]] * 3
    assert [each["metrics"]["mean"] for each in report["rounds"]] == [5, 6, 7]
    assert report["exit_codes"] == {"server": 0, "site-1": 0, "site-2": 0}
    assert re.fullmatch("[0-9a-f]{64}", report["digest"])
    model = tmp_path / "ws" / "server" / "simulate_job" / "models" / "server.npy"
    assert np.load(model).tolist() == [[4, 5, 6], [7, 8, 9], [10, 11, 12]]
    assert str(model.relative_to(tmp_path / "ws")) in report["models"]
    script = tmp_path / "ws" / "site-2" / "simulate_job" / "app_site-2" / "custom" / "train.py"
    assert ran.log("site-2") == f"hello from {script}\n"
    assert [event["event"] for event in ran.events][-1] == "RunFinished"
    assert "accuracy" not in ran.out
    assert f"report     {tmp_path}/ws/report.json" in ran.out


def test_the_model_of_the_best_round_is_the_one_that_was_sent_in_it(tmp_path):
    ran = run(job(tmp_path / "job", num_rounds=3), "-n", 2, "-t", 2)

    assert ran.report["best"] == {
        "workflow": "scatter_and_gather",
        "round_num": 2,
        "metric": "mean",
        "score": 7.0,
        "is_final": False,
    }
    best = tmp_path / "ws" / "server" / "simulate_job" / "models" / "best_server.npy"
    assert np.load(best).tolist() == [[3, 4, 5], [6, 7, 8], [9, 10, 11]]


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bits_whatever_the_launcher_and_the_slots(tmp_path):
    """Whoever is slower than min_clients others takes part too: with a seed, the clock decides nothing."""
    made = job(tmp_path / "job", DRAWS, min_clients=1, wait_time_after_min_received=0)

    ways = [("fork", 3, 9), ("spawn", 3, 9), ("fork", 1, 9), ("spawn", 2, 9), ("fork", 3, 9), ("fork", 3, 10)]
    ran = [
        run(
            made,
            "-n",
            3,
            "-t",
            slots,
            "--launcher",
            launcher,
            "--seed",
            seed,
            *(["--strict"] if index < 2 else []),
            workspace=tmp_path / f"ws{index}",
        )
        for index, (launcher, slots, seed) in enumerate(ways)
    ]

    assert [each.code for each in ran] == [0] * 6
    assert all(each["answered"] == ["site-1", "site-2", "site-3"] for one in ran for each in one.report["rounds"])
    *same, other = [each.report["digest"] for each in ran]
    assert len(set(same)) == 1
    assert other not in same
    metrics = [each.metrics("mean") for each in ran]
    assert all(each == metrics[0] for each in metrics[:-1])
    arrived = [event["site"] for event in ran[0].told("TaskSent")]
    assert sorted(arrived[:3]) == ["site-1", "site-2", "site-3"]
    work = ran[0].report["rounds"][1]["work_s"]
    assert work["site-1"] == max(work.values())


TRAINS = """
    import os, time
    import torch
    import fedsag_cli.client as flare
    from net import Net

    site = int(os.environ["FEDSAG_SITE"][-1])
    flare.init()
    net, dropout = Net(), torch.nn.Dropout(0.2)
    data = torch.utils.data.TensorDataset(torch.randn(40, 4) + site, torch.randint(0, 2, (40,)))
    while flare.is_running():
        net.load_state_dict(flare.receive().params)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.05 * site, momentum=0.9)
        for x, y in torch.utils.data.DataLoader(data, batch_size=8, shuffle=True, num_workers=1):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(dropout(net(x)), y).backward()
            optimizer.step()
        time.sleep(0.15 * (3 - site))  # the last site's answer comes first
        flare.send(flare.FLModel(params=net.state_dict(), meta={"NUM_STEPS_CURRENT_ROUND": 5 * site}))
"""


@pytest.mark.slow
def test_a_torch_training_gives_the_same_bits_in_whatever_order_its_updates_come(tmp_path):
    made = torch_job(tmp_path / "job", TRAINS, min_clients=3, executor={"params_transfer_type": "DIFF"})

    ways = [("fork", 3), ("fork", 1), ("spawn", 3)]
    ran = [
        run(made, "-n", 3, "-t", slots, "--launcher", launcher, "--seed", 5, workspace=tmp_path / f"ws{index}")
        for index, (launcher, slots) in enumerate(ways)
    ]

    assert [each.code for each in ran] == [0] * 3
    assert len({each.report["digest"] for each in ran}) == 1
    assert [each["answered"] for each in ran[0].report["rounds"]] == [["site-1", "site-2", "site-3"]] * 2
    work = ran[0].report["rounds"][1]["work_s"]
    assert work["site-1"] > work["site-2"] > work["site-3"]
    assert ran[0].report["seeded_themselves"] == []


@pytest.mark.parametrize("launcher", ["fork", "spawn"])
def test_a_secret_reaches_the_script_and_no_file_of_the_run(tmp_path, launcher):
    script = ADDS_ONE.replace("flare.init()", "import sys; flare.init(); assert len(sys.argv[2]) == 21, sys.argv")
    assert script != ADDS_ONE
    made = job(tmp_path / "job", script, args="--key ${secret:MY_KEY}")

    ran = run(made, "-n", 2, "-t", 2, "--launcher", launcher, env={"MY_KEY": "xyzzy-plugh-and-a-bit"})

    assert ran.code == 0, ran
    files = [path for path in (tmp_path / "ws").rglob("*") if path.is_file()]
    assert not [path for path in files if b"xyzzy-plugh" in path.read_bytes()]


def test_a_secret_stays_one_where_its_command_cannot_be_started(tmp_path):
    made = job(tmp_path / "job", command="custom/no.sh --key ${secret:MY_KEY}", files={"no.sh": "echo\n"})

    ran = run(made, "-n", 2, "-t", 2, env={"MY_KEY": "xyzzy-plugh"})

    assert ran.code == 4
    assert "custom/no.sh: [Errno 13] Permission denied" in ran.err
    assert "xyzzy" not in ran.out + ran.err
    files = [path for path in (tmp_path / "ws").rglob("*") if path.is_file()]
    assert not [path for path in files if b"xyzzy" in path.read_bytes()]


def test_a_secret_that_is_not_there_is_told_before_anything_starts(tmp_path):
    ran = run(job(tmp_path / "job", args="--key ${secret:MY_KEY}"), "-n", 2, "-t", 2)

    assert ran.code == 3
    assert "${secret:MY_KEY}: there is no environment variable MY_KEY" in ran.err


@pytest.mark.slow
def test_some_clients_a_round_and_an_early_end_are_the_same_for_every_slot_count(tmp_path):
    script = DRAWS.replace('"mean": random.random()', '"round": model.current_round')
    assert script != DRAWS
    made = job(tmp_path / "job", script, num_clients=2, min_clients=2, num_rounds=9, stop_cond="round >= 3")

    ways = [("fork", 5), ("fork", 1), ("spawn", 2)]
    ran = [
        run(made, "-n", 5, "-t", slots, "--launcher", launcher, "--seed", 5, workspace=tmp_path / f"ws{index}")
        for index, (launcher, slots) in enumerate(ways)
    ]

    assert [each.code for each in ran] == [0] * 3, ran
    assert len({each.report["digest"] for each in ran}) == 1
    drawn = [[each["answered"] for each in one.report["rounds"]] for one in ran]
    assert drawn[0] == drawn[1] == drawn[2]
    assert [len(each) for each in drawn[0]] == [2] * 4
    assert len({tuple(each) for each in drawn[0]}) > 1
    assert "note: stopped after round 3: round is 3, which is >= 3" in ran[0].out
    assert re.search(r"\b3 .* 2 of 2 ", ran[0].out)
    idle = set(ran[0].report["sites"]) - {site for each in drawn[0] for site in each}
    assert all(ran[0].report["exit_codes"].get(site, 0) == 0 for site in idle)


DRAWS_ONLY = """
    import numpy as np
    import fedsag_cli.client as flare

    flare.init()
    while flare.is_running():
        model = flare.receive()
        drawn = float(np.random.rand())
        flare.send(flare.FLModel(params={k: v + 1 for k, v in model.params.items()}, metrics={"drawn": drawn}))
"""


def test_two_workflows_are_told_apart_and_draw_numbers_of_their_own(tmp_path):
    arguments = {"min_clients": 1, "num_rounds": 1, "aggregator_id": "aggregator", "persistor_id": "persistor"}
    args = arguments | {"model_selector_id": "model_selector"}
    flows = [{"id": name, "path": "ScatterAndGather", "args": args} for name in ("warm_up", "main")]
    selector = {"model_selector": {"path": "IntimeModelSelector", "args": {"key_metric": "drawn"}}}
    made = job(tmp_path / "job", DRAWS_ONLY, server={"workflows": flows}, components=selector)

    ran = run(made, "-n", 1, "--seed", 5)
    alone = job(tmp_path / "alone", DRAWS_ONLY, num_rounds=1, min_clients=1)
    first = run(alone, "-n", 1, "--seed", 5, workspace=tmp_path / "ws1")

    rounds = ran.report["rounds"]
    assert [(each["workflow"], each["round_num"], each["is_whole"]) for each in rounds] == [
        ("warm_up", 0, True), ("main", 0, True),
    ]  # fmt: skip
    drawn = [each["site-1"] for each in ran.metrics("drawn")]
    assert first.metrics("drawn") == [{"site-1": drawn[0]}], "the first workflow draws what it always drew"
    assert drawn[0] != drawn[1]
    assert ran.report["best"] == {
        "workflow": "main", "round_num": 0, "metric": "drawn", "score": drawn[1], "is_final": False,
    }  # fmt: skip


def test_a_drawn_seed_is_told_and_repeats(tmp_path):
    made = job(tmp_path / "job", DRAWS)
    first = run(made, "-n", 2, "-t", 2)
    another = run(made, "-n", 2, "-t", 2, workspace=tmp_path / "another")
    again = run(made, "-n", 2, "-t", 2, "--seed", first.report["seed"], workspace=tmp_path / "again")

    assert first.report["digest"] == again.report["digest"] != another.report["digest"]


def test_clients_can_be_named(tmp_path):
    ran = run(job(tmp_path / "job"), "-c", "berlin, site_2,c.d", "-t", 3)

    assert ran.code == 0
    assert ran.report["sites"] == ["berlin", "site_2", "c.d"]
    assert (tmp_path / "ws" / "berlin" / "log.txt").exists()


@pytest.mark.parametrize(
    "words",
    [
        ["-n", "0"],
        ["-n", "x"],
        ["-t", "0"],
        ["-c", "a,a"],
        ["-c", "server"],
        ["-c", "../x"],
        ["--torch-threads", "0"],
        ["--launcher", "telepathy"],
        ["--nonsense"],
    ],
)
def test_a_wrong_flag_is_2_and_leaves_nothing(tmp_path, words):
    ran = run(job(tmp_path / "job"), *(words if words[0] in ("-n", "-c") else ["-n", 2, *words]))

    assert ran.code == 2, ran
    assert words[0].strip("-") in ran.err
    assert not (tmp_path / "ws").exists()


def test_a_missing_job_and_a_missing_script_are_3(tmp_path):
    nowhere = run(tmp_path / "nowhere", "-n", 2)
    made = job(tmp_path / "job")
    (made / "app" / "custom" / "train.py").rename(made / "app" / "custom" / "other.py")
    without = run(made, "-n", 2)

    assert (nowhere.code, without.code) == (3, 3)
    assert "there is no job folder" in nowhere.err
    assert "custom/train.py of site-1 does not exist" in without.err
    assert "custom/other.py" in without.err
    assert not (tmp_path / "ws" / "report.json").exists()


def test_two_apps_may_have_a_module_of_the_same_name(tmp_path):
    script = "from settings import STEP\n" + text(ADDS_ONE).replace("v + 1", "v + STEP")
    folder = tmp_path / "job"
    app(folder / "app_server", script, files={"settings.py": "STEP = 1000"})
    app(folder / "app_1", script, files={"settings.py": "STEP = 1"})
    app(folder / "app_2", script, files={"settings.py": "from deeper import STEP", "deeper.py": "STEP = 3"})
    deploy(folder, app_server=["server"], app_1=["site-1"], app_2=["site-2"])

    for launcher in ("fork", "spawn"):
        ran = run(folder, "-t", 2, "--launcher", launcher)

        assert ran.code == 0, ran
        assert ran.report["sites"] == ["site-1", "site-2"]
        model = np.load(tmp_path / "ws" / "server" / "simulate_job" / "models" / "server.npy")
        assert model[0, 0] == 1 + 2 * 2  # two rounds of the mean of 1 and 3


@LAUNCHERS
def test_a_script_that_waits_for_its_slot_keeps_its_state(tmp_path, launcher):
    ran = run(job(tmp_path / "job", COUNTS, num_rounds=3), "-n", 3, "-t", 1, "--launcher", launcher)

    assert ran.code == 0, ran
    assert ran.metrics("rounds") == [dict.fromkeys(["site-1", "site-2", "site-3"], number) for number in (1, 2, 3)]


@LAUNCHERS
def test_launch_once_false_starts_anew_for_each_task(tmp_path, launcher):
    made = job(tmp_path / "job", COUNTS, num_rounds=3, executor={"launch_once": False})

    ran = run(made, "-n", 2, "-t", 1, "--launcher", launcher)

    assert ran.code == 0, ran
    assert ran.metrics("rounds") == [{"site-1": 1, "site-2": 1}] * 3
    assert len(ran.told("ProcessStarted")) == 1 + 2 * 3


@pytest.mark.parametrize("slots", [1, 2])
def test_no_more_clients_work_than_there_are_slots(tmp_path, slots):
    script = """
        import os, time, pathlib
        import fedsag_cli.client as flare

        flare.init()
        while flare.is_running():
            model = flare.receive()
            mine = pathlib.Path(os.environ["WORKING"], str(os.getpid()))
            mine.touch()
            time.sleep(0.05)
            most = len(list(mine.parent.iterdir()))
            mine.unlink()
            flare.send(flare.FLModel(params=model.params, metrics={"most": most}))
    """
    (tmp_path / "working").mkdir()

    ran = run(job(tmp_path / "job", script), "-n", 4, "-t", slots, env={"WORKING": str(tmp_path / "working")})

    assert ran.code == 0, ran
    assert max(most for each in ran.metrics("most") for most in each.values()) == slots


@pytest.mark.slow
@LAUNCHERS
def test_all_cores_and_dataloader_workers_with_and_without_a_main_guard(tmp_path, launcher):
    script = """
        import os
        import torch
        from torch.utils.data import DataLoader, TensorDataset
        import fedsag_cli.client as flare

        def work():
            torch.set_num_threads(os.cpu_count())
            assert (torch.ones(1024, 1024) @ torch.ones(1024, 1024)).sum().item() == 2**30
            loader = DataLoader(TensorDataset(torch.arange(8.0)), batch_size=2, num_workers=2)
            flare.init()
            while flare.is_running():
                model = flare.receive()
                total = sum(batch.sum().item() for (batch,) in loader)
                flare.send(flare.FLModel(params={k: v + 1 for k, v in model.params.items()}, metrics={"total": total}))

    """
    folder = tmp_path / "job"
    guarded, bare = text(script) + "if __name__ == '__main__':\n    work()\n", text(script) + "work()\n"
    torch_job(folder, guarded)
    (folder / "app").rename(folder / "app_1")
    app(folder / "app_2", bare)
    deploy(folder, app_1=["server", "site-1"], app_2=["site-2"])

    ran = run(folder, "-t", 2, "--launcher", launcher)

    assert ran.code == 0, f"{ran}\n{ran.log('site-1')}\n{ran.log('site-2')}"
    assert ran.metrics("total") == [{"site-1": 28.0, "site-2": 28.0}] * 2


def test_no_process_of_a_numpy_job_has_torch_in_it(tmp_path):
    with Running(job(tmp_path / "job", WAITS), "-n", 2, "-t", 2, stdin=subprocess.DEVNULL) as running:
        running.wait_until_told("TaskSent", 2)
        maps = {pid: Path(f"/proc/{pid}/maps").read_text() for pid in marked(running.mark)}
        server_and_clients = running.pids().values()

    assert len(server_and_clients) == 3
    assert len(maps) >= 5  # with the command and its nursery
    assert not any("libtorch" in text or "torch/_C" in text for text in maps.values())
    assert all("/numpy/" in maps[pid] for pid in server_and_clients)
    assert "/numpy/" not in maps[running.process.pid]  # this folder is named so too


def test_a_command_of_another_kind_runs_as_it_is(tmp_path):
    made = job(
        tmp_path / "job",
        ADDS_ONE,
        command="bash custom/run.sh --fast",
        files={"run.sh": f'echo "run.sh $1 on $FEDSAG_SITE"\nexec {sys.executable} -u custom/train.py'},
    )

    ran = run(made, "-n", 2, "-t", 2)

    assert ran.code == 0, ran
    assert ran.log("site-1") == "run.sh --fast on site-1\n"


def test_python_with_a_module_runs_as_it_is(tmp_path):
    ran = run(job(tmp_path / "job", ADDS_ONE, command="python3 -m train"), "-n", 2, "-t", 2)

    assert ran.code == 0, ran


def test_min_clients_above_their_number_counts_as_all_and_is_said_once(tmp_path):
    ran = run(job(tmp_path / "job", min_clients=9, num_rounds=3), "-n", 2, "-t", 2)

    assert ran.code == 0
    assert ran.out.count("min_clients is 9") == 1


def test_the_torch_threads_are_divided_among_the_clients_and_can_be_set(tmp_path):
    script = text(ADDS_ONE).replace('"mean": mean', '"mean": int(__import__("os").environ["OMP_NUM_THREADS"])')
    made = job(tmp_path / "job", script, num_rounds=1)
    shared = run(made, "-n", 2, "-t", 1)
    given = run(made, "-n", 2, "--threads", 2, "--torch-threads", 3, workspace=tmp_path / "given")

    cores = len(os.sched_getaffinity(0))
    assert shared.metrics("mean") == [dict.fromkeys(["site-1", "site-2"], max(1, cores // 2))]
    assert given.metrics("mean") == [dict.fromkeys(["site-1", "site-2"], 3)]
    assert (given.report["threads"], given.report["slots"]) == (3, 2)


def test_a_second_run_in_the_same_workspace_is_refused_and_names_the_first(tmp_path):
    with Running(job(tmp_path / "job", WAITS), "-n", 2, "-t", 2) as first:
        first.wait_until_told("TaskSent", 2)
        second = run(tmp_path / "job", "-n", 2)

        assert second.code == 2
        assert f"is used by another run, process {first.process.pid}" in second.err
        assert first.process.poll() is None


def test_what_is_not_ours_survives_and_what_was_is_replaced(tmp_path):
    made = job(tmp_path / "job", ADDS_ONE, files={"old.py": "OLD = 1", "deep/old.txt": ""})
    first = run(made, "-n", 3, "-t", 2)
    mine = tmp_path / "ws" / "site-1" / "simulate_job" / "app_site-1" / "mine.txt"
    mine.write_text("mine")
    (tmp_path / "ws" / "notes.txt").write_text("notes")
    (made / "app" / "custom" / "old.py").unlink()
    (made / "app" / "custom" / "deep" / "old.txt").unlink()
    (made / "app" / "custom" / "new.py").touch()
    second = run(made, "-n", 2, "-t", 2)

    assert (first.code, second.code) == (0, 0)
    assert mine.read_text() == "mine"
    assert (tmp_path / "ws" / "notes.txt").read_text() == "notes"
    custom = tmp_path / "ws" / "site-1" / "simulate_job" / "app_site-1" / "custom"
    assert sorted(path.name for path in custom.iterdir()) == ["new.py", "train.py"]
    assert not (tmp_path / "ws" / "site-3").exists()
    assert second.report["digest"] == first.report["digest"]


def test_a_strangers_file_with_one_of_our_names_is_not_overwritten(tmp_path):
    (tmp_path / "ws").mkdir()
    (tmp_path / "ws" / "report.json").write_text("mine")

    ran = run(job(tmp_path / "job"), "-n", 2)

    assert ran.code == 2
    assert "report.json already exists" in ran.err
    assert (tmp_path / "ws" / "report.json").read_text() == "mine"


@LAUNCHERS
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_ends_everything_and_says_so(tmp_path, number, code, launcher):
    with Running(job(tmp_path / "job", WAITS), "-n", 2, "-t", 2, "--launcher", launcher) as running:
        running.wait_until_told("TaskSent", 2)
        eventually(lambda: len(marked(running.mark)) >= 6)  # ours, the server, two clients, their children
        os.kill(running.process.pid, number)
        ran = running.outcome()

    assert ran.code == code
    assert (ran.left_alive, ran.left_in_tmp) == ([], [])
    assert (ran.report["ok"], ran.report["exit_code"]) == (False, code)
    assert "interrupted" in ran.report["cause"]
    assert "error: interrupted" in ran.err


def test_ctrl_c_on_the_whole_group_is_told_once(tmp_path):
    with Running(job(tmp_path / "job", WAITS), "-n", 2, "-t", 2, start_new_session=True) as running:
        running.wait_until_told("TaskSent", 2)
        os.killpg(running.process.pid, signal.SIGINT)
        ran = running.outcome()

    assert (ran.code, ran.left_alive) == (130, [])
    assert "Traceback" not in ran.err


@pytest.mark.parametrize("when", ["RunStarted", "ServerReady"])
def test_an_early_interrupt_ends_everything_too(tmp_path, when):
    with Running(job(tmp_path / "job", WAITS), "-n", 2, "-t", 2) as running:
        running.wait_until_told(when)
        os.kill(running.process.pid, signal.SIGINT)
        ran = running.outcome()

    assert (ran.code, ran.left_alive, ran.left_in_tmp) == (130, [], []), ran.err


@pytest.mark.parametrize("how", ["fork", "spawn", "command"])
def test_nothing_outlives_a_parent_that_is_killed(tmp_path, how):
    command = f"sh -c '{sys.executable} custom/train.py & wait'" if how == "command" else None
    words = [] if how == "command" else ["--launcher", how]
    with Running(job(tmp_path / "job", WAITS, command=command), "-n", 2, "-t", 2, *words) as running:
        running.wait_until_told("TaskSent", 2)
        eventually(lambda: len(marked(running.mark)) >= 6)
        running.process.kill()
        running.process.wait(timeout=LIMIT_S)

        eventually(lambda: not marked(running.mark))
    again = run(job(tmp_path / "again"), "-n", 2, "-t", 2)
    assert again.code == 0  # the workspace is free again, and what lies in it is known


@pytest.mark.parametrize("who", ["nursery", "server"])
def test_a_nursery_or_a_server_that_is_killed_ends_the_run(tmp_path, who):
    with Running(job(tmp_path / "job", WAITS), "-n", 2, "-t", 2) as running:
        running.wait_until_told("TaskSent", 2)
        server = running.pids()["server"]
        nursery = int(Path(f"/proc/{server}/stat").read_text().rpartition(")")[2].split()[1])
        os.kill({"nursery": nursery, "server": server}[who], signal.SIGKILL)
        ran = running.outcome()

    assert ran.code == 4, ran
    assert (ran.left_alive, ran.left_in_tmp) == ([], [])
    assert "signal 9" in ran.report["cause"]


def test_it_works_without_a_standard_input(tmp_path):
    made = job(tmp_path / "job")
    command = f"exec {FEDSAG} simulator {made} -w {tmp_path}/ws -n 2 -t 2 <&-"

    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=LIMIT_S)

    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "ws" / "report.json").read_text())["ok"]


@pytest.mark.parametrize("closed", [">&-", ">&- 2>&-", ">&- 2>&- <&-", "| head -1"])
@LAUNCHERS
def test_the_run_goes_on_when_nobody_reads_what_it_says(tmp_path, closed, launcher):
    made = job(tmp_path / "job", DRAWS, num_rounds=4)
    command = f"{FEDSAG} simulator {made} -w {tmp_path}/ws -n 2 -t 2 --launcher {launcher} {closed}"

    subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=LIMIT_S)

    def finished():
        report = tmp_path / "ws" / "report.json"
        return report.exists() and json.loads(report.read_text())

    eventually(finished)
    assert finished()["ok"], finished()["cause"]
    assert len(finished()["rounds"]) == 4


def test_piped_every_line_comes_when_it_is_said(tmp_path):
    made = job(tmp_path / "job", WAITS)
    with Running(made, "-n", 2, "-t", 2, env={"PYTHONUNBUFFERED": ""}, stderr=subprocess.STDOUT) as running:
        assert running.process.stdout.readline().startswith("job job: 2 clients")
        assert running.process.poll() is None


def test_json_is_one_event_a_line_and_nothing_else(tmp_path):
    script = "print('on standard output')\n" + text(ADDS_ONE)
    ran = run(job(tmp_path / "job", script), "-n", 2, "-t", 2, "--format", "json")

    told = [json.loads(line) for line in ran.out.splitlines()]
    assert told == ran.events
    assert told[-1]["event"] == "RunFinished"
    assert told[-1]["ok"]


def test_json_tells_a_failed_run_to_its_end(tmp_path):
    ran = run(job(tmp_path / "job", "1 / 0"), "-n", 2, "-t", 2, "--format", "json")

    told = [json.loads(line) for line in ran.out.splitlines()]
    assert ran.code == 4
    assert [(each["event"], each["exit_code"]) for each in told[-2:]] == [("RunFinished", 4), ("CommandFailed", 4)]
    assert told[-1]["message"] == told[-2]["cause"]
    assert ran.err == ""


def test_piped_nothing_is_wrapped_or_coloured_whatever_the_width(tmp_path):
    env = {"COLUMNS": "20", "TERM": "xterm-256color", "FORCE_COLOR": "1", "CLICOLOR_FORCE": "1"}
    ran = run(job(tmp_path / "job"), "-n", 2, "-t", 2, env=env)
    failed = run(job(tmp_path / "bad", "raise ValueError('x' * 300)"), "-n", 2, "-t", 2, env=env)

    assert ran.code == 0
    for each in (ran, failed):
        assert "\x1b" not in each.out + each.err
    assert f"model      {tmp_path}/ws/server/simulate_job/models/server.npy" in ran.out.splitlines()
    assert any(re.match(r"round +mean +answered +seconds$", line) for line in ran.out.splitlines())
    assert any("ValueError: " + "x" * 300 in line for line in failed.out.splitlines())
    assert any(line.startswith("error: ") and "x" * 300 in line for line in failed.err.splitlines())


def test_on_a_terminal_it_lives_and_ends_with_the_table(tmp_path):
    made = job(tmp_path / "job", DRAWS, num_rounds=3)
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [FEDSAG, "simulator", made, "-w", tmp_path / "ws", "-n", "2", "-t", "2"],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "100", "LINES": "30"},
    )
    os.close(slave)
    shown = b""
    try:
        while select.select([master], [], [], LIMIT_S)[0]:
            try:
                shown += os.read(master, 1 << 16)
            except OSError:  # how Linux says that nobody has the other end
                break
        assert process.wait(timeout=LIMIT_S) == 0
    finally:
        process.kill()
        os.close(master)

    said = shown.decode()
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", said)
    assert "\x1b[" in said
    assert "site-1" in plain
    assert re.search(r"round +│? *mean", plain)
    assert [line.split()[0] for line in plain.rstrip().splitlines()[-2:]] == ["digest", "seconds"]
    assert "Traceback" not in plain


def test_the_default_job_and_workspace_are_in_the_current_folder(tmp_path):
    job(tmp_path / "current_job")

    done = subprocess.run([FEDSAG, "simulator"], cwd=tmp_path, capture_output=True, text=True, timeout=LIMIT_S)

    assert done.returncode == 0, done.stderr
    assert "2 clients" in done.stdout
    assert json.loads((tmp_path / "simulator_workspace" / "report.json").read_text())["sites"] == ["site-1", "site-2"]


def test_without_w_the_run_before_is_kept_beside_it_and_with_w_it_is_replaced_and_both_are_said(tmp_path):
    made = job(tmp_path / "current_job")
    env = os.environ | {"FEDSAG_HOME": str(tmp_path / "home")}
    told = []

    for words in ((), (), ("-w", "simulator_workspace")):
        command = [FEDSAG, "simulator", str(made), "-n", "2", *words]
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=LIMIT_S)
        assert done.returncode == 0, done.stderr
        told += [line for line in done.stdout.splitlines() if line.startswith(("note: run ", "run  "))]

    here = tmp_path / "simulator_workspace"
    assert told == [
        "run        1: fedsag runs show 1",
        f"note: run 1, which was in {here}, is now in {here}.runs/1; the last 10 are kept",
        "run        2: fedsag runs show 2",
        f"note: run 2, which was in {here}, is replaced",
        "run        3: fedsag runs show 3",
    ]
    assert json.loads((tmp_path / "simulator_workspace.runs" / "1" / "report.json").read_text())["ok"]


def test_paths_with_blanks_commas_and_signs_are_fine(tmp_path):
    odd = tmp_path / "a b,c=ä'\"$ü"
    ran = run(job(odd / "my job", args="--name 'x y'"), "-n", 2, "-t", 2)

    assert ran.code == 0, ran


def test_a_long_workspace_path_does_not_matter(tmp_path):
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)

    assert run(job(tmp_path / "job"), "-n", 2, "-t", 2, workspace=deep / "ws").code == 0


def test_a_job_may_ask_for_the_last_model_to_be_measured(tmp_path):
    script = """
        import fedsag_cli.client as flare

        flare.init()
        while flare.is_running():
            model = flare.receive()
            metrics = {"mean": float(sum(array.mean() for array in model.params.values()))}
            if flare.is_evaluate():
                flare.send(flare.FLModel(metrics=metrics))
            else:
                flare.send(flare.FLModel(params={k: v + 1 for k, v in model.params.items()}, metrics=metrics))
    """
    ran = run(job(tmp_path / "job", script, tasks=["train", "validate"]), "-n", 2, "-t", 1)

    assert ran.code == 0, ran
    assert ran.report["final_metrics"] == {"mean": 7.0}
    assert ran.report["best"] == {
        "workflow": "scatter_and_gather",
        "round_num": 2,
        "metric": "mean",
        "score": 7.0,
        "is_final": True,
    }


def text(script):
    """A script that another text may stand before."""
    return textwrap.dedent(script)
