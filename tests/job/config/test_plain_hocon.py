"""What is read without pyhocon is what pyhocon reads."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsag_cli.errors import JobError
from fedsag_cli.job.config import hocon, plain_hocon

TEMPLATES = Path(__file__).resolve().parents[3] / "job_templates"
INFOS = sorted(TEMPLATES.glob("*/info.conf"))


def by_pyhocon(text):
    return hocon._by_pyhocon(text, "x.conf", None)


@pytest.mark.parametrize("path", INFOS, ids=lambda path: path.parent.name)
def test_what_the_shipped_templates_say_of_themselves_needs_no_pyhocon(path):
    text = path.read_text()

    assert json.dumps(plain_hocon.loads(text)) == json.dumps(by_pyhocon(text))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a = 1", {"a": 1}),
        ("{ a : 1 }\n# end", {"a": 1}),
        ("a {}\nb = []\n", {"a": {}, "b": []}),
        ("a { b = -1.5e-3, c = null } # 'x' \"\n\n  d-e = [1, {f = true}\n [] # in a list\n \"x\"]", {
            "a": {"b": -0.0015, "c": None}, "d-e": [1, {"f": True}, [], "x"]
        }),
        ('"site-1" = "a\\\\n \\" \\t\t{b} ${c} #"', {"site-1": 'a\\n " \t\t{b} ${c} #'}),
    ],
)  # fmt: skip
def test_keys_values_and_comments_are_read(text, says):
    assert plain_hocon.loads(text) == says == by_pyhocon(text)


@pytest.mark.parametrize(
    "text",
    [
        "", "# nothing", "a", "a =", "a = b", "a = 5 s", "a = 1 2", "a = [1 2]", 'a = "x" "y"', "a = 1,, b = 2",
        "a = [1,]", "a = {b = 1},", "a = ${b}", 'include "b"', "a.b = 1", "a = 1\na = 2", "a { b = 1 }\na { c = 2 }",
        "a = {} {}", "a += 1", "a = 01", "a = .5", "a = 1.", "a = +1", 'a = "\\u0041"', 'a = """b"""', "a = 1 // b",
        "a = True", "[1]", "{ a = 1", "a = 1 }", "a = [", "a b = 1", "a = 1\r\nb = 2", "a = " + "[" * 60 + "]" * 60,
        "a = 12345678901234567890", '"a.b" = 1', "a =\n1", "a = 1 b = 2",
    ],
)  # fmt: skip
def test_all_else_is_left_to_pyhocon(text):
    assert plain_hocon.loads(text) is None


scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
trees = st.dictionaries(
    st.sampled_from(["a", "b-c", "site-1", "_x", "k9"]),
    st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["p", "q", "r s"]), inner)),
)


@given(trees)
@settings(max_examples=150, deadline=None)
def test_what_is_written_here_is_read_as_pyhocon_reads_it(tree):
    text = "".join(f"{line}\n" for line in hocon._assignments(tree, ""))

    plain = plain_hocon.loads(text)

    assert plain is None or json.dumps(plain) == json.dumps(by_pyhocon(text)) == json.dumps(tree)


pieces = st.sampled_from(
    ["a", "b", " = ", "=", ":", "{", "}", "[", "]", ",", "\n", " ", "\t", "# c\n", "#", "1", "-2", "1.5", "0", "1e3",
     "null", "true", '"x"', '""', '"\\n"', "s", "//", "$", ".", "+", "{ a = 1 }", "a = 1\n", "b = [1, 2]\n"]
)  # fmt: skip


@given(st.lists(pieces, max_size=14).map("".join))
@settings(max_examples=1500, deadline=None)
def test_whatever_is_read_without_pyhocon_is_what_pyhocon_reads(text):
    plain = plain_hocon.loads(text)

    if plain is not None:
        try:
            expected = by_pyhocon(text)
        except JobError as error:
            expected = error.message
        assert json.dumps(plain) == json.dumps(expected)
