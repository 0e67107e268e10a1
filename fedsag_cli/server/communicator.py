"""The server's end of all channels: receives messages of clients and of the parent, and performs the decisions.

It has one thread, which waits for everything at once: the listener, the channel of every client, and the connection to
the parent, which reports how processes ended. A workflow gets replies in site order; observers get events.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from fedsag_cli import events, machine
from fedsag_cli.errors import (
    BadMessage,
    ChannelClosed,
    FedsagError,
    NotEnoughClients,
    NotEnoughMemory,
    RunError,
    TensorError,
)
from fedsag_cli.events import (
    ClientReady,
    ClientWanted,
    Event,
    Failure,
    NotAwaited,
    Notice,
    ProcessExited,
    ReplyAccepted,
    ReplyArrived,
    ReplyFailed,
    ReplyLate,
    TaskSent,
    ValuesLogged,
)
from fedsag_cli.filters import Chain, Exchanges
from fedsag_cli.model import Exchange, Reply, Task
from fedsag_cli.params.checks import Rules
from fedsag_cli.params.seeds import derived
from fedsag_cli.params.tensor_file import TensorFile
from fedsag_cli.plan import ClientConfig
from fedsag_cli.server.clients import Client, State
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
    StrictFailure,
    Taken,
    TimePassed,
    WaitOn,
    Warn,
)
from fedsag_cli.server.dispatcher import Dispatcher
from fedsag_cli.server.outgoing import FilterError, Outgoing, Received, filtered
from fedsag_cli.server.spool import Spool
from fedsag_cli.wire.channel import Guest, Listener, UnixChannel
from fedsag_cli.wire.messages import (
    Answer,
    Assignment,
    Hello,
    ModelFacts,
    Ready,
    ToClient,
    ToServer,
    Welcome,
)

_LAST_LOGS_S = 10.0  # for so long after the last task, values that a script logs are received
_MOST_GUESTS = 256  # that have connected and not said who they are; of more, the first has to go
_LAST_MESSAGES_S = 1.0  # at a client's deadline, its messages that have arrived are read for at most this long


class Communicator:
    """All clients of a run. All messages to them and from them pass here."""

    def __init__(
        self,
        listener: Listener,
        line: socket.socket,
        emit: Callable[[Event], None],
        *,
        configs: Mapping[str, ClientConfig],
        groups: Mapping[str, int],
        slots: int,
        seed: int = 0,
        strict: bool = False,
        waits_for_all: bool = False,
        welcome: Callable[[str], Welcome],
        data_filters: Chain,
        result_filters: Chain,
        scratch: Path,
    ) -> None:
        """`line` is the connection from the parent; `emit` sends events to it. `configs` and `groups`: by site, in the
        order of replies.

        At most `slots` clients of a group work at the same time. With `strict`, every client must answer each task.
        With `waits_for_all` or `strict`, no grace ends the wait for a client.
        """
        self.workflow, self.workflow_number = "", 0  # of the current one
        clients = [Client(number, site, config, groups[site]) for number, (site, config) in enumerate(configs.items())]
        self._dispatcher = Dispatcher(
            clients, slots=slots, strict=strict, waits_for_all=waits_for_all, free_memory=machine.free_memory
        )
        self._why_all = "--seed" if waits_for_all else "--strict"
        self._clients = self._dispatcher.clients
        self._channels: dict[str, UnixChannel[ToClient, ToServer]] = {}
        self._emit = emit
        self._seed = seed
        self._welcome = welcome
        self._data_filters, self._result_filters = data_filters, result_filters
        self._scratch = scratch
        self._spool = Spool(scratch)
        self._listener, self._line = listener, line
        self._unread = b""  # the start of an incomplete line from the parent
        self._selector = selectors.DefaultSelector()
        self._selector.register(listener, selectors.EVENT_READ)
        self._selector.register(line, selectors.EVENT_READ)
        self._guests: dict[Guest, None] = {}
        self._outgoing: Outgoing | None = None
        self._num_tasks = 0
        self._is_closing = False
        self._arriving: tuple[Answer, TensorFile | None] | None = None
        self._unreachable: list[str] = []  # sites to which a task could not be sent
        self._sent: dict[str, TaskSent] = {}  # the last to each site
        self._seeded_themselves: set[str] = set()
        self._filter_state: dict[tuple[str, int, str], dict[str, Any]] = {}
        self._told: set[tuple[str, str]] = set()  # the sites, and what is told once for each

    @property
    def sites(self) -> Sequence[str]:
        return list(self._clients)

    @property
    def seeded_themselves(self) -> list[str]:
        """The sites whose scripts set their own random seeds."""
        return [site for site in self._clients if site in self._seeded_themselves]

    @property
    def late(self) -> list[str]:
        """The sites that still work on a task although the server no longer waits for the answer."""
        return [client.site for client in self._clients.values() if client.state is State.LATE]

    def takes(self, task_name: str, *, by_name: bool = False) -> Sequence[str]:
        return [client.site for client in self._clients.values() if client.takes(task_name, by_name=by_name)]

    def broadcast(
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
    ) -> Iterator[Reply]:
        rules = Rules(allow_non_finite=allow_non_finite, allow_unknown_keys=allow_unknown_keys, ignores=ignores)
        if self._outgoing is not None:
            self._leave(self._outgoing)
        self._num_tasks += 1
        outgoing, refused = self._prepared(task)
        begun = Begun(
            task_id=outgoing.task_id,
            targets=tuple(self.takes(task.name) if to is None else to),
            min_responses=min_responses,
            timeout_s=timeout_s,
            grace_s=grace_s,
            round_num=outgoing.round_num,
            refused=refused,
        )
        self._outgoing = outgoing
        try:
            self._tell(begun)
            while (site := self._next_turn(outgoing)) is not None:
                yield from self._give(outgoing, site, rules)
                if self._outgoing is not outgoing:
                    raise RunError(f"the workflow began another task before it took the last reply to {task.name!r}")
                self._wait(0.0)  # use a slot that became free before the workflow processes the reply
                self._tell(Taken())
        finally:
            try:
                self._leave(outgoing)
            finally:
                outgoing.close()

    def _leave(self, outgoing: Outgoing) -> None:
        """The workflow asks for no more replies to this task."""
        if self._outgoing is outgoing:
            try:
                self._tell(Left())
            finally:
                self._outgoing = None

    def reject(self, reply: Reply, cause: str) -> None:
        self._reject(reply.site, Failure(cause=cause))

    def close(self) -> None:
        """Tell every client that the run is over, and receive the last values that they log."""
        self._is_closing = True
        for channel in self._channels.values():
            channel.end()
        awaited = {site for site in self._channels if self._clients[site].state is not State.LATE}
        ends = time.monotonic() + _LAST_LOGS_S
        while any(site in self._channels for site in awaited):
            if (left := ends - time.monotonic()) <= 0:
                break
            self._listen(left)
        for site in list(self._channels):
            self._close_channel(site)
        for guest in list(self._guests):
            self._dismiss(guest).close()
        self._spool.close()
        self._selector.close()
        self._listener.close()

    # a task and its replies

    def _prepared(self, task: Task) -> tuple[Outgoing, Failure | None]:
        """The task as it is sent; and, if a filter fails, why it cannot be sent."""
        outgoing = Outgoing(self._num_tasks, task)
        try:
            model = filtered(self._data_filters, task.name, task.model, self._exchanges(task, "server", "task"))
        except FilterError as error:
            return outgoing, error.failure
        if model is not task.model:
            outgoing.whole = task.model.params or {}
            if model.params is not None:
                model = replace(model, params=dict(model.params))
        outgoing.task = Task(name=task.name, model=model)
        if model.params is not None:
            try:
                outgoing.file = TensorFile.write(model.params, scratch=self._scratch)
            except TensorError as error:
                if model is task.model:
                    raise
                return outgoing, Failure(cause=f"{self._filters_called(self._data_filters, task.name)}: {error}")
            model.params.update(outgoing.file.load())  # the same values: the server keeps them in memory once
        return outgoing, None

    def _exchanges(self, task: Task, site: str, direction: str) -> Exchanges:
        """Where the server's filters work on a task, or on the answer of a site."""
        round_num = task.model.current_round or 0

        def exchange(number: int) -> Exchange:
            parts = ("filter", "server", direction, number, site, self.workflow_number, round_num)
            return Exchange(
                site=site,
                task=task.name,
                round_num=round_num,
                sent=None if direction == "task" else task.model,
                rng=np.random.default_rng(derived(self._seed, *parts)),
                state=self._filter_state.setdefault((direction, number, site), {}),
            )

        return exchange

    def _filters_called(self, chain: Chain, task_name: str) -> str:
        """The filters of a task, for a message about what they made."""
        names = [type(link).__name__ for _, link in chain.of(task_name)]
        return f"the server's filter{'s' * (len(names) > 1)} {', '.join(names)}"

    def _next_turn(self, outgoing: Outgoing) -> str | None:
        while outgoing.turn is None and not outgoing.is_finished:
            self._wait(None)
        site, outgoing.turn = outgoing.turn, None
        return site

    def _give(self, outgoing: Outgoing, site: str, rules: Rules) -> Iterator[Reply]:
        """Give one reply to the workflow. It is accepted if the workflow asks for the next one without rejecting it."""
        received = outgoing.take(site)
        try:
            model, left_out = outgoing.model_of(
                received, self._result_filters, self._exchanges(outgoing.task, site, "answer"), rules
            )
        except FilterError as error:
            received.close()
            self._reject(site, error.failure)
        except ValueError as error:
            received.close()
            self._reject(site, Failure(cause=self._told_once(site, error)))
        except Exception as error:
            # a filter of the user's may make any values, and checking them may raise anything: one reply fails
            named = self._filters_called(self._result_filters, outgoing.task.name)
            if named.endswith(" "):  # there is no filter: a bug of ours
                raise
            traceback.print_exc()
            received.close()
            self._reject(site, Failure(cause=f"{named}: {type(error).__name__}: {error}"))
        else:
            self._tell_left_out(site, left_out)
            received.model = model
            try:
                yield Reply(site=site, model=model)
            finally:  # also if the workflow stops the iteration
                if received.file is not None:
                    received.file.close()

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

    def _reject(self, site: str, failure: Failure) -> None:
        if self._outgoing is None:
            raise RunError(f"{site}: {failure.cause}")
        self._tell(Rejected(site, failure))
        while self._dispatcher.is_stopping:
            self._wait(None)

    # events and decisions

    def _tell(self, happening: Happening) -> None:
        """Tell the dispatcher, and perform its decisions. Raises NotEnoughClients, NotEnoughMemory, RunError."""
        for decision in self._dispatcher.handle(happening, time.monotonic()):
            self._perform(decision)
        while self._unreachable:
            site = self._unreachable.pop()
            self._close_channel(site)
            self._tell(Disconnected(site))

    def _perform(self, decision: Decision) -> None:
        outgoing = self._outgoing
        match decision:
            case Start(site):
                self._emit(ClientWanted(site=site))
            case Admit(site):
                self._emit(ClientReady(site=site))
            case EndChannel(site):
                if site in self._channels:
                    self._channels[site].end()
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
                assert outgoing is not None
                self._perform_for(outgoing, decision)

    def _perform_for(self, outgoing: Outgoing, decision: Decision) -> None:
        task, round_num = outgoing.task.name, outgoing.round_num
        match decision:
            case Send(site, tell_usage):
                self._send(outgoing, site, tell_usage=tell_usage)
            case Keep(site, work_s):
                self._keep(outgoing, site, work_s)
            case Give(site):
                outgoing.turn = site
            case Finish():
                outgoing.is_finished = True
            case Fail(site, failure, hangs):
                self._emit(
                    ReplyFailed(
                        site=site,
                        workflow=self.workflow,
                        task=task,
                        round_num=round_num,
                        failure=failure,
                        hangs=hangs,
                    )
                )
            case Skip(site):
                self._emit(NotAwaited(site=site, workflow=self.workflow, task=task, round_num=round_num))
            case Accept(site):
                self._accept(outgoing, site)
            case QuorumLost(needed, possible, cause, hint):
                raise NotEnoughClients(
                    task,
                    round_num=outgoing.task.model.current_round,
                    needed=needed,
                    possible=possible,
                    cause=cause,
                    hint=hint,
                )

    def _send(self, outgoing: Outgoing, site: str, *, tell_usage: bool) -> None:
        assignment = Assignment(
            task_id=outgoing.task_id,
            task_name=outgoing.task.name,
            model=ModelFacts.of(outgoing.task.model),
            workflow=self.workflow_number,
            tell_usage=tell_usage,
        )
        try:
            self._channels[site].send(assignment, None if outgoing.file is None else outgoing.file.fileno())
        except ChannelClosed:
            self._unreachable.append(site)
            return
        sent = self._sent[site] = TaskSent(
            site=site,
            workflow=self.workflow,
            task=outgoing.task.name,
            round_num=outgoing.round_num,
            size=outgoing.size,
        )
        self._emit(sent)

    def _told_wait(self, sites: Sequence[str]) -> str:
        named = ", ".join(sites[:5]) + f" and {len(sites) - 5} more" * (len(sites) > 5)
        why = "the same seed gives the same model" if self._why_all == "--seed" else "no client fails for its speed"
        return (
            f"enough clients have answered, and with {self._why_all} each round still waits for all ({named}), so that "
            f"{why}; train_timeout limits this wait. Without {self._why_all} a round ends as in NVFLARE: "
            "wait_time_after_min_received seconds after min_clients have answered"
        )

    def _late_reply(self, site: str) -> ReplyLate:
        sent = self._sent.get(site)
        if sent is None:
            return ReplyLate(site=site, workflow=self.workflow, task="")
        return ReplyLate(site=site, workflow=sent.workflow, task=sent.task, round_num=sent.round_num)

    def _accept(self, outgoing: Outgoing, site: str) -> None:
        accepted, outgoing.taken = outgoing.taken, None
        if accepted is None or accepted.model is None:  # an error ended the broadcast while the reply was checked
            return
        self._emit(
            ReplyAccepted(
                site=site,
                workflow=self.workflow,
                task=outgoing.task.name,
                round_num=outgoing.round_num,
                metrics=events.as_metrics(accepted.model.metrics or {}),
                num_steps=accepted.model.num_steps,
                size=accepted.size,
                work_s=accepted.work_s,
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
                self._receive_all(site)  # its answer may have arrived, after the values that it logged
            self._tell(TimePassed())

    def _listen(self, timeout_s: float | None) -> None:
        ready = [key for key, _ in self._selector.select(timeout_s)]
        for key in ready:  # the clients' own messages first, then the parent's about them
            if isinstance(key.data, Client):
                self._receive(key.data.site)
        for key in ready:
            if key.fileobj is self._listener:
                self._connect()
            elif isinstance(key.fileobj, Guest):
                self._greet(key.fileobj)
            elif key.fileobj is self._line:
                self._read_line()

    def _connect(self) -> None:
        """Meet a process that connected. It may need time until its hello, or be a stranger: nothing waits for it."""
        if len(self._guests) == _MOST_GUESTS:
            self._dismiss(next(iter(self._guests))).close()
        guest = self._listener.meet()
        self._guests[guest] = None
        self._selector.register(guest, selectors.EVENT_READ)

    def _dismiss(self, guest: Guest) -> Guest:
        self._selector.unregister(guest)
        del self._guests[guest]
        return guest

    def _greet(self, guest: Guest) -> None:
        if guest not in self._guests:
            return
        self._dismiss(guest)
        with contextlib.suppress(ChannelClosed):
            if (met := self._listener.greet(guest, self._welcome_for)) is None:
                self._guests[guest] = None
                self._selector.register(guest, selectors.EVENT_READ)
                return
            site, channel = met
            self._channels[site] = channel
            if self._is_closing:
                channel.end()
            self._selector.register(channel, selectors.EVENT_READ, self._clients[site])
            self._tell(Connected(site))

    def _welcome_for(self, hello: Hello) -> Welcome | None:
        client = self._clients.get(hello.site)
        return self._welcome(hello.site) if client is not None and client.may_connect else None

    def _receive_all(self, site: str) -> None:
        """Receive all messages that a client has sent so far."""
        ends = time.monotonic() + _LAST_MESSAGES_S
        while self._receive(site, timeout_s=0.0) and time.monotonic() < ends:
            pass

    def _receive(self, site: str, timeout_s: float | None = None) -> bool:
        """Receive one message of a client. False if there is none."""
        if site not in self._channels:
            return False
        try:
            message, fd = self._channels[site].receive(timeout_s)
        except TimeoutError:
            return False
        except ChannelClosed as error:
            self._close_channel(site)
            self._tell(Disconnected(site, f"it sent {error.message}" if isinstance(error, BadMessage) else ""))
            return False
        try:
            file = None if fd is None else TensorFile(fd)
        except TensorError as error:
            self._close_channel(site)
            self._tell(Disconnected(site, error.message))
            return False
        if isinstance(message, Answer):
            self._receive_answer(site, message, file)
            return True
        if file is not None:  # only an answer has one
            file.close()
        if isinstance(message, Ready):
            self._tell(Asked(site))
        else:
            self._emit(ValuesLogged(site=site, kind=message.kind, values=message.values, step=message.step))
        return True

    def _receive_answer(self, site: str, answer: Answer, file: TensorFile | None) -> None:
        if answer.seeded_itself:
            self._seeded_themselves.add(site)
        else:
            self._seeded_themselves.discard(site)
        self._arriving = (answer, file)
        try:
            self._tell(Answered(site, answer.task_id, answer.usage))
        finally:
            if self._arriving is not None and file is not None:
                file.close()
            self._arriving = None

    def _keep(self, outgoing: Outgoing, site: str, work_s: float) -> None:
        assert self._arriving is not None
        (answer, file), self._arriving = self._arriving, None
        spooled = None if file is None else self._spool.put(file, waiting_bytes=outgoing.received_bytes)
        outgoing.received[site] = Received(answer, spooled, work_s)
        outgoing.received_bytes += outgoing.received[site].size
        task, round_num = outgoing.task.name, outgoing.round_num
        self._emit(ReplyArrived(site=site, workflow=self.workflow, task=task, round_num=round_num))

    def _read_line(self) -> None:
        """Read the parent's messages about processes that ended."""
        chunk = self._line.recv(1 << 16)
        if not chunk:
            raise RunError("the command that started this run has ended")
        *lines, self._unread = (self._unread + chunk).split(b"\n")
        for line in lines:
            event = events.from_line(line)
            if isinstance(event, ProcessExited) and event.name in self._clients:
                self._receive_all(event.name)  # its last messages, if it sent any
                self._close_channel(event.name)
                self._tell(Exited(event.name, event.exit_code, event.failure))

    def _close_channel(self, site: str) -> None:
        if (channel := self._channels.pop(site, None)) is not None:
            self._selector.unregister(channel)
            channel.close()
