"""A Ray cluster on this machine: several raylets, each a node, held by a process that is told what to do with them.

The tests themselves import no Ray. `python raylets.py` is that process: it reads lines and answers each with one.
"""

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path


class Raylets:
    """The first node is this machine's. Each has CPUs for one agent."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="r", dir="/tmp"))  # short: a socket's path ends at 107 bytes
        self.token = secrets.token_hex(32)
        self.env = {"RAY_AUTH_TOKEN": self.token}
        own = {"RAY_AUTH_MODE": "token", "RAY_TMPDIR": str(self.folder), "TMPDIR": str(self.folder)}
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            env=os.environ | self.env | own,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(self.folder / "stderr.txt").open("w"),
            text=True,
        )

    def __enter__(self) -> "Raylets":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.stdin.close()
        self._process.wait(timeout=60)
        shutil.rmtree(self.folder, ignore_errors=True)

    def add(self, **env: str) -> int:
        """A further node, whose processes have `env` in their environment. Returns its number, from 0."""
        return self._ask("add", env)

    def kill(self, number: int) -> None:
        """Kill a node, as a power cut does."""
        self._ask("kill", number)

    def remove(self, number: int) -> None:
        """Take a node out, as `ray stop` does: the cluster knows at once."""
        self._ask("remove", number)

    @property
    def address(self) -> str:
        return self._ask("address")

    def _ask(self, *words):
        print(json.dumps(words), file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        assert answer, (self.folder / "stderr.txt").read_text()
        return json.loads(answer)


def _serve() -> None:
    from ray.cluster_utils import Cluster

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # Ray prints
    cluster = Cluster(shutdown_at_exit=True)
    nodes = []

    def raylet_of(node):
        (process,) = node.all_processes["raylet"]
        return process.process

    for line in sys.stdin:
        what, *given = json.loads(line)
        answer = None
        if what == "add":
            answer = len(nodes)
            settings = {"node_name": f"raylet-{answer}", "env_vars": given[0] or None}
            nodes.append(cluster.add_node(num_cpus=1, include_dashboard=False, **settings))
        elif what == "kill":
            os.kill(raylet_of(nodes[given[0]]).pid, signal.SIGKILL)
            raylet_of(nodes[given[0]]).wait()
        elif what == "remove":
            cluster.remove_node(nodes[given[0]])
        else:
            answer = cluster.address
        print(json.dumps(answer), file=answers, flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    _serve()
