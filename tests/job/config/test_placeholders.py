"""{name} in a config file: what it becomes, for each site."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsag_cli.errors import JobError
from fedsag_cli.job.config import placeholders


def resolved(tree, **system):
    return placeholders.resolved(tree, system, name="x.conf")


def test_a_text_that_is_only_a_name_becomes_the_value_with_its_type():
    tree = resolved(
        {"num": 5, "list": [1], "on-it": {"x": "{num}"}, "args": {"a": " {num} ", "b": ["{list}", "{on-it}"]}}
    )

    assert tree["args"] == {"a": 5, "b": [[1], {"x": 5}]}


def test_a_variable_of_the_environment_that_is_not_utf_8_is_an_error_naming_it(monkeypatch):
    monkeypatch.setenv("OLD", "a\udcff")

    with pytest.raises(JobError, match="environment variable OLD is not UTF-8"):
        resolved({"a": "{$OLD}"})
    with pytest.raises(JobError, match="environment variable OLD is not UTF-8"):
        placeholders.Secrets({"OLD": "a\udcff"}).revealed("${secret:OLD}")


def test_inside_a_text_the_value_is_written_out_as_python_does():
    tree = resolved({"n": 5, "on": True, "x": 0.5, "none": None, "command": "run --n {n} --on {on} --x {x} {none}"})

    assert tree["command"] == "run --n 5 --on True --x 0.5 None"


def test_a_text_may_name_a_part_of_a_value_and_say_how_it_is_written():
    text = "{server[port]} {sizes[1]} {lr:.2f} {n!r}"

    tree = resolved({"server": {"port": 80}, "sizes": [7, 8], "lr": 0.0625, "n": "x", "a": text})

    assert tree["a"] == "80 8 0.06 'x'"


def test_a_value_may_speak_of_others():
    assert resolved({"a": "{b}!", "b": "{c}?", "c": "x"})["a"] == "x?!"


@pytest.mark.parametrize(
    "text",
    [
        "--root {CIFAR10_ROOT} {n}", "{n} {}", "{n} {0}", "{n} {n.real}", "{n} {n[0]}", "{n} { n }", "{n} }", "{n} {",
        '{"lr": 0.1}', '--cfg {"a": {n}}', "{n} {n:{n}}", "{n:>9999}", "{n} {n!x}", "{}", "{0}",
        "{ n }",
    ],
)  # fmt: skip
def test_a_text_that_cannot_be_written_out_stays_as_it_is(text):
    assert resolved({"a": text, "n": 5})["a"] == text


def test_a_text_that_is_only_a_name_nobody_knows_is_an_error_with_the_nearest():
    with pytest.raises(JobError) as raised:
        resolved({"num_rounds": 5, "workflows": [{"args": {"num_rounds": "{num_round}"}}]})

    assert raised.value.message == (
        "x.conf: workflows[0].args.num_rounds is '{num_round}': there is no variable 'num_round'"
    )
    assert raised.value.hint == "did you mean 'num_rounds'?"


def test_of_a_job_that_is_not_run_every_name_of_the_systems_is_known():
    known = placeholders.nowhere("site-7")

    assert set(known) == set(placeholders.SYSTEM)
    assert resolved({"a": "{SITE_NAME}", "b": "at {ROOT_URL}."}, **known) == {"a": "site-7", "b": "at ."}


def test_an_object_that_takes_values_is_made_for_each_place_that_gives_them():
    tree = resolved(
        {
            "@filter": {"path": "my.Filter", "args": {"rate": "{rate}", "on": "{on}", "name": "{who}-{n}", "n": "{n}"}},
            "n": 5,
            "who": "all",
            "a": "{@filter:rate=0.5:on=yes}",
            "b": ["{@filter:rate={n}:on=x:who=me}"],
        }
    )

    assert tree == {
        "n": 5,
        "who": "all",
        "a": {"path": "my.Filter", "args": {"rate": 0.5, "on": True, "name": "all-5", "n": 5}},
        "b": [{"path": "my.Filter", "args": {"rate": 5, "on": "x", "name": "me-5", "n": 5}}],
    }


def test_a_text_given_by_another_name_stays_the_text_it_is():
    assert resolved({"@m": {"v": "{v}"}, "word": "yes", "a": "{@m:v={word}}"})["a"] == {"v": "yes"}


@pytest.mark.parametrize(
    ("tree", "says"),
    [
        ({"a": "{@filter:x=1}", "@filtr": {}}, "x.conf: a is '{@filter:x=1}': there is no variable '@filter'"),
        ({"a": "{@m:x=1}", "@m": [1]}, "x.conf: a: @m must be an object, not [1]"),
        ({"a": "{@m:x=1}", "@m": {"b": "{@m:x=2}"}}, "x.conf: @m refers to itself: a -> @m -> @m"),
        ({"a": "{@m:x=1}", "@m": {"b": "{y}"}}, "x.conf: @m.b is '{y}': there is no variable 'y'"),
    ],
)
def test_an_object_that_takes_values_and_cannot_be_made_is_an_error(tree, says):
    with pytest.raises(JobError) as raised:
        resolved(tree)

    assert raised.value.message == says


def test_a_secret_is_left_for_whoever_starts_the_script():
    tree = resolved({"n": 5, "a": "${secret:KEY}", "b": "--n {n} --key ${secret:KEY} ${secret:file:/run/k}"})

    assert tree == {"n": 5, "a": "${secret:KEY}", "b": "--n 5 --key ${secret:KEY} ${secret:file:/run/k}"}


def test_a_secret_is_the_environments_or_a_files_without_its_last_line_break(tmp_path):
    (tmp_path / "a:b").write_text("s3\n")
    secrets = placeholders.Secrets({"KEY": "a${secret:KEY}"})

    assert secrets.revealed("--key=${secret:KEY}:${secret:KEY}") == "--key=a${secret:KEY}:a${secret:KEY}"
    assert secrets.revealed(f"x${{secret:file:{tmp_path}/a:b}}") == "xs3"
    assert secrets.revealed("{x} $HOME ${HOME}") == "{x} $HOME ${HOME}"


def test_a_secret_is_read_once_for_a_pipe_gives_its_text_no_second_time(tmp_path):
    file = tmp_path / "key"
    file.write_text("s3")
    secrets = placeholders.Secrets({})
    secrets.revealed(f"${{secret:file:{file}}}")
    file.unlink()

    assert secrets.revealed(f"${{secret:file:{file}}}") == "s3"


@pytest.mark.parametrize("word", ["${secret:}", "--k ${secret:MY-KEY}", "${secret:KEY", "${secret:file:}"])
def test_what_is_nearly_a_secret_is_an_error_and_goes_to_no_script(word):
    with pytest.raises(JobError, match=r"\$\{secret:…\} without a name") as raised:
        placeholders.Secrets({"KEY": "1"}).revealed(word)

    assert raised.value.hint.startswith("${secret:NAME} is")


def test_a_secret_speaks_of_no_variable():
    assert [*placeholders.names("--key ${secret:KEY} ${secret:file:/a} {n}")] == ["n"]


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("a ${secret:KEY}", "${secret:KEY}: there is no environment variable KEY"),
        ("${secret:file:/nowhere/key}", "${secret:file:/nowhere/key}: /nowhere/key: No such file or directory"),
        ("${secret:file:/}", "${secret:file:/}: /: Is a directory"),
    ],
)
def test_a_secret_that_is_not_there_is_an_error_that_names_it(word, says):
    with pytest.raises(JobError) as raised:
        placeholders.Secrets({"KEYS": "1"}).revealed(word)

    assert raised.value.message == says


def test_the_systems_variables_come_first():
    assert resolved({"SITE_NAME": "mine", "a": "at {SITE_NAME}"}, SITE_NAME="site-1")["a"] == "at site-1"


def test_the_environment_is_asked_for_a_name_with_a_dollar(monkeypatch):
    monkeypatch.setenv("MY_ROOT", "/data")
    monkeypatch.delenv("NOT_SET", raising=False)

    assert resolved({"a": "{$MY_ROOT}", "b": "--x {$MY_ROOT}/y", "c": "{$MY_ROOT} {$NOT_SET}"}) == {
        "a": "/data",
        "b": "--x /data/y",
        "c": "{$MY_ROOT} {$NOT_SET}",
    }
    with pytest.raises(JobError, match=r"a is '{\$NOT_SET}': there is no variable '\$NOT_SET'"):
        resolved({"a": "{$NOT_SET}"})


def test_a_doubled_brace_is_one_brace():
    assert resolved({"n": 5, "a": "{{n}} {{unknown}} {n}"})["a"] == "{n} {unknown} 5"


def test_what_was_put_in_is_not_read_again():
    assert resolved({"a": "{WORKSPACE}/x", "b": "no"}, WORKSPACE="/w/{b}")["a"] == "/w/{b}/x"


@pytest.mark.parametrize("tree", [{"a": "{a}"}, {"a": "x {b}", "b": "{c}", "c": ["{a}"]}])
def test_names_that_go_round_in_a_circle_are_an_error_naming_them(tree):
    with pytest.raises(JobError, match=r"x\.conf: a refers to itself: a -> "):
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

    with pytest.raises(JobError, match=r"x\.conf: \{a\d+\} makes the file too large"):
        resolved(tree)


def test_a_long_chain_of_names_is_no_bomb_and_too_long_a_one_an_error():
    def chain(length):
        return {f"a{number}": f"{{a{number + 1}}}" for number in range(length)} | {f"a{length}": "end"}

    assert resolved(chain(100))["a0"] == "end"
    with pytest.raises(JobError, match=r"x\.conf: nested too deeply"):
        resolved(dict(chain(5000)))


def test_the_environment_variables_of_a_text_are_those_it_names_also_as_secrets():
    value = {"a": ["{$HOME} {x}", {"b": "--key ${secret:KEY} ${secret:file:/a}"}], "c": 5}

    assert list(placeholders.environment(value)) == ["HOME", "KEY"]
