"""Configs in YAML."""

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsag_cli.errors import JobError
from fedsag_cli.job import yml

TEXTS = st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]))
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)
LOOKS = """\
lr: 1e-3
small: 1.5E-4
half: .5
rounds: 5
day: 2024-01-02
name: 1.2.3
none: null
word: 1e
"""


class Plain(yaml.SafeDumper):
    def ignore_aliases(self, data):
        return True


def load(text):
    return yml.loads(text, name="meta.yml")


def test_numbers_texts_and_dates_are_what_they_look_like():
    assert load(LOOKS) == {
        "lr": 0.001,
        "small": 0.00015,
        "half": 0.5,
        "rounds": 5,
        "day": "2024-01-02",
        "name": "1.2.3",
        "none": None,
        "word": "1e",
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [1\n", "meta.yml: line 2 is no YAML"),
        ("a: &x [1]\nb: *x\n", "line 2: an alias"),
        ("a: !!python/object/apply:os.system ['true']\n", "line 1 is no YAML"),
        ("- 1\n", "must hold keys and values, not list"),
        ("", "must hold keys and values, not NoneType"),
        ("1: 2\n", "every key must be a text"),
        ("a:\n  on: 1\n", "a: every key must be a text"),
        ("a: !!binary aGk=\n", "is no plain value"),
        ("a: !!set {x}\n", "is no plain value"),
        ("{" + "a: {" * 200 + "}" * 200 + "}", "nested too deeply"),
        ("a: {" * 20_000, "nested too deeply"),
    ],
)
def test_what_is_no_config_is_refused_naming_the_place(text, said):
    with pytest.raises(JobError) as raised:
        load(text)
    assert said in raised.value.message


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(TEXTS, PLAIN, max_size=4))
def test_any_plain_tree_comes_back_as_yaml_has_written_it(values):
    """Texts in quotes: without them `0E0` is a number here, and a text to the one who wrote it."""
    assert load(yaml.dump(values, Dumper=Plain, allow_unicode=True, default_style='"')) == values
