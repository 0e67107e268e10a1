"""Fakes that keep the contracts: small, in this process, and they remember what was asked of them."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fedsag_cli.errors import NotEnoughClients, TensorError
from fedsag_cli.model import NUM_STEPS, FLModel, Reply, Task
from fedsag_cli.params import checks
from fedsag_cli.params.tensor_file import TensorFile
from fedsag_cli.wire.channel import Listener
from fedsag_cli.wire.messages import Answer, Assignment, ModelFacts, Welcome

LIMIT_S = 30

Script = Callable[[FLModel], FLModel | None]


class FakeClients:
    """Clients that answer at once, each by its own function from the model it gets to the one it sends.

    None as an answer is a failure. `validate` are the functions of those that take that task too. `seen` has every
    (site, round) in which a client was asked to train, `sent` the params that went out by round, `rejected` the causes.
    """

    def __init__(self, validate: dict[str, Script] | None = None, **train: Script) -> None:
        self._scripts = {"train": train, "validate": validate or {}}
        self.sites = list(train)
        self.seen: list[tuple[str, int]] = []
        self.sent: dict[int, dict] = {}
        self.rejected: dict[str, str] = {}
        self.asked: list[dict] = []
        self._task, self._needed, self._possible = "", 0, 0

    def takes(self, task_name: str, *, by_name: bool = False) -> Sequence[str]:
        return list(self._scripts.get(task_name, {}))

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
        targets = [site for site in self.takes(task.name) if to is None or site in set(to)]
        self.asked.append({"task": task.name, "min": min_responses, "timeout_s": timeout_s, "grace_s": grace_s})
        self._task, self._needed, self._possible = task.name, min_responses, len(targets)
        self.sent[task.model.current_round] = dict(task.model.params or {})
        for site in targets:
            if task.name == "train":
                self.seen.append((site, task.model.current_round))
            answer = self._scripts[task.name][site](task.model)
            if answer is None:
                self._failed()
                continue
            reply = Reply(site=site, model=answer)
            try:
                checks.check(answer, task.model.params or {}, allow_non_finite=allow_non_finite)
            except TensorError as error:
                self.reject(reply, error.message)
            else:
                yield reply

    def reject(self, reply: Reply, cause: str) -> None:
        self.rejected[reply.site] = cause
        self._failed()

    def _failed(self) -> None:
        self._possible -= 1
        if self._possible < self._needed:
            raise NotEnoughClients(self._task, needed=self._needed, possible=self._possible)


class FakePersistor:
    """Starts from the params it was given, and keeps what is saved in two lists."""

    def __init__(self, **params: object) -> None:
        self._params = params
        self.saved: list[FLModel] = []
        self.best: list[FLModel] = []

    def load(self) -> FLModel:
        return FLModel(params=dict(self._params))

    def save(self, model: FLModel) -> Path:
        self.saved.append(model)
        return Path("/fake/global.pt")

    def save_best(self, model: FLModel) -> Path:
        self.best.append(model)
        return Path("/fake/best.pt")


def update(steps: float | None = None, metrics: dict | None = None, kind: str = "FULL", **params: object) -> FLModel:
    """What a client sends."""
    meta = {} if steps is None else {NUM_STEPS: steps}
    return FLModel(params_type=kind, params=params, metrics=metrics, meta=meta)


def open_descriptors() -> set[str]:
    """The numbers of this process's descriptors: the same before and after, or something was left open."""
    return {path.name for path in Path("/dev/fd").iterdir()}


class FakeServer:
    """The other end: hands out the tasks it is told to, gives the answers it got."""

    def __init__(self, folder, config):
        self._listener = Listener(str(folder / "s"), "secret")
        self._welcome = Welcome(job_id="job-7", seed=3, scratch=str(folder), config=config)
        self._pool = ThreadPoolExecutor(1)
        self._met = self._pool.submit(self._listener.accept, lambda hello: self._welcome)
        self._tasks = 0

    @property
    def channel(self):
        return self._met.result(timeout=LIMIT_S)[1]

    def give(self, params=None, name="train", round_num=0, total=5, **facts):
        self._tasks += 1
        model = FLModel(params=params, current_round=round_num, total_rounds=total, **facts)
        facts = ModelFacts.of(model)
        assignment = Assignment(task_id=self._tasks, task_name=name, model=facts, tell_usage=self._tasks == 1)
        if params is None:
            self.channel.send(assignment)
            return
        with TensorFile.write(params) as file:
            self.channel.send(assignment, file.fileno())

    def heard(self):
        return self.channel.receive(timeout_s=LIMIT_S)

    def answer(self):
        """The model of the next answer; what a client says before it is passed over."""
        while True:
            message, fd = self.heard()
            if isinstance(message, Answer):
                self.last = message
                if fd is None:
                    return message.model.with_params(None)
                with TensorFile(fd) as file:
                    return message.model.with_params(file.load())

    def end(self):
        self.channel.close()

    def close(self):
        self._listener.close()
        self._pool.shutdown(wait=False)
