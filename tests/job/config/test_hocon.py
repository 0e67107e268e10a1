"""HOCON: every value comes back as it went in, and nothing is fetched from elsewhere."""

import contextlib
import json
import os
import socket
import sys

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fedsag_cli.errors import JobError
from fedsag_cli.job.config import hocon

ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | ANY_TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(st.from_regex(r"\A[a-zA-Z_][\w.@ -]*\Z"), inner),
    max_leaves=6,
)
ODD = '= , " \' # { } [ ] : / // \\ \\u0041 \\b $ ${HOME} \t \n \r \0 \x1b \u2028 \ue000 include url("http://x") 5 s'


@settings(max_examples=300, deadline=None)
@given(ANY_TEXT)
@example(ODD)
@example("")
@example(" ")
@example('"""')
@example("\\")
def test_any_text_comes_back_as_it_was_written(text):
    assert hocon.loads(f"key = {hocon.literal(text)}\n", name="x") == {"key": text}


@settings(max_examples=200, deadline=None)
@given(VALUES)
@example(["", "a", None, []])
def test_any_value_comes_back_as_it_was_written(value):
    back = hocon.loads(f"key = {hocon.literal(value)}\n", name="x")

    assert repr(back) == repr({"key": value})


def keys(value):
    """All the keys in it, one after the other."""
    return "".join(key + keys(inner) for key, inner in value.items()) if isinstance(value, dict) else ""


@pytest.mark.parametrize("key", ["tokens", "variable", "overridden_value"])
def test_a_key_that_pyhocons_own_objects_have_too_is_one_like_any_other(key):
    assert hocon.loads(f"{key} = 1\na {{ {key} = [2], x = ${{{key}}} }}", name="x") == {key: 1, "a": {key: [2], "x": 1}}
    assert hocon.loads(hocon.dumps({key: {key: None}}, name="x"), name="x") == {key: {key: None}}


KEYS = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)


@settings(max_examples=200, deadline=None)
@given(st.recursive(st.none() | st.integers() | ANY_TEXT, lambda inner: st.dictionaries(KEYS, inner), max_leaves=8))
def test_any_tree_comes_back_as_it_was_written_or_is_refused(value):
    tree = {"key": value}
    try:
        text = hocon.dumps(tree, name="x")
    except JobError:
        assert set('"\n\r\\') & set(keys(value))
    else:
        assert repr(hocon.loads(text, name="x")) == repr(tree)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(ANY_TEXT, VALUES))
def test_any_json_comes_back_as_it_was_written(tree):
    assert repr(hocon.loads_json(json.dumps(tree), name="x")) == repr(tree)


PIECES = [
    "a", "b ", "=", ":", "+=", "{", "}", "[", "]", ",", "\n", " ", "\t", '"', '"""', "\\", "#", "//", "1", "5 s",
    "true", "null", "${a}", "${?b}", "${a.b}", "a.b", "include ", 'include "x.conf"', 'include url("http://x")', "\0",
    "\u00e9", "\u2028",
]  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=25).map("".join))
@example("k1.y=abc\nk1.x=${k0.x}\nk1.x+=${?k0}\nk1=${?k0}")  # pyhocon would follow a circle for ever
def test_any_text_is_read_or_refused_and_nothing_is_opened(text):
    opened = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pyhocon.config_parser.urlopen", lambda *_, **__: opened.append(text))
        patch.setattr("pyhocon.ConfigFactory.parse_file", lambda *_, **__: opened.append(text))
        with contextlib.suppress(JobError):
            hocon.loads(text, name="x")

    assert opened == []


def test_a_tree_is_written_so_that_it_reads_the_same():
    tree = {"a.b": 1, "include": 2, "list": [{"x": ""}, {"y": [1.5, True]}], "empty": {}, "a b": "c", "": 1}

    assert hocon.loads(hocon.dumps(tree, name="x"), name="x") == tree


def test_a_key_hocon_cannot_write_is_an_error_that_names_it():
    with pytest.raises(JobError, match=r"x\.conf: HOCON cannot write .*'a\"b'"):
        hocon.dumps({'a"b': 1}, name="x.conf")


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_what_hocon_has_no_words_for_is_refused(number):
    with pytest.raises(ValueError, match="HOCON cannot write"):
        hocon.literal(number)


def test_what_a_person_writes_is_read():
    text = """
    # a comment with "quotes" and include url("http://x")
    a = http://x/y // the rest is a comment
    b { c = 1, d = [1, 2,
      3] }
    b.e = ${b.c}
    f = \"\"\"many
lines\"\"\"
    "k.x" : true
    tab = "a\tb"
    include = 5
    """

    assert hocon.loads(text, name="x") == {
        "a": "http://x/y",
        "b": {"c": 1, "d": [1, 2, 3], "e": 1},
        "f": "many\nlines",
        "k.x": True,
        "tab": "a\tb",
        "include": 5,
    }


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a = 1\nb = [", "line 2"),
        ("a = 1\n\nb == 3", "line 3 is not HOCON: b == 3"),
        ("a = ${NO_SUCH_VARIABLE_ANYWHERE}", "NO_SUCH_VARIABLE_ANYWHERE"),
        ("[1, 2]", "keys and values"),
        ("a = 1\nb = 5 s", "line 2: '5 s' would be read as a duration"),
        ("a = [1, 10 minutes]", "duration"),
        ("a:5s", "a is a duration"),
        ("a { b:5s }", "a.b is a duration"),
        ("a = run 5 m more", "duration"),
    ],
)
def test_what_cannot_be_read_is_an_error_with_file_and_place(text, says):
    with pytest.raises(JobError) as error:
        hocon.loads(text, name="my.conf")

    assert str(error.value).startswith("my.conf: ")
    assert says in str(error.value)


@pytest.mark.parametrize(
    "words",
    [
        'url("http://127.0.0.1:1/x")',
        'required(url("http://127.0.0.1:1/x"))',
        'package("pkg:x.conf")',
        'classpath("x.conf")',
        '"http://127.0.0.1:1/x"',
        '"/etc/hostname"',
        '"../outside.conf"',
        '"link.conf"',
        '"sub.conf" include url("http://127.0.0.1:1/x")',
        '""',
        '"*.conf"',
        '"missing.conf"',
        '"itself.conf"',
        '"far.conf"',
        '"nul\0.conf"',
        '"round.conf"',
        '"pipe.conf"',
        '"zero.conf"',
    ],
)
@pytest.mark.parametrize("before", ["", "a = ", "a { ", 'b = "x"', "\\\n", "INCLUDE"])
def test_an_include_from_elsewhere_is_refused_before_anything_is_fetched(tmp_path, monkeypatch, words, before):
    monkeypatch.setattr("pyhocon.config_parser.urlopen", lambda *_, **__: pytest.fail("a request was made"))
    folder = tmp_path / "config"
    folder.mkdir()
    (tmp_path / "outside.conf").write_text("a = 1")
    (folder / "link.conf").symlink_to(tmp_path / "outside.conf")
    (folder / "sub.conf").write_text("a = 1")
    (folder / "itself.conf").write_text('include "itself.conf"')
    (folder / "far.conf").write_text('include url("http://127.0.0.1:1/x")')
    (folder / "round.conf").symlink_to("round.conf")
    (folder / "zero.conf").symlink_to("/dev/zero")
    os.mkfifo(folder / "pipe.conf")
    keyword = before if before == "INCLUDE" else f"{before}include"
    (folder / "x.conf").write_text(f"{keyword} {words}")

    with pytest.raises(JobError, match="include"):
        hocon.load(folder / "x.conf")


def test_a_file_beside_is_included(tmp_path):
    (tmp_path / "more.conf").write_text('{ b = 2, t = "a\tb" }')
    (tmp_path / "x.conf").write_text(
        'a = 1\ninclude "more.conf"\nc { include required(file("more.conf")) }\nd = ${b}\n'
    )

    assert hocon.load(tmp_path / "x.conf") == {"a": 1, "b": 2, "t": "a\tb", "c": {"b": 2, "t": "a\tb"}, "d": 2}


def test_json_is_read_as_json(tmp_path):
    (tmp_path / "x.json").write_text(json.dumps({"a": "\t\u2028", "b": [None, "", {}]}))

    assert hocon.load(tmp_path / "x.json") == {"a": "\t\u2028", "b": [None, "", {}]}


@pytest.mark.parametrize(("text", "says"), [('{"a": 1\n"b": 2}', "line 2"), ("[1]", "keys"), ('{"a": NaN}', "NaN")])
def test_wrong_json_is_an_error_with_file_and_line(tmp_path, text, says):
    (tmp_path / "x.json").write_text(text)

    with pytest.raises(JobError, match=f"mine.*{says}"):
        hocon.load(tmp_path / "x.json", name="mine")


def test_a_file_that_is_no_text_is_an_error(tmp_path):
    (tmp_path / "x.conf").write_bytes(b"a = \xff")

    with pytest.raises(JobError, match=r"x\.conf: byte 4 is not UTF-8"):
        hocon.load(tmp_path / "x.conf")


def test_json_comes_before_conf(tmp_path):
    for name in ("meta.conf", "meta.json"):
        (tmp_path / name).touch()

    assert hocon.find(tmp_path, "meta") == tmp_path / "meta.json"


BOMBS = {
    "text": ("a0 = xxxxxxxxxx\n", "a{j} = ${{a{i}}}${{a{i}}}\n"),
    "list": ("a0 = [x]\n", "a{j} = [${{a{i}}}, ${{a{i}}}]\n"),
    "object": ("a0 {{ x = 1 }}\n", "a{j} {{ x = ${{a{i}}}, y = ${{a{i}}} }}\n"),
    "path": ("a0 {{ x = 1 }}\n", "a{j}.x = ${{a{i}}}\na{j}.y = ${{a{i}}}\n"),
    "merge": ("a0 {{ x = 1 }}\n", "a{j} = ${{a{i}}} {{ y = ${{a{i}}}, z = ${{a{i}}} }}\n"),
    "itself": ("a = xxxxxxxxxx\n", "a = ${{a}}${{a}}\n"),
    "itself further in": ("b.a = [x]\n", "b {{ a = ${{b.a}} ${{b.a}} }}\n"),
    "an object itself": ("a {{ x = 1 }}\n", "a {{ x = ${{a}}, y = ${{a}} }}\n"),
}


@pytest.mark.parametrize(("kind", "backwards"), [(kind, False) for kind in BOMBS] + [("text", True), ("object", True)])
def test_what_substitutions_put_in_cannot_grow_without_end(kind, backwards):
    first, step = BOMBS[kind]
    lines = [first.format(), *(step.format(i=i, j=i + 1) for i in range(50))]

    with pytest.raises(JobError, match=r"^x\.conf: .*(too large|too many ways|not HOCON|Check for cycles)"):
        hocon.loads("".join(lines[::-1] if backwards else lines), name="x.conf")


def test_a_thousand_substitutions_are_no_bomb():
    text = "k0 = 1\n" + "".join(f"k{i + 1} = ${{k{i}}}\n" for i in range(1000))

    assert hocon.loads(text, name="x")["k1000"] == 1
    assert sys.getprofile() is None


def test_whoever_measures_while_a_file_is_read_goes_on_measuring():
    seen = []
    sys.setprofile(lambda *event: seen.append(event))
    try:
        assert hocon.loads("a = 1\nb = ${a}", name="x") == {"a": 1, "b": 1}
        assert sys.getprofile() is not None
    finally:
        sys.setprofile(None)

    assert seen


def test_includes_that_include_others_twice_each_are_refused_before_they_fill_the_memory(tmp_path):
    for number in range(40):
        (tmp_path / f"{number}.conf").write_text(f'include "{number + 1}.conf"\n' * 2)
    (tmp_path / "40.conf").write_text("a = 1")

    with pytest.raises(JobError, match="the included files are too large"):
        hocon.load(tmp_path / "0.conf")


@pytest.mark.parametrize("name", ["x.conf", "x.json"])
@pytest.mark.parametrize("kind", ["pipe", "socket", "device", "folder"])
def test_what_is_no_ordinary_file_is_an_error_and_never_waited_for(tmp_path, monkeypatch, name, kind):
    monkeypatch.chdir(tmp_path)
    match kind:
        case "pipe":
            os.mkfifo(name)
        case "socket":
            with socket.socket(socket.AF_UNIX) as listening:
                listening.bind(name)
        case "device":
            (tmp_path / name).symlink_to("/dev/zero")
        case "folder":
            (tmp_path / name).mkdir()

    with pytest.raises(JobError, match=f"^{name} is not a regular file"):
        hocon.load(tmp_path / name, name=name)


def test_a_file_larger_than_any_config_is_not_read(tmp_path):
    with (tmp_path / "x.conf").open("w") as file:
        file.truncate(1 << 40)

    with pytest.raises(JobError, match=r"x\.conf is larger than 1,000,000 bytes"):
        hocon.load(tmp_path / "x.conf")


@pytest.mark.parametrize("depth", [150, 950, 100_000])
def test_what_is_nested_too_deeply_is_an_error(depth):
    with pytest.raises(JobError, match=r"x: (nested too deeply|has more than 20,000 words)"):
        hocon.loads("a" + "{a" * depth + "=1" + "}" * depth, name="x")
    with pytest.raises(JobError, match="x: nested too deeply"):
        hocon.loads_json('{"a":' * depth + "1" + "}" * depth, name="x")


def test_more_words_than_pyhocon_reads_in_seconds_are_an_error_and_as_json_they_are_read():
    many = {f"key{number}": number for number in range(30_000)}

    with pytest.raises(JobError, match=r"many\.conf: has more than 20,000 words and signs") as error:
        hocon.loads("".join(f"{key} = {value}\n" for key, value in many.items()), name="many.conf")

    assert "JSON" in error.value.hint
    assert hocon.loads(json.dumps(many), name="many.conf") == many


def test_comments_alone_on_their_lines_cost_nothing_and_change_nothing():
    text = "# x\n  // y\n" * 50_000 + 'a = b # end\nc = """\n# kept\n"""\n'

    assert hocon.loads(text, name="x") == {"a": "b", "c": "\n# kept\n"}
