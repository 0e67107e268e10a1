"""A workspace: one run at a time, and nothing fedsag did not make is ever removed."""

import fcntl
import os
import re
import shutil
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from fedsag_cli.errors import WorkspaceError
from fedsag_cli.plan import ComponentSpec
from fedsag_cli.workspace import (
    BEST,
    ROUND,
    SERVER,
    Workspace,
    _clone,
    checkpoint_name,
    checkpoints_in,
    write_json,
    write_whole,
)


@pytest.fixture
def workspace(tmp_path):
    here = Workspace(tmp_path / "w")
    here.take()
    yield here
    here.release()


def app_of(folder, **files):
    """An app folder with these files; `__` stands for a slash, `_py` for .py."""
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_py", ".py").replace("_conf", ".conf")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def files_in(folder):
    return sorted(
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and ".fedsag" not in path.relative_to(folder).parts
    )


def test_everything_lies_where_nvflare_has_it(tmp_path):
    here = Workspace(tmp_path)

    assert here.app(SERVER) == tmp_path / "server/simulate_job/app_server"
    assert here.app("site-1") == tmp_path / "site-1/simulate_job/app_site-1"
    assert here.log("site-1") == tmp_path / "site-1/log.txt"
    assert here.log(SERVER) == tmp_path / "server/log.txt"
    assert (here.plan, here.events, here.report) == (
        tmp_path / "plan.json",
        tmp_path / "events.jsonl",
        tmp_path / "report.json",
    )


def test_whether_workers_or_processes_of_clients_write_the_logs_is_the_runs_whatever_earlier_runs_left(
    workspace, tmp_path
):
    app = app_of(tmp_path / "app", config__c_conf="c")
    mine = [workspace.app(name) / "mine" for name in ("worker", "site-1")]
    for deployed, log in (("worker", "worker/logs/site-1.txt"), ("site-1", "site-1/log.txt")) * 2:
        workspace.clear()
        for note in mine:  # the user's: its folders stay
            note.parent.mkdir(parents=True, exist_ok=True)
            note.write_text("mine")
        workspace.client_logs.mkdir(exist_ok=True)
        workspace.deploy(app, deployed)

        assert workspace.log("site-1") == workspace.root / log
        assert (workspace.root / log).parent.is_dir()


def test_a_relative_workspace_is_made_absolute_at_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    here = Workspace(Path("w"))
    monkeypatch.chdir("/")

    assert here.root == tmp_path / "w"


# the lock


def test_a_second_run_is_refused_naming_the_first_ones_pid(workspace):
    with pytest.raises(WorkspaceError, match=f"used by another run, process {os.getpid()}") as caught:
        Workspace(workspace.root).take()

    assert "-w" in caught.value.hint


def test_another_process_is_refused_too_and_named(tmp_path):
    code = f"""
        import sys
        from pathlib import Path
        from fedsag_cli.workspace import Workspace
        Workspace(Path({str(tmp_path / "w")!r})).take()
        print("taken", flush=True)
        sys.stdin.read()
    """
    other = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert other.stdout.readline() == "taken\n"
        with pytest.raises(WorkspaceError, match=f"process {other.pid} "):
            Workspace(tmp_path / "w").take()
    finally:
        other.kill()
        other.communicate()

    here = Workspace(tmp_path / "w")  # killed hard, it holds nothing any more
    here.take()
    here.release()


def test_a_refused_run_leaves_the_first_ones_lock(workspace):
    for _ in range(2):
        with pytest.raises(WorkspaceError):
            Workspace(workspace.root).take()


def test_the_mark_of_the_run_before_is_known_but_not_in_a_copy_of_the_workspace(workspace):
    shutil.copytree(workspace.root, workspace.root.with_name("copy"))
    workspace.release()

    later, copy = Workspace(workspace.root), Workspace(workspace.root.with_name("copy"))
    for each in (later, copy):
        each.take()
        each.release()

    assert later.mark_before == workspace.mark
    assert copy.mark_before == ""


def test_a_process_that_the_server_started_does_not_hold_the_workspace(workspace):
    held = workspace.hold_as_server()
    helper = subprocess.Popen(["sleep", "30"], pass_fds=[held])
    os.close(held)  # as if the server were killed
    try:
        workspace.release()
        other = Workspace(workspace.root)
        other.take()
        other.release()
    finally:
        helper.kill()
        helper.wait()


def test_after_its_release_a_workspace_can_be_taken_again(workspace):
    workspace.release()
    workspace.release()
    other = Workspace(workspace.root)
    other.take()
    other.release()


def test_the_lock_does_not_reach_a_program_that_is_started(workspace):
    subprocess.run(["true"], check=True, close_fds=False)
    sleeper = subprocess.Popen(["sleep", "30"], close_fds=False)
    try:
        workspace.release()
        other = Workspace(workspace.root)
        other.take()
        other.release()
    finally:
        sleeper.kill()
        sleeper.wait()


def test_a_file_where_the_workspace_should_be_is_an_error_naming_it(tmp_path):
    (tmp_path / "w").write_text("mine")

    with pytest.raises(WorkspaceError, match="w cannot be used"):
        Workspace(tmp_path / "w").take()

    assert (tmp_path / "w").read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_an_error_naming_it(tmp_path):
    (tmp_path / "w").mkdir(mode=0o555)

    with pytest.raises(WorkspaceError, match="Permission denied"):
        Workspace(tmp_path / "w").take()


# what is ours


def test_an_app_is_copied_with_all_it_has_but_what_python_made_of_it(workspace, tmp_path):
    app = app_of(tmp_path / "app", config__x_conf="a = 1", custom__train_py="1", custom__deep__net_py="2")
    (app / "custom" / "__pycache__").mkdir(exist_ok=True)
    (app / "custom" / "__pycache__" / "net.pyc").write_text("x")
    (app / "custom" / "link.py").symlink_to(app / "custom" / "train.py")

    workspace.deploy(app, "site-1")

    below = files_in(workspace.app("site-1"))
    assert "custom/__pycache__/net.pyc" not in below
    assert {"config/x.conf", "custom/deep/net.py", "custom/link.py", "custom/train.py"} <= set(below)
    assert not (workspace.app("site-1") / "custom" / "link.py").is_symlink()


def test_an_app_in_a_linked_folder_is_copied(workspace, tmp_path):
    real = app_of(tmp_path / "real", net_py="1")
    app = app_of(tmp_path / "app", config__x_conf="a = 1")
    (app / "custom").symlink_to(real)

    workspace.deploy(app, "site-1")

    assert files_in(workspace.app("site-1")) == ["config/x.conf", "custom/net.py"]


def run_in(root, app, *, made=(), names=("site-1",)):
    """One run as the simulator makes it: clear, deploy, write."""
    here = Workspace(root)
    here.take()
    here.reopen()
    here.check_free(*(file for name in names for file in here.files_of(app, name)))
    here.clear()
    for name in names:
        here.deploy(app, name)
        here.log(name).write_text("log")
    for path in made:
        here.claim(root / path)
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text("made")
    here.settle()
    here.release()
    return here


def test_an_earlier_runs_files_are_replaced(tmp_path):
    root = tmp_path / "w"
    first = app_of(tmp_path / "one", custom__train_py="old", custom__gone_py="old")
    second = app_of(tmp_path / "two", custom__train_py="new")
    run_in(root, first, made=["events.jsonl", "server/simulate_job/app_server/FL_global_model.pt"])

    run_in(root, second)

    assert files_in(root) == ["site-1/log.txt", "site-1/simulate_job/app_site-1/custom/train.py"]
    assert (root / "site-1/simulate_job/app_site-1/custom/train.py").read_text() == "new"


def test_the_folders_of_clients_that_are_gone_go_too(tmp_path):
    root, app = tmp_path / "w", app_of(tmp_path / "app", custom__train_py="1")
    run_in(root, app, names=("site-1", "site-2", "site-3"))
    (root / "site-3/simulate_job/app_site-3/custom/__pycache__").mkdir()
    (root / "site-3/simulate_job/app_site-3/custom/__pycache__/train.cpython-311.pyc").write_text("")

    run_in(root, app)

    assert sorted(path.name for path in root.iterdir()) == [".fedsag", "site-1"]


def test_what_fedsag_did_not_make_is_never_deleted(tmp_path):
    root, app = tmp_path / "w", app_of(tmp_path / "app", custom__train_py="1")
    run_in(root, app, made=["report.json"], names=("site-1", "site-2"))
    mine = {
        "notes.txt": "mine",
        "site-2/notes.txt": "mine",
        "site-2/simulate_job/app_site-2/best.pt": "mine",
        "site-2/simulate_job/app_site-2/custom/scratch.py": "mine",
        "server/old/model.pt": "mine",
        "startup/kit": "mine",
    }
    for name, text in mine.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)

    run_in(root, app)

    assert {name: (root / name).read_text() for name in mine} == mine
    assert not (root / "report.json").exists()
    assert not (root / "site-2/log.txt").exists()


def test_an_earlier_runs_checkpoints_are_removed_and_other_files_beside_them_stay(workspace):
    workspace.claim(workspace.plan)
    workspace.checkpoints.mkdir(parents=True)
    for name in ("round-000004.safetensors", "best-000002.safetensors", "round-000005.safetensors.part"):
        (workspace.checkpoints / name).write_text("old")
    mine = ["best-of-all.safetensors", "mine.safetensors", "round-mine.safetensors", "round-mine.safetensors.part"]
    for name in mine:
        (workspace.checkpoints / name).write_text("mine")

    workspace.clear()

    assert files_in(workspace.checkpoints) == mine


def test_where_fedsag_has_never_been_nothing_is_removed(workspace):
    workspace.checkpoints.mkdir(parents=True)
    (workspace.checkpoints / "round-000004.safetensors").write_text("mine")

    workspace.clear()

    assert files_in(workspace.checkpoints) == ["round-000004.safetensors"]


def test_what_was_claimed_and_never_made_is_anybodys_after_the_run(workspace):
    model, other = workspace.root / "server.npy", workspace.root / "server.npz"
    workspace.claim(model, other)
    model.write_text("ours")
    workspace.settle()
    other.write_text("mine")

    workspace.clear()

    assert not model.exists()
    assert other.read_text() == "mine"


def test_a_users_file_in_the_way_is_an_error_naming_it_and_stays(workspace, tmp_path):
    app = app_of(tmp_path / "app", custom__train_py="fedsag's")
    mine = workspace.app("site-1") / "custom" / "train.py"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")

    with pytest.raises(WorkspaceError, match=f"{mine} already exists, and fedsag did not make it"):
        workspace.deploy(app, "site-1")

    assert mine.read_text() == "mine"
    assert files_in(workspace.root) == [str(mine.relative_to(workspace.root))]


def test_a_users_log_in_the_way_is_one_too(workspace, tmp_path):
    workspace.log("site-1").parent.mkdir(parents=True)
    workspace.log("site-1").symlink_to("nowhere")

    with pytest.raises(WorkspaceError, match=r"site-1/log\.txt already exists"):
        workspace.deploy(app_of(tmp_path / "app", custom__train_py=""), "site-1")


def test_a_refused_file_does_not_become_ours_in_the_next_run(tmp_path):
    root = tmp_path / "w"
    root.mkdir()
    (root / "report.json").write_text("mine")

    for _ in range(2):
        here = Workspace(root)
        here.take()
        here.clear()
        with pytest.raises(WorkspaceError):
            here.claim(root / "events.jsonl", root / "report.json")
        here.release()

    assert (root / "report.json").read_text() == "mine"


def test_what_a_run_made_is_known_to_the_next_even_where_it_was_killed(tmp_path):
    root = tmp_path / "w"
    here = Workspace(root)
    here.take()
    here.claim(root / "odd name\n.txt", Path("/elsewhere/x"))
    (root / "odd name\n.txt").write_text("ours")
    here.release()

    later = Workspace(root)
    later.take()
    later.clear()
    later.release()

    assert files_in(root) == []


def test_nothing_outside_is_ever_removed_whatever_the_list_says(tmp_path):
    precious = tmp_path / "precious.txt"
    precious.write_text("mine")
    here = Workspace(tmp_path / "w")
    here.take()
    (here.scratch / "made").write_text(f"../precious.txt\0{precious}\0")
    here.clear()
    here.release()

    assert precious.read_text() == "mine"


def test_a_users_folder_where_a_file_of_ours_was_stays(tmp_path):
    root, app = tmp_path / "w", app_of(tmp_path / "app", custom__train_py="1")
    run_in(root, app, made=["report.json"])
    (root / "report.json").unlink()
    (root / "report.json").mkdir()
    (root / "report.json" / "mine").write_text("mine")

    run_in(root, app)

    assert (root / "report.json" / "mine").read_text() == "mine"


def test_a_link_of_the_users_in_place_of_a_folder_is_refused_and_nothing_behind_it_is_touched(tmp_path):
    root, app = tmp_path / "w", app_of(tmp_path / "app", custom__train_py="1", custom__deep__net_py="2")
    mine = app_of(tmp_path / "mine", train_py="mine", deep__net_py="mine")
    run_in(root, app)
    shutil.rmtree(root / "site-1/simulate_job/app_site-1/custom")
    (root / "site-1/simulate_job/app_site-1/custom").symlink_to(mine)

    with pytest.raises(WorkspaceError, match="custom is not a folder, but a link"):
        run_in(root, app)

    assert files_in(mine) == ["deep/net.py", "train.py"]


def test_nothing_is_written_through_a_link_of_the_users(workspace, tmp_path):
    (tmp_path / "mine").mkdir()
    workspace.app("site-1").mkdir(parents=True)
    (workspace.app("site-1") / "custom").symlink_to(tmp_path / "mine")

    with pytest.raises(WorkspaceError, match="custom is not a folder, but a link"):
        workspace.deploy(app_of(tmp_path / "app", custom__train_py="1"), "site-1")

    assert files_in(tmp_path / "mine") == []


@pytest.mark.parametrize("name", ["", "lock", "server", "made"])
def test_a_link_of_the_users_in_place_of_what_locks_and_lists_is_refused_and_nothing_behind_it_is_written(
    tmp_path, name
):
    with Workspace(tmp_path / "w") as workspace:
        workspace.take()
    (tmp_path / "w/.fedsag" / name).rename(tmp_path / "mine") if name != "made" else (tmp_path / "mine").touch()
    (tmp_path / "w/.fedsag" / name).symlink_to(tmp_path / "mine")
    before = (tmp_path / "mine").stat().st_mtime_ns

    with pytest.raises(WorkspaceError, match="is a link"), Workspace(tmp_path / "w") as workspace:
        workspace.take()

    assert (tmp_path / "mine").stat().st_mtime_ns == before


@pytest.mark.parametrize("linked", ["models", "models/server.npy"])
def test_a_link_of_the_users_where_a_component_will_write_is_refused(workspace, tmp_path, monkeypatch, linked):
    workspace.app(SERVER).mkdir(parents=True)
    link = workspace.job(SERVER) / linked
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(tmp_path / "mine")
    monkeypatch.chdir(workspace.app(SERVER))

    with pytest.raises(WorkspaceError, match=f"{linked} (already exists|is not a folder, but a link)"):
        workspace.claim(Path(workspace.place(Path("../models/server.npy"))))


def test_a_path_that_leads_into_the_workspace_through_a_link_outside_is_in_it(workspace, tmp_path):
    (tmp_path / "link").symlink_to(workspace.root)

    assert workspace.place(tmp_path / "link/model.pt") == str(workspace.root / "model.pt")


def test_a_link_in_place_of_a_file_is_the_users(tmp_path):
    root, app = tmp_path / "w", app_of(tmp_path / "app", custom__train_py="1")
    (tmp_path / "mine").write_text("mine")
    run_in(root, app, made=["report.json"])
    (root / "report.json").unlink()
    (root / "report.json").symlink_to(tmp_path / "mine")

    run_in(root, app)

    assert (root / "report.json").is_symlink()
    assert (tmp_path / "mine").read_text() == "mine"


def _edited(path):
    path.write_text("edited, and longer")


def _of_the_same_size(path):
    path.write_text(path.read_text()[::-1])


def _another(path):
    """Another file with the same contents, size and time."""
    other = path.with_name("other")
    shutil.copy2(path, other)
    path.unlink()
    other.rename(path)


@pytest.mark.parametrize("change", [_edited, _of_the_same_size, _another])
def test_a_file_that_the_user_has_changed_is_theirs(tmp_path, change):
    root, app = tmp_path / "w", app_of(tmp_path / "app", custom__train_py="ours")
    run_in(root, app, made=["report.json"])
    copy, report = root / "site-1/simulate_job/app_site-1/custom/train.py", root / "report.json"
    change(report)
    theirs = report.read_text()
    run_in(root, app)
    assert report.read_text() == theirs

    change(copy)
    theirs = copy.read_text()
    with pytest.raises(WorkspaceError, match=r"train\.py has changed since fedsag made it"):
        run_in(root, app)
    assert copy.read_text() == theirs


def test_a_copy_of_the_script_that_changed_during_the_run_is_the_users(tmp_path):
    root, app = tmp_path / "w", app_of(tmp_path / "app", custom__train_py="ours", data_csv="1")
    here = Workspace(root)
    here.take()
    here.deploy(app, "site-1")
    _edited(here.app("site-1") / "custom" / "train.py")
    _edited(here.app("site-1") / "data_csv")  # the script wrote it
    here.settle()
    here.release()

    later = Workspace(root)
    later.take()
    later.clear()
    later.release()

    assert files_in(root) == ["site-1/simulate_job/app_site-1/custom/train.py"]


def test_a_run_that_was_killed_leaves_what_came_to_be_while_it_lived_and_later_files_are_the_users(tmp_path):
    root, app = tmp_path / "w", app_of(tmp_path / "app", custom__train_py="1")
    killed = Workspace(root)
    killed.take()
    killed.deploy(app, "site-1")
    killed.claim(killed.events, root / "model", root / "other", folders=[root / "curves"])
    (root / "model").write_text("ours")
    (root / "curves" / "site-1").mkdir(parents=True)
    (root / "curves" / "site-1" / "x").write_text("ours")
    killed.events.write_text("ours")
    an_hour_ago = time.time() - 3600
    for file in (killed.events, killed.log("site-1"), root / ".fedsag" / "made"):
        os.utime(file, (an_hour_ago, an_hour_ago))
    record = (root / ".fedsag" / "made").read_bytes()
    os.link(root / ".fedsag" / "made", tmp_path / "made")  # by another inode, it would be that of a copied folder
    killed.release()

    later = Workspace(root)
    later.take()
    later.clear()
    assert files_in(root) == ["curves/site-1/x", "events.jsonl", "model"], (
        "they changed an hour after the last sign of life"
    )
    later.release()

    (tmp_path / "made").write_bytes(record)
    (tmp_path / "made").replace(root / ".fedsag" / "made")
    again = Workspace(root)
    again.take()
    again.clear()
    again.release()
    assert files_in(root) == []


def test_curves_of_the_users_in_the_folder_of_a_tracker_stay(tmp_path):
    root = tmp_path / "w"
    curves = root / "curves"
    for number in range(2):
        here = Workspace(root)
        here.take()
        here.clear()
        here.claim(folders=[curves])
        (curves / "site-1").mkdir(parents=True, exist_ok=True)
        (curves / "site-1" / f"ours-{number}").write_text("ours")
        here.settle()
        here.release()
        time.sleep(0.02)  # more than the resolution of the file system's clock
        (curves / "baseline").mkdir(exist_ok=True)
        for mine in (curves / "baseline" / f"mine-{number}", curves / "site-1" / f"mine-{number}"):
            mine.write_text("mine")

    assert files_in(curves) == ["baseline/mine-0", "baseline/mine-1", "site-1/mine-0", "site-1/mine-1", "site-1/ours-1"]


def test_a_folder_of_the_users_stays_with_its_mode(tmp_path):
    root, app = tmp_path / "w", app_of(tmp_path / "app", custom__train_py="1")
    (root / "site-1").mkdir(parents=True)
    (root / "site-1").chmod(0o700)

    for _ in range(2):
        run_in(root, app)
    later = Workspace(root)
    later.take()
    later.clear()
    later.release()

    assert (root / "site-1").stat().st_mode & 0o777 == 0o700
    assert list((root / "site-1").iterdir()) == []


def test_a_file_that_a_script_left_makes_room_for_the_one_of_the_job(tmp_path):
    root, app = tmp_path / "w", app_of(tmp_path / "app", custom__train_py="1")
    here = run_in(root, app)
    killed = Workspace(root)
    killed.take()
    killed.clear()
    killed.deploy(app, "site-1")
    left = here.app("site-1") / "best_pt"
    left.write_text("of the script")
    killed.settle()
    killed.release()
    app_of(app, best_pt="of the job")

    later = Workspace(root)
    later.take()
    later.reopen()
    files = later.files_of(app, "site-1")
    later.check_free(*files, of_scripts=set(files))
    later.clear(replaced=files)
    later.deploy(app, "site-1")
    later.settle()
    later.release()

    assert left.read_text() == "of the job"


@pytest.mark.parametrize("copy", [shutil.copy, shutil.copy2], ids=["without times", "with times"])
def test_a_workspace_that_was_copied_is_still_ours(tmp_path, copy):
    root, app = tmp_path / "w", app_of(tmp_path / "app", custom__train_py="1")
    run_in(root, app, made=["report.json"])
    shutil.copytree(root, tmp_path / "copy", copy_function=copy)
    (tmp_path / "copy" / "mine").write_text("mine")

    later = Workspace(tmp_path / "copy")
    later.take()
    later.clear()
    later.release()

    assert files_in(tmp_path / "copy") == ["mine"]


@pytest.mark.parametrize("copy", [shutil.copy, shutil.copy2], ids=["without times", "with times"])
def test_what_a_killed_run_made_is_still_ours_in_a_copy_that_is_made_later(tmp_path, copy):
    """Before, the files of a copy with times seemed to have come to be after the run."""
    root, app = tmp_path / "w", app_of(tmp_path / "app", custom__train_py="1")
    killed = Workspace(root)
    killed.take()
    killed.deploy(app, SERVER)
    killed.claim(killed.plan, killed.events)
    checkpoint = killed.checkpoints / checkpoint_name(ROUND, 0, 0)
    for file in (killed.plan, killed.events, checkpoint):
        file.write_text("ours")
    killed.release()
    an_hour_ns = 3600 * 10**9
    for file in (killed.plan, killed.events, checkpoint, killed.log(SERVER), root / ".fedsag" / "made"):
        os.utime(file, ns=(file.stat().st_mtime_ns - an_hour_ns,) * 2)
    record = root / ".fedsag" / "made"
    began = re.search(r'"began_ns":(\d+)', record.read_text())[1]
    times = record.stat()
    record.write_text(record.read_text().replace(began, str(int(began) - an_hour_ns)))
    os.utime(record, ns=(times.st_atime_ns, times.st_mtime_ns))

    shutil.copytree(root, tmp_path / "copy", copy_function=copy)
    (tmp_path / "copy" / "mine").write_text("mine")
    later = Workspace(tmp_path / "copy")
    later.take()
    later.clear()
    later.release()

    assert files_in(tmp_path / "copy") == ["mine"]


def test_what_a_run_of_an_older_version_made_is_removed(tmp_path):
    root = tmp_path / "w"
    here = Workspace(root)
    here.take()
    names = ["plan.json", "events.jsonl", "site-1/log.txt", "server/curves/x/y"]
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("ours")
    (here.scratch / "made").write_text("plan.json\0events.jsonl\0site-1/log.txt\0server/curves/\0")
    here.clear()
    here.release()

    assert [path.name for path in root.iterdir()] == [".fedsag"]


def test_a_job_that_lies_where_a_run_writes_is_refused(workspace, tmp_path):
    job = workspace.root / "site-1"
    with pytest.raises(WorkspaceError, match="where the run writes its own files"):
        workspace.check_job(job, ["site-1"], [])

    app = app_of(tmp_path / "app", custom__train_py="1")
    workspace.deploy(app, "site-2")
    (tmp_path / "job").symlink_to(workspace.app("site-2"))
    with pytest.raises(WorkspaceError, match="is a file that an earlier run made"):
        workspace.check_job(tmp_path / "job", ["site-1"], [tmp_path / "job" / "custom" / "train.py"])

    workspace.check_job(workspace.root / "jobs", ["site-1"], [workspace.root / "jobs" / "train.py"])


# files that are written whole, or not at all


def test_a_file_is_written_under_another_name_first(tmp_path):
    there = []

    def write(file):
        file.write(b"new")
        there.extend(path.name for path in tmp_path.iterdir())

    write_whole(tmp_path / "model.pt", write)

    assert there == ["model.pt.part"]
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]
    assert (tmp_path / "model.pt").read_bytes() == b"new"


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), OSError("2 requested and 0 written")])
def test_where_writing_fails_the_file_stays_as_it_was_and_the_error_is_told(tmp_path, error):
    (tmp_path / "model.pt").write_text("before")

    def write(file):
        file.write(b"half")
        raise error

    with pytest.raises(type(error)) as caught:
        write_whole(tmp_path / "model.pt", write)

    assert caught.value is error
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]
    assert (tmp_path / "model.pt").read_text() == "before"


def test_an_error_of_the_system_names_the_file_and_not_its_half_written_one(tmp_path):
    (tmp_path / "file").touch()

    for path in (tmp_path / "no folder" / "x", tmp_path / "file" / "x"):
        with pytest.raises(OSError, match=r"No such file|Not a directory") as caught:
            write_whole(path, lambda file: None)
        assert caught.value.filename == str(path)


@pytest.mark.parametrize("sync", [False, True])
def test_only_what_is_asked_for_it_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch, sync):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.fstat(fd).st_size))

    write_whole(tmp_path / "model.pt", lambda file: file.write(b"all of it"), sync=sync)

    assert synced == [len(b"all of it")] * sync


def test_checkpoints_are_found_by_their_kind_and_nothing_else_is_one(tmp_path):
    names = {kind: [checkpoint_name(kind, 0, round_num) for round_num in (0, 7, 1_234_567)] for kind in (ROUND, BEST)}
    others = ["round-1.safetensors", "best-of-all.safetensors", "round-000001.safetensors.part", "round-000001"]
    for name in [*names[ROUND], *names[BEST], *others]:
        (tmp_path / name).touch()

    for kind in (ROUND, BEST):
        assert sorted(path.name for path in checkpoints_in(tmp_path, kind)) == sorted(names[kind])
    assert len(checkpoints_in(tmp_path)) == 6


def test_a_json_file_that_cannot_be_written_leaves_what_was_there(tmp_path, monkeypatch):
    (tmp_path / "report.json").write_text("before")
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))

    with pytest.raises(OSError, match="No space"):
        write_json(tmp_path / "report.json", ComponentSpec(path="x"))

    assert (tmp_path / "report.json").read_text() == "before"


def test_a_folder_that_is_claimed_goes_with_all_that_came_into_it(workspace):
    curves = workspace.job(SERVER) / "curves"
    workspace.claim(folders=[curves])
    (curves / "deep").mkdir(parents=True)
    (curves / "deep" / "x").touch()
    (workspace.job(SERVER) / "mine").touch()

    workspace.clear()

    assert files_in(workspace.root) == ["server/simulate_job/mine"]


def test_a_folder_of_somebody_elses_cannot_be_claimed(workspace):
    curves = workspace.job(SERVER) / "curves"
    curves.mkdir(parents=True)

    with pytest.raises(WorkspaceError, match="curves already exists"):
        workspace.claim(folders=[curves])


def test_a_file_outside_is_neither_claimed_nor_in_the_way(workspace, tmp_path):
    (tmp_path / "elsewhere").touch()

    workspace.claim(tmp_path / "elsewhere")
    workspace.clear()

    assert (tmp_path / "elsewhere").exists()


def test_a_workspace_behind_a_link_is_where_the_link_leads(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")

    assert Workspace(tmp_path / "link" / "w").root == tmp_path / "real" / "w"


def test_two_processes_may_write_a_shared_file_at_a_time(tmp_path):
    path = tmp_path / "config.conf"
    path.write_bytes(b"before")
    other = (
        "import sys; from pathlib import Path; from fedsag_cli.workspace import write_whole\n"
        "write_whole(Path(sys.argv[1]), lambda file: file.write(b'theirs'), shared=True)"
    )

    def write(file):
        file.write(b"ou")
        subprocess.run([sys.executable, "-c", other, str(path)], check=True)
        assert path.read_bytes() == b"theirs"
        file.write(b"rs")

    write_whole(path, write, shared=True)

    assert path.read_bytes() == b"ours"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("is_gone", [False, True])
def test_a_resumed_run_may_have_written_an_earlier_file_before_it_is_claimed_again(tmp_path, is_gone):
    model = tmp_path / "ws" / "server" / "model.npy"
    with Workspace(tmp_path / "ws") as first:
        first.take()
        first.reopen()
        first.claim(model)
        model.write_text("first")
        first.settle()
    if is_gone:
        model.unlink()
    with Workspace(tmp_path / "ws") as again:
        again.take()
        again.reopen()
        model.with_name("new").write_text("second")
        model.with_name("new").replace(model)

        again.claim(model)


def test_what_the_server_of_a_fork_wrote_before_it_was_claimed_is_the_runs_and_what_was_there_before_is_not(workspace):
    """The server may write the best model of its parent at once: the command may hear of it later."""
    before, model = workspace.root / "before.npy", workspace.root / "model.npy"
    before.write_text("mine")
    time.sleep(0.02)  # a file system has no finer clock
    workspace.claim(workspace.plan)
    model.write_text("the server's")

    workspace.claim(model)
    with pytest.raises(WorkspaceError, match="already exists, and fedsag did not make it"):
        workspace.claim(before)
    workspace.settle()
    workspace.clear()

    assert files_in(workspace.root) == ["before.npy"]


@pytest.mark.parametrize("may_link", [True, False])
def test_files_of_another_workspace_become_this_ones_too_and_go_with_it(tmp_path, workspace, may_link):
    other = tmp_path / "other.safetensors"
    other.write_text("of the parent")
    mine = workspace.checkpoints / "round-000003.safetensors"

    workspace.adopt({other: mine}, may_link=may_link)

    assert (mine.read_text(), mine.samefile(other)) == ("of the parent", may_link)
    workspace.remove()
    assert other.read_text() == "of the parent"
    assert not workspace.root.exists()


def test_what_a_power_cut_emptied_is_deployed_again_and_a_changed_script_is_told(tmp_path):
    app = tmp_path / "app"
    (app / "custom").mkdir(parents=True)
    (app / "custom" / "train.py").write_text("pass")
    workspace = Workspace(tmp_path / "ws")
    with workspace:
        workspace.take()
        workspace.reopen()
        workspace.deploy(app, "site-1")
        copy = workspace.app("site-1") / "custom" / "train.py"
        copy.write_text("")

        workspace.restore(app, "site-1")

        assert copy.read_text() == "pass"
        workspace.settle()
        copy.write_text("else")
        workspace.reopen()
        with pytest.raises(WorkspaceError, match=r"train.py has changed since fedsag made it"):
            workspace.restore(app, "site-1")


@pytest.fixture
def large(tmp_path, monkeypatch):
    """An app with a large file, on a file system that makes no copies of one without its room."""
    monkeypatch.setattr("fedsag_cli.workspace._LARGE", 4)
    monkeypatch.setattr("fedsag_cli.workspace._clone", lambda source, target: False)
    return app_of(tmp_path / "app", custom__net_pth="weights", custom__train_py="import sys", custom__few="1")


def copies_of(root, name, *sites):
    return [root / site / "simulate_job" / f"app_{site}" / "custom" / name for site in sites]


def test_the_places_of_a_run_share_one_read_only_copy_of_a_large_file_and_never_the_users_own(tmp_path, large):
    users = large / "custom" / "net_pth"
    users.chmod(0o664)
    sites = [SERVER, "site-1", "site-2"]

    run_in(tmp_path / "w", large, names=sites)

    copies = copies_of(tmp_path / "w", "net_pth", *sites)
    assert len({path.stat().st_ino for path in copies}) == 1
    assert copies[0].stat().st_nlink == 3
    assert copies[0].stat().st_mode & 0o777 == 0o444
    assert copies[0].read_text() == "weights"
    assert (users.stat().st_mode & 0o777, users.stat().st_nlink) == (0o664, 1)
    for name in ("train.py", "few"):
        alone = copies_of(tmp_path / "w", name, *sites)
        assert [path.stat().st_nlink for path in alone] == [1, 1, 1]
        assert all(path.stat().st_mode & 0o200 for path in alone)


def test_where_a_file_can_have_one_name_only_each_place_has_its_own_copy(tmp_path, large, monkeypatch):
    monkeypatch.setattr("fedsag_cli.workspace._link", lambda first, target: False)

    run_in(tmp_path / "w", large, names=["site-1", "site-2"])

    copies = copies_of(tmp_path / "w", "net_pth", "site-1", "site-2")
    assert [path.read_text() for path in copies] == ["weights", "weights"]
    assert [path.stat().st_nlink for path in copies] == [1, 1]
    assert all(path.stat().st_mode & 0o200 for path in copies)


def test_a_copy_that_takes_no_room_is_a_file_of_its_own_where_the_file_system_makes_one(tmp_path):
    source, target = tmp_path / "net.pth", tmp_path / "copy.pth"
    source.write_text("weights")

    made = _clone(source, target)

    assert target.exists() is made
    if made:
        target.write_text("others")
    assert source.read_text() == "weights"


def test_the_next_run_replaces_a_file_that_places_share_and_all_names_of_it_go(tmp_path, large):
    root, sites = tmp_path / "w", ["site-1", "site-2"]
    run_in(root, large, names=sites)
    app_of(large, custom__net_pth="better weights")

    run_in(root, large, names=sites)

    copies = copies_of(root, "net_pth", *sites)
    assert [path.read_text() for path in copies] == ["better weights", "better weights"]
    assert copies[0].samefile(copies[1])
    later = Workspace(root)
    later.take()
    later.clear()
    later.release()
    assert files_in(root) == []


def test_a_killed_run_leaves_shared_files_that_the_next_one_may_remove(tmp_path, large):
    killed = Workspace(tmp_path / "w")
    killed.take()
    killed.reopen()
    for site in ("site-1", "site-2"):
        killed.deploy(large, site)
    killed.release()

    later = Workspace(tmp_path / "w")
    later.take()
    later.clear()
    later.release()

    assert files_in(tmp_path / "w") == []


def test_a_shared_file_that_the_user_changed_afterwards_stays_in_every_place(tmp_path, large):
    root, sites = tmp_path / "w", ["site-1", "site-2"]
    run_in(root, large, names=sites)
    one, other = copies_of(root, "net_pth", *sites)
    one.chmod(0o644)
    one.write_text("of the user")

    with pytest.raises(WorkspaceError, match=r"net_pth has changed since fedsag made it"):
        run_in(root, large, names=sites)

    assert [one.read_text(), other.read_text()] == ["of the user", "of the user"]


def test_a_resumed_run_puts_a_lost_shared_file_back_and_leaves_the_other_places(tmp_path, large):
    root, sites = tmp_path / "w", ["site-1", "site-2", "site-3"]
    run_in(root, large, names=sites)
    copies = copies_of(root, "net_pth", *sites)
    copies[0].unlink()
    copies[2].unlink()

    resumed = Workspace(root)
    resumed.take()
    resumed.reopen()
    for site in sites:
        resumed.restore(large, site)

    assert [path.read_text() for path in copies] == ["weights", "weights", "weights"]
    assert copies[0].samefile(copies[2])
    assert not copies[0].samefile(copies[1])
    resumed.settle()
    resumed.clear()
    resumed.release()
    assert files_in(root) == []


def test_a_shared_file_that_a_script_changed_is_told_and_one_that_it_replaced_is_not(tmp_path, large):
    app_of(large, custom__data_csv="a,b,c", custom__kept_csv="a,b,c")
    here = Workspace(tmp_path / "w")
    here.take()
    here.reopen()
    for site in ("site-1", "site-2"):
        here.deploy(large, site)
    assert here.changes_for_all() == []
    changed, replaced = (here.app("site-1") / "custom" / name for name in ("net_pth", "data_csv"))
    changed.chmod(0o644)  # root needs no write permission
    changed.write_text("trained on")
    replaced.unlink()
    replaced.write_text("a,b,c,d")

    told = here.changes_for_all()

    here.settle()
    here.release()
    assert [text.partition(" was changed")[0] for text in told] == [str(changed)]
    assert "2 places share this file" in told[0]


def test_a_folder_that_the_system_refuses_is_a_workspace_that_cannot_be_used(tmp_path):
    with pytest.raises(WorkspaceError, match="cannot be used: File name too long"):
        Workspace(tmp_path / ("x" * 300)).take()


def test_a_path_that_leads_nowhere_is_a_workspace_error(tmp_path):
    (tmp_path / "circle").symlink_to("circle")

    with pytest.raises(WorkspaceError, match="circle"):
        Workspace(tmp_path / "circle").take()


def test_one_who_only_looks_whether_a_workspace_is_used_does_not_keep_a_run_from_it(tmp_path):
    with Workspace(tmp_path / "ws") as before:
        before.take()
    looking = (tmp_path / "ws" / ".fedsag" / "lock").open("rb")
    fcntl.flock(looking, fcntl.LOCK_SH)
    threading.Timer(0.03, looking.close).start()

    with Workspace(tmp_path / "ws") as workspace:
        workspace.take()

        assert workspace.is_in_use
