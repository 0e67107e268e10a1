"""docs/slurm.md's script, run by a shell that does what Slurm does: signals, the queue, and a second start."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
import uuid
from pathlib import Path

import pytest
from runs import FEDSAG, LIMIT_S, MARK, Outcome, _told, eventually, job, marked

PAGE = Path(__file__).parents[2] / "docs" / "slurm.md"
WAITS = """
    import os, time
    import fedsag_cli.client as flare

    flare.init()
    while flare.is_running():
        model = flare.receive()
        while model.current_round == 2 and not os.path.exists(os.environ["GO"]):
            time.sleep(0.02)
        flare.send(flare.FLModel(params={k: v + 1 for k, v in model.params.items()}, metrics={"mean": 1.0}))
"""
SRUN = """#!/bin/bash
# as srun: the command is a process of its own, with a rank; a signal is passed on
while [[ $1 == --* ]]; do shift; done
SLURM_PROCID=0 SLURM_NTASKS=1 SLURM_STEP_NUM_TASKS=1 setsid "$@" &
step=$!
echo $step > "$STEP"
trap 'kill -TERM $step' TERM
wait $step; while kill -0 $step 2> /dev/null; do wait $step; done; wait $step
"""
SCONTROL = """#!/bin/bash
echo "$@" >> "$ASKED"
"""


class Node:
    """Where Slurm starts the script, in the folder in which it was submitted."""

    def __init__(self, folder):
        self.folder, self.mark = folder, uuid.uuid4().hex
        self.workspace = folder / "workspaces" / "sweep" / "3"
        self.asked, self.go, self.step = folder / "asked", folder / "go", folder / "step"
        self.tmp = Path(tempfile.mkdtemp(prefix="t", dir="/tmp"))  # short: a socket's path ends at 107 bytes
        script, *_ = re.findall(r"^```bash\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
        assert "-n 32 " in script
        (folder / "sweep.sbatch").write_text(script.replace("-n 32 ", "-n 2 "))  # fewer processes, to be fast
        commands = folder / "bin"
        commands.mkdir()
        for name, text in {"srun": SRUN, "scontrol": SCONTROL}.items():
            (commands / name).write_text(text)
            (commands / name).chmod(0o755)
        (commands / "fedsag").symlink_to(FEDSAG)
        job(folder / "jobs" / "mine", WAITS, num_rounds=4)
        self.env = os.environ | {
            "PATH": f"{commands}:{os.environ['PATH']}",
            "HOME": str(folder),
            "TMPDIR": str(self.tmp),
            "SLURM_SUBMIT_DIR": str(folder),
            "SLURM_JOB_ID": "4711",
            "SLURM_ARRAY_TASK_ID": "3",
            "SLURM_CPUS_PER_TASK": "2",
            "ASKED": str(self.asked),
            "GO": str(self.go),
            "STEP": str(self.step),
            MARK: self.mark,
        }

    def start(self, restarts=0):
        again = {"SLURM_RESTART_COUNT": str(restarts)} if restarts else {}
        return subprocess.Popen(
            ["bash", "sweep.sbatch"],
            cwd=self.folder,
            env=self.env | again,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def end(self, script):
        """What the script printed, and how it ended."""
        said, _ = script.communicate(timeout=LIMIT_S)
        eventually(lambda: not marked(self.mark))
        assert not list(self.tmp.glob("fedsag*"))
        return Outcome(code=script.returncode, out=said, err="", workspace=self.workspace)

    def until_the_third_round(self):
        eventually(lambda: len(_told(self.workspace, "RoundFinished")) == 2)
        eventually(lambda: _told(self.workspace, "TaskSent")[-1]["round_num"] == 2)

    def close(self):
        for pid in marked(self.mark):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self.tmp, ignore_errors=True)


@pytest.fixture(scope="module")
def new_node(tmp_path_factory):
    made = []

    def node():
        made.append(Node(tmp_path_factory.mktemp("slurm")))
        return made[-1]

    yield node
    for each in made:
        each.close()


@pytest.fixture(scope="module")
def undisturbed(new_node):
    """The digest of the model of a run that nobody stopped."""
    node = new_node()
    node.go.touch()
    outcome = node.end(node.start())
    assert outcome.code == 0, outcome
    assert not node.asked.exists()
    return outcome.report["digest"]


def test_before_the_time_is_over_the_run_ends_goes_to_the_queue_and_continues_to_the_same_model(new_node, undisturbed):
    node = new_node()
    script = node.start()
    node.until_the_third_round()
    script.send_signal(signal.SIGUSR1)  # B: to the script alone
    ended = node.end(script)
    assert (ended.code, node.asked.read_text()) == (143, "requeue 4711\n"), ended
    assert (ended.report["exit_code"], ended.report["ok"]) == (143, False)

    node.go.touch()
    outcome = node.end(node.start(restarts=1))

    assert outcome.code == 0, outcome
    assert (outcome.report["resumed_at"], outcome.report["digest"]) == ([2], undisturbed)
    assert "SLURM_PROCID" in outcome.out  # the note that clients do not get it
    complete = node.end(node.start(restarts=2))
    assert "nothing left to do" in complete.out
    assert complete.code == 0


@pytest.mark.parametrize("kill", [False, True])
def test_preemption_and_the_end_of_a_node_leave_a_run_that_continues_to_the_same_model(new_node, undisturbed, kill):
    node = new_node()
    script = node.start()
    node.until_the_third_round()
    if kill:
        for pid in marked(node.mark):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        script.communicate(timeout=LIMIT_S)
        shutil.rmtree(node.tmp)
        node.tmp.mkdir()  # of another node
    else:
        for pid in (int(node.step.read_text()), script.pid):  # of the step and of the script
            os.kill(pid, signal.SIGCONT)
            os.kill(pid, signal.SIGTERM)
        assert node.end(script).code == 143
    assert not node.asked.exists()  # Slurm does it

    node.go.touch()
    outcome = node.end(node.start(restarts=1))

    assert outcome.code == 0, outcome
    assert outcome.report["digest"] == undisturbed
