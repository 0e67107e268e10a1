"""What differs from machine to machine in what a process is started with: paths, and a part of the environment."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec

from fedsag_cli.processes.child import ProcessSpec
from fedsag_cli.processes.ray.messages import Here
from fedsag_cli.wire.messages import ADDRESS, STARTED_AT

_OF_A_MACHINE = (
    "HOME",
    "HOSTNAME",
    "LD_LIBRARY_PATH",
    "LOGNAME",
    "PATH",
    "SHELL",
    "TMPDIR",
    "USER",
    STARTED_AT,
)


class Places:
    """Writes what is meant for the machine of the command as this machine has it."""

    def __init__(self, there: Here, here: Here, address: str) -> None:
        """`address`: the socket for the clients on this machine."""
        pairs = {there.root: here.root, there.package: here.package, there.python: here.python}
        self._here, self._address = pairs, address
        self._here_root, self._there_root = here.root, there.root
        named = "|".join(re.escape(path) for path in sorted(pairs, key=len, reverse=True))
        self._pattern = re.compile(rf"(?<![\w.-])(?:{named})(?![\w.-])")

    def of(self, text: str) -> str:
        """The text with this machine's paths."""
        return self._pattern.sub(lambda found: self._here[found[0]], text)

    def back(self, text: str) -> str:
        """The text with the run's files where the user finds them: on the machine of the command."""
        return text.replace(self._here_root, self._there_root)

    def env(self, given: Mapping[str, str]) -> dict[str, str]:
        """The environment for a process: as given, but what belongs to a machine is that of this one."""
        env = {name: self.of(value) for name, value in given.items() if name not in _OF_A_MACHINE}
        env |= {name: os.environ[name] for name in _OF_A_MACHINE if name in os.environ}
        env["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), env.get("PATH", os.defpath)])
        return env | {ADDRESS: self._address}

    def spec(self, spec: ProcessSpec) -> ProcessSpec:
        """The same process on this machine."""
        return msgspec.structs.replace(
            spec,
            args=[self.of(word) for word in spec.args],
            command=[self.of(word) for word in spec.command],
            env=self.env(spec.env),
            cwd=self.of(spec.cwd),
            log=self.of(spec.log),
        )
