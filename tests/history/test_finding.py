"""A run is found by its number, `last` or its workspace; what is broken is named, and the rest is shown."""

import shutil
from contextlib import closing

import pytest
from finished_runs import history, write_run

from fedsag_cli.errors import UsageError, WorkspaceError
from fedsag_cli.events import to_line
from fedsag_cli.history import database, finding, known_runs, number_of, reading, rows, workspace_of
from fedsag_cli.history.importing import take_in
from fedsag_cli.workspace import Workspace


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDSAG_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


def known(*roots):
    with closing(database.open_to_write(1.0)) as opened, database.writing(opened):
        return [take_in(opened, root).number for root in roots]


def test_a_number_last_and_a_folder_name_the_same_run(tmp_path):
    for name, at in (("a", 1.0), ("b", 2.0)):
        write_run(tmp_path / name, history(tmp_path / name, at=at))
    assert known(tmp_path / "a", tmp_path / "b") == [1, 2]

    assert workspace_of("1") == tmp_path / "a"
    assert workspace_of("last") == workspace_of("2") == workspace_of("b") == tmp_path / "b"
    assert finding.find("b").number == number_of(tmp_path / "b") == 2
    assert known_runs() == [(2, "fruit"), (1, "fruit")]


def test_an_unknown_run_is_an_error_that_names_the_known_ones(tmp_path):
    write_run(tmp_path / "a", history(tmp_path / "a"))
    known(tmp_path / "a")

    for word in ("7", "99999999999999999999999", "nowhere"):
        with pytest.raises(UsageError, match=f"there is no run (in )?{word}") as error:
            finding.find(word)
        assert "the last runs are 1;" in error.value.hint
        assert error.value.exit_code == 2


def test_without_a_database_a_folder_is_found_and_a_number_says_how_to_have_one(tmp_path):
    write_run(tmp_path / "a", history(tmp_path / "a"))

    assert finding.find("a").report.digest == "d1"
    with pytest.raises(UsageError, match="there are no runs yet") as error:
        finding.find("last")
    assert "fedsag runs import" in error.value.hint
    assert (known_runs(), number_of(tmp_path / "a")) == ([], 0)


def test_a_workspace_taken_in_twice_or_moved_by_hand_is_one_run(tmp_path):
    write_run(tmp_path / "a", history(tmp_path / "a"))
    known(tmp_path / "a")
    shutil.move(tmp_path / "a", tmp_path / "b")

    assert known(tmp_path / "b", tmp_path / "b") == [1, 1]

    assert finding.find("1").root == tmp_path / "b"


def test_a_copy_is_the_same_run_and_its_row_stays_with_the_original(tmp_path):
    write_run(tmp_path / "a", history(tmp_path / "a"))
    shutil.copytree(tmp_path / "a", tmp_path / "b")

    assert known(tmp_path / "a", tmp_path / "b") == [1, 1]

    assert finding.find("1").root == tmp_path / "a"


def test_a_broken_report_is_named_and_the_events_tell_the_run(tmp_path):
    write_run(tmp_path / "a", history(tmp_path / "a"))
    (tmp_path / "a" / "report.json").write_text('{"job": "fru')

    found = finding.find("a")

    assert (found.status, found.report.digest, len(found.report.rounds)) == ("finished", "d1", 2)
    assert len(found.faults) == 1
    assert "report.json cannot be read" in found.faults[0]


def test_broken_lines_of_events_are_named_and_left_out(tmp_path):
    write_run(tmp_path / "a", history(tmp_path / "a", accuracy=(0.1, 0.2, 0.3), ends=False))
    file = tmp_path / "a" / "events.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    lines[4] = b'{"event": "FromTheFuture"}\n'
    lines[6] = b"\xff\xfe\n"
    file.write_bytes(b"".join(lines) + b'{"event":"RoundSta')

    found = finding.find("a")

    assert found.faults == [f"{file}: line 5 cannot be read, and is left out"]
    assert found.status == "stopped"
    assert [each.metrics for each in found.report.rounds if each.is_whole][-1] == {"accuracy": 0.3}


def test_with_a_plan_alone_there_is_the_job(tmp_path):
    write_run(tmp_path / "a", history(tmp_path / "a"))
    for name in ("report.json", "events.jsonl"):
        (tmp_path / "a" / name).unlink()
    (tmp_path / "a" / "plan.json").write_text("{")

    found = finding.find("a")

    assert (found.report.job, found.status) == ("", "stopped")
    assert [fault.rpartition("/")[2].split()[0] for fault in found.faults] == ["events.jsonl", "plan.json"]


def test_a_report_of_a_version_that_knew_no_settings_is_read(tmp_path):
    write_run(tmp_path / "a", history(tmp_path / "a", at=5.0))
    (tmp_path / "a" / "report.json").write_text('{"job": "old", "ok": true, "cause": "done", "of_the_future": 1}')

    report, status, faults = reading.read_workspace(tmp_path / "a")

    assert (report.job, report.began, status, faults) == ("old", 5.0, "finished", [])


def test_how_a_run_ended_is_said_by_its_exit_code(tmp_path):
    for code, status in ((4, "failed"), (130, "interrupted"), (143, "interrupted"), (1, "failed")):
        assert reading.status_of(reading.Report(cause="x", exit_code=code)) == status


def test_a_row_whose_folder_is_gone_tells_what_the_database_has(tmp_path):
    write_run(tmp_path / "a", history(tmp_path / "a"))
    known(tmp_path / "a")
    shutil.rmtree(tmp_path / "a")

    found = finding.find("1")

    assert [each.metrics["accuracy"] for each in found.report.rounds] == [0.5, 0.75]
    with pytest.raises(UsageError, match="the files of run 1 are gone"):
        found.folder()


def test_numbers_are_not_given_twice(tmp_path):
    write_run(tmp_path / "a", history(tmp_path / "a"))
    known(tmp_path / "a")
    with closing(database.open_to_write(1.0)) as opened, database.writing(opened):
        rows.remove(opened, 1)

    assert known(tmp_path / "a") == [2]


def test_a_folder_that_cannot_be_read_is_named_and_a_row_that_leads_to_it_tells_what_the_database_has(tmp_path):
    write_run(tmp_path / "a", history(tmp_path / "a"))
    known(tmp_path / "a")
    unreadable = tmp_path / ("x" * 300)

    with pytest.raises(WorkspaceError, match="cannot be read: File name too long"):
        finding.find(str(unreadable))

    with closing(database.open_to_write(1.0)) as opened, database.writing(opened):
        rows.change(opened, 1, workspace=str(unreadable))
    assert finding.find("1").root is None
    assert finding.find("1").report.job == "fruit"


def test_a_run_whose_files_cannot_be_read_is_not_taken_in_as_another(tmp_path):
    write_run(tmp_path / "a", history(tmp_path / "a"))
    (tmp_path / "a" / "events.jsonl").unlink()
    (tmp_path / "a" / "events.jsonl").mkdir()

    with pytest.raises(WorkspaceError, match=r"events\.jsonl cannot be read: Is a directory"):
        known(tmp_path / "a")


def test_an_empty_word_names_no_run_also_where_the_current_folder_has_one(tmp_path, monkeypatch):
    write_run(tmp_path / "a", history(tmp_path / "a"))
    monkeypatch.chdir(tmp_path / "a")

    with pytest.raises(UsageError, match="RUN is empty"):
        finding.find("")


def test_a_home_that_is_a_file_is_an_error_that_says_so(home):
    home.write_text("mine")

    with pytest.raises(UsageError, match="Not a directory"):
        database.open_to_read()
    with pytest.raises(UsageError, match=f"{home}: File exists"):
        database.open_to_write(1.0)


def test_a_killed_run_does_not_go_on_because_another_run_uses_its_workspace(tmp_path):
    write_run(tmp_path / "a", history(tmp_path / "a", ends=False))
    known(tmp_path / "a")
    with closing(database.open_to_write(1.0)) as opened, database.writing(opened):
        rows.change(opened, 1, status=reading.RUNNING)  # its process could not say that it was killed

    with Workspace(tmp_path / "a") as workspace:
        workspace.take()
        assert finding.find("1").status == "running"  # somebody has resumed it
        workspace.events.write_bytes(to_line(history(tmp_path / "a", at=2000.0)[0]))

        assert finding.find("1").status == "stopped"
