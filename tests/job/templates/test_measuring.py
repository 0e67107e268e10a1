"""Whether a script answers the task to measure a model, and what a new job asks of its clients then."""

import pytest

from fedsag_cli.job.config import hocon
from fedsag_cli.job.templates.create import create
from fedsag_cli.job.templates.measuring import answers_validate

TRAINS = (
    "import fedsag_cli.client as flare\nflare.init()\ndef evaluate(net): ...\nflare.send(flare.FLModel(params={}))\n"
)
MEASURES = "import nvflare.client as flare\nif flare.is_evaluate():\n    ...\n"


def answers(folder, script="train.py", **files):
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    return answers_validate(script, [folder])


@pytest.mark.parametrize(
    ("text", "does"),
    [
        (TRAINS, False),
        (MEASURES, True),
        ("from fedsag_cli.client import get_task_name\nget_task_name()", True),
        ("import fedsag_cli.client.lightning as flare\nflare.patch(trainer)\ntrainer.validate(model)", True),
        ("import fedsag_cli.client.lightning as flare\nflare.patch(trainer)\ntrainer.fit(model)", False),
        ("import lightning\ntrainer.validate(model)", False),
        ("import fedsag_cli.client.hf as flare\nflare.patch(trainer)\ntrainer.evaluate()", True),
        ("import fedsag_cli.client.hf as flare\nflare.patch(trainer)\ntrainer.train()", False),
        ("# is_evaluate\nx = 'is_evaluate'", False),
        ("this is no Python", None),
    ],
)
def test_a_script_answers_if_it_asks_what_its_task_is_or_lets_its_trainer_measure(tmp_path, text, does):
    assert answers(tmp_path, train=text) is does


def test_the_modules_that_a_script_imports_count_and_others_do_not(tmp_path):
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "loop.py").write_text(MEASURES)

    assert answers(tmp_path, train="import steps", steps="from own import loop") is True
    assert answers(tmp_path, train="import data", data="import train", other=MEASURES) is False


def test_of_a_script_that_is_not_there_nothing_is_known(tmp_path):
    assert answers(tmp_path) is None


def job_with(tmp_path, text, *words, template="sag_np"):
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "mine.py").write_text(text)
    overrides = [("config_fed_client.conf", ["app_script=mine.py", *words])]
    made = create(tmp_path / "j", template, overrides=overrides, script_dir=tmp_path / "code")
    client = hocon.load(made.folder / "app" / "config" / "config_fed_client.conf", name="client")
    return client["executors"][0]["tasks"], [note for note in made.notes if "validate" in note]


def test_a_script_that_only_trains_is_not_asked_to_measure_and_the_user_is_told(tmp_path):
    tasks, notes = job_with(tmp_path, TRAINS)

    assert tasks == ["train"]
    (note,) = notes
    assert note.startswith("config_fed_client.conf: tasks is without 'validate', so the final model is not measured")
    assert note.endswith("mine.py does not ask for flare.is_evaluate()")


def test_a_script_that_measures_is_asked_to(tmp_path):
    assert job_with(tmp_path, MEASURES) == (["train", "validate"], [])


def test_the_tasks_that_the_user_gives_are_those_of_the_job(tmp_path):
    assert job_with(tmp_path, TRAINS, 'tasks=["train", "validate"]') == (["train", "validate"], [])


def test_cross_site_evaluation_keeps_its_tasks_without_validate_too(tmp_path):
    tasks, notes = job_with(tmp_path, TRAINS, template="sag_cross_np")

    assert (tasks, len(notes)) == (["train", "submit_model"], 1)
