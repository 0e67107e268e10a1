"""How the processes of a run are started: the server, and each client or worker."""

from __future__ import annotations

import json
from collections.abc import Mapping

from fedsag_cli import foreign
from fedsag_cli.plan import is_worker, starts
from fedsag_cli.processes.child import ProcessSpec
from fedsag_cli.simulator.planning import Planned
from fedsag_cli.simulator.preloading import SERVER_MAIN
from fedsag_cli.wire.messages import COUNT, HIDDEN, INDEX, PRELOAD, PROCESS, SEED, SITE, WORKSPACE
from fedsag_cli.workspace import SERVER, Workspace

SERVE = f"{SERVER_MAIN}:serve"
_SCRIPT = "fedsag_cli.client.script:run"


class Specs:
    """The processes of one run."""

    def __init__(self, planned: Planned, workspace: Workspace, env: Mapping[str, str]) -> None:
        """`env`: of all processes."""
        self._planned, self._plan, self._workspace, self._env = planned, planned.plan, workspace, env
        self._start_of = starts(self._plan)
        self._index_of = {name: str(number) for number, name in enumerate(self._plan.names)}

    def server(self, target: str = SERVE, *args: str) -> ProcessSpec:
        """`target`: what runs in its place, called as `serve` is, with these further arguments."""
        return ProcessSpec(
            name=SERVER,
            target=target,
            args=[str(self._workspace.root), *args],
            env={**self._env, "OMP_NUM_THREADS": "1", HIDDEN: json.dumps(foreign.hidden())},
            cwd=str(self._workspace.app(SERVER)),
            log=str(self._workspace.log(SERVER)),
            has_link=True,
        )

    def client(self, process: str) -> ProcessSpec:
        site = self._start_of(process)
        words = list(self._planned.words[site.name])
        if is_worker(process):
            own = {WORKSPACE: str(self._workspace.root)}
        else:
            own = {SITE: site.site, INDEX: self._index_of[site.site]}
        if self._plan.debug and site.site != self._plan.debug:
            own["PYTHONBREAKPOINT"] = "0"  # all have the same script, and only one the terminal
        of_run = {
            SEED: str(self._plan.seed),
            PRELOAD: "" if site.fresh else ",".join(self._plan.preload),
            COUNT: str(len(self._plan.names)),
        }
        return ProcessSpec(
            name=process,
            target="" if site.command else _SCRIPT,
            args=[] if site.command else [site.script, *words],
            command=words if site.command else [],
            env={**self._env, **site.env, **of_run, **own, PROCESS: process},
            cwd=str(self._workspace.site(process) if site.in_process else self._workspace.app(process)),
            log=str(self._workspace.log(process)),
            fresh=site.fresh,
            node=site.node,
            in_foreground=site.site == self._plan.debug,
        )
