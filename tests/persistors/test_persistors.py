"""Persistors: the model in files that others can read, written whole or not at all."""

import os
import pickle
import weakref
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from fedsag_cli.errors import JobError, TensorError
from fedsag_cli.model import FLModel
from fedsag_cli.persistors import WritesFiles
from fedsag_cli.persistors.numpy import NPModelPersistor
from fedsag_cli.persistors.torch import PTFileModelPersistor
from fedsag_cli.testing import FakePersistor


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = torch.nn.Linear(2, 1)
        self.bn = torch.nn.BatchNorm1d(1)


@pytest.fixture(autouse=True)
def app(tmp_path, monkeypatch):
    """The server's app folder, which is its working directory."""
    folder = tmp_path / "simulate_job" / "app_server"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    return folder


def plain(params):
    return {name: np.asarray(value).tolist() for name, value in params.items()}


def everything_below(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


# every persistor


MADE = {
    "torch": lambda: PTFileModelPersistor(model=Net()),
    "numpy": lambda: NPModelPersistor(),
    "fake": lambda: FakePersistor(w=torch.zeros(1)),
}


@pytest.fixture(params=MADE)
def persistor(request):
    return MADE[request.param]()


def test_a_torch_file_has_tensors_whatever_library_the_values_are_of():
    persistor = PTFileModelPersistor(model=Net())

    persistor.save(FLModel(params={"fc.weight": np.array([[1.0, 2.0]], np.float32), "n": np.int64(3), "k": 4}))

    assert plain(persistor.get("final").params) == {"fc.weight": [[1.0, 2.0]], "n": 3, "k": 4}


def test_what_training_starts_from_has_params_and_may_be_loaded_again(persistor):
    first, second = persistor.load(), persistor.load()

    assert first.params
    assert plain(first.params) == plain(second.params)


def test_the_first_weights_are_held_by_the_model_that_was_given_and_by_nobody_else():
    net = torch.nn.Linear(2, 1)
    before = net.weight.tolist()
    persistor = PTFileModelPersistor(net)
    weight = weakref.ref(net.weight)
    del net

    model = persistor.load()
    model.params.update({name: value.clone() for name, value in model.params.items()})  # as who publishes it does

    assert weight() is None
    assert persistor.load().params["weight"].tolist() == before


def test_saving_says_where_and_the_best_model_lies_elsewhere(persistor):
    model = persistor.load()

    places = [persistor.save(model), persistor.save_best(model), persistor.save(model)]

    assert all(place.is_absolute() for place in places)
    assert places[0] == places[2] != places[1]


@pytest.mark.parametrize("kind", ["torch", "numpy"])
def test_a_save_that_fails_leaves_what_was_there_and_nothing_else(kind, tmp_path, monkeypatch):
    persistor = MADE[kind]()
    model = persistor.load()
    path = persistor.save(model)
    before, there = path.read_bytes(), everything_below(tmp_path)

    def full(fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        persistor.save(model)

    assert path.read_bytes() == before
    assert everything_below(tmp_path) == there


# torch


def test_a_pt_file_has_the_model_and_what_it_is_called_and_is_read_without_pickle(app):
    persistor = PTFileModelPersistor(model=Net())
    model = persistor.load()
    path = persistor.save(model)

    saved = torch.load(path, weights_only=True)

    assert path == app / "FL_global_model.pt"
    assert list(saved) == ["model", "train_conf"]
    assert saved["train_conf"] == {"train": {"model": "Net"}}
    assert type(saved["model"]) is OrderedDict
    assert list(saved["model"]) == list(Net().state_dict())
    assert plain(saved["model"]) == plain(model.params)
    Net().load_state_dict(saved["model"])


def test_a_pt_file_has_bytes_and_texts_too():
    params = {"w": torch.ones(1), "tree": b"\0\xff\0", "about": "né"}

    path = PTFileModelPersistor(model=Net()).save(FLModel(params=params))

    assert torch.load(path, weights_only=True)["model"] == params
    assert PTFileModelPersistor(source_ckpt_file_full_name=str(path)).load().params == params


def test_the_files_have_the_names_the_job_gives(app):
    persistor = PTFileModelPersistor(
        model=Net(), global_model_file_name="out/last.pt", best_global_model_file_name="top.pt"
    )
    model = persistor.load()

    assert persistor.save(model) == app / "out" / "last.pt"
    assert persistor.save_best(model) == app / "top.pt"
    assert PTFileModelPersistor(model=Net()).save_best(model) == app / "best_FL_global_model.pt"


def test_excluded_keys_are_neither_sent_nor_saved():
    persistor = PTFileModelPersistor(model=Net(), exclude_vars=r"^bn\.|bias")
    model = persistor.load()

    saved = torch.load(persistor.save(model), weights_only=True)["model"]

    assert list(model.params) == ["fc.weight"]
    assert list(saved) == ["fc.weight"]


def test_a_broken_expression_is_an_error_in_the_job():
    with pytest.raises(JobError, match="exclude_vars"):
        PTFileModelPersistor(model=Net(), exclude_vars="(")


@pytest.mark.parametrize("form", ["ours", "a bare state dict"])
@pytest.mark.parametrize("place", ["absolute", "custom", "beside"])
def test_training_starts_from_a_checkpoint_of_either_form(form, place, app, tmp_path):
    folder = {"absolute": tmp_path / "elsewhere", "custom": app / "custom", "beside": app}[place]
    folder.mkdir(exist_ok=True)
    state = {name: torch.full_like(value, 7) for name, value in Net().state_dict().items()}
    torch.save({"model": state, "train_conf": {}} if form == "ours" else state, folder / "start.pt")
    name = str(folder / "start.pt") if place == "absolute" else "start.pt"

    found = PTFileModelPersistor(model=Net(), source_ckpt_file_full_name=name).load()

    assert list(found.params) == list(state)
    assert plain(found.params) == plain(state)


def test_a_checkpoint_needs_no_module():
    torch.save({"w": torch.ones(1)}, "start.pt")
    persistor = PTFileModelPersistor(source_ckpt_file_full_name="start.pt")

    saved = torch.load(persistor.save(persistor.load()), weights_only=True)

    assert plain(saved["model"]) == {"w": [1.0]}


def test_what_was_saved_can_be_started_from():
    first = PTFileModelPersistor(model=Net())
    model = first.load()
    path = first.save(model)

    again = PTFileModelPersistor(source_ckpt_file_full_name=str(path)).load()

    assert plain(again.params) == plain(model.params)


class Bomb:
    """Pickled code, which no checkpoint may run."""

    def __reduce__(self):
        return os.mkdir, ("exploded",)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_code_in_a_checkpoint_is_not_run(app):
    Path("bomb.pt").write_bytes(pickle.dumps({"model": Bomb()}))
    torch.save({"model": Bomb()}, "bomb2.pt")

    for name in ("bomb.pt", "bomb2.pt"):
        with pytest.raises(JobError, match=name):
            PTFileModelPersistor(source_ckpt_file_full_name=name).load()
    assert not (app / "exploded").exists()


@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x03\x04"])
def test_a_broken_checkpoint_is_an_error_naming_it(content):
    Path("start.pt").write_bytes(content)

    with pytest.raises(JobError, match=r"start\.pt"):
        PTFileModelPersistor(source_ckpt_file_full_name="start.pt").load()


def test_a_checkpoint_of_something_else_is_an_error_naming_it():
    torch.save([torch.ones(1)], "start.pt")

    with pytest.raises(JobError, match=r"start\.pt must contain a state dict, not a list"):
        PTFileModelPersistor(source_ckpt_file_full_name="start.pt").load()


def test_a_checkpoint_that_is_not_there_is_an_error_naming_it():
    with pytest.raises(JobError, match=r"nobody\.pt"):
        PTFileModelPersistor(source_ckpt_file_full_name="nobody.pt").load()


@pytest.mark.parametrize("model", [None, {"net.Net": 1}, "net.Net"])
def test_what_is_no_module_is_an_error_with_the_way_out(model):
    with pytest.raises(JobError, match="must be a torch module") as caught:
        PTFileModelPersistor(model=model).load()

    assert "path" in caught.value.hint


# numpy


def test_one_array_is_a_npy_file_beside_the_app(app):
    persistor = NPModelPersistor()
    model = persistor.load()
    path = persistor.save(model)
    best = persistor.save_best(FLModel(params={"numpy_key": np.ones(2)}))

    assert path == app.parent / "models" / "server.npy"
    assert np.load(path, allow_pickle=False).tolist() == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    assert np.load(path).dtype == np.float32
    assert best == app.parent / "models" / "best_server.npy"
    assert np.load(best, allow_pickle=False).tolist() == [1, 1]


def test_a_model_of_several_keys_is_a_npz_file(app):
    persistor = NPModelPersistor(model={"w": [[1, 2]], "b": [0.5]}, model_dir="out", model_name="net.npy")
    path = persistor.save(persistor.load())

    assert path == app.parent / "out" / "net.npz"
    assert plain(np.load(path, allow_pickle=False)) == {"w": [[1, 2]], "b": [0.5]}


@pytest.mark.parametrize("params", [{"numpy_key": b"\0"}, {"w": np.ones(1), "about": "text"}], ids=["bytes", "text"])
def test_numpys_files_take_no_bytes_and_no_texts_and_nothing_is_written(params, app):
    with pytest.raises(TensorError, match=r"NPModelPersistor: params: .* and numpy's files have arrays only"):
        NPModelPersistor().save(FLModel(params=params))

    assert everything_below(app.parent) == []


@pytest.mark.parametrize("names", [["file", "args"], ["allow_pickle", "a/b"], ["numpy_key", "self"], ["self"]])
def test_a_key_may_have_any_name(names):
    params = {name: np.array([float(place)]) for place, name in enumerate(names)}

    path = NPModelPersistor().save(FLModel(params=params))

    assert plain(np.load(path, allow_pickle=False)) == plain(params)


@pytest.mark.parametrize(("name", "params"), [("x.npy", {"numpy_key": [1, 2]}), ("x.npz", {"w": [1], "b": [2]})])
def test_training_starts_from_a_numpy_file(name, params):
    arrays = {key: np.array(value) for key, value in params.items()}
    np.savez(name, **arrays) if name.endswith("z") else np.save(name, arrays["numpy_key"])

    assert plain(NPModelPersistor(source_ckpt_file_full_name=name).load().params) == params


def test_a_numpy_file_may_lie_beside_the_scripts(app):
    (app / "custom").mkdir(exist_ok=True)
    np.save(app / "custom" / "x.npy", np.array([3.0]))

    assert plain(NPModelPersistor(source_ckpt_file_full_name="x.npy").load().params) == {"numpy_key": [3.0]}


BROKEN = {
    "nothing.npy": lambda path: path.write_bytes(b""),
    "garbage.npy": lambda path: path.write_bytes(b"garbage"),
    "short.npz": lambda path: path.write_bytes(b"PK\x03\x04 and no more"),
    "objects.npy": lambda path: np.save(path, np.array([{}], dtype=object)),
    "objects.npz": lambda path: np.savez(path, w=np.array([{}], dtype=object)),
    "absent.npy": lambda path: None,
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_numpy_file_is_an_error_naming_it(name, app):
    BROKEN[name](app / name)

    with pytest.raises(JobError, match=name):
        NPModelPersistor(source_ckpt_file_full_name=name).load()


@pytest.mark.parametrize("model", ["text", [[1, 2], [3]], {"w": "text"}])
def test_a_model_that_is_no_array_is_an_error(model):
    with pytest.raises(JobError, match="NPModelPersistor: model"):
        NPModelPersistor(model=model).load()


def test_torch_params_can_be_saved_as_numpy():
    path = NPModelPersistor().save(FLModel(params={"numpy_key": torch.tensor([1.5])}))

    assert np.load(path).tolist() == [1.5]


@pytest.mark.parametrize("persistor", [lambda: PTFileModelPersistor(Net()), NPModelPersistor], ids=["torch", "numpy"])
def test_a_persistor_says_which_files_it_may_write(persistor, app):
    ours = persistor()
    model = ours.load()
    written = {ours.save(model), ours.save_best(model), ours.save(FLModel(params={"a": 1, "b": 2}))}

    assert isinstance(ours, WritesFiles)
    assert written <= {path.resolve() for path in ours.files}
