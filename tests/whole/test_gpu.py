"""scripts/gpu: what it says without a GPU, what it finds wrong, and one of its runs on the CPU."""

import json
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
sys.path.insert(0, str(SCRIPTS))

import gpu_checks  # noqa: E402
from gpu_checks import CASES, Case, Ran  # noqa: E402


def ran(digest="d1", *, code=0, before="False", device="cuda", peak=1 << 20, said="line\nerror: no\n"):
    """A run whose only client said this."""
    log = f"cuda at the start: {before}\nround 0\ndevice: {device}, peak: {peak}\n"
    return Ran(code, said, digest, [log], 1.0)


def faults(case, outcome, device="gpu", known=()):
    return gpu_checks.checked(case, outcome, device, dict(known)).faults


def test_without_a_gpu_it_says_so_and_ends_with_2(monkeypatch, capsys):
    for found in (None, 0):
        monkeypatch.setattr(gpu_checks.machine, "num_gpus", lambda found=found: found)

        assert gpu_checks.main([]) == 2
        assert "no GPU here: nvidia-smi lists none" in capsys.readouterr().err


def test_a_name_that_no_run_has_is_an_error_that_lists_the_names(capsys):
    with pytest.raises(SystemExit) as ended:
        gpu_checks.main(["--only", "fork-t1,frok"])

    assert ended.value.code == 2
    assert "there is no 'frok': choose from fork-t1, fork-t4" in capsys.readouterr().err


def test_what_does_not_hold_is_a_fault():
    case = Case("fork-t4", (), same_as="fork-t1")

    assert faults(case, ran("d1"), known={"fork-t1": "d1"}.items()) == []
    assert faults(case, ran("d2"), known={"fork-t1": "d1"}.items()) == ["another model than fork-t1"]
    assert faults(case, ran(before="True")) == ["CUDA was initialised before the script ran"]
    assert faults(case, ran(device="cpu")) == ["it trained on cpu"]
    assert faults(case, ran(device="cpu"), device="cpu") == []
    assert faults(case, ran(code=4)) == ["exit code 4: line; error: no"]
    assert faults(case, Ran(0, "", "d1", ["nothing"], 1.0)) == ["no client said anything"]


def test_every_run_is_made_and_the_exit_code_says_whether_all_holds(monkeypatch, capsys, tmp_path):
    used = iter([1 << 30, (1 << 30) + (64 << 20), 1 << 30, 2 << 30])
    digests = {case.name: case.same_as or case.name for case in CASES}
    monkeypatch.setattr(gpu_checks.machine, "num_gpus", lambda: 1)
    monkeypatch.setattr(gpu_checks, "used_memory", lambda: next(used))
    monkeypatch.setattr(gpu_checks, "run_case", lambda case, *_: ran(digests[case.name]))

    assert gpu_checks.main(["--json", str(tmp_path / "rows.json")]) == 0
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert [row["name"] for row in rows] == [*(case.name for case in CASES), "memory"]
    assert gpu_checks.main(["--only", "fork-t1"]) == 1
    assert "1024 MiB of GPU memory are still in use" in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_on_the_cpu_is_made_with_the_real_command(capsys):
    assert gpu_checks.main(["--device", "cpu", "--only", "full-from-gpu"]) == 0

    assert capsys.readouterr().out.splitlines()[1].split()[3] == "cpu"
