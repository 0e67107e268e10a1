"""How far a run is, and how long it will still take."""

from __future__ import annotations

import itertools

import pytest
from histories import START, history

from fedsag_cli import events
from fedsag_cli.cli.pace import Pace


def replayed(told, slots, step=0.25):
    """At each moment, (round, share, seconds left as told, seconds left in truth)."""
    pace, end, left = Pace(slots=slots), told[-1].at, list(told)
    moment = START
    while moment < end:
        while left[0].at <= moment:
            pace.on(left.pop(0))
        if pace.round is not None:
            yield pace.round.round_num, pace.share, pace.left_s(moment), end - moment
        moment += step


@pytest.mark.parametrize(
    ("clients", "slots"), [(2, 2), (16, 4), (200, 8), (3, 8)], ids=["2 of 2", "16 of 4", "200 of 8", "more slots"]
)
def test_the_time_left_is_nearly_true_after_the_first_round_and_never_grows_within_a_round(clients, slots):
    told = history(clients, slots=slots, rounds=5, start_s=1.0)
    whole = told[-1].at - START

    shown = list(replayed(told, slots))

    for before, after in itertools.pairwise(shown):
        if before[0] == after[0] and before[2] is not None:
            assert after[2] <= before[2]
    assert all(abs(left - truth) < 0.05 * whole for round_num, _, left, truth in shown if round_num >= 1)
    shares = [share for _, share, *_ in shown]
    assert shares == sorted(shares)
    assert shares[-1] <= 1.0


def test_the_processes_that_start_in_the_first_round_do_not_count_for_the_others():
    """Two clients start for 30 s and work one second; nine rounds of about a second are left."""
    told = history(2, slots=2, rounds=10, start_s=30.0, work_s=lambda client, round_num: 1.0, save_s=0.0)

    left = [left for round_num, _, left, _ in replayed(told, 2) if round_num == 1]

    assert left[0] == 9.0


def test_clients_that_are_asked_one_after_the_other_are_not_expected_to_work_at_once():
    """As in a cyclic workflow: three clients work two seconds each, and all of them could work at the same time."""
    told = history(3, slots=1, rounds=3, start_s=0.0, work_s=lambda client, round_num: 2.0, save_s=0.0)

    shown = list(replayed(told, 3))

    assert next(left for _, _, left, _ in shown if left is not None) == 4.0 + 12.0
    assert next((left, truth) for round_num, _, left, truth in shown if round_num == 1) == (12.0, 12.0)


def test_where_all_work_at_once_nothing_is_told_before_the_first_round_is_done():
    told = history(4, slots=4, work_s=lambda client, round_num: 1.0 + client)

    assert {left for round_num, _, left, _ in replayed(told, 4) if round_num == 0} == {None}


def test_where_some_wait_for_a_slot_the_first_answers_give_an_estimate():
    """Eight clients, two at a time, a second each: after the first two, three seconds of four are left, and a round."""
    told = history(8, slots=2, rounds=2, start_s=0.0, work_s=lambda client, round_num: 1.0, save_s=0.0)

    first = next(left for _, _, left, _ in replayed(told, 2) if left is not None)

    assert first == 3.0 + 4.0


def test_a_last_round_that_takes_longer_than_the_others_is_told():
    told = history(2, slots=2, rounds=3, work_s=lambda client, round_num: 20.0 if round_num == 2 else 1.0)

    left = [left for _, _, left, _ in replayed(told, 2)]

    assert min(each for each in left if each is not None) < -10.0


def test_a_resumed_run_counts_the_rounds_that_were_done_before():
    pace = Pace(slots=1)

    pace.on(events.RoundStarted(round_num=3, first_round=0, num_rounds=4, sites=["a", "b"], at=0.0))
    assert pace.share == 0.75

    pace.on(events.NotAwaited(site="a", task="train", round_num=3, at=1.0))
    assert pace.share == 0.875
