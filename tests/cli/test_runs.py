"""`fedsag runs …`: what a user sees of the runs that were made, as text and as JSON."""

import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing

import msgspec
import pytest
from finished_runs import history, write_run
from runs import fedsag, job, run
from typer.main import get_command

from fedsag_cli import cli, events
from fedsag_cli.cli import commands, display, position, runs
from fedsag_cli.history import asking, database
from fedsag_cli.history.importing import take_in
from fedsag_cli.history.reading import identity_of
from fedsag_cli.workspace import Workspace

SCRIPT = """
    import sys
    import numpy as np
    import fedsag_cli.client as flare

    flare.init()
    lr = float(sys.argv[1]) if flare.get_site_name() == "site-2" else 1.0
    while flare.is_running():
        model = flare.receive()
        params = {k: v + lr * np.random.rand(*v.shape).astype(v.dtype) for k, v in model.params.items()}
        flare.send(flare.FLModel(params=params, metrics={"mean": 0.5}))
"""


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDSAG_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


@pytest.fixture
def call(monkeypatch, capsys):
    """`fedsag runs …`: its output; `code` is its exit code."""

    def called(*words, code=0, shown=False):
        monkeypatch.setattr(sys, "argv", ["fedsag", "runs", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        assert ended.value.code == code, err
        return out + err if shown else out if code == 0 else err

    return called


def made(*told_of, first=1):
    """Workspaces in this folder, each of which has a row; `told_of`: the arguments of `history`."""
    for number, settings in enumerate(told_of, first):
        name = f"ws{number}"
        root = os.path.realpath(name)
        write_run(database.Path(root), history(database.Path(root), at=float(number), **settings))
        with closing(database.open_to_write(1.0)) as opened, database.writing(opened):
            take_in(opened, database.Path(root))


def test_the_newest_run_comes_first_with_the_settings_that_differ_and_a_curve(call):
    made({"accuracy": (0.1, 0.5, 0.4)}, {"accuracy": (0.1, 0.9), "config_fed_client.conf lr": 0.2})

    out = call("list")

    assert [line.split() for line in out.splitlines()] == [
        ["run", "age", "lr", "status", "best", "accuracy", "last", "curve"],
        ["2", "1970-01-01", "0.2", "finished", "0.9", "0.9", "▁█"],
        ["1", "1970-01-01", "0.1", "finished", "0.5", "0.4", "▁█▆"],
    ]
    assert call() == out


def test_a_list_says_how_many_older_runs_there_are_and_fits_a_terminal(call, monkeypatch):
    monkeypatch.setattr(display, "on_terminal", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    wide = {f"config_fed_client.conf a_long_name_of_a_setting_{n}": "x" * 200 for n in range(9)}
    made({}, {}, wide | {"accuracy": (1e-300, -123456.789)})

    out = call("list", "-n", 2)

    assert max(map(len, out.splitlines()[:3])) <= 80  # the table
    assert "1 older run: fedsag runs list -n 3" in out
    assert "more settings: see fedsag runs compare" in out


def test_the_list_has_the_options_that_differ_first_and_in_a_pipe_all_that_users_gave(call, monkeypatch):
    line = "config_fed_client.conf app_config"
    common = "--batch_size 4096 --momentum 0.9 --data /somewhere"
    given = {f"config_fed_client.conf by_hand_{n}": n for n in range(9)}
    made({line: f"{common} --lr 0.1"}, {line: f"{common} --lr 0.25"} | given, {line: f"{common} --lr 0.5"})

    out = call("list")
    monkeypatch.setattr(display, "on_terminal", lambda: True)
    shown = call("list")

    assert [row.split()[2:4] for row in out.splitlines()[1:]] == [["--lr", "0.5"], ["--lr", "0.25"], ["--lr", "0.1"]]
    assert all(f"by_hand_{n}" in out for n in range(9))
    assert "--lr 0.25" in shown
    assert re.search(r"the runs differ also in .*by_hand_\d, .* and \d more settings?: see fedsag runs compare", shown)


def test_the_list_as_json_has_the_best_and_the_last_value_of_each_metric(call):
    made({"accuracy": (0.1, 0.5, 0.4)})

    [listed] = json.loads(call("list", "--format", "json"))

    assert listed["metrics"] == {"accuracy": {"best": 0.5, "best_round": 1, "last": 0.4}}
    assert (listed["run"], listed["status"], listed["job"], listed["seed"]) == (1, "finished", "fruit", 7)


def test_rounds_in_which_nothing_was_measured_are_counted_in_the_list(call, tmp_path):
    told = [
        msgspec.structs.replace(event, metrics={}) if isinstance(event, events.RoundFinished) else event
        for event in history(tmp_path / "ws1", ends=False)
    ]
    write_run(tmp_path / "ws1", told)
    call("import", "ws1")

    assert re.search(r"status +rounds .*\n.* stopped +2/2 ", call("list"))


def test_a_run_is_shown_with_its_settings_rounds_and_files(call, tmp_path):
    made({"config_fed_client.conf lr": 0.2})

    out = call("show", 1)

    assert "run        1, finished after 10.0 s" in out
    assert "changed    config_fed_client.conf lr = 0.2; the template does not have it" in out
    assert "metric     accuracy: best 0.75 (round 1), last 0.75" in out
    assert f"report     {tmp_path}/ws1/report.json" in out
    assert json.loads(call("show", "ws1", "--format", "json"))["report"]["digest"] == "d1"


def test_sites_that_failed_for_one_reason_are_shown_in_one_line_in_the_order_of_their_numbers(call):
    sites = [f"site-{number}" for number in (10, 2, 1)]
    failed = [
        events.ReplyFailed(
            site=site, workflow="w", task="train", round_num=1, failure=events.Failure(cause=f"{site} has no data")
        )
        for site in sites
    ]
    root = database.Path(os.path.realpath("ws1"))
    told = history(root)
    write_run(root, [msgspec.structs.replace(told[0], sites=sites), *told[1:5], *failed, *told[5:]])

    out = call("show", "ws1")

    [line] = [line for line in out.splitlines() if "has no data" in line]
    assert line.startswith("3 of 3 clients failed")
    assert "site-1, site-2, site-10" in line


def test_of_a_run_whose_folder_is_gone_the_database_shows_what_it_has(call, tmp_path):
    made({})
    (tmp_path / "ws1").rename(tmp_path / "elsewhere")

    out = call("show")

    assert "1      0.75" in out
    assert f"files      gone: {tmp_path}/ws1 has no run, or another one" in out
    assert "the files of run 1 are gone" in call("logs", 1, "site-1", code=2)


def test_a_comparison_has_the_settings_that_differ_and_curves_on_one_scale(call):
    made({"accuracy": (0.0, 0.5)}, {"accuracy": (0.5, 1.0), "config_fed_client.conf lr": 0.2})

    out = call("compare", 1, "last")

    title, *rows = [line for line in out.splitlines() if line]
    assert title == "accuracy: the highest is 1, of run 2; the curves have one scale, from 0 to 1"
    assert [row.split() for row in rows] == [
        ["run", "lr", "best", "last", "rounds", "curve"],
        ["1", "0.1", "0.5", "in", "round", "1", "0.5", "2", "▁▅"],
        ["2", "0.2", "1", "in", "round", "1", "1", "2", "▅█"],
    ]
    as_json = json.loads(call("compare", 1, 2, "--format", "json"))
    assert as_json["settings"] == {"config_fed_client.conf lr": [0.1, 0.2]}
    assert as_json["curves"] == {"accuracy": [[0.0, 0.5], [0.5, 1.0]]}
    assert "compare needs at least two runs" in call("compare", 1, code=2)


def test_curves_that_would_be_flat_on_one_scale_have_their_own_and_settings_without_room_follow(call):
    others = {f"config_fed_client.conf a{n}": 1 for n in range(20)}
    made({"accuracy": (0.0, 1.0)}, {"accuracy": (0.0, 100.0)} | others)
    unchanged = database.Path("ws2") / "report.json"
    told = json.loads(unchanged.read_text())
    unchanged.write_text(json.dumps(told | {"changed": {}}))

    out = call("compare", 1, 2)

    assert "accuracy: the highest is 100, of run 2; each curve has a scale of its own" in out
    assert out.count("▁█") == 2
    assert "setting  run 1  run 2\n" in out
    assert re.search(r"^a19 +- +1$", out, re.M)


def test_a_comparison_can_be_a_page_too(call, tmp_path):
    made({"accuracy": (0.0, 0.5)}, {"accuracy": (0.5, 1.0)})

    out = call("compare", 1, 2, "--html", "compared.html")

    assert out.endswith(f"page       {tmp_path}/compared.html\n")
    assert "run 2" in (tmp_path / "compared.html").read_text()
    assert "--html nowhere/x.html cannot be written" in call("compare", 1, 2, "--html", "nowhere/x.html", code=2)


def test_runs_with_different_seeds_are_said_to_differ_by_them(call):
    made({}, {"seed": 8})

    assert "the seeds differ: with the same --seed, only the settings" in call("diff", 1, 2)


def test_the_tab_key_offers_runs_and_the_sites_of_the_run(call, tmp_path):
    made({}, {})
    (tmp_path / "ws2" / "site-1").mkdir()
    (tmp_path / "ws2" / "site-1" / "log.txt").write_text("")

    def offered(*words):
        return [word for word, _ in position.offers(get_command(commands.app), ["runs", *words])[1]]

    assert offered("show", "") == ["2", "1", "last", "ws1", "ws2"]
    assert offered("logs", "2", "") == ["site-1"]
    assert offered("best", "--metric", "") == ["accuracy"]
    assert offered("list", "--job", "") == ["fruit"]


def test_the_best_run_has_the_highest_value_or_with_min_the_lowest(call):
    made({"accuracy": (0.1, 0.9)}, {"accuracy": (0.95, 0.2)}, {"accuracy": (0.05, 0.3)})

    assert call("best", "--metric", "accuracy").startswith(
        "run 2 has the highest accuracy of 3 runs: 0.95, the model sent in round 0"
    )
    assert call("best", "--min").startswith("run 3 has the lowest accuracy of 3 runs: 0.05")
    assert call("best", 1, 3).startswith("run 1 has the highest accuracy of 2 runs: 0.9")
    lowest = json.loads(call("best", "--metric", "accuracy", "--min", "--format", "json"))
    assert (lowest["run"], lowest["value"], lowest["round"]) == (3, 0.05, 0)
    assert "did you mean 'accuracy'?" in call("best", "--metric", "acuracy", code=2)


def test_runs_of_one_job_are_listed_and_ranked_alone(call, monkeypatch, capsys):
    made({"accuracy": (0.9,)}, {"accuracy": (0.2,), "job": "vegetables"}, {"accuracy": (0.1,), "job": "vegetables"})

    assert [line.split()[0] for line in call("list", "--job", "vegetables").splitlines()] == ["run", "3", "2"]
    assert "1 older run: fedsag runs list -n 2 --job vegetables" in call("list", "--job", "vegetables", "-n", 1)
    assert call("best", "--job", "vegetables").startswith("run 2 has the highest accuracy of 2 runs: 0.2")
    assert "did you mean 'vegetables'?" in call("best", "--job", "vegetable", code=2)
    monkeypatch.setattr(sys, "argv", ["fedsag", "runs", "best"])
    with pytest.raises(SystemExit):
        cli.main()
    assert "these are runs of 2 jobs: fruit, vegetables; --job NAME looks at those of one" in capsys.readouterr().err


def test_a_log_is_printed_line_by_line_without_what_a_terminal_would_act_on(call, tmp_path):
    made({})
    (tmp_path / "ws1" / "site-1").mkdir()
    (tmp_path / "ws1" / "site-1" / "log.txt").write_text("10%\r20%\n\x1b[31mred\x1b[0m \x1b]0;title\x07\nlast")

    assert call("logs", "last", "site-1") == "20%\nred \\x1b]0;title\\x07\nlast\n"
    assert json.loads(call("logs", 1, "site-1", "--format", "json"))["lines"] == ["20%", "red \x1b]0;title\x07", "last"]
    assert "did you mean 'site-1'?" in call("logs", 1, "site1", code=2)
    assert "known: server, site-1, site-2" in call("logs", 1, "site-9", code=2)
    assert "has no log" in call("logs", 1, "server", code=2)
    worker = tmp_path / "ws1" / "worker" / "log_1.txt"
    worker.parent.mkdir()
    worker.write_text("of a worker\n")
    assert call("logs", 1, "worker:1") == "of a worker\n"


def test_a_log_is_followed_until_its_own_run_ends(call, tmp_path, monkeypatch):
    made({})
    here = Workspace(tmp_path / "ws1")
    (here.root / "site-1").mkdir()
    here.log("site-1").write_text("first\nhal")
    here.take()

    def last_is_another_run():
        made({}, first=2)

    def ends():
        with here.log("site-1").open("a") as log:
            log.write("f\nlast")
        here.release()

    while_it_waits = iter([last_is_another_run, ends])
    monkeypatch.setattr(time, "sleep", lambda _: next(while_it_waits)())

    assert call("logs", "last", "site-1", "-f") == "first\nhalf\nlast\n"


def test_the_page_of_a_run_is_printed_where_there_is_no_display(call, tmp_path, monkeypatch):
    made({})
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)

    assert "run 1 has no page" in call("open", code=2)
    (tmp_path / "ws1" / "report.html").write_text("<p>")
    assert call("open", "last") == f"{tmp_path}/ws1/report.html\n"


def test_a_query_reads_the_tables_and_changes_nothing(call, home):
    made({"accuracy": (0.1, 0.5)}, {})

    assert call("query", "SELECT number, job FROM runs ORDER BY 1") == "number  job\n1       fruit\n2       fruit\n"
    asked = "SELECT round, value, value FROM metrics WHERE run = 1"
    assert json.loads(call("query", asked, "--format", "json"))[1] == {"round": 1, "value": 0.5, "value (2)": 0.5}
    before = (home / "runs.db").read_bytes()
    for sql in (
        "DELETE FROM runs",
        "DROP TABLE runs",
        f"ATTACH '{home}/new.db' AS x",
        "PRAGMA user_version = 3",
        "VACUUM",
    ):
        call("query", sql, code=2)
    assert (home / "runs.db").read_bytes() == before
    assert not (home / "new.db").exists()
    refused = call("query", "SELECT nix FROM runs", code=2)
    assert "no such column" in refused
    assert "metrics (run, step, workflow, round, name, value)" in " ".join(refused.split())
    assert "one statement" in call("query", "SELECT 1; SELECT 2", code=2)
    assert "only SELECT" in call("query", f"VACUUM INTO '{home}/new.db'", code=2)
    assert "no SELECT" in call("query", " ", code=2)


def test_an_answer_without_an_end_is_an_error_and_a_number_that_json_does_not_have_is_null(call, monkeypatch):
    made({})
    monkeypatch.setattr(asking, "_MOST_ROWS", 10)
    without_end = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT x FROM c"

    assert "more than 10 rows" in call("query", without_end, code=2)
    assert json.loads(call("query", "SELECT 9e999 AS x", "--format", "json"), parse_constant=pytest.fail) == [
        {"x": None}
    ]


def test_ctrl_c_ends_a_query(call, monkeypatch):
    made({})
    monkeypatch.setattr(asking, "_OFTEN", 1)
    monkeypatch.setattr(asking, "_go_on", lambda: signal.raise_signal(signal.SIGINT))

    call("query", "SELECT count(*) FROM runs", code=130)


def test_a_log_is_followed_to_the_end_of_its_own_run_also_if_it_is_emptied(tmp_path, monkeypatch):
    log = tmp_path / "log.txt"
    log.write_text("a long first line\n")
    steps = iter([lambda: True, lambda: log.write_text("new\n"), lambda: log.write_text("new\nlast")])
    monkeypatch.setattr("time.sleep", lambda _: None)

    assert list(runs._lines_of(log, lambda: next(steps, bool)())) == ["a long first line", "new", "last"]


def test_a_reader_that_goes_ends_a_log_that_is_followed(home, tmp_path):
    made({"ends": False})
    (tmp_path / "ws1" / "site-1").mkdir()
    log = tmp_path / "ws1" / "site-1" / "log.txt"
    log.write_text("first\n")
    with Workspace(tmp_path / "ws1") as workspace:
        workspace.take()
        command = [sys.executable, "-m", "fedsag_cli", "runs", "logs", "ws1", "site-1", "-f"]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as following:
            assert following.stdout.readline() == b"first\n"
            following.stdout.close()
            log.write_text("first\nsecond\n")

            assert following.wait(timeout=60) == 0


def test_a_run_is_removed_from_the_list_and_its_files_only_if_that_is_said(call, tmp_path):
    made({}, {"accuracy": (0.5,)})
    (tmp_path / "ws2" / "notes.txt").write_text("mine")

    assert call("rm", 1) == f"run 1 is removed; its files stay in {tmp_path}/ws1\n"
    said = call("rm", 2, "--files")

    assert said.endswith(f"are removed, but 1 file that fedsag did not make (notes.txt) stays in {tmp_path}/ws2\n")
    assert (tmp_path / "ws1" / "report.json").exists()
    assert [path.name for path in (tmp_path / "ws2").iterdir()] == ["notes.txt"]
    assert json.loads(call("list", "--format", "json")) == []
    assert call("import", "ws1") == "run 3: ws1, job fruit, finished\n"


def test_folders_without_a_run_are_named_and_the_others_are_taken_in(call, tmp_path):
    write_run(tmp_path / "old", history(tmp_path / "old", ends=False))
    (tmp_path / "empty").mkdir()

    err = call("import", "empty", "old", "nowhere", code=2)

    assert "2 of 3 folders cannot be imported" in err
    assert "there is no run in empty" in err
    assert f"there is no run in {tmp_path}; below it are {tmp_path}/old" in call("import", tmp_path, code=2)
    assert call("import", "old") == "run 1: old, job fruit, stopped, was in the list already\n"
    assert call("list").split()[-1] == "▁█"
    assert re.search(r"status +rounds .*\n.* stopped +2/2 ", call("list"))
    assert "run        1, stopped after 2 of 2 rounds\n" in call("show", 1)


def test_a_folder_that_the_database_cannot_keep_and_a_run_that_goes_on_do_not_hide_what_was_done(call, tmp_path):
    for name, at in (("a", 1.0), ("b", 2.0), ("c", 3.0)):
        write_run(tmp_path / name, history(tmp_path / name, at=at))
    report = tmp_path / "b" / "report.json"
    report.write_text(report.read_text().replace('"seed": 7', f'"seed": {10**30}'))
    said = call("import", "a", "b", "c", code=2, shown=True)
    assert "run 1: a" in said
    assert "run 2: c" in said
    assert "cannot have this" in said

    with Workspace(tmp_path / "c") as workspace:
        workspace.take()
        said = call("rm", 2, 1, "--files", code=2, shown=True)

    assert "run 1 is removed" in said
    assert "used by another run" in said


def test_a_copy_whose_files_are_removed_leaves_the_run_in_the_list(call, tmp_path):
    made({})
    shutil.copytree("ws1", "copy")

    assert f"run 1 stays in the list: it is in {tmp_path}/ws1" in call("rm", "copy", "--files")
    assert not (tmp_path / "copy").exists()
    assert "fruit" in call("show", 1)


def test_a_database_that_is_broken_is_an_error_that_says_what_to_do(call, home, tmp_path):
    write_run(tmp_path / "ws1", history(tmp_path / "ws1"))
    home.mkdir()
    (home / "runs.db").write_text("x" * 5000)

    assert "file is not a database" in call("list", code=2)
    assert "`fedsag runs import WS` fills it again" in call("list", code=2)
    assert "finished" in call("show", "ws1")


def test_rows_that_another_program_wrote_wrongly_do_not_stop_the_list(call, home):
    made({})
    with closing(sqlite3.connect(home / "runs.db")) as opened, opened:
        opened.execute("UPDATE settings SET value = 'not json'")
        opened.execute("UPDATE runs SET process = 'odd', status = 'running', workspace = ''")

    assert "stopped" in call("list")


def test_the_command_starts_without_torch_and_numpy_and_draws_without_rich():
    program = (
        "import sys; sys.argv = ['fedsag', 'runs', 'list']\n"
        "from fedsag_cli import cli\n"
        "try: cli.main()\n"
        "except SystemExit: print(sorted({'torch', 'numpy', 'rich.console', 'pyhocon', 'jinja2'} & set(sys.modules)))"
    )
    made({})

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.slow
def test_real_runs_with_the_same_seed_are_identical_and_another_rate_parts_at_the_site_that_uses_it(tmp_path):
    env = {"FEDSAG_HOME": str(tmp_path / "home")}
    for name, args in (("a", "0.1"), ("b", "0.1"), ("c", "0.2")):
        made_job = job(tmp_path / f"job_{name}" / "job", SCRIPT, args=args)
        ran = run(made_job, "-n", 2, "-t", 2, "--seed", 3, workspace=tmp_path / name, env=env)
        assert ran.code == 0, ran
        assert f"run        {'abc'.index(name) + 1}: fedsag runs show" in ran.out

    same = fedsag("runs", "diff", 1, 2, cwd=tmp_path, env=env)
    other = fedsag("runs", "diff", 1, "last", cwd=tmp_path, env=env)

    assert "identical, bit for bit: 6 models in 2 rounds" in same.out
    assert "first difference: round 0, the answer of site-2 (train), tensor numpy_key" in other.out
    assert "custom/train.py 0.2" in other.out
    assert "seeds" not in other.out


def test_a_fork_is_told_with_the_run_and_the_round_that_it_was_made_after(call, tmp_path):
    made({})
    parent = identity_of(tmp_path / "ws1")
    for name, number in ((parent, 2), ("of another machine", 3)):
        told = history(tmp_path / f"ws{number}", at=float(number))
        told[0] = msgspec.structs.replace(told[0], parent=name, parent_round=1)
        write_run(tmp_path / f"ws{number}", told)
        call("import", f"ws{number}")

    assert [line.split()[:6] for line in call("list").splitlines()[1:]] == [
        ["3", "1970-01-01", "?", "after", "1", "finished"],
        ["2", "1970-01-01", "1", "after", "1", "finished"],
        ["1", "1970-01-01", "-", "finished", "0.75", "0.75"],
    ]
    assert "fork of    run 1 after round 1\n" in call("show", 2)
    assert "fork of    a run that is not in the list after round 1\n" in call("show", 3)
    assert "fork of" not in call("show", 1)
    found = json.loads(call("list", "--format", "json"))
    assert [(each["parent"], each["parent_round"]) for each in found] == [
        ("of another machine", 1),
        (parent, 1),
        ("", None),
    ]


@pytest.mark.parametrize("count", ["0", "-1", "many", ""])
def test_a_number_of_checkpoints_to_keep_that_is_none_is_refused(count, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["fedsag", "simulator", "nowhere", "--keep-checkpoints", count])
    with pytest.raises(SystemExit) as ended:
        cli.main()

    assert ended.value.code == 2
    assert f"--keep-checkpoints {count}: it must be a number from 1 on, or all" in capsys.readouterr().err
