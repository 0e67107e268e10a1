"""A client with several executors: each has a process and its tasks, and the site does one task at a time."""

import json

import pytest
from runs import job, run

TRAINS = """
    import fedsag_cli.client as flare

    flare.init()
    print("trains on", flare.get_site_name(), flush=True)
    while flare.is_running():
        model = flare.receive()
        assert flare.is_train()
        flare.send(flare.FLModel(params={k: v + 1 for k, v in model.params.items()}, metrics={"mean": 0.0}))
"""
MEASURES = """
    import fedsag_cli.client as flare

    flare.init()
    print("measures on", flare.get_site_name(), flush=True)
    while flare.is_running():
        model = flare.receive()
        assert flare.is_evaluate()
        flare.send(flare.FLModel(metrics={"mean": float(model.params["numpy_key"].mean())}))
"""
FAILS = """
    import fedsag_cli.client as flare

    flare.init()
    flare.receive()
    raise ValueError("no data to measure on")
"""

pytestmark = pytest.mark.slow


def two_executors(folder, measures=MEASURES, trains=TRAINS, **settings):
    made = job(folder, trains, files={"measure.py": measures}, **settings)
    config = made / "app" / "config" / "config_fed_client.json"
    (first,) = json.loads(config.read_text())["executors"]
    validates = json.loads(json.dumps(first))
    validates["tasks"] = ["validate"]
    validates["executor"]["args"]["command"] = "python3 -u custom/measure.py"
    config.write_text(json.dumps({"executors": [first, validates]}))
    return made


def test_each_executor_does_its_tasks_in_a_process_of_its_own_and_writes_its_own_log(tmp_path):
    ran = run(two_executors(tmp_path / "job"), "-n", 2, "-t", 2)

    assert ran.code == 0, ran
    assert ran.report["sites"] == ["site-1", "site-2"]
    # the mean of 1 to 9 is 5, and two rounds add 1 each
    assert ran.report["final_metrics_by_site"] == {"site-1": {"mean": 7.0}, "site-2": {"mean": 7.0}}
    assert ran.log("site-2") == "trains on site-2\n"
    assert (tmp_path / "ws" / "site-2" / "log_2.txt").read_text() == "measures on site-2\n"
    assert ran.report["exit_codes"]["site-1:2"] == 0


def test_the_executors_of_a_site_share_its_state(tmp_path):
    trains = TRAINS.replace("assert flare.is_train()", 'flare.state["seen"] = flare.state.get("seen", 0) + 1')
    measures = MEASURES.replace('float(model.params["numpy_key"].mean())', 'float(flare.state["seen"])')

    ran = run(two_executors(tmp_path / "job", measures, trains=trains, num_rounds=3), "-n", 2, "-t", 2)

    assert ran.code == 0, ran
    assert ran.report["final_metrics_by_site"] == {"site-1": {"mean": 3.0}, "site-2": {"mean": 3.0}}


def test_the_second_executor_starts_when_its_task_comes_and_takes_no_slot_from_another_site(tmp_path):
    ran = run(two_executors(tmp_path / "job"), "-n", 2, "-t", 1)

    assert ran.code == 0, ran
    started = [event["name"] for event in ran.told("ProcessStarted")]
    assert [name for name in started if name.startswith("site")] == ["site-1", "site-2", "site-1:2", "site-2:2"]


def test_a_failure_of_the_second_executor_is_the_sites_and_names_its_log(tmp_path):
    ran = run(two_executors(tmp_path / "job", FAILS), "-n", 2, "-t", 2)

    assert ran.code == 0, ran
    failure = ran.report["final_failed"]["site-1"]
    assert "no data to measure on" in failure["cause"]
    assert failure["log"] == "site-1/log_2.txt"
    assert set(ran.report["failures"]) == {"site-1", "site-2"}


def test_with_strict_a_failure_of_the_second_executor_ends_the_run(tmp_path):
    ran = run(two_executors(tmp_path / "job", FAILS), "-n", 2, "-t", 2, "--strict")

    assert ran.code == 4, ran
    assert "no data to measure on" in ran.err
