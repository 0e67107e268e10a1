"""One task of one client in a copy, and the estimate of a whole run from what it took."""

import msgspec
import plans
import pytest
from runs import ADDS_ONE, fedsag, job

from fedsag_cli import machine
from fedsag_cli.errors import RunError
from fedsag_cli.history import known_runs
from fedsag_cli.plan import ClientConfig, ComponentSpec, SitePlan
from fedsag_cli.simulator.dry_run import Measured, dry_run, estimate, num_rounds_of
from fedsag_cli.simulator.options import Options
from fedsag_cli.workspace import WORKER

MB = 1_000_000
MEASURED = Measured(
    site="a", task="train", start_s=5.0, task_s=3.0, model=1, client_own=100 * MB, shared=300 * MB, server=50 * MB
)


@pytest.fixture(autouse=True)
def four_cores(monkeypatch):
    monkeypatch.setattr(machine, "cores", lambda: 4)


def plan(n, t, *, threads=1, groups=1, workers=False, **config):
    sites = [
        SitePlan(
            name=WORKER if workers else f"site-{number}",
            group=number % groups,
            script="",
            args=[],
            command=[],
            env={},
            config=ClientConfig(**config),
        )
        for number in range(groups if workers else n)
    ]
    return plans.plan(slots=t, threads=threads, names=[f"site-{number}" for number in range(n)], sites=sites)


def test_the_time_of_a_round_is_that_of_the_clients_that_follow_each_other_in_a_slot():
    found = estimate(MEASURED, plan(7, 2), num_rounds=10, free=0)

    assert found.round_s == 4 * 3.0
    assert found.run_s == 5.0 + 10 * 12.0
    assert estimate(MEASURED, plan(8, 1, groups=4), num_rounds=None, free=0).round_s == 2 * 3.0
    assert estimate(MEASURED, plan(8, 2, launch_once=False), num_rounds=None, free=0).round_s == 4 * (3.0 + 5.0)


def test_clients_with_more_threads_than_there_are_cores_share_them():
    assert estimate(MEASURED, plan(4, 4, threads=2), num_rounds=1, free=0).round_s == 2 * 3.0
    assert estimate(MEASURED, plan(2, 4, threads=2), num_rounds=1, free=0).round_s == 3.0


def test_clients_that_stay_need_memory_for_all_of_them_and_others_for_those_at_work():
    free = 1000 * MB
    stays = estimate(MEASURED, plan(7, 2), num_rounds=1, free=free)
    leaves = estimate(MEASURED, plan(7, 2, launch_once=False), num_rounds=1, free=free)
    workers = estimate(MEASURED, plan(7000, 3, workers=True), num_rounds=1, free=free)

    assert (stays.memory, stays.fits, stays.most, stays.stays) == ((50 + 300 + 700) * MB, False, 6, True)
    assert (leaves.memory, leaves.fits, leaves.most, leaves.stays) == ((50 + 300 + 200) * MB, True, 6, False)
    assert workers.memory == (50 + 300 + 300) * MB


def test_where_the_system_tells_nothing_of_memory_nothing_is_estimated():
    found = estimate(msgspec.structs.replace(MEASURED, client_own=0), plan(2, 2), num_rounds=1, free=0)

    assert (found.memory, found.fits, found.most) == (0, True, None)


def test_the_rounds_of_all_workflows_count_and_a_default_is_the_workflows_own():
    flows = [
        ComponentSpec(path="ScatterAndGather", args={"num_rounds": 7}),
        ComponentSpec(path="Cyclic"),
        ComponentSpec(path="CrossSiteModelEval"),
        ComponentSpec(path="mine.Flow", args={"num_rounds": 2}),
    ]
    server = msgspec.structs.replace(plan(1, 1).server, workflows=flows)

    assert num_rounds_of(msgspec.structs.replace(plan(1, 1), server=server)) == 7 + 5 + 2
    assert num_rounds_of(plan(1, 1)) is None


@pytest.mark.slow
def test_one_client_does_one_task_and_nothing_is_written(tmp_path):
    made = job(
        tmp_path / "job", ADDS_ONE.replace("model =", "open('made', 'w'); print('at', flare.get_site_name()); model =")
    )
    before, runs = sorted(made.rglob("*")), known_runs()

    found = dry_run(made, Options(num_clients=3, slots=1))

    assert (found.measured.site, found.measured.task) == ("site-1", "train")
    assert found.measured.task_s > 0
    assert found.measured.model > 9 * 4
    assert 1 * MB < found.measured.client_own < 1000 * MB
    assert found.measured.shared > 1 * MB
    assert (found.estimate.num_clients, found.estimate.slots, found.estimate.num_rounds) == (3, 1, 2)
    assert sorted(made.rglob("*")) == before
    assert known_runs() == runs


@pytest.mark.slow
def test_the_command_shows_the_estimate_and_a_task_that_fails(tmp_path):
    made = job(tmp_path / "job", ADDS_ONE)
    shown = fedsag("job", "validate", made, "--dry-run", "-n", 30, "-t", 2, cwd=tmp_path)
    (made / "app/custom/train.py").write_text(
        "import fedsag_cli.client as flare\nflare.init()\nflare.receive()\n1 / 0\n"
    )
    failed = fedsag("job", "validate", made, "--dry-run", cwd=tmp_path)

    names = [line.split()[0] for line in shown.out.splitlines()]
    assert names == [
        "measured", "start", "task", "model", "client", "server", "estimate", "memory", "round", "run"
    ]  # fmt: skip
    assert "-n 30 -t 2" in shown.out
    assert failed.code == RunError.exit_code
    assert f"ZeroDivisionError: division by zero ({made}/app/custom/train.py:4)" in failed.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["job"]


def test_an_answer_that_a_run_would_refuse_is_refused(tmp_path):
    made = job(tmp_path / "job", ADDS_ONE.replace("params={k: v + 1 for k, v in model.params.items()}", "params=None"))

    with pytest.raises(RunError) as failed:
        dry_run(made, Options(num_clients=2, slots=1))

    assert "its answer to the task 'train' has no params" in "\n".join([str(failed.value), *failed.value.details])
