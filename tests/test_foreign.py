"""Text that others wrote: no terminal acts on it, and it has no secret that is known."""

import json
import shlex
import urllib.parse

import pytest

from fedsag_cli import events, foreign
from fedsag_cli.events import Failure

SECRET = "hun'te\"r2\\zzz ü%"
SHOWN = "${secret:PW}"


@pytest.fixture(autouse=True)
def _no_secrets_before(monkeypatch):
    monkeypatch.setattr(foreign, "_secrets", foreign._Secrets())


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, ünï☃ 日本語", "plain, ünï☃ 日本語"),
        ("red \x1b[31m", r"red \x1b[31m"),
        ("\x9b31m \x07 \x00 \x7f", r"\x9b31m \x07 \x00 \x7f"),
        ("two\nlines\r\n", r"two\nlines\r\n"),
        ("a\u2028b\u2029c\x85d", r"a\u2028b\u2029c\x85d"),
        ("exe.\u202egpj \u2066x\u2069", r"exe.\u202egpj \u2066x\u2069"),
        ("odd \udcff", r"odd \udcff"),
        ("a\u00a0b\u3000c", "a\u00a0b\u3000c"),
    ],
)
def test_a_text_is_one_line_on_which_no_terminal_acts(text, shown):
    assert foreign.one_line(text) == shown


def test_of_a_very_long_text_the_start_is_shown_and_how_much_is_left():
    assert foreign.one_line("a" * 5000) == "a" * 2000 + " … (3,000 more characters)"
    assert foreign.shortened("validation/accuracy_of_class_12", 15) == "validat…lass_12"


def test_a_line_of_a_log_is_what_a_terminal_shows_of_it():
    assert foreign.log_line("\x1b[32mgreen\x1b[0m  10%|█\r 100%|██\r") == " 100%|██"
    assert foreign.log_line("\tat once\r") == "    at once"


@pytest.mark.parametrize(
    "write",
    [
        str,
        repr,
        ascii,
        json.dumps,
        lambda text: json.dumps(text, ensure_ascii=False),
        lambda text: json.dumps({"error": json.dumps({"password": text})}),
        lambda text: repr({"both quotes": f'it\'s "{text}"'}),
        lambda text: json.dumps(repr((json.dumps(text), "it's"))),
        lambda text: repr(text.encode()),
        lambda text: shlex.quote(text),
        lambda text: urllib.parse.quote(text, safe=""),
        lambda text: urllib.parse.urlencode({"password": text}),
        lambda text: f"{text[:6]}\n    {text[6:]}",
        lambda text: f"│ {text[:6]}   │\n│ {text[6:]} │",
        lambda text: repr(f"{text[:6]}\n{text[6:]}"),
    ],
)
def test_a_secret_is_masked_however_another_text_writes_it(write):
    foreign.hide(SECRET, SHOWN)

    masked = foreign.masked(f"login with {write(SECRET)} failed")

    assert SHOWN in masked
    assert not {"hun", "zzz", "r2"} & {masked[at : at + size] for size in (2, 3) for at in range(len(masked))}


def test_the_lines_of_a_secret_are_masked_one_by_one_in_the_lines_of_a_log():
    foreign.hide("-----BEGIN KEY-----\nMIIEvQIBADANBg\nAQEFAASCBKcw\n-----END KEY-----\n", "${secret:file:k}")
    failure = Failure(cause="bad key", log_tail=["key:", "MIIEvQIBADANBg", "AQEFAASCBKcw", "end"])

    masked = foreign.masked(events.ReplyFailed(site="site-1", task="train", round_num=0, failure=failure))

    assert masked.failure.log_tail == ["key:", "${secret:file:k}", "${secret:file:k}", "end"]


def test_a_secret_that_a_cut_has_shortened_is_masked_too():
    foreign.hide("correct horse battery", SHOWN)

    assert foreign.masked("the password is correct ho …") == f"the password is {SHOWN} …"
    assert foreign.masked("the answer is correct") == "the answer is correct"


def test_keys_and_values_of_an_event_are_masked_and_the_rest_stays():
    foreign.hide("hunter2zzz", SHOWN)
    accepted = events.ReplyAccepted(
        at=1.0, site="site-1", task="train", round_num=0, metrics={"acc hunter2zzz": 0.5}, num_steps=1, size=0, work_s=1
    )

    assert foreign.masked(accepted).metrics == {f"acc {SHOWN}": 0.5}
    assert foreign.masked(accepted).at == 1.0


def test_without_a_secret_an_event_is_not_touched():
    event = events.Notice(text="nothing to hide")

    assert foreign.masked(event) is event


@pytest.mark.parametrize(
    ("name", "value", "is_hidden"),
    [
        ("WANDB_API_KEY", "abcdefgh", True),
        ("HBPW", "hunter2zzz", True),
        ("DB", "postgres://me:pw@host/db", True),
        ("X", "sk-live-1234abcd", True),
        ("KEY_METRIC", "accuracy", False),
        ("TOKENIZERS_PARALLELISM", "false", False),
        ("HOME", "/home/me2", False),
        ("PWD", "/home/me2", False),
        ("CUDA_VISIBLE_DEVICES", "0,1,2,3,4", False),
        ("MLFLOW_TRACKING_URI", "http://host1:5000", False),
        ("DATA", "cifar10", False),
    ],
)
def test_of_the_environment_the_values_that_look_secret_are_hidden(name, value, is_hidden):
    """Others stand in paths, commands and names of metrics, which must be shown as they are."""
    foreign.hide_variable(name, value)

    assert (foreign.masked(f"it is {value}.") == f"it is {{${name}}}.") is is_hidden


def test_a_text_that_was_shown_before_a_secret_was_known_is_masked_from_then_on():
    assert foreign.masked("site-1 of the blue house") == "site-1 of the blue house"

    foreign.hide("blue house", "${HOUSE}")

    assert foreign.masked("site-1 of the blue house") == "site-1 of the ${HOUSE}"


def test_digests_are_ours_and_stay_as_they_are():
    foreign.hide("4711", "${PIN}")
    sent = events.ModelSent(
        task="train 4711", round_num=0, size=1, digest="ab4711" * 5 + "00", tensors="47114711", names=["w", "b"]
    )

    masked = foreign.masked(sent)

    assert (masked.task, masked.digest, masked.tensors) == ("train ${PIN}", sent.digest, sent.tensors)
