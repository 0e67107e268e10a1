"""The states of a script's session with the server, and the steps between them."""

from __future__ import annotations

from enum import Enum, auto


class State(Enum):
    """The state of a script's session: what the script has done."""

    JOINED = "has joined the run, and has not asked for a task"
    ASKED = "has asked for its first task"
    ASSIGNED = "has a task, and has not received its model"
    RECEIVED = "has received the model of its task, and has not answered"
    REPEATED = "has started its loop again without an answer to its task"
    ANSWERED = "has answered its task, and has no other"
    OVER = "gets no more tasks; logged values are still stored"
    LEFT = "has left the run, or takes no part in it"

    def after(self, step: Step) -> State:
        """The state after `step`; the same state if the step changes nothing."""
        return _NEXT.get((self, step), self)

    @property
    def has_task(self) -> bool:
        """Whether there is a task without an answer."""
        return self in (State.ASSIGNED, State.RECEIVED, State.REPEATED)

    @property
    def is_over(self) -> bool:
        """Whether no more tasks can arrive."""
        return self in (State.OVER, State.LEFT)


class Step(Enum):
    """What happens between a script and the server."""

    ASK = auto()  # the script waits for the first time
    ASSIGN = auto()  # a task arrives
    RECEIVE = auto()  # the script gets the model of its task
    REPEAT = auto()  # the script asks whether there is a task
    ANSWER = auto()  # the script answers its task
    END = auto()  # the server closes the channel
    LEAVE = auto()  # the script closes the channel, or an answer could not be sent


_NEXT = {
    (State.JOINED, Step.ASK): State.ASKED,
    (State.ASKED, Step.ASSIGN): State.ASSIGNED,
    (State.ASSIGNED, Step.RECEIVE): State.RECEIVED,
    (State.RECEIVED, Step.REPEAT): State.REPEATED,
    (State.RECEIVED, Step.ANSWER): State.ANSWERED,
    (State.REPEATED, Step.ANSWER): State.ANSWERED,
    (State.ANSWERED, Step.ASSIGN): State.ASSIGNED,
    (State.JOINED, Step.END): State.OVER,
    (State.ASKED, Step.END): State.OVER,
    (State.ANSWERED, Step.END): State.OVER,
    **{(state, Step.LEAVE): State.LEFT for state in State},
}
