"""What many tests stand on: updates, a server for a client under test, a count of descriptors."""

import contextlib
import select
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fedsag_cli.errors import ChannelClosed
from fedsag_cli.model import NUM_STEPS, FLModel
from fedsag_cli.params.packing import packed, unpacked
from fedsag_cli.params.tensor_file import TensorFile
from fedsag_cli.wire.channel import Listener
from fedsag_cli.wire.messages import Answer, Assignment, Welcome, parted

LIMIT_S = 30


def update(steps: float | None = None, metrics: dict | None = None, kind: str = "FULL", **params: object) -> FLModel:
    """What a client sends."""
    meta = {} if steps is None else {NUM_STEPS: steps}
    return FLModel(params_type=kind, params=params, metrics=metrics, meta=meta)


def open_descriptors() -> set[str]:
    """The numbers of this process's descriptors: the same before and after, or something was left open."""
    return {path.name for path in Path("/dev/fd").iterdir()}


def let_in(listener, welcome, limit_s=LIMIT_S):
    """Meet the next one at the door and hear its hello: its site and its channel, or None."""
    guest = listener.meet()
    ends = time.monotonic() + limit_s
    with contextlib.suppress(ChannelClosed):
        while (met := listener.greet(guest, welcome)) is None:
            if not select.select([guest], [], [], max(0.0, ends - time.monotonic()))[0]:
                guest.close()
                return None
        return met
    return None


class FakeServer:
    """The other end: hands out the tasks it is told to, gives the answers it got."""

    def __init__(self, folder, config):
        self._listener = Listener(str(folder / "s"), "secret")
        self._welcome = Welcome(job_id="job-7", seed=3, scratch=str(folder), config=config)
        self._pool = ThreadPoolExecutor(1)
        self._met = self._pool.submit(let_in, self._listener, lambda hello: self._welcome)
        self._tasks = 0
        self.state = None  # the file of what the site keeps, which came with the last answer

    @property
    def channel(self):
        return self._met.result(timeout=LIMIT_S)[1]

    def give(self, params=None, name="train", round_num=0, total=5, nth=0, state=None, **facts):
        """Hand out a task. `state`: what the site keeps, as the file that `answer` left here."""
        self._tasks += 1
        model = FLModel(params=params, current_round=round_num, total_rounds=total, **facts)
        facts, file = packed(model)
        assignment = Assignment(
            task_id=self._tasks,
            task_name=name,
            model=facts,
            nth=nth,
            tell_usage=self._tasks == 1,
            has_state=state is not None,
        )
        self.channel.send(assignment, *(each.fileno() for each in (file, state) if each is not None))
        if file is not None:
            file.close()

    def heard(self):
        return self.channel.receive(timeout_s=LIMIT_S)

    def answer(self):
        """The model of the next answer; what a client says before it is passed over."""
        while True:
            message, fds = self.heard()
            if isinstance(message, Answer):
                self.last = message
                file, self.state = parted([TensorFile(fd) for fd in fds], has_state=message.has_state)
                if file is None:
                    return unpacked(message.model, None)
                with file:
                    return unpacked(message.model, file)

    def end(self):
        self.channel.close()

    def close(self):
        self._listener.close()
        self._pool.shutdown(wait=False)
