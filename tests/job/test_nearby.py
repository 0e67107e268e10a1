"""What is said about a folder that is no job: the job that was meant."""

import pytest

from fedsag_cli.errors import JobError
from fedsag_cli.job import Job, nearby
from fedsag_cli.job.templates import variables


@pytest.fixture
def place(tmp_path):
    """A project with a job in jobs/hello, and a bare app in more/cifar."""
    for app in ("jobs/hello/app", "more/cifar"):
        (tmp_path / app / "config").mkdir(parents=True)
        (tmp_path / app / "config" / "config_fed_server.conf").touch()
    (tmp_path / "jobs/hello/meta.conf").write_text('deploy_map { app = ["@ALL"] }')
    (tmp_path / "empty/folder").mkdir(parents=True)
    (tmp_path / "template").mkdir()
    (tmp_path / "template/info.conf").touch()
    (tmp_path / "template/meta.conf").write_text("name = {{ name }}")
    return tmp_path


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("jobs", ["jobs/hello"]),
        (".", ["jobs/hello", "more/cifar"]),
        ("jobs/helo", ["jobs/hello"]),
        ("job/hello", ["jobs/hello"]),
        ("hello", ["jobs/hello"]),
        ("jobs/hello/meta.conf", ["jobs/hello"]),
        ("jobs/hello/app/config", ["jobs/hello"]),
    ],
)
def test_the_job_that_was_meant_is_named(place, given, meant):
    hint = nearby.hint(place / given)

    assert hint == f"did you mean {' or '.join(str(place / each) for each in meant)}?"


@pytest.mark.parametrize("given", ["empty", "empty/folder", "nothing/like/it"])
def test_where_there_is_none_one_can_be_made(place, given):
    assert nearby.hint(place / given) == "fedsag job create makes one"


def test_what_a_run_made_of_a_job_is_not_one(place):
    (place / "workspace/.fedsag").mkdir(parents=True)
    (place / "workspace/server/simulate_job").mkdir(parents=True)
    (place / "workspace/server/simulate_job/meta.json").touch()

    assert "simulate_job" not in nearby.hint(place)


def test_of_many_jobs_some_are_named(tmp_path):
    for number in range(9):
        (tmp_path / f"j{number}").mkdir()
        (tmp_path / f"j{number}/meta.json").touch()

    assert nearby.hint(tmp_path).endswith(f"{tmp_path}/j4 and others?")


def test_a_large_tree_is_not_searched_to_its_end(place, monkeypatch):
    monkeypatch.setattr(nearby, "_MOST_FOLDERS", 2)

    assert nearby.hint(place) == "fedsag job create makes one"


def test_a_template_is_not_a_job_and_is_told_how_to_become_one(place):
    with pytest.raises(JobError, match="is not a job") as caught:
        Job.load(place / "template")

    assert f"fedsag job create -w {place / 'template'}" in caught.value.hint


@pytest.mark.parametrize("load", [Job.load, variables.of_job])
def test_every_command_names_it(place, load):
    with pytest.raises(JobError) as caught:
        load(place / "jobs")

    assert "jobs/hello" in caught.value.hint


def test_a_meta_file_whose_app_is_elsewhere_names_the_job_that_has_it(place):
    (place / "meta.conf").write_text('deploy_map { hello-pt = ["@ALL"] }')

    with pytest.raises(JobError, match="no app 'hello-pt'") as caught:
        Job.load(place)

    assert "jobs/hello" in caught.value.hint
