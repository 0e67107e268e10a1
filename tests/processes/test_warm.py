"""The warm nursery: it imports once, and each run has a nursery of its own that ends with its run."""

import os
import signal
from pathlib import Path

import pytest
from runs import eventually

from fedsag_cli.events import ProcessExited, ProcessStarted
from fedsag_cli.processes.child import ProcessSpec
from fedsag_cli.processes.kill import kill_marked
from fedsag_cli.processes.local import NURSERY, LocalEngine
from fedsag_cli.processes.warm import WarmNursery
from fedsag_cli.wire.messages import RUN, TOKEN

LIMIT_S = 60


def env_of(token, folder):
    return dict(os.environ) | {"PYTHONPATH": str(folder), TOKEN: token * 32, RUN: token * 16}


class Runs:
    """A warm nursery, and engines that use its nurseries as runs do."""

    def __init__(self, folder):
        self.folder = folder
        (folder / "heavy.py").write_text("import os\nwhere = os.getpid()\n")
        self.warm = WarmNursery(dict(os.environ) | {"PYTHONPATH": str(folder)})
        self.warm.prepare(["heavy"])
        self.engines = []

    def engine(self, token="a"):
        self.env = env_of(token, self.folder)
        self.engines.append(LocalEngine(fork=True, env=self.env, nursery=self.warm.branch()))
        return self.engines[-1]

    def start(self, engine, text, name="child"):
        """A process of the run; its pid."""
        (self.folder / f"{name}.py").write_text(f"def run():\n    {text}\n    return 0\n")
        spec = {"name": name, "target": f"{name}:run", "env": self.env, "cwd": str(self.folder)}
        engine.start(ProcessSpec(**spec, log=str(self.folder / f"{name}.txt")))
        started = engine.next_event(LIMIT_S)
        assert isinstance(started, ProcessStarted)
        return started.pid

    def parent_of(self, pid):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])

    def log(self, name="child"):
        return (self.folder / f"{name}.txt").read_text()


@pytest.fixture
def runs(tmp_path):
    runs = Runs(tmp_path)
    yield runs
    for engine in runs.engines:
        engine.stop(grace_s=0.0)
    runs.warm.end()


def is_gone(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


SLEEPS = "import time; time.sleep(1000)"


def test_what_was_imported_once_is_there_in_the_processes_of_all_runs(runs):
    for token in "ab":
        engine = runs.engine(token)
        runs.start(engine, "import heavy; print(heavy.where)", name=token)
        assert isinstance(engine.next_event(LIMIT_S), ProcessExited)

    assert runs.log("a") == runs.log("b")


def test_a_run_that_is_over_leaves_the_others_as_they_are(runs):
    one, other = runs.engine("a"), runs.engine("b")
    ended, goes_on = runs.start(one, SLEEPS, name="one"), runs.start(other, SLEEPS, name="other")
    nursery = runs.parent_of(ended)

    one.stop(grace_s=0.0)

    eventually(lambda: is_gone(ended) and is_gone(nursery))
    assert not is_gone(goes_on)


def test_a_nursery_that_is_killed_fails_its_run_with_the_signal_and_nothing_of_the_run_stays(runs):
    engine = runs.engine()
    child = runs.start(engine, SLEEPS)

    os.kill(runs.parent_of(child), signal.SIGKILL)
    exited = engine.next_event(LIMIT_S)
    engine.stop(grace_s=0.0)

    assert (exited.name, exited.exit_code) == (NURSERY, -9)
    eventually(lambda: is_gone(child))


def test_a_process_below_a_killed_nursery_that_left_its_group_is_found_by_the_token_of_its_run(runs):
    engine = runs.engine("c")
    daemon = runs.folder / "daemon.pid"
    leaves = f"os.setsid(), open({str(daemon)!r}, 'w').write(str(os.getpid()))"
    text = f"import os, time; os.fork() or ({leaves}); time.sleep(1000)"
    nursery = runs.parent_of(runs.start(engine, text))
    eventually(lambda: daemon.exists() and daemon.read_text())

    os.kill(nursery, signal.SIGKILL)
    engine.next_event(LIMIT_S)
    engine.stop(grace_s=0.0)

    eventually(lambda: is_gone(int(daemon.read_text())))


def test_each_nursery_carries_the_marks_of_its_own_run(runs):
    one, other = runs.engine("d"), runs.engine("e")
    marked, stays = runs.start(one, SLEEPS, name="one"), runs.start(other, SLEEPS, name="other")

    ended = kill_marked(RUN, "d" * 16)

    assert str(marked) in " ".join(ended)
    assert not is_gone(stays)


def test_when_the_warm_nursery_is_killed_all_its_runs_fail_and_no_process_stays(runs):
    one, other = runs.engine("f"), runs.engine("g")
    children = [runs.start(one, SLEEPS, name="one"), runs.start(other, SLEEPS, name="other")]
    nurseries = [runs.parent_of(child) for child in children]

    os.kill(runs.parent_of(nurseries[0]), signal.SIGKILL)
    exits = [engine.next_event(LIMIT_S) for engine in (one, other)]

    assert [(each.name, each.exit_code) for each in exits] == [(NURSERY, -9)] * 2
    eventually(lambda: all(map(is_gone, [*children, *nurseries])))


def test_after_a_warm_nursery_was_killed_the_next_run_has_a_new_one_with_all_modules(runs):
    engine = runs.engine("j")
    runs.start(engine, "import heavy, os; print(heavy.where, os.getppid())", name="one")
    assert engine.next_event(LIMIT_S).name == "one"
    first, nursery = map(int, runs.log("one").split())
    warm = runs.parent_of(nursery)
    os.kill(warm, signal.SIGKILL)
    eventually(lambda: is_gone(warm))

    again = runs.engine("k")
    runs.start(again, "import heavy, os; print(heavy.where, os.getppid())", name="two")
    assert again.next_event(LIMIT_S).name == "two"

    heavy, its_nursery = map(int, runs.log("two").split())
    assert heavy == runs.parent_of(its_nursery) != first


def test_when_its_user_ends_the_warm_nursery_ends_with_all_below_it(runs):
    child = runs.start(runs.engine("h"), SLEEPS)
    nursery = runs.parent_of(child)

    runs.warm.end()

    assert is_gone(child)
    assert is_gone(nursery)


def test_a_run_that_ends_before_its_nursery_has_begun_waits_for_nobody(runs):
    (runs.folder / "slow.py").write_text("import time; time.sleep(3)")
    runs.warm.prepare(["slow"])

    runs.engine("i").stop(grace_s=0.0)
    pid = runs.start(runs.engine("l"), SLEEPS, name="next")

    assert not is_gone(pid)
