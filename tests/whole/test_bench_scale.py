"""scripts/bench W6 and W7: what is run, held together and counted, at small sizes."""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
sys.path.insert(0, str(SCRIPTS))

from benchmark import sections, systems  # noqa: E402
from benchmark.measure import Failed  # noqa: E402
from benchmark.sections import Settings  # noqa: E402
from benchmark.systems import System, Work  # noqa: E402

WORK = Work(name="small", clients=6, slots=2, rounds=3, pictures=6, cohort=4)


@pytest.mark.slow
def test_the_floor_trains_the_clients_that_fedsag_drew_and_ends_with_its_model(tmp_path):
    series = sections.crowd(WORK, Settings(folder=tmp_path, runs=1), look=False)

    assert list(series) == ["fedsag", "floor"]
    assert all(len(each.rounds[0]) == WORK.rounds - 1 for each in series.values())
    cohorts = json.loads((series["floor"].system.folder / "cohorts.json").read_text())
    assert [len(cohort) for cohort in cohorts] == [4, 4, 4]
    events = series["fedsag"].system.events()
    started = {event["name"] for event in events if event["event"] == "ProcessStarted"}
    assert started == {"server", "worker:1", "worker:2"}


def test_a_model_that_is_another_is_told(tmp_path):
    import torch

    made = [System(name=name, command=[], folder=tmp_path, model=tmp_path / f"{name}.pt") for name in ("one", "other")]
    for number, each in enumerate(made):
        torch.save({"model": {"w": torch.full((3,), 0.01 * number)}}, each.model)

    with pytest.raises(Failed, match="other ends with another model than one: w differs"):
        sections.agree(made)


def test_seconds_a_round_leave_the_first_round_out(tmp_path):
    system = System(name="floor", command=[], folder=tmp_path)
    (tmp_path / "rounds.txt").write_text("10.0\n10.5\n12.0\n")

    assert system.round_seconds() == [0.5, 1.5]


def test_memory_is_counted_by_process_and_the_command_is_one_of_them(tmp_path):
    (tmp_path / "ws").mkdir()
    text = """if True:
        import json, os, time
        file = os.memfd_create("m")
        os.write(file, bytes(64 << 20))
        child = os.fork()
        if child:
            event = {"event": "ProcessStarted", "name": "server", "pid": child}
            open("ws/events.jsonl", "w").write(json.dumps(event) + "\\n")
            os.close(file)
        time.sleep(0.5)
    """
    system = System(name="fedsag", command=[sys.executable, "-c", text], folder=tmp_path)

    held = sections.held_by_name(system, system.run(sample=True))

    assert set(held) == {"command", "server"}
    assert held["command"] < 64 << 20 <= held["server"]


def test_a_peer_that_cannot_be_installed_is_told_and_left_out(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(systems, "HERE", tmp_path / "scripts/benchmark")
    failed = subprocess.CompletedProcess([], 1, stdout="ERROR: No matching distribution found")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    leader = System(name="fedsag", command=[], folder=tmp_path)
    settings = Settings(folder=tmp_path, peers=True)

    made = sections.installed(settings, partial(systems.pfl, tmp_path / "pfl", WORK, leader, processes=2))

    assert made == []
    assert [said.partition(":")[0] for said in settings.left_out] == ["pfl is not installed"]
    assert "No matching distribution" in capsys.readouterr().err
