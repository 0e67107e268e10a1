"""Facts about the machine: free memory within all limits of control groups."""

import platform
import subprocess
import sys

import pytest

from fedsag_cli import machine


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """Write the files of control groups: their names, and what is in them."""

    def write(of_process, **files):
        (tmp_path / "cgroup").write_text(of_process)
        for name, text in files.items():
            path = tmp_path / "groups" / name.replace("__", "/").replace("_dot_", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    monkeypatch.setattr(machine, "_GROUPS", tmp_path / "groups")
    monkeypatch.setattr(machine, "_GROUPS_OF_PROCESS", tmp_path / "cgroup")
    monkeypatch.setattr(machine, "_free_of_machine", lambda: 1000)
    return write


def test_without_groups_it_is_that_of_the_machine(groups):
    assert machine.free_memory() == 1000


def test_the_limit_of_a_group_counts_without_cached_files(groups):
    stat = "anon 5\ninactive_file 30\n"
    groups("0::/a\n", a__memory_dot_max="500", a__memory_dot_current="200", a__memory_dot_stat=stat)

    assert machine.free_memory() == 330


def test_the_limit_of_a_group_above_counts_too(groups):
    groups(
        "0::/a/b\n",
        a__memory_dot_max="100", a__memory_dot_current="40", a__memory_dot_stat="",
        a__b__memory_dot_max="max", a__b__memory_dot_current="10", a__b__memory_dot_stat="",
    )  # fmt: skip

    assert machine.free_memory() == 60


def test_groups_of_version_1_have_limits_too_and_the_root_of_a_container_is_found(groups):
    groups(
        "4:memory:/docker/abc\n0::/\n",
        memory__memory_dot_limit_in_bytes="300",
        memory__memory_dot_usage_in_bytes="200",
        memory__memory_dot_stat="total_inactive_file 50\n",
    )

    assert machine.free_memory() == 150


def test_more_used_than_allowed_is_no_memory(groups):
    groups("0::/\n", memory_dot_max="100", memory_dot_current="140", memory_dot_stat="")

    assert machine.free_memory() == 0


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there may always be one")
@pytest.mark.parametrize(
    ("files", "may_have"),
    [(["null", "tty1", "kvm", "fuse"], False), (["null", "nvidia0"], True), (["dxg"], True), (["kfd", "dri"], True)],
    ids=["none", "NVIDIA's", "that of Windows", "AMD's"],
)
def test_whether_there_may_be_an_accelerator_is_known_by_the_files_of_drivers(files, may_have, tmp_path):
    for name in files:
        (tmp_path / name).touch()

    assert machine.may_have_accelerator(tmp_path) == may_have


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells it")
def test_the_versions_of_a_run_name_the_cpu():
    """In its result the last bits may depend on it."""
    with open("/proc/cpuinfo") as file:
        names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]

    assert machine.versions([]).get("cpu") == (names[0] if names else None)
    assert "torch" not in machine.versions([])


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells it")
def test_the_memory_of_a_session_is_its_peak_with_that_of_its_children():
    child = "x = b'x' * 20_000_000; print('there', flush=True); input()"
    leader = (
        "import subprocess, sys; x = b'x' * 50_000_000; del x; "
        f"child = subprocess.Popen([sys.executable, '-c', {child!r}]); child.wait()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", leader], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    with process:
        assert process.stdout.readline() == b"there\n"
        own, shared = machine.memory_of_session(process.pid)
        process.stdin.write(b"\n")

    assert 70_000_000 < own < 200_000_000
    assert shared > 0
    assert machine.memory_of_session(process.pid) == (0, 0)


@pytest.mark.skipif(
    sys.platform != "linux" or platform.libc_ver()[0] != "glibc", reason="only glibc keeps freed memory"
)
def test_freed_memory_is_given_back():
    text = """
from fedsag_cli import machine

def measure():
    return machine.private_memory() // 2**20

small = [bytearray(50_000) for _ in range(1000)]
last = bytearray(50_000)  # after them: what is before it stays with the process
del small
kept = measure()
machine.give_back_memory()
print(kept - measure())
"""
    found = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)

    assert int(found.stdout) > 40
