"""HOCON: every value comes back as it went in, and nothing is fetched from elsewhere."""

import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fedsag_cli.errors import JobError
from fedsag_cli.job import hocon

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


def test_a_tree_is_written_so_that_it_reads_the_same():
    tree = {"a.b": 1, "include": 2, "list": [{"x": ""}, {"y": [1.5, True]}], "empty": {}, "a b": "c", "": 1}

    assert hocon.loads(hocon.dumps(tree, name="x"), name="x") == tree


def test_a_key_hocon_cannot_write_is_an_error_that_names_it():
    with pytest.raises(JobError, match=r"x\.conf: HOCON has no way to write .*'a\"b'"):
        hocon.dumps({'a"b': 1}, name="x.conf")


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_what_hocon_has_no_words_for_is_refused(number):
    with pytest.raises(ValueError, match="no words"):
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
        ("a = 1\n\nb == 3", "line 3 is no HOCON: b == 3"),
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

    with pytest.raises(JobError, match=r"x\.conf: byte 4 is no UTF-8"):
        hocon.load(tmp_path / "x.conf")


def test_json_comes_before_conf(tmp_path):
    for name in ("meta.conf", "meta.json"):
        (tmp_path / name).touch()

    assert hocon.find(tmp_path, "meta") == tmp_path / "meta.json"


def test_a_file_that_cannot_be_written_stays_as_it_was(tmp_path):
    (tmp_path / "x.conf").write_text("a = 1")

    with pytest.raises(UnicodeEncodeError):
        hocon.write_whole(tmp_path / "x.conf", "a = \udc80")

    assert (tmp_path / "x.conf").read_text() == "a = 1"
    assert [path.name for path in tmp_path.iterdir()] == ["x.conf"]
