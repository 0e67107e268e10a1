"""Cross-site evaluation: which model is measured where, what is written, and what a failure leaves."""

import json

import numpy as np
import pytest

from fedsag_cli import events
from fedsag_cli.errors import JobError, RunError
from fedsag_cli.model import FLModel
from fedsag_cli.persistors.numpy import NPModelPersistor
from fedsag_cli.server.main import _check_files
from fedsag_cli.testing import FakeClients, FakePersistor
from fedsag_cli.workflows.cross_site_model_eval import CrossSiteModelEval
from fedsag_cli.workflows.run import Run


def model_of(value):
    return FLModel(params={"w": np.array([value], np.float32)})


def submits(**values):
    """The site's models, by their names."""
    return lambda model: model_of(values[model.meta["submit_model_name"]])


def measures(times):
    return lambda model: FLModel(metrics={"accuracy": times * float(model.params["w"][0])})


def fails(model):
    return None


SUBMIT = {"a": submits(best_model=1.0, final_model=2.0), "b": submits(best_model=3.0, final_model=4.0)}
VALIDATE = {"a": measures(10), "b": measures(100)}


class Server(FakePersistor):
    """With trained models."""

    def __init__(self, **models):
        super().__init__(w=np.array([7.0], np.float32))
        self._models = {name: model_of(value) for name, value in models.items()}

    def get(self, name):
        return self._models.get(name)

    def model_name(self, name):
        return f"{name}.pt"


@pytest.fixture
def live(tmp_path, monkeypatch):
    (tmp_path / "app").mkdir()
    monkeypatch.chdir(tmp_path / "app")

    def run(submit=SUBMIT, validate=VALIDATE, **settings):
        clients = FakeClients(tasks={"submit_model": submit, "validate": validate})
        told = []
        CrossSiteModelEval(**settings).run(clients, Run(emit=told.append))
        results = json.loads((tmp_path / "cross_site_val" / "cross_val_results.json").read_text())
        return results, [event for event in told if isinstance(event, events.ResultTable)], clients

    return run


def test_every_model_is_measured_on_every_sites_data(live):
    """A site of factor 10 measures the model 1 as 10, one of factor 100 as 100, and so on."""
    results, _, _ = live(persistor=Server(final=5.0, best=6.0))

    assert results == {
        "a": {
            "SRV_final.pt": {"accuracy": 50.0},
            "SRV_best.pt": {"accuracy": 60.0},
            "a": {"accuracy": 10.0},
            "b": {"accuracy": 30.0},
        },
        "b": {
            "SRV_final.pt": {"accuracy": 500.0},
            "SRV_best.pt": {"accuracy": 600.0},
            "a": {"accuracy": 100.0},
            "b": {"accuracy": 300.0},
        },
    }


def test_the_table_has_a_row_for_each_model_and_a_column_for_each_site(live):
    _, (table,), _ = live(persistor=Server(final=5.0))

    assert table.columns == ["model", "a", "b"]
    assert table.rows == [["SRV_final.pt", 50.0, 500.0], ["a", 10.0, 100.0], ["b", 30.0, 300.0]]
    assert table.title == "accuracy of each model (rows) on the data of each site (columns)"


def test_the_last_models_of_the_sites_are_measured_too_where_they_are_asked_for(live):
    results, _, _ = live(submit_model_names=["best_model", "final_model"])

    measured = {owner: cell["accuracy"] for owner, cell in results["a"].items()}
    assert measured == {"a": 10.0, "b": 30.0, "a/final_model": 20.0, "b/final_model": 40.0}


def test_without_a_task_to_send_models_only_the_servers_are_measured(live):
    results, _, clients = live(persistor=Server(best=6.0), submit_model_task_name=None)

    assert results == {"a": {"SRV_best.pt": {"accuracy": 60.0}}, "b": {"SRV_best.pt": {"accuracy": 600.0}}}
    assert [asked["task"] for asked in clients.asked] == ["validate"]


def test_without_a_trained_model_the_servers_is_the_one_that_training_would_start_from(live):
    results, _, _ = live(persistor=Server(), submit_model_task_name=None)

    assert results["a"] == {"SRV_final.pt": {"accuracy": 70.0}}


def test_numpy_models_of_the_server_are_called_as_in_nvflare(live):
    persistor = NPModelPersistor(model={"w": [7.0]})
    persistor.save(model_of(8.0))
    persistor.save_best(model_of(9.0))

    results, _, _ = live(persistor=persistor, submit_model_task_name=None)

    assert results["a"] == {"SRV_server": {"accuracy": 80.0}, "SRV_best_server": {"accuracy": 90.0}}


def test_a_site_that_cannot_send_its_model_measures_the_others(live):
    results, (table,), _ = live(submit={**SUBMIT, "a": fails})

    assert results == {"a": {"b": {"accuracy": 30.0}}, "b": {"b": {"accuracy": 300.0}}}
    assert table.rows == [["b", 30.0, 300.0]]


def test_what_a_site_cannot_measure_is_an_empty_cell(live):
    def only_small(model):
        return measures(100)(model) if model.params["w"][0] < 2 else None

    results, (table,), _ = live(validate={**VALIDATE, "b": only_small})

    assert results["b"] == {"a": {"accuracy": 100.0}}
    assert table.rows == [["a", 10.0, 100.0], ["b", 30.0, None]]


def test_a_site_that_measures_nothing_has_no_entry(live):
    results, (table,), _ = live(validate={**VALIDATE, "b": fails})

    assert set(results) == {"a"}
    assert table.rows == [["a", 10.0, None], ["b", 30.0, None]]


def test_answers_without_params_or_metrics_are_failures_and_are_told(live):
    _, (table,), clients = live(
        submit={**SUBMIT, "a": lambda model: FLModel(metrics={"x": 1.0})},
        validate={**VALIDATE, "b": lambda model: model_of(1.0)},
    )

    assert table.rows == [["b", 30.0, None]]
    assert clients.rejected == {
        "a": "its answer to the task 'submit_model' has no params",
        "b": "its answer to the task 'validate' has no metrics",
    }


def test_there_is_a_table_for_each_metric(live):
    two = {"a": lambda model: FLModel(metrics={"accuracy": 1.0, "loss": 2.0}), "b": measures(1)}

    _, tables, _ = live(validate=two)

    assert [(table.title.split()[0], table.rows[0]) for table in tables] == [
        ("accuracy", ["a", 1.0, 1.0]),
        ("loss", ["a", 2.0, None]),
    ]


def test_a_value_that_is_not_finite_is_null_in_the_file_which_stays_json(live):
    results, _, _ = live(validate={"a": lambda model: FLModel(metrics={"loss": float("nan")})})

    assert results == {"a": {"a": {"loss": None}, "b": {"loss": None}}}


def test_clients_can_be_chosen_to_take_part_to_be_measured_and_to_measure(live):
    three = {**SUBMIT, "c": submits(best_model=5.0)}
    all_measure = {**VALIDATE, "c": measures(1)}

    assert set(live(three, all_measure, participating_clients=["a", "c"])[0]["a"]) == {"a", "c"}
    assert set(live(three, all_measure, evaluatees=["b"])[0]["a"]) == {"b"}
    assert set(live(three, all_measure, evaluators=["b", "c"])[0]) == {"b", "c"}
    with pytest.raises(JobError, match="there is no client 'd'"):
        live(three, all_measure, evaluators=["d"])


def test_a_run_that_measured_nothing_has_failed(live):
    with pytest.raises(RunError, match="no client measured a model"):
        live(validate={"a": fails, "b": fails})
    with pytest.raises(RunError, match="there is no model to measure"):
        live(submit={"a": fails})


def test_the_sites_measure_a_model_while_the_others_still_send_theirs(live):
    """The tasks are asked in this order: server's model, then a's as soon as it is there, before b's is asked for."""
    order = []

    def told(name, script):
        return lambda model: order.append(name) or script(model)

    live(
        {"a": told("a sends", SUBMIT["a"]), "b": told("b sends", SUBMIT["b"])},
        {"a": told("a measures", VALIDATE["a"])},
        persistor=Server(final=5.0),
    )

    assert order[:2] == ["a measures", "a sends"]
    assert sorted(order) == ["a measures"] * 3 + ["a sends", "b sends"]


@pytest.mark.parametrize("folder", ["", "../elsewhere", "/elsewhere"])
def test_the_results_stay_in_the_servers_folder(folder):
    with pytest.raises(JobError, match="cross_val_dir must be a folder inside the server's folder"):
        CrossSiteModelEval(cross_val_dir=folder)


def test_two_of_them_with_the_same_folder_are_refused_by_name():
    first, second, other = (CrossSiteModelEval(cross_val_dir=folder) for folder in ("found", "./found", "found2"))

    _check_files({"first": first.files, "other": other.files})
    with pytest.raises(
        JobError, match=r"'first' and 'second' write the same file, cross_val_results.json in .* 'found'"
    ):
        _check_files({"first": first.files, "second": second.files})
