"""The section about a run for the summary of a CI job, read as GitHub reads it."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from reports import EVIL, a_round

from fedsag_cli import foreign
from fedsag_cli.cli.markdown import append, check_writable, section
from fedsag_cli.errors import Interrupted, RunError, UsageError
from fedsag_cli.events import Failure
from fedsag_cli.report import BaselineReport, BestReport, Report, SiteFailure

READ = MarkdownIt("commonmark").enable(["table", "strikethrough"])


def report(*rounds, **other):
    ran = Report(job="fruit", workspace="/w", ok=True, exit_code=0, sites=["site-1", "site-2"], seed=7, digest="d1")
    ran.rounds = list(rounds)
    for name, value in other.items():
        setattr(ran, name, value)
    return ran


def failed(**failures):
    """A run whose clients failed in round 1."""
    return report(
        ok=False,
        exit_code=4,
        failures={
            name.replace("_", "-"): SiteFailure(round_num=1, task="train", failure=each)
            for name, each in failures.items()
        },
    )


def text_of(token):
    """The text of a line as it is shown. There must be no tag in it."""
    assert {each.type for each in token.children} <= {
        "text",
        "code_inline",
        "strong_open",
        "strong_close",
        "text_special",
    }
    return "".join(each.content for each in token.children)


def shown(markdown):
    """By kind of block, the texts of what a reader sees; the table as its rows."""
    found = {"heading": [], "paragraph": [], "item": [], "block": [], "rows": []}
    within = []
    for token in READ.parse(markdown):
        assert token.type != "html_block", token.content
        if token.type == "tr_open":
            found["rows"].append([])
        if token.nesting:
            within = [*within, token.type] if token.nesting > 0 else within[:-1]
        elif token.type == "fence":
            found["block"].append(token.content.splitlines())
        elif token.type == "inline" and within[-1] in ("th_open", "td_open"):
            found["rows"][-1].append(text_of(token))
        elif token.type == "inline":
            kind = "item" if "list_item_open" in within else within[-1].removesuffix("_open")
            found[kind].append(text_of(token))
    return found


def test_a_run_that_is_done_has_its_rounds_its_best_model_and_its_facts():
    rounds = [
        a_round(0, {"site-1": {"accuracy": 0.25}, "site-2": {"accuracy": 0.75}}),
        a_round(1, {"site-1": {"accuracy": 0.5}}),
    ]
    best = BestReport(workflow="sag", round_num=1, metric="accuracy", score=0.5)

    seen = shown(section(report(*rounds, best=best, times={"run_finished_s": 2.0}, overrides=["lr=0.1", "x=`a`"])))

    assert seen["heading"] == ["fedsag: fruit finished"]
    assert seen["rows"] == [
        ["round", "accuracy (sites)", "answered", "seconds"],
        ["0", "0.5 (0.25–0.75)", "2 of 2", "0.00"],
        ["1", "0.5", "1 of 1", "0.00"],
        ["best: 1", "0.5", "1 of 1", "-"],
    ]
    assert seen["item"] == [
        "2 clients",
        "2 complete rounds",
        "set lr=0.1 x=`a`",
        "seed 7",
        "2.0 s",
        "digest d1",
        "workspace /w",
    ]
    assert seen["paragraph"] == seen["block"] == []


def test_a_run_that_failed_has_the_error_and_each_kind_of_failure_once_with_its_log():
    crash = Failure(cause="ValueError: no", where="/job/train.py:7", log="/w/site-1/log.txt", log_tail=["one", "two"])
    also = Failure(cause="ValueError: no", where="/job/train.py:7", log="/w/site-2/log.txt", log_tail=["other"])

    seen = shown(section(failed(site_1=crash, site_2=also), RunError("round 1 needs 2 answers", hint="look there")))

    assert seen["heading"] == ["fedsag: fruit failed"]
    assert seen["paragraph"] == [
        "Error: round 1 needs 2 answers",
        "Hint: look there",
        "site-1, site-2 failed in round 1: ValueError: no, at /job/train.py:7",
        "The last lines of /w/site-1/log.txt:",
    ]
    assert seen["block"] == [["one", "two"]]


def test_a_run_that_is_done_but_not_good_enough_says_both():
    seen = shown(section(report(), RunError("accuracy of the final model is 0.75, under 0.8 (--fail-under)")))

    assert seen["heading"] == ["fedsag: fruit finished, but the command failed"]
    assert seen["paragraph"] == ["Error: accuracy of the final model is 0.75, under 0.8 (--fail-under)"]


def test_a_run_that_was_interrupted_says_so():
    assert shown(section(failed(), Interrupted(15)))["heading"] == ["fedsag: fruit was interrupted"]


def test_a_run_with_baselines_has_them_in_a_table_and_what_makes_the_comparison_unfair():
    ran = report(a_round(0, {"site-1": {"loss": 0.5}}, num_steps={"site-1": 4}))
    ran.baselines = [
        BaselineReport(kind="local", ok=True, metrics={"loss": 2.0}, num_steps=1, seconds=1.0, run=2),
        BaselineReport(kind="centralised", cause="a | b"),
    ]

    seen = shown(section(ran, RunError("the baseline 'centralised' failed")))

    assert seen["rows"][2:] == [
        ["training", "loss", "steps", "seconds", "run"],
        ["federated", "0.5", "4", "-", "-"],
        ["local", "2", "1", "1.0", "2"],
        ["centralised", "failed", "0", "-", "-"],
    ]
    assert seen["paragraph"][-1] == (
        "Note: local trained 1 step, federated 4: the comparison is not one of equal training"
    )


def test_a_run_that_is_done_and_whose_baseline_was_interrupted_says_both():
    assert shown(section(report(), Interrupted(2)))["heading"] == [
        "fedsag: fruit finished, but the command was interrupted"
    ]


def test_of_many_rounds_the_last_are_shown_and_it_says_so():
    seen = shown(section(report(*(a_round(number, {"site-1": {"loss": 1.0}}) for number in range(1000)))))

    assert [row[0] for row in (seen["rows"][1], seen["rows"][-1])] == ["800", "999"]
    assert seen["paragraph"] == ["Not in the table: the first rounds; report.json has all."]


def test_of_many_kinds_of_failures_the_first_are_shown_and_it_says_so():
    many = {f"site_{number}": Failure(cause=f"E{number * 'x'}") for number in range(12)}

    assert shown(section(failed(**many)))["paragraph"][-1] == "2 more kinds of failures; report.json has all."


NASTY = st.text(st.sampled_from("a `|<>&*_[]()\\#-+~$!\n\r\t\x1b\u202e=1.@:/é"), min_size=1, max_size=30)


@given(NASTY)
def test_no_name_of_a_metric_changes_the_table(name):
    seen = shown(section(report(a_round(0, {"site-1": {name: 0.5}}))))

    assert [len(row) for row in seen["rows"]] == [4, 4]
    assert seen["rows"][0][1] == foreign.shortened(name, 24).strip()
    assert seen["rows"][1] == ["0", "0.5", "1 of 1", "0.00"]


@given(NASTY, st.lists(NASTY, min_size=1, max_size=4))
def test_no_text_of_a_script_is_taken_for_markdown_or_html(text, lines):
    seen = shown(section(failed(site_1=Failure(cause=text, where=text, log=text, log_tail=lines)), RunError(text)))

    assert len(seen["heading"]) == 1
    assert seen["rows"] == []
    assert seen["paragraph"][0] == f"Error: {foreign.one_line(text)}".strip()
    assert seen["block"] == [[foreign.one_line(line) for line in lines]]


@pytest.mark.parametrize("evil", [EVIL, "```\n# head", "| a | b |", "[x](javascript:alert(1))", "![x](http://a/b.png)"])
def test_what_would_do_harm_on_a_page_is_shown_as_text(evil):
    seen = shown(section(failed(site_1=Failure(cause=evil, log_tail=[evil])), RunError(evil)))

    assert seen["paragraph"][0] == f"Error: {foreign.one_line(evil)}"


def test_no_secret_is_in_it(monkeypatch):
    monkeypatch.setattr(foreign, "_secrets", foreign._Secrets())
    foreign.hide("s3cr*t_key", "{$TOKEN}")

    written = section(
        failed(site_1=Failure(cause="no s3cr*t_key", log_tail=["with s3cr*t_key"])), RunError("s3cr*t_key")
    )

    assert "cr*t" not in written
    assert "cr\\*t" not in written
    assert written.count("TOKEN}") == 3


def test_it_is_appended_to_what_is_there(tmp_path):
    file = tmp_path / "summary.md"
    file.write_text("# Before\n\n")
    check_writable(file)

    append(file, report())
    append(file, report())

    assert shown(file.read_text())["heading"] == ["Before", "fedsag: fruit finished", "fedsag: fruit finished"]


def test_a_file_that_cannot_be_written_is_refused_and_none_is_made(tmp_path, monkeypatch):
    check_writable(tmp_path / "new.md")
    (tmp_path / "old.md").write_text("old")
    for file, reason in [(tmp_path, "it is a folder"), (tmp_path / "no" / "s.md", f"there is no folder {tmp_path}/no")]:
        with pytest.raises(UsageError, match=reason):
            check_writable(file)
    monkeypatch.setattr(os, "access", lambda *_: False)
    for name in ("new.md", "old.md"):
        with pytest.raises(UsageError, match="you may not write there"):
            check_writable(tmp_path / name)

    assert [path.name for path in tmp_path.iterdir()] == ["old.md"]


def test_an_empty_name_is_that_of_a_variable_that_is_not_set():
    with pytest.raises(UsageError, match="--summary needs the name of a file") as refused:
        check_writable(Path())

    assert refused.value.hint == "is a variable of the shell not set?"


def test_where_it_cannot_be_appended_any_more_the_run_stands_and_a_warning_says_so(tmp_path, capsys):
    append(tmp_path, report())

    assert capsys.readouterr().err == f"warning: --summary {tmp_path} cannot be written: Is a directory\n"
