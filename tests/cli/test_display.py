"""What reaches a terminal or a pipe: one line for each text, escaped, masked and fitted."""

import io
import re
from types import SimpleNamespace

import pytest
from terminals import Terminal

from fedsag_cli import foreign
from fedsag_cli.cli import display
from fedsag_cli.errors import JobError

EVIL = "[/red]\x1b]0;owned\x07\x1b[31m\u202e\nrc=0"
HARMLESS = r"[/red]\x1b]0;owned\x07\x1b[31m\u202e\nrc=0"


@pytest.fixture(params=["a terminal", "a pipe"])
def printed(request, monkeypatch):
    """What the test has printed so far."""
    stream = Terminal().use(monkeypatch) if request.param == "a terminal" else io.StringIO()
    monkeypatch.setattr(display, "sys", SimpleNamespace(stdout=stream, stderr=stream))  # pytest has its own
    monkeypatch.setattr(display._Shown, "errors_as_json", False)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    return stream.getvalue


@pytest.mark.parametrize(
    "show",
    [
        display.line,
        display.note,
        display.warning,
        display.help_text,
        lambda text: display.error(JobError(text)),
        lambda text: display.error(JobError("wrong", hint=text)),
        lambda text: display.bug(ValueError(text)),
        lambda text: display.table([{"a": text}], ["a"]),
        lambda text: display.table([{text: "x"}], [text]),
        lambda text: display.table([{"a": "x", "b": text}], ["a", "b"], by="b"),
    ],
)
def test_no_text_reaches_a_terminal_as_it_is(printed, show):
    show(EVIL)

    assert not {"\x1b", "\x07", "\u202e"} & set(printed())
    assert "\nrc=0" not in printed() or show is display.help_text
    assert "owned" in printed()


def test_known_secrets_are_masked_in_whatever_is_printed(printed, monkeypatch):
    monkeypatch.setattr(foreign, "_secrets", foreign._Secrets())
    foreign.hide("hunter2zzz", "${secret:PW}")

    display.line("line hunter2zzz")
    display.error(JobError("error hunter2zzz"))
    display.document({"key": "document hunter2zzz"})

    assert "hunter2zzz" not in printed()
    assert printed().count("${secret:PW}") == 3


def test_a_line_of_json_stays_json_and_nothing_in_it_acts(printed):
    display.json_line('{"text":"\u009b31m \u202e \U0001f600 \U000e0001"}')

    assert printed() == '{"text":"\\u009b31m \\u202e \U0001f600 \\udb40\\udc01"}\n'


def test_the_screen_draws_texts_not_markup(printed):
    with display.Screen(lambda columns, rows: [[(EVIL, "bold"), ("x", "")]]) as screen:
        screen.line(EVIL)

    assert f"{HARMLESS}\n" in printed()
    assert "\x1b]0" not in printed()


def test_where_the_room_is_short_the_last_column_of_the_screen_is_cut_and_no_name(monkeypatch):
    terminal = Terminal(40, 24).use(monkeypatch)

    screen = display.Screen(lambda columns, rows: [[("site-1", ""), ("answered", ""), ("accuracy 0.5, " * 9, "")]])
    screen._write(screen._drawn())

    assert terminal.shown[0] == "site-1  answered  accuracy 0.5, accura…"


def test_the_screen_shows_lines_above_its_rows_and_leaves_nothing_else_behind(monkeypatch):
    terminal = Terminal(40, 10).use(monkeypatch)

    with display.Screen(lambda columns, rows: [[(f"row {number}", "red")] for number in range(rows)]) as screen:
        for number in range(20):
            screen.line(f"line {number}")

    assert [*terminal.scrolled_out, *terminal.shown][:21] == [*(f"line {number}" for number in range(20)), ""]
    assert not any("row" in line for line in [*terminal.scrolled_out, *terminal.shown])
    assert not terminal.screen.cursor.hidden


def test_lines_are_shown_though_the_rows_cannot_be_drawn(monkeypatch):
    terminal = Terminal().use(monkeypatch)

    def broken(columns, rows):
        raise ValueError("no rows")

    with display.Screen(broken) as screen:
        screen._thread.join()
        screen.line("a line")

        assert terminal.shown[0] == "note: a bug in fedsag ended the live view: ValueError('no rows')"
        assert terminal.shown[1] == "a line"


def test_no_colour_is_written_where_the_environment_says_so(monkeypatch):
    terminal = Terminal().use(monkeypatch)
    monkeypatch.setenv("NO_COLOR", "1")
    screen = display.Screen(lambda columns, rows: [[("x", "red")], [("y", "bold")]])
    screen._write(screen._drawn())
    display.table([{"a": "1"}], ["a"])
    display.error(JobError("wrong", hint="look"))
    assert not re.search(r"\x1b\[[0-9;]*m", terminal.getvalue())

    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    told = len(terminal.getvalue())
    display.table([{"a": "1"}], ["a"])
    display.error(JobError("wrong", hint="look"))
    assert "\x1b" not in terminal.getvalue()[told:]


def test_a_table_that_was_fitted_looks_on_a_terminal_as_in_a_pipe(monkeypatch):
    terminal = Terminal().use(monkeypatch)

    display.table([{"round": "best: 4", "seconds": ""}], ["round", "seconds"], wraps=False)

    assert terminal.shown[:2] == ["round    seconds", "best: 4  -"]


@pytest.mark.parametrize(
    ("term", "notebook", "can"),
    [("xterm", False, True), ("xterm", True, False), ("dumb", False, False), ("", False, False), (None, False, False)],
)
def test_only_a_terminal_whose_cursor_moves_is_drawn_on(monkeypatch, term, notebook, can):
    Terminal().use(monkeypatch)
    for name, value in (("TERM", term), ("JPY_PARENT_PID", "1" if notebook else None)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)

    assert display.can_redraw() is can


@pytest.mark.parametrize(
    ("env", "can"),
    [
        ({"CI": "true"}, False),
        ({"CI": "false"}, True),
        ({"GITHUB_ACTIONS": "true"}, False),
        ({"TERM": "xterm-color", "PAGER": "cat", "GIT_PAGER": "cat"}, False),  # a kernel without JPY_PARENT_PID
        ({"PAGER": "cat"}, True),
    ],
)
def test_a_log_of_ci_and_a_cell_of_a_notebook_get_lines_and_no_frames(monkeypatch, env, can):
    Terminal().use(monkeypatch)
    for name, value in env.items():
        monkeypatch.setenv(name, value)

    assert display.can_redraw() is can


@pytest.mark.parametrize("width", [1, 20, 40, 80])
def test_a_table_fits_the_terminal(monkeypatch, width):
    monkeypatch.setattr(display, "sys", SimpleNamespace(stdout=(stream := Terminal())))
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("NO_COLOR", "1")

    display.table([{"name": "sag_pt", "meaning": "words in a sentence " * 9 + "日本語" * 30}], ["name", "meaning"])

    widest = max(display.len_of(line) for line in stream.getvalue().splitlines())
    assert widest <= max(width, 5)  # two columns of one, a wide character, and the space between


def test_a_reader_that_has_gone_ends_nothing(monkeypatch, tmp_path):
    monkeypatch.setattr(display._Shown, "to_nobody", False)  # it is set by this test, and put back after it

    class Closed(Terminal):
        def __init__(self):
            super().__init__()
            self.file = (tmp_path / "out").open("w")

        def flush(self):
            raise OSError(5, "Input/output error")

        def fileno(self):
            return self.file.fileno()

    monkeypatch.setattr(display, "sys", SimpleNamespace(stdout=Closed()))

    with display.Screen(lambda columns, rows: [[("x", "")]]) as screen:
        screen.line("y")
    display.line("z")


def test_a_range_is_not_an_escape_where_the_encoding_has_no_dash(monkeypatch):
    terminal = Terminal(80, 24, encoding="latin-1").use(monkeypatch)

    display.line("accuracy 1.5 (1–2), café …")
    display.table([{"a": "1–2", "b": "x"}], ["a", "b"], wraps=False)

    assert terminal.shown[:3] == ["accuracy 1.5 (1-2), café .", "a    b", "1-2  x"]
