"""A script's conversation with the server, walked through every order of five calls."""

import itertools

import pytest

from fedsag_cli.client import session as sessions
from fedsag_cli.client.session import Session
from fedsag_cli.client.steps import State
from fedsag_cli.errors import ChannelClosed, ClientError
from fedsag_cli.model import FLModel
from fedsag_cli.plan import ClientConfig
from fedsag_cli.wire.messages import ADDRESS, SITE, Answer, Assignment, ModelFacts, Ready, Welcome

pytestmark = pytest.mark.usefixtures("fresh_process")

NOT_ANSWERED = "the loop started again without an answer to the task 'train'"
NOT_RECEIVED = "flare.send() answers a task, but no model was received"
SENT_TWICE = "flare.send() was called a second time for one task"
CALLS = ("is_running", "receive", "send", "shutdown", "end")


class FakeChannel:
    """A server that always has a next task, until its run ends. `heard` is what came to it before that."""

    def __init__(self):
        self.heard, self.has_ended, self.is_closed, self._tasks = [], False, False, 0

    def send(self, message, *files):
        if self.has_ended:
            raise ChannelClosed("the other process has closed the channel")
        self.heard.append(message)

    def receive(self, timeout_s=None):
        if self.has_ended:
            raise ChannelClosed("the other process has closed the channel")
        self._tasks += 1
        model = ModelFacts(current_round=self._tasks)
        return Assignment(task_id=self._tasks, task_name="train", model=model), []

    def close(self):
        self.is_closed = True


class Script:
    """A session, and what each call to it gives, or the sentence it raises."""

    def __init__(self, monkeypatch):
        self.server = FakeChannel()
        welcome = Welcome(job_id="j", seed=1, scratch="/tmp", config=ClientConfig())
        monkeypatch.setattr(sessions, "connect", lambda *_: (welcome, self.server))
        self.session = Session("0")

    def call(self, name):
        try:
            return getattr(self, name)()
        except ClientError as error:
            return error.message

    def is_running(self):
        return self.session.is_running()

    def receive(self):
        model = self.session.receive()
        return None if model is None else model.current_round

    def send(self):
        return self.session.send(FLModel(metrics={"a": 1}))

    def shutdown(self):
        return self.session.close()

    def end(self):
        self.server.has_ended = True

    def answered(self):
        return [message.task_id for message in self.server.heard if isinstance(message, Answer)]


class Reference:
    """What each of these calls must give, and which tasks are answered: the rules, with no state of ours in them."""

    def __init__(self):
        self.answers = []
        self.count = 0  # of tasks that came
        self.task = None  # that has no answer
        self.is_received = self.has_looped = False  # that task's model; `is_running` was asked after that
        self.has_ended = self.is_known = self.has_left = False  # the run, to the server, to the script; the script

    def is_running(self):
        self._look()
        self.has_looped = self.is_received
        return self.task is not None

    def receive(self):
        if self.has_looped:
            return NOT_ANSWERED
        self._look()
        self.is_received = self.task is not None
        return self.task

    def send(self):
        if self.is_known or self.has_left:
            return None  # a warning in the log
        if not self.is_received:
            return SENT_TWICE if self.count and self.task is None else NOT_RECEIVED
        if self.has_ended:
            return self.shutdown()
        self.answers.append(self.task)
        self._forget()
        return None

    def shutdown(self):
        self.has_left = True
        self._forget()

    def end(self):
        self.has_ended = True

    def _look(self):
        if self.task is None and self.has_ended:
            self.is_known = True
        elif self.task is None and not self.has_left:
            self.count += 1
            self.task = self.count

    def _forget(self):
        self.task, self.is_received, self.has_looped = None, False, False


def test_every_order_of_five_calls_gives_what_the_rules_say(monkeypatch):
    monkeypatch.setenv(ADDRESS, "anywhere")
    monkeypatch.setenv(SITE, "site-1")
    seen = set()

    for calls in itertools.product(CALLS, repeat=5):
        script, reference = Script(monkeypatch), Reference()
        seen.add(script.session._state)
        for number, name in enumerate(calls):
            given, wanted = script.call(name), getattr(reference, name)()
            assert given == wanted, f"{calls[: number + 1]} gives {given!r}, not {wanted!r}"
            seen.add(script.session._state)
        assert script.answered() == reference.answers, calls
        assert script.server.is_closed is reference.has_left, calls
        assert script.server.heard.count(Ready()) <= 1, calls

    assert seen == set(State) - {State.ASKED}  # that one lasts as long as the first wait


def test_a_wait_that_ends_without_a_task_changes_nothing_but_that_it_was_asked_for(monkeypatch):
    monkeypatch.setenv(ADDRESS, "anywhere")
    script = Script(monkeypatch)
    for state in (State.ASKED, State.ANSWERED):
        with monkeypatch.context() as patched:
            patched.setattr(FakeChannel, "receive", lambda *_: (_ for _ in ()).throw(TimeoutError))
            assert script.session.receive(timeout_s=0.1) is None
        assert script.session._state is state
        assert script.receive() is not None
        script.send()
    assert script.server.heard[0] == Ready()
    assert script.answered() == [1, 2]


def test_the_script_of_a_worker_says_each_time_that_it_asks_for_a_task(monkeypatch):
    monkeypatch.setenv(ADDRESS, "anywhere")
    script = Script(monkeypatch)
    for _ in range(3):
        assert script.is_running()
        assert script.receive() is not None
        script.send()
    assert [type(message) for message in script.server.heard] == [Ready, Answer] * 3
