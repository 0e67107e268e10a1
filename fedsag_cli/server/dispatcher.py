"""Decides what the server does when something happens: slots, turns, deadlines, quorum, memory and causes.

It gets what happened and the time, and returns decisions. It has no socket, file, clock or thread: the `Communicator`
performs the decisions.
"""

from __future__ import annotations

import heapq
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TypeAlias

from fedsag_cli.errors import counted
from fedsag_cli.events import Failure
from fedsag_cli.server.broadcast import Broadcast
from fedsag_cli.server.clients import ENDING_LIMIT_S, Client, Roster, State
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
    Release,
    Returned,
    Send,
    Served,
    Skip,
    Start,
    Stop,
    StrictFailure,
    TimePassed,
    WaitOn,
    Wanted,
    Warn,
)
from fedsag_cli.server.moments import Moments
from fedsag_cli.wire.messages import Usage

_Place: TypeAlias = tuple[int, float, int, str]
"""In the queue for a slot: the task, the client's expected time with a minus sign, its number and its name."""

SAME_CAUSE_S = 0.2  # clients that fail for the same cause fail within this time: the report names all of them


class Dispatcher:
    """All clients of a run, and the tasks that they are asked to do.

    Several tasks may be open at once. Each client does one at a time, in the order in which they were asked. What a
    step costs does not depend on how many clients wait, and hardly on how many tasks are open.
    """

    def __init__(
        self,
        clients: Roster,
        *,
        slots: int,
        strict: bool,
        waits_for_all: bool = False,
        free_memory: Callable[[], int],
    ) -> None:
        """`free_memory`: bytes; 0 if unknown.

        `waits_for_all`: who takes part does not depend on how fast the others are. `strict` includes it.
        """
        self.clients = clients
        self._slots, self._strict, self._free_memory = slots, strict, free_memory
        self._waits_for_all = waits_for_all or strict
        self._has_told_wait = False
        self._open: dict[int, Broadcast] = {}  # by task, in the order in which they were begun
        self._touched: dict[int, None] = {}  # the tasks for which something may have to be decided
        self._due = Moments()  # the deadlines of the open tasks
        self._stopping: Broadcast | None = None  # the first that lost its quorum, while others fail for the same cause
        self._queues: defaultdict[int, list[_Place]] = defaultdict(list)  # by group: see _hand_out
        self._busy: defaultdict[int, int] = defaultdict(int)  # number of slots in use, by group
        self._unstarted: defaultdict[int, set[int]] = defaultdict(set)  # clients that will start, by group
        self._usage: Usage | None = None  # of the first client that reported it
        self._started: set[int] = set()  # clients that had a process
        self._good_answers = 0  # in the whole run
        self._now = 0.0
        self._decided: list[Decision] = []
        self._has_stopped = False  # by what happened now

    def handle(self, happening: Happening, now: float) -> list[Decision]:
        """The decisions that follow from `happening`, in order. `now` is in seconds and never decreases."""
        self._now, self._decided, self._has_stopped = now, [], False
        self._update(happening)
        if self._stopping is not None:
            self._touch(self._stopping)
        touched = self._still_open()
        for broadcast in touched:
            if not self._has_stopped and broadcast.possible < broadcast.needed:
                self._lose_quorum(broadcast)
        if self._stopping is None and not self._has_stopped:  # what follows a stop is decided the next time
            self._hand_out()
            for broadcast in touched:
                self._give(broadcast)
        for broadcast in self._still_open():
            self._due.put(broadcast.task_id, self._due_of(broadcast))
        if not self._has_stopped:
            self._touched.clear()
        return self._decided

    @property
    def due(self) -> float | None:
        """When to call `handle` with TimePassed if nothing happens before; None: never."""
        if self._stopping is not None:
            assert self._stopping.quorum_lost is not None
            return self._stopping.quorum_lost + SAME_CAUSE_S
        return self._due.first

    def overdue(self, now: float) -> list[str]:
        """The sites that `handle` would give up for TimePassed."""
        return [client.site for _, client in self._overdue(now)]

    @property
    def is_stopping(self) -> bool:
        """Too few answers are possible. The run stops soon, after other clients that fail for the same cause."""
        return self._stopping is not None

    def _still_open(self) -> list[Broadcast]:
        """The tasks that were touched, in the order in which they were begun."""
        return [self._open[task_id] for task_id in sorted(self._touched) if task_id in self._open]

    def _update(self, happening: Happening) -> None:
        match happening:
            case Begun():
                self._begin(happening)
            case Wanted(task_id):
                self._want(self._open[task_id])
            case Rejected(task_id, site, failure):
                self._reject(self._open.get(task_id), self.clients[site], failure)
            case Left(task_id):
                self._leave(self._open[task_id])
            case Connected(site):
                self._connected(self.clients[site])
            case Asked(site):
                self._asked(self.clients[site])
            case Served(site):
                self._served(self.clients[site])
            case Returned(site):
                self._returned(self.clients[site])
            case Answered(site, task_id, usage):
                self._answered(self.clients[site], task_id, usage)
            case Disconnected(site, cause):
                self._disconnected(self.clients[site], cause)
            case Exited(site):
                self._exited(self.clients[site], happening)
            case TimePassed():
                self._pass_time()

    def _pass_time(self) -> None:
        if self._stopping is not None:
            return
        due = self._due_by(self._now)
        slow = [(broadcast, client) for broadcast in due for client in broadcast.beyond_grace(self._now)]
        for broadcast, client in self._overdue(self._now):
            self._give_up(broadcast, client)
        waits = {client.number: client.site for broadcast, client in slow if client.next_task == broadcast.task_id}
        if waits and self._will_tell_wait:
            self._has_told_wait = True
            self._touched |= dict.fromkeys(self._open)  # no grace is a deadline any more
            self._decided.append(WaitOn(tuple(waits[number] for number in sorted(waits))))

    def _give(self, broadcast: Broadcast) -> None:
        """Give the workflow the reply that it waits for, if it is there."""
        if not broadcast.is_wanted:
            return
        broadcast.given = broadcast.next_reply()
        if broadcast.given is not None:
            broadcast.is_wanted = False
            self._decided.append(Give(broadcast.task_id, broadcast.given.site))
        elif broadcast.all_given:
            self._finish(broadcast)

    def _finish(self, broadcast: Broadcast) -> None:
        broadcast.is_wanted, broadcast.is_over = False, True
        self._decided.append(Finish(broadcast.task_id))

    def _hand_out(self) -> None:
        """Give the free slots to clients: first to those of the task that was begun first, in site order.

        With workers, those whose last task took longest come first, so that all workers end at about the same time.
        A queue has a place for every client that became free for its next task. It may have changed since.
        """
        for group, queue in self._queues.items():
            while queue and self._busy[group] < self._slots:
                task_id, _, _, site = heapq.heappop(queue)
                client = self.clients[site]
                if client.next_task != task_id or not client.is_free:
                    continue
                if client.state is State.ABSENT:
                    client.launched = self._now
                    client.has_asked = client.has_answered = False
                    self._started.add(client.number)
                    self._change(client, State.STARTING)
                    self._decided.append(Start(client.site))
                else:
                    self._assign(client, task_id)

    def _lose_quorum(self, broadcast: Broadcast) -> None:
        if broadcast.is_over:
            return
        if broadcast.quorum_lost is None:
            broadcast.quorum_lost = self._now
        self._stopping = self._stopping or broadcast
        if broadcast is not self._stopping:
            return
        others = any(client.state not in (State.ABSENT, State.WAITING) for client in broadcast.waiting_for)
        if others and self._now < broadcast.quorum_lost + SAME_CAUSE_S:
            return
        hint = broadcast.first_hint
        if self._good_answers:  # otherwise fewer clients would fail alike
            hint = (
                f"{hint}; or, in a new run, lower the number of answers that are needed, such as min_clients"
                if hint
                else "in a new run, lower the number of answers that are needed, such as min_clients"
            )
        if self._strict and broadcast.min_responses < len(broadcast.targets):
            hint = f"a new run without --strict needs only {counted(broadcast.min_responses, 'answer')}"
        lost = QuorumLost(broadcast.task_id, broadcast.needed, broadcast.possible, broadcast.first_failure, hint)
        self._stop(lost, [broadcast])

    def _stop(self, why: Stop, broadcasts: Sequence[Broadcast]) -> None:
        """Stop the run. Nobody is waited for any more in these broadcasts."""
        for broadcast in broadcasts:
            self._end_waiting(broadcast)
            broadcast.is_wanted, broadcast.is_over, broadcast.stopped_by = False, True, why
        self._decide_stop(why)

    def _decide_stop(self, why: Stop) -> None:
        self._decided.append(why)
        self._has_stopped = True

    def _change(self, client: Client, state: State) -> None:
        """Set the state of a client, and count its slot."""
        self._busy[client.group] -= client.holds_slot
        client.state, client.since = state, self._now
        self._busy[client.group] += client.holds_slot
        for each in (client, *client.others):
            self._watch(each)

    def _watch(self, client: Client) -> None:
        """Call it when the state of a client, its channel or its next task changed."""
        will_start = (
            client.state is State.ABSENT and client.config.launch_once and not client.has_worker and bool(client.queue)
        )
        (self._unstarted[client.group].add if will_start else self._unstarted[client.group].discard)(client.number)
        if client.next_task is None:
            return
        broadcast = self._open[client.next_task]
        broadcast.watch(client)
        self._touch(broadcast)
        if client.is_free:
            expected_s = math.inf if client.expected_s is None else client.expected_s
            place = (broadcast.task_id, -expected_s if client.has_worker else 0.0, client.number, client.site)
            heapq.heappush(self._queues[client.group], place)

    def _touch(self, broadcast: Broadcast) -> None:
        self._touched[broadcast.task_id] = None

    def _dequeue(self, client: Client, broadcast: Broadcast) -> None:
        """The client is not waited for any more in this broadcast."""
        self._touch(broadcast)
        if broadcast.task_id not in client.queue:
            return
        was_next = client.next_task == broadcast.task_id
        del client.queue[broadcast.task_id]
        if was_next:
            client.turn_began = self._now
            self._watch(client)

    def _due_of(self, broadcast: Broadcast) -> float | None:
        if broadcast.is_over:
            return None
        moments = (broadcast.due, broadcast.grace_ends if self._will_tell_wait else None)
        return min((moment for moment in moments if moment is not None), default=None)

    def _due_by(self, now: float) -> list[Broadcast]:
        return [self._open[task_id] for task_id in sorted(self._due.until(now))]

    def _overdue(self, now: float) -> list[tuple[Broadcast, Client]]:
        if self._stopping is not None:
            return []
        return [(broadcast, client) for broadcast in self._due_by(now) for client in broadcast.overdue(now)]

    # the workflow

    def _begin(self, begun: Begun) -> None:
        targets = sorted((self.clients[site] for site in begun.targets), key=lambda client: client.number)
        needed = len(targets) if self._strict else begun.min_responses
        broadcast = Broadcast(begun, targets, needed=needed, waits_for_all=self._waits_for_all)
        self._open[begun.task_id] = broadcast
        self._touch(broadcast)
        for client in targets:
            if client.state is State.GONE:
                self._fail(broadcast, client, client.failure or Failure(cause="its process ended"))
            elif begun.refused is not None:
                self._fail(broadcast, client, begun.refused)
            else:
                client.queue[begun.task_id] = None
                if len(client.queue) == 1:
                    client.turn_began = self._now
                    self._watch(client)
        self._check_memory()

    def _want(self, broadcast: Broadcast) -> None:
        self._accept(broadcast)
        self._touch(broadcast)
        if broadcast.stopped_by is not None:
            self._decide_stop(broadcast.stopped_by)
        elif broadcast.is_over:
            self._finish(broadcast)
        else:
            broadcast.is_wanted = True

    def _leave(self, broadcast: Broadcast) -> None:
        """End a broadcast. Clients that still work on it lose their slots.

        The workflow has the reply that it got last, even if it asks for no more.
        """
        self._accept(broadcast)
        self._end_waiting(broadcast)
        self._due.put(broadcast.task_id, None)
        del self._open[broadcast.task_id]

    def _end_waiting(self, broadcast: Broadcast) -> None:
        if broadcast is self._stopping:
            self._stopping = None
            self._touched |= dict.fromkeys(self._open)
        for client in broadcast.waiting_for:
            if client.next_task == broadcast.task_id:
                self._free(client)
            self._dequeue(client, broadcast)

    def _accept(self, broadcast: Broadcast) -> None:
        client, broadcast.given = broadcast.given, None
        if client is not None and not broadcast.has_failed(client):
            self._decided.append(Accept(broadcast.task_id, client.site))

    def _reject(self, broadcast: Broadcast | None, client: Client, failure: Failure) -> None:
        if broadcast is not None and broadcast.has_answer_of(client):
            self._good_answers -= 1
            self._fail(broadcast, client, failure)

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

    def _served(self, client: Client) -> None:
        """A worker is ready for it: it gets its task at once, as it has a slot since it was to start."""
        if client.state is State.STARTING and client.next_task is not None and self._stopping is None:
            client.is_connected = client.has_asked = True
            self._assign(client, client.next_task)
        else:
            self._release(client)

    def _assign(self, client: Client, task_id: int) -> None:
        client.task_id = task_id
        self._change(client, State.WORKING)
        may_start_more = len(self._started) < len(self.clients)
        tell_usage = self._usage is None and client.config.launch_once and may_start_more
        self._decided.append(Send(task_id, client.site, tell_usage))

    def _returned(self, client: Client) -> None:
        """Another worker does the task, if it is still waited for."""
        client.is_connected, client.lost = False, None
        self._change(client, State.ABSENT)

    def _release(self, client: Client) -> None:
        client.is_connected = False
        self._decided.append(Release(client.site))
        self._change(client, State.ABSENT)

    def _answered(self, client: Client, task_id: int, usage: Usage | None) -> None:
        if task_id != client.task_id or client.state not in (State.WORKING, State.LATE):
            self._decided.append(Drop(client.site))
            return
        client.has_answered = True
        if client.state is State.WORKING:
            broadcast, work_s = self._open[task_id], self._now - client.since
            broadcast.answered(client, work_s)
            client.expected_s = work_s
            self._good_answers += 1
            self._decided.append(Keep(task_id, client.site, work_s))
            self._dequeue(client, broadcast)
        else:
            self._decided.append(Drop(client.site))
        if client.has_worker:
            self._release(client)
        elif client.config.launch_once:
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
        if client.state is State.GONE or (client.has_worker and client.state is State.ABSENT):
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
        """The client takes no further part in the run. If its worker ended, it has failed only in the task it did."""
        client.failure = failure
        if not client.has_worker:
            self._change(client, State.GONE)
            for task_id in list(client.queue):
                self._fail(self._open[task_id], client, failure)
            return
        did = client.next_task if client.holds_slot else None
        client.failure = client.lost = None
        if did is not None:
            self._fail(self._open[did], client, failure)
        self._change(client, State.ABSENT)

    def _failed_after_answer(self, text: str) -> None:
        self._decided.append(Warn(text))
        if self._strict:
            self._stop(StrictFailure(text), list(self._open.values()))

    @property
    def _will_tell_wait(self) -> bool:
        return self._waits_for_all and not self._has_told_wait

    def _give_up(self, broadcast: Broadcast, client: Client) -> None:
        if not broadcast.has_failed_by(client, self._now):
            self._free(client)
            broadcast.skipped(client)
            self._decided.append(Skip(broadcast.task_id, client.site))
            self._dequeue(client, broadcast)
            return
        if client.lost is not None:
            self._end(client, client.failure or Failure(cause="it closed its channel (was flare.shutdown() called?)"))
            return
        hint = "raise the time limit of the task, such as train_timeout"
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
            waited_s = self._now - max(client.since, client.turn_began)
            cause = f"no answer within {waited_s:.1f} s: it still works on an earlier task"
        else:
            cause = f"no answer within {self._now - client.since:.1f} s of receiving the task"
        self._free(client)
        self._fail(broadcast, client, Failure(cause=cause), hangs=True, hint=hint)

    def _free(self, client: Client) -> None:
        """Give the slot of a client that is not waited for any more to another one."""
        if client.holds_slot:
            self._change(client, State.LATE)

    def _fail(
        self, broadcast: Broadcast, client: Client, failure: Failure, *, hangs: bool = False, hint: str = ""
    ) -> None:
        if client.gone_since is not None:
            failure = Failure(cause=f"out of the run since round {client.gone_since}: {failure.cause}")
        elif client.state is State.GONE:
            client.gone_since = broadcast.round_num
        if not broadcast.first_failure:
            where = f" ({failure.where})" if failure.where else ""
            broadcast.first_failure, broadcast.first_hint = f"{client.site}: {failure.cause}{where}", hint
        broadcast.failed(client)
        self._decided.append(Fail(broadcast.task_id, client.site, failure, hangs))
        self._dequeue(client, broadcast)

    # memory

    def _measure(self, client: Client, usage: Usage) -> None:
        """After the first answer with memory usage: check whether the clients still to start fit into memory."""
        if self._usage is not None:
            return
        self._usage = usage
        if self._check_memory():
            return
        others = len(self._unstarted[client.group])
        if usage.gpu_free and usage.gpu * others > usage.gpu_free:
            self._run_short(others, usage.gpu * others, usage.gpu_free, "GPU")

    def _check_memory(self) -> bool:
        """Whether the clients that will start do not fit into the free memory: then the run stops."""
        if self._usage is None or not (count := sum(map(len, self._unstarted.values()))):
            return False
        needed, free = self._usage.private * count, self._free_memory()
        is_short = bool(free) and needed > free
        if is_short:
            self._run_short(count, needed, free, "main")
        return is_short

    def _run_short(self, clients: int, needed: int, free: int, where: str) -> None:
        self._stop(MemoryShort(clients, needed, free, where), list(self._open.values()))
