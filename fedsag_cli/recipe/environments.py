"""Where a recipe runs: `SimEnv`, which simulates on this machine, and the `Run` that it gives."""

from __future__ import annotations

import functools
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from fedsag_cli.arguments import Least
from fedsag_cli.errors import UsageError
from fedsag_cli.recipe.checking import Count, checked, path_of

WORKSPACE_ROOT = "/tmp/nvflare/simulation"
WORKSPACE_ROOT_VARIABLE = "NVFLARE_SIMULATOR_WORKSPACE_ROOT"


class ExecEnv:
    """The base class of environments. `extra`: further properties, as the user names them."""

    @checked
    def __init__(self, extra: dict[str, Any] | None = None) -> None:
        self.extra = extra or {}

    def get_extra_prop(self, prop_name: str, default: Any = None) -> Any:
        return self.extra.get(prop_name, default)

    def stop(self, clean_up: bool = False) -> None:
        """Nothing: a simulation has ended when it is deployed, and its workspace is the result."""


class SimEnv(ExecEnv):
    """Simulates a job on this machine with `fedsag simulator`, for recipes of fedsag and for those of NVFLARE.

    Give `num_clients`, or their names as `clients`. `num_threads`: how many work at the same time (default: all).
    `gpu_config`: GPU groups, as -gpu has them. The run's files are in `workspace_root`/NAME_OF_THE_JOB;
    $NVFLARE_SIMULATOR_WORKSPACE_ROOT takes the place of `workspace_root`. `log_config` has no effect: the logs of all
    processes are in the workspace.
    """

    @checked
    def __init__(
        self,
        *,
        num_clients: Annotated[int, Least(0)] = 0,
        clients: Sequence[str] | None = None,
        num_threads: Count | None = None,
        gpu_config: str | None = None,
        log_config: str | None = None,
        workspace_root: str | os.PathLike[str] = WORKSPACE_ROOT,
        extra: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(extra)
        _accepted_by_nvflare()
        if not all(isinstance(name, str) for name in clients or ()):
            raise UsageError(f"SimEnv: clients must be a list of names, not {clients!r}")
        if num_clients < 1 and not clients:
            raise UsageError("SimEnv: there are no clients", hint="give num_clients, or their names as clients")
        if num_clients > 0 and clients and len(clients) != num_clients:
            raise UsageError(f"SimEnv: num_clients is {num_clients}, but clients has {len(clients)} names")
        self.clients = list(clients) if clients else None
        self.num_clients = num_clients or len(clients or ())
        self.num_threads = self.num_clients if num_threads is None else num_threads
        self.gpu_config, self.log_config = gpu_config, log_config
        override = os.environ.get(WORKSPACE_ROOT_VARIABLE)
        if override and override != workspace_root:
            warnings.warn(
                f"${WORKSPACE_ROOT_VARIABLE}={override} takes the place of workspace_root={workspace_root!r}",
                RuntimeWarning,
                stacklevel=3,
            )
        self.workspace_root = override or str(path_of(workspace_root, "workspace_root"))
        self.last_run_failed = False

    def deploy(self, job: Any) -> str:
        """Run the job, a FedJob of fedsag or of NVFLARE, to its end, and return its name. Raises a FedsagError."""
        self.last_run_failed = True
        _simulated_here(job).simulator_run(
            workspace=str(self.workspace(job.name)),
            n_clients=None if self.clients else self.num_clients,
            clients=self.clients,
            threads=self.num_threads,
            gpu=self.gpu_config,
            log_config=self.log_config,
        )
        self.last_run_failed = False
        return str(job.name)

    def workspace(self, job_id: str) -> Path:
        return Path(self.workspace_root).expanduser() / job_id

    def get_job_status(self, job_id: str) -> str:  # noqa: ARG002
        """How the run ended, in NVFLARE's words. One that failed has raised an error instead."""
        return "FINISHED:COMPLETED"

    def abort_job(self, job_id: str) -> None:
        """Nothing: the run has ended."""

    def get_job_result(self, job_id: str, timeout: float = 0.0) -> str:  # noqa: ARG002
        return str(self.workspace(job_id))


class _Deployment(ExecEnv):
    def __init__(self, *_: Any, **__: Any) -> None:
        raise UsageError(
            f"{type(self).__name__} is a deployment of NVFLARE, and fedsag simulates: use SimEnv",
            hint="`fedsag run job.py --export --export-dir DIR` with SimEnv writes the job folder DIR/JOB, "
            "`fedsag job export DIR/JOB OUT --to nvflare` makes it NVFLARE's, and "
            "`nvflare job submit -j OUT` runs it there",
        )


class PocEnv(_Deployment):
    """NVFLARE's proof-of-concept deployment: an error that says what to do."""


class ProdEnv(_Deployment):
    """NVFLARE's production deployment: an error that says what to do."""


class Run:
    """A run that has ended."""

    def __init__(self, exec_env: Any, job_id: str) -> None:
        self.exec_env, self.job_id = exec_env, job_id

    def get_job_id(self) -> str:
        return self.job_id

    def get_status(self) -> str | None:
        """How the run ended, in NVFLARE's words: "FINISHED:COMPLETED"."""
        status: str | None = self.exec_env.get_job_status(self.job_id)
        return status

    def get_result(self, timeout: float = 0.0, clean_up: bool = True) -> str | None:  # noqa: ARG002
        """The workspace of the run."""
        result: str | None = self.exec_env.get_job_result(self.job_id, timeout=timeout)
        return result

    def abort(self) -> None:
        """Nothing: a simulation has ended when there is a Run of it."""
        self.exec_env.abort_job(self.job_id)


def _accepted_by_nvflare() -> None:
    """Make SimEnv an environment of an installed NVFLARE too, whose recipes may check it."""
    spec = sys.modules.get("nvflare.recipe.spec")
    register = getattr(getattr(spec, "ExecEnv", None), "register", None)  # of an abstract base class
    if register is not None:
        register(SimEnv)


def _simulated_here(job: Any) -> Any:
    """The job; if it is one of NVFLARE, such that its own simulator is fedsag's."""
    if type(job).__module__.startswith("fedsag_cli.") or not hasattr(job, "job"):
        return job
    from fedsag_cli.recipe.simulating import simulate_exported

    job.job.simulator_run = functools.partial(simulate_exported, job.job)
    return job
