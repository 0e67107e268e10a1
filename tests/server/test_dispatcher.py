"""The dispatcher by written histories: when what happens, and what is decided."""

import sys

import msgspec
import pytest

from fedsag_cli.events import Failure
from fedsag_cli.plan import ClientConfig
from fedsag_cli.server.clients import Client, Roster, RosterOfNames, State
from fedsag_cli.server.decisions import (
    Accept,
    Admit,
    Answered,
    Asked,
    Begun,
    Connected,
    Disconnected,
    Drop,
    EndChannel,
    Exited,
    Fail,
    Finish,
    Give,
    Keep,
    Left,
    MemoryShort,
    QuorumLost,
    Rejected,
    Release,
    Returned,
    Send,
    Served,
    Skip,
    Start,
    StrictFailure,
    TimePassed,
    WaitOn,
    Wanted,
    Warn,
)
from fedsag_cli.server.dispatcher import Dispatcher
from fedsag_cli.wire.messages import Usage

NOT_ASKED = "its script ended without asking for a task: flare.receive() was not reached"
NOT_ANSWERED = "its script ended without answering its task: flare.send() was not reached"
KEY_ERROR = Failure(cause="KeyError: 'fc'", where="/job/train.py:7")
ENDED = msgspec.structs.replace(KEY_ERROR, exit_code=1)


LOWER = "in a new run, lower the number of answers that are needed, such as min_clients"


def dispatcher(
    sites="ab", *, slots=9, strict=False, waits_for_all=False, free=0, groups=None, each=(), limits=None, roster=None
):
    """`each`: the sites whose script is started for each task. `limits`: launch_timeout by site."""
    return Dispatcher(
        roster
        or Roster(
            Client(
                number,
                site,
                ClientConfig(launch_once=site not in each, launch_timeout=(limits or {}).get(site, 300.0)),
                (groups or {}).get(site, 0),
            )
            for number, site in enumerate(sites)
        ),
        slots=slots,
        strict=strict,
        waits_for_all=waits_for_all,
        free_memory=lambda: free,
    )


def play(server, *history):
    """Each line is (time, what happened, decisions). The workflow waits for replies as soon as it has begun a task."""
    for line, (now, happened, *decisions) in enumerate(history):
        assert happen(server, now, happened) == decisions, f"line {line}: {happened}"


def happen(server, now, *happenings):
    """What is decided, the last time."""
    for happened in happenings:
        decided = server.handle(happened, now)
        if isinstance(happened, Begun):
            decided += server.handle(Wanted(happened.task_id), now)
    return decided


def up(server, *sites, now=0.0):
    """They have answered a first task, and wait."""
    server.handle(Begun(90, tuple(sites)), now)
    for site in sites:
        server.handle(Connected(site), now)
        server.handle(Asked(site), now)
        server.handle(Answered(site, 90), now)
    for _ in sites:
        server.handle(Wanted(90), now)
    server.handle(Left(90), now)
    assert all(server.clients[site].state is State.WAITING for site in sites)
    return server


def failed(task_id, site, cause, *, hangs=False):
    return Fail(task_id, site, Failure(cause=cause), hangs)


# the way of a task


def test_a_client_is_asked_what_memory_it_holds_only_while_others_have_not_started():
    play(
        dispatcher("ab", slots=1),
        (0, Begun(1, ("a",)), Start("a")),
        (1, Connected("a")),
        (1, Asked("a"), Admit("a"), Send(1, "a", True)),
        (3, Answered("a", 1), Keep(1, "a", 2), Give(1, "a")),
        (4, Wanted(1), Accept(1, "a"), Finish(1)),
        (4, Left(1)),
        (5, Begun(2, ("b",)), Start("b")),
        (6, Connected("b")),
        (6, Asked("b"), Admit("b"), Send(2, "b")),
    )


def test_a_client_is_started_asks_answers_and_is_given_in_its_turn():
    play(
        dispatcher("a"),
        (0, Begun(1, ("a",)), Start("a")),
        (1, Connected("a")),
        (1, Asked("a"), Admit("a"), Send(1, "a")),
        (3, Answered("a", 1), Keep(1, "a", 2), Give(1, "a")),
        (4, Wanted(1), Accept(1, "a"), Finish(1)),
        (4, Left(1)),
    )


def test_a_reply_waits_for_those_before_it():
    play(
        up(dispatcher("abc"), "a", "b", "c"),
        (0, Begun(1, ("c", "b", "a")), Send(1, "a"), Send(1, "b"), Send(1, "c")),
        (1, Answered("b", 1), Keep(1, "b", 1)),
        (2, Answered("c", 1), Keep(1, "c", 2)),
        (3, Answered("a", 1), Keep(1, "a", 3), Give(1, "a")),
        (4, Wanted(1), Accept(1, "a"), Give(1, "b")),
        (4, Wanted(1), Accept(1, "b"), Give(1, "c")),
        (4, Wanted(1), Accept(1, "c"), Finish(1)),
    )


def test_a_failure_lets_the_next_reply_pass():
    play(
        up(dispatcher(), "a", "b"),
        (0, Begun(1, ("a", "b")), Send(1, "a"), Send(1, "b")),
        (1, Answered("b", 1), Keep(1, "b", 1)),
        (
            2,
            Exited("a", 3),
            Fail(1, "a", Failure(cause="its process ended with exit code 3", exit_code=3)),
            Give(1, "b"),
        ),
    )


def test_a_rejected_reply_is_a_failure_and_is_not_accepted():
    play(
        up(dispatcher("a"), "a"),
        (0, Begun(1, ("a",)), Send(1, "a")),
        (1, Answered("a", 1), Keep(1, "a", 1), Give(1, "a")),
        (2, Rejected(1, "a", Failure(cause="it does not fit")), failed(1, "a", "it does not fit")),
        (2, Rejected(1, "a", Failure(cause="once more"))),
        (3, Wanted(1), Finish(1)),
    )


def test_a_task_that_cannot_be_sent_fails_for_everybody():
    refused = Failure(cause="the filter failed")
    play(
        dispatcher(),
        (0, Begun(1, ("a", "b"), refused=refused), Fail(1, "a", refused), Fail(1, "b", refused), Finish(1)),
    )


# slots


def test_a_free_slot_goes_to_the_next_in_site_order_before_the_reply_is_given():
    """Before, the slot was idle while the workflow worked on the reply."""
    play(
        dispatcher("abc", slots=1),
        (0, Begun(1, ("a", "b", "c")), Start("a")),
        (1, Connected("a")),
        (1, Asked("a"), Admit("a"), Send(1, "a", True)),
        (2, Answered("a", 1), Keep(1, "a", 1), Start("b"), Give(1, "a")),
        (3, Exited("b", 0), Fail(1, "b", Failure(cause=NOT_ASKED, exit_code=0)), Start("c")),
    )


def test_the_slots_are_a_groups_own():
    play(
        dispatcher("abcd", slots=1, groups={"b": 1, "d": 1}),
        (0, Begun(1, ("a", "b", "c", "d")), Start("a"), Start("b")),
        (1, Connected("b")),
        (1, Asked("b"), Admit("b"), Send(1, "b", True)),
        (2, Answered("b", 1), Keep(1, "b", 1), Start("d")),
    )


def test_one_that_says_it_is_ready_while_it_works_keeps_its_slot_and_its_task():
    """Before, its slot was free, and it was sent the same task again."""
    play(
        up(dispatcher(slots=1), "a"),
        (0, Begun(1, ("a", "b")), Send(1, "a", True)),
        (1, Asked("a")),
        (2, Answered("a", 1), Keep(1, "a", 2), Start("b"), Give(1, "a")),
    )


def test_an_answer_to_another_task_is_dropped_and_the_client_still_works():
    """Before, its slot was free, and it was sent the same task again."""
    play(
        up(dispatcher(slots=1), "a"),
        (0, Begun(1, ("a", "b")), Send(1, "a", True)),
        (1, Answered("a", 99), Drop("a")),
        (2, Answered("a", 1), Keep(1, "a", 2), Start("b"), Give(1, "a")),
        (3, Answered("a", 1), Drop("a")),
    )


def test_when_the_workflow_leaves_it_has_the_reply_that_it_got_unless_it_rejected_it():
    """Before, nothing told of a reply after which the workflow asked for no more."""
    unfit = Failure(cause="it does not fit")
    for rejects in (False, True):
        play(
            up(dispatcher(), "a", "b"),
            (0, Begun(1, ("a", "b")), Send(1, "a"), Send(1, "b")),
            (1, Answered("a", 1), Keep(1, "a", 1), Give(1, "a")),
            *([(2, Rejected(1, "a", unfit), Fail(1, "a", unfit))] if rejects else []),
            (2, Left(1), *([] if rejects else [Accept(1, "a")])),
        )


def test_when_the_workflow_leaves_a_task_those_at_work_on_it_hold_no_slot():
    """Before, b held the only slot, and a waited for it without end."""
    play(
        up(dispatcher(slots=1), "a"),
        (0, Begun(1, ("a", "b")), Send(1, "a", True)),
        (1, Answered("a", 1), Keep(1, "a", 1), Start("b"), Give(1, "a")),
        (2, Left(1), Accept(1, "a")),
        (2, Begun(2, ("a",)), Send(2, "a")),
    )


def test_one_that_works_on_a_task_that_was_left_has_its_full_time_for_the_next_one():
    """Before, its time counted from when it was sent the earlier task, and it was given up at once."""
    server = up(dispatcher(), "a", "b")
    play(
        server,
        (0, Begun(1, ("a", "b")), Send(1, "a"), Send(1, "b")),
        (1, Answered("a", 1), Keep(1, "a", 1), Give(1, "a")),
        (50, Left(1), Accept(1, "a")),
        (100, Begun(2, ("b",), timeout_s=60.0)),
    )
    assert server.due == 160
    play(
        server,
        (110, Answered("b", 1), Drop("b"), Send(2, "b")),
        (120, Answered("b", 2), Keep(2, "b", 10), Give(2, "b")),
    )


# time


def test_the_time_of_a_client_begins_when_it_is_sent_the_task():
    server = up(dispatcher(slots=1), "a", "b")
    play(server, (0, Begun(1, ("a", "b"), timeout_s=5.0), Send(1, "a")))
    assert server.due == 5
    play(
        server,
        (4.9, TimePassed()),
        (
            5,
            TimePassed(),
            failed(1, "a", "no answer within 5.0 s of receiving the task", hangs=True),
            Send(1, "b"),
        ),
    )
    assert server.due == 10


def test_the_grace_counts_for_each_from_when_it_was_sent_the_task():
    server = up(dispatcher("abc", slots=2), "a", "b", "c")
    play(
        server,
        (0, Begun(1, ("a", "b", "c"), min_responses=1, grace_s=2.0), Send(1, "a"), Send(1, "b")),
        (3, Answered("a", 1), Keep(1, "a", 3), Send(1, "c"), Give(1, "a")),
        (3, Wanted(1), Accept(1, "a")),
    )
    assert server.due == 5  # b: 3 s as the quorum took, and 2 s
    play(server, (5, TimePassed(), Skip(1, "b")))
    assert server.due == 8


def test_one_that_is_not_waited_for_has_not_failed_and_takes_the_next_task():
    """Before, it counted as failed: a healthy client that was slower than the others."""
    play(
        up(dispatcher("abc"), "a", "b", "c"),
        (0, Begun(1, ("a", "b", "c"), 2, grace_s=0.0), Send(1, "a"), Send(1, "b"), Send(1, "c")),
        (1, Answered("c", 1), Keep(1, "c", 1)),
        (2, Answered("a", 1), Keep(1, "a", 2), Give(1, "a")),
        (2, TimePassed(), Skip(1, "b")),
        (3, Wanted(1), Accept(1, "a"), Give(1, "c")),
        (3, Wanted(1), Accept(1, "c"), Finish(1)),
        (3, Left(1)),
        (4, Begun(2, ("a", "b", "c"), 2, grace_s=0.0), Send(2, "a"), Send(2, "c")),
        (5, Answered("b", 1), Drop("b"), Send(2, "b")),
        (6, Answered("b", 2), Keep(2, "b", 1)),
    )


def test_one_that_needs_more_than_the_timeout_has_failed_whatever_the_grace():
    cause = "no answer within 3.0 s of receiving the task"
    play(
        up(dispatcher(), "a", "b"),
        (0, Begun(1, ("a", "b"), min_responses=1, timeout_s=3.0, grace_s=9.0), Send(1, "a"), Send(1, "b")),
        (1, Answered("a", 1), Keep(1, "a", 1), Give(1, "a")),
        (3, TimePassed(), failed(1, "b", cause, hangs=True)),
    )


def test_those_that_are_not_waited_for_cannot_make_up_for_a_reply_that_is_rejected_later():
    unfit = Failure(cause="it does not fit")
    play(
        up(dispatcher(), "a", "b"),
        (0, Begun(1, ("a", "b"), min_responses=1, grace_s=0.0), Send(1, "a"), Send(1, "b")),
        (1, Answered("a", 1), Keep(1, "a", 1), Give(1, "a")),
        (1, TimePassed(), Skip(1, "b")),
        (2, Rejected(1, "a", unfit), Fail(1, "a", unfit), QuorumLost(1, 1, 0, "a: it does not fit", LOWER)),
    )


@pytest.mark.parametrize("how", [{"waits_for_all": True}, {"strict": True}], ids=["a seed", "strict"])
def test_with_a_seed_or_strict_all_are_waited_for_and_that_is_told_once(how):
    """Before, who took part depended on the clock, and so did the model; with strict, the run failed."""
    server = up(dispatcher("abc", **how), "a", "b", "c")
    play(
        server,
        (0, Begun(1, ("a", "b", "c"), 1, grace_s=2.0), Send(1, "a"), Send(1, "b"), Send(1, "c")),
        (1, Answered("a", 1), Keep(1, "a", 1), Give(1, "a")),
    )
    assert server.due == 3
    play(server, (3, TimePassed(), WaitOn(("b", "c"))))
    assert server.due is None, "there is no train_timeout"
    play(
        server,
        (500, Answered("c", 1), Keep(1, "c", 500)),
        (500, Answered("b", 1), Keep(1, "b", 500)),
        (501, Wanted(1), Accept(1, "a"), Give(1, "b")),
        (501, Left(1), Accept(1, "b")),
        (600, Begun(2, ("a", "b"), 1, grace_s=0.0), Send(2, "a"), Send(2, "b")),
        (601, Answered("a", 2), Keep(2, "a", 1), Give(2, "a")),
    )
    assert server.due is None, "it was told before"


def test_with_a_seed_one_that_hangs_fails_at_the_timeout_and_one_that_has_failed_is_not_waited_for():
    cause = "no answer within 30.0 s of receiving the task"
    server = up(dispatcher("abc", waits_for_all=True), "a", "b", "c")
    play(
        server,
        (0, Begun(1, ("a", "b", "c"), 1, 30.0, 0.0), Send(1, "a"), Send(1, "b"), Send(1, "c")),
        (1, Answered("a", 1), Keep(1, "a", 1), Give(1, "a")),
        (1, TimePassed(), WaitOn(("b", "c"))),
        (
            2,
            Exited("b", 1, KEY_ERROR),
            Fail(1, "b", Failure(cause=KEY_ERROR.cause, where=KEY_ERROR.where, exit_code=1)),
        ),
        (3, Wanted(1), Accept(1, "a")),
        (30, TimePassed(), failed(1, "c", cause, hangs=True), Finish(1)),
    )


def test_a_rejected_reply_is_no_part_of_the_quorum_that_lets_the_grace_begin():
    server = up(dispatcher(), "a", "b")
    play(
        server,
        (0, Begun(1, ("a", "b"), min_responses=1, grace_s=2.0), Send(1, "a"), Send(1, "b")),
        (1, Answered("a", 1), Keep(1, "a", 1), Give(1, "a")),
    )
    assert server.due == 3
    play(server, (1, Rejected(1, "a", Failure(cause="it does not fit")), failed(1, "a", "it does not fit")))
    assert server.due is None


def test_a_late_answer_is_dropped_and_the_client_takes_the_next_task():
    play(
        up(dispatcher(), "a", "b"),
        (0, Begun(1, ("a", "b"), timeout_s=5.0), Send(1, "a"), Send(1, "b")),
        (1, Answered("b", 1), Keep(1, "b", 1)),
        (5, TimePassed(), failed(1, "a", "no answer within 5.0 s of receiving the task", hangs=True), Give(1, "b")),
        (6, Wanted(1), Accept(1, "b"), Finish(1)),
        (6, Left(1)),
        (7, Begun(2, ("a", "b"), timeout_s=5.0), Send(2, "b")),
        (8, Answered("a", 1), Drop("a"), Send(2, "a")),
        (9, Answered("a", 2), Keep(2, "a", 1), Give(2, "a")),
    )


def test_one_that_still_works_on_an_earlier_task_is_said_to():
    first = failed(1, "a", "no answer within 5.0 s of receiving the task", hangs=True)
    second = failed(2, "a", "no answer within 5.0 s: it still works on an earlier task", hangs=True)
    play(
        up(dispatcher("a"), "a"),
        (0, Begun(1, ("a",), timeout_s=5.0), Send(1, "a")),
        (5, TimePassed(), first, Finish(1)),
        (6, Begun(2, ("a",), timeout_s=5.0)),
        (11, TimePassed(), second, Finish(2)),
    )


def test_one_that_never_asks_for_a_task_fails_at_its_launch_timeout_and_in_each_later_round():
    """Before, a later round without a time limit waited for it without end."""
    cause = "it did not ask for a task within {} s: flare.receive() was not reached"
    server = dispatcher(limits={"a": 30.0})
    play(
        server,
        (0, Begun(1, ("a",)), Start("a")),
        (30, TimePassed(), failed(1, "a", cause.format(30), hangs=True), Finish(1)),
        (40, Begun(2, ("a",))),
    )
    assert server.due <= 40
    play(
        server,
        (40, TimePassed(), failed(2, "a", cause.format(40), hangs=True), Finish(2)),
        (41, Connected("a")),
        (42, Asked("a"), Admit("a")),
        (43, Begun(3, ("a",)), Send(3, "a", True)),
    )


# ends


def test_a_process_that_ends_says_why_and_is_out_of_the_run():
    told = Failure(cause=KEY_ERROR.cause, where=KEY_ERROR.where, exit_code=1)
    play(
        up(dispatcher(), "a", "b"),
        (0, Begun(1, ("a", "b"), round_num=3), Send(1, "a"), Send(1, "b")),
        (1, Disconnected("a")),
        (1, Exited("a", 1, KEY_ERROR), Fail(1, "a", told)),
        (2, Left(1)),
        *(
            (
                3,
                Begun(number, ("a",)),
                failed(number, "a", f"out of the run since round 3: {KEY_ERROR.cause}"),
                Finish(number),
            )
            for number in (2, 3)
        ),
    )


@pytest.mark.parametrize(
    ("before", "code", "cause"),
    [
        ((Connected("a"),), 0, NOT_ASKED),
        ((Connected("a"),), 3, "its process ended with exit code 3"),
        ((Connected("a"),), -9, "it was killed by signal 9 (SIGKILL): perhaps out of memory"),
        ((Connected("a"), Asked("a")), 0, NOT_ANSWERED),
    ],
)
def test_a_process_that_ends_without_a_word_has_a_cause(before, code, cause):
    server = dispatcher("a")
    happen(server, 0, Begun(1, ("a",)), *before)

    play(server, (1, Exited("a", code), Fail(1, "a", Failure(cause=cause, exit_code=code)), Finish(1)))


def test_one_that_answered_and_ended_before_the_last_task_is_told_how_to_go_on():
    cause = "its script ended before the last task: use `while flare.is_running()`, or set launch_once = false"
    play(
        up(dispatcher("a"), "a"),
        (0, Exited("a", 0)),
        (1, Begun(1, ("a",)), Fail(1, "a", Failure(cause=cause, exit_code=0)), Finish(1)),
    )


def test_a_closed_channel_waits_for_the_end_that_tells_why_and_not_for_ever():
    """Before, later rounds said "its process ended" of it, and named the wrong round."""
    cause = "it closed its channel (was flare.shutdown() called?)"
    server = up(dispatcher(), "a", "b")
    play(
        server,
        (0, Begun(1, ("a", "b"), round_num=0), Send(1, "a"), Send(1, "b")),
        (1, Disconnected("a")),
    )
    assert server.due == 11
    play(
        server,
        (11, TimePassed(), failed(1, "a", cause)),
        (12, Begun(2, ("a",), round_num=1), failed(2, "a", f"out of the run since round 0: {cause}"), Finish(2)),
    )


def test_one_that_comes_back_is_not_lost():
    """Before, it was given up though its channel was open again."""
    server = dispatcher("a")
    play(
        server,
        (0, Begun(1, ("a",)), Start("a")),
        (1, Connected("a")),
        (2, Disconnected("a")),
        (3, Connected("a")),
    )
    assert server.due == 300
    play(server, (4, Asked("a"), Admit("a"), Send(1, "a")))


def test_what_it_sent_is_the_cause_and_not_how_it_ended():
    play(
        up(dispatcher("a"), "a"),
        (0, Begun(1, ("a",)), Send(1, "a")),
        (1, Disconnected("a", "it sent nonsense")),
        (2, Exited("a", 1), Fail(1, "a", Failure(cause="it sent nonsense", exit_code=1)), Finish(1)),
    )


# one process for each task


def test_with_a_process_for_each_task_its_channel_ends_after_the_answer_and_it_is_started_again():
    play(
        dispatcher("a", each="a"),
        (0, Begun(1, ("a",)), Start("a")),
        (1, Connected("a")),
        (1, Asked("a"), Admit("a"), Send(1, "a")),
        (2, Answered("a", 1), Keep(1, "a", 1), EndChannel("a"), Give(1, "a")),
        (3, Wanted(1), Accept(1, "a"), Finish(1)),
        (3, Left(1)),
        (3, Begun(2, ("a",))),
        (4, Exited("a", 3), Warn("a answered, then failed: its process ended with exit code 3"), Start("a")),
    )


def test_a_script_that_goes_on_after_its_answer_is_given_up():
    server = dispatcher("a", each="a")
    for happened in (Begun(1, ("a",)), Connected("a"), Asked("a"), Answered("a", 1), Wanted(1), Left(1)):
        server.handle(happened, 0)
    play(server, (1, Begun(2, ("a",))))
    assert server.due == 60
    [fail, finish] = server.handle(TimePassed(), 60)
    assert (fail.hangs, finish) == (True, Finish(2))
    assert "launch_once = false" in fail.failure.cause


def test_with_strict_a_process_that_fails_after_its_answer_stops_the_run():
    text = "a answered, then failed: its process ended with exit code 3"
    server = dispatcher("a", each="a", strict=True)
    for happened in (Begun(1, ("a",)), Connected("a"), Asked("a"), Answered("a", 1), Wanted(1), Left(1)):
        server.handle(happened, 0)

    play(server, (1, Exited("a", 3), Warn(text), StrictFailure(text)))


# quorum


def test_a_quorum_out_of_reach_stops_the_run_at_once_with_the_first_cause_and_the_way_out():
    told = Failure(cause=KEY_ERROR.cause, where=KEY_ERROR.where, exit_code=1)
    lost = QuorumLost(1, 2, 1, "a: KeyError: 'fc' (/job/train.py:7)", LOWER)
    play(
        up(dispatcher("ab", slots=1), "a", "b"),
        (0, Begun(1, ("a", "b"), min_responses=2), Send(1, "a")),
        (1, Exited("a", 1, KEY_ERROR), Fail(1, "a", told), lost),
        (2, Left(1)),
    )


def test_fewer_clients_are_no_way_out_where_nobody_has_answered():
    """Fewer would fail alike."""
    server = dispatcher("ab")
    server.handle(Begun(1, ("a", "b"), min_responses=2), 0)
    server.handle(Exited("a", 1, KEY_ERROR), 1)

    [_, lost] = server.handle(Exited("b", 1, KEY_ERROR), 1)

    assert (lost.possible, lost.hint) == (0, "")


def test_those_who_fail_shortly_after_are_named_too_and_nobody_is_handed_the_task_meanwhile():
    told = Failure(cause="its process ended with exit code 1", exit_code=1)
    lost = QuorumLost(1, 3, 1, f"b: {told.cause}", LOWER)
    server = up(dispatcher("abc", slots=2), "a", "b", "c")
    play(
        server,
        (0, Begun(1, ("a", "b", "c"), min_responses=3), Send(1, "a"), Send(1, "b")),
        (1, Exited("b", 1), Fail(1, "b", told)),
    )
    assert server.due == 1.2
    play(server, (1.1, Exited("a", 1), Fail(1, "a", told), lost))


def test_others_are_not_waited_for_longer_than_a_moment():
    why = "its process ended with exit code 1"
    server = up(dispatcher(), "a", "b")
    play(
        server,
        (0, Begun(1, ("a", "b"), min_responses=2), Send(1, "a"), Send(1, "b")),
        (1, Exited("a", 1), Fail(1, "a", Failure(cause=why, exit_code=1))),
    )
    [lost] = server.handle(TimePassed(), server.due)
    assert (lost.needed, lost.possible) == (2, 1)


def test_a_quorum_that_is_out_of_reach_from_the_start_starts_nobody():
    """Before, tasks were handed out first."""
    server = up(dispatcher(), "a", "b")
    server.handle(Exited("a", 1), 0)

    decisions = server.handle(Begun(1, ("a", "b"), min_responses=2), 1)

    assert [type(decision) for decision in decisions] == [Fail, QuorumLost]


def test_an_earlier_rounds_failure_is_not_the_cause_of_this_ones():
    """Before, the first failure of the whole run was named."""
    late = failed(1, "a", "no answer within 5.0 s of receiving the task", hangs=True)
    unfit = Failure(cause="it does not fit")
    server = up(dispatcher(), "a", "b")
    play(
        server,
        (0, Begun(1, ("a", "b"), timeout_s=5.0), Send(1, "a"), Send(1, "b")),
        (1, Answered("b", 1), Keep(1, "b", 1)),
        (5, TimePassed(), late, Give(1, "b")),
        (6, Answered("a", 1), Drop("a")),
        (6, Left(1), Accept(1, "b")),
        (7, Begun(2, ("a", "b"), min_responses=1), Send(2, "a"), Send(2, "b")),
        (8, Answered("a", 2), Keep(2, "a", 1), Give(2, "a")),
        (8, Rejected(2, "a", unfit), Fail(2, "a", unfit)),
    )

    [_, lost] = server.handle(Exited("b", 1), 9)

    assert lost.cause == "a: it does not fit"
    assert lost.hint == LOWER


def test_where_time_ran_out_more_time_is_the_way_out():
    server = up(dispatcher("a"), "a")
    server.handle(Begun(1, ("a",), min_responses=1, timeout_s=5.0), 0)

    [_, lost] = server.handle(TimePassed(), 5)

    assert lost.hint == f"raise the time limit of the task, such as train_timeout; or, {LOWER}"


def test_where_a_script_was_too_slow_to_start_more_time_to_start_is_the_way_out():
    server = dispatcher("a", limits={"a": 30.0})
    server.handle(Begun(1, ("a",), min_responses=1, timeout_s=5.0), 0)

    [_, lost] = server.handle(TimePassed(), 30)

    assert lost.hint == "raise launch_timeout"


def test_with_strict_the_first_failure_ends_the_run():
    server = up(dispatcher("ab", strict=True), "a", "b")
    server.handle(Begun(1, ("a", "b"), min_responses=1), 0)
    server.handle(Answered("b", 1), 0)

    [_, lost] = server.handle(Exited("a", 1), 1)

    assert (lost.needed, lost.possible) == (2, 1)
    assert lost.hint == "a new run without --strict needs only 1 answer"


# several tasks at a time


def test_a_client_does_one_task_at_a_time_in_the_order_in_which_it_was_asked():
    play(
        up(dispatcher("a"), "a"),
        (0, Begun(1, ("a",)), Send(1, "a")),
        (0, Begun(2, ("a",))),
        (1, Answered("a", 1), Keep(1, "a", 1), Send(2, "a"), Give(1, "a")),
        (4, Answered("a", 2), Keep(2, "a", 3), Give(2, "a")),
        (5, Wanted(2), Accept(2, "a"), Finish(2)),
        (5, Wanted(1), Accept(1, "a"), Finish(1)),
    )


def test_a_site_with_two_executors_does_one_task_at_a_time_in_the_order_in_which_it_was_asked():
    play(
        up(dispatcher(["a", "a:2"]), "a", "a:2"),
        (1, Begun(1, ("a",)), Send(1, "a")),
        (2, Begun(2, ("a:2",))),
        (4, Answered("a", 1), Keep(1, "a", 3), Send(2, "a:2"), Give(1, "a")),
        (9, Answered("a:2", 2), Keep(2, "a:2", 5), Give(2, "a:2")),
    )


def test_an_executor_that_is_given_up_does_not_keep_the_others_of_its_site_from_their_tasks():
    play(
        up(dispatcher(["a", "a:2"]), "a", "a:2"),
        (1, Begun(1, ("a",), timeout_s=1), Send(1, "a")),
        (1, Begun(2, ("a:2",))),
        (
            2,
            TimePassed(),
            Fail(1, "a", Failure(cause="no answer within 1.0 s of receiving the task"), True),
            Send(2, "a:2"),
            Finish(1),
        ),
    )


def test_the_free_slots_go_first_to_the_task_that_was_begun_first():
    play(
        up(dispatcher("abc", slots=1), "a", "b", "c"),
        (0, Begun(1, ("b", "c")), Send(1, "b")),
        (0, Begun(2, ("a",))),
        (1, Answered("b", 1), Keep(1, "b", 1), Send(1, "c"), Give(1, "b")),
        (2, Answered("c", 1), Keep(1, "c", 1), Send(2, "a")),
    )


def test_the_time_of_a_client_that_does_an_earlier_task_does_not_count():
    server = up(dispatcher("a"), "a")
    play(
        server,
        (0, Begun(1, ("a",)), Send(1, "a")),
        (0, Begun(2, ("a",), timeout_s=5.0)),
        (100, Answered("a", 1), Keep(1, "a", 100), Send(2, "a"), Give(1, "a")),
    )
    assert server.due == 105


def test_one_that_is_given_up_in_a_task_has_its_full_time_for_the_next_from_then_on():
    first = failed(1, "a", "no answer within 5.0 s of receiving the task", hangs=True)
    second = failed(2, "a", "no answer within 7.0 s: it still works on an earlier task", hangs=True)
    play(
        up(dispatcher("a"), "a"),
        (0, Begun(1, ("a",), timeout_s=5.0), Send(1, "a")),
        (1, Begun(2, ("a",), timeout_s=7.0)),
        (5, TimePassed(), first, Finish(1)),
        (12, TimePassed(), second, Finish(2)),
    )


def test_a_process_that_ends_fails_in_every_task_for_which_it_is_waited():
    told = Failure(cause=KEY_ERROR.cause, where=KEY_ERROR.where, exit_code=1)
    play(
        up(dispatcher("a"), "a"),
        (0, Begun(1, ("a",), round_num=3), Send(1, "a")),
        (0, Begun(2, ("a",), round_num=3)),
        (
            *(1, Exited("a", 1, KEY_ERROR), Fail(1, "a", told)),
            *(failed(2, "a", f"out of the run since round 3: {KEY_ERROR.cause}"), Finish(1), Finish(2)),
        ),
    )


def test_a_task_that_is_left_makes_way_for_the_next_one_of_its_clients():
    play(
        up(dispatcher("ab", slots=1), "a", "b"),
        (0, Begun(1, ("a", "b")), Send(1, "a")),
        (0, Begun(2, ("b",))),
        (1, Left(1), Send(2, "b")),
        (2, Answered("a", 1), Drop("a")),
    )


def test_when_a_task_has_lost_its_quorum_the_others_go_on_once_it_is_left():
    why = Failure(cause="its process ended with exit code 1", exit_code=1)
    hint = LOWER
    play(
        up(dispatcher("ab", slots=1), "a", "b"),
        (0, Begun(1, ("a", "b")), Send(1, "a")),
        (0, Begun(2, ("a",), min_responses=1)),
        (
            1,
            Exited("a", 1),
            Fail(1, "a", why),
            failed(2, "a", f"out of the run since round 0: {why.cause}"),
            lost(hint),
        ),
        (1, Left(2), Send(1, "b")),
    )


def lost(hint):
    cause = "a: out of the run since round 0: its process ended with exit code 1"
    return QuorumLost(2, 1, 0, cause, hint)


def test_whoever_asks_for_more_replies_to_a_task_that_lost_its_quorum_is_told_again():
    server = dispatcher("a")
    happen(server, 0, Begun(1, ("a",), min_responses=1))
    [_, stop] = server.handle(Exited("a", 1), 1)

    assert server.handle(Wanted(1), 2) == [stop]


def test_all_clients_that_open_tasks_will_start_have_to_fit_into_memory():
    server = dispatcher("abcd", slots=1, free=5)
    happen(server, 0, Begun(1, ("a",)), Connected("a"), Asked("a"), Answered("a", 1, Usage(private=3)))

    assert server.handle(Begun(2, ("b",)), 1) == [Start("b")]
    assert server.handle(Begun(3, ("c",)), 1) == []
    assert server.handle(Begun(4, ("d",)), 1) == [MemoryShort(2, 6, 5, "main")]


# memory


def test_clients_that_will_not_fit_stop_the_run_after_the_first_answer():
    server = dispatcher("abc", slots=1, free=5)
    for happened in (Begun(1, ("a", "b", "c")), Connected("a"), Asked("a")):
        server.handle(happened, 0)

    decisions = server.handle(Answered("a", 1, Usage(private=3)), 1)

    assert decisions == [Keep(1, "a", 1), MemoryShort(2, 6, 5, "main")]


def test_gpu_memory_is_that_of_the_group():
    server = dispatcher("abc", slots=1, groups={"c": 1})
    for happened in (Begun(1, ("a", "b", "c")), Connected("a"), Asked("a")):
        server.handle(happened, 0)

    decisions = server.handle(Answered("a", 1, Usage(gpu=3, gpu_free=2)), 1)

    assert decisions[-1] == MemoryShort(1, 3, 2, "GPU")


# workers


def with_workers(sites="abc", *, launch_timeout=300.0, **how):
    config = ClientConfig(serves_any_client=True, launch_timeout=launch_timeout)
    return dispatcher(roster=RosterOfNames(sites, config), **how)


def have_answered(server, **took_s):
    """They have done a first task, each with the one worker, in so many seconds. The time is now the sum of them."""
    now = 0.0
    server.handle(Begun(90, tuple(took_s)), now)
    for site, work_s in took_s.items():
        server.handle(Served(site), now)
        now += work_s
        server.handle(Answered(site, 90), now)
    server.handle(Left(90), now)
    return server


def test_a_client_has_a_worker_for_one_task_and_nothing_after_it():
    server = with_workers("ab", slots=1)
    play(
        server,
        (0, Begun(1, ("a", "b")), Start("a")),
        (1, Served("a"), Send(1, "a", True)),
        (3, Answered("a", 1), Keep(1, "a", 2), Release("a"), Start("b"), Give(1, "a")),
        (3, Served("b"), Send(1, "b")),
        (4, Wanted(1), Accept(1, "a")),
        (5, Answered("b", 1), Keep(1, "b", 2), Release("b"), Give(1, "b")),
        (6, Wanted(1), Accept(1, "b"), Finish(1)),
    )
    assert {client.state for client in server.clients.known} == {State.ABSENT}


def test_those_that_took_longest_come_first_and_before_them_those_of_which_it_is_not_known_in_site_order():
    server = have_answered(with_workers("abcdef", slots=1), b=2, c=5, e=3)
    order = []
    decided = server.handle(Begun(1, tuple("abcdef")), 10)
    while started := [each.site for each in decided if isinstance(each, Start)]:
        order += started
        server.handle(Served(started[0]), 10)
        decided = server.handle(Answered(started[0], 1), 11)

    assert order == ["a", "d", "f", "c", "e", "b"]


def test_replies_are_in_site_order_although_the_longest_come_first():
    play(
        have_answered(with_workers("ab", slots=1), a=1, b=2),
        (5, Begun(1, ("a", "b")), Start("b")),
        (5, Served("b"), Send(1, "b")),
        (7, Answered("b", 1), Keep(1, "b", 2), Release("b"), Start("a")),
        (7, Served("a"), Send(1, "a")),
        (8, Answered("a", 1), Keep(1, "a", 1), Release("a"), Give(1, "a")),
        (8, Wanted(1), Accept(1, "a"), Give(1, "b")),
    )


def test_a_worker_that_ends_fails_the_task_that_it_did_and_its_client_does_the_next_one():
    play(
        with_workers("a"),
        (0, Begun(1, ("a",)), Start("a")),
        (0, Begun(2, ("a",))),
        (0, Served("a"), Send(1, "a")),
        (1, Exited("a", 1, KEY_ERROR), Fail(1, "a", ENDED), Start("a"), Finish(1)),
        (1, Served("a"), Send(2, "a")),
        (2, Answered("a", 2), Keep(2, "a", 1), Release("a"), Give(2, "a")),
    )


def test_a_client_given_up_whose_worker_answers_late_is_free_again():
    play(
        with_workers("ab", slots=1),
        (0, Begun(1, ("a",), timeout_s=5.0), Start("a")),
        (0, Served("a"), Send(1, "a", True)),
        (5, TimePassed(), failed(1, "a", "no answer within 5.0 s of receiving the task", hangs=True), Finish(1)),
        (5, Left(1)),
        (6, Begun(2, ("a", "b")), Start("b")),
        (6, Served("b"), Send(2, "b")),
        (7, Answered("a", 1), Drop("a"), Release("a")),
        (8, Answered("b", 2), Keep(2, "b", 2), Release("b"), Start("a")),
    )


def test_a_client_given_up_whose_worker_ends_has_not_failed_in_the_next_task():
    play(
        with_workers("a"),
        (0, Begun(1, ("a",), timeout_s=5.0), Start("a")),
        (0, Served("a"), Send(1, "a")),
        (5, TimePassed(), failed(1, "a", "no answer within 5.0 s of receiving the task", hangs=True), Finish(1)),
        (5, Left(1)),
        (6, Begun(2, ("a",))),
        (7, Exited("a", -9), Start("a")),
    )


def test_a_worker_that_closes_its_channel_and_then_ends_has_its_cause():
    play(
        with_workers("a"),
        (0, Begun(1, ("a",)), Start("a")),
        (0, Served("a"), Send(1, "a")),
        (1, Disconnected("a")),
        (2, Exited("a", 1, KEY_ERROR), Fail(1, "a", ENDED), Finish(1)),
        (2, Left(1)),
        (3, Begun(2, ("a",)), Start("a")),
    )


def test_a_worker_that_closes_its_channel_and_does_not_end_is_not_waited_for_and_its_end_is_nobodys():
    play(
        with_workers("a"),
        (0, Begun(1, ("a",)), Start("a")),
        (0, Served("a"), Send(1, "a")),
        (1, Disconnected("a")),
        (
            *(11, TimePassed()),
            *(failed(1, "a", "it closed its channel (was flare.shutdown() called?)"), Finish(1)),
        ),
        (11, Left(1)),
        (12, Exited("a", 0)),
        (13, Begun(2, ("a",)), Start("a")),
    )


def test_a_task_that_is_given_back_is_another_workers_and_has_not_failed():
    play(
        with_workers("ab", slots=1),
        (0, Begun(1, ("a", "b")), Start("a")),
        (0, Served("a"), Send(1, "a", True)),
        (1, Answered("a", 1), Keep(1, "a", 1), Release("a"), Start("b"), Give(1, "a")),
        (1, Served("b"), Send(1, "b")),
        (2, Returned("b"), Start("b")),
        (3, Served("b"), Send(1, "b")),
        (5, Answered("b", 1), Keep(1, "b", 2), Release("b")),
    )


def test_a_worker_that_was_too_slow_to_start_is_free_once_it_is_ready():
    play(
        with_workers("a", launch_timeout=4.0),
        (0, Begun(1, ("a",)), Start("a")),
        (
            *(4, TimePassed()),
            failed(1, "a", "it did not ask for a task within 4 s: flare.receive() was not reached", hangs=True),
            Finish(1),
        ),
        (4, Left(1)),
        (5, Served("a"), Release("a")),
        (6, Begun(2, ("a",)), Start("a")),
    )


def test_a_worker_that_is_ready_gets_no_task_while_the_run_has_to_stop():
    """Before, it got one, and nobody waited for its answer."""
    server = with_workers("abc")
    play(
        server,
        (0, Begun(1, ("a", "b", "c"), min_responses=3), Start("a"), Start("b"), Start("c")),
        (1, Exited("a", 1, KEY_ERROR), Fail(1, "a", ENDED)),
        (1.1, Served("b"), Release("b")),
    )
    assert server.is_stopping


def test_a_client_that_was_never_asked_is_only_a_name():
    server = with_workers([f"site-{number}" for number in range(10_000)], slots=2)
    server.handle(Begun(1, ("site-7",)), 0)

    assert [client.site for client in server.clients.known] == ["site-7"]
    assert len(server.clients) == 10_000


# cost


def calls(what):
    """How many functions are called."""
    counted = 0

    def count(frame, event, _):
        nonlocal counted
        counted += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        what()
    finally:
        sys.setprofile(None)
    return counted


def calls_of_a_step(waiting, working):
    """How many calls of functions one answer and one look at the next deadline take."""
    sites = [f"s{number:05}" for number in range(waiting + working)]
    server = up(dispatcher(sites, slots=working), *sites)
    server.handle(Begun(1, tuple(sites), min_responses=1, timeout_s=100.0, grace_s=50.0), 0)
    return calls(lambda: (server.handle(Answered(sites[1], 1), 1), server.due, server.handle(TimePassed(), 2)))


def calls_of_a_step_of(tasks):
    """The same where each of many clients has a task of its own, and another one after it."""
    sites = [f"s{number:05}" for number in range(tasks)]
    server = up(dispatcher(sites, slots=tasks), *sites)
    for number, site in enumerate(sites * 2, start=1):
        server.handle(Begun(number, (site,), timeout_s=100.0, grace_s=50.0), 0)
    return calls(lambda: (server.handle(Answered(sites[1], 2), 1), server.due, server.handle(TimePassed(), 2)))


def test_what_a_step_costs_hardly_grows_with_the_open_tasks():
    assert calls_of_a_step_of(tasks=1000) <= calls_of_a_step_of(tasks=10) + 10


def test_what_a_step_costs_does_not_grow_with_those_who_wait_or_work():
    few = calls_of_a_step(waiting=5, working=5)

    assert calls_of_a_step(waiting=1000, working=5) == few
    assert calls_of_a_step(waiting=5, working=1000) == few


def calls_of_a_step_with_workers(clients):
    """How many calls of functions one answer, the next client and one look at the next deadline take."""
    sites = [f"s{number:05}" for number in range(clients)]
    server = with_workers(sites, slots=5)
    server.handle(Begun(1, tuple(sites), min_responses=1, timeout_s=100.0, grace_s=50.0), 0)
    for site in sites[:5]:
        server.handle(Served(site), 0)
    last, following = sites[4:6]
    return calls(
        lambda: (
            *(server.handle(Answered(last, 1), 1), server.handle(Served(following), 1)),
            *(server.due, server.handle(TimePassed(), 2)),
        )
    )


def test_what_a_step_costs_with_workers_does_not_grow_with_the_clients():
    assert calls_of_a_step_with_workers(5000) == calls_of_a_step_with_workers(10)
