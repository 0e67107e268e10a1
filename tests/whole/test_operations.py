"""A few of the faults of scripts/faults, which lets every file operation of every process of a run fail."""

import random
import shutil
from pathlib import Path

import pytest
from faulting import ROLES, Bench

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (shutil.which("cc") or shutil.which("gcc")), reason="it compiles a shim in C"),
]


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return Bench(tmp_path_factory.mktemp("faults"))


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("role", ROLES)
def test_whatever_fails_and_whoever_is_killed_a_run_keeps_its_promises(bench, role, seed):
    fault = random.Random(f"{role} {seed}").choice([fault for fault in bench.every() if fault.role == role])

    assert bench.broken(fault) == [], f"{fault} ({bench.operation(fault)})"


def test_every_process_of_the_run_is_known(bench):
    assert sorted(bench.operations) == sorted(ROLES)
    assert any("made" in line for line in bench.operations["command"])
    assert any("checkpoints" in line for line in bench.operations["child1"])
    assert Path(bench.shim).exists()
