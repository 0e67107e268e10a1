"""Each run has its row in the database, from its first moment on, and no fault of the database harms a run."""

import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from finished_runs import history, write_run

from fedsag_cli.history import database, finding, rows
from fedsag_cli.history.recorder import Recorder
from fedsag_cli.workspace import Workspace

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDSAG_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def record(root, told, *, moves=False, finishes=True, is_kept=True):
    """A run, as the simulator gives it to the recorder; the recorder and what it says."""
    with Workspace(root) as workspace:
        workspace.take()
        recorder = Recorder(root.parent / "job", workspace, is_kept=is_kept)
        notes = recorder.begin(resumed=False, moves=moves)
        for event in told:
            recorder.on(event)
        report = write_run_in(workspace, told)
        if finishes:
            notes += recorder.finish(report)
    return recorder, notes


def write_run_in(workspace, told):
    workspace.release()
    return write_run(workspace.root, told)


def all_rows():
    with closing(database.open_to_read()) as opened:
        return rows.rows(opened, "ORDER BY number")


def test_a_run_that_is_not_kept_has_no_row_and_makes_no_database(tmp_path, home):
    recorder, notes = record(tmp_path / "ws", history(tmp_path / "ws"), is_kept=False)

    assert (recorder.number, notes) == (0, [])
    assert not home.exists()


def test_a_row_has_all_that_the_report_tells(tmp_path):
    told = history(tmp_path / "ws", accuracy=(0.5, 0.75), **{"config_fed_client.conf lr": 0.2})

    recorder, notes = record(tmp_path / "ws", told)

    assert (recorder.number, notes) == (1, [])
    [row] = all_rows()
    assert (row.status, row.exit_code, row.job, row.seed, row.clients) == ("finished", 0, "fruit", 7, 2)
    assert (row.began, row.seconds, row.digest, row.rounds_done) == (1000.0, 10.0, "d1", 2)
    with closing(database.open_to_read()) as opened:
        report = rows.read(opened, row)
    assert [each.metrics for each in report.rounds] == [{"accuracy": 0.5}, {"accuracy": 0.75}]
    assert report.settings["config_fed_client.conf lr"] == 0.2
    assert report.changed == {"config_fed_client.conf lr": None}
    assert (report.sites, report.versions) == (["site-1", "site-2"], {"fedsag": "0.1.0"})


def test_while_a_run_goes_on_its_row_says_so_and_has_the_rounds_so_far(tmp_path, monkeypatch):
    monkeypatch.setattr("fedsag_cli.history.recorder._APART_S", 0.0)
    with Workspace(tmp_path / "ws") as workspace:
        workspace.take()
        recorder = Recorder(tmp_path / "job", workspace)
        recorder.begin(resumed=False, moves=False)
        for event in history(workspace.root, accuracy=(0.5,), ends=False):
            recorder.on(event)

        [row] = all_rows()
        with closing(database.open_to_read()) as opened:
            report = rows.read(opened, row)

    assert (row.status, row.rounds_done, row.num_rounds, row.template) == ("running", 1, 1, "sag_np")
    assert report.sites == ["site-1", "site-2"]
    assert finding._runs(row)


def test_a_killed_run_is_shown_as_stopped_with_the_rounds_that_its_events_have(tmp_path):
    told = history(tmp_path / "ws", accuracy=(0.5, 0.75), ends=False)
    record(tmp_path / "ws", told, finishes=False)
    gone = subprocess.Popen(["true"])
    gone.wait()
    with closing(sqlite3.connect(database.database_file())) as opened, opened:
        process = all_rows()[0].process.split("\n")
        opened.execute("UPDATE runs SET process = ?", ["\n".join([*process[:3], str(gone.pid), "1"])])

    finding.refresh()

    [row] = all_rows()
    assert (row.status, row.exit_code, row.rounds_done) == ("stopped", None, 2)


def test_ten_runs_at_a_time_lose_no_row_and_no_round(tmp_path):
    program = (
        "import sys; sys.path += sys.argv[1:3]; from pathlib import Path; from test_recorder import *;"
        "root = Path(sys.argv[3]);"
        "print(record(root, history(root, accuracy=[n / 50 for n in range(50)], at=float(sys.argv[4])))[1])"
    )
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(HERE), str(HERE.parent), str(tmp_path / f"ws{number}"), str(number)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(10)
    ]

    said = [run.communicate()[0] for run in runs]

    assert said == ["[]\n"] * 10
    assert sorted(row.number for row in all_rows()) == list(range(1, 11))
    assert {row.began for row in all_rows()} == {float(number) for number in range(10)}
    assert {row.rounds_done for row in all_rows()} == {50}
    with closing(database.open_to_read()) as opened:
        assert opened.execute("SELECT count(*) FROM metrics").fetchone() == (500,)


def broken(home):
    home.mkdir()
    (home / "runs.db").write_text("this is no database " * 400)


def another_programs(home):
    home.mkdir()
    with closing(sqlite3.connect(home / "runs.db")) as opened, opened:
        opened.execute("CREATE TABLE mails (subject TEXT)")


def newer(home):
    database.open_to_write(1.0).close()
    with closing(sqlite3.connect(home / "runs.db")) as opened, opened:
        opened.execute("PRAGMA user_version = 99")


def older(home):
    """A database as version 1 made it, with one run."""
    database.open_to_write(1.0).close()
    with closing(sqlite3.connect(home / "runs.db")) as opened, opened:
        for name in ("plan", "parent", "parent_round"):
            opened.execute(f"ALTER TABLE runs DROP COLUMN {name}")
        opened.execute("INSERT INTO runs (id, status, job) VALUES ('abc', 'finished', 'old')")
        opened.execute("PRAGMA user_version = 1")


def test_a_database_of_an_older_version_is_read_as_it_is_and_gets_the_new_columns_when_it_is_written(tmp_path, home):
    older(home)

    assert [(row.job, row.plan, row.parent, row.parent_round) for row in all_rows()] == [("old", "", "", None)]
    with closing(sqlite3.connect(home / "runs.db")) as opened:
        assert opened.execute("PRAGMA user_version").fetchone() == (1,)

    record(tmp_path / "ws", history(tmp_path / "ws"))

    assert next((row.job, row.plan) for row in all_rows()) == ("old", "")
    assert len(all_rows()) == 2
    with closing(sqlite3.connect(home / "runs.db")) as opened:
        assert opened.execute("PRAGMA user_version").fetchone() == (database.VERSION,)


def a_folder(home):
    (home / "runs.db").mkdir(parents=True)


def nowhere(home):
    home.write_text("a file")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (broken, "file is not a database"),
        (another_programs, "is a database of another program"),
        (newer, "was made by a newer version of fedsag"),
        (a_folder, "unable to open database file"),
        (nowhere, "File exists"),
    ],
)
def test_a_database_that_cannot_be_used_is_one_note_and_stays_as_it_is(tmp_path, home, spoil, said):
    spoil(home)
    before = (home / "runs.db").read_bytes() if (home / "runs.db").is_file() else b""

    recorder, notes = record(tmp_path / "ws", history(tmp_path / "ws"))

    assert recorder.number == 0
    [note] = notes
    assert said in note
    assert note.startswith("`fedsag runs` will not know this run: ")
    assert str(home) in note
    assert ((home / "runs.db").read_bytes() if (home / "runs.db").is_file() else b"") == before


def test_a_database_that_is_locked_only_at_first_has_the_whole_run_at_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr("fedsag_cli.history.recorder._WAITS_S", 0.05)
    database.open_to_write(1.0).close()
    told = history(tmp_path / "ws")
    with Workspace(tmp_path / "ws") as workspace:
        workspace.take()
        recorder = Recorder(tmp_path / "job", workspace)
        with closing(sqlite3.connect(database.database_file(), isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            assert recorder.begin(resumed=False, moves=False) == []
            for event in told:
                recorder.on(event)
        assert recorder.finish(write_run_in(workspace, told)) == []

    [row] = all_rows()
    assert (row.status, row.rounds_done, row.job_folder) == ("finished", 2, str(tmp_path / "job"))


def test_a_database_that_stays_locked_is_one_note_at_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr("fedsag_cli.history.recorder._WAITS_S", 0.05)
    monkeypatch.setattr("fedsag_cli.history.recorder._WAITS_AT_END_S", 0.05)
    database.open_to_write(1.0).close()
    with closing(sqlite3.connect(database.database_file(), isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")

        _, notes = record(tmp_path / "ws", history(tmp_path / "ws"))

    assert len(notes) == 1
    assert "database is locked" in notes[0]


def test_a_lock_in_the_middle_of_a_run_delays_nothing_and_costs_no_round(tmp_path, monkeypatch):
    monkeypatch.setattr("fedsag_cli.history.recorder._APART_S", 0.0)
    monkeypatch.setattr("fedsag_cli.history.recorder._WAITS_S", 9999.0)  # the test's limit is less
    told = history(tmp_path / "ws", accuracy=(0.25, 0.5))
    with Workspace(tmp_path / "ws") as workspace:
        workspace.take()
        recorder = Recorder(tmp_path / "job", workspace)
        recorder.begin(resumed=False, moves=False)
        with closing(sqlite3.connect(database.database_file(), isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            for event in told[:-4]:
                recorder.on(event)
            assert all_rows()[0].rounds_done == 0
        for event in told[-4:]:
            recorder.on(event)

        assert all_rows()[0].rounds_done == 2
        recorder.finish(None)


def test_a_run_that_is_refused_before_it_begins_leaves_no_row(tmp_path):
    record(tmp_path / "ws", [], finishes=True)

    assert all_rows() == []


def test_a_resumed_run_keeps_its_number_also_if_the_database_is_new(tmp_path, home):
    told = history(tmp_path / "ws", accuracy=(0.5,), ends=False)
    record(tmp_path / "ws", told, finishes=False)
    for number in range(2):
        with Workspace(tmp_path / "ws") as workspace:
            workspace.take()
            recorder = Recorder(tmp_path / "job", workspace)

            recorder.begin(resumed=True, moves=False)

            assert recorder.number == 1
            assert [row.rounds_done for row in all_rows()] == [1 + number]
            recorder.on(told[0])
            recorder.finish(write_run_in(workspace, history(tmp_path / "ws")))
        for file in home.iterdir() if number == 0 else ():
            file.unlink()
    assert [(row.number, row.status, row.rounds_done) for row in all_rows()] == [(1, "finished", 2)]


def test_a_run_that_was_killed_before_its_first_event_is_one_row_with_the_run_that_resumes_it(tmp_path):
    told = history(tmp_path / "ws")
    for resumed in (False, True):
        with Workspace(tmp_path / "ws") as workspace:
            workspace.take()
            recorder = Recorder(tmp_path / "job", workspace)
            recorder.begin(resumed=resumed, moves=False)
            if not resumed:
                workspace.reopen()
                workspace.claim(workspace.plan)
                workspace.plan.write_text('{"job": "fruit"}')
                workspace.settle()
                workspace.release()
                with closing(sqlite3.connect(database.database_file())) as opened, opened:
                    opened.execute("UPDATE runs SET process = ''")
                finding.refresh()
                assert [(row.number, row.status) for row in all_rows()] == [(1, "stopped")]
                continue
            recorder.on(told[0])
            recorder.finish(write_run_in(workspace, told))

    [row] = all_rows()
    assert (row.number, row.status, finding.place_of(row)) == (1, "finished", tmp_path / "ws")


def test_the_row_says_what_runs_before_the_server_is_ready(tmp_path):
    record(tmp_path / "ws", history(tmp_path / "ws")[:1], finishes=False)

    assert [(row.job, row.clients, row.status) for row in all_rows()] == [("fruit", 2, "running")]


def test_files_that_the_database_cannot_keep_do_not_stop_other_rows_from_being_refreshed(tmp_path):
    for name, seed in (("a", 10**30), ("b", 1)):
        told = history(tmp_path / name, ends=False)
        record(tmp_path / name, told, finishes=False)
        write_run(tmp_path / name, [msgspec.structs.replace(told[0], seed=seed), *told[1:]])
    with closing(sqlite3.connect(database.database_file())) as opened, opened:
        opened.execute("UPDATE runs SET process = ''")
    assert [row.status for row in all_rows()] == ["running", "running"]

    finding.refresh()

    assert [row.status for row in all_rows()] == ["stopped", "stopped"]


def test_the_page_describes_every_table_and_column():
    page = next(folder for folder in HERE.parents if (folder / "docs").is_dir()) / "docs" / "runs.md"
    lines = [line.split(" | ") for line in page.read_text().splitlines() if line.startswith("| `")]
    described = {cells[0].strip("| `"): re.findall(r"`(\w+)`", cells[2]) for cells in lines if len(cells) == 3}
    database.open_to_write(1.0).close()
    with closing(database.open_to_read()) as opened:
        tables = {table: [each[1] for each in opened.execute(f"PRAGMA table_info({table})")] for table in described}

    assert described == tables
    assert set(tables) == {"runs", *database.TABLES}
