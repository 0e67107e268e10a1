"""Params of other libraries: settings to begin with, arrays in a file."""

import numpy as np
import pytest

from fedsag_cli.errors import JobError
from fedsag_cli.model import INITIAL_PARAMS, FLModel
from fedsag_cli.persistors.model_params import ModelParamPersistor


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_the_first_model_has_settings_and_no_params():
    model = ModelParamPersistor({"n_clusters": 3}).load()

    assert (model.params, model.meta) == ({}, {INITIAL_PARAMS: {"n_clusters": 3}})


def test_what_it_writes_are_arrays_by_name():
    persistor = ModelParamPersistor({"loss": "log_loss"}, save_name="model_param.joblib")

    path = persistor.save(FLModel(params={"coef": np.array([[1.0, 2.0]])}))

    saved = np.load(path, allow_pickle=False)
    assert (path.name, saved["coef"].tolist()) == ("model_param.npz", [[1.0, 2.0]])
    assert persistor.get("final").params["coef"].tolist() == [[1.0, 2.0]]
    assert persistor.get("best") is None


def test_a_file_it_wrote_can_be_the_first_model():
    path = ModelParamPersistor({"a": 1}).save_best(FLModel(params={"coef": np.array([5.0])}))

    assert ModelParamPersistor(model_path=str(path)).load().params["coef"].tolist() == [5.0]


def test_a_pickle_is_refused():
    with pytest.raises(JobError, match=r"model_path must be a \.npz file, not 'model\.joblib'"):
        ModelParamPersistor({"model_path": "model.joblib"})


def test_without_settings_and_file_there_is_no_model():
    with pytest.raises(JobError, match="needs initial_params or model_path"):
        ModelParamPersistor()
