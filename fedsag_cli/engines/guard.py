"""Ends what a run has left when the command that started it was killed. Run as a file, so it imports nothing of ours.

Lines come in on standard input: `+PID` leads a process group of the run, `-PID` has ended. When they end, so does
every group that has not.
"""

import contextlib
import os
import signal
import sys

if __name__ == "__main__":
    leaders: set[int] = set()
    for line in sys.stdin:
        (leaders.add if line[0] == "+" else leaders.discard)(int(line[1:]))
    for leader in leaders:
        with contextlib.suppress(OSError):
            os.killpg(leader, signal.SIGKILL)
