"""The same job through fedsag and through NVFLARE, where `scripts/interop` has installed that."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "scripts"))

from comparison.cases import CASES  # noqa: E402
from comparison.runs import compare  # noqa: E402

NAMES = ["sag_np", "sag_pt DIFF", "partial keys", "another order"]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(
    not (ROOT / ".venv-peers/nvflare/ready").exists(), reason="NVFLARE is not installed: scripts/interop does it"
)
@pytest.mark.parametrize("case", [case for case in CASES if case.name in NAMES], ids=lambda case: case.name)
def test_both_come_to_the_same_model(tmp_path, case):
    compared = compare(case, tmp_path)

    assert compared.numbers >= 9
    assert compared.as_promised, compared


def test_a_case_that_is_none_is_an_error_that_lists_them():
    env = os.environ | {"PYTHONPATH": str(ROOT / "scripts")}
    words = [sys.executable, "-m", "comparison", "--only", "sag_nq"]

    ran = subprocess.run(words, env=env, capture_output=True, text=True)

    assert ran.returncode == 2
    assert "no case is called 'sag_nq'; there are: sag_np, sag_pt FULL" in ran.stderr
