"""A run that was in the workspace is moved aside whole; what users put there is never removed."""

import contextlib
import os
import shutil
from contextlib import closing

import pytest
from finished_runs import history, write_run

from fedsag_cli.errors import WorkspaceError
from fedsag_cli.history import aside, database, finding, rows
from fedsag_cli.workspace import Workspace


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDSAG_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def ws(tmp_path):
    (tmp_path / "here").mkdir()
    return tmp_path / "here" / "ws"


def make_room(root, *, moves=True, with_database=True):
    with Workspace(root) as workspace, contextlib.ExitStack() as stack:
        workspace.take()
        opened = stack.enter_context(closing(database.open_to_write(1.0))) if with_database else None
        return aside.make_room(workspace, opened, moves=moves)


def tree(root):
    """The files, but for the lock: who had it last is written into it."""
    files = [path for path in root.rglob("*") if path.is_file() and path.name != "lock"]
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def test_the_run_that_was_there_is_whole_beside_the_workspace_and_its_row_knows_the_place(ws):
    write_run(ws, history(ws))
    (ws / "notes.txt").write_text("mine")
    before = tree(ws)

    [note] = make_room(ws)

    moved = ws.with_name("ws.runs") / "1"
    assert tree(moved) == before
    assert note == f"run 1, which was in {ws}, is now in {moved}; the last 10 are kept"
    assert sorted(tree(ws)) == [".fedsag/server"]
    assert finding.find("1").root == moved
    assert finding.find("1").report.digest == "d1"


def test_a_killed_run_that_is_moved_is_not_taken_for_one_that_goes_on(ws):
    write_run(ws, history(ws, ends=False))

    make_room(ws)

    with closing(database.open_to_read()) as opened:
        assert rows.row(opened, "number = 1").status == "stopped"


def test_without_a_run_nothing_is_moved(ws):
    ws.mkdir()
    (ws / "notes.txt").write_text("mine")

    assert make_room(ws) == []

    assert (ws / "notes.txt").read_text() == "mine"
    assert not ws.with_name("ws.runs").exists()


def test_the_last_ten_are_kept_and_of_older_ones_only_what_the_user_put_there(ws):
    runs = ws.with_name("ws.runs")
    said = []
    for number in range(13):
        write_run(ws, history(ws, at=float(number)))
        if number == 1:
            (ws / "notes.txt").write_text("mine")
        said += make_room(ws)[1:]

    assert sorted(runs.iterdir()) == sorted(runs / str(number) for number in (2, *range(4, 14)))
    assert tree(runs / "2") == {"notes.txt": b"mine"}
    assert said == [
        f"{runs}/1 was older, and is removed",
        f"{runs}/2 was older, and is removed, but 1 file that fedsag did not make (notes.txt) stays in {runs}/2",
        f"{runs}/3 was older, and is removed",
    ]
    with closing(database.open_to_read()) as opened:
        files = {row.number: row.files for row in rows.rows(opened)}
    assert files == dict.fromkeys((1, 2, 3), "removed") | dict.fromkeys(range(4, 14), "there")


def test_an_older_run_that_is_in_use_or_is_a_link_is_not_removed(ws):
    runs = ws.with_name("ws.runs")
    for number in range(12):
        write_run(ws, history(ws, at=float(number)))
        if number == 10:
            (ws.parent / "elsewhere").mkdir()
            shutil.move(runs / "1", ws.parent / "elsewhere" / "1")
            (runs / "1").symlink_to(ws.parent / "elsewhere" / "1")
            in_use = Workspace(runs / "2")
            in_use.take()
        said = make_room(ws)

    assert (runs / "1" / "report.json").exists()
    assert (runs / "2" / "report.json").exists()
    assert "is used by another run" in said[-1]
    in_use.release()


def test_without_a_database_the_run_is_moved_to_a_number_that_is_free(ws):
    for _ in range(2):
        write_run(ws, history(ws))

        make_room(ws, with_database=False)

    assert sorted(path.name for path in ws.with_name("ws.runs").iterdir()) == ["1", "2"]


def test_a_run_that_was_moved_while_the_database_could_not_be_written_is_found_all_the_same(ws):
    write_run(ws, history(ws))
    with closing(database.open_to_write(1.0)) as opened, database.writing(opened):
        aside.take_in(opened, ws)

    make_room(ws, with_database=False)

    assert finding.find("1").root == ws.with_name("ws.runs") / "1"


def test_a_number_that_another_database_gave_is_not_written_over(ws, home):
    for at in (1.0, 2.0):
        write_run(ws, history(ws, at=at))
        make_room(ws)
        shutil.rmtree(home)

    assert sorted(path.name for path in ws.with_name("ws.runs").iterdir()) == ["1", "1-2"]


@pytest.mark.parametrize("way", ["no folder", "another disk"])
def test_a_run_that_cannot_be_moved_stays_where_it_is(ws, way, monkeypatch):
    write_run(ws, history(ws))
    before = tree(ws)
    if way == "no folder":
        ws.with_name("ws.runs").write_text("a file")
    else:

        def refuses(*_):
            raise OSError(18, "Invalid cross-device link")

        monkeypatch.setattr(type(ws), "rename", refuses)

    with pytest.raises(WorkspaceError, match=r"run 1 in .* cannot be moved to") as error:
        make_room(ws)

    assert f"give -w {ws}" in error.value.hint
    assert tree(ws) == before


def test_a_workspace_that_is_a_link_is_moved_where_it_is_and_the_link_leads_to_the_new_run(ws, tmp_path):
    (tmp_path / "disk").mkdir()
    write_run(tmp_path / "disk" / "ws", history(ws))
    ws.symlink_to(tmp_path / "disk" / "ws")

    make_room(ws)

    assert (tmp_path / "disk" / "ws.runs" / "1" / "report.json").exists()
    assert (ws / ".fedsag" / "lock").exists()
    assert not (ws / "report.json").exists()


def test_with_w_the_run_is_replaced_and_its_row_stays_and_says_so(ws):
    write_run(ws, history(ws, at=1.0))

    assert make_room(ws, moves=False) == [f"run 1, which was in {ws}, is replaced"]

    assert (ws / "report.json").exists()  # the new run removes it, as it always did
    write_run(ws, history(ws, at=2.0))
    found = finding.find("1")
    assert (found.root, found.status, found.report.digest) == (None, "finished", "d1")


def test_a_process_that_waited_for_the_lock_of_a_moved_workspace_does_not_get_it(ws, monkeypatch):
    write_run(ws, history(ws))
    late = Workspace(ws)
    opened = os.open(late.lock, os.O_RDWR)
    with Workspace(ws) as workspace:
        workspace.take()
        workspace.move_to(ws.with_name("moved"))

        workspace.release()
    real_open = os.open
    monkeypatch.setattr(os, "open", lambda path, *how: opened if path == late.lock else real_open(path, *how))

    with pytest.raises(WorkspaceError, match="has just moved it aside"):
        late.take()
