"""The line of each key, in what users write and in whatever fedsag writes."""

import json
from pathlib import Path
from textwrap import dedent

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsag_cli.job.config import hocon, tree, yml
from fedsag_cli.job.config.lines import Place, place_of, places

KEYS = st.text("abcxyz_", min_size=1, max_size=4)
LEAVES = st.one_of(st.integers(), st.booleans(), st.text("ab {}[]=:,#/.$\"'\\", max_size=6))
TREES = st.dictionaries(
    KEYS,
    st.recursive(
        LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=12
    ),
    min_size=1,
    max_size=4,
)


@pytest.fixture
def found(tmp_path):
    def found(text, suffix=".conf", **others):
        for name, other in others.items():
            (tmp_path / f"{name}.conf").write_text(dedent(other))
        (tmp_path / f"x{suffix}").write_text(dedent(text))
        where = places(tmp_path / f"x{suffix}", name=f"app/x{suffix}")
        return {tree.written(at): (Path(place.file).name, place.line) for at, place in where.items()}

    return found


def test_keys_of_hocon_have_their_lines(found):
    lines = found(
        """\
        # a comment = {
        a = 1   // another
        b.c : "a = { text"
        d {
          e = [1, 2,
            {f = 3}
          ]
          "g.h" =
            4
        }
        i = ${a} {j = 5}
        a = 6, k = \"\"\"
        many = lines
        \"\"\"
        l = http://x/y
        m += 7
        """
    )

    assert lines == {
        "a": ("x.conf", 12),
        "b": ("x.conf", 3),
        "b.c": ("x.conf", 3),
        "d": ("x.conf", 4),
        "d.e": ("x.conf", 5),
        "d.e[0]": ("x.conf", 5),
        "d.e[1]": ("x.conf", 5),
        "d.e[2]": ("x.conf", 6),
        "d.e[2].f": ("x.conf", 6),
        'd."g.h"': ("x.conf", 8),
        "i": ("x.conf", 11),
        "i.j": ("x.conf", 11),
        "k": ("x.conf", 12),
        "l": ("x.conf", 15),
        "m": ("x.conf", 16),
    }


def test_what_is_included_has_its_place_in_the_other_file(found):
    lines = found('a { \n include "y.conf"\n}\nc = 2', y="\n\nb = 1")

    assert lines == {"a": ("x.conf", 1), "a.b": ("y.conf", 3), "c": ("x.conf", 4)}


def test_what_is_not_there_has_the_place_of_what_it_would_be_in():
    found = {("a",): Place("x", 1), ("a", "b"): Place("x", 2)}

    assert place_of(found, ("a", "b", 0, "c")) == Place("x", 2)
    assert place_of(found, ("d",)) is None


def test_a_file_that_cannot_be_read_has_no_lines(tmp_path, found):
    assert places(tmp_path / "nowhere.conf", name="x") == {}
    assert found("a = 1\nb }") == {"a": ("x.conf", 1), "b": ("x.conf", 2)}  # what comes before the mistake
    assert found("a: [", ".yml") == {}


@pytest.mark.parametrize("suffix", [".conf", ".json", ".yml"])
@given(values=TREES)
def test_every_value_that_is_written_is_found_on_a_line_that_has_its_key(tmp_path_factory, suffix, values):
    path = tmp_path_factory.getbasetemp() / f"lines{suffix}"
    text = {".conf": lambda: hocon.dumps(values, name="x"), ".json": lambda: json.dumps(values, indent=1)}.get(
        suffix, lambda: yml.dumps(values)
    )()
    path.write_text(text)

    found, lines = places(path, name="x"), text.split("\n")

    assert set(found) == {at for at, _ in tree.walk(values)}
    for at, place in found.items():
        if isinstance(at[-1], str):
            assert at[-1] in lines[place.line - 1]
    order = [found[at].line for at, _ in tree.walk(values)]
    assert order == sorted(order)
