"""Runs the runs of a sweep, a few at a time. Each is a process of its own, with a nursery forked from a warm one."""

from __future__ import annotations

import dataclasses
import os
import select
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from fedsag_cli.events import how_it_ended
from fedsag_cli.processes.forked import Forked, forked
from fedsag_cli.processes.local import OwnNursery, StartNursery
from fedsag_cli.processes.warm import WarmNursery
from fedsag_cli.simulator.options import Options
from fedsag_cli.simulator.signals import SignalsTold
from fedsag_cli.sweep.one_run import Ended, Lines, Share, Trained, run

_LOOK_S = 1.0  # the time that is left is told anew


class Task(NamedTuple):
    """A run that is to be made. `name`: of its folder."""

    name: str
    workspace: Path
    options: Options


@dataclasses.dataclass(kw_only=True)
class Running:
    """A run that goes on. `share`: how much of it is done, from 0 to 1. `has_trained`: it only writes its results."""

    task: Task
    process: Forked
    began: float
    share: float = 0.0
    has_trained: bool = False
    ended: Ended | None = None
    lines: Lines = dataclasses.field(default_factory=Lines)


class Runner:
    """Runs tasks, `jobs` at a time. The process that uses it has one thread."""

    def __init__(
        self,
        job: Path,
        warm: WarmNursery | None,
        jobs: int,
        close: Callable[[], None],
        signals: SignalsTold,
    ) -> None:
        """`warm`: None: each run starts a nursery itself. `close`: closes what a run must not have."""
        self._job, self._warm, self._jobs = job, warm, jobs
        self._close, self._signals = close, signals
        self._has_passed_on = False  # the signal
        self.running: list[Running] = []

    def run(self, tasks: Iterator[Task], ended: Callable[[Task, Ended, float], None], look: Callable[[], None]) -> None:
        """Run every task. `ended` gets each with its end and its seconds; `look` is called now and then.

        While a run writes its results, the next one begins: the cores would wait otherwise. After a signal, the runs
        that go on get it too, and no other begins.
        """
        is_over = False
        while True:
            while not is_over and not self._signals.received and self._num_training < self._jobs:
                task = next(tasks, None)
                if task is None:
                    is_over = True
                else:
                    self.running.append(self._start(task))
            look()
            if not self.running:
                return
            self._wait(ended)

    @property
    def _num_training(self) -> int:
        return sum(not each.has_trained for each in self.running)

    def end(self) -> None:
        """End what still runs."""
        for each in self.running:
            each.process.send_signal(signal.SIGKILL)
            each.process.wait()

    def _start(self, task: Task) -> Running:
        nursery = self._warm.branch() if self._warm is not None else None

        def work(telling: int) -> int:
            self._close()
            self._signals.close()
            if self._warm is not None:
                self._warm.close()
            for other in self.running:
                os.close(other.process.told)
            how: StartNursery = OwnNursery if nursery is None else nursery
            return run(self._job, task.workspace, task.options, how, telling)

        try:
            process = forked(work)
        finally:
            if nursery is not None:
                nursery.close()
        return Running(task=task, process=process, began=time.monotonic())

    def _wait(self, ended: Callable[[Task, Ended, float], None]) -> None:
        by_pipe = {each.process.told: each for each in self.running}
        others = [] if self._has_passed_on else [self._signals.fileno()]
        ready, _, _ = select.select([*by_pipe, *others], [], [], _LOOK_S)
        if self._signals.received and not self._has_passed_on:
            self._has_passed_on = True
            for each in self.running:
                each.process.send_signal(self._signals.received[0])
        for each in [by_pipe[pipe] for pipe in ready if pipe in by_pipe]:
            told = each.lines.read(each.process.told)
            for line in told or ():
                match line:
                    case Share(done):
                        each.share = done
                    case Trained():
                        each.has_trained = True
                    case Ended():
                        each.ended = line
            if told is None:
                self.running.remove(each)
                code = each.process.wait()
                end = each.ended or Ended(exit_code=code if code > 0 else 4, cause=how_it_ended(code))
                ended(each.task, end, time.monotonic() - each.began)
