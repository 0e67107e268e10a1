"""The server's end of every client: tasks go out, replies come in, `-t` of them work at a time.

One thread. It waits on everything at once: the door, every client's channel, and the line to the parent, which tells
how processes end. Who says what is settled here: a workflow sees replies in site order, everybody else sees events.
"""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from fedsag_cli import events, machine
from fedsag_cli.errors import BadMessage, ChannelClosed, NotEnoughClients, NotEnoughMemory, RunError, TensorError
from fedsag_cli.events import (
    ClientReady,
    ClientWanted,
    Event,
    Failure,
    Notice,
    ProcessExited,
    ReplyAccepted,
    ReplyFailed,
    ReplyLate,
    TaskSent,
    ValuesLogged,
)
from fedsag_cli.filters import Chain
from fedsag_cli.model import Reply, Task
from fedsag_cli.params import checks
from fedsag_cli.params.tensor_file import TensorFile
from fedsag_cli.plan import ClientConfig
from fedsag_cli.server.broadcast import Arrived, Call, cause_of_end
from fedsag_cli.server.clients import ENDING_LIMIT_S, Client, ClientChannel, Roster, State
from fedsag_cli.server.spool import Attic
from fedsag_cli.wire.channel import Listener
from fedsag_cli.wire.messages import Answer, Assignment, Hello, LogValues, ModelFacts, Ready, Usage, Welcome

_SAME_CAUSE_S = 0.2  # clients that fail of one cause do so within this: all are named
_LAST_LOGS_S = 10.0  # so long a script is heard that goes on after its last task
_REASON_LIMIT_S = 10.0  # a channel that closed without a word: so long its process may take to end and tell why


class Communicator:
    """All clients of a run. Nobody else talks to them."""

    def __init__(
        self,
        listener: Listener,
        line: socket.socket,
        emit: Callable[[Event], None],
        *,
        configs: Mapping[str, ClientConfig],
        groups: Mapping[str, int],
        slots: int,
        strict: bool = False,
        welcome: Callable[[str], Welcome],
        data_filters: Chain,
        result_filters: Chain,
        scratch: Path,
    ) -> None:
        """`line` leads to the parent, `emit` tells it. `configs` and `groups` go by site, in the order of replies.

        At most `slots` clients of a group work at the same time. With `strict` a task needs the answers of all.
        """
        self._roster = Roster(
            [Client(number, site, config, groups[site]) for number, (site, config) in enumerate(configs.items())]
        )
        self._clients = self._roster.by_site
        self._emit = emit
        self._slots, self._strict = slots, strict
        self._welcome = welcome
        self._data_filters, self._result_filters = data_filters, result_filters
        self._scratch = scratch
        self._attic = Attic(scratch)
        self._listener, self._line = listener, line
        self._news = b""
        self._ears = selectors.DefaultSelector()
        self._ears.register(listener, selectors.EVENT_READ)
        self._ears.register(line, selectors.EVENT_READ)
        self._call: Call | None = None
        self._calls = 0
        self._first_failure, self._first_hangs = "", False
        self._usage: Usage | None = None  # of the first client that told

    @property
    def sites(self) -> Sequence[str]:
        return list(self._clients)

    @property
    def seeded_themselves(self) -> list[str]:
        """The sites whose scripts set random seeds of their own."""
        return [client.site for client in self._clients.values() if client.seeded_itself]

    @property
    def late(self) -> list[str]:
        """The sites that still work on what they were given up for."""
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
    ) -> Iterator[Reply]:
        wanted = set(self.takes(task.name) if to is None else to)
        self._calls += 1
        model = self._data_filters.process(task.name, task.model)
        file = None if model.params is None else TensorFile.write(model.params, scratch=self._scratch)
        if file is not None and model.params is not None:
            model.params.update(file.load())  # the same values: the server holds them once
        call = self._call = Call(
            id=self._calls,
            task=Task(name=task.name, model=model),
            file=file,
            targets=[client for client in self._clients.values() if client.site in wanted],
            min_responses=min_responses,
            timeout_s=timeout_s,
            grace_s=grace_s,
            allow_non_finite=allow_non_finite,
        )
        try:
            self._check_memory()
            for client in call.targets:
                if client.state is State.GONE:
                    self._fail(call, client, client.failure or Failure(cause="its process ended"))
            for client in call.targets:
                while call.waits_for(client.site):
                    self._advance(call)
                if client.site in call.arrived:
                    yield from self._give(call, client.site)
            self._require_quorum(call)
        finally:
            self._call = None
            for arrived in call.arrived.values():
                if arrived.file is not None:
                    arrived.file.close()
            if file is not None:
                file.close()

    def reject(self, reply: Reply, cause: str) -> None:
        if self._call is None:
            raise RunError(f"{reply.site}: {cause}")
        self._fail(self._call, self._clients[reply.site], Failure(cause=cause))
        self._require_quorum(self._call)

    def close(self) -> None:
        """The run is over: every client hears that, and is heard until it ends, for what it logs last."""
        for client in self._clients.values():
            if client.channel is not None:
                client.channel.end()
        ends = time.monotonic() + _LAST_LOGS_S
        while any(client.channel is not None and client.state is not State.LATE for client in self._clients.values()):
            if (left := ends - time.monotonic()) <= 0:
                break
            self._listen(left)
        for client in self._clients.values():
            self._hang_up(client)
        self._attic.close()
        self._ears.close()
        self._listener.close()

    def _give(self, call: Call, site: str) -> Iterator[Reply]:
        """One reply to the workflow; counted as accepted when it asks for the next and has not rejected it."""
        arrived = call.given(site)
        size = 0 if arrived.file is None else arrived.file.size
        try:
            try:
                params = None if arrived.file is None else arrived.file.take().load()
                model = arrived.answer.model.with_params(params)
                model = self._result_filters.process(call.task.name, model)
                checks.check(model, call.task.model.params or {}, allow_non_finite=call.allow_non_finite)
            except ValueError as error:
                self.reject(Reply(site=site, model=call.task.model), str(error))
                return
            yield Reply(site=site, model=model)
        finally:  # also where the workflow has had enough
            if arrived.file is not None:
                arrived.file.close()
        if site not in call.failed:
            self._emit(
                ReplyAccepted(
                    site=site,
                    task=call.task.name,
                    round_num=call.round_num,
                    metrics=events.told(model.metrics or {}),
                    num_steps=model.num_steps,
                    size=size,
                    work_s=arrived.work_s,
                )
            )

    def _advance(self, call: Call) -> None:
        """One step: hand out, listen until something happens or somebody is late, give up who is."""
        self._hand_out(call)
        self._require_quorum(call)
        if not call.is_waiting:
            return
        ends = [moment for moment in map(self._alarm, self._roster.timed) if moment is not None]
        self._listen(max(0.0, min(ends) - time.monotonic()) if ends else None)
        now = time.monotonic()
        for client in self._roster.timed:
            if (moment := self._alarm(client)) is not None and moment <= now:
                self._give_up(call, client)

    def _alarm(self, client: Client) -> float | None:
        assert self._call is not None
        if not self._call.waits_for(client.site):
            return None
        if client.lost is not None:
            return client.lost + _REASON_LIMIT_S
        return self._call.deadline(client)

    def _hand_out(self, call: Call) -> None:
        for group in call.groups:
            while self._roster.busy(group) < self._slots and (site := call.next_of(group)) is not None:
                client = self._clients[site]
                if not call.waits_for(site):
                    continue
                if client.state is State.ABSENT:
                    self._roster.now(client, State.STARTING)
                    self._emit(ClientWanted(site=site))
                elif client.state is State.WAITING and client.channel is not None:
                    self._send(call, client, client.channel)

    def _send(self, call: Call, client: Client, channel: ClientChannel) -> None:
        assignment = Assignment(
            task_id=call.id,
            task_name=call.task.name,
            model=ModelFacts.of(call.task.model),
            tell_usage=self._usage is None and client.config.launch_once,
        )
        try:
            channel.send(assignment, None if call.file is None else call.file.fileno())
        except ChannelClosed:
            self._lose(client)
            return
        self._roster.now(client, State.WORKING)
        size = 0 if call.file is None else call.file.size
        self._emit(TaskSent(site=client.site, task=call.task.name, round_num=call.round_num, size=size))

    def _listen(self, timeout_s: float | None) -> None:
        ready = [key for key, _ in self._ears.select(timeout_s)]
        for key in ready:  # what clients said before what is said of them
            if isinstance(key.data, Client):
                self._hear(key.data)
        for key in ready:
            if key.fileobj is self._listener:
                self._greet()
            elif key.fileobj is self._line:
                self._hear_news()

    def _greet(self) -> None:
        met = self._listener.accept(self._welcome_for)
        if met is not None:
            site, channel = met
            client = self._clients[site]
            client.channel = channel
            self._ears.register(channel, selectors.EVENT_READ, client)

    def _welcome_for(self, hello: Hello) -> Welcome | None:
        client = self._clients.get(hello.site)
        if client is None or client.state not in (State.STARTING, State.LATE) or client.channel is not None:
            return None
        return self._welcome(hello.site)

    def _hear(self, client: Client, timeout_s: float | None = None) -> bool:
        """One message of a client. False where there was none."""
        if client.channel is None:
            return False
        try:
            message, fd = client.channel.receive(timeout_s)
        except TimeoutError:
            return False
        except ChannelClosed as error:
            if isinstance(error, BadMessage):
                client.failure = Failure(cause=f"it sent {error.message}")
            self._lose(client)
            return False
        try:
            file = None if fd is None else TensorFile(fd)
        except TensorError as error:
            client.failure = Failure(cause=error.message)
            self._lose(client)
            return False
        match message:
            case Ready():
                self._is_free(client, State.WAITING)
                self._emit(ClientReady(site=client.site))
            case Answer():
                self._answered(client, message, file)
            case LogValues():
                told = ValuesLogged(site=client.site, kind=message.kind, values=message.values, step=message.step)
                self._emit(told)
        return True

    def _answered(self, client: Client, answer: Answer, file: TensorFile | None) -> None:
        call = self._call
        expected = client.state is State.WORKING and call is not None and answer.task_id == call.id
        had_a_task = client.state in (State.WORKING, State.LATE)
        work_s = time.monotonic() - client.since
        client.seeded_itself, client.has_answered = answer.seeded_itself, True
        if expected and call is not None and call.waits_for(client.site):
            kept = None if file is None else self._attic.keep(file, beside=call.waiting_bytes)
            call.answered(client.site, Arrived(answer, kept, work_s))
            if answer.usage is not None:
                self._measure(client, answer.usage)
        else:
            if file is not None:
                file.close()
            self._emit(ReplyLate(site=client.site, task="" if call is None else call.task.name))
        if had_a_task:
            self._rest(client)

    def _rest(self, client: Client) -> None:
        if client.config.launch_once:
            self._is_free(client, State.WAITING)
        else:
            if client.channel is not None:
                client.channel.end()
            self._roster.now(client, State.ENDING)

    def _is_free(self, client: Client, state: State) -> None:
        """For the task that is out, if it has not had it."""
        self._roster.now(client, state)
        if self._call is not None:
            self._call.queue(client)

    def _measure(self, client: Client, usage: Usage) -> None:
        """Once, after the first answer: whether the clients that are still to come will fit."""
        if self._usage is not None:
            return
        self._usage = usage
        self._check_memory()
        beside = sum(other.group == client.group for other in self._to_come())
        if usage.gpu_free and usage.gpu * beside > usage.gpu_free:
            raise NotEnoughMemory(clients=beside, needed=usage.gpu * beside, free=usage.gpu_free, where="GPU")

    def _check_memory(self) -> None:
        """Whether those that are to be started for this task will fit beside those that wait already."""
        if self._usage is None or not (count := len(self._to_come())):
            return
        needed, free = self._usage.private * count, machine.free_memory()
        if free and needed > free:
            raise NotEnoughMemory(clients=count, needed=needed, free=free, where="main")

    def _to_come(self) -> list[Client]:
        targets = self._call.targets if self._call else []
        return [client for client in targets if client.state is State.ABSENT and client.config.launch_once]

    def _hear_news(self) -> None:
        """What the parent tells: how processes ended."""
        chunk = self._line.recv(1 << 16)
        if not chunk:
            raise RunError("the command that started this run is gone")
        *lines, self._news = (self._news + chunk).split(b"\n")
        for line in lines:
            event = events.from_line(line)
            if isinstance(event, ProcessExited) and event.name in self._clients:
                self._exited(self._clients[event.name], event)

    def _exited(self, client: Client, exited: ProcessExited) -> None:
        while self._hear(client, timeout_s=0.001):  # its last words, if it has said any
            pass
        self._hang_up(client)
        self._roster.lost(client, None)
        told = exited.failure or Failure(cause="")
        if client.state is State.ENDING:
            client.has_answered = False
            self._is_free(client, State.ABSENT)
            if exited.exit_code:
                after = f"{client.site} answered, then failed: {told.cause or cause_of_end(client, exited)}"
                self._emit(Notice(text=after))
                if self._strict:
                    raise RunError(f"with --strict no client may fail, and {after}")
            return
        client.failure = Failure(
            cause=(client.failure.cause if client.failure else "") or told.cause or cause_of_end(client, exited),
            where=told.where,
            log=told.log,
            log_tail=told.log_tail,
            exit_code=exited.exit_code,
        )
        self._roster.now(client, State.GONE)
        if self._call is not None and self._call.waits_for(client.site):
            self._fail(self._call, client, client.failure)

    def _lose(self, client: Client) -> None:
        """Its channel closed without a word. Its process's end, of which we will hear, tells why."""
        self._hang_up(client)
        if client.state not in (State.GONE, State.ENDING):
            self._roster.lost(client, time.monotonic())

    def _hang_up(self, client: Client) -> None:
        if client.channel is not None:
            self._ears.unregister(client.channel)
            client.channel.close()
            client.channel = None

    def _give_up(self, call: Call, client: Client) -> None:
        if client.lost is not None:
            self._fail(call, client, client.failure or Failure(cause="it closed its channel (flare.shutdown()?)"))
            self._roster.now(client, State.GONE)
        elif client.state is State.STARTING:
            waited = time.monotonic() - client.since
            cause = (
                f"it did not ask for a task within {waited:.0f} s: flare.init() and flare.receive() were not reached"
            )
            self._fail(call, client, Failure(cause=cause), hangs=True)
            self._roster.now(client, State.LATE)
        elif client.state is State.ENDING:
            cause = f"its script goes on {ENDING_LIMIT_S:.0f} s after its answer, and launch_once is false"
            self._fail(call, client, Failure(cause=cause), hangs=True)
        else:
            waited = time.monotonic() - client.since
            cause = f"no answer {waited:.1f} s after it was handed the task"
            self._fail(call, client, Failure(cause=cause), hangs=True)
            self._roster.now(client, State.LATE)

    def _fail(self, call: Call, client: Client, failure: Failure, *, hangs: bool = False) -> None:
        if client.out_since is not None:
            failure = Failure(cause=f"out since round {client.out_since}: {failure.cause}")
        elif client.state is State.GONE:
            client.out_since = call.round_num
        call.gave_up(client.site, failure)
        self._first_hangs = hangs if not self._first_failure else self._first_hangs
        self._first_failure = self._first_failure or f"{client.site}: {failure.cause}" + (
            f" ({failure.where})" if failure.where else ""
        )
        self._emit(
            ReplyFailed(site=client.site, task=call.task.name, round_num=call.round_num, failure=failure, hangs=hangs)
        )

    def _require_quorum(self, call: Call) -> None:
        needed = len(call.targets) if self._strict else call.min_responses
        if call.possible < needed and not call.is_lost:
            call.is_lost = True
            self._hear_who_fails_too(call)
            raise NotEnoughClients(
                call.task.name,
                needed=needed,
                possible=call.possible,
                cause=self._first_failure,
                hint=self._way_out(call),
            )

    def _way_out(self, call: Call) -> str:
        if self._strict and call.min_responses < len(call.targets):
            return "without --strict a run goes on while min_clients others answer"
        return (
            "raise train_timeout, or lower min_clients"
            if self._first_hangs
            else "lower min_clients where others suffice"
        )

    def _hear_who_fails_too(self, call: Call) -> None:
        ends = time.monotonic() + _SAME_CAUSE_S
        while any(call.waits_for(client.site) for client in self._roster.timed):
            if (left := ends - time.monotonic()) <= 0:
                break
            self._listen(left)
