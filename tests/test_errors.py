"""The hint that names what is known."""

from __future__ import annotations

import pytest

from fedsag_cli.errors import nearest


@pytest.mark.parametrize(
    ("name", "known", "hint"),
    [
        ("site2", ["site-1", "site-2"], "did you mean 'site-2'?"),
        ("site-5", ["site-2", "server", "site-1"], "known: server, site-1, site-2"),
        ("site-99", ["site-10", "site-9"], "known: site-9, site-10"),
        ("x", [], ""),
        ("site-0", [f"site-{number}" for number in range(1, 10_001)], "known: site-1, site-2, site-3, … site-10000"),
    ],
)
def test_for_a_number_that_nobody_has_the_known_names_are_told_and_not_one_with_another_number(name, known, hint):
    assert nearest(name, known) == hint
