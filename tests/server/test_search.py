"""The search for a schedule that breaks a promise of the server, and that it finds one where there is one."""

from collections import defaultdict
from types import SimpleNamespace
from unittest import mock

import pytest
import schedules
from schedules import EVERY_WAY, EVERY_WAY_OF_THREE, Found, explore, search

from fedsag_cli.server import dispatcher
from fedsag_cli.server.broadcast import Broadcast
from fedsag_cli.server.clients import Client, State
from fedsag_cli.server.decisions import Drop
from fedsag_cli.server.dispatcher import Dispatcher
from fedsag_cli.server.workers import Workers


def test_some_thousand_schedules_break_no_promise():
    assert search(range(3_000))["schedules"] == 3_000


@pytest.mark.slow
def test_seven_thousand_more_schedules_break_no_promise():  # scripts/search does a hundred thousand
    assert search(range(3_000, 10_000))["schedules"] == 7_000


@pytest.mark.parametrize("name", EVERY_WAY)
def test_no_way_through_a_small_run_breaks_a_promise(name):
    assert explore(EVERY_WAY[name])["states"] > 100


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERY_WAY_OF_THREE)
def test_no_way_through_a_run_of_three_clients_breaks_a_promise(name):
    assert explore(EVERY_WAY_OF_THREE[name])["states"] > 1_000


# Mistakes that one could make, and how each is put into the dispatcher. Those called "before" were in the communicator
# that decided by itself.


def instead(owner, name, make):
    """Replace a method, or the getter of a property, or what a module has, by what `make` makes of it."""
    old = vars(owner)[name]
    new = property(make(old.fget)) if isinstance(old, property) else make(old)
    return mock.patch.object(owner, name, new)


def keeps_slot_on_failure(change):
    def changed(self, client, state):
        busy = self._busy[client.group]
        change(self, client, state)
        if state in (State.LATE, State.GONE):
            self._busy[client.group] = busy

    return changed


def clock_of_the_task(clock):
    return lambda self: self.turn_began if self.state is State.WORKING and self.lost is None else clock(self)


def clock_of_the_client_alone(clock):
    return lambda self: self.since if self.state is State.LATE and self.lost is None else clock(self)


def in_order_of_arrival(_):
    def next_reply(self):
        left = [number for number in self._work_s if number not in self.__dict__.setdefault("_given", [])]
        if not left:
            self._turn = len(self.targets) if not self._waits else 0
            return None
        self._given.append(left[0])
        return next(client for client in self.targets if client.number == left[0])

    return next_reply


def counts_late_answers(answered):
    def answers(self, client, task_id, usage):
        if client.state is State.LATE and client.next_task is not None:
            client.task_id = task_id = client.next_task
            self._change(client, State.WORKING)
        answered(self, client, task_id, usage)

    return answers


def one_group(init):
    class One(defaultdict):
        def __getitem__(self, _):
            return super().__getitem__(0)

        def __setitem__(self, _, value):
            super().__setitem__(0, value)

    def made(self, *args, **how):
        init(self, *args, **how)
        self._busy = One(int)

    return made


def in_order_of_the_queue(_):
    return SimpleNamespace(heappush=list.append, heappop=lambda queue: queue.pop(0))


def the_last_task_first(heapq):
    def push(queue, entry):
        task, *rest = entry
        heapq.heappush(queue, (-task, *rest))

    def pop(queue):
        task, *rest = heapq.heappop(queue)
        return -task, *rest

    return SimpleNamespace(heappush=push, heappop=pop)


def hands_out_first(lose_quorum):
    def loses(self, broadcast):
        self._hand_out()
        lose_quorum(self, broadcast)

    return loses


def forgets_what_follows_a_stop(handle):
    def handles(self, happening, now):
        decided = handle(self, happening, now)
        self._touched.clear()
        return decided

    return handles


def nobody_is_freed(_):
    def ends_waiting(self, broadcast):
        self._stopping = None if self._stopping is broadcast else self._stopping
        for client in broadcast.waiting_for:
            self._dequeue(client, broadcast)

    return ends_waiting


def fails_in_one_task(end):
    def ends(self, client, failure):
        client.queue = dict(list(client.queue.items())[:1])
        end(self, client, failure)

    return ends


def ready_whatever_it_does(asked):
    def asks(self, client):
        client.has_asked = False
        if client.state is State.WORKING:
            self._change(client, State.LATE)
        asked(self, client)

    return asks


def idle_while_a_reply_is_out(hand_out):
    return lambda self: None if any(each.given for each in self._open.values()) else hand_out(self)


def stays_lost(connected):
    def connects(self, client):
        lost = client.lost
        connected(self, client)
        client.lost = lost
        self._watch(client)

    return connects


def never_again(exited):
    def exits(self, client, event):
        if client.state is State.ENDING:
            client.state = State.WAITING
        exited(self, client, event)

    return exits


def out_of_the_run(end):
    def ends(self, client, failure):
        did = [task_id for task_id in client.queue if client.has_worker]
        end(self, client, failure)
        for task_id in did:
            if task_id in client.queue:
                self._fail(self._open[task_id], client, failure)

    return ends


def late_ones_stay_late(answered):
    def answers(self, client, task_id, usage):
        if client.has_worker and client.state is State.LATE:
            self._decided.append(Drop(client.site))
        else:
            answered(self, client, task_id, usage)

    return answers


def the_quickest_first(heapq):
    def push(queue, entry):
        task, longest, *rest = entry
        heapq.heappush(queue, (task, -longest, *rest))

    return SimpleNamespace(heappush=push, heappop=heapq.heappop)


def starts_a_new_one(engage):
    def engages(self, client):
        free, self._free = self._free, {}
        engaged = engage(self, client)
        self._free |= free
        return engaged

    return engages


def served_though_it_stops(served):
    def serves(self, client):
        stopping, self._stopping = self._stopping, None
        served(self, client)
        self._stopping = stopping

    return serves


def fails_the_client_it_had(ended):
    def ends(self, name):
        client = self.client_of(name)
        if (worker := self._by_client.get(client)) is not None and worker.name != name:
            del self._by_client[client]
        ended(self, name)

    return ends


def fails_though_it_was_not_begun(closed):
    def closes(self, name):
        if (worker := self._by_name.get(name)) is not None:
            worker.has_asked = True
        return closed(self, name)

    return closes


def ignored(_):
    return lambda self, *_: None


MISTAKES = {
    "a failure does not free its slot": (Dispatcher, "_change", keeps_slot_on_failure),
    "the grace counts from the start of the task": (Client, "clock", clock_of_the_task),
    "the time for a later task counts while an earlier one is done": (Client, "clock", clock_of_the_client_alone),
    "a client does the last task first": (
        *(Client, "next_task"),
        lambda old: lambda self: next(reversed(self.queue), None),
    ),
    "the last task gets the slots first": (dispatcher, "heapq", the_last_task_first),
    "what follows a stop is not decided": (Dispatcher, "handle", forgets_what_follows_a_stop),
    "a client that is gone fails in one of its tasks only": (Dispatcher, "_end", fails_in_one_task),
    "a reply is given that nobody waits for": (
        *(Dispatcher, "_give"),
        lambda old: lambda self, each: setattr(each, "is_wanted", not each.given) or old(self, each),
    ),
    "the quorum is off by one": (Broadcast, "possible", lambda old: lambda self: old(self) + 1),
    "replies come in the order of arrival": (Broadcast, "next_reply", in_order_of_arrival),
    "late answers count": (Dispatcher, "_answered", counts_late_answers),
    "a client is given up a second early": (
        *(Broadcast, "limit_s"),
        lambda old: lambda self: old(self) and max(0.0, old(self) - 1),
    ),
    "before: one that is not waited for has failed": (
        *(Broadcast, "has_failed_by"),
        lambda old: lambda self, client, now: True,
    ),
    "before: who takes part depends on the clock though all are waited for": (
        *(Broadcast, "limit_s"),
        lambda old: (
            lambda self: min((limit for limit in (old(self), self.grace_limit_s) if limit is not None), default=None)
        ),
    ),
    "that all are waited for is told each time": (
        *(Dispatcher, "_will_tell_wait"),
        lambda old: lambda self: self._waits_for_all,
    ),
    "one that is not waited for keeps its slot": (Dispatcher, "_free", lambda old: lambda self, client: None),
    "nobody is given up": (Broadcast, "overdue", lambda old: lambda self, now: []),
    "the groups share their slots": (Dispatcher, "__init__", one_group),
    "a free slot goes to whoever came first": (dispatcher, "heapq", in_order_of_the_queue),
    "one started for each task is never started again": (Dispatcher, "_exited", never_again),
    "memory is not looked at": (Dispatcher, "_check_memory", lambda old: lambda self: None),
    "a closed channel is a failure at once": (
        *(Client, "deadline"),
        lambda old: lambda self: self.lost if self.lost is not None else old(self),
    ),
    "before: a task that nobody waits for keeps its slot and its clock": (
        *(Dispatcher, "_end_waiting"),
        nobody_is_freed,
    ),
    "before: tasks went out when the quorum was lost": (Dispatcher, "_lose_quorum", hands_out_first),
    "before: a client at work that says it is ready gets the task again": (
        Dispatcher,
        "_asked",
        ready_whatever_it_does,
    ),
    "before: an answer to no task ended the client's task": (
        *(Dispatcher, "_answered"),
        lambda old: (
            lambda self, client, task_id, usage: old(
                self, client, client.task_id if task_id == schedules.WRONG_TASK else task_id, usage
            )
        ),
    ),
    "before: a slot was idle while the workflow had a reply": (Dispatcher, "_hand_out", idle_while_a_reply_is_out),
    "before: one that never asked for a task was waited for without end": (
        *(Client, "deadline"),
        lambda old: lambda self: None if self.state is State.LATE and self.lost is None else old(self),
    ),
    "before: one that came back counted as lost": (Dispatcher, "_connected", stays_lost),
    "a client whose worker ended fails in all its tasks": (Dispatcher, "_end", out_of_the_run),
    "a client that is given up is never free again": (Dispatcher, "_answered", late_ones_stay_late),
    "the clients with the shortest tasks come first": (dispatcher, "heapq", the_quickest_first),
    "a new worker starts though one is idle": (Workers, "engage", starts_a_new_one),
    "a worker whose channel is closed gets another client": (Workers, "closed", ignored),
    "a task fails that its worker has not begun": (Workers, "closed", fails_though_it_was_not_begun),
    "a task is given back that its worker has begun": (
        *(Workers, "asked"),
        lambda old: lambda self, name: old(self, name) or setattr(self._by_name[name], "has_asked", False),
    ),
    "a worker that is done is never free": (Workers, "release", ignored),
    "a worker that ends takes the next worker of its client with it": (Workers, "ended", fails_the_client_it_had),
    "a worker that ends is told of nobody": (Workers, "of", lambda old: lambda self, client: ""),
    "a worker gets a task though the run has to stop": (Dispatcher, "_served", served_though_it_stops),
    "a worker at work that says it is ready is free": (
        *(Workers, "asked"),
        lambda old: lambda self, name: old(self, name) or True,
    ),
    "a worker that is ready too late is never free": (
        *(Dispatcher, "_served"),
        lambda old: lambda self, client: old(self, client) if client.state is State.STARTING else None,
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_search_finds_a_mistake(mistake):
    with instead(*MISTAKES[mistake]), pytest.raises(Found) as found:
        search(range(5_000))

    assert f"scripts/search --seed {found.value.seed}" in str(found.value)


def test_a_seed_that_fails_fails_again_and_its_schedule_is_short():
    mistake = instead(*MISTAKES["a failure does not free its slot"])
    with mistake, pytest.raises(Found) as found:
        search(range(5_000))
    with mistake, pytest.raises(Found) as again:
        search([found.value.seed])
    with mistake:
        text = str(found.value)

    assert again.value.words == found.value.words
    assert len(found.value.words) < 12
    assert "slot" in text.splitlines()[-1]


def test_every_way_finds_it_too():
    with instead(*MISTAKES["late answers count"]), pytest.raises(Found):
        explore(EVERY_WAY["two clients, two tasks"])
