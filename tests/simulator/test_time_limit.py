"""The time that a run may take: how it is written, and when it is over."""

import contextlib
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsag_cli.errors import OutOfTime, UsageError
from fedsag_cli.simulator.time_limit import TimeLimit, seconds_in, time_limit


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90), ("90s", 90), ("10m", 600), ("1h30m", 5400), ("1.5h", 5400), ("2d", 172800), ("1d2h3m4s", 93784),
        ("1H 30M", 5400), ("0.5", 0.5),
    ],
)  # fmt: skip
def test_a_time_is_a_number_of_seconds_or_numbers_with_units(text, seconds):
    assert seconds_in(text) == seconds


@pytest.mark.parametrize(
    "text", ["", " ", "m", "10x", "30m1h", "1m1m", "-5m", "1e3", "nan", "inf", "10 minutes", "1h30"]
)
def test_what_is_no_time_is_refused_with_examples(text):
    with pytest.raises(UsageError, match=r"--max-time .* is not a time") as refused:
        seconds_in(text)

    assert refused.value.hint == "examples: 90s, 10m, 1h30m, 2d"


@pytest.mark.parametrize("text", ["0", "0s", "0h0m", "367d", "9" * 400])
def test_no_time_at_all_and_a_time_without_end_are_refused(text):
    with pytest.raises(UsageError, match="more than 0 s and at most 366 days"):
        seconds_in(text)


@given(st.dictionaries(st.sampled_from("dhms"), st.integers(0, 99), min_size=1))
def test_a_time_is_the_sum_of_its_parts(parts):
    text = "".join(f"{parts[unit]}{unit}" for unit in "dhms" if unit in parts)
    total = sum(number * {"d": 86400, "h": 3600, "m": 60, "s": 1}[unit] for unit, number in parts.items())

    if total:
        assert seconds_in(text) == total
    else:
        with pytest.raises(UsageError, match="more than 0 s"):
            seconds_in(text)


@given(st.text())
def test_any_text_is_a_time_or_is_refused(text):
    with contextlib.suppress(UsageError):
        assert 0 < seconds_in(text) <= 366 * 86400


def test_a_limit_whose_time_runs_stays_the_same():
    limit = time_limit("1m")

    assert time_limit(limit) is limit


def test_without_a_limit_there_is_none():
    assert time_limit(None) is None


def test_a_limit_begins_when_it_is_made_and_names_itself_when_it_is_over():
    limit = time_limit("1h")
    limit.check()
    assert 0 < limit.left_s <= 3600

    over = TimeLimit("10m", ends=time.monotonic() - 1)
    assert over.left_s == 0.0
    with pytest.raises(OutOfTime, match=r"^the run took longer than --max-time 10m$"):
        over.check()
