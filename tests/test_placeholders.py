"""{name} in a config file: what it becomes, for each site."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsag_cli.errors import JobError
from fedsag_cli.job import placeholders


def resolved(tree, **system):
    return placeholders.resolved(tree, system, name="x.conf")


def test_a_text_that_is_only_a_name_becomes_the_value_with_its_type():
    tree = resolved({"num": 5, "list": [1], "args": {"a": "{num}", "b": ["{list}"]}})

    assert tree["args"] == {"a": 5, "b": [[1]]}


def test_inside_a_text_the_value_is_written_out():
    tree = resolved({"n": 5, "on": True, "x": 0.5, "command": "run --n {n} --on {on} --x {x}"})

    assert tree["command"] == "run --n 5 --on true --x 0.5"


def test_a_value_may_speak_of_others():
    assert resolved({"a": "{b}!", "b": "{c}?", "c": "x"})["a"] == "x?!"


def test_an_unknown_name_stays_as_it_is_written():
    text = "--dataset_path {CIFAR10_ROOT} {} {0} {a.b} { x } {x!r} } {"

    assert resolved({"a": text, "b": "{nobody}"}) == {"a": text, "b": "{nobody}"}


def test_the_systems_variables_come_first():
    assert resolved({"SITE_NAME": "mine", "a": "at {SITE_NAME}"}, SITE_NAME="site-1")["a"] == "at site-1"


def test_the_environment_is_asked_for_a_name_with_a_dollar(monkeypatch):
    monkeypatch.setenv("MY_ROOT", "/data")
    monkeypatch.delenv("NOT_SET", raising=False)

    assert resolved({"a": "{$MY_ROOT}", "b": "--x {$MY_ROOT}/y {$NOT_SET}"}) == {
        "a": "/data",
        "b": "--x /data/y {$NOT_SET}",
    }


def test_doubled_braces_are_the_word_in_braces():
    assert resolved({"n": 5, "a": "{{n}} {{unknown}}"})["a"] == "{n} {{unknown}}"


def test_what_was_put_in_is_not_read_again():
    assert resolved({"a": "{WORKSPACE}/x", "b": "no"}, WORKSPACE="/w/{b}")["a"] == "/w/{b}/x"


@pytest.mark.parametrize("tree", [{"a": "{a}"}, {"a": "x {b}", "b": "{c}", "c": ["{a}"]}])
def test_names_that_go_round_in_a_circle_are_an_error_naming_them(tree):
    with pytest.raises(JobError, match=r"x\.conf: a stands for itself: a -> "):
        resolved(tree)


@given(st.text(st.characters(exclude_characters="{}")))
def test_a_text_without_braces_is_left_alone(text):
    assert resolved({"a": text, "b": "{a}"}) == {"a": text, "b": text}


def test_the_names_a_value_speaks_of_are_told():
    assert list(placeholders.names({"x": ["{a} {b}", "{$HOME}", 5, "{{c}}"]})) == ["a", "b"]


@pytest.mark.parametrize("twice", ["{{a{0}}}{{a{0}}}", ["{{a{0}}}", "{{a{0}}}"], {"x": "{{a{0}}}", "y": "{{a{0}}}"}])
def test_names_that_stand_for_names_twice_each_are_refused_before_they_fill_the_memory(twice):
    def step(number):
        if isinstance(twice, str):
            return twice.format(number)
        if isinstance(twice, list):
            return [text.format(number) for text in twice]
        return {key: text.format(number) for key, text in twice.items()}

    tree = {"a0": "x", **{f"a{number + 1}": step(number) for number in range(60)}}

    with pytest.raises(JobError, match=r"x\.conf: \{a\d+\} makes it larger than any config"):
        resolved(tree)


def test_a_long_chain_of_names_is_no_bomb_and_too_long_a_one_an_error():
    def chain(length):
        return {f"a{number}": f"{{a{number + 1}}}" for number in range(length)} | {f"a{length}": "end"}

    assert resolved(chain(100))["a0"] == "end"
    with pytest.raises(JobError, match=r"x\.conf: nested too deeply"):
        resolved(dict(chain(5000)))
