"""What can be read in what a process printed, and what must not be read into it."""

import pytest

from fedsag_cli.simulator import logs

TRACEBACK = """\
Traceback (most recent call last):
  File "/app/custom/train.py", line 4, in <module>
    int("no number")
  File "/usr/lib/number.py", line 9, in parse
ValueError: no number
"""
STACK = """\
Thread 0x00007f01 (most recent call first):
  File "/app/custom/load.py", line 70 in worker
  File "/usr/lib/threading.py", line 900 in run

Current thread 0x00007f00 (most recent call first):
  File "/usr/lib/time.py", line 3 in wait
  File "/app/custom/train.py", line 8 in deep
  File "/app/custom/train.py", line 12 in <module>
"""


@pytest.fixture
def log(tmp_path):
    def write(text):
        path = tmp_path / "log.txt"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def test_the_place_in_a_stack_is_the_deepest_of_the_users_frames_in_the_main_thread(log, tmp_path):
    assert logs.deepest_frame(log(STACK), "/app") == "/app/custom/train.py:8"


def test_a_traceback_that_was_printed_is_no_stack(log):
    assert logs.deepest_frame(log(TRACEBACK), "/app") == ""


def test_what_an_earlier_process_printed_is_none_of_this_ones(log):
    path = log(STACK + TRACEBACK)
    since = logs.size(path)
    path.write_bytes(path.read_bytes() + b"note: again\nlast\n")

    assert logs.tail(path, 20, since=since) == ["note: again", "last"]
    assert logs.deepest_frame(path, "/app", since=since) == ""
    assert logs.last_error(path, "/app", since=since) == ("", "")
    assert logs.notes(path, since=since) == ["again"]


def test_the_last_error_is_that_of_the_last_traceback_with_the_users_line(log):
    other = TRACEBACK.replace("ValueError: no number", "KeyError: 'x'").replace("line 4", "line 40")

    assert logs.last_error(log(TRACEBACK + other + "some words\n"), "/app") == (
        "KeyError: 'x'",
        "/app/custom/train.py:40",
    )
    assert logs.last_error(log("no error\n"), "/app") == ("", "")


TORCHRUN = """\
Traceback (most recent call last):
  File "/usr/bin/torchrun", line 8, in <module>
torch.distributed.elastic.multiprocessing.errors.ChildFailedError:\x20
============
Root Cause (first observed failure):
[0]:
  rank      : 1 (local_rank: 1)
  exitcode  : -9 (pid: 7)
"""


def of_rank(number, text):
    return "".join(f"[rank{number}]: {line}\n" for line in text.splitlines())


def test_where_torchrun_failed_the_error_is_that_of_the_rank_that_failed_first(log):
    first, second = of_rank(1, TRACEBACK).splitlines(True), of_rank(0, TRACEBACK.replace("no number", "gone"))
    mixed = "".join(a + b for a, b in zip(first, second.splitlines(True), strict=True))

    for text in (mixed, of_rank(1, TRACEBACK) + second, TRACEBACK):
        assert logs.last_error(log(text + TORCHRUN), "/app") == ("ValueError: no number", "/app/custom/train.py:4")


def test_where_a_process_of_torchrun_was_killed_its_rank_and_exit_code_are_the_error(log):
    error = "torch.distributed.elastic.multiprocessing.errors.ChildFailedError:  rank 1, exit code -9"
    assert logs.last_error(log(TORCHRUN), "/app") == (error, "")


def test_where_a_command_of_a_script_failed_the_error_is_that_commands_and_not_one_that_was_handled(log):
    called = TRACEBACK.replace("ValueError: no number", "subprocess.CalledProcessError: Command 'x' returned 1.")
    chained = "\nDuring handling of the above exception, another exception occurred:\n\n"

    assert logs.last_error(log(TRACEBACK.replace("4", "9") + called), "/app")[0] == "ValueError: no number"
    assert logs.last_error(log(TRACEBACK + chained + called), "/app")[0].startswith("subprocess.CalledProcessError")


def test_long_lines_are_cut_and_bytes_that_are_no_text_are_shown(log):
    first, second = logs.tail(log(b"x" * 10_000 + b"\n\xff\n"), 5)

    assert (len(first), first[-1], second) == (502, "…", "\N{REPLACEMENT CHARACTER}")


def test_of_a_large_log_only_its_ends_are_read(log):
    path = log("note: here\n" + "x\n" * 5_000_000 + "last\n")

    assert logs.tail(path, 1) == ["last"]
    assert logs.notes(path) == ["here"]


def test_a_log_that_is_gone_says_nothing(tmp_path):
    path = tmp_path / "none.txt"

    assert (logs.size(path), logs.tail(path, 3), logs.notes(path), logs.last_error(path, tmp_path)) == (
        0,
        [],
        [],
        ("", ""),
    )
