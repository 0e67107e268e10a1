"""A run is packed into one file, and made again from it: whether it is the same, and where it differs first."""

import json
import os
import shutil
import zipfile
from pathlib import Path

import msgspec
import pytest
from runs import fedsag, job, torch_job

from fedsag_cli.errors import RunError, UsageError, WorkspaceError
from fedsag_cli.events import RoundFinished
from fedsag_cli.history import finding, known_runs
from fedsag_cli.history.first_difference import Difference
from fedsag_cli.job.templates.create import create
from fedsag_cli.simulator import simulate
from fedsag_cli.simulator.options import Options
from fedsag_cli.simulator.packs import PACK, again, zipped
from fedsag_cli.simulator.packs.packing import pack_run
from fedsag_cli.workspace import Workspace

DRAWS = """
    import sys
    from pathlib import Path
    import numpy as np
    import fedsag_cli.client as flare

    flare.init()
    while flare.is_running():
        model = flare.receive()
        said = Path(sys.argv[1]).read_text() if (flare.get_site_name(), model.current_round) == ("b", 1) else "0"
        params = {k: v + np.random.rand(*v.shape) + float(said) for k, v in model.params.items()}
        flare.send(flare.FLModel(params=params, metrics={"mean": 0.5}))
"""
"""In round 1, the client b adds what is in a file outside the job, which is data."""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A finished run of three rounds in `ws`, of a job that reads `data.txt`; its row is in a database of its own."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "data.txt").write_text("0")
    made = job(folder / "job", DRAWS, args=str(folder / "data.txt"), num_rounds=3, min_clients=1)
    (made / "app" / "custom" / "tool.sh").write_text("true")
    (made / "app" / "custom" / "tool.sh").chmod(0o755)
    (made / "notes.txt").write_text("not a part of the job")
    before = os.environ["FEDSAG_HOME"]
    os.environ["FEDSAG_HOME"] = str(folder / "home")
    simulate(made, folder / "ws", Options(clients=["b", "a"], slots=2, seed=7))
    yield folder
    os.environ["FEDSAG_HOME"] = before


@pytest.fixture(scope="module")
def packed(place):
    return pack_run(finding.find("1"), place / "run.fedsag.zip")


@pytest.fixture
def data(place):
    yield place / "data.txt"
    (place / "data.txt").write_text("0")


def contents(file):
    with zipfile.ZipFile(file) as opened:
        return {name: opened.read(name) for name in opened.namelist() if not name.endswith("/")}


def changed(file, into, change):
    """A pack with other files, for which its pack.json has the right digests."""
    files = contents(file)
    change(files)
    said = json.loads(files.pop(PACK))
    with into.open("wb") as opened, zipped.Writer(opened) as writer:
        for name, text in files.items():
            writer.add(name, [text])
        writer.add(PACK, [json.dumps(said | {"files": writer.files}).encode()])
    return into


def with_pack(**fields):
    def change(files):
        files[PACK] = json.dumps(json.loads(files[PACK]) | fields).encode()

    return change


def test_a_pack_has_the_job_that_was_run_and_no_path_of_the_machine_but_in_the_job(place, packed):
    files = contents(packed.file)

    assert [name for name in files if name.startswith("job/")] == [
        "job/job/meta.json",
        "job/job/app/config/config_fed_client.json",
        "job/job/app/config/config_fed_server.json",
        "job/job/app/custom/tool.sh",
        "job/job/app/custom/train.py",
    ]
    assert files["job/job/app/custom/train.py"] == (place / "job" / "app" / "custom" / "train.py").read_bytes()
    report = json.loads(files["report.json"])
    assert (report["workspace"], report["digest"]) == ("WORKSPACE", packed.pack.digest)
    assert json.loads(files["plan.json"])["sites"][0]["script"] == "WORKSPACE/b/simulate_job/app_b/custom/train.py"
    there = str(place).encode()
    ours = b"".join(text for name, text in files.items() if not name.startswith("job/"))
    assert ours.count(there) == ours.count(there + b"/data.txt") > 0  # which is an argument in the job
    assert (packed.pack.settings.clients, packed.pack.settings.seed, packed.pack.rounds) == (["b", "a"], 7, 3)
    assert packed.pack.models["server/simulate_job/models/server.npy"] > 0
    assert packed.notes == []


def test_the_metadata_is_an_ro_crate_with_the_run_as_its_action(packed):
    files = contents(packed.file)
    assert zipfile.ZipFile(packed.file).getinfo("job/job/").is_dir()
    crate = json.loads(files["ro-crate-metadata.json"])
    by_id = {each["@id"]: each for each in crate["@graph"]}

    assert crate["@context"][0] == "https://w3id.org/ro/crate/1.1/context"
    assert by_id["ro-crate-metadata.json"] == {
        "@id": "ro-crate-metadata.json",
        "@type": "CreativeWork",
        "conformsTo": {"@id": "https://w3id.org/ro/crate/1.1"},
        "about": {"@id": "./"},
    }
    root, run = by_id["./"], by_id["#run"]
    assert root["@type"] == "Dataset"
    assert {"name", "description", "datePublished", "license", "conformsTo"} <= root.keys()
    assert root["mentions"] == {"@id": "#run"}
    assert run["@type"] == "CreateAction"
    assert by_id[run["instrument"]["@id"]]["softwareVersion"] == packed.pack.versions["fedsag"]
    assert run["object"][0] == {"@id": "job/job/"}
    assert {"@id": "report.json"} in run["result"]
    assert run["actionStatus"] == "http://schema.org/CompletedActionStatus"
    parts = {each["@id"] for each in [*root["hasPart"], *by_id["job/job/"]["hasPart"]]}
    assert parts - {"job/job/"} == files.keys() - {"ro-crate-metadata.json"}
    named = {value["@id"] for each in crate["@graph"] for value in all_refs(each)}
    assert named <= by_id.keys() | {"https://w3id.org/ro/crate/1.1"}
    sizes = {name: each["contentSize"] for name, each in by_id.items() if "contentSize" in each}
    assert sizes == {name: str(len(text)) for name, text in files.items() if name in sizes}
    assert sizes.keys() == files.keys() - {"ro-crate-metadata.json", PACK}


def all_refs(entity):
    values = [each for value in entity.values() for each in (value if isinstance(value, list) else [value])]
    return [value for value in values if isinstance(value, dict)]


def test_the_same_run_gives_the_same_bytes_and_another_file_is_not_replaced(place, packed):
    before = packed.file.read_bytes()
    (place / "own.zip").write_text("mine")

    shutil.copytree(place / "ws", place / "moved", symlinks=True)
    moved = finding.find(str(place / "moved"))
    assert pack_run(finding.find(str(place / "ws")), packed.file).file.read_bytes() == before
    assert contents(pack_run(moved, place / "moved.zip").file)["plan.json"] == contents(packed.file)["plan.json"]
    for out, said in (
        ("own.zip", "is not a pack"),
        ("ws", "is a folder"),
        ("nowhere/run.zip", "there is no folder"),
        (f"{'x' * 300}.zip", "cannot be written: File name too long"),
    ):
        with pytest.raises(UsageError, match=said):
            pack_run(finding.find("1"), place / out)
    assert (place / "own.zip").read_text() == "mine"


def test_a_run_made_again_is_the_same_and_is_no_run_of_the_user(place, packed):
    told, known = [], known_runs()

    class Shown:
        def on(self, event):
            told.append(event)

    verdict = again.verify_pack(packed.file, observers=[Shown()])

    assert verdict.is_same
    assert (verdict.compared.models, verdict.compared.rounds) == (9, 3)
    assert verdict.digests[0] == verdict.digests[1] == packed.pack.digest
    assert (verdict.was_stopped, verdict.cause, verdict.clients_differ, verdict.versions) == (False, "", False, {})
    assert sum(isinstance(event, RoundFinished) for event in told) == 3
    assert not Path(told[0].workspace).exists()
    assert known_runs() == known


def test_the_first_round_site_and_tensor_that_differ_are_named_and_the_rest_is_not_run(place, packed, data):
    data.write_text("0.5")
    said = with_pack(outside={str(place / "data.txt"): "0" * 64}, versions=packed.pack.versions | {"numpy": "1.0"})
    file = changed(packed.file, place / "other.zip", said)

    verdict = again.verify_pack(file, place / "kept")

    assert not verdict.is_same
    assert verdict.compared.difference == Difference(
        workflow="scatter_and_gather", round_num=1, task="train", site="b", tensor="numpy_key", num_tensors=1
    )
    assert verdict.was_stopped
    assert verdict.cause == ""
    assert len(Workspace(place / "kept").report.read_text()) > 0
    assert [each.round_num for each in finding.find(str(place / "kept")).report.rounds] == [0, 1]
    assert verdict.outside == [str(place / "data.txt")]
    assert verdict.versions["numpy"][0] == "1.0"


def test_a_client_that_fails_here_is_an_answer_of_the_packed_run_only(place, packed, data):
    data.write_text("no number")

    verdict = again.verify_pack(packed.file)

    found = verdict.compared.difference
    assert (verdict.is_same, verdict.clients_differ) == (False, True)
    assert (found.round_num, found.site, found.only_in) == (1, "b", 0)
    assert verdict.failures.keys() == {"b"}
    assert verdict.failures["b"][0] == ""
    assert "ValueError" in verdict.failures["b"][1]


def test_a_run_is_not_replaced_by_the_one_that_is_made_again(place, packed):
    before = (place / "ws" / "report.json").read_bytes()

    with pytest.raises(UsageError, match="a run is there, which is not replaced"):
        again.verify_pack(packed.file, place / "ws")
    assert (place / "ws" / "report.json").read_bytes() == before


def test_a_pack_whose_job_is_not_that_of_its_plan_names_the_file_or_the_key(place, packed, tmp_path):
    def another_script(files):
        files["job/job/app/custom/train.py"] += b"\n"

    def more(files):
        files["job/job/app/custom/more.py"] = b""

    def fewer_rounds(files):
        name = "job/job/app/config/config_fed_server.json"
        files[name] = files[name].replace(b'"num_rounds": 3', b'"num_rounds": 2')

    for change, said in (
        (another_script, "app/custom/train.py has changed"),
        (more, "app/custom/more.py is new"),
        (fewer_rounds, "workflows[0].args.num_rounds was 3 and is 2"),
        (lambda files: files.update({"plan.json": b"{}"}), "plan.json is not what fedsag wrote"),
        (lambda files: files.update({"digests.jsonl": b"{}"}), "digests.jsonl is not what fedsag wrote"),
        (lambda files: files.pop("digests.jsonl"), "digests.jsonl is not what fedsag wrote"),
        (with_pack(folder=".."), "'..' is not the name of a folder"),
    ):
        with pytest.raises(UsageError) as error:
            again.verify_pack(changed(packed.file, tmp_path / "p.zip", change), tmp_path / "ws")
        assert said in error.value.message
        assert str(tmp_path / "p.zip") in error.value.message
        assert "/tmp/fedsag" not in error.value.message
    assert not (tmp_path / "ws").exists()


def test_code_outside_the_job_that_is_missing_is_an_error_before_anything_starts(packed, tmp_path):
    file = changed(packed.file, tmp_path / "p.zip", with_pack(outside={"/nowhere/tool.py": "0" * 64}))

    with pytest.raises(UsageError, match=r"missing here: /nowhere/tool\.py"):
        again.verify_pack(file, tmp_path / "ws")
    assert not (tmp_path / "ws").exists()


def test_if_the_job_has_changed_since_the_copies_in_the_workspace_are_packed(place, packed):
    script = place / "job" / "app" / "custom" / "train.py"
    text = script.read_text()
    script.write_text("another script")
    try:
        found = pack_run(finding.find("1"), place / "copies.zip")
    finally:
        script.write_text(text)

    changed = f"the job {place / 'job'} is not what it was: app/custom/train.py has changed"
    assert found.notes == [f"{changed}: the copies in the workspace are packed"]
    before, after = contents(packed.file), contents(found.file)
    names = [name for name in before if name.startswith("job/job/app/")]
    assert {name: after[name] for name in names} == {name: before[name] for name in names}
    assert json.loads(after["job/job/meta.json"])["deploy_map"] == {"app": ["@ALL"]}


def test_a_run_whose_job_is_nowhere_as_it_was_cannot_be_packed(place, tmp_path):
    shutil.copytree(place / "ws", tmp_path / "ws")
    (tmp_path / "ws" / "server" / "simulate_job" / "app_server" / "custom" / "train.py").write_text("changed")
    found = finding.find(str(tmp_path / "ws"))

    with pytest.raises(WorkspaceError, match=r"are not those of the run: .*app/custom/train.py has changed"):
        pack_run(found._replace(row=None), tmp_path / "p.zip")
    assert not (tmp_path / "p.zip").exists()


def test_what_cannot_be_made_again_from_its_beginning_is_refused(place, tmp_path):
    shutil.copytree(place / "ws", tmp_path / "ws")
    found = finding.find(str(tmp_path / "ws"))._replace(row=None)
    plan = tmp_path / "ws" / "plan.json"
    whole = json.loads(plan.read_text())

    def refused(error, *, what=found, **fields):
        plan.write_text(json.dumps(whole | fields))
        with pytest.raises(error) as raised:
            pack_run(what, tmp_path / "p.zip")
        assert not (tmp_path / "p.zip").exists()
        return raised.value.message

    assert "is a fork: it began after round 1 of another run" in refused(
        UsageError, parent={"id": "x", "round_num": 1, "rounds": 2, "link": "y"}
    )
    assert "is the baseline 'local' of another run" in refused(UsageError, baseline="local")
    assert "still goes on" in refused(UsageError, what=found._replace(status="running"))
    assert "made by a newer version" in refused(WorkspaceError, format=99)
    assert "is not what the run wrote" in refused(RunError, seed=8)
    empty = msgspec.structs.replace(found.report, rounds=[], ok=False)
    assert "no complete round" in refused(UsageError, what=found._replace(status="failed", report=empty))
    (tmp_path / "ws" / "events.jsonl").write_text('{"event":"RunStarted"}\n')
    assert "has no digests" in refused(UsageError)


@pytest.mark.slow
def test_a_run_with_workers_and_set_is_made_again_also_from_the_copies_of_its_job(place, tmp_path):
    create(tmp_path / "made", "sag_np", overrides=[("config_fed_server.conf", ["num_rounds=4"])])
    sets = ["num_rounds=2", "config_fed_client.conf:app_config=--delta 3", "meta.conf:min_clients=1"]
    simulate(tmp_path / "made", tmp_path / "ws", Options(num_clients=3, slots=2, seed=3, workers=True, sets=sets))
    found = finding.find(str(tmp_path / "ws"))

    own = pack_run(found, tmp_path / "own.zip")
    verdict = again.verify_run(found._replace(row=None), tmp_path / "again")

    assert own.notes == []
    assert b"num_rounds = 4" in contents(own.file)["job/made/app/config/config_fed_server.conf"]
    assert (verdict.is_same, verdict.pack.settings.workers, verdict.pack.settings.sets) == (True, True, sets)
    assert (verdict.compared.models, verdict.compared.rounds) == (9, 2), "2 rounds of 1 + 3 models, and the final one"
    assert finding.find(str(tmp_path / "again")).report.plan == found.report.plan


@pytest.mark.slow
def test_a_run_that_failed_is_the_same_as_far_as_it_went_and_values_of_the_environment_are_not_packed(
    place, tmp_path, data, monkeypatch
):
    data.write_text("no number")
    monkeypatch.setenv("OF_MINE", "value-of-mine")
    failing = job(tmp_path / "failing", DRAWS, args=f"{data} {{$OF_MINE}}", num_rounds=3, min_clients=2)
    with pytest.raises(RunError):
        simulate(failing, tmp_path / "ws", Options(clients=["b", "a"], slots=2, seed=7))

    packed = pack_run(finding.find(str(tmp_path / "ws")), tmp_path / "failed.zip")
    verdict = again.verify_pack(packed.file)

    assert b"value-of-mine" in (tmp_path / "ws" / "plan.json").read_bytes()
    assert [name for name, text in contents(packed.file).items() if b"of-mine" in text] == []
    assert packed.pack.environment == ["OF_MINE"]
    assert (verdict.is_same, verdict.pack.status, verdict.pack.rounds) == (True, "failed", 1)
    assert "round 1 needs 2 answers" in verdict.cause


@pytest.mark.slow
def test_a_run_of_torch_is_made_again_bit_for_bit(place, tmp_path):
    trains = """
        import torch
        import fedsag_cli.client as flare
        from net import Net

        flare.init()
        net = Net()
        while flare.is_running():
            net.load_state_dict(flare.receive().params)
            optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
            for _ in range(20):
                optimizer.zero_grad()
                net(torch.randn(64, 4)).square().mean().backward()
                optimizer.step()
            flare.send(flare.FLModel(params=net.state_dict(), metrics={"mean": 0.5}))
    """
    made = torch_job(tmp_path / "made", trains)
    simulate(made, tmp_path / "ws", Options(num_clients=2, slots=2, seed=3, recorded=False))

    verdict = again.verify_run(finding.find(str(tmp_path / "ws")))

    assert (verdict.is_same, verdict.compared.models) == (True, 6)
    assert {"torch", "cpu"} <= verdict.pack.versions.keys()


@pytest.mark.slow
def test_the_commands_pack_and_verify_say_what_they_found(place, packed, data):
    made = fedsag("runs", "pack", "1", cwd=place)
    same = fedsag("verify", "job-1.fedsag.zip", cwd=place)
    data.write_text("0.5")
    other = fedsag("verify", "1", "--format", "json", cwd=place)
    wrong = fedsag("verify", "nothing.zip", cwd=place)
    long = fedsag("verify", "x" * 300, cwd=place)

    assert (made.code, made.out.splitlines()[-1]) == (0, "again      fedsag verify job-1.fedsag.zip")
    assert (same.code, same.err) == (0, "")
    assert same.out.splitlines()[1:] == ["same, bit for bit: 9 models in 3 rounds", f"digest     {packed.pack.digest}"]
    assert other.code == 4
    assert json.loads(other.out)["compared"]["difference"]["site"] == "b"
    assert "the run is not the same" in other.err
    assert (wrong.code, "there is no file nothing.zip" in wrong.err) == (2, True)
    assert (long.code, "cannot be read: File name too long" in long.err) == (2, True)
