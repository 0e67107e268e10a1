"""Virtual time: the order in which tasks end, whatever the clock says."""

import numpy as np
import pytest
from fakes import update

from fedsag_cli.model import FLModel, Task
from fedsag_cli.testing import FakeClients
from fedsag_cli.workflows.virtual_time import VirtualTime


def a_task(value=0.0, round_num=0):
    return Task(name="train", model=FLModel(params={"w": np.array([value])}, current_round=round_num))


def adds(change):
    return lambda model: update(w=model.params["w"] + change)


@pytest.fixture
def at_work():
    with VirtualTime(FakeClients(a=adds(1), b=adds(2), c=lambda model: None)) as time:
        yield time


def end_of(finished):
    value = None if finished.reply is None else finished.reply.model.params["w"].item()
    return finished.at, finished.site, value


def test_tasks_end_when_their_time_is_over_and_not_in_the_order_in_which_they_were_asked(at_work):
    at_work.ask(a_task(), "a", 2.0)
    at_work.ask(a_task(), "b", 1.0)

    assert at_work.sites == ["a", "b"]
    assert [end_of(finished) for finished in at_work] == [(1.0, "b", 2.0), (2.0, "a", 1.0)]
    assert at_work.now == 2.0


def test_one_that_is_asked_again_begins_when_its_last_task_has_ended(at_work):
    at_work.ask(a_task(), "a", 2.0)
    at_work.ask(a_task(), "b", 1.0)
    ends = []
    for finished in at_work:
        ends.append(end_of(finished))
        if len(ends) == 1:
            at_work.ask(a_task(10.0), "b", 0.5)

    assert ends == [(1.0, "b", 2.0), (1.5, "b", 12.0), (2.0, "a", 1.0)]


def test_one_that_fails_does_so_when_its_time_is_over(at_work):
    at_work.ask(a_task(), "c", 1.5)
    at_work.ask(a_task(), "a", 2.0)

    assert [end_of(finished) for finished in at_work] == [(1.5, "c", None), (2.0, "a", 1.0)]


def test_an_update_can_be_rejected_until_the_next_one_is_asked_for():
    clients = FakeClients(a=adds(1))
    with VirtualTime(clients) as at_work:
        at_work.ask(a_task(), "a", 1.0)
        finished = next(at_work)
        finished.replies.reject(finished.reply, "it does not fit")

    assert clients.rejected == {"a": "it does not fit"}


def test_those_at_work_are_asked_for_the_same_when_the_time_is_restored(at_work):
    """The two that train one model share it."""
    at_work.ask(a_task(round_num=3), "b", 1.0)
    next(at_work)
    later = a_task(5.0, round_num=4)
    at_work.ask(later, "a", 1.5)
    at_work.ask(later, "b", 0.5)
    state = at_work.state()

    clients = FakeClients(a=adds(1), b=adds(2))
    with VirtualTime(clients) as again:
        again.restore(state)
        ends = [end_of(finished) for finished in again]

    assert len(state["models"]) == 1
    assert ends == [(1.5, "b", 7.0), (2.5, "a", 6.0)]
    assert clients.seen == [("b", 4), ("a", 4)]
