"""The hint that names what is known."""

from __future__ import annotations

import pytest

from fedsag_cli.errors import Gathering, JobError, UsageError, nearest


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


def gather(*errors, then=None):
    with Gathering() as found:
        for error in errors:
            found.add(error)
        if then is not None:
            raise then


def test_errors_that_are_gathered_are_raised_at_the_end_the_first_with_the_others_each_once():
    one = JobError("one", hint="h", file="f", at=("a", 0))

    with pytest.raises(JobError) as raised:
        gather(one, JobError("two"), JobError("one"), then=JobError("three"))

    assert (raised.value.message, raised.value.hint, raised.value.at) == ("one", "h", ("a", 0))
    assert [each.message for each in raised.value.others] == ["two", "three"]


def test_what_was_gathered_comes_before_a_wrong_option_and_never_hides_a_bug():
    with pytest.raises(JobError):
        gather(JobError("one"), then=UsageError("-n 0"))
    with pytest.raises(UsageError):
        gather(then=UsageError("-n 0"))
    with pytest.raises(ZeroDivisionError):
        gather(JobError("one"), then=ZeroDivisionError())


def test_a_check_that_fails_gives_nothing_and_those_after_it_are_made():
    def fails():
        raise JobError("one")

    with pytest.raises(JobError, match="one"), Gathering() as found:
        assert (found.attempt(fails), found.attempt(int, "3")) == (None, 3)
