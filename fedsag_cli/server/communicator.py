"""Asks clients to do tasks and gives workflows their replies: performs what the dispatcher decides.

A workflow gets the replies to each task in site order; observers get events. There is one thread: while a workflow
waits for a reply to one task, messages about all tasks are received.
"""

from __future__ import annotations

import socket
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec

from fedsag_cli import events, machine
from fedsag_cli.errors import (
    ChannelClosed,
    FedsagError,
    JobError,
    NotEnoughClients,
    NotEnoughMemory,
    RunError,
    TensorError,
    nearest,
)
from fedsag_cli.events import (
    ClientReady,
    ClientWanted,
    Event,
    Failure,
    ModelSent,
    NotAwaited,
    Notice,
    ReplyAccepted,
    ReplyArrived,
    ReplyFailed,
    ReplyLate,
    TaskSent,
    ValuesLogged,
    WorkerUnwanted,
)
from fedsag_cli.filters import Chain
from fedsag_cli.model import Reply, Stateful, Task
from fedsag_cli.params.checks import Rules
from fedsag_cli.params.tensor_file import TensorFile
from fedsag_cli.plan import is_worker
from fedsag_cli.server.channels import Channels, Heard, News
from fedsag_cli.server.clients import Roster, State
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
    StrictFailure,
    TimePassed,
    WaitOn,
    Wanted,
    Warn,
)
from fedsag_cli.server.dispatcher import Dispatcher
from fedsag_cli.server.filtering import FilterError, Filtering
from fedsag_cli.server.outgoing import Check, Outgoing, Received
from fedsag_cli.server.spool import Spool
from fedsag_cli.server.states import States, Version
from fedsag_cli.server.workers import Workers
from fedsag_cli.wire.channel import Listener
from fedsag_cli.wire.messages import Answer, Assignment, LogValues, Welcome
from fedsag_cli.workspace import SERVER, site_of

_LOGGED_S = 1.0
_LAST_LOGS_S = 10.0  # for so long after the last task, values that a script logs are received


class Communicator:
    """All clients of a run. All messages to them and from them pass here."""

    def __init__(
        self,
        listener: Listener,
        line: socket.socket,
        emit: Callable[[Event], None],
        *,
        flush: Callable[[], None] = lambda: None,
        roster: Roster,
        slots: int,
        seed: int = 0,
        strict: bool = False,
        waits_for_all: bool = False,
        is_timed: bool = True,
        welcome: Callable[[str], Welcome],
        data_filters: Chain,
        result_filters: Chain,
        scratch: Path,
        are_here: bool = True,
    ) -> None:
        """`line` is the connection from the parent; `emit` sends events to it, and `flush` those that wait.

        At most `slots` clients of a group work at the same time. With `strict`, every client must answer each task.
        With `waits_for_all` or `strict`, no grace ends the wait for a client; without `is_timed`, no
        time limit of a task does. `are_here`: all clients are on
        this machine.
        """
        self.workflow, self.workflow_number = "", 0  # of the current one
        self._dispatcher = Dispatcher(
            roster,
            slots=slots,
            strict=strict,
            waits_for_all=waits_for_all,
            free_memory=machine.free_memory if are_here else lambda: 0,
        )
        self._why_all = "--seed" if waits_for_all else "--strict"
        self._roster = roster
        self._workers = Workers()
        self._strict, self._slots, self._is_timed = strict, slots, is_timed
        self._next: deque[Happening] = deque()  # what follows from a decision
        self._ending = ""  # the worker of whose end the dispatcher is told
        self._not_taken: set[str] = set()  # tasks of which was told that nobody takes them
        self._channels = Channels(listener, line, self._welcome_for)
        self._emit: Callable[[Event], None] = lambda event: emit(_of_site(event))
        self._flush = flush
        self._welcome = welcome
        self._task_filters = Filtering("task", data_filters, seed)
        self._answer_filters = Filtering("answer", result_filters, seed)
        self._scratch = scratch
        self._spool = Spool(scratch)
        self._open: dict[int, Outgoing] = {}  # the tasks that the workflow has not ended, by number
        self._num_tasks = 0
        self._times_asked: dict[str, tuple[int, int]] = {}  # by site, and for the server: a round, and how often in it
        self._states = States(scratch)
        self._arriving: tuple[Answer, TensorFile | None, Version] | None = None
        self._unreachable: list[str] = []  # sites to which a task could not be sent
        self._sent: dict[str, TaskSent] = {}  # the last to each site
        self._seeded_themselves: set[str] = set()
        self._told: set[tuple[str, str]] = set()  # the sites, and what is told once for each

    @property
    def sites(self) -> Sequence[str]:
        return self._roster.sites

    @property
    def seeded_themselves(self) -> list[str]:
        """The sites whose scripts set their own random seeds."""
        return [site for site in self.sites if site in self._seeded_themselves]

    @property
    def late(self) -> list[str]:
        """The processes that still work on a task although the server no longer waits for the answer."""
        late = [client.site for client in self._roster.known if client.state is State.LATE]
        return [self._workers.of(site) or site for site in late]

    def takes(self, task_name: str, *, by_name: bool = False) -> Sequence[str]:
        return self._roster.takes(task_name, by_name=by_name)

    def enter(self, workflow: str, number: int) -> None:
        """A workflow begins. The tasks that the one before it did not end are ended."""
        self.leave()
        self.workflow, self.workflow_number = workflow, number
        self._times_asked.clear()

    def leave(self) -> None:
        """A workflow is done. The tasks that it did not end are ended."""
        for outgoing in list(self._open.values()):
            self.end(outgoing)

    def ask(
        self,
        task: Task,
        *,
        to: Iterable[str] | None = None,
        min_responses: int = 0,
        timeout_s: float | None = None,
        grace_s: float | None = None,
        allow_non_finite: bool = False,
        allow_unknown_keys: bool = False,
        ignores: Callable[[str], bool] | None = None,
        check: Check | None = None,
    ) -> Replies:
        named = set(self.takes(task.name) if to is None else to)
        for site in sorted(named.difference(self.sites)):
            raise JobError(f"task {task.name!r}: there is no client {site!r}", hint=nearest(site, self.sites))
        targets = [site for site in self.sites if site in named]
        if not targets and not min_responses and not self.takes(task.name):
            self._tell_nobody_takes(task.name)
        rules = Rules(allow_non_finite=allow_non_finite, allow_unknown_keys=allow_unknown_keys, ignores=ignores)
        self._num_tasks += 1
        to_whom = targets[0] if len(targets) == 1 else SERVER
        outgoing = Outgoing(
            self._num_tasks,
            task,
            workflow=self.workflow_number,
            to_whom=to_whom,
            nth={site: self._count(site, task.model.current_round or 0) for site in {to_whom, *targets}},
            rules=rules,
            check=check,
        )
        refused = self._prepare(outgoing)
        self._open[outgoing.task_id] = outgoing
        if targets and not refused:
            self._emit(self._sent_model(outgoing))
        begun = Begun(
            task_id=outgoing.task_id,
            targets=tuple(self._roster.process_for(site, task.name) for site in targets),
            min_responses=min_responses,
            timeout_s=timeout_s if self._is_timed else None,
            grace_s=grace_s if self._is_timed else None,
            round_num=outgoing.round_num,
            refused=refused,
        )
        try:
            self._tell(begun)
        except BaseException:
            self.end(outgoing)
            raise
        return Replies(self, outgoing)

    def _tell_nobody_takes(self, task_name: str) -> None:
        """Once for each task: it is no error, but perhaps a wrong name."""
        if task_name not in self._not_taken:
            self._not_taken.add(task_name)
            listed = nearest(task_name, self._roster.tasks_listed())
            self._emit(Notice(text=f"no client takes the task {task_name!r}: {listed}"))

    def broadcast(self, task: Task, **how: Any) -> Iterator[Reply]:
        with self.ask(task, **how) as replies:
            yield from replies

    @property
    def states(self) -> States:
        """What all sites keep from task to task."""
        return self._states

    @property
    def keepers(self) -> Mapping[str, Stateful]:
        """What the server's filters keep from round to round, by name. What sites keep is in `states`."""
        return {"filters/task": self._task_filters, "filters/answer": self._answer_filters}

    def close(self) -> None:
        """Tell every client that the run is over, and receive the last values that they log."""
        self._channels.end_all()
        awaited = set(self._channels.processes).difference(self.late)
        ends = time.monotonic() + _LAST_LOGS_S
        while (left := ends - time.monotonic()) > 0 and awaited.intersection(self._channels.processes):
            self._listen(left)
        self._channels.close_all()
        self._spool.close()
        self._states.close()

    def receive_logged(self) -> None:
        """Receive what clients have logged so far, when a run fails: a second of it at most."""
        ends = time.monotonic() + _LOGGED_S
        for process in self._channels.processes:
            for news in self._channels.receive_all(process) if time.monotonic() < ends else ():
                match news:
                    case Heard(message=LogValues()):
                        self._hear(news)
                    case Heard():
                        for file in filter(None, (news.file, news.state)):
                            file.close()

    # a task and its replies

    def _count(self, site: str, round_num: int) -> int:
        """How often the site was asked before in this round."""
        last, times = self._times_asked.get(site, (round_num, 0))
        nth = times if last == round_num else 0
        self._times_asked[site] = (round_num, nth + 1)
        return nth

    def _prepare(self, outgoing: Outgoing) -> Failure | None:
        """Filter the task and write its file. If a filter fails: why it cannot be sent."""
        task = outgoing.task
        try:
            model = outgoing.filtered(self._task_filters, task.model, outgoing.to_whom)
        except FilterError as error:
            return error.failure
        if model is not task.model:
            outgoing.whole = task.model.params or {}
            if model.params is not None:
                model = replace(model, params=dict(model.params))
        try:
            outgoing.pack(model, self._scratch)
        except TensorError as error:
            if model is task.model:
                raise
            return Failure(cause=f"{self._task_filters.called(task.name)}: {error}")
        return None

    def _sent_model(self, outgoing: Outgoing) -> ModelSent:
        prints = outgoing.prints
        return ModelSent(
            workflow=self.workflow,
            task=outgoing.task.name,
            round_num=outgoing.round_num,
            size=outgoing.size,
            digest=prints.digest,
            tensors=prints.tensors,
            names=list(prints.names),
        )

    def next_reply(self, outgoing: Outgoing) -> Reply | None:
        """The next reply to a task, None if there are no more. The last one is accepted if it was not rejected."""
        while (site := self._next_turn(outgoing)) is not None:
            if (reply := self._reply_of(outgoing, site)) is not None:
                return reply
        return None

    def _next_turn(self, outgoing: Outgoing) -> str | None:
        if outgoing.task_id not in self._open:
            return None
        self._wait(0.0)  # use a slot that became free before the workflow processes the reply
        self._tell(Wanted(outgoing.task_id))
        outgoing.drop()
        while outgoing.turn is None and not outgoing.is_finished:
            self._wait(None)
        site, outgoing.turn = outgoing.turn, None
        return site

    def _reply_of(self, outgoing: Outgoing, process: str) -> Reply | None:
        """The reply of a site as the workflow gets it, None if it is not valid."""
        received, site = outgoing.take(process), site_of(process)
        try:
            self._states[site].check(outgoing.task_id)
            model, left_out = outgoing.model_of(site, received, self._answer_filters)
        except FilterError as error:
            failure = error.failure
        except ValueError as error:
            failure = Failure(cause=self._told_once(site, error))
        except Exception as error:
            # a filter of the user's may make any values, and checking them may raise anything: one reply fails
            if not (named := self._answer_filters.called(outgoing.task.name)):  # a bug of ours
                raise
            traceback.print_exc()
            failure = Failure(cause=f"{named}: {type(error).__name__}: {error}")
        else:
            self._tell_left_out(site, left_out)
            received.model = model
            return Reply(site=site, model=model, keeper=lambda: outgoing.keep(received, model, self._scratch))
        outgoing.drop()
        self.reject(outgoing, site, failure)
        return None

    def _told_once(self, site: str, error: ValueError) -> str:
        """The cause of a failure. The hint is told once for each site."""
        if not isinstance(error, FedsagError) or (site, error.hint) not in self._told:
            self._told.add((site, error.hint if isinstance(error, FedsagError) else ""))
            return str(error)
        return error.message

    def _tell_left_out(self, site: str, keys: Sequence[str]) -> None:
        """Tell of keys that the model does not have, once for each site."""
        if keys and (site, "left out") not in self._told:
            self._told.add((site, "left out"))
            number = "1 key of its update is" if len(keys) == 1 else f"{len(keys)} keys of its update are"
            self._emit(Notice(text=f"{site}: {number} not in the model, such as {keys[0]!r}: left out"))

    def reject(self, outgoing: Outgoing, site: str, failure: Failure) -> None:
        """Count a reply as failed. Raises NotEnoughClients."""
        if outgoing.task_id not in self._open:
            raise RunError(f"{site} was rejected after its task had ended: {failure.cause}")
        self._states[site].reject(outgoing.task_id)
        self._tell(Rejected(outgoing.task_id, self._roster.process_for(site, outgoing.task.name), failure))
        while self._dispatcher.is_stopping:
            self._wait(None)

    def end(self, outgoing: Outgoing) -> None:
        """The workflow asks for no more replies to this task."""
        if outgoing.task_id not in self._open:
            return
        try:
            self._tell(Left(outgoing.task_id))
        finally:
            del self._open[outgoing.task_id]
            for site in outgoing.targets:
                self._states[site].end(outgoing.task_id)
            outgoing.close()

    # events and decisions

    def _tell(self, happening: Happening) -> None:
        """Tell the dispatcher, and perform its decisions. Raises NotEnoughClients, NotEnoughMemory, RunError."""
        for decision in self._dispatcher.handle(happening, time.monotonic()):
            self._perform(decision)
        while self._next:
            self._tell(self._next.popleft())
        while self._unreachable:
            process = self._process_of(self._unreachable.pop())
            self._channels.close(process)
            self._hear(Disconnected(process))

    def _perform(self, decision: Decision) -> None:
        match decision:
            case Start(site):
                self._start(site)
            case Release(site):
                self._workers.release(site)
            case Admit(site):
                self._emit(ClientReady(site=site))
            case EndChannel(site):
                self._channels.end(site)
            case Warn(text):
                self._emit(Notice(text=text))
            case WaitOn(sites):
                self._emit(Notice(text=self._told_wait(sites)))
            case Drop(site):
                self._emit(self._late_reply(site))
            case StrictFailure(text):
                raise RunError(f"with --strict no client may fail, and {text}")
            case MemoryShort(clients, needed, free, where):
                raise NotEnoughMemory(clients=clients, needed=needed, free=free, where=where)
            case _:
                self._perform_for(self._open[decision.task_id], decision)

    def _perform_for(self, outgoing: Outgoing, decision: Decision) -> None:
        task, round_num = outgoing.task.name, outgoing.round_num
        match decision:
            case Send(_, site, tell_usage):
                self._send(outgoing, site, tell_usage=tell_usage)
            case Keep(_, site, work_s):
                self._keep(outgoing, site, work_s)
            case Give(_, site):
                outgoing.turn = site
            case Finish():
                outgoing.is_finished = True
            case Fail(_, site, failure, hangs):
                self._emit(
                    ReplyFailed(
                        site=site,
                        process=self._workers.of(site) or self._ending,
                        workflow=self.workflow,
                        task=task,
                        round_num=round_num,
                        model_owner=outgoing.model_owner,
                        failure=failure,
                        hangs=hangs,
                    )
                )
            case Skip(_, site):
                self._emit(NotAwaited(site=site, workflow=self.workflow, task=task, round_num=round_num))
            case Accept(_, site):
                self._accept(outgoing, site)
            case QuorumLost(_, needed, possible, cause, hint):
                raise NotEnoughClients(
                    task,
                    round_num=outgoing.task.model.current_round,
                    needed=needed,
                    possible=possible,
                    cause=cause,
                    hint=hint,
                )

    def _send(self, outgoing: Outgoing, site: str, *, tell_usage: bool) -> None:
        process = self._process_of(site)
        state = self._states[site_of(site)].missing(site)
        assignment = Assignment(
            task_id=outgoing.task_id,
            task_name=outgoing.task.name,
            model=outgoing.facts,
            workflow=outgoing.workflow,
            nth=outgoing.nth[site_of(site)],
            tell_usage=tell_usage,
            has_state=state is not None,
            site=site if process != site else "",
            index=self._roster[site].number if process != site else 0,
        )
        try:
            self._channels.send(process, assignment, outgoing.file, state)
        except ChannelClosed:
            self._unreachable.append(site)
            return
        finally:
            if state is not None:
                state.close()
        sent = self._sent[site] = TaskSent(
            site=site,
            workflow=self.workflow,
            task=outgoing.task.name,
            round_num=outgoing.round_num,
            size=outgoing.size,
            process=process if process != site else "",
        )
        self._emit(sent)

    def _told_wait(self, sites: Sequence[str]) -> str:
        named = ", ".join(map(site_of, sites[:5])) + f" and {len(sites) - 5} more" * (len(sites) > 5)
        why = "the same seed gives the same model" if self._why_all == "--seed" else "no client fails for its speed"
        return (
            f"enough clients have answered, and with {self._why_all} each round still waits for all ({named}), so that "
            f"{why}; train_timeout limits this wait. Without {self._why_all} a round ends as in NVFLARE: "
            "wait_time_after_min_received seconds after min_clients have answered"
        )

    def _late_reply(self, site: str) -> ReplyLate:
        sent, process = self._sent.get(site), self._workers.of(site)
        if sent is None:
            return ReplyLate(site=site, process=process, workflow=self.workflow, task="")
        return ReplyLate(site=site, process=process, workflow=sent.workflow, task=sent.task, round_num=sent.round_num)

    def _accept(self, outgoing: Outgoing, site: str) -> None:
        accepted = outgoing.taken
        if accepted is None or accepted.model is None:  # an error ended the task while the reply was checked
            return
        self._states[site_of(site)].accept(outgoing.task_id)
        self._emit(
            ReplyAccepted(
                site=site,
                workflow=self.workflow,
                task=outgoing.task.name,
                round_num=outgoing.round_num,
                model_owner=outgoing.model_owner,
                metrics=events.as_metrics(accepted.model.metrics or {}),
                num_steps=accepted.model.num_steps,
                num_samples=accepted.answer.num_samples,
                size=accepted.size,
                work_s=accepted.work_s,
                digest=accepted.prints.digest,
                tensors=accepted.prints.tensors,
                names=[] if accepted.prints.names == outgoing.prints.names else list(accepted.prints.names),
            )
        )

    # listening

    def _wait(self, limit_s: float | None) -> None:
        """Wait until something happens or a deadline passes, at most `limit_s` seconds."""
        due = self._dispatcher.due
        if due is not None:
            left_s = max(0.0, due - time.monotonic())
            limit_s = left_s if limit_s is None else min(left_s, limit_s)
        self._listen(limit_s)
        if due is not None and due <= (now := time.monotonic()):
            for site in self._dispatcher.overdue(now):
                # its answer may be there, after values that it logged
                for news in self._channels.receive_all(self._process_of(site)):
                    self._hear(news)
            self._tell(TimePassed())

    def _listen(self, timeout_s: float | None) -> None:
        if timeout_s != 0:
            self._flush()
        for news in self._channels.listen(timeout_s):
            self._hear(news)

    def _hear(self, news: News) -> None:
        match news:
            case Heard(process, Answer() as answer, file, state):
                if is_worker(process):
                    self._workers.answered(process)
                self._receive_answer(self._client_of(process), answer, file, state)
            case Heard(process, message, file):
                if file is not None:  # only an answer has one
                    file.close()
                if isinstance(message, LogValues):
                    site = self._workers.at(process) if is_worker(process) else process
                    self._emit(ValuesLogged(site=site, kind=message.kind, values=message.values, step=message.step))
                elif not is_worker(process):
                    self._tell(Asked(process))
                elif self._workers.asked(process):
                    site = self._client_of(process)
                    self._emit(ClientReady(site=site, process=process))
                    self._states[site].started(site)
                    self._tell(Served(site))
            case _ if is_worker(news.site):
                self._hear_of_worker(news)
            case Connected(site):
                self._states[site_of(site)].started(site)
                self._tell(news)
            case _ if news.site in self._roster:
                self._tell(news)

    def _welcome_for(self, process: str) -> Welcome | None:
        if is_worker(process):
            return self._welcome(process) if self._workers.admits(process) else None
        client = self._roster.get(process)
        return self._welcome(process) if client is not None and client.may_connect else None

    # workers

    def _process_of(self, client: str) -> str:
        return self._workers.of(client) or client

    def _client_of(self, process: str) -> str:
        """The client for which a worker works, or worked last; for other processes, their own name."""
        return self._workers.client_of(process) if is_worker(process) else process

    def _start(self, client: str) -> None:
        """Start the process of a client, or find a worker for it."""
        if not self._roster[client].has_worker:
            self._emit(ClientWanted(site=client))
            return
        worker, is_new = self._workers.engage(client)
        if is_new:
            self._make_room()
            self._emit(ClientWanted(site=client, process=worker))
        else:
            self._states[client].started(client)
            self._next.append(Served(client))

    def _make_room(self) -> None:
        """If there are more workers than slots, stop the one that has been late for longest: it may hang."""
        engaged = [self._roster[client] for client in self._workers.engaged]
        late = [client for client in engaged if client.state is State.LATE]
        if len(engaged) > self._slots and late:
            site = min(late, key=lambda client: client.since).site
            worker = self._workers.give_back(site)
            self._channels.close(worker)  # what it still says is of no use
            self._emit(WorkerUnwanted(site=site, process=worker))
            self._next.append(Returned(site))

    def _hear_of_worker(self, news: Connected | Disconnected | Exited) -> None:
        worker = news.site
        if isinstance(news, Connected):
            self._workers.connected(worker)
            return
        not_begun = self._workers.closed(worker)
        client, at = self._workers.client_of(worker), self._workers.at(worker)
        is_engaged = self._workers.of(client) == worker
        match news:
            case Disconnected(_, cause):
                if is_engaged:
                    self._tell(Disconnected(client, cause))
            case Exited(_, exit_code, failure):
                self._workers.ended(worker)
                if is_engaged:
                    self._ending = worker
                    self._tell(Exited(client, exit_code, failure))
                    self._ending = ""
                elif exit_code and client:  # otherwise the failure was told when its channel closed
                    cause = failure.cause if failure is not None else events.how_it_ended(exit_code)
                    text = f"{at} answered, then its worker failed: {cause}"
                    self._perform(StrictFailure(text) if self._strict else Warn(text))
        if not_begun:
            self._tell(Returned(not_begun))

    def _receive_answer(self, site: str, answer: Answer, file: TensorFile | None, state: TensorFile | None) -> None:
        if answer.seeded_itself:
            self._seeded_themselves.add(site_of(site))
        else:
            self._seeded_themselves.discard(site_of(site))
        version = self._states[site_of(site)].arrived(site, answer.task_id, state)
        self._arriving = (answer, file, version)
        try:
            self._tell(Answered(site, answer.task_id, answer.usage))
        finally:
            if self._arriving is not None:
                self._states[site_of(site)].drop(version)
                if file is not None:
                    file.close()
            self._arriving = None

    def _keep(self, outgoing: Outgoing, site: str, work_s: float) -> None:
        assert self._arriving is not None
        (answer, file, version), self._arriving = self._arriving, None
        self._states[site_of(site)].keep(outgoing.task_id, version)
        spooled = None if file is None else self._spool.put(file)
        outgoing.received[site] = Received(answer, spooled, work_s)
        task, round_num = outgoing.task.name, outgoing.round_num
        self._emit(ReplyArrived(site=site, workflow=self.workflow, task=task, round_num=round_num))


def _of_site(event: Event) -> Event:
    """The event with the name of the site, where it has that of one of the site's further processes."""
    process = getattr(event, "site", "")
    if process == site_of(process):
        return event
    named = {"process": process} if hasattr(event, "process") else {}
    return msgspec.structs.replace(event, site=site_of(process), **named)


class Replies:
    """The replies to one task, as a workflow gets them. See `workflows.Replies`."""

    def __init__(self, communicator: Communicator, outgoing: Outgoing) -> None:
        self._communicator, self._outgoing = communicator, outgoing

    def __enter__(self) -> Replies:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._communicator.end(self._outgoing)
        except FedsagError:
            if error is None:  # otherwise the first error is the cause; whoever goes on hears of this one again
                raise

    def __iter__(self) -> Iterator[Reply]:
        return self

    def __next__(self) -> Reply:
        reply = self._communicator.next_reply(self._outgoing)
        if reply is None:
            self._communicator.end(self._outgoing)
            raise StopIteration
        return reply

    def reject(self, reply: Reply, cause: str) -> None:
        self._communicator.reject(self._outgoing, reply.site, Failure(cause=cause))
