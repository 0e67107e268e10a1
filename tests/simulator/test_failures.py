"""What the logs of processes add to their failures."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from fedsag_cli.events import Failure, ProcessExited, ReplyFailed
from fedsag_cli.simulator.failures import Failures
from fedsag_cli.workspace import Workspace

EXITS = "the script called sys.exit(2)"


@pytest.mark.parametrize(
    ("told", "last_line", "cause"),
    [
        (EXITS, "train.py: error: unknown: --lr", f"{EXITS}; the last line of its log: train.py: error: unknown: --lr"),
        (EXITS, "epoch 3 of 9", EXITS),
        ("ValueError: no data", "ValueError: no data", "ValueError: no data"),
        (
            "",
            "train.sh: foo: not found",
            "its process ended with exit code 2; the last line of its log: train.sh: foo: not found",
        ),
    ],
)
def test_where_only_an_exit_code_is_known_the_last_line_of_the_log_is_told_if_it_says_why(
    tmp_path, told, last_line, cause
):
    workspace = Workspace(tmp_path)
    log = workspace.log("site-1")
    log.parent.mkdir()
    failures = Failures(workspace, {"site-1": SimpleNamespace(folder=tmp_path / "app")}, {})
    failures.watch("site-1")
    log.write_text(f"usage: train.py [--learning_rate RATE]\n{last_line}\n")
    exited = ProcessExited(name="site-1", exit_code=2, failure=Failure(cause=told, exit_code=2) if told else None)

    assert failures.of_exit(exited, is_over=True).failure.cause == cause


def test_the_error_of_an_earlier_worker_is_not_that_of_one_that_ends_without_a_word(tmp_path):
    workspace = Workspace(tmp_path)
    (workspace.app("worker") / "config").mkdir(parents=True)
    workspace.client_logs.mkdir()
    launched = SimpleNamespace(config=SimpleNamespace(launch_once=True))
    failures = Failures(workspace, {"worker": SimpleNamespace(folder=tmp_path / "app")}, lambda _: launched)
    causes = []
    for said in ("Traceback (most recent call last):\nValueError: first\n", "epoch 1\n"):
        failures.watch("worker:1")
        failures.serves("worker:1", "site-7")
        with workspace.log("site-7").open("a") as log:
            log.write(said)
        exited = failures.of_exit(ProcessExited(name="worker:1", exit_code=9), is_over=False)
        reply = ReplyFailed(site="site-7", process="worker:1", task="train", round_num=0, failure=exited.failure)
        told = failures.of_reply(reply).failure
        causes.append((told.cause, told.log_tail[-1]))

    assert causes == [("ValueError: first", "ValueError: first"), ("its process ended with exit code 9", "epoch 1")]


def test_a_reply_that_fails_after_its_worker_went_to_another_client_is_told_with_the_log_of_its_own(tmp_path):
    workspace = Workspace(tmp_path)
    log = workspace.client_logs / "site-7.txt"
    log.parent.mkdir(parents=True)
    (workspace.app("worker") / "config").mkdir(parents=True)
    log.write_text("loss: nan\n")
    failures = Failures(workspace, {"worker": SimpleNamespace(folder=tmp_path / "app")}, {})
    rejected = ReplyFailed(
        site="site-7", workflow="w", task="train", round_num=0, failure=Failure(cause="w: NaN"), model_owner=""
    )

    told = failures.of_reply(rejected).failure

    assert (told.cause, told.log, told.log_tail) == ("w: NaN", str(log), ["loss: nan"])
