"""The session of one script: it receives tasks from the server and sends the answers."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from fedsag_cli import machine
from fedsag_cli.client import alone, plain
from fedsag_cli.client.kept import Kept
from fedsag_cli.client.place import Site
from fedsag_cli.client.seeding import Streams, streams
from fedsag_cli.client.steps import State, Step
from fedsag_cli.errors import ChannelClosed, ClientError, TensorError
from fedsag_cli.filters import Chain, Exchanges
from fedsag_cli.model import INITIAL_PARAMS, NUM_SAMPLES, Exchange, FLModel, Params, ParamsType, Tree
from fedsag_cli.params import arithmetic
from fedsag_cli.params.encoding import check_key
from fedsag_cli.params.packing import packed, unpacked
from fedsag_cli.params.seeds import derived
from fedsag_cli.params.tensor_file import TensorFile
from fedsag_cli.plan import ClientConfig, FilterSpec
from fedsag_cli.processes.child import show_stack_when_stopped
from fedsag_cli.wire.channel import UnixChannel, connect
from fedsag_cli.wire.messages import (
    ADDRESS,
    COUNT,
    INDEX,
    PROCESS,
    SEED,
    SITE,
    TOKEN,
    WORKSPACE,
    Answer,
    Assignment,
    Hello,
    LogValues,
    Ready,
    ToClient,
    ToServer,
    Usage,
    Welcome,
    parted,
)
from fedsag_cli.workspace import log_by_worker

log = logging.getLogger("fedsag")

_MOST_KEYS = 1000  # that are sent by name alone


class Session:
    """A script's connection to the server. A rank other than "0" has no connection and gets no task.

    In a process that no run started, `alone` is in the server's place.
    """

    def __init__(self, rank: str) -> None:
        """Raises ClientError if what a run sets for this process is incomplete, ChannelClosed if the server has ended;
        without a run, ClientError if a local pass cannot begin."""
        self.rank = rank
        self._alone = alone.local_site() if alone.is_alone() else None
        self._site = self._alone.name if self._alone else os.environ.get(SITE, "")
        self._is_worker = not self._site
        self._channel: UnixChannel[ToServer, ToClient] | alone.LocalPass | None = None
        self._streams: Streams | None = None  # None: the script's random numbers are its own
        self._num_samples: int | None = None  # as the script told first, for this site
        self._welcome = Welcome(job_id="", seed=0, scratch="", config=ClientConfig())
        self._assignment: Assignment | None = None
        self._file: TensorFile | None = None
        self._received: FLModel | None = None
        self._pristine: Params | None = None
        self._state = State.LEFT
        self._answers = 0
        self._sending = threading.Lock()  # a script may log from another thread
        self._kept = Kept("")
        self._has_warned = False  # that logged values are not stored any more
        if rank == "0":
            self._connect()

    @property
    def site_name(self) -> str:
        """Raises ClientError in a worker before its first task, and in its other ranks than "0"."""
        if self._is_worker and self.rank != "0":
            raise ClientError(
                f"only rank 0 of a worker knows the client whose task it has, this is rank {self.rank}",
                hint="let rank 0 tell the others: torch.distributed.broadcast_object_list()",
            )
        if self._is_worker and not self._site:
            raise ClientError(
                "the name of the site was asked for before the first flare.receive(): "
                "this process works for any client",
                hint="swap the two lines: input_model = flare.receive(), then site = flare.get_site_name()",
            )
        return self._site

    @property
    def site(self) -> Site:
        """This client's place among the sites of the run. Raises ClientError where `site_name` does."""
        if self._alone is not None:
            return self._alone
        name = self.site_name
        at = self._assignment.index if self._is_worker and self._assignment else int(os.environ[INDEX])
        return Site(index=at, count=int(os.environ[COUNT]), name=name)

    @property
    def seed(self) -> int:
        """The seed of the run."""
        return self._welcome.seed if self.rank == "0" else int(os.environ.get(SEED, "0"))

    @property
    def streams(self) -> Streams | None:
        """The random numbers that the run seeds; None if they are the script's own."""
        return self._streams

    def tell_samples(self, number: int) -> None:
        """The site trains on so many samples. What is told first for a site counts."""
        if self._num_samples is None:
            self._num_samples = number

    @property
    def job_id(self) -> str:
        return self._welcome.job_id

    @property
    def config(self) -> ClientConfig:
        return self._welcome.config

    def wait(self, timeout_s: float | None = None) -> FLModel | None:
        """The model of the current or next task; None at the end of the run, or after `timeout_s` seconds."""
        if self._channel is not None and not self._state.has_task and not self._state.is_over:
            try:
                if self._state is State.JOINED or self._is_worker:  # a worker's task before this one is done only now
                    with self._sending:
                        self._channel.send(Ready())
                    self._step(Step.ASK)
                machine.give_back_memory()  # of the task before, which other clients can use meanwhile
                self._take(*self._channel.receive(timeout_s))
            except TimeoutError:
                return None
            except ChannelClosed:
                self._step(Step.END)
        return self._received

    @property
    def has_task(self) -> bool:
        """Whether there is a task without an answer."""
        return self._state.has_task

    @property
    def is_over(self) -> bool:
        """Whether no more tasks can arrive."""
        return self._state.is_over

    def is_running(self) -> bool:
        """Wait for a task: True if there is one, False at the end of the run."""
        self.wait()
        self._step(Step.REPEAT)
        return self._state.has_task

    def receive(self, timeout_s: float | None = None) -> FLModel | None:
        """As `wait`. Raises ClientError if the script's loop starts again without an answer to the task."""
        if self._state is State.REPEATED:
            raise ClientError(
                f"the loop started again without an answer to the task {self.task_name()!r}",
                hint="call flare.send() for every task, also for validation",
            )
        model = self.wait(timeout_s)
        self._step(Step.RECEIVE)
        return model

    def task_name(self) -> str:
        """The name of the current or last task; waits for the first one. Empty if there was none."""
        if self._assignment is None:
            self.wait()
        return self._assignment.task_name if self._assignment else ""

    def send(self, model: FLModel) -> None:
        """Answer the current task. Raises ClientError or TensorError without sending anything."""
        if self._channel is None or self._state.is_over:
            if self.rank == "0":
                log.warning("the run is over: this answer is not needed any more")
            return
        if self._state is State.ANSWERED:
            raise ClientError(
                "flare.send() was called a second time for one task", hint="call flare.receive() before each send"
            )
        if self._assignment is None or self._state not in (State.RECEIVED, State.REPEATED):
            raise ClientError(
                "flare.send() answers a task, but no model was received", hint="call flare.receive() first"
            )
        if model.params is None and model.metrics is None:
            raise ClientError(
                "the model to send has neither params nor metrics", hint="give FLModel(params=…) or metrics"
            )
        if model.params is not None and not isinstance(model.params, Mapping):
            raise ClientError(
                f"params must be a dict from names to arrays, not {type(model.params).__name__}",
                hint="give FLModel(params=model.state_dict())" if hasattr(model.params, "state_dict") else "",
            )
        num_samples = plain.count(model.meta.get(NUM_SAMPLES, self._num_samples), what=f"meta[{NUM_SAMPLES!r}]")
        sent = self._sent() if self._result_filters.filters else None
        answer = self._result_filters.process(
            self._assignment.task_name, self._as_update(model), self._exchanges("answer", sent)
        )
        more_keys = self._keys_without_difference(model)
        metrics = None if answer.metrics is None else plain.floats(answer.metrics, what="metrics")
        try:
            self._post(replace(answer, metrics=metrics), more_keys, num_samples)
        except TensorError as error:
            raise error.with_traceback(None) from None  # only the script's own line is of use to its author
        self._step(Step.ANSWER)
        self._answers += 1
        self._release()
        self._tidy()

    def _post(self, answer: FLModel, more_keys: list[str], num_samples: int | None) -> None:
        """Send an answer, and what is kept from now on. Raises TensorError; then nothing was sent."""
        assert self._assignment is not None
        assert self._channel is not None
        with contextlib.ExitStack() as files:
            facts, file = packed(answer, scratch=self._welcome.scratch)
            sent = [] if file is None else [files.enter_context(file)]
            if (state := self._kept.changed()) is not None:
                sent.append(files.enter_context(state))
            message = Answer(
                task_id=self._assignment.task_id,
                model=facts,
                usage=_usage() if self._assignment.tell_usage else None,
                seeded_itself=self._streams is not None and self._streams.script_seeded,
                more_keys=more_keys,
                has_state=state is not None,
                num_samples=num_samples,
            )
            try:
                with self._sending:
                    self._channel.send(message, *(each.fileno() for each in sent))
            except ChannelClosed:
                self.close()
            self._kept.settle(None if state is None else state.twin())

    def kept(self, *, to_change: bool = False) -> dict[str, Tree]:
        """What the script keeps from task to task. Before the first task, it waits for that.

        `to_change`: raises ClientError if no answer will take the change along.
        """
        if self._state in (State.JOINED, State.ASKED):
            self.wait()
        if to_change and self._state is State.ANSWERED:
            raise ClientError(
                "flare.state was changed after the answer to a task",
                hint="change it before flare.send(), which sends it along",
            )
        return self._kept.of_script

    def log(self, values: LogValues) -> None:
        """Send values for trackers, from any thread. Raises TensorError if they are too large."""
        with self._sending:
            if self._channel is not None:
                try:
                    self._channel.send(values)
                    return
                except ChannelClosed:
                    pass  # the server receives no more
            if self.rank == "0" and not self._has_warned:
                self._has_warned = True
                log.warning("the run is over: logged values are not stored any more")

    def close(self) -> None:
        """Leave the run. Closing twice is fine."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        self._step(Step.LEAVE)
        self._release()

    def _step(self, step: Step) -> None:
        self._state = self._state.after(step)

    def _connect(self) -> None:
        if self._alone is not None:
            self._welcome, self._channel = alone.begin(self._alone)
            self._state = State.JOINED
            self._kept = Kept(self._welcome.scratch)
            self._make_filters()
            return
        if ADDRESS not in os.environ:
            raise ClientError(
                f"this script has only a part of the variables of a run: {ADDRESS} is missing",
                hint="run its job with `fedsag simulator JOB`; or unset the others to run it alone",
            )
        hello = Hello(site=os.environ.get(PROCESS, self._site), token=os.environ.get(TOKEN, ""))
        self._welcome, self._channel = connect(os.environ[ADDRESS], hello)
        self._state = State.JOINED
        if threading.current_thread() is threading.main_thread():
            show_stack_when_stopped()  # for a script that a command started
        self._kept = Kept(self._welcome.scratch)
        self._streams = streams(self._welcome.seed, self._site)
        self._make_filters()

    def _make_filters(self) -> None:
        self._data_filters = _chain(self.config.task_data_filters)
        self._result_filters = _chain(self.config.task_result_filters)
        for chain in (self._data_filters, self._result_filters):
            chain.make_ready(self._site)

    def _serve(self, site: str) -> None:
        """The next task is that of this site: nothing of another one is left."""
        self._kept.forget()
        if site == self._site:
            return
        self._site = site
        self._num_samples = None
        assert self._streams is not None
        self._streams.serve(site)
        self._make_filters()
        log_of_site = log_by_worker(Path(os.environ[WORKSPACE]), site)
        fd = os.open(log_of_site, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):  # what the script put there may raise anything
                stream.flush()
        os.dup2(fd, 1)
        os.dup2(fd, 2)
        os.close(fd)

    def _take(self, assignment: Assignment, fds: Sequence[int]) -> None:
        self._assignment = assignment
        if assignment.site:
            self._serve(assignment.site)
        files = [TensorFile(fd, trusted=True) for fd in fds]
        self._file, state = parted(files, has_state=assignment.has_state)
        self._kept.settle(state)
        model = unpacked(assignment.model, self._file)
        filtered = self._data_filters.process(assignment.task_name, model, self._exchanges("task", None))
        self._pristine = None if filtered is model else _copied(filtered.params)
        meta = filtered.meta | {"job_id": self.job_id, "site_name": self._site}
        params = self._exchanged(filtered.params) or dict(meta.get(INITIAL_PARAMS) or {}) or filtered.params
        self._received = replace(filtered, params=params, meta=meta)
        self._step(Step.ASSIGN)
        if self._streams is not None:
            self._streams.at(assignment.model.current_round or 0, assignment.workflow, assignment.nth)

    def _exchanges(self, direction: str, sent: FLModel | None) -> Exchanges:
        """Where this client's filters work on a task or on its answer."""
        assert self._assignment is not None
        task, workflow, nth = self._assignment.task_name, self._assignment.workflow, self._assignment.nth
        round_num = self._assignment.model.current_round or 0

        process = os.environ.get(PROCESS, self._site)
        executor = "" if self._is_worker else process.removeprefix(self._site)  # ":2" for the second one

        def exchange(number: int) -> Exchange:
            parts = ("filter", "client", direction, number, self._site, workflow, round_num, nth)
            return Exchange(
                site=self._site,
                task=task,
                round_num=round_num,
                sent=sent,
                rng=np.random.default_rng(derived(self._welcome.seed, *parts)),
                state=self._kept.of_filter(f"{direction} {number}{executor}"),
            )

        return exchange

    def _exchanged(self, params: Params | None) -> Params | None:
        if params is None or self.config.exchange_format == "raw":
            return params
        if self.config.exchange_format == "numpy":
            return {name: arithmetic.as_numpy(name, value) for name, value in params.items()}
        return {name: arithmetic.as_torch(value) for name, value in params.items()}

    def _as_update(self, model: FLModel) -> FLModel:
        """The model to send for `model`, which is not changed: with DIFF, the difference to the received params."""
        assert self._received is not None
        round_num, num_rounds = self._received.current_round, self._received.total_rounds
        if model.params and self.config.exchange_format == "raw":
            model = replace(model, params=_raw(model.params))
        answer = replace(model, optimizer_params=None, current_round=round_num, total_rounds=num_rounds)
        if (
            isinstance(measured := model.meta.get("initial_metrics"), Mapping) and measured
        ):  # scripts for NVFLARE may put metrics there
            answer = replace(answer, metrics=dict(measured))
        if model.params is None or not self._makes_difference(model):
            return answer
        assert self._file is not None
        received = self._pristine if self._pristine is not None else self._file.load()
        changed = arithmetic.difference(model.params, received)
        return replace(answer, params=changed, params_type=ParamsType.DIFF)

    def _sent(self) -> FLModel | None:
        """The model that was received, with the params as they came: the script may have changed its own."""
        if self._received is None or self._received.params is None or self._file is None:
            return self._received
        return replace(self._received, params=self._pristine if self._pristine is not None else self._file.load())

    def _makes_difference(self, model: FLModel) -> bool:
        wants_diff = self.config.transfer_type is ParamsType.DIFF and model.params_type is ParamsType.FULL
        assert self._assignment is not None
        return wants_diff and self._assignment.model.params_type is not None

    def _keys_without_difference(self, model: FLModel) -> list[str]:
        """The keys that were not received, so they have no difference. The server judges them as it does with FULL."""
        if model.params is None or self._file is None or not self._makes_difference(model):
            return []
        assert self._assignment is not None
        task_name, known = self._assignment.task_name, {*self._file.entries, *(self._pristine or {})}
        more = [check_key(name) for name in model.params if name not in known]
        return [name for name in more if not self._result_filters.excludes(task_name, name)][:_MOST_KEYS]

    def _release(self) -> None:
        """Drop the task's models. Params that the script still has are not changed."""
        self._received = self._pristine = None
        if self._file is not None:
            self._file.close()
            self._file = None

    def _tidy(self) -> None:
        every = self.config.memory_gc_rounds
        if every and self._answers % every == 0:
            gc.collect()
        if self.config.cuda_empty_cache and (torch := sys.modules.get("torch")) and torch.cuda.is_initialized():
            torch.cuda.empty_cache()


def _raw(params: Params) -> Params:
    """The params of a script that sends what its library has: None is a value that it has not yet."""
    given = {name: value for name, value in params.items() if value is not None}
    return {name: bytes(value) if isinstance(value, bytearray) else value for name, value in given.items()}


def _chain(specs: Sequence[FilterSpec]) -> Chain:
    if not specs:
        return Chain()
    from fedsag_cli import catalog  # imported only for a job with filters

    return catalog.chain(specs)


def _copied(params: Params | None) -> Params | None:
    """A copy that the script cannot change."""
    if params is None:
        return None
    with TensorFile.write(params) as file:
        return file.load()


def _usage() -> Usage:
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        return Usage(
            private=machine.private_memory(), gpu=torch.cuda.memory_reserved(), gpu_free=torch.cuda.mem_get_info()[0]
        )
    return Usage(private=machine.private_memory())
