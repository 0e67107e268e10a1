"""HOCON that is JSON, but for lines of comments, is read without pyhocon, and says the same."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsag_cli.job.config import hocon

TEMPLATES = Path(__file__).resolve().parents[3] / "job_templates"


def by_pyhocon(text):
    return hocon._by_pyhocon(text, "x.conf", None)


@pytest.mark.parametrize("path", sorted(TEMPLATES.glob("*/info.conf")), ids=lambda path: path.parent.name)
def test_what_the_shipped_templates_say_of_themselves_needs_no_pyhocon(path):
    text = path.read_text()

    assert json.dumps(hocon._as_json(text)) == json.dumps(by_pyhocon(text))


@pytest.mark.parametrize(
    "text",
    [
        "", "# nothing", "a = 1", "[1]", "{}", "5", '{"a": 1, "a": 2}', '{"a": {"b": 1}, "a": {"c": 2}}',
        '{"a": "\\u0041"}', '{"a": "\\b"}', '{"a": 1e999}', '{"a": NaN}', '{"a": "x\ty"}', '{"a.b": 1}', '{"": 1}',
        '{"a": 1} # at the end of a line', '{"a": ${b}}', '{"a": ' + "[" * 200 + "]" * 200 + "}",
    ],
)  # fmt: skip
def test_all_else_is_left_to_pyhocon(text):
    assert hocon._as_json(text) is None


scalars = st.none() | st.booleans() | st.integers(-(10**15), 10**15) | st.floats(-1e15, 1e15) | st.text(max_size=20)
trees = st.dictionaries(
    st.sampled_from(["a", "b-c", "site-1", "_x", "k9", "@ALL", "include"]),
    st.recursive(
        scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["x", "y"]), inner)
    ),
    min_size=1,
)


@settings(max_examples=300)
@given(trees)
def test_what_is_read_as_json_is_what_pyhocon_reads(tree):
    text = json.dumps(tree, ensure_ascii=False, indent=1)

    read = hocon._as_json(text)

    if read is not None:
        assert json.dumps(read) == json.dumps(by_pyhocon(text))
