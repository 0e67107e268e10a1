"""The settings of a job, and what of them its template has otherwise."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from fedsag_cli.job import Job
from fedsag_cli.job.templates import changes
from fedsag_cli.job.templates.create import create

SERVER = "config_fed_server.conf"


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDSAG_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def settings(folder):
    values = changes.settings(Job.load(folder))
    template, changed = changes.changes(folder, values)
    return SimpleNamespace(values=values, template=template, changed=changed)


def test_a_job_as_its_template_is_has_no_changes(home, tmp_path):
    create(tmp_path / "job", "sag_np")

    found = settings(tmp_path / "job")

    assert (found.template, found.changed) == ("sag_np", {})
    assert found.values[f"{SERVER} workflows[0].args.num_rounds"] == 5


def test_what_was_set_at_creation_or_by_hand_later_is_a_change_with_the_templates_value(home, tmp_path):
    create(tmp_path / "job", "sag_np", overrides=[(SERVER, ["num_rounds=3"])])
    file = tmp_path / "job" / "app" / "config" / SERVER
    file.write_text(file.read_text().replace("start_round = 0", "start_round = 1") + "\nmine = yes\n")

    assert settings(tmp_path / "job").changed == {
        f"{SERVER} workflows[0].args.num_rounds": 5,
        f"{SERVER} workflows[0].args.start_round": 0,
        f"{SERVER} mine": None,
    }


def test_the_templates_settings_are_found_once_and_again_when_it_changes(home, tmp_path, monkeypatch):
    create(tmp_path / "job", "sag_np")
    settings(tmp_path / "job")
    [kept] = (home / "cache").iterdir()
    kept.write_text(json.dumps({**json.loads(kept.read_text()), f"{SERVER} key_metric": "loss"}))
    assert settings(tmp_path / "job").changed == {f"{SERVER} key_metric": "loss"}

    monkeypatch.setattr(changes, "_digest", lambda folder: "another")
    assert settings(tmp_path / "job").changed == {}


def test_a_job_without_a_template_or_of_one_that_is_gone_has_its_values_alone(home, tmp_path):
    create(tmp_path / "job", "sag_np")
    meta = tmp_path / "job" / "meta.conf"
    written = meta.read_text()

    for text in (written.replace("sag_np:", "gone:"), written.split("\n", 1)[1]):
        meta.write_text(text)
        found = settings(tmp_path / "job")
        assert (found.template, found.changed) == ("", {})
        assert found.values["meta.conf min_clients"] == 2


def test_a_home_that_cannot_be_written_changes_nothing(home, tmp_path):
    home.write_text("a file")
    create(tmp_path / "job", "sag_np")

    assert settings(tmp_path / "job").template == "sag_np"


def test_of_a_long_value_the_beginning_and_a_digest_are_kept(home, tmp_path):
    create(tmp_path / "job", "sag_np")
    file = tmp_path / "job" / "app" / "config" / SERVER
    written = file.read_text()

    def shown(matrix):
        file.write_text(f"{written}\nmatrix = {json.dumps(matrix)}\n")
        return settings(tmp_path / "job").values[f"{SERVER} matrix"]

    one = shown([[0.5] * 100] * 10)
    assert one.startswith("[[0.5,0.5,")
    assert "(4,021 bytes, SHA-256 " in one
    assert len(one) < 200
    assert shown([[0.5] * 100] * 9 + [[0.5] * 99 + [0.6]]) != one
    assert f"{SERVER} components[0].id" in settings(tmp_path / "job").values
