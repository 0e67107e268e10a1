"""Errors of commands with `--format json`: a line of JSON where a program reads."""

import json

import pytest

from fedsag_cli import cli
from fedsag_cli.cli import commands, display


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    """Run a command in this process: its exit code, its standard output and its standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for flag in ("tracebacks", "errors_as_json", "a_document"):
        monkeypatch.setattr(display._Shown, flag, False)  # and as it was afterwards

    def call(*words):
        monkeypatch.setattr("sys.argv", ["fedsag", *words])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code, *capsys.readouterr()

    return call


def told(out):
    """The one error, as a program reads it."""
    (line,) = out.splitlines()
    error = json.loads(line)
    assert error.pop("event") == "CommandFailed"
    assert error.pop("at") > 0
    return error


@pytest.mark.parametrize(
    ("words", "code", "message", "hint"),
    [
        (["simulator", "nowhere"], 3, "there is no job folder", "fedsag job create makes one"),
        (["simulator", "--max-time", "soon"], 2, "--max-time 'soon' is not a time", "examples: 90s, 10m, 1h30m, 2d"),
        (["simulator", "-q"], 2, "-q and --format json exclude each other", "leave one of them out"),
        (["simulator", "--nope"], 2, "no such option: --nope", "fedsag simulator -h shows what it takes"),
        (["simulator", "--seed", "x"], 2, "--seed x: it must be a whole number", "-h shows what it takes"),
        (["job", "create", "-w", "sag_nope"], 3, "sag_nope", "did you mean"),
        (["job", "show_variables", "-j", "nowhere"], 3, "nowhere is not a job", "fedsag job create makes one"),
        (["config", "-jt", "nowhere"], 3, "there is no folder", "-jt names"),
        (["runs", "show", "0"], 2, "there are no runs yet in", "fedsag simulator"),
        (["verify", "nowhere"], 2, "there is no run in", "-w gave"),
        (["watch", "nowhere"], 2, "there is no run in nowhere", "RUN is a number"),
        (["simulat"], 2, "simulat", "fedsag -h shows what it takes"),
    ],
)
@pytest.mark.parametrize("form", [("--format", "json"), ("--format=json",)], ids=" ".join)
def test_an_error_of_any_kind_is_one_line_of_json_and_nothing_else(call, words, form, code, message, hint):
    returned, out, err = call(*words, *form)

    error = told(out)
    assert (returned, error["exit_code"], error["details"], err) == (code, code, [], "")
    assert message in error["message"]
    assert hint in error["hint"]


@pytest.mark.parametrize(
    "form", [(), ("--format", "txt"), ("--format", "json", "--format", "txt"), ("--", "--format", "json")]
)
def test_without_json_an_error_is_words_for_people(call, form):
    _, out, err = call("simulator", "--nope", *form)

    assert out == ""
    assert err.startswith("error: no such option: --nope")


def test_a_bug_is_told_too_and_its_traceback_stays_where_people_look(call, monkeypatch):
    def broken(*_, **__):
        raise ValueError("odd \x1b[31m")

    monkeypatch.setattr(commands, "app", broken)
    code, out, err = call("simulator", "--format", "json")

    error = told(out)
    assert (code, error["exit_code"]) == (1, 1)
    assert error["message"] == "a bug in fedsag: ValueError: odd \\x1b[31m"
    assert "Traceback" in err
    assert "error:" not in err


def test_ctrl_c_is_told_to_a_program(call, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(commands, "app", interrupted)
    code, out, err = call("runs", "list", "--format", "json")
    assert (code, told(out)["message"], told(out)["exit_code"], err) == (130, "interrupted", 130, "")

    assert call("runs", "list") == (130, "", "")


def test_a_name_that_is_no_text_is_told_as_escapes(call):
    _, out, _ = call("simulator", "caf\udce9", "--format", "json")

    assert "caf\\udce9" in told(out)["message"]


def test_a_command_that_has_printed_its_document_prints_no_second_one(call, tmp_path):
    (tmp_path / "no_run").mkdir()

    code, out, err = call("runs", "import", "no_run", "--format", "json")

    assert code == 2
    assert json.loads(out) == []
    assert err.startswith("error: ")


def test_a_command_that_is_refused_writes_no_summary(call, tmp_path):
    code, _, _ = call("simulator", "nowhere", "--summary", "summary.md")

    assert code == 3
    assert not (tmp_path / "summary.md").exists()
