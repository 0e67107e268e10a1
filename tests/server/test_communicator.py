"""The communicator with real sockets: clients are threads of this process, the parent's line is a socketpair."""

import contextlib
import itertools
import os
import re
import socket
import struct
import sys
import tempfile
import threading
import time
import types
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import open_descriptors, update
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedsag_cli import events
from fedsag_cli.aggregators.fedavg import FedAvg
from fedsag_cli.errors import ChannelClosed, JobError, NotEnoughClients, NotEnoughMemory, RunError, TensorError
from fedsag_cli.events import (
    ClientReady,
    ClientWanted,
    Failure,
    ModelSent,
    NotAwaited,
    Notice,
    ProcessExited,
    ReplyAccepted,
    ReplyArrived,
    ReplyFailed,
    ReplyLate,
    TaskSent,
)
from fedsag_cli.filters import Chain
from fedsag_cli.filters.exclude_vars import ExcludeVars
from fedsag_cli.model import NUM_STEPS, FLModel, Reply, Task
from fedsag_cli.params.packing import packed, unpacked
from fedsag_cli.params.tensor_file import TensorFile
from fedsag_cli.plan import ClientConfig
from fedsag_cli.server import clients as server_clients
from fedsag_cli.server.communicator import Communicator
from fedsag_cli.testing import FakeClients
from fedsag_cli.wire.channel import Listener, address_in, connect
from fedsag_cli.wire.messages import Answer, Hello, LogValues, ModelFacts, Ready, Usage, Welcome, parted
from fedsag_cli.workflows.state_files import StateFiles

pytestmark = pytest.mark.timeout(60)

TOKEN = "secret"
ONCE = ClientConfig(launch_once=True)
EACH = ClientConfig(launch_once=False)


def state_file(**kept):
    """What a client sends along of what it keeps."""
    return TensorFile.write({}, trees={"flare.state": kept, "filters": {}})


class Client:
    """One client's end, as its script sees it: tasks come, answers go."""

    def __init__(self, house, site):
        self._house = house
        self.site = site
        self.end = ProcessExited(name=site, exit_code=0)  # what the parent will tell
        _, self.channel = connect(house.address, Hello(site=site, token=TOKEN))

    def tasks(self):
        """(assignment, params) until the run is over."""
        with contextlib.suppress(ChannelClosed):
            self.channel.send(Ready())
            while True:
                assignment, fds = self.channel.receive(30)
                file, self.state = parted([TensorFile(fd) for fd in fds], has_state=assignment.has_state)
                if file is None:
                    yield assignment, None
                else:
                    with file:
                        yield assignment, file.load()

    def keep(self, assignment, **kept):
        """Answer, and keep this from now on."""
        facts, file = packed(FLModel(params={"w": torch.tensor([1.0])}))
        with file, state_file(**kept) as state:
            message = Answer(task_id=assignment.task_id, model=facts, has_state=True)
            self.channel.send(message, file.fileno(), state.fileno())

    def kept(self):
        """What came with the task; None if nothing did."""
        if self.state is None:
            return None
        with self.state as file:
            return file.tree("flare.state")

    def answer(self, assignment, usage=None, seeded_itself=False, more_keys=(), **facts):
        params = facts.pop("params", None)
        message = Answer(
            task_id=assignment.task_id,
            model=ModelFacts(**facts),
            usage=usage,
            seeded_itself=seeded_itself,
            more_keys=list(more_keys),
        )
        if params is None:
            self.channel.send(message)
        else:
            with TensorFile.write(params) as file:
                self.channel.send(message, file.fileno())


class House:
    """A communicator with everything around it. A client that is wanted is started, as the parent would."""

    def __init__(self, folder, scripts, *, slots=9, configs=None, groups=None, data=None, results=None, **how):
        self.address = address_in(folder)
        self.folder = folder
        self.told = []
        self.parent, line = socket.socketpair()
        self._line = line
        self._scripts = scripts
        self._threads = []
        self._pen = threading.Lock()
        self.communicator = Communicator(
            Listener(self.address, TOKEN),
            line,
            self._emit,
            roster=server_clients.Roster(
                server_clients.Client(number, site, (configs or {}).get(site, ONCE), (groups or {}).get(site, 0))
                for number, site in enumerate(scripts)
            ),
            slots=slots,
            welcome=lambda site: Welcome(job_id="job", seed=1, scratch=str(folder), config=ONCE),
            data_filters=data or Chain(),
            result_filters=results or Chain(),
            scratch=folder,
            **how,
        )

    def _emit(self, event):
        self.told.append(event)
        if isinstance(event, ClientWanted) and self._scripts[event.site] is not None:
            thread = threading.Thread(target=self._live, args=(event.site,))
            self._threads.append(thread)
            thread.start()

    def _live(self, site):
        with contextlib.suppress(ChannelClosed):  # the run may be over before it says hello
            client = Client(self, site)
            with contextlib.suppress(ChannelClosed):
                self._scripts[site](client)
            client.channel.close()
            self.tell(client.end)

    def tell(self, event):
        with self._pen, contextlib.suppress(OSError):
            self.parent.sendall(events.to_line(event))

    def of(self, *kinds):
        return [event for event in self.told if isinstance(event, kinds)]

    def ask(self, task="train", params=None, round_num=0, **how):
        """(site, w, metrics) of every reply."""
        model = FLModel(params=params or {"w": torch.tensor([10.0])}, current_round=round_num, total_rounds=9)
        return [
            (reply.site, None if reply.model.params is None else reply.model.params["w"].tolist(), reply.model.metrics)
            for reply in self.communicator.broadcast(Task(name=task, model=model), **how)
        ]

    def close(self):
        self.communicator.close()
        self.parent.close()
        for thread in self._threads:
            thread.join(20)
        self._line.close()
        assert not any(thread.is_alive() for thread in self._threads)


@pytest.fixture
def house(tmp_path_factory):
    """Makes houses, and sees that nobody is left in them."""
    made = []

    def make(scripts, **how):
        made.append(House(tmp_path_factory.mktemp("s"), scripts, **how))
        return made[-1]

    before = open_descriptors()
    yield make
    for each in made:
        each.close()
    made.clear()
    assert open_descriptors() <= before


def a_task(name="train", round_num=0):
    return Task(name=name, model=FLModel(params={"w": torch.tensor([10.0])}, current_round=round_num))


def adds(change, after=None, then=None, **how):
    """A script that adds `change` to w, once `after` is set; sets `then` when it has answered."""

    def script(client):
        for assignment, params in client.tasks():
            if after is not None:
                assert after.wait(20)
            client.answer(assignment, params={"w": params["w"] + change}, metrics={"acc": change}, **how)
            if then is not None:
                then.set()

    return script


def silent(client):
    """Takes tasks and never answers."""
    for _ in client.tasks():
        pass


def dies(code, after=None, failure=None, answers_first=False):
    """A script that ends in its first task."""

    def script(client):
        for assignment, params in client.tasks():
            if answers_first:
                client.answer(assignment, params={"w": params["w"] + 1})
            if after is not None:
                assert after.wait(20)
            client.end = ProcessExited(name=client.site, exit_code=code, failure=failure)
            return

    return script


# the contract of Clients, and both that keep it


def real(house, *, validate=(), **changes):
    tasks = {site: ("train", "validate") if site in validate else ("train",) for site in changes}
    scripts = {site: adds(change) if change is not None else dies(1) for site, change in changes.items()}
    return house(scripts, configs={site: ClientConfig(tasks=tasks[site]) for site in changes}).communicator


def fake(house, *, validate=(), **changes):
    def script(change):
        return lambda model: None if change is None else update(w=model.params["w"] + change)

    return FakeClients(
        validate={site: script(changes[site]) for site in validate},
        **{site: script(change) for site, change in changes.items()},
    )


@pytest.fixture(params=[real, fake])
def clients(request, house):
    return lambda **changes: request.param(house, **changes)


def replies(clients, task="train", **how):
    model = FLModel(params={"w": torch.tensor([10.0])}, current_round=0)
    return [(r.site, r.model.params["w"].item()) for r in clients.broadcast(Task(name=task, model=model), **how)]


def test_every_client_is_asked_and_answers_for_itself_in_site_order(clients):
    some = clients(b=1.0, a=2.0, c=3.0)

    assert list(some.sites) == ["b", "a", "c"]
    assert replies(some) == [("b", 11.0), ("a", 12.0), ("c", 13.0)]
    assert replies(some) == [("b", 11.0), ("a", 12.0), ("c", 13.0)]


def test_those_named_are_asked_alone_and_in_site_order(clients):
    assert replies(clients(b=1.0, a=2.0, c=3.0), to=["c", "b"]) == [("b", 11.0), ("c", 13.0)]


def test_a_pattern_takes_a_task_but_does_not_name_it(house):
    configs = {"a": ClientConfig(tasks=("*",)), "b": ClientConfig(tasks=("train", "validate"))}
    some = house({site: adds(1.0) for site in configs}, configs=configs).communicator

    assert list(some.takes("validate")) == ["a", "b"]
    assert list(some.takes("validate", by_name=True)) == ["b"]


def test_those_whose_executors_list_a_task_take_it(clients):
    some = clients(a=1.0, b=2.0, c=3.0, validate=("b", "c"))

    assert list(some.takes("validate")) == ["b", "c"]
    assert list(some.takes("train")) == ["a", "b", "c"]
    assert replies(some, "validate") == [("b", 12.0), ("c", 13.0)]


def test_fake_clients_take_tasks_of_any_name_and_do_them_in_the_order_in_which_they_were_asked():
    done = []

    def does(name):
        return lambda model: done.append(name) or model

    some = FakeClients(tasks={"one": {"a": does("one")}, "two": {"a": does("two"), "b": does("two")}})
    first, second = some.ask(a_task("one")), some.ask(a_task("two"))

    assert [list(some.takes(name)) for name in ("one", "two", "train")] == [["a"], ["a", "b"], []]
    assert [reply.site for reply in second] == ["a", "b"]
    assert done == ["one", "two", "two"]
    assert [reply.site for reply in first] == ["a"]


def test_a_failure_is_no_reply(clients):
    assert replies(clients(a=1.0, b=None, c=3.0), min_responses=2) == [("a", 11.0), ("c", 13.0)]


def test_a_quorum_out_of_reach_is_an_error(clients):
    with pytest.raises(NotEnoughClients, match="needs 2 answers"):
        replies(clients(a=1.0, b=None), min_responses=2)


def test_a_rejected_reply_is_a_failure(clients):
    some = clients(a=1.0, b=2.0)
    task = Task(name="train", model=FLModel(params={"w": torch.tensor([0.0])}, current_round=0))

    def reject_first(min_responses):
        given = []
        with some.ask(task, min_responses=min_responses) as replies:
            for reply in replies:
                given.append(reply.site)
                if reply.site == "a":
                    replies.reject(reply, "it does not fit")
        return given

    assert reject_first(1) == ["a", "b"]
    with pytest.raises(NotEnoughClients):
        reject_first(2)


def test_a_workflow_may_ask_for_more_while_it_handles_the_replies_to_a_task(clients):
    """Before, this waited without end: cross-site evaluation asks all sites to evaluate the model of each."""
    some = clients(a=1.0, b=2.0, validate=("a", "b"))

    found = {}
    with some.ask(a_task()) as outer:
        for reply in outer:
            inner = some.broadcast(Task(name="validate", model=reply.model))
            found[reply.site] = [(each.site, each.model.params["w"].item()) for each in inner]

    assert found == {"a": [("a", 12.0), ("b", 13.0)], "b": [("a", 13.0), ("b", 14.0)]}


def test_the_replies_to_two_tasks_may_be_taken_in_any_order(clients):
    some = clients(a=1.0, b=2.0)

    first, second = some.ask(a_task(), to=["a", "b"]), some.ask(a_task(), to=["b"])

    assert [reply.site for reply in second] == ["b"]
    assert [reply.site for reply in first] == ["a", "b"]


def test_a_task_whose_block_was_left_has_no_more_replies(clients):
    with clients(a=1.0, b=2.0).ask(a_task()) as replies:
        assert next(replies).site == "a"

    assert list(replies) == []


def test_a_workflows_own_check_takes_the_place_of_the_usual_ones(clients):
    def check(update, sent):
        if update.params["w"] - sent["w"] > 1:
            raise TensorError("too far away")
        return replace(update, params={"another": update.params["w"]})

    replies = clients(a=1.0, b=2.0).broadcast(a_task(), check=check)

    assert [(reply.site, reply.model.params["another"].item()) for reply in replies] == [("a", 11.0)]


# order


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.permutations("abcde"), slots=st.integers(1, 5), updates=st.lists(st.floats(-1e6, 1e6), min_size=5))
def test_the_mean_has_the_same_bits_in_whatever_order_the_updates_come(house, order, slots, updates):
    """`order` is that in which those who work at the same time answer; with fewer slots some begin later."""
    change = dict(zip("abcde", updates, strict=False))
    turns = {site: threading.Event() for site in order}
    following = dict(itertools.pairwise(order))

    def answers(site):
        def script(client):
            for assignment, params in client.tasks():
                turns[site].wait(20 if slots == 5 else 0.01)
                client.answer(assignment, params={"w": params["w"] + change[site]}, meta={NUM_STEPS: ord(site)})
                if site in following:
                    turns[following[site]].set()

        return script

    turns[order[0]].set()
    home = house({site: answers(site) for site in "abcde"}, slots=slots)
    summed, expected = FedAvg(), FedAvg()
    model = FLModel(params={"w": torch.tensor([0.1])}, current_round=0)
    for reply in home.communicator.broadcast(Task(name="train", model=model)):
        summed.accept(reply)
    for site in "abcde":
        update = FLModel(params={"w": torch.tensor([0.1]) + change[site]}, meta={NUM_STEPS: ord(site)})
        expected.accept(Reply(site=site, model=update))

    assert torch.equal(summed.aggregate().params["w"], expected.aggregate().params["w"])


def test_replies_are_in_site_order_though_they_arrive_reversed(house):
    c, b = threading.Event(), threading.Event()
    home = house({"a": adds(1.0, after=b), "b": adds(2.0, after=c, then=b), "c": adds(3.0, then=c)})

    assert home.ask() == [("a", [11.0], {"acc": 1.0}), ("b", [12.0], {"acc": 2.0}), ("c", [13.0], {"acc": 3.0})]
    assert [event.site for event in home.of(ReplyAccepted)] == ["a", "b", "c"]


def test_a_reply_is_given_as_soon_as_those_before_it_are_there(house):
    """c is let go by whoever got b's reply: were b's held back for c, nobody would answer."""
    go = threading.Event()
    home = house({"a": adds(1.0), "b": adds(2.0), "c": adds(3.0, after=go)})
    model = FLModel(params={"w": torch.tensor([0.0])}, current_round=0)
    seen = []

    for reply in home.communicator.broadcast(Task(name="train", model=model)):
        seen.append(reply.site)
        if reply.site == "b":
            go.set()

    assert seen == ["a", "b", "c"]


def test_an_answer_is_told_when_it_arrives_though_the_workflow_waits_for_an_earlier_site(house):
    """Before, a client that had answered was shown as working until its turn."""
    b_is_told = threading.Event()
    home = house({"a": adds(1.0, after=b_is_told), "b": adds(1.0)})
    listed = home.communicator._emit

    def emit(event):
        listed(event)
        if isinstance(event, ReplyArrived) and event.site == "b":
            b_is_told.set()

    home.communicator._emit = emit
    home.ask(round_num=3)

    assert b_is_told.is_set()
    told = [(type(event), event.site) for event in home.of(ReplyArrived, ReplyAccepted)]
    assert told == [(ReplyArrived, "b"), (ReplyArrived, "a"), (ReplyAccepted, "a"), (ReplyAccepted, "b")]
    assert {event.round_num for event in home.of(ReplyArrived)} == {3}


def test_what_is_told_of_a_round_has_its_sizes_steps_and_metrics(house):
    home = house({"a": adds(1.0, meta={"NUM_STEPS_CURRENT_ROUND": 12})})
    home.communicator.enter("warm_up", 0)
    home.ask(round_num=4)

    sent, accepted = home.of(TaskSent)[0], home.of(ReplyAccepted)[0]
    assert [type(event) for event in home.told] == [
        ModelSent,
        ClientWanted,
        ClientReady,
        TaskSent,
        ReplyArrived,
        ReplyAccepted,
    ]
    assert (sent.site, sent.workflow, sent.task, sent.round_num) == ("a", "warm_up", "train", 4)
    assert (accepted.site, accepted.workflow, accepted.task, accepted.round_num) == ("a", "warm_up", "train", 4)
    assert (accepted.num_steps, accepted.metrics) == (12, {"acc": 1.0})
    assert sent.size > 0
    assert accepted.size > 0


def test_an_answer_of_metrics_alone_has_no_params(house):
    def validates(client):
        for assignment, _ in client.tasks():
            client.answer(assignment, metrics={"acc": 0.5})

    home = house({"a": validates})

    assert home.ask() == [("a", None, {"acc": 0.5})]


def test_each_side_filters_what_it_is_told_to(house):
    seen = []

    def script(client):
        for assignment, params in client.tasks():
            seen.append(list(params))
            client.answer(assignment, params={"w": params["w"], "secret": torch.ones(1)})

    home = house(
        {"a": script},
        data=Chain([(["train"], ExcludeVars("private"))]),
        results=Chain([(["train"], ExcludeVars("secret"))]),
    )
    model = FLModel(params={"w": torch.tensor([1.0]), "private": torch.ones(1)}, current_round=0)

    answered = [list(reply.model.params) for reply in home.communicator.broadcast(Task(name="train", model=model))]

    assert seen == [["w"]]
    assert answered == [["w"]]
    assert list(model.params) == ["w", "private"]


def of_two_kinds(change):
    """Scripts of FULL and DIFF whose models have a key in common with that of the server, and `foreign`."""

    def full(client):
        for assignment, params in client.tasks():
            client.answer(assignment, params={"w": params["w"] + change, "foreign": torch.ones(1)})

    def diff(client):
        for assignment, _ in client.tasks():
            client.answer(assignment, params={"w": torch.tensor([change])}, params_type="DIFF", more_keys=["foreign"])

    return {"full": full, "diff": diff}


def test_a_key_that_the_model_does_not_have_fails_full_and_diff_alike_and_is_explained_once(house):
    home = house(of_two_kinds(1.0))

    assert home.ask() == home.ask(round_num=1) == []

    causes = [event.failure.cause for event in home.of(ReplyFailed)]
    said = "params: 'foreign' was not in the model that was sent"
    assert causes[0] == causes[1] != said
    assert causes[0].startswith(f"{said} (")
    assert causes[2:] == [said, said]


def test_keys_that_the_model_does_not_have_are_left_out_if_allowed_and_told_once_for_each_site(house):
    home = house(of_two_kinds(1.0))

    rounds = [
        [list(reply.model.params) for reply in home.communicator.broadcast(a_task(), allow_unknown_keys=True)]
        for _ in range(2)
    ]

    assert rounds == [[["w"], ["w"]]] * 2
    said = "1 key of its update is not in the model, such as 'foreign': left out"
    assert [event.text for event in home.of(Notice)] == [f"full: {said}", f"diff: {said}"]


def test_keys_that_a_filter_removes_or_the_workflow_ignores_are_no_fault(house):
    ignoring = house(of_two_kinds(1.0))
    filtering = house(of_two_kinds(1.0), results=Chain([(["train"], ExcludeVars("foreign"))]))

    assert [site for site, *_ in ignoring.ask(ignores=lambda name: name == "foreign")] == ["full", "diff"]
    assert [site for site, *_ in filtering.ask()] == ["full", "diff"]
    assert not ignoring.of(Notice, ReplyFailed)
    assert not filtering.of(Notice, ReplyFailed)


def test_a_key_of_the_model_that_a_filter_kept_from_the_clients_is_no_fault(house):
    home = house(of_two_kinds(1.0), data=Chain([(["train"], ExcludeVars("foreign"))]))

    found = home.ask(params={"w": torch.tensor([10.0]), "foreign": torch.ones(1)})

    assert [site for site, *_ in found] == ["full", "diff"]


def test_a_task_that_nobody_takes_is_told_once_with_the_nearest_name(house):
    home = house({"a": adds(1.0)}, configs={"a": ClientConfig(tasks=("train", "validate"))})

    assert home.ask("trian") == home.ask("trian") == []
    assert home.ask("validate", to=[]) == []

    assert [notice.text for notice in home.of(Notice)] == ["no client takes the task 'trian': did you mean 'train'?"]


def test_who_seeded_its_own_streams_is_remembered(house):
    home = house({"a": adds(1.0), "b": adds(2.0, seeded_itself=True)})
    home.ask()

    assert home.communicator.seeded_themselves == ["b"]


# slots


def test_with_one_slot_a_client_is_wanted_when_the_one_before_it_has_answered(house):
    home = house({"a": adds(1.0), "b": adds(2.0), "c": adds(3.0)}, slots=1)
    home.ask()

    story = [(type(event), event.site) for event in home.of(ClientWanted, ClientReady, TaskSent)]
    assert story == [(kind, site) for site in "abc" for kind in (ClientWanted, ClientReady, TaskSent)]


class Crowd:
    """Counts how many work at the same time, by group."""

    def __init__(self):
        self._lock = threading.Lock()
        self.now = {}
        self.most = {}

    def member(self, group, seconds=0.03):
        def script(client):
            for assignment, params in client.tasks():
                with self._lock:
                    self.now[group] = self.now.get(group, 0) + 1
                    self.most[group] = max(self.most.get(group, 0), self.now[group])
                time.sleep(seconds)
                with self._lock:
                    self.now[group] -= 1
                client.answer(assignment, params={"w": params["w"] + 1})

        return script


@pytest.mark.parametrize("slots", [1, 2, 3])
def test_no_more_clients_work_at_a_time_than_there_are_slots(house, slots):
    crowd = Crowd()
    home = house({site: crowd.member(0) for site in "abcdef"}, slots=slots)

    for round_num in range(2):
        assert len(home.ask(round_num=round_num)) == 6

    assert crowd.most == {0: slots}
    assert len(home.of(ClientWanted)) == 6


def test_the_slots_are_a_groups_own(house):
    """a and b are of different groups: each waits for the other to be at work."""
    meeting = threading.Barrier(2)

    def script(client):
        for assignment, params in client.tasks():
            meeting.wait(20)
            client.answer(assignment, params={"w": params["w"] + 1})

    home = house({"a": script, "b": script, "c": script, "d": script}, slots=1, groups={"b": 1, "d": 1})

    assert [site for site, _, _ in home.ask()] == ["a", "b", "c", "d"]


# time


def test_a_client_past_its_time_is_given_up_and_one_that_waited_for_its_slot_is_not(house):
    home = house({"a": silent, "b": adds(2.0)}, slots=1)

    assert home.ask(timeout_s=0.6) == [("b", [12.0], {"acc": 2.0})]
    assert [event.site for event in home.of(ReplyFailed)] == ["a"]
    assert "s of receiving the task" in home.of(ReplyFailed)[0].failure.cause


def test_one_that_is_not_waited_for_is_told_so_and_does_not_fail(house):
    home = house({"a": silent, "b": adds(2.0)})

    assert [site for site, _, _ in home.ask(min_responses=1, grace_s=0.0)] == ["b"]
    assert [(event.site, event.task) for event in home.of(NotAwaited)] == [("a", "train")]
    assert home.of(ReplyFailed) == []


@pytest.mark.parametrize("flag", ["--seed", "--strict"])
def test_with_a_seed_or_strict_the_slow_one_takes_part_and_the_way_out_is_named(house, flag):
    told = threading.Event()

    def slow(client):
        for assignment, params in client.tasks():
            assert told.wait(20)
            client.answer(assignment, params=params)

    home = house({"a": slow, "b": adds(2.0)}, waits_for_all=flag == "--seed", strict=flag == "--strict")
    emit = home.communicator._emit
    home.communicator._emit = lambda event: (emit(event), isinstance(event, Notice) and told.set())

    assert [site for site, _, _ in home.ask(min_responses=1, grace_s=0.0)] == ["a", "b"]
    (notice,) = home.of(Notice)
    assert f"with {flag} each round still waits for all (a)" in notice.text
    assert f"Without {flag} a round ends as in NVFLARE" in notice.text


def test_a_client_is_told_which_workflow_its_task_is_of(house):
    numbers = []

    def notes(client):
        for assignment, params in client.tasks():
            numbers.append(assignment.workflow)
            client.answer(assignment, params=params)

    home = house({"a": notes})
    home.ask()
    home.communicator.enter("second", 1)
    home.ask()

    assert numbers == [0, 1]


def test_strangers_who_say_nothing_hold_neither_the_door_nor_the_end(house, monkeypatch):
    monkeypatch.setattr("fedsag_cli.server.channels._MOST_GUESTS", 3)
    home = house({"a": adds(1.0)})
    with contextlib.ExitStack() as stack:
        for _ in range(5):
            stack.enter_context(socket.socket(socket.AF_UNIX)).connect(home.address)

        assert [site for site, _, _ in home.ask()] == ["a"]
        assert len(home.communicator._channels._guests) <= 3
        home.communicator.close()


def test_a_late_reply_is_dropped_by_its_tasks_number_and_the_client_is_asked_again(house):
    first_round_is_over = threading.Event()

    def slow_once(client):
        for assignment, params in client.tasks():
            if assignment.task_id == 1:
                assert first_round_is_over.wait(20)
            client.answer(assignment, params={"w": params["w"] + assignment.task_id})

    home = house({"a": slow_once, "b": adds(2.0)})

    assert [site for site, _, _ in home.ask(timeout_s=0.6)] == ["b"]
    first_round_is_over.set()
    second = home.ask(params={"w": torch.tensor([100.0])}, round_num=1)

    assert [(event.site, event.task, event.round_num) for event in home.of(ReplyLate)] == [("a", "train", 0)]
    assert [(site, w) for site, w, _ in second] == [("a", [102.0]), ("b", [102.0])]
    assert [(event.site, event.round_num) for event in home.of(ReplyAccepted)] == [("b", 0), ("a", 1), ("b", 1)]


def test_an_answer_to_a_task_that_never_was_is_dropped(house):
    def babbles(client):
        for assignment, params in client.tasks():
            client.channel.send(Answer(task_id=99, model=ModelFacts(metrics={"acc": 100.0})))
            client.answer(assignment, params={"w": params["w"] + 1})

    home = house({"a": babbles, "b": adds(2.0)})

    found = home.ask(timeout_s=5)

    assert [site for site, _, _ in found][-1] == "b"
    assert ("a", None, {"acc": 100.0}) not in found
    assert "a" in [event.site for event in home.of(ReplyLate)]


def test_an_answer_that_is_there_at_the_deadline_counts_also_behind_what_the_script_logged(house):
    """The workflow works on a's reply until b's time is over; b's answer came before that."""
    has_task, go, answered = threading.Event(), threading.Event(), threading.Event()

    def logs_and_answers(client):
        for assignment, params in client.tasks():
            has_task.set()
            assert go.wait(20)
            for step in range(20):
                client.channel.send(LogValues(kind="metric", values={"loss": 0.5}, step=step))
            client.answer(assignment, params={"w": params["w"] + 2})
            answered.set()

    home = house({"a": adds(1.0, after=has_task), "b": logs_and_answers})
    seen = []
    for reply in home.communicator.broadcast(a_task(), timeout_s=1.0):
        seen.append(reply.site)
        go.set()
        assert answered.wait(20)
        time.sleep(1.1 if reply.site == "a" else 0)

    assert seen == ["a", "b"]


# filters of the server


class Breaks:
    def process(self, model):
        raise ZeroDivisionError("division by zero")


def test_a_result_filter_that_raises_fails_that_reply_alone(house):
    class BreaksOnce(Breaks):
        def process(self, model):
            return super().process(model) if model.metrics == {"acc": 1.0} else model

    home = house({"a": adds(1.0), "b": adds(2.0)}, results=Chain([(["train"], BreaksOnce())]))

    assert [site for site, _, _ in home.ask(min_responses=1)] == ["b"]
    failure = home.of(ReplyFailed)[0].failure
    assert failure.cause == "the server's filter BreaksOnce: ZeroDivisionError: division by zero"
    assert failure.where.startswith(f"{__file__}:")


def test_a_result_filter_that_returns_no_model_fails_that_reply_alone(house):
    class Forgets:
        def process(self, model):
            return None if model.metrics == {"acc": 1.0} else model

    home = house({"a": adds(1.0), "b": adds(2.0)}, results=Chain([(["train"], Forgets())]))

    assert [site for site, _, _ in home.ask(min_responses=1)] == ["b"]
    assert home.of(ReplyFailed)[0].failure == Failure(
        cause="the server's filter Forgets: TypeError: Forgets.process() returned NoneType, not an FLModel"
    )


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("params", [1.0], "Spoils.process() returned params that are a list, not a dict"),
        ("metrics", {"acc": "high"}, "metrics: 'acc' is a str, not a number"),
        ("metrics", {"acc": np.zeros(2)}, "metrics: 'acc' is a ndarray, not a number"),
        ("metrics", [1.0], "the server's filter Spoils: AttributeError"),
        ("meta", None, "the server's filter Spoils: AttributeError"),
    ],
)
def test_a_result_filter_that_spoils_a_model_fails_that_reply_alone(house, field, value, said):
    class Spoils:
        def process(self, model):
            made = replace(model)
            if model.metrics == {"acc": 1.0}:
                setattr(made, field, value)
            return made

    home = house({"a": adds(1.0), "b": adds(2.0)}, results=Chain([(["train"], Spoils())]))

    assert [site for site, _, _ in home.ask(min_responses=1)] == ["b"]
    assert said in home.of(ReplyFailed)[0].failure.cause


def test_tensors_in_a_models_meta_travel_both_ways(house):
    def given_back(client):
        client.channel.send(Ready())
        assignment, (fd,) = client.channel.receive(30)
        with TensorFile(fd) as file:
            meta = unpacked(assignment.model, file).meta
        facts, file = packed(FLModel(metrics={"acc": 1.0}, meta={"diff": {"w": meta["c"]["w"] * 2}, "n": meta["n"]}))
        with file:
            client.channel.send(Answer(task_id=assignment.task_id, model=facts), file.fileno())

    home = house({"a": given_back})
    model = FLModel(params={"w": torch.ones(2)}, meta={"c": {"w": torch.tensor([1.5])}, "n": 7})

    (reply,) = home.communicator.broadcast(Task(name="train", model=model))

    assert reply.model.params is None
    assert reply.model.meta["diff"]["w"].tolist() == [3.0]
    assert (reply.model.meta["n"], list(reply.model.meta)) == (7, ["diff", "n"])


def test_an_answer_whose_tree_is_none_of_ours_fails_alone(house):
    def bad(client):
        for assignment, _ in client.tasks():
            with TensorFile.write({}, trees={"meta": [1]}) as file:
                client.channel.send(Answer(task_id=assignment.task_id, model=ModelFacts()), file.fileno())

    home = house({"a": bad, "b": adds(1.0)})

    assert [site for site, _, _ in home.ask(min_responses=1)] == ["b"]
    assert home.of(ReplyFailed)[0].failure.cause == "not a tensor file: its meta is no dict"


def test_a_result_filter_that_ends_python_fails_that_reply_alone(house):
    class Exits:
        def process(self, model):
            return sys.exit("enough") if model.metrics == {"acc": 1.0} else model

    home = house({"a": adds(1.0), "b": adds(2.0)}, results=Chain([(["train"], Exits())]))

    assert [site for site, _, _ in home.ask(min_responses=1)] == ["b"]
    assert home.of(ReplyFailed)[0].failure.cause == "the server's filter Exits: SystemExit: enough"


@pytest.mark.parametrize("value", ["\ud800", object(), None, {"deep": 1}])
def test_a_data_filter_that_makes_params_that_cannot_be_sent_is_named(house, value):
    class Spoils:
        def process(self, model):
            return replace(model, params={"w": value})

    home = house({"a": adds(1.0)}, data=Chain([(["train"], Spoils())]))

    with pytest.raises(NotEnoughClients, match=r"the server's filter Spoils: params: 'w' "):
        home.ask(min_responses=1)
    assert home.of(ClientWanted) == []


def test_a_data_filter_may_make_params_that_cannot_be_assigned_to(house):
    class Freezes:
        def process(self, model):
            return replace(model, params=types.MappingProxyType(model.params))

    home = house({"a": adds(1.0)}, data=Chain([(["train"], Freezes())]))

    assert home.ask() == [("a", [11.0], {"acc": 1.0})]


def test_a_workflow_that_asks_for_no_more_replies_has_the_one_it_got(house):
    home = house({"a": adds(1.0), "b": adds(2.0)})
    task = Task(name="train", model=FLModel(params={"w": torch.tensor([10.0])}))

    for _ in home.communicator.broadcast(task):
        break
    with home.communicator.ask(task) as replies:
        next(replies)
    next(home.communicator.ask(task))
    home.communicator.enter("another", 1)

    assert [event.site for event in home.of(ReplyAccepted)] == ["a", "a", "a"]


def test_a_client_that_connects_after_the_end_is_told_so_at_once(house, monkeypatch):
    """Before, it waited for the server, and the server for it, until the time for last values was over."""
    monkeypatch.setattr("fedsag_cli.server.communicator._LAST_LOGS_S", 300.0)
    connected = threading.Event()

    def first(client):
        adds(1.0)(client)
        assert connected.wait(20)

    def late(client):
        connected.set()
        assert list(client.tasks()) == []

    home = house({"a": first, "b": late}, slots=1)

    for _ in home.communicator.broadcast(Task(name="train", model=FLModel(params={"w": torch.tensor([10.0])}))):
        assert [event.site for event in home.of(ClientWanted)] == ["a", "b"]
        break
    home.communicator.close()


def test_a_result_filter_may_make_metrics_with_numpy(house):
    class Rounds:
        def process(self, model):
            return replace(model, metrics={"acc": np.float32(model.metrics["acc"])})

    home = house({"a": adds(1.0)}, results=Chain([(["train"], Rounds())]))

    assert [metrics for _, _, metrics in home.ask()] == [{"acc": 1.0}]
    assert [accepted.metrics for accepted in home.of(ReplyAccepted)] == [{"acc": 1.0}]
    assert events.to_line(home.of(ReplyAccepted)[0])


def test_a_data_filter_that_raises_fails_the_task_for_everybody(house):
    home = house({"a": adds(1.0), "b": adds(2.0)}, data=Chain([(["train"], Breaks())]))

    with pytest.raises(NotEnoughClients, match=r"no client can still answer.*filter Breaks: ZeroDivisionError"):
        home.ask(min_responses=1)
    assert home.of(ClientWanted) == []
    assert home.ask("validate", to="ab") != []


# ends


def test_a_process_that_ends_is_a_failure_with_its_cause_and_place(house):
    failure = Failure(cause="ZeroDivisionError: division by zero", where="/job/train.py:7", log="/w/a/log.txt")
    home = house({"a": dies(1, failure=failure), "b": adds(2.0)})

    assert home.ask(min_responses=1) == [("b", [12.0], {"acc": 2.0})]
    failed = home.of(ReplyFailed)[0]
    assert (failed.site, failed.task, failed.round_num) == ("a", "train", 0)
    assert failed.failure == Failure(
        cause=failure.cause, where=failure.where, log=failure.log, log_tail=[], exit_code=1
    )


@pytest.mark.parametrize(
    ("code", "says"),
    [
        (3, "exit code 3"),
        (-9, r"signal 9 \(SIGKILL\): perhaps out of memory"),
        (-11, r"signal 11 \(SIGSEGV\)$"),
        (0, "without answering its task"),
    ],
)
def test_a_process_that_ends_without_a_word_is_told_by_its_exit_code(house, code, says):
    home = house({"a": dies(code), "b": adds(2.0)})
    home.ask()

    assert re.search(says, home.of(ReplyFailed)[0].failure.cause)


def test_too_few_left_is_an_error_at_once_that_names_the_first_cause(house):
    """b is not waited for: it answers only when the error is there."""
    over = threading.Event()
    failure = Failure(cause="KeyError: 'fc'", where="/job/train.py:7")
    home = house({"a": dies(1, failure=failure), "b": adds(2.0, after=over)})

    try:
        with pytest.raises(
            NotEnoughClients,
            match=r"needs 2 answers, but only 1 client can still answer.*a: KeyError: 'fc' \(/job/tr",
        ):
            home.ask(min_responses=2)
    finally:
        over.set()


def test_who_is_gone_is_out_for_the_run_which_every_round_says(house):
    home = house({"a": dies(1), "b": adds(2.0)})

    for round_num in range(3):
        assert [site for site, _, _ in home.ask(round_num=round_num)] == ["b"]

    told = [(event.site, event.round_num, event.failure.cause[:10]) for event in home.of(ReplyFailed)]
    assert told[1:] == [("a", 1, "out of the"), ("a", 2, "out of the")]
    assert told[0][:2] == ("a", 0)
    assert [event.site for event in home.of(ClientWanted)] == ["a", "b"]


def test_an_answer_that_arrived_before_the_end_counts(house):
    home = house({"a": dies(1, answers_first=True), "b": adds(2.0)})

    assert [site for site, _, _ in home.ask(min_responses=2)] == ["a", "b"]
    assert home.of(ReplyFailed) == []
    assert [site for site, _, _ in home.ask(round_num=1)] == ["b"]
    assert [(event.site, event.round_num) for event in home.of(ReplyFailed)] == [("a", 1)]


def test_an_answer_counts_even_where_the_end_is_heard_of_with_it(house):
    """Both lie there when the communicator wakes up."""
    answered = threading.Event()

    def script(client):
        for assignment, params in client.tasks():
            client.answer(assignment, params={"w": params["w"] + 1})
            client.channel.close()
            client._house.tell(ProcessExited(name="a", exit_code=1))
            answered.set()
            client.end = ProcessExited(name="nobody", exit_code=0)
            return

    class Ear(list):
        def append(self, event):
            super().append(event)
            if isinstance(event, TaskSent):
                assert answered.wait(20)

    home = house({"a": script})
    home.told = Ear()

    assert [site for site, _, _ in home.ask(min_responses=1)] == ["a"]


def test_a_client_that_hangs_up_and_lives_on_is_given_up(house, monkeypatch):
    monkeypatch.setattr("fedsag_cli.server.clients.REASON_LIMIT_S", 0.1)
    over = threading.Event()

    def leaves(client):
        for _ in client.tasks():
            client.channel.close()
            assert over.wait(20)
            return

    home = house({"a": leaves, "b": adds(2.0)})
    try:
        assert [site for site, _, _ in home.ask()] == ["b"]
    finally:
        over.set()
    assert "closed its channel" in home.of(ReplyFailed)[0].failure.cause


def test_the_end_of_a_process_nobody_waits_for_is_no_matter(house):
    home = house({"a": adds(1.0)})
    home.tell(ProcessExited(name="server", exit_code=1))
    home.tell(Notice(text="not for you"))

    assert [site for site, _, _ in home.ask()] == ["a"]


def test_news_that_come_in_pieces_are_heard_whole(house):
    home = house({"a": None, "b": adds(2.0)})
    line = events.to_line(ProcessExited(name="a", exit_code=5))
    home.parent.sendall(line[:20])
    threading.Timer(0.05, home.parent.sendall, [line[20:]]).start()

    assert [site for site, _, _ in home.ask()] == ["b"]
    assert home.of(ReplyFailed)[0].failure.exit_code == 5


def test_without_the_parent_the_run_ends(house):
    home = house({"a": None})
    threading.Timer(0.05, home.parent.shutdown, [socket.SHUT_RDWR]).start()

    with pytest.raises(RunError, match="has ended"):
        home.ask()


def test_closing_tells_every_client(house):
    ended = []

    def script(client):
        for assignment, params in client.tasks():
            client.answer(assignment, params={"w": params["w"] + 1})
        ended.append(client.site)

    home = house({"a": script, "b": script})
    home.ask()
    assert ended == []
    home.close()

    assert sorted(ended) == ["a", "b"]


# several tasks at a time


def test_a_nested_task_waits_for_a_client_that_still_does_the_outer_one(house):
    """b answers the outer task only when the workflow waits for its answer to the inner one."""
    go = threading.Event()
    tasks = []

    def slow(client):
        for assignment, params in client.tasks():
            tasks.append(assignment.task_id)
            assert go.wait(20)
            client.answer(assignment, params={"w": params["w"] + 2})

    home = house({"a": adds(1.0), "b": slow})
    with home.communicator.ask(a_task()) as replies:
        assert next(replies).site == "a"
        inner = home.communicator.ask(a_task(), to=["b"])
        threading.Timer(0.05, go.set).start()
        assert [reply.site for reply in inner] == ["b"]
        assert [reply.site for reply in replies] == ["b"]

    assert tasks == [1, 2]


def test_two_tasks_to_the_same_client_are_done_in_the_order_in_which_it_was_asked(house):
    tasks = []

    def notes(client):
        for assignment, params in client.tasks():
            tasks.append(assignment.task_name)
            client.answer(assignment, params=params)

    home = house({"a": notes}, configs={"a": ClientConfig(tasks=("*",))})
    first, second = home.communicator.ask(a_task("one")), home.communicator.ask(a_task("two"))

    assert [reply.site for reply in second] == ["a"]
    assert [reply.site for reply in first] == ["a"]
    assert tasks == ["one", "two"]


def test_each_task_has_its_own_quorum_and_one_that_fails_ends_no_other(house):
    home = house({"a": adds(1.0), "b": dies(1)})

    with home.communicator.ask(a_task(), to=["a"], min_responses=1) as replies:
        with pytest.raises(NotEnoughClients):
            home.ask(to=["b"], min_responses=1)
        assert [reply.site for reply in replies] == ["a"]


def test_when_two_tasks_lose_their_quorum_the_first_is_told_and_whoever_goes_on_hears_of_the_other(house):
    home = house({"a": dies(1)})
    first, second = (home.communicator.ask(a_task(round_num=number), min_responses=1) for number in (1, 2))

    with second:
        with pytest.raises(NotEnoughClients, match="round 1"), first:
            next(first)
        with pytest.raises(NotEnoughClients, match="round 2"):
            next(second)


def test_the_slots_are_shared_by_all_tasks(house):
    crowd = Crowd()
    home = house({site: crowd.member(0) for site in "abcd"}, slots=2)

    asks = [home.communicator.ask(a_task(), to=[site]) for site in "abcd"]

    assert [[reply.site for reply in replies] for replies in reversed(asks)] == [["d"], ["c"], ["b"], ["a"]]
    assert crowd.most == {0: 2}


def test_a_reply_cannot_be_rejected_after_its_task_has_ended(house):
    home = house({"a": adds(1.0)})
    with home.communicator.ask(a_task()) as replies:
        reply = next(replies)

    with pytest.raises(RunError, match="a was rejected after its task had ended: it does not fit"):
        replies.reject(reply, "it does not fit")


def test_a_task_is_over_when_its_block_is_left_and_when_the_next_workflow_begins(house):
    home = house({"a": adds(1.0)})
    with home.communicator.ask(a_task()) as left:
        pass
    forgotten = home.communicator.ask(a_task())
    home.communicator.enter("second", 1)

    assert list(left) == list(forgotten) == []
    assert [site for site, _, _ in home.ask()] == ["a"]
    assert [event.workflow for event in home.of(TaskSent, ReplyAccepted)] == ["second", "second"]


def test_a_name_that_no_client_has_is_told_with_the_nearest(house):
    home = house({"site-1": adds(1.0), "site-2": adds(1.0)})

    with pytest.raises(JobError, match="task 'train': there is no client 'site2'") as wrong:
        home.ask(to=["site-1", "site2"])

    assert wrong.value.hint == "did you mean 'site-2'?"


def test_a_client_that_is_asked_again_in_a_round_of_a_workflow_is_told_how_often_it_was(house):
    tasks = []

    def notes(client):
        for assignment, params in client.tasks():
            tasks.append((client.site, assignment.model.current_round, assignment.nth))
            client.answer(assignment, params=params)

    home = house({"a": notes, "b": notes}, slots=1)
    for round_num in (0, 1):
        home.ask(round_num=round_num)
        home.ask(round_num=round_num, to=["b"])
        home.ask(round_num=round_num)
    home.communicator.enter("second", 1)
    home.ask(round_num=1)

    assert [(number, nth) for site, number, nth in tasks if site == "a"] == [(0, 0), (0, 1), (1, 0), (1, 1), (1, 0)]
    assert [nth for site, _, nth in tasks if site == "b"] == [0, 1, 2, 0, 1, 2, 0]


# where the server's filters work


class Notes:
    """A filter that notes where it works, and counts in its state."""

    def __init__(self):
        self.seen = []

    def process(self, model, exchange):
        exchange.state["times"] = exchange.state.get("times", 0) + 1
        sent = None if exchange.sent is None else exchange.sent.params["w"].tolist()
        self.seen.append((exchange.site, exchange.round_num, exchange.state["times"], sent, exchange.rng.random()))
        return model


def test_a_filter_of_the_server_knows_its_site_and_round_what_was_sent_and_what_it_kept(house):
    data, results = Notes(), Notes()
    home = house(
        {"a": adds(1.0), "b": adds(2.0)}, data=Chain([(["train"], data)]), results=Chain([(["train"], results)])
    )
    for round_num in (0, 1):
        home.ask(round_num=round_num)
    home.ask(round_num=1, to=["b"])

    assert [seen[:3] for seen in data.seen] == [("server", 0, 1), ("server", 1, 2), ("b", 1, 1)]
    answers = [("a", 0, 1), ("b", 0, 1), ("a", 1, 2), ("b", 1, 2), ("b", 1, 3)]
    assert [seen[:3] for seen in results.seen] == answers
    assert {tuple(seen[3]) for seen in results.seen} == {(10.0,)}
    assert len({seen[4] for seen in data.seen + results.seen}) == 8, "no two have the same random numbers"


def test_what_the_filters_of_the_server_keep_is_restored_with_the_same_random_numbers(house):
    def one_more_round(state=None):
        notes = Notes()
        home = house({"a": adds(1.0)}, results=Chain([(["train"], notes)]))
        if state is not None:
            home.communicator.keepers["filters/answer"].restore(state)
        else:
            home.ask(round_num=0)
        home.ask(round_num=1)
        return notes.seen[-1], {name: keeper.state() for name, keeper in home.communicator.keepers.items()}

    whole, _ = one_more_round()

    kept = {"filters/task": None, "filters/answer": {"0": {"a": {"times": 2}}}}
    assert one_more_round({"0": {"a": {"times": 1}}}) == (whole, kept)


# updates that a workflow keeps


def test_many_large_updates_that_are_kept_lie_on_disk_and_are_whole(house, monkeypatch):
    monkeypatch.setattr("fedsag_cli.server.spool.LARGE", 20)  # the first, of 16 bytes, stays in memory

    def script(client):
        for assignment, _ in client.tasks():
            client.answer(assignment, params={"w": torch.full((4,), float(ord(client.site)))})

    home = house(dict.fromkeys("abc", script))
    kept = {}
    with home.communicator.ask(Task(name="train", model=FLModel(params={"w": torch.zeros(4)}))) as replies:
        for reply in replies:
            kept[reply.site] = reply.keep().params["w"]

    assert {site: w.tolist() for site, w in kept.items()} == {site: [float(ord(site))] * 4 for site in "abc"}
    assert [is_on_disk(kept[site], home.folder) for site in "abc"] == [False, True, True]


def is_on_disk(tensor, folder):
    """Whether the memory of the tensor is a file in this folder."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        first, last = (int(end, 16) for end in line.split()[0].split("-"))
        if first <= tensor.data_ptr() < last:
            return str(folder) in line
    raise AssertionError("no such memory")


def test_three_hundred_rounds_leave_no_descriptor_open(house):
    """The clients are threads of this process, and open and close some meanwhile: the fewest count."""
    home = house({"a": adds(1.0), "b": adds(2.0)}, configs={"b": EACH})
    counts = []
    for round_num in range(300):
        assert len(home.ask(round_num=round_num)) == 2
        counts.append(len(open_descriptors()))

    assert min(counts[200:]) == min(counts[:100])


# launch_once = false


def test_with_a_start_for_each_task_the_client_is_wanted_anew_each_round(house):
    started = []

    def script(client):
        started.append(client.site)
        yield_one = client.tasks()
        assignment, params = next(yield_one)
        client.answer(assignment, params={"w": params["w"] + len(started)})
        assert list(yield_one) == []

    home = house({"a": script}, configs={"a": EACH})

    found = [home.ask(round_num=round_num)[0][1] for round_num in range(3)]

    assert found == [[11.0], [12.0], [13.0]]
    assert started == ["a", "a", "a"]
    assert [event.site for event in home.of(ClientWanted)] == ["a", "a", "a"]
    assert home.of(ReplyFailed) == []


def test_a_script_that_fails_after_its_answer_is_told_and_started_again(house):
    def script(client):
        for assignment, params in client.tasks():
            client.answer(assignment, params={"w": params["w"] + 1})
        client.end = ProcessExited(name=client.site, exit_code=3)

    home = house({"a": script}, configs={"a": EACH})

    assert len(home.ask()) == len(home.ask(round_num=1)) == 1
    told = [notice.text for notice in home.of(Notice)]  # of the second process only if that ends soon enough
    assert told[:1] == ["a answered, then failed: its process ended with exit code 3"]
    assert set(told[1:]) <= set(told[:1])


def test_a_script_that_goes_on_after_its_answer_is_given_up_in_the_next_round(house, monkeypatch):
    monkeypatch.setattr("fedsag_cli.server.clients.ENDING_LIMIT_S", 0.1)
    over = threading.Event()

    def script(client):
        for assignment, params in client.tasks():
            client.answer(assignment, params={"w": params["w"] + 1})
            assert over.wait(20)

    home = house({"a": script, "b": adds(2.0)}, configs={"a": EACH})
    try:
        assert [site for site, _, _ in home.ask()] == ["a", "b"]
        assert [site for site, _, _ in home.ask(round_num=1)] == ["b"]
    finally:
        over.set()
    assert "launch_once" in home.of(ReplyFailed)[0].failure.cause


# strangers


def test_a_wrong_token_and_an_unknown_site_are_refused_and_the_run_goes_on(house):
    go, refused = threading.Event(), []
    home = house({"a": adds(1.0, after=go), "b": adds(2.0)})

    def strangers():
        for hello in (
            Hello(site="a", token="guess"),
            Hello(site="stranger", token=TOKEN),
            Hello(site="b", token=TOKEN),
        ):
            try:
                connect(home.address, hello)
            except ChannelClosed:
                refused.append(hello.site)
        go.set()

    class Ear(list):
        def append(self, event):
            super().append(event)
            if isinstance(event, TaskSent) and event.site == "b":
                threading.Thread(target=strangers).start()

    home.told = Ear()

    assert [site for site, _, _ in home.ask()] == ["a", "b"]
    assert refused == ["a", "stranger", "b"]


@pytest.mark.parametrize(
    "words",
    [b"", b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 100, struct.pack("<Q", 5) + b"\xc1\xc1\xc1\xc1\xc1"],
    ids=["nothing", "HTTP", "ones", "a frame"],
)
def test_garbage_at_the_door_does_not_harm_the_others(house, words):
    go = threading.Event()
    home = house({"a": adds(1.0, after=go), "b": adds(2.0)})

    def babble():
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(home.address)
            sock.sendall(words)
        go.set()

    thread = threading.Thread(target=babble)
    thread.start()

    assert [site for site, _, _ in home.ask()] == ["a", "b"]
    thread.join()


@pytest.mark.parametrize(
    "words",
    [b"\xff" * 100, struct.pack("<Q", 1 << 50), struct.pack("<Q", 1) + b"\xc1"],
    ids=["ones", "length", "frame"],
)
def test_garbage_from_a_client_is_its_own_failure(house, words):
    def babbles(client):
        for _ in client.tasks():
            client.channel._sock.sendall(words)
            client.end = ProcessExited(name="a", exit_code=1, failure=Failure(cause="babbled"))
            return

    home = house({"a": babbles, "b": adds(2.0)})

    assert [site for site, _, _ in home.ask()] == ["b"]
    assert home.of(ReplyFailed)[0].failure.cause.startswith("it sent a message")


def test_a_broken_tensor_file_is_that_clients_failure(house):
    def breaks(client):
        for assignment, _ in client.tasks():
            fd = os.memfd_create("broken", os.MFD_CLOEXEC)
            os.write(fd, b"no tensor file at all")
            client.channel.send(Answer(task_id=assignment.task_id, model=ModelFacts()), fd)
            os.close(fd)

    home = house({"a": breaks, "b": adds(2.0)})

    assert [site for site, _, _ in home.ask()] == ["b"]
    assert "not a tensor file" in home.of(ReplyFailed)[0].failure.cause


def test_a_tensor_file_others_could_change_is_that_clients_failure(house, tmp_path):
    def script(client):
        for assignment, _ in client.tasks():
            with (tmp_path / "named").open("w+b") as file:
                client.channel.send(Answer(task_id=assignment.task_id, model=ModelFacts()), file.fileno())
            client.end = ProcessExited(name="a", exit_code=0)
            return

    home = house({"a": script, "b": adds(2.0)})

    assert [site for site, _, _ in home.ask()] == ["b"]
    assert "sealed" in home.of(ReplyFailed)[0].failure.cause


# memory


def test_clients_that_will_not_fit_are_an_error_after_the_first_answer(house, monkeypatch):
    monkeypatch.setattr("fedsag_cli.server.communicator.machine.free_memory", lambda: 5_000_000_000)
    home = house({site: adds(1.0, usage=Usage(private=3_000_000_000)) for site in "abc"}, slots=1)

    with pytest.raises(NotEnoughMemory, match=r"2 clients need about 6\.0 GB of main memory, 5\.0 GB are free"):
        home.ask()


def test_only_clients_that_are_to_work_have_to_fit_and_those_of_a_later_round_too(house, monkeypatch):
    free = [7_000_000_000]
    monkeypatch.setattr("fedsag_cli.server.communicator.machine.free_memory", lambda: free[0])
    home = house({site: adds(1.0, usage=Usage(private=3_000_000_000)) for site in "abcdefg"}, slots=1)

    assert len(home.ask(to="ab")) == 2
    free[0] = 1_000_000_000
    assert len(home.ask(to="ab", round_num=1)) == 2, "they are there"
    with pytest.raises(NotEnoughMemory, match=r"1 client needs about 3\.0 GB"):
        home.ask(to="bc", round_num=2)


def test_only_the_first_to_answer_are_asked_what_memory_they_hold(house):
    asked = []

    def tells(client):
        for assignment, params in client.tasks():
            asked.append((client.site, assignment.tell_usage))
            client.answer(assignment, params=params, usage=Usage(private=1) if assignment.tell_usage else None)

    home = house(dict.fromkeys("abc", tells), slots=1)
    home.ask()
    home.ask(round_num=1)

    assert asked == [("a", True), ("b", False), ("c", False), ("a", False), ("b", False), ("c", False)]


def test_the_server_holds_the_model_it_sent_once(house):
    first = torch.tensor([10.0])
    model = FLModel(params={"w": first, "tied": first, "n": 3}, current_round=0)
    home = house({"a": adds(1.0)})

    list(home.communicator.broadcast(Task(name="train", model=model)))

    assert list(model.params) == ["w", "tied", "n"]
    assert (model.params["w"].tolist(), model.params["n"]) == ([10.0], 3)
    assert model.params["w"] is not first
    assert model.params["w"] is model.params["tied"]


def test_where_memory_is_short_early_answers_wait_on_disk_and_come_whole(house, monkeypatch):
    monkeypatch.setattr("fedsag_cli.server.spool.LARGE", 1)
    monkeypatch.setattr("fedsag_cli.server.spool.machine.free_memory", lambda: 1)
    last = threading.Event()
    home = house({"a": adds(1.0, after=last), "b": adds(2.0), "c": adds(3.0, then=last)})

    assert [(site, w) for site, w, _ in home.ask()] == [("a", [11.0]), ("b", [12.0]), ("c", [13.0])]


# what a site keeps from task to task


def counts(seen, *, each=False):
    """A script that keeps the number of its answers, and notes in `seen` what came with each task."""

    def script(client):
        count = 0
        for assignment, _ in client.tasks():
            came = client.kept()
            seen.append(came)
            count = 1 + (count if came is None else came.get("count", 0))
            client.keep(assignment, count=count)
            if each:
                return

    return script


def kept_by(home, site="a"):
    home.communicator.states.touched.add(site)  # perhaps its last change was saved
    if (kept := home.communicator.states.changed().get(site)) is None:
        return None
    with kept.twin() as file:
        return file.tree("flare.state")


def test_what_a_site_keeps_counts_once_its_answer_is_accepted_and_is_not_sent_back(house):
    seen = []
    home = house({"a": counts(seen)})

    with home.communicator.ask(a_task()) as replies:
        next(replies)
        before = kept_by(home)
        assert next(replies, None) is None
    home.ask(round_num=1)

    assert (before, kept_by(home), seen) == (None, {"count": 2}, [None, None])


def test_a_site_whose_answer_was_rejected_has_what_it_had_before(house):
    seen = []
    home = house({"a": counts(seen), "b": adds(1.0)})
    home.ask()

    with home.communicator.ask(a_task(round_num=1)) as replies:
        for reply in replies:
            if reply.site == "a":
                replies.reject(reply, "too far")
    after = kept_by(home)
    home.ask(round_num=2)

    assert after == {"count": 1}
    assert seen == [None, None, {"count": 1}]
    assert kept_by(home) == {"count": 2}


def test_a_site_whose_first_answer_was_rejected_has_nothing_again(house):
    seen = []
    home = house({"a": counts(seen)})

    with home.communicator.ask(a_task()) as replies:
        replies.reject(next(replies), "too far")
    home.ask(round_num=1)

    assert seen == [None, {}]
    assert kept_by(home) == {"count": 1}


def test_an_answer_that_does_not_fit_changes_nothing(house):
    def script(client):
        for assignment, _ in client.tasks():
            with state_file(n=1) as state:
                facts = ModelFacts(metrics={"acc": 1.0}, meta={NUM_STEPS: -1})
                client.channel.send(Answer(task_id=assignment.task_id, model=facts, has_state=True), state.fileno())

    home = house({"a": script, "b": adds(1.0)})

    assert [site for site, _, _ in home.ask(min_responses=1)] == ["b"]
    assert kept_by(home) is None


def test_an_answer_that_is_late_changes_nothing(house):
    seen, gate = [], threading.Event()

    def late(client):
        for assignment, _ in client.tasks():
            seen.append(client.kept())
            if len(seen) == 1:
                assert gate.wait(20)
            client.keep(assignment, count=len(seen))

    home = house({"a": late, "b": adds(1.0)})
    with home.communicator.ask(a_task(), to=["a"], timeout_s=0.05) as replies:
        assert list(replies) == []
    gate.set()
    home.ask(round_num=1)

    assert seen == [None, {}]
    assert kept_by(home) == {"count": 2}


def test_a_new_process_gets_what_its_site_keeps(house):
    seen = []
    home = house({"a": counts(seen, each=True)}, configs={"a": EACH})

    for round_num in range(3):
        home.ask(round_num=round_num)

    assert seen == [None, {"count": 1}, {"count": 2}]


def test_a_resumed_run_gives_each_site_what_it_kept(house):
    seen = []
    home = house({"a": counts(seen)})
    home.communicator.states.files = StateFiles(home.folder)
    with state_file(count=7) as state:
        home.communicator.states.files.write({"a": state})

    home.ask()

    assert (seen, kept_by(home)) == ([{"count": 7}], {"count": 8})


def test_two_open_tasks_of_one_site_go_on_from_each_other(house):
    seen = []
    home = house({"a": counts(seen)})

    with home.communicator.ask(a_task()) as outer, home.communicator.ask(a_task()) as inner:
        assert len(list(inner)) == 1
        first = kept_by(home)
        assert len(list(outer)) == 1

    assert seen == [None, None], "the process had it, whether it was accepted yet or not"
    assert (first, kept_by(home)) == ({"count": 2}, {"count": 2})


def test_large_ones_wait_on_disk_and_are_whole(house, monkeypatch):
    monkeypatch.setattr("fedsag_cli.server.spool.LARGE", 1)
    monkeypatch.setattr("fedsag_cli.server.spool._DELAY_S", 0.0)
    weights = torch.arange(100_000.0)

    def script(client):
        for assignment, _ in client.tasks():
            client.keep(assignment, w=weights)

    home = house({"a": script, "b": script})
    home.ask()
    home.ask(round_num=1)

    assert kept_by(home, "a")["w"].equal(weights)
    assert kept_by(home, "b")["w"].equal(weights)


def untold(client, assignment):
    client.channel.send(Answer(task_id=assignment.task_id, model=ModelFacts(metrics={}), has_state=True))


def too_many(client, assignment):
    with state_file() as state:
        client.channel.send(Answer(task_id=assignment.task_id, model=ModelFacts(metrics={})), *[state.fileno()] * 2)


def no_tensor_file(client, assignment):
    with tempfile.TemporaryFile() as file:
        file.write(b"nonsense" * 10)
        file.flush()
        client.channel.send(
            Answer(task_id=assignment.task_id, model=ModelFacts(metrics={}), has_state=True), file.fileno()
        )


def no_dict(client, assignment):
    with TensorFile.write({}, trees={"flare.state": [1], "filters": {}}) as file:
        client.channel.send(
            Answer(task_id=assignment.task_id, model=ModelFacts(metrics={}), has_state=True), file.fileno()
        )


def no_part(client, assignment):
    with TensorFile.write({"w": 1}, trees={"flare.state": {}}) as file:
        client.channel.send(
            Answer(task_id=assignment.task_id, model=ModelFacts(metrics={}), has_state=True), file.fileno()
        )


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (untold, "it sent a message with 0 files"),
        (too_many, "it sent a message with 2 files"),
        (no_tensor_file, "not a tensor file: a header of"),
        (no_dict, "not a tensor file: its flare.state is no dict"),
        (no_part, "not a tensor file: it has no tree 'filters'"),
    ],
)
def test_whoever_sends_something_else_along_fails_alone(house, bad, said):
    def script(client):
        for assignment, _ in client.tasks():
            bad(client, assignment)

    home = house({"a": script, "b": adds(1.0)})

    assert [site for site, _, _ in home.ask(min_responses=1)] == ["b"]
    assert said in home.of(ReplyFailed)[0].failure.cause
    assert kept_by(home) is None


def test_what_its_sender_could_still_change_is_copied_before_it_counts(house):
    sent = []

    def script(client):
        for assignment, _ in client.tasks():
            with state_file(n=1) as state:
                sent.append(state.on_disk(home.folder))
            client.channel.send(
                Answer(task_id=assignment.task_id, model=ModelFacts(metrics={}), has_state=True), sent[-1].fileno()
            )

    home = house({"a": script})
    home.ask()
    with sent[0] as file:
        os.ftruncate(file.fileno(), 10)

    assert kept_by(home) == {"n": 1}
