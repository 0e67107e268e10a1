"""A run is watched from its workspace, while it goes on or when it is over; and the logs of its clients."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from pathlib import Path

import msgspec
import pytest
from histories import history
from runs import FEDSAG, Running, eventually, fedsag, job

from fedsag_cli import events
from fedsag_cli.cli.display import Columns, Format
from fedsag_cli.cli.follow import Follow
from fedsag_cli.cli.views import NewestLines
from fedsag_cli.cli.watch import watch
from fedsag_cli.errors import RunError, UsageError, WorkspaceError
from fedsag_cli.events import Event, Failure
from fedsag_cli.history.recorder import Recorder
from fedsag_cli.simulator.logs import LogTail
from fedsag_cli.workspace import Workspace

LAST_ROUND = "2      21.5 (20–23)      4 of 4    "


@pytest.fixture
def workspace(tmp_path):
    """The workspace of a run that goes on."""
    with Workspace(tmp_path / "w") as found:
        found.take()
        yield found


def told(workspace: Workspace, *more: Event) -> list[Event]:
    """A run of four clients and three rounds, in this workspace."""
    first, *others = history(4, slots=2, rounds=3)
    return [msgspec.structs.replace(first, workspace=str(workspace.root)), *others[:-1], *(more or others[-1:])]


def write(workspace: Workspace, *said: Event) -> None:
    with workspace.events.open("ab") as file:
        file.write(b"".join(map(events.to_line, said)))


def test_a_run_that_is_over_shows_its_table_at_once(workspace, capsys):
    write(workspace, *told(workspace))
    workspace.release()

    watch(str(workspace.root))

    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"the run in {workspace.root}, job j, finished, began ")
    assert lines[2].startswith("round  accuracy (sites)")
    assert any(line.startswith(LAST_ROUND) for line in lines)
    assert not any("answered train" in line for line in lines)


def test_a_run_that_goes_on_is_shown_from_its_beginning_and_to_its_end(workspace, capsys):
    said = told(workspace)
    write(workspace, *said[:20])

    def go_on():
        for event in said[20:]:
            line = events.to_line(event)
            with workspace.events.open("ab", buffering=0) as file:  # a reader may see half a line
                file.write(line[:20])
                file.write(line[20:])

    later = threading.Timer(0.3, go_on)
    later.start()
    watch(str(workspace.root))
    later.join()

    lines = capsys.readouterr().out.splitlines()
    assert "job j, running, 0 of 3 rounds done, began " in lines[0]
    assert lines[1].startswith("job j: 4 clients")
    assert sum("answered train" in line for line in lines) == 12
    assert any(line.startswith(LAST_ROUND) for line in lines)


def test_a_run_that_has_just_begun_is_waited_for_and_not_taken_for_one_whose_files_are_gone(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("FEDSAG_HOME", str(tmp_path / "home"))
    with Workspace(tmp_path / "w") as begun:
        begun.take()
        Recorder(tmp_path / "job", begun).begin(resumed=False, moves=False)

        def start(_):
            if not begun.events.exists():
                write(begun, *told(begun))
                begun.release()

        monkeypatch.setattr("fedsag_cli.cli.watch.time.sleep", start)
        watch("last")

    assert LAST_ROUND in capsys.readouterr().out


def test_the_error_of_a_failed_run_is_the_error_of_who_watches_it(workspace, capsys):
    failure = Failure(cause="boom", where="/job/train.py:3")
    failed = events.ReplyFailed(site="site-3", workflow="w", task="train", round_num=2, failure=failure)
    over = events.RunFinished(ok=False, exit_code=4, cause="too few", hint="look", report="/w/report.json")
    write(workspace, *told(workspace, failed, over))
    workspace.release()

    with pytest.raises(RunError) as raised:
        watch(str(workspace.root))

    assert (raised.value.message, raised.value.hint, raised.value.exit_code) == ("too few", "look", 4)
    assert raised.value.details == ["site-3, round 2, train: boom", "    at /job/train.py:3"]
    assert LAST_ROUND in capsys.readouterr().out


def test_a_run_that_was_killed_is_told_though_it_could_not_tell_it(workspace, capsys):
    over = events.RunFinished(ok=False, exit_code=130, cause="interrupted", report="/w/report.json")
    earlier = told(workspace, over)
    write(workspace, *earlier, earlier[0])  # it was interrupted, and killed when it had been resumed
    workspace.release()

    with pytest.raises(RunError, match="was killed") as raised:
        watch(str(workspace.root))

    assert raised.value.hint == (f"3 rounds done. Continue it: fedsag simulator JOB -w {workspace.root} --resume")
    assert raised.value.exit_code == 4


def test_the_run_that_is_just_starting_is_shown_and_not_the_one_before(workspace, capsys):
    write(workspace, *told(workspace))

    def start():
        workspace.events.unlink()
        write(workspace, *told(workspace, events.RunFinished(ok=False, exit_code=4, cause="the next run")))
        workspace.release()

    later = threading.Timer(0.3, start)
    later.start()
    with pytest.raises(RunError, match="the next run"):
        watch(str(workspace.root))
    later.join()


def test_lines_that_fedsag_did_not_write_are_passed_over(workspace, capsys):
    first, *others = told(workspace)
    write(workspace, first)
    with workspace.events.open("ab") as file:
        file.write(b'{"event":"Unknown"}\n\xff\xfe\n')
    write(workspace, *others)
    workspace.release()

    watch(str(workspace.root))

    assert LAST_ROUND in capsys.readouterr().out


def test_a_folder_without_a_run_and_a_client_without_a_name_are_errors(workspace, tmp_path):
    with pytest.raises(WorkspaceError, match="there is no run in"):
        watch(str(tmp_path / "nothing"))
    with pytest.raises(UsageError, match="exclude each other"):
        watch(str(workspace.root), None, Columns.BRIEF, quiet=True, output=Format.JSON)
    write(workspace, *told(workspace)[:3])
    with pytest.raises(UsageError, match="--follow site-9") as raised:
        watch(str(workspace.root), ["site-9"])
    assert raised.value.hint == "known: server, site-1, site-2, site-3, site-4"


def test_a_run_whose_events_are_lost_is_not_taken_for_one_that_was_killed(workspace):
    workspace.release()
    for content in [b"", b"\xff no event\n"]:
        workspace.events.write_bytes(content)
        with pytest.raises(WorkspaceError, match="has no events of a run"):
            watch(str(workspace.root))


def test_a_client_without_a_name_is_an_error_in_a_run_that_is_over_too(workspace):
    write(workspace, *told(workspace))
    workspace.release()

    with pytest.raises(UsageError, match="--follow site-9"):
        watch(str(workspace.root), ["site-9"])


def test_a_log_is_followed_line_by_line_from_the_start_of_the_run(workspace):
    log = workspace.log("site-1")
    log.parent.mkdir()
    log.write_text("of an earlier run\n")
    said: list[str] = []
    follow = Follow(["site-1"], said.append)

    with follow:
        follow.on(told(workspace)[0])
        with log.open("a") as file:
            file.write("one\n10%\r90%\ntw")
            file.flush()
            eventually(lambda: len(said) == 2)
            file.write("o\n\x1b[31mthree\x1b[0m, not complete")

    assert said == ["site-1 | one", "site-1 | 90%", "site-1 | two", "site-1 | three, not complete"]


def test_a_line_without_an_end_is_not_kept_whole_while_a_log_is_followed(workspace):
    log = workspace.log("site-1")
    log.parent.mkdir()
    followed = LogTail(log)
    log.write_bytes(b"x" * 1_000_000)

    assert list(followed.lines(to_the_end=False)) == []
    assert len(followed._rest) < 100_000

    with log.open("ab") as file:
        file.write(b"end\n" + b"10%\r" * 100_000 + b"100%\n")
    assert list(followed.lines(to_the_end=False)) == ["x" * 500 + " …", "100%"]


def test_the_newest_line_of_a_log_is_its_last_one_with_words(workspace):
    newest = NewestLines(workspace)
    assert newest.of("site-1") == ""

    workspace.log("site-1").parent.mkdir()
    workspace.log("site-1").write_text("one\ntwo\n\n \n")
    assert newest.of("site-1") == "two"


WAITS = """
    import pathlib, time
    import fedsag_cli.client as flare

    flare.init()
    while flare.is_running():
        model = flare.receive()
        print("round", model.current_round, flush=True)
        while model.current_round == 1 and not pathlib.Path("GO").exists():
            time.sleep(0.02)
        flare.send(flare.FLModel(params={k: v + 1 for k, v in model.params.items()}, metrics={"mean": 0.5}))
"""


@pytest.mark.slow
def test_who_watches_a_run_ends_with_it_and_who_stops_watching_does_not_end_it(tmp_path):
    go = tmp_path / "go"
    folder = job(tmp_path / "j", WAITS.replace("GO", str(go)), num_rounds=3)

    with Running(folder, "-n", 2, "-t", 2, "--follow", "site-2") as running:
        running.wait_until_told("RoundStarted", 2)
        words = [FEDSAG, "watch", str(running.workspace)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        env = {name: value for name, value in os.environ.items() if name != "FEDSAG_HOME"} | {"HOME": str(tmp_path)}
        stays, leaves = (subprocess.Popen(words, env=env, **pipes) for _ in range(2))
        assert leaves.stdout.readline().startswith(b"run 1, job j, running, ")
        leaves.send_signal(signal.SIGINT)
        _, last_words = leaves.communicate(timeout=60)
        go.touch()
        outcome = running.outcome()
        seen, _ = stays.communicate(timeout=60)

    assert (leaves.returncode, last_words) == (130, b"note: the run goes on: the same command watches it again\n")
    assert outcome.code == stays.returncode == 0, outcome
    assert [line for line in outcome.out.splitlines() if " | " in line] == [f"site-2 | round {n}" for n in range(3)]
    assert seen.decode().splitlines()[-12:] == outcome.out.splitlines()[-12:]


@pytest.mark.slow
def test_a_quiet_run_prints_notes_and_its_table_alone_and_a_wrong_site_is_refused_before_it(tmp_path):
    folder = job(tmp_path / "j", num_rounds=2)

    refused = fedsag("simulator", folder, "-w", tmp_path / "w", "-n", 2, "-t", 2, "--follow", "site-9", cwd=tmp_path)
    quiet = fedsag("simulator", folder, "-w", tmp_path / "w", "-n", 2, "-t", 2, "-q", cwd=tmp_path)

    assert (refused.code, refused.err.splitlines()[0]) == (2, "error: --follow site-9: there is no such client")
    assert not Path(tmp_path / "w" / "plan.json").exists() or quiet.code == 0
    words = [line.split()[0] if line else "" for line in quiet.out.splitlines()]
    assert words == ["", "round", "0", "1", "best:", "", "page", "run", "report"]
