"""Decides what the server does when something happens: slots, turns, deadlines, quorum, memory and causes.

It gets what happened and the time, and returns decisions. It has no socket, file, clock or thread: the `Communicator`
performs the decisions.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

from fedsag_cli.events import Failure
from fedsag_cli.server.broadcast import Broadcast
from fedsag_cli.server.clients import ENDING_LIMIT_S, Client, State
from fedsag_cli.server.decisions import (
    Accept,
    Admit,
    Answered,
    Asked,
    Begun,
    Connected,
    Decision,
    Disconnected,
    Drop,
    EndChannel,
    Exited,
    Fail,
    Finish,
    Give,
    Happening,
    Keep,
    Left,
    MemoryShort,
    QuorumLost,
    Rejected,
    Send,
    Skip,
    Start,
    Stop,
    StrictFailure,
    Taken,
    TimePassed,
    WaitOn,
    Warn,
)
from fedsag_cli.wire.messages import Usage

SAME_CAUSE_S = 0.2  # clients that fail for the same cause fail within this time: the report names all of them


class Dispatcher:
    """All clients of a run, and the current broadcast."""

    def __init__(
        self,
        clients: Sequence[Client],
        *,
        slots: int,
        strict: bool,
        waits_for_all: bool = False,
        free_memory: Callable[[], int],
    ) -> None:
        """`clients`: in the order of replies. `free_memory`: bytes; 0 if unknown.

        `waits_for_all`: who takes part does not depend on how fast the others are. `strict` includes it.
        """
        self.clients = {client.site: client for client in clients}
        self._slots, self._strict, self._free_memory = slots, strict, free_memory
        self._waits_for_all = waits_for_all or strict
        self._has_told_wait = False
        self._broadcast: Broadcast | None = None
        self._busy: defaultdict[int, int] = defaultdict(int)  # number of slots in use, by group
        self._usage: Usage | None = None  # of the first client that reported it
        self._good_answers = 0  # in the whole run
        self._now = 0.0
        self._decided: list[Decision] = []

    def handle(self, happening: Happening, now: float) -> list[Decision]:
        """The decisions that follow from `happening`, in order. `now` is in seconds and never decreases."""
        self._now, self._decided = now, []
        self._update(happening)
        if self._broadcast is not None and not self._broadcast.is_over:
            self._continue(self._broadcast)
        return self._decided

    @property
    def due(self) -> float | None:
        """When to call `handle` with TimePassed if nothing happens before; None: never."""
        broadcast = self._broadcast
        if broadcast is None or broadcast.is_over:
            return None
        if broadcast.quorum_lost is not None:
            return broadcast.quorum_lost + SAME_CAUSE_S
        moments = (broadcast.due, broadcast.grace_ends if self._will_tell_wait else None)
        return min((moment for moment in moments if moment is not None), default=None)

    def overdue(self, now: float) -> list[str]:
        """The sites that `handle` would give up for TimePassed."""
        return [client.site for client in self._overdue(now)]

    @property
    def is_stopping(self) -> bool:
        """Too few answers are possible. The run stops soon, after other clients that fail for the same cause."""
        return self._broadcast is not None and self._broadcast.quorum_lost is not None

    def _update(self, happening: Happening) -> None:
        match happening:
            case Begun():
                self._begin(happening)
            case Left():
                self._leave()
            case Connected(site):
                self._connected(self.clients[site])
            case Asked(site):
                self._asked(self.clients[site])
            case Answered(site, task_id, usage):
                self._answered(self.clients[site], task_id, usage)
            case Disconnected(site, cause):
                self._disconnected(self.clients[site], cause)
            case Exited(site):
                self._exited(self.clients[site], happening)
            case Taken():
                self._taken()
            case Rejected(site, failure):
                self._rejected(self.clients[site], failure)
            case TimePassed():
                for client in self._overdue(self._now):
                    self._give_up(client)
                self._tell_wait()

    def _continue(self, broadcast: Broadcast) -> None:
        """Decide what follows from the state of the clients."""
        if broadcast.possible < broadcast.needed:
            self._lose_quorum(broadcast)
            return
        self._hand_out(broadcast)
        if broadcast.given is not None:
            return
        broadcast.given = broadcast.next_reply()
        if broadcast.given is not None:
            self._decided.append(Give(broadcast.given.site))
        elif broadcast.all_given:
            broadcast.is_over = True
            self._decided.append(Finish())

    def _hand_out(self, broadcast: Broadcast) -> None:
        """Give the free slots to the next clients in site order."""
        for group in broadcast.groups():
            while self._busy[group] < self._slots and (client := broadcast.next_in(group)) is not None:
                if client.state is State.ABSENT:
                    client.launched = self._now
                    client.has_asked = client.has_answered = False
                    self._change(client, State.STARTING)
                    self._decided.append(Start(client.site))
                else:
                    client.task_id = broadcast.task_id
                    self._change(client, State.WORKING)
                    tell_usage = self._usage is None and client.config.launch_once
                    self._decided.append(Send(client.site, tell_usage))

    def _lose_quorum(self, broadcast: Broadcast) -> None:
        if broadcast.quorum_lost is None:
            broadcast.quorum_lost = self._now
        others = any(client.state not in (State.ABSENT, State.WAITING) for client in broadcast.waiting_for)
        if others and self._now < broadcast.quorum_lost + SAME_CAUSE_S:
            return
        hint = broadcast.first_hint
        if self._good_answers:  # otherwise fewer clients would fail alike
            hint = (
                f"{hint}; or, in a new run, lower min_clients"
                if hint
                else "in a new run, lower min_clients if fewer answers are enough"
            )
        if self._strict and broadcast.min_responses < len(broadcast.targets):
            hint = "a new run without --strict continues if min_clients clients answer"
        self._stop(QuorumLost(broadcast.needed, broadcast.possible, broadcast.first_failure, hint))

    def _stop(self, why: Stop) -> None:
        """Stop the run. There are no decisions for this broadcast after that."""
        if self._broadcast is not None:
            self._broadcast.is_over = True
        self._decided.append(why)

    def _change(self, client: Client, state: State) -> None:
        """Set the state of a client, and count its slot."""
        self._busy[client.group] -= client.holds_slot
        client.state, client.since = state, self._now
        self._busy[client.group] += client.holds_slot
        self._watch(client)

    def _watch(self, client: Client) -> None:
        if self._broadcast is not None:
            self._broadcast.watch(client)

    def _overdue(self, now: float) -> list[Client]:
        broadcast = self._broadcast
        if broadcast is None or broadcast.is_over or broadcast.quorum_lost is not None:
            return []
        return broadcast.overdue(now)

    # the workflow

    def _begin(self, begun: Begun) -> None:
        self._leave()
        sites = set(begun.targets)
        targets = [client for client in self.clients.values() if client.site in sites]
        needed = len(targets) if self._strict else begun.min_responses
        self._broadcast = Broadcast(begun, targets, self._now, needed=needed, waits_for_all=self._waits_for_all)
        for client in targets:
            if client.state is State.GONE:
                self._fail(client, client.failure or Failure(cause="its process ended"))
            elif begun.refused is not None:
                self._fail(client, begun.refused)
        self._check_memory()

    def _leave(self) -> None:
        """End the broadcast. Clients that still work on it lose their slots.

        The workflow has the reply that it got last, even if it asks for no more.
        """
        self._taken()
        broadcast, self._broadcast = self._broadcast, None
        for client in broadcast.waiting_for if broadcast else ():
            self._free(client)

    def _taken(self) -> None:
        if self._broadcast is None or self._broadcast.given is None:
            return
        client, self._broadcast.given = self._broadcast.given, None
        if not self._broadcast.has_failed(client):
            self._decided.append(Accept(client.site))

    def _rejected(self, client: Client, failure: Failure) -> None:
        if self._broadcast is not None and self._broadcast.has_answer_of(client):
            self._good_answers -= 1
            self._fail(client, failure)

    # the clients

    def _connected(self, client: Client) -> None:
        if client.has_asked:  # it connected again
            client.has_asked, client.launched = False, self._now
        client.is_connected, client.lost = True, None
        self._watch(client)

    def _asked(self, client: Client) -> None:
        if client.state in (State.STARTING, State.LATE) and not client.has_asked:
            client.has_asked = True
            self._decided.append(Admit(client.site))
            self._change(client, State.WAITING)

    def _answered(self, client: Client, task_id: int, usage: Usage | None) -> None:
        if task_id != client.task_id or client.state not in (State.WORKING, State.LATE):
            self._decided.append(Drop(client.site))
            return
        client.has_answered = True
        if client.state is State.WORKING and self._broadcast is not None:
            work_s = self._now - client.since
            self._broadcast.answered(client, work_s)
            self._good_answers += 1
            self._decided.append(Keep(client.site, work_s))
        else:
            self._decided.append(Drop(client.site))
        if client.config.launch_once:
            self._change(client, State.WAITING)
        else:
            self._decided.append(EndChannel(client.site))
            self._change(client, State.ENDING)
        if usage is not None:
            self._measure(client, usage)

    def _disconnected(self, client: Client, cause: str) -> None:
        """Why the channel closed is not known yet: the exit of the process will show it."""
        client.is_connected = False
        if cause and client.failure is None:
            client.failure = Failure(cause=cause)
        if client.state not in (State.ABSENT, State.ENDING, State.GONE) and client.lost is None:
            client.lost = self._now
            self._watch(client)

    def _exited(self, client: Client, exited: Exited) -> None:
        client.is_connected, client.lost = False, None
        reported = exited.failure or Failure(cause="")
        if client.state is State.ENDING:
            client.failure = None
            self._change(client, State.ABSENT)
            if exited.exit_code:
                cause = reported.cause or client.cause_of_end(exited.exit_code)
                self._failed_after_answer(f"{client.site} answered, then failed: {cause}")
            return
        if client.state is State.GONE:
            return
        client.failure = Failure(
            cause=(client.failure.cause if client.failure else "")
            or reported.cause
            or client.cause_of_end(exited.exit_code),
            where=reported.where,
            log=reported.log,
            log_tail=reported.log_tail,
            exit_code=exited.exit_code,
        )
        self._end(client, client.failure)

    def _end(self, client: Client, failure: Failure) -> None:
        """The client takes no further part in the run."""
        client.failure = failure
        self._change(client, State.GONE)
        if self._broadcast is not None and self._broadcast.waits_for(client):
            self._fail(client, failure)

    def _failed_after_answer(self, text: str) -> None:
        self._decided.append(Warn(text))
        if self._strict:
            self._stop(StrictFailure(text))

    @property
    def _will_tell_wait(self) -> bool:
        return self._waits_for_all and not self._has_told_wait

    def _tell_wait(self) -> None:
        broadcast = self._broadcast
        if broadcast is None or broadcast.is_over or broadcast.quorum_lost is not None or not self._will_tell_wait:
            return
        if slow := broadcast.beyond_grace(self._now):
            self._has_told_wait = True
            self._decided.append(WaitOn(tuple(client.site for client in slow)))

    def _give_up(self, client: Client) -> None:
        assert self._broadcast is not None
        if not self._broadcast.has_failed_by(client, self._now):
            self._broadcast.skipped(client)
            self._decided.append(Skip(client.site))
            self._free(client)
            return
        if client.lost is not None:
            self._end(client, client.failure or Failure(cause="it closed its channel (was flare.shutdown() called?)"))
            return
        hint = "raise train_timeout"
        if client.state is State.ENDING:
            hint = ""
            cause = (
                f"its script was still running {ENDING_LIMIT_S:.0f} s after its answer:"
                " with launch_once = false it must end after each task"
            )
        elif not client.has_asked:
            hint = "raise launch_timeout"
            waited_s = self._now - client.launched
            cause = f"it did not ask for a task within {waited_s:.0f} s: flare.receive() was not reached"
        elif client.state is State.LATE:
            waited_s = self._now - self._broadcast.began
            cause = f"no answer within {waited_s:.1f} s: it still works on an earlier task"
        else:
            cause = f"no answer within {self._now - client.since:.1f} s of receiving the task"
        self._fail(client, Failure(cause=cause), hangs=True, hint=hint)
        self._free(client)

    def _free(self, client: Client) -> None:
        """Give the slot of a client that is not waited for any more to another one."""
        if client.holds_slot:
            self._change(client, State.LATE)

    def _fail(self, client: Client, failure: Failure, *, hangs: bool = False, hint: str = "") -> None:
        broadcast = self._broadcast
        assert broadcast is not None
        if client.gone_since is not None:
            failure = Failure(cause=f"out of the run since round {client.gone_since}: {failure.cause}")
        elif client.state is State.GONE:
            client.gone_since = broadcast.round_num
        if not broadcast.first_failure:
            where = f" ({failure.where})" if failure.where else ""
            broadcast.first_failure, broadcast.first_hint = f"{client.site}: {failure.cause}{where}", hint
        broadcast.failed(client)
        self._decided.append(Fail(client.site, failure, hangs))

    # memory

    def _measure(self, client: Client, usage: Usage) -> None:
        """After the first answer with memory usage: check whether the clients still to start fit into memory."""
        if self._usage is not None:
            return
        self._usage = usage
        self._check_memory()
        if self._broadcast is None or self._broadcast.is_over:
            return
        others = sum(other.group == client.group for other in self._not_started())
        if usage.gpu_free and usage.gpu * others > usage.gpu_free:
            self._stop(MemoryShort(others, usage.gpu * others, usage.gpu_free, "GPU"))

    def _check_memory(self) -> None:
        """Check whether the clients that will start for this task fit into the free memory."""
        if self._usage is None or not (count := len(self._not_started())):
            return
        needed, free = self._usage.private * count, self._free_memory()
        if free and needed > free:
            self._stop(MemoryShort(count, needed, free, "main"))

    def _not_started(self) -> list[Client]:
        targets = self._broadcast.targets if self._broadcast else []
        return [client for client in targets if client.state is State.ABSENT and client.config.launch_once]
