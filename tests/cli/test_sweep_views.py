"""What `fedsag sweep` prints: a line for each run, how far it is, the table at the end."""

import json
from pathlib import Path

from terminals import Terminal

from fedsag_cli.cli import sweep_views
from fedsag_cli.cli.display import Format
from fedsag_cli.history.reading import FAILED, FINISHED
from fedsag_cli.sweep import Progress, Swept
from fedsag_cli.sweep.one_run import Ended
from fedsag_cli.sweep.results import Measured, Result, summed_up


def result(number, lr, seed, value=None, **more):
    measured = {} if value is None else {"accuracy": Measured(lowest=0.0, highest=value, last=value)}
    known = {"status": FINISHED, "seconds": 1.25, "run": number, "metrics": measured}
    return Result(**{"name": f"{number:03d}", "chosen": [lr], "seed": seed, **known, **more})


BAD = result(3, "0.5", 1, status=FAILED, cause="site-1: it fell", seconds=0.1)
RESULTS = [result(1, "0.1", 1, 70.0), result(2, "0.1", 2, 74.0), BAD, result(4, "0.5", 2, 80.0)]


def swept(results=RESULTS, keys=("lr",)):
    return Swept(summed_up(results, job="j", keys=list(keys)), Path("/sweeps/j"), 0, ["a note"])


def shown(results=RESULTS, *, output=Format.TXT, quiet=False, ends=None):
    view = sweep_views.view(output, ["lr"], [1, 2], metric="", lowest=None, quiet=quiet)
    progress = Progress(len(results), jobs=1)
    for each in results:
        progress.ended(each, 1.0)
        view.ended(each, ends or Ended(0), progress)
        view.look(progress)
    view.close()
    view.end(swept(results))


def test_in_a_pipe_each_run_that_ends_has_a_line_and_a_failed_one_its_cause(capsys):
    shown()

    lines = capsys.readouterr().out.splitlines()
    assert lines[:5] == [
        "1/4  lr=0.1 seed=1  finished  accuracy 70  1.2 s  run 1",
        "2/4  lr=0.1 seed=2  finished  accuracy 74  1.2 s  run 2",
        "3/4  lr=0.5 seed=1  failed  0.1 s  run 3",
        "    site-1: it fell",
        "4/4  lr=0.5 seed=2  finished  accuracy 80  1.2 s  run 4",
    ]


def test_what_was_made_before_says_so_also_if_the_list_of_runs_does_not_have_it(capsys):
    shown([result(7, "0.1", 1, 70.0, is_earlier=True), result(0, "0.1", 2, 74.0, is_earlier=True)])

    assert [line.rpartition("  ")[2] for line in capsys.readouterr().out.splitlines()[:2]] == [
        "run 7, made before",
        "made before",
    ]


def test_at_the_end_the_best_variation_is_first_and_what_failed_is_counted(capsys):
    shown(quiet=True)

    told = capsys.readouterr()
    lines = [" ".join(line.split()) for line in told.out.splitlines()]
    at = lines.index("lr best accuracy last status seconds run")
    assert lines[at + 1 : at + 3] == [
        "0.5 80 80 1 failed, 1 finished 0.7 3, 4",
        "0.1 72 ± 2.8 72 ± 2.8 finished 1.2 1, 2",
    ]
    assert "page       /sweeps/j/report.html" in told.out
    assert "note: a note" in told.err
    assert not [line for line in lines if line.startswith("1/4")]  # it finished
    assert "3/4 lr=0.5 seed=1 failed 0.1 s run 3" in lines


def test_as_json_there_is_a_line_for_each_run_and_one_for_the_results(capsys):
    shown(output=Format.JSON)

    *ended, last = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [each["result"]["name"] for each in ended] == ["001", "002", "003", "004"]
    assert last["event"] == "SweepEnded"
    assert [row["chosen"] for row in last["report"]["rows"]] == [["0.5"], ["0.1"]]
    assert last["notes"] == ["a note"]


def test_the_traceback_of_a_bug_is_told_with_its_run(capsys):
    shown([BAD], ends=Ended(1, "a bug", bug="Traceback:\n  here"))

    assert capsys.readouterr().out.splitlines()[:2] == ["    | Traceback:", "    |   here"]


def test_failures_that_are_alike_are_told_once_with_the_names_of_their_runs():
    failed = [
        result(1, "0.1", 1, cause="round 3: site-2 fell"),
        result(2, "0.2", 1, cause="round 4: site-2 fell"),
        result(3, "0.3", 1, cause="no memory"),
    ]

    assert sweep_views.causes(failed) == ["    001, 002: round 3: site-2 fell", "    003: no memory"]
    many = [result(number, "x", 1, cause="why " + "abcdefgh"[number]) for number in range(8)]
    assert sweep_views.causes(many)[-1] == "    and 3 other causes"


def test_on_a_terminal_what_has_no_room_is_left_out_from_the_end(capsys, monkeypatch):
    monkeypatch.setattr(sweep_views.display, "on_terminal", lambda: True)
    monkeypatch.setattr(sweep_views.display, "width", lambda: 40)
    results = [
        Result(name=f"{n}", chosen=[f"{n}" * 30, f"--lr {n} --epochs 1"], seed=1, status=FINISHED, seconds=1.0, run=n)
        for n in (1, 2)
    ]

    sweep_views._show_table(summed_up(results, job="j", keys=["name", "app_config"]))

    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 40
    assert "--lr 1" in out
    assert "epochs" not in out  # both have this option
    assert "run" not in out.splitlines()[1]


def test_the_time_that_is_left_is_that_of_the_runs_so_far():
    progress = Progress(5, jobs=1)
    assert progress.left_s(now=0.0) is None

    progress.ended(RESULTS[0], 2.0)
    progress.ended(BAD, 0.1)  # it says nothing of the others
    progress.ended(RESULTS[1], 4.0)

    assert progress.left_s(now=0.0) == 6.0  # two runs of 3 s
    assert (progress.done, progress.failed) == (2, 1)


def test_on_a_terminal_one_line_below_the_others_says_how_far_the_sweep_is(monkeypatch):
    terminal = Terminal(columns=60, rows=12).use(monkeypatch)
    view = sweep_views.view(Format.TXT, ["lr"], [1, 2], metric="", lowest=None, quiet=False)
    progress = Progress(30, jobs=1)
    for each in RESULTS:
        progress.ended(each, 60.0)
        view.ended(each, Ended(0), progress)
        view.look(progress)

    shown = [line for line in terminal.shown if line]

    assert shown[0] == "1/30  lr=0.1 seed=1  finished  accuracy 70  1.2 s  run 1"
    assert shown[-1] == "3 of 30 runs done, 1 failed, 0 running, 26:00 left, best a…"
    assert not terminal.scrolled_out

    view.close()

    assert "done" not in "".join(terminal.shown)
