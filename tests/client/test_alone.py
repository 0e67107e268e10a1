"""A script that no run started: it does one local pass, and what it sends is kept."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import fedsag_cli.client as flare
from fedsag_cli.client.alone import INITIAL, LOCAL_SITE
from fedsag_cli.client.decorators import evaluate, train
from fedsag_cli.client.tracking import SummaryWriter
from fedsag_cli.errors import ClientError, TensorError
from fedsag_cli.interop import shim
from fedsag_cli.params import tensor_file

pytestmark = pytest.mark.usefixtures("fresh_process")

LIMIT_S = 60
TEMPLATES = Path(__file__).resolve().parents[2] / "job_templates"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def kept(here):
    return here / "fedsag_local"


def start_again():
    """As a new process would."""
    flare._contexts.clear()
    flare.init()


def sent(model):
    """A whole pass with this answer."""
    start_again()
    flare.receive()
    flare.send(model)


def names(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def test_a_script_started_by_hand_does_one_pass_says_so_once_and_finds_what_it_sent(here, kept):
    (here / "train.py").write_text(
        "import fedsag_cli.client as flare\n"
        "weights, passes = [0.0, 0.0], 0\n"
        "flare.init()\n"
        "while flare.is_running():\n"
        "    passes += 1\n"
        "    model = flare.receive()\n"
        "    weights = model.params or weights\n"
        "    flare.send(flare.FLModel(params={'w': weights[0] + 1}, metrics={'loss': 0.5}))\n"
        "print(passes, 'pass, and no torch' if 'torch' not in __import__('sys').modules else 'torch')\n"
    )

    done = subprocess.run([sys.executable, "train.py"], cwd=here, capture_output=True, text=True, timeout=LIMIT_S)

    assert (done.returncode, done.stdout) == (0, "1 pass, and no torch\n"), done.stderr
    [said] = done.stderr.splitlines()
    assert said == (
        "fedsag: no run started this script: it trains once, as site-1 of 1, with params None "
        f"(FEDSAG_INITIAL=FILE gives it some). What it sends is kept in {kept}"
    )
    assert np.load(kept / "model.npz")["w"] == 1.0
    told = json.loads((kept / "answer.json").read_text())
    assert (told["task"], told["params"], told["metrics"]) == ("train", "model.npz", {"loss": 0.5})


def test_with_fedsags_folder_on_the_path_a_script_for_nvflare_does_its_pass_and_sees_nvflares_names(here, kept):
    (here / "train.py").write_text(
        "import nvflare.client as flare\n"
        "flare.init()\n"
        "model = flare.receive()\n"
        "flare.send(flare.FLModel(params={'w': 1.0}))\n"
        "print(model.params, [name for name in ('init', 'site', 'partition', 'Site') if hasattr(flare, name)])\n"
    )

    done = subprocess.run(
        [sys.executable, "train.py"],
        cwd=here,
        env=os.environ | {"PYTHONPATH": shim.STARTUP},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )

    assert (done.returncode, done.stdout) == (0, "None ['init']\n"), done.stderr
    assert (kept / "model.npz").exists()


def test_the_task_is_to_train_in_round_0_of_1_without_params():
    flare.init()

    assert flare.is_running()
    assert flare.is_train()
    assert not flare.is_evaluate()
    model = flare.receive()
    assert (model.params, model.current_round, model.total_rounds) == (None, 0, 1)
    assert model.meta == {"job_id": "simulate_job", "site_name": "site-1"}
    flare.send(flare.FLModel(metrics={"accuracy": 1}))
    assert not flare.is_running()
    assert flare.receive() is None


def test_all_that_a_script_asks_has_an_answer_as_in_a_run():
    with flare.init():
        assert flare.get_site_name() == "site-1"
        assert flare.site() == flare.Site(index=0, count=1, name="site-1")
        assert flare.partition([3, 1, 2]).tolist() == [0, 1, 2]
        assert flare.get_task_name() == "train"
        assert flare.system_info() == {"site_name": "site-1", "job_id": flare.get_job_id()}
        assert flare.get_config()["TASK_EXCHANGE"]["transfer_type"] == "FULL"
        assert dict(flare.state) == {}
        flare.state["momentum"] = np.ones(2)
        flare.receive()
        flare.send(flare.FLModel(params={"w": 1.0}))
        with pytest.raises(ClientError, match="after the answer"):
            flare.state["late"] = 1
    assert not flare.is_running()


def test_another_rank_takes_no_part_and_makes_no_folder(kept):
    flare.init(rank=1)

    assert flare.receive() is None
    assert not flare.is_running()
    assert flare.partition(3).tolist() == [0, 1, 2]
    assert flare.get_site_name() == "site-1"
    assert not kept.exists()


def test_decorated_functions_do_their_pass(kept):
    @evaluate
    def measure(model):
        return {"accuracy": 0.25}

    @train
    def fit(model):
        return flare.FLModel(params={"w": np.ones(1)})

    flare.init()
    while flare.is_running():
        measure(None)
        fit(None)

    assert json.loads((kept / "answer.json").read_text())["metrics"] == {"accuracy": 0.25}


def test_what_is_logged_is_kept_line_by_line(kept):
    flare.init()
    writer = SummaryWriter()
    writer.add_scalar("loss", torch.tensor(0.5), 3)
    flare.log("lr", 0.1, flare.AnalyticsDataType.PARAMETER)

    assert [json.loads(line) for line in (kept / "logged.jsonl").read_text().splitlines()] == [
        {"kind": "metric", "values": {"loss": 0.5}, "step": 3},
        {"kind": "param", "values": {"lr": "0.1"}, "step": None},
    ]


@pytest.mark.parametrize(
    ("model", "kind", "said"),
    [
        (flare.FLModel(params={"w": [1.0]}), TensorError, "'w' is a list"),
        (flare.FLModel(params={3: np.ones(1)}), TensorError, "the key 3 must be a str"),
        (flare.FLModel(params={"w": 1.0}, metrics={"a": "high"}), ClientError, "'a' is a str, not a number"),
        (flare.FLModel(), ClientError, "neither params nor metrics"),
        (flare.FLModel(params={"w": 1.0}, meta={"NUM_SAMPLES": 1.5}), ClientError, "NUM_SAMPLES.* not 1.5"),
        (flare.FLModel(params={"w": 1.0}, meta={"NUM_SAMPLES": -1}), ClientError, "NUM_SAMPLES.* not -1"),
        (flare.FLModel(params={"w": 1.0}, meta={"NUM_SAMPLES": "many"}), ClientError, "not a number"),
    ],
)
def test_what_cannot_be_sent_in_a_run_cannot_be_sent_here(kept, model, kind, said):
    flare.init()
    flare.receive()

    with pytest.raises(kind, match=said):
        flare.send(model)
    assert names(kept) == []
    flare.send(flare.FLModel(params={"w": 2.0}))
    with pytest.raises(ClientError, match="a second time"):
        flare.send(flare.FLModel(params={"w": 2.0}))


def test_params_are_kept_in_a_file_of_their_library_and_the_next_start_begins_with_it(kept, monkeypatch):
    net = torch.nn.Linear(2, 1)
    for params, file in [
        ({"w": np.arange(3.0), "b": 2.5}, "model.npz"),
        (net.state_dict(), "model.pt"),
        ({"tree": b"\0\1", "note": "x"}, "model.safetensors"),
    ]:
        monkeypatch.delenv(INITIAL, raising=False)
        sent(flare.FLModel(params=params))
        assert names(kept) == ["answer.json", file]

        monkeypatch.setenv(INITIAL, f"fedsag_local/{file}")
        start_again()
        received = flare.receive().params

        assert list(received) == list(params)
        assert all(np.array_equal(received[name], params[name]) for name in params)
    assert received == {"tree": b"\0\1", "note": "x"}


def test_a_file_of_numpy_or_of_a_run_gives_the_first_params(here, monkeypatch):
    np.save(here / "one.npy", np.arange(2))
    torch.save({"model": {"w": torch.ones(2)}, "train_conf": {}}, here / "FL_global_model.pt")
    tensor_file.save(here / "model.safetensors", {"w": torch.zeros(1)})

    for file, name, values in [("one.npy", "numpy_key", [0, 1]), ("FL_global_model.pt", "w", [1, 1])]:
        monkeypatch.setenv(INITIAL, file)
        start_again()
        received = flare.receive()
        assert {key: value.tolist() for key, value in received.params.items()} == {name: values}
        received.params[name][0] = 7  # it is the script's own
        assert flare.receive().params[name][0] == 7
    monkeypatch.setenv(INITIAL, "model.safetensors")
    start_again()
    assert torch.equal(flare.receive().params["w"], torch.zeros(1))


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("gone.npz", None, "FEDSAG_INITIAL: there is no file gone.npz"),
        ("model.pkl", b"x", "FEDSAG_INITIAL: model.pkl: a file of this kind has no params"),
        ("bad.npz", b"no zip", "FEDSAG_INITIAL: bad.npz: "),
        ("bad.pt", b"no checkpoint", "FEDSAG_INITIAL: bad.pt is not a checkpoint"),
        ("bad.safetensors", b"short", "FEDSAG_INITIAL: bad.safetensors: not a tensor file"),
    ],
)
def test_a_file_that_gives_no_params_is_an_error_before_anything_is_made(here, kept, monkeypatch, file, content, said):
    if content is not None:
        (here / file).write_bytes(content)
    monkeypatch.setenv(INITIAL, file)

    with pytest.raises(ClientError) as raised:
        flare.init()

    assert raised.value.message.startswith(said)
    assert not kept.exists()


def test_a_checkpoint_with_more_than_tensors_is_an_error_naming_the_key(here, monkeypatch):
    torch.save({"w": torch.ones(1), "epochs": [1, 2]}, here / "mine.pt")
    monkeypatch.setenv(INITIAL, "mine.pt")

    with pytest.raises(ClientError, match=r"FEDSAG_INITIAL: mine.pt: params: 'epochs' is a list"):
        flare.init()


def test_the_next_start_replaces_what_the_last_one_kept(kept):
    flare.init()
    SummaryWriter().add_scalar("loss", 1.0)
    sent(flare.FLModel(params={"w": torch.ones(1)}))
    assert names(kept) == ["answer.json", "model.pt"]

    start_again()

    assert names(kept) == []


def test_a_file_of_the_user_stays_and_is_an_error_where_it_is_in_the_way(kept):
    sent(flare.FLModel(params={"w": 1.0}))
    (kept / "notes.txt").write_text("mine")
    np.savez(kept / "model.npz", other=np.ones(5))

    with pytest.raises(ClientError, match=r"model\.npz is in the way") as raised:
        start_again()

    assert raised.value.hint == "move it to another folder"
    assert np.load(kept / "model.npz")["other"].sum() == 5
    (kept / "model.npz").rename(kept / "mine.npz")
    sent(flare.FLModel(params={"w": 2.0}))
    assert names(kept) == ["answer.json", "mine.npz", "model.npz", "notes.txt"]


def test_a_folder_of_the_user_with_such_a_file_is_left_alone(kept):
    kept.mkdir()
    (kept / "answer.json").write_text("mine")

    with pytest.raises(ClientError, match=r"answer\.json is in the way"):
        flare.init()

    assert (kept / "answer.json").read_text() == "mine"


def test_a_file_in_the_place_of_the_folder_is_an_error_at_init(kept):
    kept.write_text("a file")

    with pytest.raises(ClientError, match=r"fedsag_local is in the way: it is not a folder"):
        flare.init()


def test_a_place_that_cannot_be_written_is_an_error_at_init(kept):
    kept.symlink_to(kept.parent / "nowhere")

    with pytest.raises(ClientError, match=r"cannot be kept: .*fedsag_local: File exists"):
        flare.init()


def test_meta_is_kept_as_json_and_of_tensors_their_shape(kept):
    meta = {"NUM_STEPS_CURRENT_ROUND": np.int64(3), "c": {"w": torch.ones(2, 3)}, "note": "x"}
    sent(flare.FLModel(params={"w": 1.0}, metrics={"loss": float("nan")}, meta=meta))

    told = json.loads((kept / "answer.json").read_text())
    assert told["metrics"] == {"loss": None}
    assert told["meta"] == {
        "NUM_STEPS_CURRENT_ROUND": 3,
        "note": "x",
        "c": {"w": {"dtype": "torch.float32", "shape": [2, 3]}},
    }


def test_it_can_stand_for_another_site_of_several(monkeypatch):
    monkeypatch.setenv(LOCAL_SITE, "2/4")
    flare.init()

    assert flare.site() == flare.Site(index=1, count=4, name="site-2")
    assert flare.get_site_name() == "site-2"
    assert len(flare.partition(40)) == 10


@pytest.mark.parametrize("given", ["", "2", "0/4", "5/4", "site-2", "2/4/1", "-1/2"])
def test_a_site_that_is_none_is_an_error(monkeypatch, kept, given):
    monkeypatch.setenv(LOCAL_SITE, given)

    with pytest.raises(ClientError, match="FEDSAG_LOCAL_SITE is "):
        flare.init()
    assert not kept.exists()


def test_the_scripts_own_random_numbers_are_left_alone():
    torch.manual_seed(5)
    np.random.seed(5)
    expected = torch.Generator().manual_seed(5)

    flare.init()
    flare.receive()

    assert torch.rand(1).item() == torch.rand(1, generator=expected).item()
    assert np.random.rand() == np.random.RandomState(5).rand()


@pytest.mark.parametrize("template", ["sag_np", "sag_np_metrics"])
def test_the_script_of_a_template_stands_alone(here, template):
    script = TEMPLATES / template / "custom" / "train.py"

    done = subprocess.run([sys.executable, script], cwd=here, capture_output=True, text=True, timeout=LIMIT_S)

    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(np.load(here / "fedsag_local" / "model.npz")["numpy_key"], np.ones((3, 3)), rtol=1e-6)
